"""Prints `result.host_part.START_SCATTER` as the records in data/ have it: `python tools/start_scatter.py`."""

from __future__ import annotations

from pathlib import Path

from wattcount.result import Result, results
from wattcount.result.host_part import PER_TOKEN, WATTS, StartScatter
from wattcount.study.repeats import start_scatter

ROOT = Path(__file__).resolve().parent.parent
DIGITS = 4
"""Decimals of a standard deviation: a hundredth of a per cent, far finer than so few repeats tell it."""


def all_runs() -> list[Result]:
    return [run for folder in sorted(ROOT.glob("data/*/records")) for run in results(folder, keep=False)]


def measured() -> dict[str, dict[str, StartScatter]]:
    """Rounded, by kind of load and figure."""
    runs = all_runs()
    found: dict[str, dict[str, StartScatter]] = {}
    for key in (PER_TOKEN, WATTS):
        for kind, scatter in start_scatter(runs, key).items():
            if scatter.freedom:
                sd = round(scatter.variance**0.5, DIGITS)
                found.setdefault(kind, {})[key] = StartScatter(sd, scatter.freedom)
    return found


def main() -> None:
    names = {PER_TOKEN: "PER_TOKEN", WATTS: "WATTS"}
    for kind, figures in measured().items():
        each = ", ".join(
            f"{names[key]}: StartScatter({scatter.sd}, {scatter.freedom})" for key, scatter in figures.items()
        )
        print(f"    {kind.upper().replace(' ', '_')}: {{{each}}},")


if __name__ == "__main__":
    main()
