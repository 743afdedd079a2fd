"""One point as a job of a cluster: what it asks SLURM or Ray for, what it does on its node, and what a cluster tells of it.

What it asks for follows from its GPUs and from what the cluster says that it has; `sweep.placement` overrides it by the launcher's
own keys. A job's state is an `Outcome`: `waiting` with the cluster's reason, `running`, what the point came to, or `lost`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from wattcount.config.loader import from_json
from wattcount.errors import EXIT_FAILED, NotStartedError, WattcountError, one_line
from wattcount.files import write_atomically
from wattcount.masking import conceal
from wattcount.run.session import Rest
from wattcount.sweep.lane import Task
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Outcome, State
from wattcount.sweep.task import measure_planned

COMMAND_LIMIT_S = 60.0
"""Longest time that a command of SLURM may take [s]; its own tools give up after some tens of seconds."""

ACCELERATOR = "accelerator_type:"
"""Begins the names of the resources by which Ray tells a node's kind of GPU."""


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a point asks for. Points that ask for the same ones are sent with the same options.

    name      of the option of the group `gpu`; `auto`: any
    count     of one run
    emulated  the job emulates them, so that it may run anywhere
    """

    name: str
    count: int = 1
    emulated: bool = False

    def __str__(self) -> str:
        return f"gpu={self.name}" + (f" gpu.count={self.count}" if self.count > 1 else "")


@dataclass(frozen=True)
class SlurmNodes:
    """What a SLURM cluster's nodes say of themselves, spelt as there.

    features   for `--constraint`
    gpu_types  of typed `gpu` resources, for `--gres=gpu:TYPE:COUNT`
    has_gpus   whether any node has a `gpu` resource, typed or not
    """

    features: frozenset[str] = frozenset()
    gpu_types: frozenset[str] = frozenset()
    has_gpus: bool = False

    @classmethod
    def parse(cls, sinfo: str) -> SlurmNodes:
        """Reads the output of `sinfo -h -o '%f|%G'`: `a100,nvlink|gpu:a100:4(S:0-1),gpu:a30:2` a line."""
        # Without what stands in parentheses: sockets, and `(null)` for none.
        lines = [line.partition("|") for line in re.sub(r"\([^)]*\)", "", sinfo).split()]
        gpus = [found[1] for *_, names in lines for found in re.finditer(r"(?:^|,)gpu(:[^,]*)", names)]
        return cls(
            features=frozenset(name for names, *_ in lines for name in names.split(",") if name),
            gpu_types=frozenset(gpu.split(":")[1] for gpu in gpus if gpu.count(":") > 1),
            has_gpus=bool(gpus),
        )

    @classmethod
    def ask(cls) -> SlurmNodes:
        """Raises `NotStartedError` where there is no SLURM, or it does not answer."""
        command = ["sinfo", "--noheader", "--format=%f|%G"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=True
            )
        except FileNotFoundError:
            raise NotStartedError(
                "hydra/launcher=submitit_slurm: no SLURM here (`sinfo` was not found): start this on a login node"
            ) from None
        except subprocess.SubprocessError as error:
            problem = one_line(getattr(error, "stderr", None) or error)
            raise NotStartedError(
                f"SLURM does not answer: {problem}: check `sinfo`, or wait and try again"
            ) from None
        return cls.parse(done.stdout)

    def request(self, gpus: Gpus) -> dict[str, Any]:
        """Keys of `hydra.launcher`. Raises `NotStartedError` where no node is known to have such a GPU.

        A GPU's type or feature is taken for the GPU option of the same name, in whatever case.
        """
        untyped = {"gres": f"gpu:{gpus.count}"} if self.has_gpus else {}
        if gpus.emulated:
            return {}
        if gpus.name == "auto":
            return untyped
        if (kind := named(gpus.name, self.gpu_types)) is not None:
            return {"gres": f"gpu:{kind}:{gpus.count}"}
        if (feature := named(gpus.name, self.features)) is not None:
            return {"constraint": feature} | untyped
        raise NotStartedError(
            f"{gpus}: no node of this cluster has a GPU type or feature of that name (types: "
            f"{listed(self.gpu_types)}; features: {listed(self.features)}); say which nodes have it, e.g. "
            f"sweep.placement.{gpus.name}.constraint=FEATURE or sweep.placement.{gpus.name}.gres=gpu:TYPE:COUNT"
        )


def ray_request(gpus: Gpus, amounts: Mapping[str, float]) -> dict[str, Any]:
    """Keys of `hydra.launcher`, given `ray.cluster_resources()`.

    The resource `gpu_OPTION`, where a node was started with it; else Ray's own name for the accelerator. Raises
    `NotStartedError` where no node is known to have such a GPU.
    """
    if gpus.emulated:
        return {}
    # Ray then shows each job GPUs of its own (CUDA_VISIBLE_DEVICES).
    remote: dict[str, Any] = {"num_gpus": gpus.count} if amounts.get("GPU", 0.0) > 0 else {}
    custom = f"gpu_{gpus.name}"
    if gpus.name == "auto":
        return {"ray": {"remote": remote}} if remote else {}
    if custom in amounts:
        remote["resources"] = {custom: gpus.count}
    elif (accelerator := named(ACCELERATOR + gpus.name, amounts)) is not None:
        remote["accelerator_type"] = accelerator.removeprefix(ACCELERATOR)
    else:
        raise NotStartedError(
            f"{gpus}: no node of this Ray cluster has the resource {custom} or the accelerator type "
            f"{gpus.name.upper()} (there are: {listed(amounts)}); start its nodes with "
            f"`ray start --resources='{{\"{custom}\": COUNT}}'`, or say which have it, e.g. "
            f"sweep.placement.{gpus.name}.ray.remote.resources.NAME={gpus.count}"
        )
    return {"ray": {"remote": remote}}


def named(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `name`, in whatever case."""
    return next((found for found in sorted(names) if found.lower() == name.lower()), None)


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


Handle = TypeVar("Handle")

JOB_LOST = "job_lost"
"""Reason of a point whose job ended without an outcome."""
RUNS = Outcome(State.running)
"""What a job is while it runs."""


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
