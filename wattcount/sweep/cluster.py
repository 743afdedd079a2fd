"""A sweep's points on a cluster, a job each: submitted, looked at until each has ended, and tried again.

The launcher's configuration is the person's (`hydra/launcher=submitit_slurm`, `submitit_local` or `ray`). Hydra's own launchers
are not called: they return once all jobs are done, and nothing if one of them died. submitit and Ray tell of each
job as it ends (`submitit_backend`, `ray_backend`). What a job measured is told by the job itself, in the sweep's ledger;
that it died, by this process.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wattcount.config.composition import plain_errors
from wattcount.config.loader import plain, to_json
from wattcount.config.paths import data_home
from wattcount.config.schema import PowerBackend, RunConfig
from wattcount.errors import NotStartedError, WattcountError
from wattcount.masking import reveal
from wattcount.sweep.job import Backend, Gpus, Place, SlurmNodes, lost
from wattcount.sweep.lane import Task
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.local import Job, Tries, Watcher
from wattcount.sweep.point import Outcome, State, failed

LOOK_S = 1.0
"""Between two looks at the jobs [s]."""

END_LIMIT_S = 90.0
"""Longest wait for the end of the jobs after an interruption [s]: a run that closes its record may take that long."""

WAIT_NOTICE_S = 60.0
"""How long all jobs of one kind of GPU wait before a person is told [s]: longer than a cluster with room takes."""

LAUNCHERS = {"SlurmLauncher": "submitit_slurm", "LocalLauncher": "submitit_local", "RayLauncher": "ray"}
"""Options of `hydra/launcher` that work here, by the class that Hydra would call."""

JOBS_FOLDER = "jobs"
"""Folder of a sweep with what its jobs write."""
RECORD_NOT_HERE = "record_not_here"
"""Reason of a point whose record is on a node, and could not be brought here."""


def launcher_of(config: DictConfig) -> str | None:
    """The option of `hydra/launcher` that a sweep goes to; None: this machine, in lanes. Raises `NotStartedError`."""
    target = str(config.hydra.launcher.get("_target_", "")).rpartition(".")[2]
    if target == "BasicLauncher":
        return None
    if target in LAUNCHERS:
        return LAUNCHERS[target]
    raise NotStartedError(
        f"hydra/launcher: {target} is none that wattcount can use; choose one of {', '.join(LAUNCHERS.values())}, or "
        "leave it out: points are then measured on this machine, on all its GPUs at once"
    )


def connect(launcher: DictConfig, name: str) -> Backend[Any]:
    """The cluster. Raises `NotStartedError` where it does not answer."""
    if name == "ray":
        from wattcount.sweep.ray_backend import Ray

        return Ray(_plain(launcher.ray.init))
    from wattcount.sweep.submitit_backend import Local, Slurm

    return Slurm(SlurmNodes.ask()) if name == "submitit_slurm" else Local()


@dataclass
class _Sent:
    """A point whose job has not ended. `handle`: the backend's; `why`: it waits, in the cluster's words."""

    job: Job
    gpus: Gpus
    handle: Any
    why: str | None = None


class Cluster:
    """Sends points to a cluster and collects what becomes of them.

    Made before anything is started: raises `NotStartedError` where the cluster does not answer, has no node for a
    point, or does not know a key of its placement.

    config    as Hydra composed it, for `hydra.launcher`
    jobs      the points, in the order in which they are submitted
    sweep     name, of the ledger
    first     any of the points' configurations, for what they have in common
    connect   makes the backend; `clock` tells seconds, of any beginning
    """

    def __init__(
        self,
        config: DictConfig,
        jobs: Sequence[Job],
        sweep: str,
        first: RunConfig,
        *,
        connect: Callable[[DictConfig, str], Backend[Any]] = connect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._sweep = sweep
        self._first = first
        self._clock = clock
        self._records_dir = Path(first.records_dir).expanduser().absolute()
        self._sent: dict[str, _Sent] = {}
        self._waits_s: dict[Gpus, float] = {}
        """Since when all jobs of a kind have been waiting."""
        self._told: dict[Gpus, str | None] = {}
        if not jobs:
            return
        launcher = copy.deepcopy(config.hydra.launcher)
        OmegaConf.set_readonly(launcher, False)
        self._backend = connect(launcher, launcher_of(config) or "")
        for key in self._backend.open_nodes:
            OmegaConf.set_struct(OmegaConf.select(launcher, key), False)
        self._options = {gpus: self._options_of(launcher, gpus) for gpus in by_gpus(jobs)}

    def run(self, ledger: Ledger, watcher: Watcher) -> tuple[dict[str, Outcome], int | None]:
        """Outcomes by key, and the exit code of an interruption. Points that were never begun have none."""
        self._ledger, self._watcher = ledger, watcher
        self._tries = tries = Tries(self._first.sweep, watcher, here=False)
        tries.queue.extend(self._jobs)
        start_folder = ledger.folder / JOBS_FOLDER / str(time.time_ns())
        inherits = not self._jobs or self._backend.inherits
        # submitit writes what it sends to files; Ray sends it in memory.
        uri = None if inherits else reveal(self._first.tracking.uri or "")
        self._place = Place(str(data_home()), str(start_folder), uri)
        try:
            with tries.signals.watching():
                while tries.goes_on:
                    if not self._sent:
                        tries.look_again()
                    if not self._sent and not tries.queue:
                        break
                    self._send()
                    self._look()
                    self._tell_who_waits()
                    time.sleep(LOOK_S if self._sent else 0.0)
                    ledger.beat()
                    watcher.tick()
                if not tries.goes_on:
                    self._end()
            if self._jobs:
                self._backend.close()
        finally:
            shutil.rmtree(start_folder, ignore_errors=True)
        return tries.outcomes, tries.signals.exit_code

    # --- sending --------------------------------------------------------------------------------

    def _options_of(self, launcher: DictConfig, gpus: Gpus) -> dict[str, Any]:
        """`hydra.launcher` for points of these GPUs: with their placement, else what the cluster says gets them."""
        asked = plain(self._first.sweep.placement.get(gpus.name))
        if asked is not None and not isinstance(asked, dict):
            raise NotStartedError(
                f"sweep.placement.{gpus.name}: must be keys of hydra.launcher, e.g. "
                f"sweep.placement.{gpus.name}.constraint=FEATURE, not {asked!r}"
            )
        if asked is None:
            chosen = any(OmegaConf.select(launcher, key) is not None for key in self._backend.chosen)
            asked = {} if chosen else self._backend.request(gpus)
        with plain_errors():
            return _plain(OmegaConf.merge(launcher, asked))

    def _send(self) -> None:
        waiting = list(self._tries.queue)
        self._tries.queue.clear()
        for gpus, jobs in by_gpus(waiting).items():
            rest = iter(jobs)
            while self._tries.goes_on and (part := list(itertools.islice(rest, self._backend.array_limit))):
                try:
                    tasks = [self._task(job) for job in part]
                    handles = self._backend.submit(self._options[gpus], self._place, tasks)
                except WattcountError as error:
                    for job in part:
                        self._ended(job, lost(str(error)))
                    continue
                for job, handle in zip(part, handles, strict=True):
                    self._sent[job.point.key] = _Sent(job, gpus, handle)

    def _task(self, job: Job) -> Task:
        cfg = replace(job.cfg, records_dir=str(self._records_dir))
        return Task(to_json(cfg), job.point.key, self._sweep, job.attempt, (), job.wait_for_others)

    # --- looking --------------------------------------------------------------------------------

    def _look(self) -> None:
        for key, sent in list(self._sent.items()):
            outcome = self._backend.look(sent.handle)
            sent.why = outcome.message if outcome.state is State.waiting else None
            if outcome.state in (State.waiting, State.running):
                continue
            del self._sent[key]
            if (
                outcome.state is not State.lost or self._tries.goes_on
            ):  # else it was cancelled by this process
                self._ended(sent.job, outcome)

    def _tell_who_waits(self) -> None:
        """Once for each reason, where all jobs of a kind of GPU wait."""
        now_s = self._clock()
        for gpus in self._options:
            whys = [sent.why for sent in self._sent.values() if sent.gpus == gpus]
            if not whys or None in whys:
                self._waits_s.pop(gpus, None)
            elif now_s - self._waits_s.setdefault(gpus, now_s) >= WAIT_NOTICE_S:
                why = Counter(whys).most_common(1)[0][0]
                if self._told.get(gpus) != why:
                    self._told[gpus] = why
                    self._watcher.notice(f"all {len(whys)} jobs of {gpus} wait: {why}")

    def _with_record_here(self, outcome: Outcome) -> Outcome:
        """Of a node that shares no folder: its records are fetched from MLflow."""
        found = {record: record for record in outcome.all_records}
        if all(Path(record).exists() for record in found):
            return outcome
        try:
            from wattcount.tracking.store import fetch_record

            for record in found:
                if not Path(record).exists():
                    run_id = Path(record).name.partition("-")[2]
                    found[record] = str(fetch_record(run_id, self._records_dir, self._first.tracking))
            records = tuple(found[record] for record in outcome.records)
            return replace(outcome, record=found[outcome.record or ""], records=records)
        except (WattcountError, OSError) as error:
            return failed(RECORD_NOT_HERE, f"its record stayed on its node, at {outcome.record}: {error}")

    # --- what became of points ------------------------------------------------------------------

    def _ended(self, job: Job, outcome: Outcome) -> None:
        outcome = replace(self._with_record_here(outcome), key=job.point.key, attempt=job.attempt)
        if outcome.state is State.lost:
            self._ledger.append(outcome)
        self._tries.ended(job, outcome)

    def _end(self) -> None:
        """Cancels what runs or waits, and takes what the jobs still say."""
        self._backend.cancel([sent.handle for sent in self._sent.values()])
        deadline_s = self._clock() + END_LIMIT_S
        while self._sent and len(self._tries.signals) < 2 and self._clock() < deadline_s:
            self._look()
            time.sleep(LOOK_S if self._sent else 0.0)


def by_gpus(jobs: Iterable[Job]) -> dict[Gpus, list[Job]]:
    """Points by what they ask for, as a submission asks for the same for all its jobs. Both keep their order."""
    found: dict[Gpus, list[Job]] = {}
    for job in jobs:
        emulated = job.cfg.power.backend is PowerBackend.emulated
        found.setdefault(Gpus(job.cfg.gpu.name, job.cfg.gpu.count, emulated), []).append(job)
    return found


def _plain(node: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
