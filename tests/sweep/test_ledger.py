import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from growth import growth
from sweep_ledger import planned
from synthetic_record import SyntheticRun, rewrite_metrics
from waiting import wait_until

from wattcount import ownership
from wattcount.errors import WattcountError
from wattcount.sweep.ledger import Ledger, read_plan, read_state, sweeps
from wattcount.sweep.point import Outcome, Plan, Point, State


def point(key: str, **other) -> Point:
    return Point(key, ("model=m", "seed=0"), "m", "h200", "server", "server 4/s", 0, 1, **other)


def make_plan(*points: Point, name: str = "quick") -> Plan:
    return Plan(
        name, points or (point("a"), point("b")), "2026-01-01T00:00:00Z", ("+experiment=quick", "a=b c")
    )


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, "quick") as made:
        made.write_plan(make_plan())
        yield made


def state(ledger: Ledger, key: str = "a") -> State:
    found = read_state(ledger.folder.parents[1], ledger.folder.name)
    return found.outcomes[key].state


# -- the plan -------------------------------------------------------------------------------------


def test_the_plan_comes_back_as_it_was(tmp_path):
    plan = make_plan(
        point("a", state=State.done, record="/r", wall_s=1.5, energy_j=2.5, basis="measured"),
        point("b", state=State.skipped, reason="does_not_fit", message="140 GiB > 80 GiB"),
        Point("c", (), "", "", "", "", 3, 4),
    )
    Ledger.open(tmp_path, "quick").write_plan(plan)
    assert read_plan(tmp_path, "quick") == plan
    assert [path.name for path in (tmp_path / ".sweeps" / "quick").iterdir() if path.is_file()] == [
        "plan.parquet"
    ]


def test_an_empty_plan(tmp_path):
    plan = Plan("quick", (), "2026-01-01T00:00:00Z", ())
    Ledger.open(tmp_path, "quick").write_plan(plan)
    assert read_plan(tmp_path, "quick") == plan


def test_no_such_sweep(tmp_path):
    with pytest.raises(WattcountError, match="no sweep 'quick'"):
        read_plan(tmp_path, "quick")
    with pytest.raises(WattcountError, match="no sweep"):
        read_state(tmp_path, "quick")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "-x", "a\n", "x" * 300])
def test_a_name_that_is_no_folders(tmp_path, name):
    with pytest.raises(WattcountError, match="no name of a sweep"):
        Ledger.open(tmp_path, name)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", b"x" * 5000])
def test_a_damaged_plan(ledger, tmp_path, content):
    (ledger.folder / "plan.parquet").write_bytes(content)
    with pytest.raises(WattcountError, match="starting the sweep again writes it afresh") as caught:
        read_plan(tmp_path, "quick")
    assert "\n" not in str(caught.value)


def test_a_plan_of_before_points_had_a_column_is_read(ledger, tmp_path):
    file = ledger.folder / "plan.parquet"
    plan = read_plan(tmp_path, "quick")
    pq.write_table(pq.read_table(file).drop_columns(["point"]), file)
    assert read_plan(tmp_path, "quick") == replace(
        plan, points=tuple(replace(p, point=None) for p in plan.points)
    )


def test_a_plan_that_cannot_be_written_leaves_the_one_before(ledger, tmp_path, monkeypatch):
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wattcount.sweep.ledger.pq.write_table", full)
    with pytest.raises(WattcountError, match="No space left"):
        ledger.write_plan(make_plan(point("new")))
    assert read_plan(tmp_path, "quick") == make_plan()
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["events", "plan.parquet"]


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WattcountError, match="set records_dir"):
        Ledger.open(tmp_path / "file", "quick")


def test_sweeps_are_listed_newest_first(tmp_path):
    assert sweeps(tmp_path) == []
    assert sweeps(tmp_path / "none") == []
    for age, name in enumerate(["new", "middle", "old"]):
        Ledger.open(tmp_path, name).write_plan(make_plan(name=name))
        os.utime(tmp_path / ".sweeps" / name / "plan.parquet", (1e9 - age, 1e9 - age))
    Ledger.open(tmp_path, "without-plan")
    assert sweeps(tmp_path) == ["new", "middle", "old"]


def test_a_sweep_that_an_earlier_version_started_goes_on_where_it_is(tmp_path):
    with Ledger.open(tmp_path, "quick") as begun:
        begun.write_plan(make_plan(point("a"), point("b")))
        begun.append(Outcome(State.done, key="a", record=None))
    (tmp_path / ".sweeps").rename(tmp_path / ".studies")
    assert sweeps(tmp_path) == ["quick"]
    with Ledger.open(tmp_path, "quick") as again:
        again.append(Outcome(State.running, key="b"))
        found = read_state(tmp_path, "quick")
    assert [found.outcomes[key].state for key in "ab"] == [State.done, State.running]
    assert not (tmp_path / ".sweeps" / "quick").exists()  # its history is not split


# -- events ---------------------------------------------------------------------------------------


def files(ledger: Ledger) -> list[Path]:
    return sorted((ledger.folder / "events").iterdir())


def test_the_story_of_a_point(ledger):
    assert state(ledger) is State.waiting
    assert files(ledger) == []
    assert ledger.append(Outcome(State.running, "a"))
    assert state(ledger) is State.running
    assert ledger.append(Outcome(State.failed, "a", reason="timeout"))
    assert state(ledger) is State.failed
    assert len(files(ledger)) == 1


def test_done_needs_its_record(ledger, tmp_path):
    record = tmp_path / "0123456789ab" / "r0-1"
    ledger.append(Outcome(State.done, "a", record=str(record)))
    assert state(ledger) is State.waiting
    SyntheticRun().write(record)
    assert state(ledger) is State.done


def test_a_damaged_record_is_not_done(ledger, tmp_path):
    record = SyntheticRun().write(tmp_path / "0123456789ab" / "r0-1")
    ledger.append(Outcome(State.running, "a"))
    ledger.append(Outcome(State.done, "a", record=str(record)))
    assert state(ledger) is State.done
    (record / "requests.parquet").unlink()
    for _ in range(2):  # the second time from the cache
        outcome = read_state(tmp_path, ledger.folder.name).outcomes["a"]
        assert outcome.state is not State.done
        assert outcome.reason == "damaged"
        assert "requests.parquet is missing" in outcome.message


def test_a_record_that_the_checks_of_today_find_invalid_is_not_done(ledger, tmp_path):
    record = SyntheticRun().write(tmp_path / "0123456789ab" / "r0-1")
    finding = {
        "code": "backlog",
        "figure": 1,
        "limit": 0,
        "unit": "1",
        "message": "late",
        "invalidates": True,
    }
    rewrite_metrics(record, validity={"valid": False, "reasons": [], "findings": [finding]})
    ledger.append(Outcome(State.done, "a", record=str(record)))
    outcome = read_state(tmp_path, ledger.folder.name).outcomes["a"]
    assert (outcome.state, outcome.reason, outcome.message) == (State.invalid, "backlog", "late")


def test_the_same_of_a_record_that_the_plan_found(tmp_path):
    record = SyntheticRun().write(tmp_path / "0123456789ab" / "r0-1")
    with Ledger.open(tmp_path, "quick") as ledger:
        done = planned("a", state=State.done, record=str(record))
        ledger.write_plan(Plan("quick", (done,), "", ()))
    assert read_state(tmp_path, "quick").outcomes["a"].state is State.done
    (record / "run.json").write_text("[]")
    outcome = read_state(tmp_path, "quick").outcomes["a"]
    assert (outcome.state, outcome.reason) == (State.failed, "damaged")


def test_a_folder_that_was_moved_still_has_what_was_measured(tmp_path):
    before, after = tmp_path / "there", tmp_path / "here"
    record = before / "0123456789ab" / "r0-1"
    planned_before = planned("old", state=State.done, record=str(before / "ba9876543210" / "r0-0"))
    for folder in (record, Path(planned_before.record)):
        SyntheticRun().write(folder)
    with Ledger.open(before, "moved") as ledger:
        ledger.write_plan(Plan("moved", (planned("new"), planned_before, planned("lost")), "", ()))
        ledger.append(Outcome(State.running, "new"))
        ledger.append(Outcome(State.done, "new", record=str(record)))
        ledger.append(Outcome(State.running, "lost"))
        ledger.append(Outcome(State.done, "lost", record=str(before / "0123456789ab" / "r1-2")))
    before.rename(after)
    new, old, lost = read_state(after, "moved").outcomes.values()
    assert (new.state, new.record) == (State.done, str(after / "0123456789ab" / "r0-1"))
    assert (old.state, old.record) == (State.done, str(after / "ba9876543210" / "r0-0"))
    assert lost.state is not State.done


def test_a_closed_ledger_runs_nothing_and_can_be_written_on(ledger):
    ledger.append(Outcome(State.running, "a"))
    ledger.close()
    ledger.close()
    assert state(ledger) is State.lost
    assert ledger.append(Outcome(State.running, "a"))
    assert state(ledger) is State.running


def test_threads_write_whole_lines(ledger, tmp_path):
    def write(key: str) -> None:
        for _ in range(200):
            ledger.append(Outcome(State.running, key, message="x" * 300))

    threads = [threading.Thread(target=write, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.attempt for outcome in read_state(tmp_path, "quick").outcomes.values()] == [200, 200]


CHILD = """
import os, sys, time
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Outcome, State
ledger = Ledger.open(sys.argv[1], "quick")
ledger.append(Outcome(State.running))
ledger.append(Outcome(State.running, "a"))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_that_is_killed_runs_nothing_any_more(tmp_path):
    Ledger.open(tmp_path, "quick").write_plan(make_plan())
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            before = read_state(tmp_path, "quick")
            os.kill(child.pid, signal.SIGSTOP)  # stopped is not dead
            assert read_state(tmp_path, "quick").alive
        finally:
            child.kill()
        child.wait(10)
    after = read_state(tmp_path, "quick")
    assert (before.alive, before.outcomes["a"].state) == (True, State.running)
    assert (after.alive, after.outcomes["a"].state) == (False, State.lost)
    assert after.starts[0].killed
    assert after.starts[0].pid == child.pid


@pytest.mark.parametrize(
    "tail", [b'{"kind":"done","key":"a","t_u', b"\x00" * 100, b"\n\n", b'{"kind":"done"}\n']
)
def test_a_torn_line_is_passed_over(ledger, tail):
    ledger.append(Outcome(State.running, "a"))
    with files(ledger)[0].open("ab") as file:
        file.write(tail)
    assert state(ledger) is State.running


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null\n"])
def test_a_file_without_its_first_line(ledger, content):
    (ledger.folder / "events" / "x-1-1.jsonl").write_bytes(content)
    assert state(ledger) is State.waiting


def test_a_full_disk_ends_nothing(ledger, tmp_path):
    ledger.append(Outcome(State.running))
    size = files(ledger)[0].stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        assert not ledger.append(Outcome(State.running, "a"))  # ten bytes of it
        assert not ledger.append(Outcome(State.failed, "a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    # There is room again: what comes now is not spoilt by what did not fit.
    assert ledger.append(Outcome(State.running, "b"))
    found = read_state(tmp_path, "quick")
    assert [found.outcomes[key].state for key in "ab"] == [State.waiting, State.running]


def test_a_folder_that_is_gone_ends_nothing(ledger):
    (ledger.folder / "events").rmdir()
    assert not ledger.append(Outcome(State.running))


# -- other hosts ----------------------------------------------------------------------------------


def from_elsewhere(ledger: Ledger, age_s: float) -> None:
    """Makes the ledger's only file one of another host that was last touched `age_s` ago."""
    ledger.append(Outcome(State.running, "a"))
    (file,) = files(ledger)
    first, rest = file.read_bytes().split(b"\n", 1)
    for mark in ("boot_id", "machine_id", "hostname"):
        first = first.replace(str(ownership.mark()[mark]).encode(), b"elsewhere")
    file.write_bytes(first + b"\n" + rest)
    os.utime(file, (time.time() - age_s,) * 2)


@pytest.mark.parametrize(("age_s", "expected"), [(60, State.running), (3600, State.lost)])
def test_another_hosts_process_lives_as_long_as_it_is_heard_of(ledger, age_s, expected):
    from_elsewhere(ledger, age_s)
    assert state(ledger) is expected


def test_a_beat_is_heard(ledger):
    ledger.beat()  # before there is a file
    from_elsewhere(ledger, 3600)
    ledger.beat()
    assert state(ledger) is State.running


def test_beating_goes_on_until_it_is_left(ledger, monkeypatch):
    monkeypatch.setattr("wattcount.sweep.ledger.BEAT_S", 0.01)
    with ledger.beating():
        from_elsewhere(ledger, 3600)
        wait_until(lambda: state(ledger) is State.running)
    from_elsewhere(ledger, 3600)
    time.sleep(0.05)
    assert state(ledger) is State.lost


def test_beats_are_rare(ledger, monkeypatch):
    ledger.append(Outcome(State.running))
    touched = []
    monkeypatch.setattr(os, "utime", touched.append)
    for _ in range(100):
        ledger.beat()
    assert len(touched) == 1


# -- size -----------------------------------------------------------------------------------------


def test_reading_a_sweep_grows_with_its_points_alone(tmp_path):
    """The paper's has 5,580."""

    def reading(count: int) -> Callable[[], object]:
        name = f"sweep{count}"
        points = [point(f"{i:012x}", state=State.waiting) for i in range(count)]
        with Ledger.open(tmp_path, name) as ledger:
            ledger.write_plan(make_plan(*points))
            for p in points:
                ledger.append(Outcome(State.running, p.key))
                ledger.append(Outcome(State.failed, p.key, reason="timeout", message="m" * 200))
            assert read_state(tmp_path, name).counts[State.failed] == count
        return lambda: read_state(tmp_path, name)

    assert growth(reading, 700, 8) < 30
