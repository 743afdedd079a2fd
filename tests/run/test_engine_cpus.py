"""CPUs and priority of the engine's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from wattcount.config.schema import EngineConfig
from wattcount.errors import RunFailedError
from wattcount.run.engine_cpus import cpus_of, place


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [([0], [0, 1]), ([3], [12, 13]), ([1, 2], [4, 5, 8, 9])],
)
def test_each_gpu_of_the_machine_has_a_share_of_its_own(gpus: list[int], expected: list[int]) -> None:
    assert cpus_of(range(16), 2, gpus, 4) == expected


def test_the_cpus_are_those_that_the_run_may_use() -> None:
    assert cpus_of({9, 3, 7, 5}, 1, [1], 2) == [7]


def test_more_cpus_than_a_share_are_refused() -> None:
    with pytest.raises(
        RunFailedError, match=r"engine\.pinned_cpus: 5 CPUs for each of 4 GPUs .* at most 4"
    ) as caught:
        cpus_of(range(16), 5, [0], 4)
    assert caught.value.reason == "setup_failed"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process with two threads."""
    program = (
        "import sys, threading; t = threading.Thread(target=sys.stdin.read); t.start();"
        "print(flush=True); t.join()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_every_thread_of_the_engine_is_placed(child: subprocess.Popen[bytes]) -> None:
    cpu = min(os.sched_getaffinity(0))
    found = place(EngineConfig(nice=7), [child.pid], [cpu])
    assert found == {"cpus": [cpu], "nice": 7, "processes": 1}
    threads = [int(task.name) for task in Path(f"/proc/{child.pid}/task").iterdir()]
    assert len(threads) == 2
    assert [os.sched_getaffinity(thread) for thread in threads] == [{cpu}, {cpu}]
    assert [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads] == [7, 7]


def test_what_was_not_asked_for_stays(child: subprocess.Popen[bytes]) -> None:
    before = os.sched_getaffinity(child.pid), os.getpriority(os.PRIO_PROCESS, child.pid)
    assert place(EngineConfig(), [child.pid], None) == {"cpus": None, "nice": None, "processes": 1}
    assert (os.sched_getaffinity(child.pid), os.getpriority(os.PRIO_PROCESS, child.pid)) == before


def tasks(root: Path, pid: int, *threads: int) -> None:
    for thread in threads:
        (root / str(pid) / "task" / str(thread)).mkdir(parents=True)


def test_threads_that_come_meanwhile_are_placed_too_and_those_that_end_are_passed_over(
    tmp_path: Path,
) -> None:
    tasks(tmp_path, 20, 20, 21)
    placed: list[int] = []

    def set_affinity(thread: int, _: Sequence[int]) -> None:
        if thread == 21:
            raise ProcessLookupError
        placed.append(thread)
        if thread == 20:
            tasks(tmp_path, 20, 22)

    place(EngineConfig(), [20, 99], [0], proc=tmp_path, set_affinity=set_affinity)
    assert placed == [20, 22]


def test_a_priority_that_is_not_permitted_says_what_to_do(tmp_path: Path) -> None:
    tasks(tmp_path, 20, 20)

    def refuse(*_: int) -> None:
        raise PermissionError

    with pytest.raises(RunFailedError, match=r"engine\.nice=-5 is not permitted: run as root"):
        place(EngineConfig(nice=-5), [20], None, proc=tmp_path, set_priority=refuse)


def test_an_engine_without_processes_of_its_own_is_refused() -> None:
    with pytest.raises(RunFailedError, match="leave them null"):
        place(EngineConfig(nice=5), [], None)
