"""Whole sweeps on this machine, with the tiny engine on emulated GPUs: to the end, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from short_run import SHORT_RUN
from waiting import commands, wait_until
from witness import kill, worker_pid

from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.sweep.ledger import read_state
from wattcount.sweep.point import State

pytestmark = pytest.mark.timeout(280)

SHORT = (*SHORT_RUN, "sweep.name=s")
EMULATED = (*SHORT, "power=emulated", "gpu=h200")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wattcount", "-m", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    with start(*arguments) as process:
        out, err = process.communicate()
    return process.returncode, out, err


def records(home: Path) -> list[Record]:
    return [Record.open(run.parent) for run in sorted((home / "records").glob("*/r*/run.json"))]


def valid(home: Path) -> Counter[tuple[str, int]]:
    """Valid records by point and repeat."""
    return Counter(
        (record.info.point_id[:12], record.info.repeat)
        for record in records(home)
        if record.metrics is not None and record.metrics["validity"]["valid"]
    )


def running(home: Path) -> list[Path]:
    return list((home / "records").glob("*/.tmp-*/spool/power.arrows"))


def lanes(parent: int) -> list[psutil.Process]:
    try:
        found = commands(psutil.Process(parent).children())
    except psutil.NoSuchProcess:
        return []
    return [child for child, command in found.items() if "wattcount.sweep.lane" in command]


def states(home: Path) -> Counter[State]:
    return Counter(outcome.state for outcome in read_state(home / "records", "s").outcomes.values())


def test_the_plan_alone(home: Path) -> None:
    code, out, err = run(*EMULATED, "repeat=0,1", "dry_run=true")
    assert (code, err) == (0, "")
    assert "2 points: 2 to run, 0 done before, 0 skipped" in out
    assert "estimate: " in out
    assert not home.exists()


@pytest.mark.usefixtures("home")
def test_how_to_go_on_is_the_whole_command(tmp_path: Path) -> None:
    own = tmp_path / "my conf"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text("defaults: [tiny, _self_]\nname: mine\n")
    failing = ("model=mine", "+engine.args.fail_at_start=out_of_memory", "sweep.attempts=1", "repeat=0,1")
    code, _, _ = run("--config-dir", str(own), *EMULATED, *failing)
    assert code == 1
    shown = subprocess.run(
        [sys.executable, "-m", "wattcount", "status", "s"], capture_output=True, text=True, check=True
    ).stdout
    again = next(line for line in shown.splitlines() if line.startswith("  go on with"))
    command = shlex.split(again.removeprefix("  go on with"))
    assert command[:6] == ["python", "-m", "wattcount", "-m", "--config-dir", str(own)]
    assert set(failing) <= set(command)
    code, out, _ = run(*command[4:], "dry_run=true")
    assert code == 0
    assert "2 points: 2 to run" in out


def test_two_lanes_and_then_only_what_is_new(home: Path) -> None:
    code, out, _ = run(*EMULATED, "repeat=0,1", "sweep.workers=2")
    assert code == 0
    assert out.count("record: ") >= 2
    assert states(home) == {State.done: 2}
    times = sorted((r.info.phases[0].start_ns, r.info.phases[-1].end_ns or 0) for r in records(home))
    assert times[1][0] < times[0][1], "they did not run at once"
    code, out, _ = run(*EMULATED, "repeat=0,1,2")
    assert code == 0
    assert "3 points: 1 to run, 2 done before" in out
    assert sorted(valid(home).values()) == [1, 1, 1]


def sessions(home: Path) -> Counter[str]:
    """Number of records by the start of the engine that they share."""
    return Counter(record.info.session["id"] for record in records(home))


LOADS = "scenario.num_requests=2,3,4"


def test_loads_share_a_start_of_the_engine_and_repeats_do_not(home: Path) -> None:
    shared = (*EMULATED, LOADS, "repeat=0,1", "sweep.share_engine=true")
    code, out, _ = run(*shared)
    assert code == 0
    assert "6 points on 2 starts of it" in out
    assert sorted(valid(home).values()) == [1] * 6
    assert sorted(sessions(home).values()) == [3, 3]
    for record in records(home):
        first = record.info.session["number"] == 1
        assert (Phase.ENGINE_START in {span.phase for span in record.info.phases}) == first
        assert record.metrics is not None
        assert record.metrics["metrics"]["energy/bare_idle_j"] is not None
    repeats = {record.info.session["id"]: record.info.repeat for record in records(home)}
    assert sorted(repeats.values()) == [0, 1]
    told = {o.session for o in read_state(home / "records", "s").outcomes.values()}
    assert told == set(sessions(home))
    code, out, _ = run(*shared)
    assert "6 done before" in out


def test_a_run_that_is_killed_costs_the_others_of_its_session_nothing(home: Path) -> None:
    """They go on with another engine, and it is tried again after them."""
    with start(*EMULATED, LOADS, "sweep.share_engine=true") as process:
        wait_until(lambda: len(records(home)) == 1)
        wait_until(lambda: running(home))
        kill(worker_pid(process.pid))
        _, err = process.communicate()
    assert process.returncode == 0
    assert err.count("to be tried again") == 1
    assert sorted(valid(home).values()) == [1, 1, 1]
    assert sorted(sessions(home).values()) == [2, 2]
    assert states(home) == {State.done: 3}


@pytest.mark.usefixtures("three_gpus")
def test_an_idle_gpu_takes_a_share_of_a_session(home: Path) -> None:
    code, _, _ = run(*SHORT, "gpu=h200", "scenario.num_requests=2,3,4,5", "sweep.share_engine=true")
    assert code == 0
    assert sorted(valid(home).values()) == [1] * 4
    assert len(sessions(home)) == 2  # of the machine's GPUs two are H200s
    assert {record.info.gpus[0]["uuid"] for record in records(home)} == {"GPU-a", "GPU-b"}


def test_a_failure_is_tried_again_counted_and_explained(home: Path) -> None:
    args = (*EMULATED, "engine.args.fail_at_start=out_of_memory")
    code, out, err = run(*args)
    assert code == 1
    assert out.count("record: ") == 2
    assert "1 of 1 points not done:" in err
    assert "out_of_memory, 2 tries" in err
    assert max(map(len, err.splitlines()[-4:])) <= 80
    assert run(*args, "sweep.attempts=1")[0] == 1
    infos = sorted((record.info for record in records(home)), key=lambda info: info.run_id)
    assert [info.attempt for info in infos] == [1, 2, 3]
    assert {info.validity.reasons[0] for info in infos} == {"out_of_memory"}
    assert states(home) == {State.failed: 1}


def test_a_run_that_takes_too_long_is_ended(home: Path) -> None:
    code, _, err = run(
        *EMULATED, "engine.args.hang_at_start=true", "sweep.time_limit_s=1", "sweep.attempts=1"
    )
    assert code == 1
    assert "timeout" in err
    (record,) = records(home)
    assert record.info.validity.reasons == ["timeout"]
    assert "sweep.time_limit_s=1" in record.info.validity.messages[0]


def test_a_killed_lane_costs_a_try_and_not_the_sweep(home: Path) -> None:
    with start(*EMULATED, "repeat=0,1") as process:
        wait_until(lambda: running(home))
        (lane,) = lanes(process.pid)
        lane.kill()
        _, err = process.communicate()
    assert process.returncode == 0
    assert "ended by SIGKILL (try 1, to be tried again)" in err
    assert sorted(valid(home).values()) == [1, 1]
    events = [
        json.loads(line)["state"]
        for file in (home / "records/.sweeps/s/events").glob("*.jsonl")
        for line in file.read_text().splitlines()[1:]
    ]
    assert events.count("lost") == 1
    assert states(home) == {State.done: 2}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_interrupt_ends_every_run_with_its_record(number: int, code: int, home: Path) -> None:
    with start(*EMULATED, "repeat=0,1,2", "sweep.workers=2", "scenario.loaded_idle_s=20") as process:
        wait_until(lambda: len(running(home)) == 2)
        process.send_signal(number)
        process.communicate()
    assert process.returncode == code
    infos = [record.info for record in records(home)]
    assert [info.validity.reasons for info in infos] == [["interrupted"]] * 2
    assert running(home) == []


def test_a_killed_sweep_leaves_nothing_running_and_goes_on_where_it_was(home: Path) -> None:
    with start(*EMULATED, "repeat=0,1,2") as process:
        wait_until(lambda: valid(home))
        (lane,) = lanes(process.pid)
        wait_until(lambda: running(home))
        process.kill()
        process.communicate()
    gone, alive = psutil.wait_procs([lane], timeout=30)
    assert (len(gone), alive) == (1, [])
    code, out, _ = run(*EMULATED, "repeat=0,1,2")
    assert code == 0
    assert "3 points: 2 to run, 1 done before" in out
    assert sorted(valid(home).values()) == [1, 1, 1]


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedMachine:
    gpus = [
        EmulatedGpu("h200", uuid="GPU-a"),
        EmulatedGpu("h200", uuid="GPU-b"),
        EmulatedGpu("l4", uuid="GPU-c"),
    ]
    machine = EmulatedMachine(gpus, tmp_path / "machine")
    monkeypatch.setenv("WATTCOUNT_NVML_EMULATOR", str(machine.config_path))
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", machine.library_path)
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    return machine


def used(home: Path) -> dict[tuple[str, int], list[str]]:
    return {
        (r.info.config["gpu"]["name"], r.info.repeat): [gpu["uuid"] for gpu in r.info.gpus]
        for r in records(home)
    }


def test_as_many_runs_at_once_as_there_are_gpus(home: Path, three_gpus: EmulatedMachine) -> None:
    assert three_gpus
    code, out, err = run(*SHORT, "gpu=h200,l4", "repeat=0,1", "cooldown_limit_s=0")
    assert code == 0, out + err
    assert "with 3 at once" in out
    found = used(home)
    assert sorted(found) == [("h200", 0), ("h200", 1), ("l4", 0), ("l4", 1)]
    assert {uuid for repeat in (0, 1) for uuid in found["h200", repeat]} == {"GPU-a", "GPU-b"}
    assert found["l4", 0] == found["l4", 1] == ["GPU-c"]


def test_a_run_of_two_gpus_takes_two_and_what_is_not_here_is_skipped(
    home: Path, three_gpus: EmulatedMachine
) -> None:
    assert three_gpus
    code, out, err = run(*SHORT, "gpu=h200,l4,t4", "gpu.count=2", "cooldown_limit_s=0")
    assert code == 0
    assert used(home) == {("h200", 0): ["GPU-a", "GPU-b"]}
    assert "  skipped 2: no_such_gpu\n    l4, t4: 2 points of 1 model: tiny\n" in out
    assert "skipped 2: no_such_gpu" in err
    assert run(*SHORT, "gpu=t4")[0] == 2


def test_a_measured_gpu_is_passed_over(home: Path, three_gpus: EmulatedMachine) -> None:
    from wattcount import ownership

    assert three_gpus
    folder = Path(os.environ["WATTCOUNT_LOCK_DIR"])
    folder.mkdir()
    lock = ownership.lock(folder / "GPU-a.lock", "somebody else")
    assert lock is not None
    try:
        assert run(*SHORT, "gpu=auto", "seed=0,1", "cooldown_limit_s=0")[0] == 0
    finally:
        lock.release()
    assert {uuid for uuids in used(home).values() for uuid in uuids} == {"GPU-b"}


# --- what is not the points' fault -----------------------------------------------------------------


def test_a_sweep_whose_engine_cannot_start_stops_by_itself(home: Path) -> None:
    args = (*EMULATED, "engine.args.fail_at_start=engine_start_failed", "repeat=0,1,2,3")
    code, _, err = run(*args, "sweep.stop_after_same_failures=2")
    assert code == 1
    assert err.count("the sweep stops here") == 1
    assert "sweep.stop_after_same_failures=null" in err
    assert "4 of 4 points not done" in err
    assert len(records(home)) == 2
    assert states(home) == {State.failed: 2, State.waiting: 2}


def test_a_disk_that_is_full_ends_the_sweep_and_costs_no_try(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import resource, sys\n"
        "if 'wattcount.run.worker' in sys.orig_argv:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    long = ("scenario.num_requests=4000", "scenario.lengths.output_tokens=100", "repeat=0,1,2")
    code, _, err = run(*EMULATED, *long)
    assert code == 1
    assert err.count("the sweep stops here") == 1
    assert "the disk is full" in err
    assert "to be tried again" not in err
    assert [record.info.validity.reasons for record in records(home)] == [["record_unwritable"]]


def test_a_folder_that_vanishes_ends_the_sweep(home: Path) -> None:
    with start(*EMULATED, "repeat=0,1,2") as process:
        wait_until(lambda: valid(home))
        (home / "records").rename(home / "elsewhere")
        (home / "records").write_text("")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("the sweep stops here") == 1
    assert "records" in err
    assert "Traceback" not in err


def test_a_terminal_that_stands_still_does_not_hold_the_sweep(home: Path) -> None:
    """From the plan on nobody reads what it prints, into a pipe with no room, until every point is measured."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "wattcount", "-m", *EMULATED, "repeat=0,1"]
    with subprocess.Popen(command, stdout=write_end, stderr=subprocess.STDOUT) as process:
        told = b""
        while b"by data sheets)\n" not in told:
            told += os.read(read_end, 1 << 12)
        # A description of its own, so that the sweep's end stays one that blocks.
        filling = os.open(f"/proc/self/fd/{write_end}", os.O_WRONLY | os.O_NONBLOCK)
        os.close(write_end)
        for size in (1000, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(filling, b" " * size)
        os.close(filling)
        wait_until(lambda: len(records(home)) == 2)
        while chunk := os.read(read_end, 1 << 16):
            told += chunk
    os.close(read_end)
    assert process.returncode == 0
    assert told.count(b"record: ") == 2


def test_a_dry_run_changes_nothing_on_the_disk(home: Path) -> None:
    """Not the index, not the metrics of records that lack them, and no folder of the sweep."""
    assert run(*EMULATED, "seed=0")[0] in (0, 1)
    for file in [*home.rglob("metrics.json"), *home.rglob("index.json")]:
        file.unlink()

    def listing() -> list[tuple[str, int, int]]:
        found = [(str(path), path.lstat()) for path in sorted(home.rglob("*"))]
        return [(name, facts.st_size, facts.st_mtime_ns) for name, facts in found]

    before = listing()
    code, out, err = run(*EMULATED, "seed=0,1", "dry_run=true")
    assert (code, err) == (0, "")
    assert "dry run: nothing was started" in out
    assert listing() == before
