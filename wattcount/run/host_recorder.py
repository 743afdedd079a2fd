"""What the host is, and what it did during a run: how fast it computes, how busy it is, and what the run's processes got of it.

Serving needs the CPU: it schedules each step of the engine and launches its kernels. A slow or busy host gives other
latencies, other batches and other energy on the same GPU, so it is recorded beside the power, once a second (`HOST_SCHEMA`).

Sources: proc(5), Documentation/accounting/psi.rst, Documentation/scheduler/sched-stats.rst and
Documentation/admin-guide/cgroup-v2.rst of the Linux kernel. What a host or container does not show is null.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from wattcount import __version__
from wattcount.clock import now_ns

PERIOD_S = 1.0
"""Period of the samples [s]. A sample costs some 2 ms of CPU time, half of it the spin."""
STOP_LIMIT_S = 5.0
"""Longest wait for the end of the thread [s]."""
SPIN_BYTES = 24 * 1024
"""Text that one spin compresses [bytes]: about 0.4 ms of work on today's CPUs, which stays in the nearest caches."""
CGROUP = Path("sys/fs/cgroup")
"""Where cgroups are mounted, below the root."""


@dataclass(frozen=True, slots=True)
class HostSample:
    """A row of `host.parquet` (`records.schema.HOST_SCHEMA`, which says what the columns are)."""

    t_ns: int
    pid: int | None = None
    process: str | None = None
    spin_ns: int | None = None
    spin_cpu_ns: int | None = None
    cpu: int | None = None
    frequency_khz: int | None = None
    user_ms: int | None = None
    system_ms: int | None = None
    idle_ms: int | None = None
    iowait_ms: int | None = None
    steal_ms: int | None = None
    pressure_cpu_us: int | None = None
    pressure_memory_us: int | None = None
    pressure_io_us: int | None = None
    throttled_us: int | None = None
    cpu_ns: int | None = None
    wait_ns: int | None = None
    voluntary: int | None = None
    involuntary: int | None = None


_TEXT = bytes(random.Random(1).choices(b"etaoin shrdlu", k=SPIN_BYTES))
"""What is compressed as known work: letters by chance, always the same ones."""


def _work() -> None:
    """Known work: integer operations, table look-ups and branches, like an interpreter's. The GIL is not held meanwhile."""
    zlib.compress(_TEXT, 6)


def _cpu_now() -> int | None:
    """The CPU that this thread runs on."""
    try:
        number = int(ctypes.CDLL(None).sched_getcpu())
    except (OSError, AttributeError):
        return None
    return number if number >= 0 else None


@dataclass(frozen=True)
class Spin:
    """Times `work` by the clock and by the thread's CPU time: a slow CPU lengthens both, losing the CPU the former alone."""

    work: Callable[[], None] = _work
    clock_ns: Callable[[], int] = now_ns
    cpu_clock_ns: Callable[[], int] = time.thread_time_ns
    cpu_now: Callable[[], int | None] = _cpu_now

    def __call__(self) -> tuple[int, int, int | None]:
        """(nanoseconds, of CPU time, the CPU it ended on). The first pass, which fills the caches, is not timed."""
        self.work()
        t0_ns, cpu0_ns = self.clock_ns(), self.cpu_clock_ns()
        self.work()
        cpu1_ns, t1_ns = self.cpu_clock_ns(), self.clock_ns()
        return t1_ns - t0_ns, cpu1_ns - cpu0_ns, self.cpu_now()


class ProcessTree:
    """A process and all that came from it, as far as they live. Only processes that were not seen before are looked at."""

    def __init__(self, proc: Path, root_pid: int) -> None:
        self._proc = proc
        self._roots = {root_pid}
        self._seen: set[int] = set()
        self._followed: set[int] = set()
        root = _stat(proc / str(root_pid))
        self._session = root_pid if root is not None and root.session == root_pid else None
        """A process whose parent has died is known by the session, where the root has one of its own."""

    def follow(self, pid: int) -> None:
        """Also this process, and all that comes or came from it."""
        self._roots.add(pid)
        self._seen.clear()

    def pids(self) -> list[int]:
        """Increasing."""
        try:
            with os.scandir(self._proc) as entries:
                alive = {int(entry.name) for entry in entries if entry.name.isdigit()}
        except OSError:
            return []
        new = [(pid, stat) for pid in alive - self._seen if (stat := _stat(self._proc / str(pid)))]
        self._seen = (self._seen & alive) | {pid for pid, _ in new}
        self._followed &= alive
        # Parents are older than their children; a clock tick is too coarse to tell, so until none is added.
        added = True
        while added:
            added = False
            for pid, stat in new:
                ours = pid in self._roots or stat.parent in self._followed or stat.session == self._session
                if ours and pid not in self._followed:
                    self._followed.add(pid)
                    added = True
        return sorted(self._followed)


@dataclass(frozen=True)
class _Stat:
    """What `/proc/PID/stat` tells; times in clock ticks."""

    name: str
    parent: int
    session: int
    user: int
    system: int


def _stat(folder: Path) -> _Stat | None:
    try:
        text = (folder / "stat").read_text(errors="replace")
        # The name is in brackets, and may hold brackets and spaces itself.
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        return _Stat(name, int(rest[1]), int(rest[3]), int(rest[11]), int(rest[12]))
    except (OSError, ValueError, IndexError):
        return None


class HostRecorder:
    """Samples the host and the processes below `pid` once a second from a thread of its own; `health` tells what it cost.

    root   of `/proc` and `/sys`
    """

    def __init__(
        self,
        pid: int,
        *,
        root: Path = Path("/"),
        spin: Callable[[], tuple[int, int, int | None]] | None = None,
        clock_ns: Callable[[], int] = now_ns,
        period_s: float = PERIOD_S,
    ) -> None:
        self._proc, self._root = root / "proc", root
        self._spin = spin or Spin()
        self._clock_ns = clock_ns
        self._period_s = period_s
        self._tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
        self._tree = ProcessTree(self._proc, pid)
        self._cgroup = self._cgroup_file(pid)
        self._lock = threading.Lock()
        self._fresh: list[HostSample] = []
        self._to_follow: list[int] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._started_ns = self._ended_ns = 0
        self._samples = self._cpu_ns = self._slowest_ns = 0
        self._error: str | None = None

    def start(self) -> None:
        if self._thread is None:
            self._started_ns = self._clock_ns()
            self._thread = threading.Thread(target=self._run, name="wattcount-host", daemon=True)
            self._thread.start()

    def follow(self, pid: int) -> None:
        """Also this process and what comes from it: a server that the run did not start."""
        with self._lock:
            self._to_follow.append(pid)

    def sample(self) -> None:
        """One sample now, in the caller's thread. Nobody waits for it: the lock is held only to hand it over."""
        cpu_ns, t_ns = time.thread_time_ns(), self._clock_ns()
        with self._lock:
            to_follow, self._to_follow = self._to_follow, []
        for pid in to_follow:
            self._tree.follow(pid)
        rows = [self._host(t_ns)]
        rows += [row for pid in self._tree.pids() if (row := self._process(t_ns, pid)) is not None]
        with self._lock:
            self._fresh += rows
            self._samples += 1
            self._slowest_ns = max(self._slowest_ns, self._clock_ns() - t_ns)
            self._cpu_ns += time.thread_time_ns() - cpu_ns

    def drain(self) -> list[HostSample]:
        """Samples since the last drain, in the order of time."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return fresh

    def stop(self) -> None:
        """Ends the thread; may be called at any time and more than once."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join(STOP_LIMIT_S)
            self._thread = None
            self._ended_ns = self._clock_ns()

    def health(self) -> dict[str, Any]:
        """Samples, the longest of them, CPU time against wall time, and what ended the recording early."""
        with self._lock:
            return {
                "samples": self._samples,
                "period_s": self._period_s,
                "spin_bytes": SPIN_BYTES,
                "sample_max_ns": self._slowest_ns,
                "cpu_ns": self._cpu_ns,
                "wall_ns": (self._ended_ns or self._clock_ns()) - self._started_ns if self._started_ns else 0,
                "error": self._error,
            }

    def _run(self) -> None:
        try:
            self.sample()
            while not self._stopping.wait(self._period_s):
                self.sample()
        except Exception as error:  # the run itself does not need it
            self._error = f"{type(error).__name__}: {error}"

    def _host(self, t_ns: int) -> HostSample:
        spin_ns, spin_cpu_ns, cpu = self._spin()
        clock = f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
        return HostSample(
            t_ns,
            pid=None,
            process=None,
            spin_ns=spin_ns,
            spin_cpu_ns=spin_cpu_ns,
            cpu=cpu,
            frequency_khz=_number(self._root / clock),
            throttled_us=self._throttled_us(),
            pressure_cpu_us=self._pressure_us("cpu"),
            pressure_memory_us=self._pressure_us("memory"),
            pressure_io_us=self._pressure_us("io"),
            **self._times_ms(),
        )

    def _times_ms(self) -> dict[str, int]:
        """CPU time of all CPUs since boot, by what it went to."""
        try:
            with (self._proc / "stat").open("rb") as file:
                words = file.readline().split()
            ticks = [int(word) for word in words[1:9]]
            user, nice, system, idle, iowait, irq, soft_irq, steal = ticks
        except (OSError, ValueError):
            return {}
        parts = {
            "user_ms": user + nice,
            "system_ms": system + irq + soft_irq,
            "idle_ms": idle,
            "iowait_ms": iowait,
            "steal_ms": steal,
        }
        return {name: count * self._tick_ns // 1_000_000 for name, count in parts.items()}

    def _pressure_us(self, what: str) -> int | None:
        return _field(self._proc / "pressure" / what, "some", "total=")

    def _cgroup_file(self, pid: int) -> Path | None:
        """The file of the CPU limit that the run is held to; version 1 of cgroups has a folder for each controller."""
        folders = [CGROUP, CGROUP / "cpu"]
        with contextlib.suppress(OSError):
            for line in (self._proc / str(pid) / "cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if "cpu" in controllers.split(",") or not controllers:
                    folders.insert(0, (CGROUP / "cpu" if controllers else CGROUP) / path.lstrip("/"))
        files = (self._root / folder / "cpu.stat" for folder in folders)
        return next((file for file in files if file.exists()), None)

    def _throttled_us(self) -> int | None:
        if self._cgroup is None:
            return None
        if (found := _field(self._cgroup, "throttled_usec")) is not None:
            return found
        found = _field(self._cgroup, "throttled_time")
        return None if found is None else found // 1000

    def _process(self, t_ns: int, pid: int) -> HostSample | None:
        """None for a process that is gone."""
        folder = self._proc / str(pid)
        stat = _stat(folder)
        if stat is None:
            return None
        waited = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            waited = int((folder / "schedstat").read_text().split()[1])
        return HostSample(
            t_ns,
            pid=pid,
            process=stat.name,
            cpu_ns=(stat.user + stat.system) * self._tick_ns,
            wait_ns=waited,
            **_switches(folder / "status"),
        )


def _switches(file: Path) -> dict[str, int]:
    found = {}
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"):
                found["voluntary" if name.startswith("v") else "involuntary"] = int(value)
    return found


def _field(file: Path, first: str, prefix: str = "") -> int | None:
    """The number behind `prefix` in the line that begins with the word `first`; None where there is none."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        for line in file.read_text().splitlines():
            words = line.split()
            if words and words[0] == first:
                return int(next(word for word in words[1:] if word.startswith(prefix)).removeprefix(prefix))
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def host_facts() -> dict[str, Any]:
    """hostname, kernel, cpu, cpu_count, cpu_usable, memory_bytes, os, python."""
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "os": _os_name(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_count": psutil.cpu_count(logical=True),
        "cpu_usable": len(psutil.Process().cpu_affinity() or []) or None,
        "memory_bytes": int(psutil.virtual_memory().total),
        "python": platform.python_version(),
    }


def versions(engine: Iterable[str] = ()) -> dict[str, str]:
    """Versions of wattcount, of Python and of what is installed of their packages and the `engine`'s; imports none of them."""
    found = {"wattcount": __version__, "python": platform.python_version()}
    for name in ("numpy", "pyarrow", *engine):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None
