"""Which of a call's SLURM jobs are still in the queue, and what became of those that are not.

submitit asks `sacct`, which knows nothing on a cluster without accounting: it would wait for a dead job for ever, and
complain all the while. `squeue` answers everywhere.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMMAND_LIMIT_S = 60.0
SUBMITTED_SUFFIX = "_submitted.pkl"
"""Of the file that submitit makes for each job once SLURM has given it an id."""

_HINTS = {
    "TIMEOUT": "raise hydra.launcher.timeout_min",
    "DEADLINE": "raise hydra.launcher.timeout_min",
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb",
}
CANCELLED = "CANCELLED"


def leave_accounting_alone() -> None:
    """submitit in this process asks `sacct` no more, and learns from the jobs' result files alone."""
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Silent(SlurmInfoWatcher):  # type: ignore[misc]  # submitit may not be there
        def update(self) -> None: ...

    SlurmJob.watcher = Silent()


def job_ids(folder: Path) -> list[str]:
    """Of the jobs that submitit has submitted from `folder`, in the order of its points: `12_0`, `12_1`, ..."""
    found = {file.name.removesuffix(SUBMITTED_SUFFIX) for file in folder.glob(f"*/*{SUBMITTED_SUFFIX}")}
    return sorted(found, key=lambda job: [int(part) for part in job.split("_")])


def queued() -> frozenset[str] | None:
    """Ids of this user's jobs that wait, run or end; None where SLURM does not answer."""
    # By number: in a container a user may have no name.
    answer = _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i")
    return None if answer is None else frozenset(answer.split())


def last_state(job: str) -> str | None:
    """`TIMEOUT`, `NODE_FAIL`, ... as SLURM remembers for some minutes."""
    answer = _ask("scontrol", "--oneliner", "show", "job", job)
    found = re.search(r"\bJobState=(\w+)", answer or "")
    return found[1] if found else None


def died(job: str, state: str | None) -> str:
    """A line for people."""
    if state is None or state == "COMPLETED":
        return f"SLURM job {job} ended without a result; see its log in the sweep's folder"
    hint = _HINTS.get(state)
    return f"SLURM job {job} ended: {state}" + (f"; {hint}" if hint else "")


def cancel(jobs: Sequence[str]) -> None:
    """Those that have ended are passed over. An array is cancelled as a whole."""
    if jobs:
        _ask("scancel", *dict.fromkeys(job.partition("_")[0] for job in jobs))


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
