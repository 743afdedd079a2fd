"""A sweep's points on a cluster: Hydra's stock launcher, called once for each group of points that ask for the same GPU.

::

    points -- placement --> groups --> calls, all at once, a thread each: launcher.launch(points of a group)
                                         |  its jobs (`job`) leave tries and results in the call's folder
    results <-- this loop looks at -----<   and the launcher returns them, or raises because one job died
                                         '- SLURM's queue: a job that is not in it and left no result is lost

A call that is over leaves points to be tried again: they make another call. What a job measured is told by the job
itself, in the sweep's ledger; that it died, by this process.
"""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from wattcount.config.hydra_errors import plain_errors
from wattcount.config.paths import data_home
from wattcount.config.schema import RunConfig
from wattcount.errors import (
    EXIT_FAILED,
    NotStartedError,
    WattcountError,
    one_line,
)
from wattcount.masking import reveal
from wattcount.run.signals import Signals
from wattcount.sweep import placement, slurm
from wattcount.sweep.halt import Halt
from wattcount.sweep.job import JOB_LOST, Errand, measure_job, read_results, was_interrupted
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.local import Job, Watcher
from wattcount.sweep.outcome import NOT_STARTED, Outcome, State
from wattcount.sweep.placement import Group, RayResources, SlurmNodes
from wattcount.sweep.plan import Point

JOBS_FOLDER = "jobs"
LOOK_S = 1.0
QUEUE_S = 5.0
GONE_S = 45.0
"""A job that is in SLURM's queue no more may have left a result that a network file system shows only later."""
CANCEL_LIMIT_S = 90.0
"""From an interruption to the end of the jobs, which close their records."""
ARRAY_LIMIT = 1000
"""SLURM's own limit of an array's length, unless the cluster has another (MaxArraySize)."""
RECORD_NOT_HERE = "record_not_here"
CANCELLED = "cancelled"

_SLURM, _RAY = "SlurmLauncher", "RayLauncher"
_CHOSEN = {
    _SLURM: ("gres", "constraint", "gpus_per_node", "gpus_per_task"),
    _RAY: ("ray.remote.resources", "ray.remote.num_gpus", "ray.remote.accelerator_type"),
}
"""Keys of `hydra.launcher` by which a person says himself where jobs are to go."""


@dataclass
class Call:
    """One call of a launcher, in a thread of its own; `waiting` are the points of which nothing is known yet."""

    name: str
    group: Group
    errand: Errand
    submitit_folder: Path
    waiting: dict[str, Point]
    returned: Sequence[JobReturn] | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    gone_s: dict[str, float] = field(default_factory=dict)
    """When a job was first missed in the queue."""
    again: dict[int, list[Point]] = field(default_factory=dict)
    """To be tried once more when this call is over, by how often they were."""

    @property
    def folder(self) -> Path:
        return Path(self.errand.folder)


class Launch:
    """Sends the points of a sweep to a cluster and collects what becomes of them, until nothing is left to wait for.

    Made before anything is started: raises `NotStartedError` where the cluster has no place for a group.
    """

    def __init__(
        self,
        config: DictConfig,
        hydra_context: HydraContext,
        points: Sequence[Point],
        configs: Mapping[str, RunConfig],
        sweep: str,
        first: RunConfig,
    ) -> None:
        self._config = config
        self._context = hydra_context
        self._configs = configs
        self._sweep = sweep
        self._first = first
        self._kind = str(config.hydra.launcher.get("_target_", "")).rpartition(".")[2]
        self._records_dir = Path(first.records_dir).expanduser().absolute()
        self._sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
        self._start = str(time.time_ns())
        cluster = self._cluster() if points else None
        self._groups = placement.groups(points, configs)
        self._requests = {
            group.asked: placement.request(group, cluster, first.sweep.placement) for group in self._groups
        }
        for group in self._groups:  # so that a key that the launcher does not have is found now
            self._launcher_config(group, Path())
        self._calls: list[Call] = []
        self._number = 0
        self._later: list[Point] = []
        self._results: dict[str, Outcome] = {}
        self._signals = Signals()
        self._halt = Halt(first.sweep.stop_after_same_failures, here=False)
        self._looked_s = 0.0

    def run(self, ledger: Ledger, watcher: Watcher) -> tuple[dict[str, Outcome], int | None]:
        """Results by key, and the exit code of an interruption. Points that were never begun have no result."""
        self._ledger, self._watcher = ledger, watcher
        if self._kind == _SLURM:
            slurm.leave_accounting_alone()
        try:
            with self._signals.watching():
                for group in self._groups:
                    self._call(group, attempt=1)
                while self._calls and self._goes_on():
                    self._look()
                    self._begin_later()
                    time.sleep(LOOK_S if self._calls else 0.0)
                    ledger.beat()
                    watcher.tick()
                if not self._goes_on():
                    self._end()
        finally:
            shutil.rmtree(self._start_folder(), ignore_errors=True)
        return self._results, self._signals.exit_code

    # --- calling --------------------------------------------------------------------------------

    def _cluster(self) -> SlurmNodes | RayResources | None:
        """What there is; None for a launcher that wattcount does not know, or whose person has chosen."""
        ray = self._join_ray() if self._kind == _RAY else None
        own = self._config.hydra.launcher
        if any(OmegaConf.select(own, key) is not None for key in _CHOSEN.get(self._kind, ())):
            return None
        return SlurmNodes.ask() if self._kind == _SLURM else ray

    def _join_ray(self) -> RayResources:
        import ray

        if not ray.is_initialized():
            asked = OmegaConf.to_container(self._config.hydra.launcher.ray.init, resolve=True)
            assert isinstance(asked, dict)
            options = {"log_to_driver": False, "logging_level": "ERROR"} | {
                str(k): v for k, v in asked.items()
            }
            try:
                # Here, as the launcher's own call has settings that a cluster that is up refuses.
                ray.init(**options)
            except Exception as error:  # whatever Ray throws: it did not start
                raise NotStartedError(
                    f"cannot join a Ray cluster: {one_line(error)}: check `ray status`, or hydra.launcher.ray.init.address"
                ) from error
        return RayResources(ray.cluster_resources())

    def _launcher_config(self, group: Group, submitit_folder: Path) -> DictConfig:
        """The sweep's configuration with what this group asks of the launcher."""
        config = copy.deepcopy(self._config)
        own = config.hydra.launcher
        asked: dict[str, Any] = dict(self._requests[group.asked])
        with read_write(config), plain_errors():
            if self._kind == _RAY:
                # A worker that dies is Ray's to start again; the job counts its tries itself.
                defaults = {"ray": {"remote": {"max_retries": -1}}}
                OmegaConf.set_struct(own.ray.remote, False)  # Ray's options, which its launcher does not list
                own = OmegaConf.merge(own, OmegaConf.merge(defaults, own, asked))
            else:
                own = OmegaConf.merge(own, asked)
            if "submitit_folder" in own:
                own.submitit_folder = str(submitit_folder / "%j")
            config.hydra.launcher = own
        assert isinstance(config, DictConfig)
        return config

    def _call(self, group: Group, *, attempt: int, wait_for_others: bool = False) -> None:
        for part in placement.split(group, ARRAY_LIMIT) if self._kind == _SLURM else [group]:
            self._number += 1
            name = f"{self._number}-{part.name}"
            errand = Errand(
                sweep=self._sweep,
                folder=str(self._start_folder() / name),
                records_dir=str(self._records_dir),
                home=str(data_home()),
                attempt=attempt,
                attempts=self._first.sweep.attempts if self._kind == _RAY else None,
                wait_for_others=wait_for_others,
                resume=self._first.resume is not False,
                # Ray's workers keep the environment that they were started with, and it sends this in memory;
                # submitit writes what it sends to files, and SLURM's jobs inherit the environment.
                tracking_uri=reveal(self._first.tracking.uri or "") if self._kind == _RAY else None,
            )
            waiting = {point.key: point for point in part.points}
            call = Call(name, part, errand, self._sweep_dir / ".submitit" / self._start / name, waiting)
            # Not to be waited for at the end: a stock launcher may wait for a dead job for ever.
            call.thread = threading.Thread(
                target=self._launch, args=(call,), name=f"launch {name}", daemon=True
            )
            self._calls.append(call)
            call.thread.start()

    def _launch(self, call: Call) -> None:
        """The thread of a call."""
        try:
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=self._context,
                task_function=_Task(call.errand),
                config=self._launcher_config(call.group, call.submitit_folder),
            )
            call.returned = launcher.launch([list(point.overrides) for point in call.group.points], 0)
        except BaseException as error:  # told to the loop
            call.error = error

    # --- looking --------------------------------------------------------------------------------

    def _look(self) -> None:
        queue: frozenset[str] | None = None
        if self._kind == _SLURM and time.monotonic() - self._looked_s >= QUEUE_S:
            queue = slurm.queued()
            self._looked_s = time.monotonic()
        for call in list(self._calls):
            # Before the files are: a result is there when its launcher has returned, or its job is gone.
            returned, error = call.returned, call.error
            self._read_results(call)
            if returned is not None:
                self._take_returned(call, returned)
            if queue is not None and (jobs := slurm.job_ids(call.submitit_folder)):
                self._take_gone(call, jobs, queue)
            elif error is not None and not (self._kind == _SLURM and slurm.job_ids(call.submitit_folder)):
                self._take_error(call, error)
            if not call.waiting:
                self._calls.remove(call)
                for attempt, points in call.again.items():
                    self._call(replace(call.group, points=tuple(points)), attempt=attempt + 1)

    def _read_results(self, call: Call) -> None:
        # Errors of those who are told are theirs: only reading is tried again.
        for key, result in read_results(call.folder, list(call.waiting)).items():
            self._ended(call, key, result)

    def _take_returned(self, call: Call, returned: Sequence[JobReturn]) -> None:
        for point, job in zip(call.group.points, returned, strict=True):
            if point.key not in call.waiting:
                continue
            try:
                result = job.return_value
                assert isinstance(result, Outcome)
            except Exception as error:  # what the job raised, on the other machine
                self._lost(call, point.key, f"its job failed: {type(error).__name__}: {one_line(error)}")
                continue
            if self._kind != _SLURM or not was_interrupted(result):  # else the queue tells what becomes of it
                self._ended(call, point.key, self._with_record_here(result))

    def _take_gone(self, call: Call, jobs: Sequence[str], queue: frozenset[str]) -> None:
        if len(jobs) != len(call.group.points):
            return  # still being submitted
        now_s = time.monotonic()
        for point, job in zip(call.group.points, jobs, strict=True):
            if point.key not in call.waiting:
                continue
            if job in queue:
                call.gone_s.pop(point.key, None)
            elif now_s - call.gone_s.setdefault(point.key, now_s) >= GONE_S:
                state = slurm.last_state(job)
                reason = CANCELLED if state == slurm.CANCELLED else JOB_LOST
                self._lost(call, point.key, slurm.died(job, state), reason)

    def _take_error(self, call: Call, error: BaseException) -> None:
        for key in list(call.waiting):
            self._lost(call, key, f"the launcher failed: {type(error).__name__}: {one_line(error)}")

    def _with_record_here(self, result: Outcome) -> Outcome:
        """Of a node that shares no folder: its record is fetched from MLflow."""
        if result.record is None or Path(result.record).exists():
            return result
        try:
            from wattcount.tracking.fetch import fetch_record

            run_id = Path(result.record).name.partition("-")[2]
            found = fetch_record(run_id, self._records_dir, self._first.tracking)
            return replace(result, record=str(found))
        except (WattcountError, OSError) as error:
            message = f"its record stayed on its node, at {result.record}: {error}"
        return replace(
            result,
            state=State.failed,
            exit_code=EXIT_FAILED,
            record=None,
            reason=RECORD_NOT_HERE,
            message=message,
        )

    # --- what became of points ------------------------------------------------------------------

    def _lost(self, call: Call, key: str, message: str, reason: str = JOB_LOST) -> None:
        lost = Outcome(
            State.lost,
            key,
            attempt=call.errand.attempt,
            exit_code=EXIT_FAILED,
            reason=reason,
            message=message,
            pid=None,
        )
        self._ledger.append(lost)
        self._ended(call, key, lost)

    def _ended(self, call: Call, key: str, result: Outcome) -> None:
        point = call.waiting.pop(key)
        self._results[key] = result
        stopped_before = self._halt.why is not None
        self._halt.note(key, result)
        again = False
        if result.elsewhere and not call.errand.wait_for_others:
            self._later.append(point)
            again = True
        elif self._is_to_be_retried(result):
            call.again.setdefault(result.attempt, []).append(point)
            again = True
        job = Job(point, self._configs[key], attempt=result.attempt)
        self._watcher.ended(job, result, again=again)
        if self._halt.why is not None and not stopped_before:
            self._watcher.notice(self._halt.why)

    def _goes_on(self) -> bool:
        return not self._signals and self._halt.why is None

    def _is_to_be_retried(self, result: Outcome) -> bool:
        if not self._goes_on() or result.attempt >= self._first.sweep.attempts:
            return False
        if result.ran:
            return result.state is State.invalid and self._first.sweep.retry_invalid
        return result.reason not in (NOT_STARTED, CANCELLED) and not result.elsewhere

    def _begin_later(self) -> None:
        """Points that other runs measured, once nothing else is left to do."""
        if self._calls or not self._later:
            return
        again = placement.groups(self._later, self._configs)
        self._later = []
        for group in again:
            self._call(group, attempt=1, wait_for_others=True)

    # --- ending ---------------------------------------------------------------------------------

    def _end(self) -> None:
        """Cancels what runs or waits, and takes what the jobs still say."""
        if self._kind == _SLURM:
            jobs = [job for call in self._calls for job in slurm.job_ids(call.submitit_folder)]
            slurm.cancel(jobs)
            deadline_s = time.monotonic() + CANCEL_LIMIT_S
            while self._calls and len(self._signals) < 2 and time.monotonic() < deadline_s:
                for call in list(self._calls):
                    self._read_results(call)
                if (queue := slurm.queued()) is not None and not queue.intersection(jobs):
                    break
                time.sleep(LOOK_S)
        elif self._kind == _RAY:
            import ray

            ray.shutdown()
        for call in self._calls:
            self._read_results(call)

    def _start_folder(self) -> Path:
        return self._ledger.folder / JOBS_FOLDER / self._start


@dataclass(frozen=True)
class _Task:
    """What a launcher calls in each job."""

    errand: Errand

    def __call__(self, cfg: DictConfig) -> Outcome:
        return measure_job(cfg, errand=self.errand)
