"""CPU and DRAM energy by RAPL, as Linux shows it under `/sys/class/powercap`.

::

    intel-rapl:0            package-0    counted: the socket, cores and uncore included
      intel-rapl:0:0        core         part of the package: left out
      intel-rapl:0:1        dram         counted, on its own: not part of the package
    intel-rapl:1            psys         kept apart: the platform, package and more in it
    intel-rapl-mmio:0       package-0    the same socket by another register: used only where it is the only one

AMD's counters show up under the same names, without `dram`. Each zone has a counter of microjoules that
starts over at `max_energy_range_uj`. What is read is kept raw; it is unwrapped when energy is computed
(`HostPowerTrace`).
Source of the layout: Documentation/power/powercap/powercap.rst and drivers/powercap of the Linux kernel.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wattcount.clock import now_ns

if TYPE_CHECKING:
    import pyarrow as pa

POWERCAP = Path("/sys/class/powercap")
"""Folder of the zones that Linux shows RAPL counters in."""
POWERCAP_ENV = "WATTCOUNT_POWERCAP"
"""Variable that names another folder with the zones: a container sees them only where they were mounted for it."""
CPUINFO = Path("/proc/cpuinfo")
"""File that names the CPU's vendor."""

OK = "ok"
"""State of counters that can be read."""
NOT_PRESENT = "rapl_not_present"
"""State, and null reason, of a host without such a counter."""
NOT_READABLE = "rapl_not_readable"
"""State, and null reason, of counters that could not be read."""

ELSEWHERE = "rapl_elsewhere"
"""State, and null reason, of a run whose GPUs are another machine's: this one's CPU does not drive them."""

PACKAGE = "package"
"""Kind of a domain: a CPU socket (or die), cores and uncore included."""
DRAM = "dram"
"""Kind of a domain: the memory of a socket, not part of its package."""
PSYS = "psys"
"""Kind of a domain: the whole platform; kept, and in no metric."""

STOP_LIMIT_S = 5.0
"""Longest wait for the end of the thread [s]."""
PERIOD_S = 1.0
"""Period of reads [s]: a counter wraps after minutes at the earliest."""
MAX_DOMAIN_W = 1000.0
"""No package or its DRAM takes more, so a counter that shows more has been reset, and one that may have
wrapped twice between two reads has not been read often enough."""
RESET_SLACK_S = 0.1
"""Added to the time between two reads in that judgement: the counters themselves move in steps."""

NO_DATA = "no_power_data"
"""Null reason of an interval that the reads do not cover."""
NOT_CONTINUOUS = "counter_not_continuous"
"""Null reason of an interval in which a counter was reset."""

_CONTROL_TYPES = ("intel-rapl", "intel-rapl-mmio")
"""Drivers of RAPL zones, the preferred first: the second shows the same packages once more."""
_PACKAGE_NAME = re.compile(r"package-(\d+)(?:-die-(\d+))?")
"""Name of a package's zone: its socket, and its die where there are several."""
_ONE_COUNTER_A_PACKAGE = ("AuthenticAMD", "HygonGenuine")
"""Vendors whose packages have one counter, although Linux 6.10 and 6.11 show it once a die."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RaplDomain:
    """A zone that is counted.

    name   `package-0`, `package-1-die-0`, `package-0/dram`, `psys`
    kind   `package`, `dram` or `psys`
    zone   its folder below `RaplHost.root`
    max_energy_range_uj   where the counter starts over; 0: not told
    error  why it cannot be read; None: it can
    """

    name: str
    kind: str
    zone: str
    max_energy_range_uj: int
    error: str | None = None


@dataclass(frozen=True)
class RaplHost:
    """What a host shows of RAPL.

    root    where it was looked for
    state   `ok`: every package can be read; `rapl_not_present`; `rapl_not_readable`; `rapl_elsewhere`
    detail  for a person: what was found, where state is not `ok`
    fix     what to do about it
    """

    root: Path
    state: str
    domains: tuple[RaplDomain, ...] = ()
    detail: str | None = None
    fix: str | None = None

    @classmethod
    def elsewhere(cls) -> RaplHost:
        """In place of this host, for GPUs of another machine (`power.remote`)."""
        detail = "the GPUs are another machine's (power.remote), whose CPU energy is not read"
        return cls(POWERCAP, ELSEWHERE, detail=detail)

    @property
    def readable(self) -> tuple[RaplDomain, ...]:
        return tuple(domain for domain in self.domains if domain.error is None)

    def to_json(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "state": self.state,
            "detail": self.detail,
            "domains": [asdict(domain) for domain in self.domains],
        }


def find_rapl(root: Path | None = None, cpuinfo: Path = CPUINFO) -> RaplHost:
    """Looks for RAPL's zones in `root` ($WATTCOUNT_POWERCAP, else /sys/class/powercap) and reads each once.

    Never raises.
    """
    root = root or Path(os.environ.get(POWERCAP_ENV) or POWERCAP)
    for control_type in _CONTROL_TYPES:
        zones = _zones(root, f"{control_type}:")
        if not zones:
            continue
        domains = tuple(_domains(root, zones, cpuinfo))
        if any(domain.kind == PACKAGE for domain in domains):
            return _judged(root, domains)
        if not domains and not any((root / zone).is_dir() for zone in zones):
            return RaplHost(
                root,
                NOT_READABLE,
                (),
                f"{root} names {zones[0]}, but the folder behind it is hidden: container runtimes mask it",
                "start the container with -v /sys/devices/virtual/powercap/intel-rapl:/powercap:ro"
                f" -e {POWERCAP_ENV}=/powercap",
            )
    return RaplHost(
        root,
        NOT_PRESENT,
        (),
        f"no RAPL package below {root}",
        "needs a bare-metal Intel (since Sandy Bridge) or AMD (since Zen) host; sudo modprobe intel_rapl_msr",
    )


def _zones(root: Path, prefix: str) -> list[str]:
    """Folders of zones and their subzones below `root`: side by side as in /sys/class, or one in the other
    as in /sys/devices."""
    found = {zone: zone for zone in _listed(root, prefix)}
    for zone in list(found):
        for subzone in _listed(root / zone, prefix):
            found.setdefault(subzone, f"{zone}/{subzone}")
    return [found[zone] for zone in sorted(found)]


def _listed(folder: Path, prefix: str) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if entry.name.startswith(prefix)]
    except OSError:
        return []


def _domains(root: Path, zones: Sequence[str], cpuinfo: Path) -> Iterable[RaplDomain]:
    names = {zone: _text(root / zone / "name") for zone in zones}
    by_last_part = {zone.rpartition("/")[2]: name for zone, name in names.items()}
    one_counter = _vendor(cpuinfo) in _ONE_COUNTER_A_PACKAGE
    packages: set[str] = set()
    taken: set[str] = set()

    def domain(zone: str, name: str, kind: str) -> RaplDomain:
        above = by_last_part.get(zone.rpartition("/")[2].rpartition(":")[0])
        full = f"{above}/{name}" if above else name
        full = full if full not in taken else f"{full}@{zone}"
        taken.add(full)
        return _domain(root, zone, full, kind)

    for zone, name in names.items():
        if name is None:
            continue
        package = _PACKAGE_NAME.fullmatch(name)
        if package is not None:
            # Kernels 6.10 and 6.11 show a zone for each die of an AMD package, all with the package's counter.
            if one_counter and package[1] in packages:
                continue
            packages.add(package[1])
            yield domain(zone, name, PACKAGE)
        elif name in (DRAM, PSYS):
            yield domain(zone, name, name)


def _domain(root: Path, zone: str, name: str, kind: str) -> RaplDomain:
    error = None
    try:
        read_energy_uj(root / zone)
    except OSError as failure:
        error = failure.strerror or type(failure).__name__
    except ValueError:
        error = "not a number"
    range_text = _text(root / zone / "max_energy_range_uj") or ""
    return RaplDomain(name, kind, zone, int(range_text) if range_text.isdigit() else 0, error)


def _judged(root: Path, domains: tuple[RaplDomain, ...]) -> RaplHost:
    wrong = next((domain for domain in domains if domain.kind == PACKAGE and domain.error), None)
    if wrong is None:
        return RaplHost(root, OK, domains)
    return RaplHost(
        root,
        NOT_READABLE,
        domains,
        f"{root / wrong.zone / 'energy_uj'}: {wrong.error}",
        # The files are root's alone since CVE-2020-8694: power tells other users' secrets.
        f"sudo chmod a+r {root}/intel-rapl*/energy_uj (until the next boot; any local user can then watch power)",
    )


def read_energy_uj(zone: Path) -> int:
    """The counter as it stands, microjoules. Raises OSError, or ValueError for what is no number."""
    return _read(zone)[2]


def _read(zone: Path) -> tuple[int, int, int]:
    """(t0_ns, t1_ns, value_uj): the times are around the read alone."""
    # Opened each time: a zone that was taken away and comes back is another file.
    descriptor = os.open(zone / "energy_uj", os.O_RDONLY | os.O_CLOEXEC)
    try:
        t0_ns = now_ns()
        text = os.read(descriptor, 64)
        t1_ns = now_ns()
    finally:
        os.close(descriptor)
    return t0_ns, t1_ns, int(text)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _vendor(cpuinfo: Path) -> str | None:
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "vendor_id":
                    return value.strip()
    except OSError:
        pass
    return None


@dataclass(frozen=True, slots=True)
class HostReading:
    """One read of one domain: a row of `host_power.parquet`. `value_uj` None: the read failed."""

    domain: str
    t0_ns: int
    t1_ns: int
    value_uj: int | None


class RaplSampler:
    """Reads every readable domain once a second from a thread of its own, and whenever `mark` is called.

    A read takes microseconds, in which the GIL is not held; `health` tells what it cost.
    """

    def __init__(self, host: RaplHost, period_s: float = PERIOD_S) -> None:
        self._zones = [(domain.name, host.root / domain.zone) for domain in host.readable]
        self._period_s = period_s
        self._lock = threading.Lock()
        self._fresh: list[HostReading] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._started_ns = self._ended_ns = 0
        self._reads = self._errors = self._cpu_ns = self._slowest_ns = 0
        self._last_error: str | None = None

    def start(self) -> None:
        """Reads once, then starts the thread; without a readable domain there is none."""
        if not self._zones or self._thread is not None:
            return
        self._started_ns = now_ns()
        self.mark()
        self._thread = threading.Thread(target=self._run, name="wattcount-rapl", daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """Reads every domain now, in the caller's thread."""
        cpu_ns = time.thread_time_ns()
        rows = []
        failures = []
        for name, zone in self._zones:
            began_ns = now_ns()
            try:
                rows.append(HostReading(name, *_read(zone)))
            except (OSError, ValueError) as error:
                rows.append(HostReading(name, began_ns, now_ns(), None))
                failures.append(f"{zone / 'energy_uj'}: {getattr(error, 'strerror', None) or error}")
        with self._lock:
            self._fresh += rows
            self._reads += len(rows)
            self._errors += len(failures)
            self._last_error = failures[-1] if failures else self._last_error
            self._slowest_ns = max([self._slowest_ns, *(row.t1_ns - row.t0_ns for row in rows)])
            self._cpu_ns += time.thread_time_ns() - cpu_ns

    def drain(self) -> list[HostReading]:
        """Readings since the last drain, in the order of time."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return fresh

    def stop(self) -> None:
        """Stops the thread and reads once more; may be called at any time and more than once."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join(STOP_LIMIT_S)  # reading a counter may hang, too
        hangs, self._thread = self._thread.is_alive(), None
        if not hangs:
            self.mark()
        self._ended_ns = now_ns()

    def health(self) -> dict[str, Any]:
        """Reads, failed reads and the last failure, the longest read, and CPU time against wall time."""
        with self._lock:
            return {
                "reads": self._reads,
                "errors": self._errors,
                "last_error": self._last_error,
                "read_max_ns": self._slowest_ns,
                "cpu_ns": self._cpu_ns,
                "wall_ns": (self._ended_ns or now_ns()) - self._started_ns if self._started_ns else 0,
            }

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            self.mark()


@dataclass(frozen=True)
class HostEnergy:
    """Energy of some domains in an interval, or the code of why there is none."""

    value_j: float | None
    reason: str | None = None


class HostPowerTrace:
    """Readings of a run, and the energy of any interval they cover.

    host      `run.json`'s `host.rapl` (`RaplHost.to_json`); None: the run did not look for RAPL
    readings  columns of `host_power.parquet`: domain names, and int64[n] each; failed reads left out
    """

    def __init__(
        self, host: Mapping[str, Any] | None, domain: Sequence[str], t0_ns: Ints, t1_ns: Ints, value_uj: Ints
    ) -> None:
        self._host = host
        self._domain = np.array(domain, dtype=object)
        self._t0_ns, self._t1_ns, self._value_uj = t0_ns, t1_ns, value_uj

    @classmethod
    def from_arrow(cls, host: Mapping[str, Any] | None, table: pa.Table) -> HostPowerTrace:
        """Makes the trace of the table of `host_power.parquet` (`records.schema.HOST_POWER_SCHEMA`)."""
        table = table.filter(table["value_uj"].is_valid())
        times = [table[name].to_numpy().astype(np.int64) for name in ("t0_ns", "t1_ns", "value_uj")]
        return cls(host, table["domain"].to_pylist(), *times)

    def energy(self, start_ns: int, end_ns: int, kind: str) -> HostEnergy:
        """Joules that all domains of a kind took in [start_ns, end_ns], CLOCK_MONOTONIC.

        The counter between two reads is taken to run straight. There is a sum only where every domain of
        that kind has a value: half of the sockets is no energy of the host.
        """
        if self._host is None:
            return HostEnergy(None, "not_recorded")
        if self._host.get("state") == ELSEWHERE:
            return HostEnergy(None, ELSEWHERE)
        domains = [domain for domain in self._host.get("domains", ()) if domain["kind"] == kind]
        if not domains:
            hidden = self._host.get("state") == NOT_READABLE and not self._host.get("domains")
            return HostEnergy(None, NOT_READABLE if hidden else NOT_PRESENT)
        total_j = 0.0
        for domain in domains:
            if domain["error"] is not None:
                return HostEnergy(None, NOT_READABLE)
            found = self._one(domain, start_ns, end_ns)
            if found.value_j is None:
                return found
            total_j += found.value_j
        return HostEnergy(total_j)

    def _one(self, domain: Mapping[str, Any], start_ns: int, end_ns: int) -> HostEnergy:
        chosen = self._domain == domain["name"]
        order = np.lexsort((self._t1_ns[chosen], self._t0_ns[chosen]))
        t_ns = ((self._t0_ns[chosen] + self._t1_ns[chosen]) // 2)[order]
        value_uj = self._value_uj[chosen][order]
        first = int(np.searchsorted(t_ns, start_ns, side="right")) - 1
        last = int(np.searchsorted(t_ns, end_ns, side="left"))
        if first < 0 or last >= len(t_ns):
            return HostEnergy(None, NO_DATA)
        t_ns, value_uj = t_ns[first : last + 1], value_uj[first : last + 1]
        range_uj = int(domain["max_energy_range_uj"])
        gaps_s = np.diff(t_ns) / 1e9
        if range_uj and (gaps_s * MAX_DOMAIN_W * 1e6 > range_uj).any():
            return HostEnergy(None, NO_DATA)  # it may have wrapped unseen
        steps_uj = np.diff(value_uj)
        steps_uj = np.where(steps_uj < 0, steps_uj + range_uj, steps_uj)
        if (steps_uj < 0).any() or (steps_uj > (gaps_s + RESET_SLACK_S) * MAX_DOMAIN_W * 1e6).any():
            return HostEnergy(None, NOT_CONTINUOUS)
        so_far_uj = np.concatenate(([0], np.cumsum(steps_uj)))
        at_uj = np.interp([start_ns - t_ns[0], end_ns - t_ns[0]], t_ns - t_ns[0], so_far_uj)
        return HostEnergy(float(at_uj[1] - at_uj[0]) / 1e6)
