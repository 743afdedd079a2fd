"""What a job of a launcher does on whatever node it runs: measures its point and tells those who wait for it.

::

    <start's folder>/<call's folder>/<key>.try    a line a try, while it goes on: of several, those before died
                                     <key>.json   what became of the point, for whoever sees the folder
                     rest/<gpu uuid>.json         what the GPU was like before its first run

Launchers send results by ways of their own, but only once all jobs are done, and not if one of them died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from wattcount.config.composition import from_hydra
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    NotStartedError,
    WattcountError,
)
from wattcount.files import write_atomically
from wattcount.masking import conceal
from wattcount.run.cooldown import Rest
from wattcount.sweep.keys import plan_key
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.outcome import Outcome, State, decode, encode, refused
from wattcount.sweep.task import measure_planned

JOB_LOST = "job_lost"
REST_FOLDER = "rest"


@dataclass(frozen=True)
class Errand:
    """What all jobs of one call have in common; sent with each of them.

    folder           of the call, for tries and results
    home             the sweep's `$WATTCOUNT_HOME`, for nodes that were started with another environment
    attempt          tries of these points so far in this start of the sweep, with this one
    attempts         how often a point may be tried; None: as often as the launcher starts its job again
    wait_for_others  for a run that measures the same point right now
    resume           False: measures again what has a valid record
    tracking_uri     with its password, for jobs that do not inherit the sweep's environment; None: not needed
    """

    sweep: str
    folder: str
    records_dir: str
    home: str
    attempt: int = 1
    attempts: int | None = None
    wait_for_others: bool = False
    resume: bool = True
    tracking_uri: str | None = dataclasses.field(default=None, repr=False)


def measure_job(cfg: DictConfig, *, errand: Errand) -> Outcome:
    """The launcher's task. Never raises an `Exception`: a result says more."""
    os.environ.setdefault("WATTCOUNT_HOME", errand.home)
    if errand.tracking_uri is not None:
        conceal(errand.tracking_uri)
    try:
        run = from_hydra(cfg)
    except NotStartedError as error:
        return refused(str(error))
    key = plan_key(run)
    run.records_dir = errand.records_dir
    run.resume = errand.resume
    folder = Path(errand.folder)
    with _ledger(run.records_dir, errand.sweep) as ledger, _trying(folder, key) as tries:
        attempt = errand.attempt + tries - 1
        died = "the process that measured it died: killed, or out of memory"
        lost = Outcome(
            State.lost, key, attempt=attempt - 1, exit_code=EXIT_FAILED, reason=JOB_LOST, message=died
        )
        if tries > 1 and ledger is not None:
            ledger.append(lost)
        if errand.attempts is not None and attempt > errand.attempts:
            result = lost
        else:
            rest = Rest(_read_rest(folder.parent))
            known = set(rest.before)
            result = measure_planned(
                run,
                key=key,
                ledger=ledger,
                attempt=attempt,
                wait_for_others=errand.wait_for_others,
                rest=rest,
            )
            _keep_rest(folder.parent, rest, known)
        if not was_interrupted(result):  # a job that makes way for another is started again
            write_result(folder, result)
    return result


def was_interrupted(result: Outcome) -> bool:
    """By whoever manages the node: a time limit, a job that goes before, a person."""
    return result.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED)


@contextlib.contextmanager
def _ledger(records_dir: str, sweep: str) -> Iterator[Ledger | None]:
    try:
        ledger = Ledger.open(records_dir, sweep)
    except WattcountError:
        yield None  # the run will say that nothing can be written there
        return
    with ledger:
        yield ledger


# --- tries and results ------------------------------------------------------------------------------


@contextlib.contextmanager
def _trying(folder: Path, key: str) -> Iterator[int]:
    """How many times this call's job was begun; whoever is killed in it leaves its line behind."""
    file = folder / f"{key}.try"
    tries = 1
    with contextlib.suppress(OSError):  # nobody could count, then
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("a+") as stream:
            stream.write(f"{socket.gethostname()} {os.getpid()}\n")
            stream.flush()
            stream.seek(0)
            tries = len(stream.readlines())
    yield tries
    with contextlib.suppress(OSError):
        file.unlink()


def write_result(folder: Path, result: Outcome) -> None:
    """Whole or not at all; a node that does not share the folder keeps it to itself."""
    with contextlib.suppress(OSError):
        write_atomically(folder / f"{result.key}.json", encode(result))


def read_result(file: Path) -> Outcome:
    """Raises OSError or ValueError where it cannot be read."""
    return decode(file.read_bytes())


def read_results(folder: Path, keys: Sequence[str]) -> dict[str, Outcome]:
    """The results of a call's points that are there and whole. Raises nothing: others are looked for again."""
    found = {}
    with contextlib.suppress(OSError):  # the folder is not there yet, or a network file system shows it later
        there = {entry.name for entry in folder.iterdir()}
        for key in keys:
            if f"{key}.json" in there:
                with contextlib.suppress(OSError, ValueError):
                    found[key] = read_result(folder / f"{key}.json")
    return found


# --- what GPUs were like before their first run -----------------------------------------------------


def _read_rest(start: Path) -> dict[str, dict[str, float]]:
    """By GPU UUID: jobs come and go, and their GPUs are to be as they were before the first of them."""
    found = {}
    for file in (start / REST_FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            found[file.stem] = {
                str(name): float(value) for name, value in json.loads(file.read_text()).items()
            }
    return found


def _keep_rest(start: Path, rest: Rest, known: set[str]) -> None:
    for uuid in rest.before.keys() - known:
        with contextlib.suppress(OSError):
            folder = start / REST_FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{uuid}.json", json.dumps(rest.before[uuid]))
