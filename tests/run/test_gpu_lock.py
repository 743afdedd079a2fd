"""Runs that want one GPU: real processes, the emulated library that the environment names."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until
from witness import Program, Witness, kill, worker_pid

from wattcount import ownership
from wattcount.config.loader import changed
from wattcount.config.paths import gpu_lock_dir
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig, RunConfig
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, open_session
from wattcount.records import Record
from wattcount.run.gpu_lock import gpus_locked
from wattcount.run.orchestrate import run_point

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def gpu(emulated: Any) -> GpuFacts:
    emulated()
    with open_session(PowerConfig(), GpuConfig()) as session:
        (found,) = session.gpus()
    return found


def lock_file(gpu: GpuFacts) -> Path:
    return gpu_lock_dir() / f"{gpu.uuid}.lock"


def is_free(gpu: GpuFacts) -> bool:
    lock = ownership.lock(lock_file(gpu), "")
    if lock is not None:
        lock.release()
    return lock is not None


def test_a_second_run_waits_for_the_first(
    gpu: GpuFacts,
    tiny_run: Callable[..., RunConfig],
    tmp_path: Path,
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Program(tiny_run(bare_idle_s=0.5), tmp_path)
    first.read_until("bare idle")
    worker = worker_pid(first.process.pid)
    os.kill(worker, signal.SIGSTOP)  # until the second waits for it
    assert not is_free(gpu)
    cfg = tiny_run()

    def go_on(text: str) -> None:
        witness.notices.append(text)
        os.kill(worker, signal.SIGCONT)

    monkeypatch.setattr(witness, "notice", go_on)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, first.end()) == (0, 0)
    (told,) = [text for text in witness.notices if "another run" in text]
    assert told.startswith(
        f"NVIDIA H200 ({gpu.uuid}) is measured by another run (pid {first.process.pid} on "
    )
    assert told.endswith(", tiny, server); waiting up to 3600 s for it to end")
    runs = sorted(
        (Record.open(path).info for path in Path(cfg.records_dir).glob("*/r0-*")),
        key=lambda info: info.phases[0].start_ns,
    )
    assert len(runs) == 2
    assert runs[1].phases[0].start_ns > (runs[0].phases[-1].end_ns or 0)
    # Waiting is no part of what wattcount adds to a run.
    assert runs[1].timing["overhead_s"] < runs[0].timing["wall_s"]
    assert is_free(gpu)


def test_a_run_that_waits_too_long_is_not_started(
    gpu: GpuFacts, tiny_run: Callable[..., RunConfig], witness: Witness
) -> None:
    gpu_lock_dir().mkdir()
    held = ownership.lock(lock_file(gpu), "llama3_8b, batch")
    assert held is not None
    cfg = tiny_run()
    cfg = changed(cfg, {"gpu_lock_timeout_s": 0.3})
    began = time.monotonic()
    with pytest.raises(NotStartedError) as caught:
        run_point(cfg, witness)
    assert time.monotonic() - began >= 0.3
    assert f"(pid {os.getpid()} on " in str(caught.value)
    assert "llama3_8b, batch); it did not end within gpu_lock_timeout_s=0.3 s" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(cfg.records_dir).exists() or not list(Path(cfg.records_dir).glob("*/r*"))


@pytest.mark.parametrize("victim", ["parent", "both"])
def test_a_killed_run_frees_the_gpu(
    victim: str, gpu: GpuFacts, tiny_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    program = Program(tiny_run(window_s=30.0), tmp_path)
    program.read_until("bare idle")
    worker = worker_pid(program.process.pid)
    if victim == "both":
        os.kill(worker, signal.SIGSTOP)
        kill(program.process.pid)
        # The run's process can still compute on the GPU: it is not free.
        program.process.wait()
        assert not is_free(gpu)
        kill(worker)
    else:
        kill(program.process.pid)
    program.end()
    wait_until(lambda: is_free(gpu))


def test_a_machine_of_its_own_needs_no_lock(
    tiny_run: Callable[..., RunConfig], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", "/proc/nowhere")
    cfg = tiny_run()
    cfg = changed(cfg, {"power.backend": PowerBackend.emulated})
    assert run_point(cfg, witness).exit_code == 0


def test_a_folder_that_cannot_be_written(gpu: GpuFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", "/proc/nowhere")
    with (
        pytest.raises(NotStartedError, match=r"cannot lock GPU-.* in /proc/nowhere: .*WATTCOUNT_LOCK_DIR"),
        gpus_locked([gpu], "", 1.0, print),
    ):
        pass


def test_all_or_none(gpu: GpuFacts) -> None:
    other = dataclasses.replace(gpu, uuid="GPU-zzz")
    with gpus_locked([other], "", 0.0, print):
        with pytest.raises(NotStartedError, match="GPU-zzz"), gpus_locked([other, gpu], "", 0.0, print):
            pass
        assert is_free(gpu)
    with gpus_locked([other, gpu], "", 0.0, print) as descriptors:
        assert len(descriptors) == 2
        assert not is_free(gpu)
        assert not is_free(other)
    assert gpu_lock_dir().stat().st_mode & 0o7777 == 0o1777
