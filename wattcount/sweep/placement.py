"""Where a sweep's points are sent: groups of one GPU option each, and what a group asks of SLURM or Ray.

A launcher asks for the same resources for all its jobs, so points are split by GPU (and by how many of them), and the
launcher is called for each group with resources of its own. What a group asks for follows from what the cluster
says it has; `sweep.placement` overrides it by the launcher's own keys.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wattcount.config.schema import PowerBackend, RunConfig
from wattcount.errors import NotStartedError, one_line
from wattcount.sweep.plan import Point

SINFO_LIMIT_S = 60.0
RAY_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class Group:
    """Points that ask for the same GPUs, in the order in which they are to be measured.

    gpu       the option's name; `auto`: any
    count     GPUs of one run
    emulated  the job emulates the GPU, so it may run anywhere
    """

    gpu: str
    count: int
    emulated: bool
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        return self.gpu if self.count == 1 else f"{self.gpu}-{self.count}"

    @property
    def asked(self) -> tuple[str, int, bool]:
        return self.gpu, self.count, self.emulated

    @property
    def asks(self) -> str:
        return f"gpu={self.gpu}" + (f" gpu.count={self.count}" if self.count > 1 else "")


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
        """Of `sinfo -h -o '%f|%G'`: `a100,nvlink|gpu:a100:4(S:0-1),gpu:a30:2` a line."""
        features: set[str] = set()
        types: set[str] = set()
        has_gpus = False
        for line in sinfo.splitlines():
            names, _, resources = line.strip().partition("|")
            features.update(_words(names))
            for resource in _words(resources):
                kind, *rest = resource.partition("(")[0].split(":")
                if kind == "gpu":
                    has_gpus = True
                    types.update(rest[:-1])
        return cls(frozenset(features), frozenset(types), has_gpus)

    @classmethod
    def ask(cls) -> SlurmNodes:
        """Raises `NotStartedError` where there is no SLURM, or it does not answer."""
        try:
            answer = subprocess.run(
                ["sinfo", "--noheader", "--format=%f|%G"],
                capture_output=True,
                text=True,
                timeout=SINFO_LIMIT_S,
                check=True,
            )
        except FileNotFoundError:
            raise NotStartedError(
                "hydra/launcher=submitit_slurm: no SLURM here (`sinfo` was not found): start this on a login node"
            ) from None
        except subprocess.CalledProcessError as error:
            raise NotStartedError(
                f"SLURM does not answer: {one_line(error.stderr)}: check `sinfo`, or wait and try again"
            ) from None
        except subprocess.TimeoutExpired:
            raise NotStartedError(
                f"SLURM did not answer within {SINFO_LIMIT_S:g} s: check `sinfo`, or wait and try again"
            ) from None
        return cls.parse(answer.stdout)

    def request(self, group: Group) -> dict[str, Any]:
        """Keys of `hydra.launcher`. Raises `NotStartedError` where no node is known to have such a GPU.

        A GPU's type or feature is taken for the GPU option of the same name, in whatever case.
        """
        if group.emulated:
            return {}
        if group.gpu == "auto":
            return {"gres": f"gpu:{group.count}"} if self.has_gpus else {}
        if (kind := _named(group.gpu, self.gpu_types)) is not None:
            return {"gres": f"gpu:{kind}:{group.count}"}
        if (feature := _named(group.gpu, self.features)) is not None:
            request = {"constraint": feature}
            if self.has_gpus:
                request["gres"] = f"gpu:{group.count}"
            return request
        raise NotStartedError(
            f"{group.asks}: no node of this cluster has a GPU type or feature of that name (types: "
            f"{_listed(self.gpu_types)}; features: {_listed(self.features)}); say which nodes have it, e.g. "
            f"sweep.placement.{group.gpu}.constraint=FEATURE or sweep.placement.{group.gpu}.gres=gpu:TYPE:COUNT"
        )


@dataclass(frozen=True)
class RayResources:
    """What a Ray cluster has, as `ray.cluster_resources()` says it."""

    amounts: Mapping[str, float] = field(default_factory=dict)

    def request(self, group: Group) -> dict[str, Any]:
        """Keys of `hydra.launcher`. Raises `NotStartedError` where no node is known to have such a GPU.

        The resource `gpu_OPTION`, where a node was started with it; else Ray's own name for the accelerator.
        """
        if group.emulated:
            return {}
        remote: dict[str, Any] = {}
        custom = f"gpu_{group.gpu}"
        accelerator = _named(RAY_ACCELERATOR + group.gpu, self.amounts)
        has_gpus = self.amounts.get("GPU", 0.0) > 0
        if group.gpu == "auto":
            remote = {"num_gpus": group.count} if has_gpus else {}
            return {"ray": {"remote": remote}} if remote else {}
        if custom in self.amounts:
            remote["resources"] = {custom: group.count}
        elif accelerator is not None:
            remote["accelerator_type"] = accelerator.removeprefix(RAY_ACCELERATOR)
        else:
            raise NotStartedError(
                f"{group.asks}: no node of this Ray cluster has the resource {custom} or the accelerator type "
                f"{group.gpu.upper()} (there are: {_listed(self.amounts)}); start its nodes with "
                f"`ray start --resources='{{\"{custom}\": COUNT}}'`, or say which have it, e.g. "
                f"sweep.placement.{group.gpu}.ray.remote.resources.NAME={group.count}"
            )
        if has_gpus:
            # Ray then shows each job GPUs of its own (CUDA_VISIBLE_DEVICES).
            remote["num_gpus"] = group.count
        return {"ray": {"remote": remote}}


def groups(points: Iterable[Point], configs: Mapping[str, RunConfig]) -> list[Group]:
    """Splits points by what they ask for; `configs` by key. Groups and points keep their order."""
    found: dict[tuple[str, int, bool], list[Point]] = {}
    for point in points:
        cfg = configs[point.key]
        emulated = cfg.power.backend is PowerBackend.emulated
        found.setdefault((cfg.gpu.name, cfg.gpu.count, emulated), []).append(point)
    return [Group(*asked, tuple(members)) for asked, members in found.items()]


def split(group: Group, size: int) -> list[Group]:
    """Groups of at most `size` points: SLURM limits the length of a job array."""
    return [
        Group(group.gpu, group.count, group.emulated, group.points[start : start + size])
        for start in range(0, len(group.points), size)
    ]


def request(
    group: Group, cluster: SlurmNodes | RayResources | None, placement: Mapping[str, Any]
) -> dict[str, Any]:
    """What `hydra.launcher` is to have for a group: `placement`'s keys, and the cluster's where it says nothing.

    Without a `cluster` (a launcher that wattcount does not know) only those of `placement`.
    """
    own = placement.get(group.gpu)
    if own is not None:
        if not isinstance(own, Mapping):
            raise NotStartedError(
                f"sweep.placement.{group.gpu}: must be keys of hydra.launcher, e.g. "
                f"sweep.placement.{group.gpu}.constraint=FEATURE, not {own!r}"
            )
        return {str(key): value for key, value in own.items()}
    return {} if cluster is None else cluster.request(group)


def _words(text: str) -> Sequence[str]:
    """Of a list with commas, outside of parentheses; SLURM writes `(null)` for none."""
    found, depth, word = [], 0, ""
    for letter in text + ",":
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(word.strip())
            word = ""
        else:
            word += letter
    return [word for word in found if word and word != "(null)"]


def _named(name: str, names: Iterable[str]) -> str | None:
    return next((found for found in sorted(names) if found.lower() == name.lower()), None)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
