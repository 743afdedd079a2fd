"""Do the intervals of comparisons cover the truth? Results with known variances between boards, starts and repeats.

    OMP_NUM_THREADS=1 python benchmarks/bench_study_coverage.py --json data/study/coverage.json

Two settings differ by a known ratio. Each is measured on 2 to 20 boards, with one to three starts on each and one or two repeats on each
start (drawn anew each time, so no design is balanced). The boards are the same for both settings, or others; and the two settings
have all these runs themselves (`own`), or one run each, and the scatter comes from eight other settings on as many boards (`pooled`). Counted is how often
the 95 % interval of `study.comparison` has the true ratio in it. The sensor's part is left out, as its truth is not a matter of chance: with it intervals
are wider.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.comparison import Scatters, cells

BOARDS = (2, 3, 5, 10, 20)
SDS = {
    "boards differ most": (0.03, 0.02, 0.01),
    "starts differ most": (0.005, 0.02, 0.01),
    "repeats alone": (0.0, 0.0, 0.02),
}
"""Standard deviations of logarithms between boards, starts, repeats: of the sizes that data/ has."""
RATIO = 0.9
POOL = 8
"""Settings whose repeats are pooled."""


class Machines:
    """Boards with effects of their own, and runs on them."""

    def __init__(self, sds: tuple[float, float, float], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.sds = sds
        self.effects: dict[str, float] = {}

    def runs(self, setting: str, level: float, boards: list[str], single: bool = False) -> list[Result]:
        found = []
        for board in boards:
            effect = self.effects.setdefault(board, float(self.rng.normal(0, self.sds[0])))
            for start in range(1 if single else int(self.rng.integers(1, 4))):
                of_start = self.rng.normal(0, self.sds[1])
                for repeat in range(1 if single else int(self.rng.integers(1, 3))):
                    value = level * np.exp(effect + of_start + self.rng.normal(0, self.sds[2]))
                    found.append(_result(setting, float(value), board, f"{setting} {board} {start}", repeat))
        return found


def _result(setting: str, value: float, board: str, start: str, repeat: int) -> Result:
    return Result(
        run_id=f"{start} {repeat}",
        session=start,
        setting_key=setting,
        kind="batch",
        gpus=("NVIDIA H200",),
        boards=(board,),
        evidence=Evidence.MEASURED,
        origin="simulated",
        metrics={PER_TOKEN: value},
    )


def tried(
    boards: int, shared: bool, pooled: bool, sds: tuple[float, float, float], seed: int
) -> tuple[bool | None, float]:
    """(whether the interval covers the truth; None: there is none, its half width relative to the ratio)."""
    made = Machines(sds, seed)
    ours = [f"b{i}" for i in range(boards)]
    theirs = ours if shared else [f"c{i}" for i in range(boards)]
    if pooled:
        runs = made.runs("x", RATIO, ["p"], single=True) + made.runs(
            "y", 1.0, ["p" if shared else "q"], single=True
        )
        for number in range(POOL):
            runs += made.runs(f"pool {number}", 1.0 + number, ours)
    else:
        runs = made.runs("x", RATIO, ours) + made.runs("y", 1.0, theirs)
    found = cells(runs)
    compared = Scatters(found).compare(
        next(cell for cell in found if cell.key == "x"), next(cell for cell in found if cell.key == "y")
    )
    assert compared is not None
    if compared.low is None or compared.high is None:
        return None, float("nan")
    return compared.low <= RATIO <= compared.high, float(np.log(compared.high / compared.ratio))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=400)
    parser.add_argument("--boards", type=int, nargs="+", default=BOARDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for boards, shared, pooled, (name, sds) in itertools.product(
        args.boards, (True, False), (False, True), SDS.items()
    ):
        found = [tried(boards, shared, pooled, sds, seed) for seed in range(args.tries)]
        told = [(hit, half) for hit, half in found if hit is not None]
        row = {
            "boards": boards,
            "same_boards": shared,
            "scatter": "pooled" if pooled else "own",
            "truth": name,
            "tries": len(found),
            "without_interval": len(found) - len(told),
            "covered": sum(hit for hit, _ in told),
            "half_width_median": float(np.median([half for _, half in told])),
        }
        rows.append(row)
        print(row, flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
