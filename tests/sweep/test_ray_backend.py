"""Ray itself, on this machine alone: what becomes of tasks that end in each way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from wattcount.errors import EXIT_INTERRUPTED, WattcountError
from wattcount.sweep.job import JOB_LOST, RUNS, Place
from wattcount.sweep.lane import Task
from wattcount.sweep.point import CANCELLED, Outcome, State, failed

ray = pytest.importorskip("ray", reason="no Ray: pip install 'wattcount[ray]'")

from wattcount.sweep.ray_backend import Ray, RayJob, needs  # noqa: E402

# Ray leaves files and sockets open.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore")]

DONE = Outcome(State.done)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ray]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # else Ray writes a token into the home folder
    backend = Ray(
        {"address": "local", "num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    )
    yield backend
    backend.close()
    assert not ray.is_initialized()


def ended(cluster: Ray, job: RayJob) -> Outcome:
    return wait_until(lambda: found if (found := cluster.look(job)) is not RUNS else None)


def sent(function: Any, *arguments: object) -> RayJob:
    return RayJob(ray.remote(max_retries=0)(function).remote(*arguments), {"CPU": 1.0})


def test_a_task_comes_to_a_result(cluster: Ray) -> None:
    assert ended(cluster, sent(lambda: DONE)) == DONE


def test_a_worker_that_dies_is_told(cluster: Ray) -> None:
    found = ended(cluster, sent(lambda: os._exit(1)))
    assert (found.state, found.reason) == (State.lost, JOB_LOST)
    assert str(found.message).startswith("its Ray worker died: ")


def test_what_a_task_raises_is_told(cluster: Ray) -> None:
    # The point's configuration cannot be read on the node.
    tasks = [Task({"nonsense": 1}, "k", "s", 1, (), wait_for_others=False)]
    (job,) = cluster.submit({"ray": {"remote": {}}}, Place("", ""), tasks)
    found = ended(cluster, job)
    assert (found.state, found.reason) == (State.lost, JOB_LOST)
    assert str(found.message).startswith("its job failed: NotStartedError: ")


def test_options_that_ray_does_not_know_are_refused_in_its_words(cluster: Ray) -> None:
    tasks = [Task({}, "k", "s", 1, (), wait_for_others=False)]
    with pytest.raises(WattcountError, match=r"Ray refused the tasks: .*nonsense"):
        cluster.submit({"ray": {"remote": {"nonsense": 1}}}, Place("", ""), tasks)


def test_a_task_that_no_node_can_take_waits_and_can_be_cancelled(cluster: Ray) -> None:
    tasks = [Task({}, "k", "s", 1, (), wait_for_others=False)]
    remote = {"resources": {"gpu_l4": 1}}
    (job,) = cluster.submit({"ray": {"remote": remote}}, Place("", ""), tasks)
    waiting = cluster.look(job)
    assert waiting.state is State.waiting
    assert waiting.message == "no node that is up has CPU: 1, gpu_l4: 1"
    cluster.cancel([job])
    found = wait_until(lambda: one if (one := cluster.look(job)).state is State.lost else None)
    assert found.reason == CANCELLED


def test_a_task_that_runs_is_interrupted_and_closes_its_record(cluster: Ray, tmp_path: Path) -> None:
    def run(folder: Path) -> Outcome:  # as a run: notes the signal, and comes to its end
        came: list[int] = []
        signal.signal(signal.SIGINT, lambda *_: came.append(1))
        (folder / "began").touch()
        while not came:
            time.sleep(0.01)
        return failed("interrupted", "by a signal", EXIT_INTERRUPTED)

    job = sent(run, tmp_path)
    wait_until((tmp_path / "began").exists)
    cluster.cancel([job])
    found = ended(cluster, job)
    assert found.exit_code == EXIT_INTERRUPTED


def test_what_a_node_must_have_for_a_task() -> None:
    assert needs({}) == {"CPU": 1.0}
    assert needs({"num_cpus": 2, "num_gpus": 1, "resources": {"x": 3}, "accelerator_type": "A100"}) == {
        "CPU": 2.0,
        "GPU": 1.0,
        "x": 3.0,
        "accelerator_type:A100": 0.001,
    }
