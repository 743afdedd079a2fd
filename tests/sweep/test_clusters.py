"""Sweeps on SLURM and Ray as they are, of one machine: `make test-slurm`, `make test-ray`, `make test-all`.

Their nodes' NVML is an emulated machine of the node's kind (tools/*_test_cluster.sh), so that a job finds its GPU
as it would find a real one.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from wattcount.records import Record
from wattcount.sweep.ledger import read_state
from wattcount.sweep.point import State

pytestmark = pytest.mark.timeout(1800)

# A batch of 15 steps, long enough to be interrupted. A busy machine makes none of it invalid: a batch cannot be late, and so
# few steps do not tell whether the engine stood still.
SHORT = (
    "model=tiny", "engine=tiny", "tracking=none", "scenario=batch", "scenario.num_requests=4", "scenario.warmup_requests=0",
    "scenario.lengths.input_tokens=8", "scenario.lengths.output_tokens=15", "engine.args.step_base_ms=200",
    "scenario.bare_idle_s=0.5", "scenario.loaded_idle_s=0.5", "scenario.bare_idle_after_s=0.5",
    "power=nvml", "power.probe=false", "sweep.name=s", "cooldown_limit_s=0",
)  # fmt: skip
LIMIT_S = 800
"""Longest time that a sweep may take here [s]. A dozen runs of some seconds take minutes on a machine that is busy."""
KINDS = ("gpu=a100,l4", "repeat=0,1,2,3,4,5")
NAMES = {"a100": "NVIDIA A100-SXM4-80GB", "l4": "NVIDIA L4"}


def answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=200, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def without_slurm() -> str | None:
    if importlib.util.find_spec("submitit") is None:
        return "no hydra-submitit-launcher: pip install 'wattcount[slurm]'"
    if "SLURM_CONF" not in os.environ or not answers("sinfo"):
        return "no SLURM to try: make test-slurm starts one"
    return None


def without_ray() -> str | None:
    if importlib.util.find_spec("ray") is None:
        return "no hydra-ray-launcher: pip install 'wattcount[ray]'"
    address = os.environ.get("RAY_ADDRESS")
    ray = str(Path(sys.executable).parent / "ray")
    if address is None or not answers(ray, "health-check", "--address", address):
        return "no Ray cluster to try: make test-ray starts one"
    return None


@pytest.fixture
def slurm() -> None:
    if (reason := without_slurm()) is not None:
        pytest.skip(reason)


@pytest.fixture
def ray() -> None:
    if (reason := without_ray()) is not None:
        pytest.skip(reason)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wattcount", "-m", *SHORT, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    with start(*arguments) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def records(home: Path) -> list[Record]:
    return [Record.open(file.parent) for file in (home / "records").glob("*/r*/run.json")]


def states(home: Path) -> Counter[State]:
    return Counter(outcome.state for outcome in read_state(home / "records", "s").outcomes.values())


def assert_each_point_once(home: Path) -> None:
    """Valid records: every repeat on both kinds, each on a GPU of its kind."""
    infos = [record.info for record in records(home) if record.info.validity.valid]
    assert sorted((info.config["gpu"]["name"], info.repeat) for info in infos) == sorted(
        (gpu, repeat) for gpu in NAMES for repeat in range(6)
    )
    for info in infos:
        assert [gpu["name"] for gpu in info.gpus] == [NAMES[info.config["gpu"]["name"]]]
        assert info.evidence.value == "emulated"


# --- SLURM ------------------------------------------------------------------------------------------

SLURM = "hydra/launcher=submitit_slurm"


def slurm_jobs(state: str, name: str = "wattcount") -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--states={state}", f"--name={name}", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_slurm_measures_each_point_once_on_a_gpu_of_its_kind(home: Path) -> None:
    code, out, err = run(SLURM, *KINDS)
    assert (code, err) == (0, "")
    assert "12 points: 12 to run" in out
    assert_each_point_once(home)
    assert len({record.info.gpus[0]["uuid"] for record in records(home)}) == 4, "some GPU was not used"
    assert states(home) == {State.done: 12}


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_slurm_job_that_is_cancelled_costs_its_point_and_a_restart_measures_that_one(home: Path) -> None:
    with start(SLURM, *KINDS) as process:
        job = wait_until(lambda: running(home) and slurm_jobs("running"))[0]
        subprocess.run(["scancel", job], check=True)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "1 of 12 points not done:" in err
    assert f"SLURM job {job} ended: CANCELLED" in err
    assert states(home) == {State.done: 11, State.lost: 1}
    code, out, err = run(SLURM, *KINDS)
    assert (code, err) == (0, "")
    # That its nodes only emulate is not known here, so every point is sent, and 11 are found done there.
    assert out.count("already measured") == 11
    assert_each_point_once(home)


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_slurm_job_that_is_killed_is_tried_again(home: Path) -> None:
    with start(SLURM, "gpu=l4", "repeat=0,1") as process:
        wait_until(lambda: running(home))
        jobs = [job for job in psutil.process_iter(["cmdline"]) if is_job_of(home, job.info["cmdline"] or [])]
        jobs[0].kill()
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert "(try 1, to be tried again)" in err
    assert states(home) == {State.done: 2}


def is_job_of(home: Path, command: list[str]) -> bool:
    return "submitit.core._submit" in command and any(str(home) in word for word in command)


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_gpu_may_be_emulated_on_any_node_and_a_restart_has_nothing_to_do(home: Path) -> None:
    emulated = (SLURM, "gpu=h100,t4", "power=emulated")
    code, _, err = run(*emulated)
    assert (code, err) == (0, "")
    assert {record.info.gpus[0]["name"] for record in records(home)} == {"NVIDIA H100 80GB HBM3", "Tesla T4"}
    code, out, err = run(*emulated)
    assert (code, err) == (0, "")
    assert "2 points: 0 to run, 2 done before" in out


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_an_interrupted_sweep_leaves_no_job_in_the_queue(home: Path) -> None:
    with start(SLURM, *KINDS) as process:
        wait_until(lambda: slurm_jobs("running") and running(home))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    wait_until(lambda: not slurm_jobs("pending,running,completing"))


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_gpu_that_the_cluster_has_not_stops_before_anything_starts(home: Path) -> None:
    code, _, err = run(SLURM, "gpu=h100,l4")
    assert code == 2
    assert "gpu=h100: no node of this cluster has" in err
    assert not (home / "records").exists()


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
@pytest.mark.usefixtures("home")
def test_a_gpu_is_checked_where_the_job_is() -> None:
    code, _, err = run(SLURM, "gpu=a100", "sweep.placement.a100.gres='gpu:l4:1'")
    assert code == 2
    assert "gpu=a100, but" in err
    assert "NVIDIA L4" in err


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
@pytest.mark.usefixtures("home")
def test_slurm_refuses_what_makes_no_sense() -> None:
    code, _, err = run(SLURM, "gpu=l4", "hydra.launcher.partition=nowhere", "sweep.attempts=1")
    assert code == 1
    assert "invalid partition" in err.replace("\n      ", " ")
    code, _, err = run(SLURM, "gpu=l4", "sweep.placement.l4.constrain=l4")
    assert code == 2
    assert "constrain: no such key" in err


# --- Ray --------------------------------------------------------------------------------------------

RAY = "hydra/launcher=ray"


def ray_workers() -> list[psutil.Process]:
    return [
        process for process in psutil.process_iter(["name"]) if process.info["name"] == "ray::measure_job"
    ]


def running(home: Path) -> list[Path]:
    return list((home / "records").glob("*/.tmp-*/spool/power.arrows"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_ray_measures_each_point_once_on_a_gpu_of_its_kind(home: Path) -> None:
    code, out, err = run(RAY, *KINDS)
    assert (code, err) == (0, "")
    assert "12 points: 12 to run" in out
    assert_each_point_once(home)
    assert states(home) == {State.done: 12}


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_a_ray_worker_that_is_killed_costs_its_point_and_a_restart_measures_that_one(home: Path) -> None:
    with start(RAY, *KINDS, "sweep.attempts=1") as process:
        wait_until(lambda: running(home))
        ray_workers()[0].kill()
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    found = states(home)
    assert found[State.lost] == 1
    stalled = found.get(State.invalid, 0)  # the machine was too busy for it
    assert found[State.done] == 11 - stalled
    assert f"{1 + stalled} of 12 points not done:" in err
    assert "job_lost, 1 try" in err
    code, _, err = run(RAY, *KINDS)
    assert (code, err) == (0, "")
    assert_each_point_once(home)


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_a_ray_worker_that_is_killed_is_tried_again(home: Path) -> None:
    with start(RAY, "gpu=l4", "repeat=0,1") as process:
        wait_until(lambda: running(home))
        ray_workers()[0].kill()
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert states(home) == {State.done: 2}


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_an_interrupted_sweep_on_ray_closes_its_records(home: Path) -> None:
    with start(RAY, *KINDS) as process:
        wait_until(lambda: running(home))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    reasons = [record.info.validity.reasons for record in records(home)]
    assert reasons == [["interrupted"]] * max(len(reasons), 1)
    wait_until(lambda: not ray_workers())
    assert not list((home / "records").glob("*/.tmp-*"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_a_gpu_that_ray_has_not_stops_before_anything_starts(home: Path) -> None:
    code, _, err = run(RAY, "gpu=h100")
    assert code == 2
    assert "no node of this Ray cluster has the resource gpu_h100" in err
    assert not (home / "records").exists()
