"""A powercap tree as Linux shows it, in a folder."""

from __future__ import annotations

from pathlib import Path


def zone(
    root: Path, folder: str, name: str, energy_uj: int = 1_000_000, range_uj: int = 262_143_328_850
) -> Path:
    """Makes one zone; returns its counter."""
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    counter = path / "energy_uj"
    counter.write_text(f"{energy_uj}\n")
    return counter


def two_sockets(root: Path) -> None:
    """A server of Intel's, with everything that must not be counted twice."""
    (root / "intel-rapl").mkdir(parents=True)
    for socket in (0, 1):
        zone(root, f"intel-rapl:{socket}", f"package-{socket}", 1000 + socket)
        zone(root, f"intel-rapl:{socket}:0", "core", 700)
        zone(root, f"intel-rapl:{socket}:1", "uncore", 200)
        zone(root, f"intel-rapl:{socket}:2", "dram", 300 + socket, range_uj=65_712_999_613)
        zone(root, f"intel-rapl-mmio:{socket}", f"package-{socket}", 1000)
    zone(root, "intel-rapl:2", "psys", 9000)
