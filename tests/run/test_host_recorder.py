"""What the host did: every file is read from a folder, every time comes from a clock of the test."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import fields
from itertools import count
from pathlib import Path

import pytest

from tests.proc_tree import host, process
from wattcount.records.schema import HOST_SCHEMA
from wattcount.run import host_recorder
from wattcount.run.host_recorder import HostRecorder, HostSample, ProcessTree, Spin, host_facts, versions

MS_PER_TICK = 1000 // os.sysconf("SC_CLK_TCK")


def recorder(root: Path, pid: int = 10, cpu: int | None = 3) -> HostRecorder:
    return HostRecorder(pid, root=root, spin=lambda: (700, 600, cpu), clock_ns=lambda: 5_000)


def test_columns_are_those_of_the_file() -> None:
    assert HOST_SCHEMA.names == [item.name for item in fields(HostSample)]


def test_a_sample_is_a_row_of_the_host_and_one_of_each_process(tmp_path: Path) -> None:
    host(tmp_path)
    process(tmp_path, 10, ticks=(200, 100), waited_ns=77, switches=(8, 9))
    process(tmp_path, 11, parent=10, name="VLLM::Engine) 1", ticks=(5, 0), waited_ns=None)
    process(tmp_path, 12, parent=1)
    clock = tmp_path / "sys/devices/system/cpu/cpu3/cpufreq"
    clock.mkdir(parents=True)
    (clock / "scaling_cur_freq").write_text("3400000\n")
    limit = tmp_path / "sys/fs/cgroup"
    limit.mkdir(parents=True)
    (limit / "cpu.stat").write_text("usage_usec 9\nnr_throttled 1\nthrottled_usec 250\n")
    watcher = recorder(tmp_path)
    watcher.sample()
    ours, run, engine = watcher.drain()
    assert ours == HostSample(
        5_000,
        spin_ns=700,
        spin_cpu_ns=600,
        cpu=3,
        frequency_khz=3_400_000,
        user_ms=101 * MS_PER_TICK,
        system_ms=57 * MS_PER_TICK,
        idle_ms=900 * MS_PER_TICK,
        iowait_ms=20 * MS_PER_TICK,
        steal_ms=5 * MS_PER_TICK,
        pressure_cpu_us=4000,
        pressure_memory_us=8000,
        pressure_io_us=12000,
        throttled_us=250,
    )
    assert run == HostSample(
        5_000,
        pid=10,
        process="python",
        cpu_ns=300 * MS_PER_TICK * 10**6,
        wait_ns=77,
        voluntary=8,
        involuntary=9,
    )
    assert (engine.pid, engine.process, engine.wait_ns) == (11, "VLLM::Engine) 1", None)
    assert watcher.drain() == []


def test_what_the_host_does_not_show_is_null(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    watcher = recorder(tmp_path, cpu=None)
    watcher.sample()
    assert watcher.drain() == [HostSample(5_000, spin_ns=700, spin_cpu_ns=600)]


def test_files_that_are_no_such_files_are_null(tmp_path: Path) -> None:
    process(tmp_path, 10, waited_ns=None)
    host(tmp_path, ticks="a b")
    (tmp_path / "proc/pressure/cpu").write_text("some avg10=0.00\n")
    (tmp_path / "proc/10/schedstat").write_text("\n")
    (tmp_path / "proc/10/status").write_text("voluntary_ctxt_switches:\tmany\n")
    watcher = recorder(tmp_path)
    watcher.sample()
    ours, run = watcher.drain()
    assert ours.user_ms is ours.pressure_cpu_us is run.wait_ns is run.voluntary is None
    assert ours.pressure_memory_us == 8000


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("0::/box", "box/cpu.stat", "throttled_usec 7\n"),
        ("4:cpu,cpuacct:/box", "cpu/box/cpu.stat", "nr_throttled 1\nthrottled_time 7900\n"),
        ("0::/elsewhere", "cpu.stat", "throttled_usec 7\n"),
        ("4:memory:/box", "cpu/cpu.stat", "throttled_time 7000\n"),
    ],
)
def test_the_limit_of_the_cgroup_that_the_run_is_in(tmp_path: Path, line: str, file: str, text: str) -> None:
    process(tmp_path, 10)
    (tmp_path / "proc/10/cgroup").write_text(f"{line}\n")
    target = tmp_path / "sys/fs/cgroup" / file
    target.parent.mkdir(parents=True)
    target.write_text(text)
    watcher = recorder(tmp_path)
    watcher.sample()
    assert watcher.drain()[0].throttled_us == 7


def test_processes_that_come_later_are_followed_and_those_that_end_are_not(tmp_path: Path) -> None:
    process(tmp_path, 10)
    process(tmp_path, 20)
    tree = ProcessTree(tmp_path / "proc", 10)
    assert tree.pids() == [10]
    process(tmp_path, 9, parent=12)  # a number can be lower than its parent's
    process(tmp_path, 12, parent=10)
    assert tree.pids() == [9, 10, 12]
    shutil.rmtree(tmp_path / "proc/12")
    assert tree.pids() == [9, 10]


def test_a_process_whose_parent_died_is_known_by_the_session_of_the_run(tmp_path: Path) -> None:
    process(tmp_path, 10, session=10)
    process(tmp_path, 11, parent=1, session=10)
    process(tmp_path, 12, parent=1, session=1)
    assert ProcessTree(tmp_path / "proc", 10).pids() == [10, 11]
    # A process that has no session of its own says nothing of who shares it.
    assert ProcessTree(tmp_path / "proc", 12).pids() == [12]


def test_a_server_that_the_run_did_not_start(tmp_path: Path) -> None:
    host(tmp_path)
    process(tmp_path, 10)
    process(tmp_path, 30)
    process(tmp_path, 31, parent=30)
    watcher = recorder(tmp_path)
    watcher.sample()
    watcher.follow(30)
    watcher.sample()
    assert [row.pid for row in watcher.drain()] == [None, 10, None, 10, 30, 31]


def test_a_spin_tells_a_slow_cpu_from_one_that_was_taken_away() -> None:
    passes = count()
    wall, cpu = iter([1000, 1900]), iter([50, 650])
    spin = Spin(lambda: next(passes) and None, lambda: next(wall), lambda: next(cpu), lambda: 5)
    assert spin() == (900, 600, 5)
    assert next(passes) == 2  # the first of them fills the caches


def test_the_work_of_a_spin_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the host: its output would differ by zlib's version alone."""
    import hashlib

    assert len(host_recorder._TEXT) == host_recorder.SPIN_BYTES
    assert hashlib.sha256(host_recorder._TEXT).hexdigest() == (
        "de0599806391d67285e59c0a4f9213b07cc56e7b38e9dd94d4c75057e8270d91"
    )
    given: list[bytes] = []
    monkeypatch.setattr("zlib.compress", lambda text, _: given.append(text))
    host_recorder._work()
    assert given == [host_recorder._TEXT]


def test_this_process_is_recorded_from_its_own_thread() -> None:
    watcher = HostRecorder(os.getpid(), period_s=0.001)
    watcher.start()
    rows: list[HostSample] = []
    while len({row.t_ns for row in rows}) < 3:
        rows += watcher.drain()
    watcher.stop()
    watcher.stop()
    rows += watcher.drain()
    found = watcher.health()
    assert found["error"] is None
    assert found["samples"] == len({row.t_ns for row in rows})
    assert os.getpid() in {row.pid for row in rows}
    assert all(row.spin_ns and row.spin_cpu_ns for row in rows if row.pid is None)


def test_a_recorder_that_fails_says_so_and_harms_nobody(tmp_path: Path) -> None:
    def broken() -> tuple[int, int, int | None]:
        raise RuntimeError("no such clock")

    watcher = HostRecorder(10, root=tmp_path, spin=broken)
    watcher.start()
    while watcher.health()["error"] is None:
        pass
    watcher.stop()
    assert watcher.health()["error"] == "RuntimeError: no such clock"
    assert watcher.drain() == []


def test_the_host_is_described_in_plain_json() -> None:
    facts = json.loads(json.dumps(host_facts()))
    assert facts["hostname"]
    assert facts["memory_bytes"] > 2**28
    assert 1 <= facts["cpu_usable"] <= facts["cpu_count"]
    assert facts["python"] == ".".join(str(part) for part in sys.version_info[:3])


def test_versions_of_what_is_installed_without_importing_it() -> None:
    found = versions(["numpy", "no-such-package-at-all"])
    assert found.keys() == {"wattcount", "python", "numpy", "pyarrow"}
    assert found["numpy"] == __import__("numpy").__version__
