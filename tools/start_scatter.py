"""Prints `result.host_part.START_SCATTER` as the records in data/ have it: `python tools/start_scatter.py`."""

from __future__ import annotations

from pathlib import Path

from wattcount.records.schema import Evidence
from wattcount.result import Result, results
from wattcount.result.host_part import PER_TOKEN, WATTS, StartScatter, load_kind
from wattcount.statistics import t_975
from wattcount.study.comparison import Scatters, cells

ROOT = Path(__file__).resolve().parent.parent
DIGITS = 4
"""Decimals of a standard deviation: a hundredth of a per cent, far finer than so few repeats tell it."""
T_DIGITS = 5
"""Decimals of Student's t: more than any figure made with it shows."""


def all_runs() -> list[Result]:
    return [run for folder in sorted(ROOT.glob("data/*/records")) for run in results(folder, keep=False)]


def measured() -> dict[str, dict[str, StartScatter]]:
    """Rounded, by kind of load and figure."""
    scatters = Scatters(cells(run for run in all_runs() if run.evidence is Evidence.MEASURED))
    found: dict[str, dict[str, StartScatter]] = {}
    for kind in sorted(scatters.kinds, key=str):
        name = load_kind(str(kind[-2]), bool(kind[-1]))
        for key in (PER_TOKEN, WATTS):
            told = scatters.of_one_start(key, kind)
            if name is not None and told is not None:
                sd, freedom = told
                found.setdefault(name, {})[key] = StartScatter(
                    round(sd, DIGITS), round(freedom), round(t_975(round(freedom)), T_DIGITS)
                )
    return found


def main() -> None:
    names = {PER_TOKEN: "PER_TOKEN", WATTS: "WATTS"}
    for kind, figures in measured().items():
        each = ", ".join(
            f"{names[key]}: StartScatter({scatter.sd}, {scatter.freedom}, {scatter.t_975})"
            for key, scatter in figures.items()
        )
        print(f"    {kind.upper().replace(' ', '_')}: {{{each}}},")


if __name__ == "__main__":
    main()
