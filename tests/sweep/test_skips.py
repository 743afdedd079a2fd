"""What a plan leaves out, and with which arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from wattcount.config.composition import compose
from wattcount.config.fields import FrozenDict
from wattcount.sweep.machine import AnotherMachine, Here
from wattcount.sweep.skips import Skip, skip_of


def skip(*overrides: str) -> Skip | None:
    return skip_of(AnotherMachine().look(compose(overrides)))


@pytest.mark.parametrize(
    ("overrides", "reason", "said"),
    [
        (["model=llama3_3_70b", "gpu=l4"], "does_not_fit", "131.4 GiB"),
        (["model=llama3_8b", "gpu=v100"], "dtype_unsupported", "no bfloat16"),
        (["model=qwen2_5_0_5b", "gpu=t4", "model.dtype=float16", "engine.kv_cache_dtype=fp8"], "kv_cache_dtype_unsupported", "8"),
        (["model=gpt_oss_20b", "gpu=v100", "model.dtype=float16", "model.quantization=mxfp4"], "quantization_unsupported", "8"),
    ],
)  # fmt: skip
def test_a_point_that_cannot_be_measured(overrides: Sequence[str], reason: str, said: str) -> None:
    found = skip(*overrides)
    assert found is not None
    assert found.reason == reason
    assert said in found.message


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=llama3_8b", "gpu=h200"],
        ["model=llama3_8b", "gpu=v100", "model.dtype=float16"],
        ["model=llama3_3_70b", "gpu=l4", "engine=tiny"],
        ["model=auto", "gpu=auto"],
    ],
)
def test_a_point_that_may_be_measured(overrides: Sequence[str]) -> None:
    assert skip(*overrides) is None


def test_a_gpu_that_is_not_here_goes_before_everything_else() -> None:
    cfg = compose(["model=llama3_3_70b", "gpu=l4"])
    assert skip_of(Here(cfg, FrozenDict(), problem="no L4 here")) == Skip("no_such_gpu", "no L4 here")
