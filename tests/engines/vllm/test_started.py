"""A vLLM that has started: whether it computes where it should."""

from __future__ import annotations

import pytest
from small_llama import config

from wattcount.config.schema import Device
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.engines.vllm.started import check_devices
from wattcount.errors import RunFailedError


def test_wrong_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: VllmInstall("vllm", "0.32.0", cpu_build=False))
    setup = VllmSetup.of(config(engine__device=Device.cuda), ["GPU-a"])
    check_devices(setup, [{"type": "cuda", "uuid": "GPU-a"}])
    with pytest.raises(RunFailedError, match="computes on GPU-b while GPU-a is measured"):
        check_devices(setup, [{"type": "cuda", "uuid": "GPU-b"}])
