"""Sweeps on SLURM through submitit (`hydra/launcher=submitit_slurm`), and on this machine (`submitit_local`).

submitit writes the batch script, sends a point to its job and brings its result back. Where it asks `sacct` how a job
stands, `QueueWatcher` asks `squeue`: on a cluster without accounting `sacct` knows nothing, and submitit would wait for a
dead job for ever. And `squeue` tells why a job waits.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from submitit import AutoExecutor, Job, JobEnvironment
from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

from wattcount.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, WattcountError, one_line
from wattcount.sweep.job import (
    COMMAND_LIMIT_S,
    JOB_LOST,
    RUNS,
    Gpus,
    Place,
    SlurmNodes,
    lost,
    measure_job,
    waits,
)
from wattcount.sweep.lane import Task
from wattcount.sweep.point import CANCELLED, Outcome

QUEUE_S = 5
"""Shortest time between two calls of `squeue` [s]. SLURM's manual asks for few calls."""

RESULT_LIMIT_S = 15.0
"""Time after the end of a job when it counts as dead [s]. A network file system may show its result late, and a job that
SLURM starts again is not in the queue at once. As long as submitit waits."""

SLURM_ARRAY_LIMIT = 1000
"""Most jobs of an array, unless the cluster has another limit (MaxArraySize)."""

OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT", "UNKNOWN",
})  # fmt: skip
"""States of SLURM in which a job does not run. UNKNOWN is submitit's for one that `squeue` does not list (any more)."""

HINTS = {
    "TIMEOUT": "raise hydra.launcher.timeout_min",
    "DEADLINE": "raise hydra.launcher.timeout_min",
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb",
}
"""What to do about jobs that SLURM has ended, by their states."""


class SubmittedJob:
    """What submitit calls in a job."""

    def __call__(self, place: Place, task: Task) -> Outcome:
        """A job that was told to end leaves no result, so that its state in the queue tells what becomes of it."""
        at_time_limit = []

        def end(_number: int, _frame: FrameType | None) -> None:
            at_time_limit.append(True)
            os.kill(os.getpid(), signal.SIGTERM)  # the run closes its record

        # submitit has SLURM send this signal `signal_delay_s` before the time is over.
        signal.signal(signal.Signals[f"SIG{JobEnvironment.USR_SIG}"], end)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; a run has its own handler
        outcome = measure_job(place, task)
        if outcome.exit_code not in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            return outcome
        if at_time_limit:
            return lost(f"its job reached its time limit; {HINTS['TIMEOUT']}")
        sys.exit(outcome.exit_code)


class Local:
    """Jobs as processes of this machine, all at once."""

    cluster = "local"
    chosen: Sequence[str] = ("gpus_per_node",)
    open_nodes: Sequence[str] = ()
    array_limit = sys.maxsize
    inherits = True

    def request(self, gpus: Gpus) -> dict[str, Any]:
        return {} if gpus.emulated else {"gpus_per_node": gpus.count}

    def submit(self, options: dict[str, Any], place: Place, tasks: Sequence[Task]) -> list[Job[Any]]:
        known = dict(options)
        del known["_target_"]
        folder, timeouts = known.pop("submitit_folder"), known.pop("max_num_timeout", 0)
        try:
            executor = AutoExecutor(folder, cluster=self.cluster, slurm_max_num_timeout=timeouts)
            executor.update_parameters(**{f"{self.cluster}_{name}": value for name, value in known.items()})
            jobs: list[Job[Any]] = executor.map_array(SubmittedJob(), [place] * len(tasks), tasks)
        except (OSError, RuntimeError, ValueError, NameError, AssertionError) as error:
            raise WattcountError(f"{type(self).__name__} refused the jobs: {one_line(error)}") from error
        return jobs

    def look(self, handle: Job[Any]) -> Outcome:
        if not handle.done():
            return RUNS
        return left_by(handle) or lost(f"its process ended without a result; see {handle.paths.stderr}")

    def cancel(self, handles: Sequence[Job[Any]]) -> None:
        for job in handles:
            if not job.done():
                # Not `job.cancel`, which kills the run a second later: it could not close its record.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)

    def close(self) -> None: ...


class Slurm(Local):
    """Jobs of a SLURM cluster: an array for each kind of GPU.

    nodes   what there is
    clock   seconds; of any beginning
    """

    cluster = "slurm"
    chosen = ("gres", "constraint", "gpus_per_node", "gpus_per_task")
    array_limit = SLURM_ARRAY_LIMIT

    def __init__(self, nodes: SlurmNodes, clock: Callable[[], float] = time.monotonic) -> None:
        self._nodes = nodes
        self._clock = clock
        self._result_limit_s = RESULT_LIMIT_S
        self._over_s: dict[str, float] = {}
        """When a job that left no result was first seen to be over."""
        SlurmJob.watcher = QueueWatcher(delay_s=QUEUE_S)  # of all jobs of this process, as submitit has it

    def request(self, gpus: Gpus) -> dict[str, Any]:
        return self._nodes.request(gpus)

    def look(self, handle: Job[Any]) -> Outcome:
        info = handle.get_info(mode="standard")
        state = info.get("State", "UNKNOWN")
        if state == "PENDING":
            self._over_s.pop(handle.job_id, None)
            return waits(info["Reason"])
        if handle.done() and (found := left_by(handle)) is not None:
            return found
        if state not in OVER:
            self._over_s.pop(handle.job_id, None)
            return RUNS
        now_s = self._clock()
        if now_s - self._over_s.setdefault(handle.job_id, now_s) < self._result_limit_s:
            return RUNS
        if state in ("UNKNOWN", "COMPLETED"):
            return lost(f"SLURM job {handle.job_id} ended without a result; see {handle.paths.stderr}")
        hint = f"; {HINTS[state]}" if state in HINTS else ""
        reason = CANCELLED if state == "CANCELLED" else JOB_LOST
        return lost(f"SLURM job {handle.job_id} ended: {state}{hint}", reason)

    def cancel(self, handles: Sequence[Job[Any]]) -> None:
        """Those that have ended are passed over. An array is cancelled as a whole."""
        self._result_limit_s = 0.0
        if handles:
            ask("scancel", *dict.fromkeys(job.job_id.partition("_")[0] for job in handles))


class QueueWatcher(SlurmInfoWatcher):  # type: ignore[misc]  # submitit is not typed for mypy
    """Knows how this user's jobs stand, from `squeue`; see the module."""

    def update(self) -> None:
        """Asks SLURM how the jobs stand; nothing changes where it does not answer."""
        self._last_status_check = time.time()
        # The user by number: in a container a user may have no name.
        user = f"--user={os.getuid()}"
        answer = ask("squeue", "--noheader", "--array", "--states=all", user, "--format=%i|%T|%r")
        if answer is not None:
            lines = (line.split("|", 2) for line in answer.splitlines())
            self._info_dict = {job: {"State": state, "Reason": why} for job, state, why in lines}


def left_by(job: Job[Any]) -> Outcome | None:
    """What a job has left as its result; None: nothing."""
    first = job.task(0)  # a person may have asked for several tasks
    if not first.paths.result_pickle.exists():
        return None
    try:
        found: Outcome = first.result()
    except Exception as error:  # what was raised on the node, or in reading what came from there
        # submitit puts the node's traceback between two rules.
        trace = re.search(r"^-{10,}\n(.*?)\n-{10,}$", str(error), re.DOTALL | re.MULTILINE)
        what = trace[1].strip().splitlines()[-1] if trace else f"{type(error).__name__}: {error}"
        return lost(f"its job failed: {one_line(what)}; see {first.paths.stderr}")
    return found


def ask(*command: str) -> str | None:
    """What a command of SLURM says; None where it fails, or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
