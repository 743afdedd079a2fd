"""wattcount against the tools people use, on emulated GPUs whose true energy is known, in real time.

    python benchmarks/bench_tools.py                          # some 5 minutes; makes build/bench-tools-venv (600 MB)
    python benchmarks/bench_tools.py --venv VENV --json tools.json
    python benchmarks/bench_tools.py --quick --tools wattcount,pynvml_10hz,counter_edges     # nothing from PyPI

Each tool runs in a process of its own for each board and sees an emulated H200 (gain 1, offset 0) through NVML's own
interface, on several boards of each load. All tools see the same boards: the same true power at the same moment, the
same sensor phases. Every tool is asked for the same windows, by its own means: it is told to begin and to end, or asked afterwards
for the stretch in between. The truth is the energy between the return of the begin call and the end call.

All processes run at once: emulated boards do not make each other wait, as one real board would, and the tools use
little CPU; how late the windows began shows how far they disturbed each other. CPU time is taken in a
second stage, with one window at a time. For what each tool does, see tools_worker.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.clock import now_ns
from wattcount.config.schema import GpuConfig
from wattcount.emulation.machine import (
    CONFIG_ENV,
    LIBRARY_ENV,
    ActivityPower,
    EmulatedGpu,
    EmulatedMachine,
)
from wattcount.engines.base import EngineStep

S_NS = 1_000_000_000
ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("tools_worker.py")
FROM_PYPI = {
    "zeus_monitor": "zeus==0.16.0",
    "zeus_power_monitor": "zeus==0.16.0",
    "codecarbon": "codecarbon==3.3.2",
    "ai_energymeter": "ai-energymeter==2.0.2",
}
OWN = ("wattcount", "counter_edges", "counter_ends", "pynvml_10hz")
TOOLS = (*OWN, *FROM_PYPI)
OURS = "wattcount"
NEEDED_FOR_P99 = 100
SEED = 20260401

Points = list[tuple[float, float]]
"""(seconds since the epoch, watts from then on)"""


@dataclass(frozen=True)
class Plan:
    """How long, and which windows: `lanes` of each length run at once."""

    duration_s: float
    lanes: tuple[tuple[float, int], ...]
    """(length of the windows in seconds, number of lanes)"""

    def windows(self, rng: np.random.Generator) -> list[list[tuple[float, float]]]:
        """For each lane its windows one after the other, with random pauses."""
        plan = []
        for length_s, count in self.lanes:
            for _ in range(count):
                lane, at_s = [], float(rng.uniform(0, min(length_s, self.duration_s - length_s)))
                while at_s + length_s <= self.duration_s:
                    lane.append((round(at_s, 6), round(at_s + length_s, 6)))
                    at_s += length_s + float(rng.uniform(0.25, 0.55))
                plan.append(lane)
        return plan


FULL = Plan(205.0, ((1.0, 1), (5.0, 1), (10.0, 2)))
BOARDS = 3
QUICK = Plan(6.0, ((1.0, 1), (5.0, 1)))
CPU = Plan(12.0, ((10.0, 1),))


# ---- loads -------------------------------------------------------------------------------------------


def llm(duration_s: float, rng: np.random.Generator) -> Points:
    """An engine with continuous batching: idle, then 2, 10 and 30 requests/s, then a batch; again and again.

    512 tokens in, 128 out. A step prefills at most two prompts (12 ms each) and decodes all others (10 ms and 0.05 ms each).
    """
    power = ActivityPower(GpuConfig(name="h200", tdp_w=700.0, idle_w=81.0))
    points: Points = []
    at_s, phase_ends_s, next_s, rate = 0.0, 0.0, 0.0, 0.0
    phase = 0
    waiting, running = 0, np.empty(0, np.int64)
    while at_s < duration_s:
        if at_s >= phase_ends_s:
            rate = (0.0, 2.0, 10.0, 30.0, 0.0)[phase % 5]
            waiting += 256 if phase % 5 == 4 else 0
            phase_ends_s = at_s + rng.uniform(4, 8)
            next_s = at_s + (rng.exponential(1 / rate) if rate else np.inf)
            phase += 1
        while next_s <= at_s:
            waiting += 1
            next_s += rng.exponential(1 / rate)
        prefilled = min(waiting, 2)
        if not prefilled and not len(running):
            points.append((at_s, power.idle_loaded_w))
            at_s = min(next_s, phase_ends_s)
            continue
        step_s = 0.012 * prefilled + (0.010 + 5e-5 * len(running)) * rng.normal(1, 0.03)
        step = EngineStep(
            0, None, None, 512 * prefilled, len(running), len(running) + prefilled, waiting, None
        )
        points.append((at_s, min(power.step_power_w(step) * rng.normal(1, 0.02), 700.0)))
        waiting -= prefilled
        running = np.append(running + 1, np.ones(prefilled, np.int64))
        running = running[running < 128]
        at_s += step_s
    return points


def square(on_s: float, period_s: float) -> Callable[[float, np.random.Generator], Points]:
    """650 W for `on_s` of every `period_s`, else 120 W."""

    def make(duration_s: float, rng: np.random.Generator) -> Points:
        first_s = rng.uniform(0, period_s)
        starts = first_s + period_s * np.arange(int(duration_s / period_s))
        return [(0.0, 120.0)] + [
            point for at in starts.tolist() for point in ((at, 650.0), (at + on_s, 120.0))
        ]

    return make


def bursts(duration_s: float, rng: np.random.Generator) -> Points:
    """300 to 690 W for 2 to 30 ms, 20 to 200 ms apart, else 120 W."""
    points: Points = [(0.0, 120.0)]
    at_s = 0.0
    while (at_s := at_s + rng.uniform(0.02, 0.2)) < duration_s:
        points.append((at_s, rng.uniform(300, 690)))
        at_s += rng.uniform(0.002, 0.03)
        points.append((at_s, 120.0))
    return points


LOADS: dict[str, Callable[[float, np.random.Generator], Points]] = {
    "llm": llm,
    "square_1s": square(0.5, 1.0),
    "square_100ms": square(0.025, 0.1),
    "bursts": bursts,
}


class Truth:
    """The energy of any stretch of a curve that is constant between its points."""

    def __init__(self, t_ns: NDArray[np.int64], power_mw: NDArray[np.int64]) -> None:
        self._t0_ns = int(t_ns[0])
        self._t_s = (t_ns - self._t0_ns) / S_NS
        self._power_w = power_mw / 1e3
        self._energy_j = np.concatenate(([0.0], np.cumsum(self._power_w[:-1] * np.diff(self._t_s))))

    def energy_j(self, start_ns: int, end_ns: int) -> float:
        at_s = (np.array([start_ns, end_ns], np.int64) - self._t0_ns) / S_NS
        step = np.searchsorted(self._t_s, at_s, side="right") - 1
        low, high = self._energy_j[step] + self._power_w[step] * (at_s - self._t_s[step])
        return float(high - low)


# ---- running tools -----------------------------------------------------------------------------------


@dataclass
class Worker:
    tool: str
    board: tuple[str, int]
    """Its load and number."""
    process: subprocess.Popen[str]
    log: Path
    version: str | None = None

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise SystemExit(
                f"{self.tool} on {self.board[0]} ended with code {self.process.returncode}: {' | '.join(tail) or 'no output'}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def start_worker(
    tool: str, board: tuple[str, int], machine: EmulatedMachine, python: Path, plan: Path, folder: Path
) -> Worker:
    environment = {
        key: value for key, value in os.environ.items() if key not in (CONFIG_ENV, LIBRARY_ENV, "PYTHONPATH")
    }
    library = Path(machine.library_path)
    environment |= {
        CONFIG_ENV: str(machine.config_path),
        LIBRARY_ENV: str(library),
        "LD_LIBRARY_PATH": str(library.parent),
        "PATH": f"{_nvidia_smi(folder)}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    log = folder / f"{tool}-{board[0]}-{board[1]}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python, WORKER, tool, plan], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True, cwd=folder,
        )  # fmt: skip
    return Worker(tool, board, process, log)


def _nvidia_smi(folder: Path) -> Path:
    """A folder with an `nvidia-smi` that does nothing: codecarbon looks for GPUs only where there is one."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    program = bin_folder / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return bin_folder


@dataclass(frozen=True)
class Window:
    """One window of one tool."""

    tool: str
    load: str
    length_s: float
    truth_j: float
    value_j: float | None
    u95_j: float | None


@dataclass
class Stage:
    windows: list[Window]
    late_ms: list[float]
    cpu_share: dict[tuple[str, str], float]
    """By tool and load, of one core; where there are several boards, of one of them."""
    versions: dict[str, str | None]
    clamped: int


def run_stage(
    plan: Plan,
    boards: int,
    tools: Sequence[str],
    loads: Sequence[str],
    profile: str,
    pythons: dict[str, Path],
    folder: Path,
) -> Stage:
    """Runs every tool on every board of every load, all at once."""
    folder.mkdir()
    lengths = [length for length, count in plan.lanes for _ in range(count)]
    machines: dict[tuple[str, int], EmulatedMachine] = {}
    plans: dict[int, Path] = {}
    for number in range(boards):
        plans[number] = folder / f"plan-{number}.json"
        lanes = plan.windows(np.random.default_rng([SEED, number]))
        plans[number].write_text(json.dumps({"lanes": lanes}))
        for load in loads:
            gpu = EmulatedGpu(profile, options={"seed": SEED + len(machines)})
            machines[load, number] = EmulatedMachine([gpu], folder / f"{load}-{number}")
    stage = Stage([], [], {}, {}, 0)
    with ExitStack() as stack:
        workers = []
        for tool in tools:
            for board, machine in machines.items():
                worker = start_worker(tool, board, machine, pythons[tool], plans[board[1]], folder)
                stack.callback(_end, worker.process)
                workers.append(worker)
        for worker in workers:
            stage.versions[worker.tool] = worker.answer()["version"]
        epoch_ns = now_ns() + 2 * S_NS
        for (load, number), machine in machines.items():
            (live,) = machine.live.values()
            rng = np.random.default_rng([SEED, number, list(LOADS).index(load)])
            for at_s, power_w in LOADS[load](plan.duration_s + 3, rng):
                live.append(epoch_ns + round(at_s * S_NS), round(power_w * 1e3))
            stage.clamped += live.clamped
        for worker in workers:
            assert worker.process.stdin is not None
            print(epoch_ns, file=worker.process.stdin, flush=True)
        for worker in workers:
            answer = worker.answer()
            load, _ = worker.board
            (live,) = machines[worker.board].live.values()
            truth = Truth(*live.history())
            stage.late_ms += answer["late_ms"]
            stage.cpu_share[worker.tool, load] = answer["cpu_s"] / answer["wall_s"]
            for length_s, lane, u95_j in zip(lengths, answer["lanes"], answer["u95_j"], strict=True):
                stage.windows += [
                    Window(worker.tool, load, length_s, truth.energy_j(a, b), value_j, u95)
                    for (a, b, value_j), u95 in zip(lane, u95_j, strict=True)
                ]
    return stage


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_venv(path: Path) -> Path:
    """The Python of the tools' virtual environment, made where it is not there yet."""
    python = path / "bin" / "python"
    if not python.is_file():
        print(f"making {path} with {', '.join(sorted(set(FROM_PYPI.values())))}", file=sys.stderr)
        venv.create(path, with_pip=True)
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                *sorted(set(FROM_PYPI.values())),
            ],
            check=True,
        )
    return python


# ---- figures -----------------------------------------------------------------------------------------


def summary(windows: Sequence[Window]) -> dict[str, Any]:
    """Relative errors of some windows in percent: mean (signed), p99 and greatest absolute; coverage where given.

    `p99_pct` is null below 100 windows. Windows without a value are counted in `refused`, and in nothing else.
    """
    errors = np.array([100 * (w.value_j / w.truth_j - 1) for w in windows if w.value_j is not None])
    told = [w for w in windows if w.value_j is not None and w.u95_j is not None]
    covered = sum(abs(w.value_j - w.truth_j) <= w.u95_j for w in told)  # type: ignore[operator]
    return {
        "windows": len(windows),
        "refused": len(windows) - len(errors),
        "mean_pct": float(errors.mean()) if len(errors) else None,
        "rms_pct": float(np.sqrt(np.square(errors).mean())) if len(errors) else None,
        "p99_pct": float(np.percentile(np.abs(errors), 99)) if len(errors) >= NEEDED_FOR_P99 else None,
        "worst_pct": float(np.abs(errors).max()) if len(errors) else None,
        "covered_share": covered / len(told) if told else None,
    }


def tables(
    stage: Stage, tools: Sequence[str], loads: Sequence[str], lengths: Sequence[float]
) -> list[dict[str, Any]]:
    """One row for each load, length and tool."""
    return [
        {"load": load, "window_s": length_s, "tool": tool}
        | summary([w for w in stage.windows if (w.load, w.length_s, w.tool) == (load, length_s, tool)])
        for load in loads
        for length_s in lengths
        for tool in tools
    ]


def advantage(rows: Sequence[dict[str, Any]], figure: str) -> list[dict[str, Any]]:
    """For each load and length the best of the others, and how many times greater its error is than wattcount's.

    `best_other`: of all others; `best_package`: of those from PyPI.
    """
    found = []
    for ours in (row for row in rows if row["tool"] == OURS and row[figure]):
        place = (ours["load"], ours["window_s"])
        cell = {"load": ours["load"], "window_s": ours["window_s"], "wattcount_pct": ours[figure]}
        others = [
            row
            for row in rows
            if (row["load"], row["window_s"]) == place and row["tool"] != OURS and row[figure] is not None
        ]
        for name, among in (
            ("other", others),
            ("package", [row for row in others if row["tool"] in FROM_PYPI]),
        ):
            best = min(among, key=lambda row: row[figure], default=None)
            cell |= {
                f"best_{name}": best and best["tool"],
                f"best_{name}_pct": best and best[figure],
                f"times_{name}": best and best[figure] / ours[figure],
            }
        found.append(cell)
    return found


def show(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    print()


def report(rows: Sequence[dict[str, Any]], tools: Sequence[str], figure: str) -> None:
    cells = {(row["load"], row["window_s"], row["tool"]): row for row in rows}
    for title, key, form in (
        ("Mean error, % (signed)", "mean_pct", "+.2f"),
        ("p99 of the absolute error, %", "p99_pct", ".2f"),
        ("Worst absolute error, %", "worst_pct", ".2f"),
    ):
        print(f"{title}:\n")
        print_table(
            ["load", "window", "windows", *tools],
            [
                [load, f"{length_s:g} s", str(row["windows"])]
                + [show(cells[load, length_s, tool][key], form) for tool in tools]
                for (load, length_s, first), row in cells.items()
                if first == tools[0]
            ],
        )
    for row in rows:
        if row["refused"]:
            print(
                f"No value of {row['tool']} for {row['refused']} of {row['windows']} windows of "
                f"{row['window_s']:g} s of {row['load']}.\n"
            )
    if told := [row for row in rows if row["covered_share"] is not None]:
        print("Share of windows whose truth lies within wattcount's 95 % interval:\n")
        print_table(
            ["load", "window", "share"],
            [[row["load"], f"{row['window_s']:g} s", show(row["covered_share"])] for row in told],
        )
    print(f"How many times greater the {figure.removesuffix('_pct')} error of the best of the others is:\n")
    print_table(
        [
            "load",
            "window",
            "wattcount, %",
            "best of all others",
            "its, %",
            "times",
            "best package",
            "its, %",
            "times",
        ],
        [
            [row["load"], f"{row['window_s']:g} s", show(row["wattcount_pct"])]
            + [
                text
                for kind in ("other", "package")
                for text in (
                    row[f"best_{kind}"] or "-",
                    show(row[f"best_{kind}_pct"]),
                    show(row[f"times_{kind}"], ".1f"),
                )
            ]
            for row in advantage(rows, figure)
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", default=",".join(TOOLS), help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--loads", default=",".join(LOADS), help=f"of {', '.join(LOADS)}")
    parser.add_argument("--boards", type=int, default=BOARDS, help="emulated GPUs for each load")
    parser.add_argument("--profile", default="h200", help="sensors of the emulated GPU")
    parser.add_argument(
        "--venv", type=Path, default=ROOT / "build" / "bench-tools-venv", help="of the tools from PyPI"
    )
    parser.add_argument("--quick", action="store_true", help="6 s: shows that it runs, says little")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args(arguments)
    tools, loads = args.tools.split(","), args.loads.split(",")
    if unknown := [name for name in tools if name not in TOOLS] + [
        name for name in loads if name not in LOADS
    ]:
        parser.error(f"unknown: {', '.join(unknown)}")
    plan = QUICK if args.quick else FULL
    tools_python = make_venv(args.venv) if any(tool in FROM_PYPI for tool in tools) else Path(sys.executable)
    pythons = {
        tool: tools_python if tool in FROM_PYPI else Path(sys.executable) for tool in (*tools, "harness")
    }
    lengths = [length for length, _ in plan.lanes]
    with tempfile.TemporaryDirectory(prefix="wattcount-bench-") as temporary:
        folder = Path(temporary)
        boards = 1 if args.quick else args.boards
        stage = run_stage(plan, boards, tools, loads, args.profile, pythons, folder / "windows")
        cpu = run_stage(CPU, 1, ("harness", *tools), loads[:1], args.profile, pythons, folder / "cpu")
    rows = tables(stage, tools, loads, lengths)
    figure = "worst_pct" if args.quick else "p99_pct"
    report(rows, tools, figure)
    idle = cpu.cpu_share["harness", loads[0]]
    print(
        f"CPU with one window at a time, % of a core ({loads[0]}; {100 * idle:.2f} of the harness taken off):\n"
    )
    print_table(
        ["tool", "version", "CPU, %"],
        [
            [tool, stage.versions[tool] or "-", show(100 * max(0.0, cpu.cpu_share[tool, loads[0]] - idle))]
            for tool in tools
        ],
    )
    late = np.array(stage.late_ms)
    print(
        f"Windows began late by {np.median(late):.2f} ms (median), {np.percentile(late, 99):.2f} ms (p99), "
        f"{late.max():.1f} ms at most; {stage.clamped} points of the true curve were moved."
    )
    if args.json is not None:
        args.json.write_text(
            json.dumps(
                {
                    "profile": args.profile,
                    "boards": boards,
                    "duration_s": plan.duration_s,
                    "python": platform.python_version(),
                    "cpus": os.cpu_count(),
                    "versions": stage.versions,
                    "rows": rows,
                    "advantage": advantage(rows, figure),
                    "cpu_share": {tool: share for (tool, _), share in cpu.cpu_share.items()},
                    "late_ms": {
                        "p50": float(np.median(late)),
                        "p99": float(np.percentile(late, 99)),
                        "max": float(late.max()),
                    },
                    "clamped": stage.clamped,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
