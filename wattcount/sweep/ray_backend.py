"""Sweeps on Ray (`hydra/launcher=ray`): a remote task for each point."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.sweep.job import ACCELERATOR, RUNS, Gpus, Place, lost, measure_job, ray_request, waits
from wattcount.sweep.lane import Task
from wattcount.sweep.point import CANCELLED, Outcome

NODES_S = 5.0
"""Shortest time between two questions to Ray which nodes are up [s]."""


@dataclass(frozen=True)
class RayJob:
    """A remote task. `needs`: the amount of each resource that its node must have."""

    ref: ray.ObjectRef
    needs: Mapping[str, float]


class Ray:
    """A Ray cluster, joined for as long as the sweep goes on."""

    chosen: Sequence[str] = ("ray.remote.resources", "ray.remote.num_gpus", "ray.remote.accelerator_type")
    open_nodes: Sequence[str] = ("ray.init", "ray.remote")
    array_limit = sys.maxsize
    inherits = False

    def __init__(self, init: Mapping[str, Any]) -> None:
        """`init`: of `ray.init`. Raises `NotStartedError` where the cluster cannot be joined."""
        if not ray.is_initialized():
            try:
                ray.init(**{"log_to_driver": False, "logging_level": "ERROR", **init})
            except Exception as error:  # whatever Ray throws: it did not start
                raise NotStartedError(
                    f"cannot join a Ray cluster: {one_line(error)}: check `ray status`, or hydra.launcher.ray.init.address"
                ) from error
        self._nodes: list[Mapping[str, float]] = []
        self._nodes_s = float("-inf")

    def request(self, gpus: Gpus) -> dict[str, Any]:
        return ray_request(gpus, ray.cluster_resources())

    def submit(self, options: dict[str, Any], place: Place, tasks: Sequence[Task]) -> list[RayJob]:
        # The sweep itself tries a point again, and counts.
        remote: dict[str, Any] = {"max_retries": 0, **(options["ray"]["remote"] or {})}
        try:
            run = ray.remote(**remote)(measure_job)
            return [RayJob(run.remote(place, task), needs(remote)) for task in tasks]
        except (ValueError, TypeError, ray.exceptions.RayError) as error:
            raise WattcountError(f"Ray refused the tasks: {one_line(error)}") from error

    def look(self, handle: RayJob) -> Outcome:
        if not ray.wait([handle.ref], timeout=0)[0]:
            return self._not_ended(handle)
        try:
            found: Outcome = ray.get(handle.ref)
        except ray.exceptions.TaskCancelledError:
            return lost("its Ray task was cancelled", CANCELLED)
        except ray.exceptions.RayTaskError as error:
            return lost(f"its job failed: {type(error.cause).__name__}: {one_line(error.cause)}")
        except ray.exceptions.RayError as error:
            return lost(f"its Ray worker died: {one_line(error)}")
        return found

    def _not_ended(self, handle: RayJob) -> Outcome:
        """Ray keeps a task that no node can take, without a word."""
        if (now_s := time.monotonic()) - self._nodes_s >= NODES_S:
            self._nodes_s = now_s
            self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = handle.needs.items()
        if any(all(node.get(name, 0.0) >= amount for name, amount in wanted) for node in self._nodes):
            return RUNS
        return waits(f"no node that is up has {', '.join(f'{name}: {amount:g}' for name, amount in wanted)}")

    def cancel(self, handles: Sequence[RayJob]) -> None:
        for handle in handles:
            ray.cancel(handle.ref)  # as SIGINT to one that runs

    def close(self) -> None:
        ray.shutdown()


def needs(remote: Mapping[str, Any]) -> dict[str, float]:
    """What a node must have for a task with these options of `ray.remote`, by resource."""
    found = {"CPU": remote.get("num_cpus", 1), "GPU": remote.get("num_gpus") or 0}
    found |= remote.get("resources") or {}
    if (kind := remote.get("accelerator_type")) is not None:
        found[ACCELERATOR + kind] = 0.001  # what Ray takes of it
    return {name: float(amount) for name, amount in found.items() if amount}
