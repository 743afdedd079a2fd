"""What a sweep does with its jobs: on a cluster whose jobs end as a script says, and as real ones of submitit here."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import DictConfig, OmegaConf
from short_run import SHORT_RUN
from sweep_ledger import planned
from waiting import wait_until

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig, RunConfig, SweepConfig
from wattcount.errors import (
    EXIT_INTERRUPTED,
    NotStartedError,
    WattcountError,
)
from wattcount.records import Record
from wattcount.sweep import cluster
from wattcount.sweep.cluster import WAIT_NOTICE_S, Cluster, by_gpus, launcher_of
from wattcount.sweep.job import JOB_LOST, RUNS, Gpus, Place, lost, waits
from wattcount.sweep.lane import Said, Task
from wattcount.sweep.ledger import Ledger, read_state
from wattcount.sweep.local import Job, Watcher
from wattcount.sweep.point import CANCELLED, MEASURED_ELSEWHERE, Outcome, State, decode, failed, refused

DONE = Outcome(State.done)
DEAD = lost("its node failed")
FAILED = failed("out_of_memory", "it failed")
INVALID = Outcome(State.invalid)


class Scripted:
    """A cluster whose jobs go through states that are given by the key of their point, one at each look.

    An exception in place of a list: what the submission of the point raises.
    """

    chosen: Sequence[str] = ("gres",)
    open_nodes: Sequence[str] = ()
    array_limit = 2
    inherits = True

    def __init__(self, states: dict[str, list[Outcome] | WattcountError]) -> None:
        self._states = states
        self.arrays: list[list[Task]] = []
        self.options: list[dict[str, Any]] = []
        self.cancelled: list[Task] = []
        self.looks = 0
        self.interrupts_at = 0
        self.closed = False

    def request(self, gpus: Gpus) -> dict[str, Any]:
        return {"constraint": gpus.name}

    def submit(self, options: dict[str, Any], place: Place, tasks: Sequence[Task]) -> list[Task]:
        del place
        self.arrays.append(list(tasks))
        self.options.append(options)
        for task in tasks:
            if isinstance(refusal := self._states[task.key], WattcountError):
                raise refusal
        return list(tasks)

    def look(self, handle: Task) -> Outcome:
        self.looks += 1
        if self.looks == self.interrupts_at:
            os.kill(os.getpid(), signal.SIGINT)
        states = self._states[handle.key]
        assert isinstance(states, list)
        return states.pop(0)

    def cancel(self, handles: Sequence[Task]) -> None:
        self.cancelled = list(handles)

    def close(self) -> None:
        self.closed = True


class Told(Watcher):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.results: list[tuple[str, bool]] = []
        self.notices: list[str] = []

    def started(self, job: Job) -> None: ...
    def said(self, job: Job, said: Said) -> None: ...

    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        del outcome
        self.results.append((job.point.key, again))

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def tick(self) -> None: ...
    def close(self) -> None: ...


def a_job(key: str, gpu: str = "l4", backend: PowerBackend = PowerBackend.auto) -> Job:
    return Job(planned(key), RunConfig(gpu=GpuConfig(name=gpu), power=PowerConfig(backend=backend)))


def launcher(name: str = "SlurmLauncher", **options: object) -> DictConfig:
    own = {"_target_": f"hydra_plugins.a.{name}", "gres": None, "constraint": None, "partition": None}
    config = OmegaConf.create({"hydra": {"launcher": own | options}})
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config, True)
    return config


class Sweep:
    """A sweep of jobs on a scripted cluster, and what came of it."""

    def __init__(self, folder: Path, jobs: Sequence[Job], backend: Scripted, **sweep: Any) -> None:
        self._folder = folder
        first = RunConfig(records_dir=str(folder), sweep=SweepConfig(**sweep))
        self.now_s = 0.0
        self.told = Told()
        self.cluster = Cluster(
            launcher(), jobs, "s", first, connect=lambda *_: backend, clock=lambda: self.now_s
        )

    def run(self) -> tuple[dict[str, Outcome], int | None]:
        with Ledger.open(self._folder, "s") as ledger:
            return self.cluster.run(ledger, self.told)

    def lost(self) -> list[tuple[str | None, int | None, str | None]]:
        files = self._folder.glob(".sweeps/s/events/*.jsonl")
        events = [decode(line) for file in files for line in file.read_bytes().splitlines()[1:]]
        return [(e.key, e.attempt, e.reason) for e in events if e.state is State.lost]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_S", 0.0)


# --- jobs that end as a script says -----------------------------------------------------------------


def test_each_point_is_a_job_and_its_result_is_told_as_it_ends(tmp_path: Path) -> None:
    backend = Scripted({"a": [RUNS, RUNS, DONE], "b": [DONE], "c": [RUNS, DONE], "d": [DONE]})
    sweep = Sweep(tmp_path, [a_job("a"), a_job("b"), a_job("c"), a_job("d", "a100")], backend)
    results, code = sweep.run()
    assert (set(results), code, backend.closed) == ({"a", "b", "c", "d"}, None, True)
    assert [[task.key for task in array] for array in backend.arrays] == [["a", "b"], ["c"], ["d"]]
    assert [options["constraint"] for options in backend.options] == ["l4", "l4", "a100"]
    assert sweep.told.results == [("b", False), ("d", False), ("c", False), ("a", False)]


def test_a_dead_job_costs_its_point_a_try_and_no_other_point(tmp_path: Path) -> None:
    backend = Scripted({"a": [DEAD, RUNS, DEAD], "b": [RUNS, DONE]})
    sweep = Sweep(tmp_path, [a_job("a"), a_job("b")], backend, attempts=2)
    results, _ = sweep.run()
    assert results["b"].state is State.done
    assert (results["a"].reason, results["a"].attempt) == (JOB_LOST, 2)
    assert results["a"].message == "its node failed"
    assert sweep.lost() == [("a", 1, JOB_LOST), ("a", 2, JOB_LOST)]
    assert [[(task.key, task.attempt) for task in array] for array in backend.arrays] == [
        [("a", 1), ("b", 1)],
        [("a", 2)],
    ]
    assert sweep.told.results == [("a", True), ("b", False), ("a", False)]


@pytest.mark.parametrize(
    ("first", "options", "tries"),
    [
        (FAILED, {}, 2),
        (lost("a person did it", CANCELLED), {}, 1),
        (refused("no such GPU"), {}, 1),
        (INVALID, {}, 1),
        (INVALID, {"retry_invalid": True}, 2),
    ],
)
def test_what_is_tried_again(tmp_path: Path, first: Outcome, options: dict[str, Any], tries: int) -> None:
    backend = Scripted({"a": [first, DONE]})
    results, _ = Sweep(tmp_path, [a_job("a")], backend, attempts=2, **options).run()
    assert len(backend.arrays) == tries
    assert results["a"].state is (State.done if tries == 2 else first.state)


def test_a_submission_that_is_refused_loses_its_points_and_no_others(tmp_path: Path) -> None:
    backend = Scripted({"a": WattcountError("no such partition"), "b": [DONE]})
    sweep = Sweep(tmp_path, [a_job("a"), a_job("b", "a100")], backend, attempts=2)
    results, _ = sweep.run()
    assert (results["a"].reason, results["a"].message) == (JOB_LOST, "no such partition")
    assert results["b"].state is State.done
    assert sweep.lost() == [("a", 1, JOB_LOST), ("a", 2, JOB_LOST)]


def test_a_point_that_another_run_measures_is_looked_at_again_when_all_else_is_done(tmp_path: Path) -> None:
    elsewhere = refused("measured by another", MEASURED_ELSEWHERE)
    backend = Scripted({"a": [elsewhere, DONE], "b": [RUNS, RUNS, DONE]})
    results, _ = Sweep(tmp_path, [a_job("a"), a_job("b")], backend).run()
    assert results["a"].state is State.done
    assert [[(task.key, task.wait_for_others) for task in array] for array in backend.arrays] == [
        [("a", False), ("b", False)],
        [("a", True)],
    ]


def test_an_interruption_cancels_all_jobs_and_takes_what_they_still_say(tmp_path: Path) -> None:
    interrupted = failed("interrupted", "interrupted", EXIT_INTERRUPTED)
    backend = Scripted({"a": [RUNS, RUNS, interrupted], "b": [RUNS, DEAD]})
    backend.interrupts_at = 2
    sweep = Sweep(tmp_path, [a_job("a"), a_job("b")], backend)
    results, code = sweep.run()
    assert code == EXIT_INTERRUPTED
    assert [task.key for task in backend.cancelled] == ["a", "b"]
    assert {key: outcome.reason for key, outcome in results.items()} == {"a": "interrupted"}
    assert sweep.told.results == [("a", False)]


def test_points_that_all_fail_alike_end_the_sweep_and_its_jobs(tmp_path: Path) -> None:
    broken = failed("setup_failed", "it failed")
    backend = Scripted({"a": [broken], "b": [broken], "c": [RUNS, RUNS, DEAD]})
    jobs = [a_job(key) for key in "abc"]
    sweep = Sweep(tmp_path, jobs, backend, stop_after_same_failures=2)
    results, code = sweep.run()
    assert (set(results), code) == ({"a", "b"}, None)
    assert [task.key for task in backend.cancelled] == ["c"]
    assert "none was measured" in sweep.told.notices[0]


def test_jobs_that_wait_for_long_are_told_once_for_each_reason(tmp_path: Path) -> None:
    resources, gone = waits("Resources"), waits("ReqNodeNotAvail")
    backend = Scripted({"a": [resources] * 5 + [gone] * 5 + [DONE], "b": [RUNS] * 11 + [DONE]})
    sweep = Sweep(tmp_path, [a_job("a"), a_job("b", "a100")], backend)
    look = backend.look

    def later(handle: Task) -> Outcome:
        sweep.now_s += WAIT_NOTICE_S / 2
        return look(handle)

    backend.look = later  # type: ignore[method-assign]
    sweep.run()
    assert sweep.told.notices == [
        "all 1 jobs of gpu=l4 wait: Resources",
        "all 1 jobs of gpu=l4 wait: ReqNodeNotAvail",
    ]


def test_jobs_that_wait_for_their_like_are_not_told(tmp_path: Path) -> None:
    backend = Scripted({"a": [RUNS] * 5 + [DONE], "b": [waits("Resources")] * 5 + [DONE]})
    sweep = Sweep(tmp_path, [a_job("a"), a_job("b")], backend)
    look = backend.look

    def later(handle: Task) -> Outcome:
        sweep.now_s += WAIT_NOTICE_S
        return look(handle)

    backend.look = later  # type: ignore[method-assign]
    sweep.run()
    assert sweep.told.notices == []


def test_a_sweep_with_nothing_to_do_asks_no_cluster(tmp_path: Path) -> None:
    first = RunConfig(records_dir=str(tmp_path))
    with Ledger.open(tmp_path, "s") as ledger:
        assert Cluster(launcher(), [], "s", first).run(ledger, Told()) == ({}, None)


# --- what the launcher's configuration says ---------------------------------------------------------


def options(
    tmp_path: Path,
    config: DictConfig,
    job: Job,
    placement: dict[str, Any] | None = None,
    open_nodes: Sequence[str] = (),
) -> dict[str, Any]:
    """What one job is submitted with."""
    backend = Scripted({"a": [DONE]})
    backend.open_nodes = open_nodes
    first = RunConfig(records_dir=str(tmp_path), sweep=SweepConfig(placement=placement or {}))
    with Ledger.open(tmp_path, "s") as ledger:
        Cluster(config, [job], "s", first, connect=lambda *_: backend).run(ledger, Told())
    return backend.options[0]


def test_what_the_cluster_says_is_asked_for_beside_what_the_person_says(tmp_path: Path) -> None:
    found = options(tmp_path, launcher(partition="main"), a_job("a"))
    assert (found["partition"], found["constraint"], found["gres"]) == ("main", "l4", None)


def test_a_placement_goes_before_what_the_cluster_says(tmp_path: Path) -> None:
    found = options(tmp_path, launcher(partition="main"), a_job("a"), {"l4": {"partition": "gpu"}})
    assert (found["partition"], found["constraint"]) == ("gpu", None)


def test_a_placement_may_have_keys_within_keys(tmp_path: Path) -> None:
    asked = {"ray": {"remote": {"resources": {"big_node": 1}}}}
    config = launcher(ray={"remote": {"num_cpus": 1}})
    found = options(tmp_path, config, a_job("a"), {"l4": asked}, open_nodes=["ray.remote"])
    assert found["ray"] == {"remote": {"resources": {"big_node": 1}, "num_cpus": 1}}


def test_where_the_person_has_chosen_nothing_is_asked_for(tmp_path: Path) -> None:
    found = options(tmp_path, launcher(gres="gpu:big:1"), a_job("a"))
    assert (found["gres"], found["constraint"]) == ("gpu:big:1", None)


def test_a_placement_that_makes_no_sense_is_found_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match="constrain: no such key"):
        options(tmp_path, launcher(), a_job("a"), {"l4": {"constrain": "x"}})
    with pytest.raises(NotStartedError, match=r"sweep.placement.l4: must be keys of hydra.launcher"):
        options(tmp_path, launcher(), a_job("a"), {"l4": "sxm"})


def test_a_launcher_that_is_not_used_here_is_refused_with_those_that_are() -> None:
    assert launcher_of(launcher()) == "submitit_slurm"
    assert launcher_of(launcher("RayLauncher")) == "ray"
    assert launcher_of(launcher("BasicLauncher")) is None
    with pytest.raises(
        NotStartedError, match=r"JoblibLauncher is none .* submitit_slurm, submitit_local, ray"
    ):
        launcher_of(launcher("JoblibLauncher"))


def test_points_are_grouped_by_what_they_ask_for_and_keep_their_order() -> None:
    two = a_job("3", "a100")
    two = replace(two, cfg=replace(two.cfg, gpu=replace(two.cfg.gpu, count=2)))
    emulated = a_job("5", "a100", PowerBackend.emulated)
    found = by_gpus([a_job("1", "a100"), a_job("2"), two, a_job("4", "a100"), emulated])
    assert {gpus: [job.point.key for job in jobs] for gpus, jobs in found.items()} == {
        Gpus("a100"): ["1", "4"],
        Gpus("l4"): ["2"],
        Gpus("a100", 2): ["3"],
        Gpus("a100", emulated=True): ["5"],
    }


# --- real jobs, of submitit on this machine ---------------------------------------------------------

LOCAL = ("hydra/launcher=submitit_local", "power=emulated", "sweep.name=s")
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="no submitit: pip install 'wattcount[slurm]'"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wattcount", "-m", *SHORT_RUN, *LOCAL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def states(home: Path) -> Counter[State]:
    return Counter(outcome.state for outcome in read_state(home / "records", "s").outcomes.values())


def running(home: Path) -> list[Path]:
    return list((home / "records").glob("*/.tmp-*/spool/power.arrows"))


def jobs_of(home: Path) -> list[psutil.Process]:
    """Processes of submitit's jobs of this test."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "submitit.core._submit" in command and any(str(home) in word for word in command):
            found.append(process)
    return found


@needs_submitit
@pytest.mark.timeout(200)
def test_a_job_that_is_killed_is_tried_again_and_a_restart_has_nothing_to_do(home: Path) -> None:
    slow = ("gpu=l4,a100", "engine.args.step_base_ms=200")
    with start(*slow) as process:
        wait_until(lambda: running(home))
        wait_until(lambda: jobs_of(home))[0].kill()
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert "its process ended without a result" in err
    assert "(try 1, to be tried again)" in err
    assert states(home) == {State.done: 2}
    assert not list((home / "records").glob(".sweeps/s/jobs/*"))
    with start(*slow) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "2 points: 0 to run, 2 done before" in out


@needs_submitit
@pytest.mark.timeout(200)
def test_an_interrupted_sweep_leaves_no_job_and_a_closed_record(home: Path) -> None:
    with start("gpu=l4", "engine.args.step_base_ms=5000") as process:
        wait_until(lambda: running(home))
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 143
    wait_until(lambda: not jobs_of(home))
    (record,) = [Record.open(file.parent) for file in (home / "records").glob("*/r*/run.json")]
    assert record.info.validity.reasons == ["interrupted"]


@needs_submitit
@pytest.mark.timeout(200)
def test_a_launcher_that_refuses_everything_loses_every_point_with_its_reason(home: Path) -> None:
    with start("gpu=l4,a100", "hydra.launcher.nodes=2", "sweep.attempts=1") as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert "refused the jobs: LocalExecutor can use only one node" in err
    assert states(home) == {State.lost: 2}
