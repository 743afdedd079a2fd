"""Files of `/proc` and `/sys` as Linux shows them, in a folder."""

from __future__ import annotations

from pathlib import Path


def process(
    root: Path,
    pid: int,
    *,
    parent: int = 1,
    session: int = 1,
    name: str = "python",
    ticks: tuple[int, int] = (0, 0),
    waited_ns: int | None = 0,
    switches: tuple[int, int] = (0, 0),
) -> None:
    """Makes a process, or what it has become. `ticks`: of user and system time; `switches`: voluntary and involuntary."""
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    user, system = ticks
    (folder / "stat").write_text(
        f"{pid} ({name}) S {parent} {pid} {session} 0 -1 4194304 5 0 0 0 {user} {system} 0 0 20 0 3 0 77 0 0\n"
    )
    (folder / "status").write_text(
        f"Name:\t{name}\nvoluntary_ctxt_switches:\t{switches[0]}\nnonvoluntary_ctxt_switches:\t{switches[1]}\n"
    )
    if waited_ns is not None:
        (folder / "schedstat").write_text(f"123456 {waited_ns} 7\n")


def host(root: Path, *, ticks: str = "100 1 50 900 20 3 4 5 60 0", pressure_us: int = 4000) -> None:
    """What the host as a whole shows. `ticks`: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
    proc = root / "proc"
    (proc / "pressure").mkdir(parents=True, exist_ok=True)
    (proc / "stat").write_text(f"cpu  {ticks}\ncpu0 1 2 3 4 5 6 7 8 9 0\nintr 5\n")
    for number, what in enumerate(("cpu", "memory", "io"), 1):
        (proc / "pressure" / what).write_text(
            f"some avg10=0.00 avg60=0.00 avg300=0.00 total={number * pressure_us}\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
        )
