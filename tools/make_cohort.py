"""Draws the seed of a new cohort and writes its file: `python tools/make_cohort.py 2027_q2`.

For maintainers, shortly before a quarter begins. The file goes into a release of wattcount and into the data set's repository; an
existing one is never written again.
"""

from __future__ import annotations

import argparse
import calendar
import re
import secrets
import sys
from datetime import date
from pathlib import Path

from wattcount.config.schema import MAX_SEED

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "cohorts"
TEXT = """\
# Submissions measured in these three months have their loads made from this seed (docs/dataset.md).
# It was drawn by chance (tools/make_cohort.py) and is never changed once it is published.
name: {name}
from: {begins}
until: {ends}  # to the end of that day, UTC
seed: {seed}
"""


def cohort_text(name: str) -> str:
    """The file of a cohort with a seed drawn by chance. Raises `ValueError` for a name that is no quarter."""
    found = re.fullmatch(r"(20\d\d)_q([1-4])", name)
    if found is None:
        raise ValueError(f"{name!r} is no quarter; write it as in 2027_q2")
    year, last = int(found[1]), 3 * int(found[2])
    begins, ends = date(year, last - 2, 1), date(year, last, calendar.monthrange(year, last)[1])
    return TEXT.format(name=name, begins=begins, ends=ends, seed=1 + secrets.randbelow(MAX_SEED))


def main() -> int:
    parser = argparse.ArgumentParser(description="draws the seed of a new cohort and writes its file")
    parser.add_argument("name", help="the quarter, as in 2027_q2")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    try:
        text = cohort_text(args.name)
        with (args.folder / f"{args.name}.yaml").open("x") as file:
            file.write(text)
    except (ValueError, OSError) as error:
        print(f"make_cohort: {error}", file=sys.stderr)
        return 2
    print(file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
