"""One point as a job of a cluster: what the job does on its node, and what a cluster tells of it.

A job's state is an `Outcome`: `waiting` with the cluster's reason, `running`, what the point came to, or `lost`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from wattcount.config.loader import from_json
from wattcount.errors import EXIT_FAILED, WattcountError
from wattcount.files import write_atomically
from wattcount.masking import conceal
from wattcount.run.cooldown import Rest
from wattcount.sweep.lane import Task
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.outcome import Outcome, State
from wattcount.sweep.placement import Gpus
from wattcount.sweep.task import measure_planned

Handle = TypeVar("Handle")

JOB_LOST = "job_lost"

RUNS = Outcome(State.running)


def waits(why: str) -> Outcome:
    return Outcome(State.waiting, message=why)


def lost(message: str, reason: str = JOB_LOST) -> Outcome:
    """The outcome of a job that ended and left none."""
    return Outcome(State.lost, exit_code=EXIT_FAILED, reason=reason, message=message, pid=None)


@dataclass(frozen=True)
class Place:
    """What all jobs of one start of a sweep have in common.

    home          the sweep's `$WATTCOUNT_HOME`, for nodes that were started with another environment
    rest_folder   for what GPUs were like before their first run, a file a GPU
    tracking_uri  with its password, for jobs that do not inherit the sweep's environment; None: not needed
    """

    home: str
    rest_folder: str
    tracking_uri: str | None = field(default=None, repr=False)


class Backend(Protocol[Handle]):
    """A cluster, as `cluster.Cluster` uses it; a handle stands for one job.

    chosen       keys of `hydra.launcher` by which a person says where jobs go; then nothing is asked for them
    open_nodes   keys of `hydra.launcher` below which any key is allowed
    array_limit  most jobs that are submitted at once
    inherits     jobs have the environment variables of the process that submits them
    """

    chosen: Sequence[str]
    open_nodes: Sequence[str]
    array_limit: int
    inherits: bool

    def request(self, gpus: Gpus) -> dict[str, Any]:
        """Keys of `hydra.launcher` that get a job `gpus`. Raises `NotStartedError` where no node has them."""

    def submit(self, options: dict[str, Any], place: Place, tasks: Sequence[Task]) -> list[Handle]:
        """A job for each task, in their order. `options`: `hydra.launcher`. Raises `WattcountError` where refused."""

    def look(self, handle: Handle) -> Outcome: ...

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Asks the jobs to end. Those that run close their records."""

    def close(self) -> None: ...


def measure_job(place: Place, task: Task) -> Outcome:
    """Measures a point on its node, and tells the sweep's ledger where it can."""
    os.environ.setdefault("WATTCOUNT_HOME", place.home)
    # Ray blocks SIGINT in its workers. A run inherits what is blocked, and could not be told to end.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if place.tracking_uri is not None:
        conceal(place.tracking_uri)
    cfg = from_json(task.config)
    # Jobs come and go, and their GPUs are to be as they were before the first of them.
    rest_folder = Path(place.rest_folder)
    rest = Rest({file.stem: json.loads(file.read_text()) for file in rest_folder.glob("*.json")})
    known = set(rest.before)
    try:
        opened: contextlib.AbstractContextManager[Ledger | None] = Ledger.open(cfg.records_dir, task.sweep)
    except WattcountError:
        opened = contextlib.nullcontext()  # the run will say that nothing can be written there
    with opened as ledger:
        outcome = measure_planned(
            cfg,
            key=task.key,
            ledger=ledger,
            attempt=task.attempt,
            wait_for_others=task.wait_for_others,
            rest=rest,
        )
    with contextlib.suppress(OSError):
        rest_folder.mkdir(parents=True, exist_ok=True)
        for uuid in rest.before.keys() - known:
            write_atomically(rest_folder / f"{uuid}.json", json.dumps(rest.before[uuid]))
    return outcome
