"""Cohorts: a seed for each quarter, which is published before the quarter begins.

The load of a run (arrivals, lengths, prompts) is a function of its seed and its repeat. Who measures for a cohort takes the
cohort's seed, which nobody knew before it was published. So a trace that is older, or that was borrowed from another run,
belongs to other arrivals, and the data set's rules see that.

The files are `conf/cohorts/NAME.yaml`, in this package and in the repository of the data set. A seed is neither part of a point nor
of a setting, and so is a cohort: results of different cohorts are repeats of one setting.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from wattcount.config.schema import MAX_SEED, RunConfig
from wattcount.errors import NotStartedError

FOLDER = "cohorts"
"""Folder of the files, below `conf/`. It is no config group: `cohort` is a key that holds a name."""
_KEYS = ("name", "from", "until", "seed")


@dataclass(frozen=True)
class Cohort:
    """One quarter.

    begins   first day, UTC
    ends     last day, UTC; it belongs to the cohort to its end
    seed     of the loads of all its runs
    """

    name: str
    begins: date
    ends: date
    seed: int

    def covers(self, moment: datetime) -> bool:
        """Whether a run that starts then belongs to the cohort. `moment` knows its time zone."""
        return self.begins <= moment.astimezone(UTC).date() <= self.ends

    @classmethod
    def read(cls, file: Path) -> Cohort:
        """Raises `NotStartedError` with the file's name where it is no cohort."""
        from wattcount.config.catalogue import load_yaml, read_yaml

        values = load_yaml(read_yaml(file), FOLDER, str(file))
        if sorted(map(str, values)) != sorted(_KEYS):
            raise NotStartedError(f"{file}: must have the keys {', '.join(_KEYS)} and no others")
        begins, ends, seed = _day(values, "from", file), _day(values, "until", file), values["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 < seed <= MAX_SEED:
            raise NotStartedError(f"{file}: seed: must be a whole number from 1 to {MAX_SEED}, not {seed!r}")
        if values["name"] != file.stem:
            raise NotStartedError(f"{file}: name: must be that of the file, {file.stem}")
        if ends < begins:
            raise NotStartedError(f"{file}: until: {ends} is before from, {begins}")
        return cls(file.stem, begins, ends, seed)


def cohorts(folder: Path | None = None) -> dict[str, Cohort]:
    """All cohorts of a folder by name, the oldest first; None: those of this package."""
    if folder is None:
        from wattcount.config.packaged import packaged

        folder = packaged(FOLDER)
    return dict(_read(folder))


@functools.cache
def _read(folder: Path) -> Mapping[str, Cohort]:
    found = sorted((Cohort.read(file) for file in folder.glob("*.yaml")), key=lambda cohort: cohort.begins)
    return {cohort.name: cohort for cohort in found}


def cohort_seed(name: str) -> int:
    """The seed of a cohort's runs. Raises `NotStartedError` for a cohort that is not known, saying which are."""
    known = cohorts()
    if name not in known:
        raise NotStartedError(
            f"cohort: no cohort {name!r} is known; there are: {', '.join(known)}; a newer wattcount may know it: pip install "
            "--upgrade wattcount"
        )
    return known[name].seed


def today() -> date:
    """The day, UTC. Tests replace it."""
    return datetime.now(UTC).date()


def problems(cfg: RunConfig) -> Iterator[str]:
    """What is wrong with the cohort that a run is asked to belong to, one line each, with what to do."""
    if cfg.cohort is None:
        return
    try:
        seed = cohort_seed(cfg.cohort)
    except NotStartedError as error:
        yield str(error)
        return
    cohort, day = cohorts()[cfg.cohort], today()
    current = [name for name, other in cohorts().items() if other.begins <= day <= other.ends]
    instead = f"take cohort={current[-1]}" if current else "leave it out"
    if day > cohort.ends:
        yield f"cohort: {cohort.name} ended on {cohort.ends}; {instead}"
    elif day < cohort.begins:
        yield f"cohort: {cohort.name} begins on {cohort.begins}; {instead}, or wait"
    if cfg.seed != seed:
        yield (
            f"seed: {cfg.seed} was given beside cohort={cohort.name}, which has a seed of its own; leave seed out (repeat tells the "
            "runs of a cohort apart), or leave cohort out"
        )


def breach(name: str, seed: int, started: datetime) -> str | None:
    """Why a run cannot belong to the cohort it names, in words for its submitter; None: it can.

    seed      of the run
    started   when it began
    """
    known = cohorts()
    if name not in known:
        return f"no cohort {name!r} is known; there are: {', '.join(known)}"
    cohort = known[name]
    if seed != cohort.seed:
        return f"the run's seed is {seed}, that of cohort {name} is {cohort.seed}"
    if not cohort.covers(started):
        return f"the run began on {started.astimezone(UTC):%Y-%m-%d}, cohort {name} is from {cohort.begins} to {cohort.ends}"
    return None


def _day(values: Mapping[Any, Any], key: str, file: Path) -> date:
    text = values[key]
    if isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise NotStartedError(f"{file}: {key}: must be a day, as in 2026-10-01, not {text!r}")
