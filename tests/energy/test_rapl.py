"""RAPL on fake powercap trees: what is found, what is read, and what is made of it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nobody import as_nobody
from powercap_tree import two_sockets, zone
from waiting import wait_until

from wattcount.clock import now_ns
from wattcount.energy import rapl
from wattcount.energy.rapl import (
    DRAM,
    ELSEWHERE,
    NOT_PRESENT,
    NOT_READABLE,
    OK,
    PACKAGE,
    HostEnergy,
    HostPowerTrace,
    RaplHost,
    RaplSampler,
    find_rapl,
)

S = 1_000_000_000
RANGE_UJ = 65_532_610_987
"""An AMD package's."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "powercap"


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A tree that any user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# --- finding -------------------------------------------------------------------------------------


def test_two_sockets_and_nothing_twice(root: Path) -> None:
    two_sockets(root)
    host = find_rapl(root)
    assert host.state == OK
    assert [(domain.name, domain.kind, domain.zone) for domain in host.domains] == [
        ("package-0", "package", "intel-rapl:0"),
        ("package-0/dram", "dram", "intel-rapl:0:2"),
        ("package-1", "package", "intel-rapl:1"),
        ("package-1/dram", "dram", "intel-rapl:1:2"),
        ("psys", "psys", "intel-rapl:2"),
    ]
    assert host.domains[1].max_energy_range_uj == 65_712_999_613
    assert host.readable == host.domains


def test_amd_has_no_dram(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", range_uj=RANGE_UJ)
    zone(root, "intel-rapl:0:0", "core", range_uj=RANGE_UJ)
    host = find_rapl(root)
    assert host.state == OK
    assert [domain.name for domain in host.domains] == ["package-0"]


@pytest.mark.parametrize(
    ("vendor", "names"),
    [
        ("AuthenticAMD", ["package-0-die-0", "package-1-die-0"]),
        ("GenuineIntel", [f"package-{p}-die-{d}" for p in (0, 1) for d in (0, 1)]),
    ],
)
def test_dies_of_an_amd_package_share_its_counter(root: Path, vendor: str, names: list[str]) -> None:
    for number in range(4):
        zone(root, f"intel-rapl:{number}", f"package-{number // 2}-die-{number % 2}")
    cpuinfo = root / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: x\n")
    assert [domain.name for domain in find_rapl(root, cpuinfo).domains] == names


def test_the_mmio_counter_where_there_is_no_other(root: Path) -> None:
    zone(root, "intel-rapl-mmio:0", "package-0")
    assert [domain.zone for domain in find_rapl(root).domains] == ["intel-rapl-mmio:0"]


def test_the_cpu_of_this_machine_does_not_drive_the_gpus_of_another_one() -> None:
    host = RaplHost.elsewhere()
    assert (host.state, host.readable) == (ELSEWHERE, ())
    sampler = RaplSampler(host)
    sampler.start()
    sampler.mark()
    sampler.stop()
    assert sampler.drain() == []
    trace = HostPowerTrace(host.to_json(), [], *(np.empty(0, np.int64) for _ in range(3)))
    assert trace.energy(0, 10**9, PACKAGE) == HostEnergy(None, ELSEWHERE)


def test_two_zones_of_one_name_stay_apart(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0")
    zone(root, "intel-rapl:1", "psys")
    zone(root, "intel-rapl:2", "psys")
    assert [domain.name for domain in find_rapl(root).domains] == ["package-0", "psys", "psys@intel-rapl:2"]


def test_zones_in_one_another(root: Path) -> None:
    """As /sys/devices/virtual/powercap/intel-rapl has them, mounted for a container."""
    zone(root, "intel-rapl:0", "package-0")
    zone(root, "intel-rapl:0/intel-rapl:0:0", "core")
    zone(root, "intel-rapl:0/intel-rapl:0:1", "dram")
    assert [(domain.name, domain.zone) for domain in find_rapl(root).domains] == [
        ("package-0", "intel-rapl:0"),
        ("package-0/dram", "intel-rapl:0/intel-rapl:0:1"),
    ]


def test_the_environment_says_where(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_sockets(root)
    monkeypatch.setenv("WATTCOUNT_POWERCAP", str(root))
    assert find_rapl().to_json()["root"] == str(root)
    assert find_rapl().state == OK


def test_no_powercap_at_all(root: Path) -> None:
    host = find_rapl(root)
    assert (host.state, host.domains) == (NOT_PRESENT, ())
    assert str(root) in (host.detail or "")
    assert "modprobe" in (host.fix or "")


def test_powercap_without_rapl(root: Path) -> None:
    zone(root, "dtpm:0", "package-0")
    zone(root, "intel-rapl:0", "psys")
    assert find_rapl(root).state == NOT_PRESENT


def test_zones_that_a_container_hides(root: Path) -> None:
    root.mkdir()
    (root / "intel-rapl:0").symlink_to(root / "masked" / "intel-rapl:0")
    host = find_rapl(root)
    assert host.state == NOT_READABLE
    assert "container" in (host.detail or "")


def test_counters_that_are_roots_alone(open_root: Path) -> None:
    two_sockets(open_root)
    for counter in open_root.glob("*/energy_uj"):
        counter.chmod(0)
    with as_nobody():
        host = find_rapl(open_root)
    assert host.state == NOT_READABLE
    assert host.readable == ()
    assert {domain.error for domain in host.domains} == {"Permission denied"}
    assert host.detail == f"{open_root}/intel-rapl:0/energy_uj: Permission denied"
    assert "chmod a+r" in (host.fix or "")


def test_one_socket_that_cannot_be_read(open_root: Path) -> None:
    two_sockets(open_root)
    (open_root / "intel-rapl:1" / "energy_uj").chmod(0)
    with as_nobody():
        host = find_rapl(open_root)
    assert host.state == NOT_READABLE
    assert [domain.name for domain in host.domains if domain.error] == ["package-1"]


def test_a_counter_that_is_no_number(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0").write_text("\n")
    host = find_rapl(root)
    assert host.state == NOT_READABLE
    assert host.domains[0].error == "not a number"


# --- reading -------------------------------------------------------------------------------------


def test_readings_carry_the_time_around_the_read(root: Path) -> None:
    two_sockets(root)
    sampler = RaplSampler(find_rapl(root))
    before = now_ns()
    sampler.mark()
    after = now_ns()
    readings = sampler.drain()
    assert [(reading.domain, reading.value_uj) for reading in readings] == [
        ("package-0", 1000), ("package-0/dram", 300), ("package-1", 1001), ("package-1/dram", 301), ("psys", 9000),
    ]  # fmt: skip
    assert all(before <= reading.t0_ns <= reading.t1_ns <= after for reading in readings)
    assert sampler.drain() == []


def test_it_reads_at_its_rate_and_stops(root: Path) -> None:
    counter = zone(root, "intel-rapl:0", "package-0", 5)
    sampler = RaplSampler(find_rapl(root), period_s=0.02)
    began_ns = now_ns()
    sampler.start()
    wait_until(lambda: sampler.health()["reads"] >= 5)
    counter.write_text("6\n")
    sampler.stop()
    sampler.stop()
    readings = sampler.drain()
    assert 5 <= len(readings) <= 3 + (now_ns() - began_ns) / 20e6
    assert (readings[0].value_uj, readings[-1].value_uj) == (5, 6)
    health = sampler.health()
    assert (health["reads"], health["errors"]) == (len(readings), 0)
    assert 0 < health["cpu_ns"] < health["wall_ns"]
    assert health["read_max_ns"] > 0
    assert not any(thread.name == "wattcount-rapl" for thread in threading.enumerate())


def test_no_thread_without_a_domain(root: Path) -> None:
    sampler = RaplSampler(find_rapl(root))
    sampler.start()
    assert not any(thread.name == "wattcount-rapl" for thread in threading.enumerate())
    sampler.mark()
    sampler.stop()
    assert sampler.drain() == []
    assert sampler.health()["reads"] == 0


def test_a_domain_that_vanishes_is_told_and_the_others_go_on(root: Path) -> None:
    two_sockets(root)
    sampler = RaplSampler(find_rapl(root))
    (root / "intel-rapl:1" / "energy_uj").unlink()
    sampler.mark()
    values = {reading.domain: reading.value_uj for reading in sampler.drain()}
    assert values["package-1"] is None
    assert values["package-0"] == 1000
    health = sampler.health()
    assert (health["reads"], health["errors"]) == (5, 1)
    assert health["last_error"] == f"{root}/intel-rapl:1/energy_uj: No such file or directory"


# --- energy --------------------------------------------------------------------------------------


def domain(name: str = "package-0", kind: str = PACKAGE, range_uj: int = RANGE_UJ, **other: Any) -> Any:
    return {"name": name, "kind": kind, "zone": "", "max_energy_range_uj": range_uj, "error": None} | other


def trace(rows: list[tuple[str, float, int]], *domains: Any, state: str = OK) -> HostPowerTrace:
    """`rows`: domain, seconds, microjoules."""
    t_ns = np.array([round(t * 1e9) for _, t, _ in rows], np.int64)
    values = np.array([value for _, _, value in rows], np.int64)
    host = {"state": state, "domains": list(domains)}
    return HostPowerTrace(host, [name for name, _, _ in rows], t_ns, t_ns, values)


def constant(power_w: float, start_uj: int = 0, name: str = "package-0", seconds: int = 20) -> Any:
    return [(name, t, round(start_uj + power_w * 1e6 * t) % RANGE_UJ) for t in range(seconds + 1)]


def test_energy_between_reads_is_interpolated() -> None:
    found = trace(
        [("package-0", 0, 0), ("package-0", 1, 100_000_000), ("package-0", 2, 400_000_000)], domain()
    )
    assert found.energy(0, 2 * S, PACKAGE).value_j == pytest.approx(400.0)
    assert found.energy(S // 2, 3 * S // 2, PACKAGE).value_j == pytest.approx(50.0 + 150.0)


@given(
    start_uj=st.integers(0, RANGE_UJ - 1),
    power_w=st.floats(0.0, 900.0),
    bounds=st.lists(st.integers(0, 20 * S), min_size=3, max_size=3, unique=True),
)
def test_a_counter_that_wraps_keeps_its_energy(start_uj: int, power_w: float, bounds: list[int]) -> None:
    a, b, c = sorted(bounds)
    found = trace(constant(power_w, start_uj), domain())
    whole = found.energy(a, c, PACKAGE).value_j
    first, second = (found.energy(*part, PACKAGE).value_j for part in ((a, b), (b, c)))
    assert whole == pytest.approx(power_w * (c - a) / 1e9, abs=1e-5, rel=1e-6)
    assert first is not None
    assert second is not None
    assert first + second == pytest.approx(whole, abs=1e-9, rel=1e-9)


def test_it_may_wrap_more_than_once_in_a_run() -> None:
    found = trace(constant(800.0, seconds=300), domain())
    assert found.energy(0, 300 * S, PACKAGE).value_j == pytest.approx(240_000.0)


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = constant(800.0, RANGE_UJ - 5_000_000_000)
    assert trace(rows[::-1], domain()).energy(0, 20 * S, PACKAGE) == trace(rows, domain()).energy(
        0, 20 * S, PACKAGE
    )


def test_sockets_add_up_and_dram_stays_apart() -> None:
    rows = constant(200.0) + constant(150.0, name="package-1") + constant(30.0, name="package-0/dram")
    found = trace(rows, domain(), domain("package-1"), domain("package-0/dram", DRAM))
    assert found.energy(0, 10 * S, PACKAGE).value_j == pytest.approx(3500.0)
    assert found.energy(0, 10 * S, DRAM).value_j == pytest.approx(300.0)


def test_half_of_the_sockets_is_no_energy() -> None:
    both = domain(), domain("package-1", error="Permission denied")
    found = trace(constant(200.0), *both, state=NOT_READABLE)
    assert found.energy(0, 10 * S, PACKAGE) == rapl.HostEnergy(None, NOT_READABLE)
    # Readable at first, and never again:
    vanished = constant(100.0, name="package-1", seconds=4)
    found = trace(constant(200.0) + vanished, domain(), domain("package-1"))
    assert found.energy(0, 10 * S, PACKAGE) == rapl.HostEnergy(None, "no_power_data")
    assert found.energy(0, 4 * S, PACKAGE).value_j == pytest.approx(1200.0)


def test_why_there_is_none() -> None:
    empty = np.empty(0, np.int64)
    assert HostPowerTrace(None, [], empty, empty, empty).energy(0, S, PACKAGE).reason == "not_recorded"
    assert trace([], state=NOT_PRESENT).energy(0, S, PACKAGE).reason == NOT_PRESENT
    assert trace([], state=NOT_READABLE).energy(0, S, DRAM).reason == NOT_READABLE
    assert trace(constant(100.0), domain()).energy(0, S, DRAM).reason == NOT_PRESENT
    assert trace([], domain()).energy(0, S, PACKAGE).reason == "no_power_data"
    outside = trace(constant(100.0), domain())
    assert outside.energy(-1, S, PACKAGE).reason == "no_power_data"
    assert outside.energy(0, 20 * S + 1, PACKAGE).reason == "no_power_data"


def test_a_reset_is_not_taken_for_a_turn() -> None:
    rows = [("package-0", 0, 5_000_000_000), ("package-0", 1, 100_000_000), ("package-0", 2, 200_000_000)]
    assert trace(rows, domain()).energy(0, 2 * S, PACKAGE).reason == "counter_not_continuous"
    assert trace(rows, domain()).energy(S, 2 * S, PACKAGE).value_j == pytest.approx(100.0)
    # Without a range no step back can be a turn.
    turned = [("package-0", 0, RANGE_UJ - 10), ("package-0", 1, 10)]
    assert trace(turned, domain(range_uj=0)).energy(0, S, PACKAGE).reason == "counter_not_continuous"
    assert trace(turned, domain()).energy(0, S, PACKAGE).value_j == pytest.approx(20e-6)


def test_reads_too_far_apart_may_hide_a_turn() -> None:
    rows = [("package-0", 0, 0), ("package-0", 66, 10_000_000)]
    assert trace(rows, domain()).energy(0, 66 * S, PACKAGE).reason == "no_power_data"
    assert trace(rows, domain(range_uj=262_143_328_850)).energy(0, 66 * S, PACKAGE).value_j == 10.0
