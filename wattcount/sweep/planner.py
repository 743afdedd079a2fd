"""From a sweep's configurations to its plan: what is done, what cannot be, what is to run and what it will take."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from wattcount.config import fit
from wattcount.config.identity import planned_key, planned_point
from wattcount.config.loader import to_json
from wattcount.config.schema import (
    BatchConfig,
    EngineConfig,
    GpuConfig,
    ModelConfig,
    PowerConfig,
    RunConfig,
    ServerConfig,
)
from wattcount.engines import registry
from wattcount.metrics.verdict import Status
from wattcount.report.labels import asked_load
from wattcount.sweep.estimate import Estimator
from wattcount.sweep.index import RecordIndex
from wattcount.sweep.machine import Here, skip_of
from wattcount.sweep.outcome import State
from wattcount.sweep.plan import INVALID_BEFORE, Plan, Point, ordered

SHARED_FROM_S = 5.0
"""An engine whose start takes at least as long [s] is shared by points, where nothing else is asked for: less is not worth it."""
NOT_WHAT = ("sweep.", "dry_run", "hydra", "display", "records_dir", "tracking", "~hydra", "+hydra")
"""Arguments that begin so say how, not what: with others the sweep is still the same."""


class Machine(Protocol):
    """Whatever knows where a point will be measured: `ThisMachine` or `AnotherMachine`."""

    def look(self, cfg: RunConfig) -> Here: ...


@dataclass(frozen=True)
class Planned:
    """A plan, and what of its points to run only this process needs.

    configs     by key, as composed
    here        by key, as it would be where it is to be measured
    repeated    points that were declared more than once, and are in it once
    """

    plan: Plan
    configs: Mapping[str, RunConfig]
    here: Mapping[str, Here]
    repeated: int


def sweep_name(cfg: RunConfig, arguments: Sequence[str]) -> str:
    """`sweep.name`, else the experiment's, else one made of the arguments, in whatever order they are given."""
    if cfg.sweep.name is not None:
        return cfg.sweep.name
    for argument in arguments:
        key, _, value = argument.partition("=")
        value = value.strip("'\"")  # a name that looks like a number has quotes
        if key == "experiment" and value not in ("", "null"):
            return value.replace("/", "_")
    what = sorted(argument for argument in arguments if not argument.startswith(NOT_WHAT))
    return f"sweep-{hashlib.sha256(' '.join(what).encode()).hexdigest()[:8]}"


def make_plan(
    name: str,
    arguments: Sequence[str],
    points: Iterable[tuple[tuple[str, ...], RunConfig]],
    machine: Machine,
    index: RecordIndex,
    *,
    share: bool = True,
) -> Planned:
    """`points`: each one's overrides and configuration, in the order declared.

    share   points may go on with the engine of the one before: not where each is a job of its own
    """
    found: dict[str, Point] = {}
    configs: dict[str, RunConfig] = {}
    wheres: dict[str, Here] = {}
    repeated = 0
    first: RunConfig | None = None
    for overrides, cfg in points:
        first = first or cfg
        here = machine.look(cfg)
        where = planned_point(here.cfg)
        key = planned_key(where, cfg.seed, cfg.repeat)
        if key in found:
            repeated += 1
            continue
        point = Point(
            key=key,
            overrides=overrides,
            model=here.cfg.model.name,
            gpu=here.cfg.gpu.name,
            scenario=cfg.scenario.name,
            load=_label(cfg.scenario, cfg.model, cfg.engine, cfg.gpu),
            seed=cfg.seed,
            repeat=cfg.repeat,
            point=where[:12],
            session=session_of(cfg, here) if share else None,
        )
        point = _with_record(point, cfg, here, where, index)
        if point.state is State.waiting and (skip := skip_of(here)) is not None:
            point = dataclasses.replace(point, state=State.skipped, reason=skip.reason, message=skip.message)
        if point.state is State.waiting:
            configs[key], wheres[key] = cfg, here
        found[key] = point
    sweep = first.sweep if first is not None else RunConfig().sweep
    in_order = ordered(list(found.values()), sweep.order, sweep.order_seed)
    plan = Plan(
        name=name,
        points=tuple(_with_estimates(in_order, wheres, Estimator(index))),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        arguments=tuple(arguments),
    )
    return Planned(plan, configs, wheres, repeated)


def _with_estimates(
    points: Iterable[Point], wheres: Mapping[str, Here], estimator: Estimator
) -> Iterator[Point]:
    """`points` in the order in which they are measured, those to run with what they will take."""
    before: str | None = None
    for point in points:
        if point.state is not State.waiting:
            yield point
            continue
        here = wheres[point.key]
        follows = point.session is not None and point.session == before
        before = point.session
        expected = estimator.estimate(planned_point(here.cfg), here.cfg, here.facts, follows=follows)
        yield dataclasses.replace(
            point, wall_s=expected.wall_s, energy_j=expected.energy_j, basis=expected.basis
        )


def _with_record(point: Point, cfg: RunConfig, here: Here, where: str, index: RecordIndex) -> Point:
    """Done where there is a valid record; left out where there is one that its checks found wrong."""
    if cfg.resume is False:
        return point
    runs = index.runs(where, cfg.seed, cfg.repeat, here.facts)
    valid = [entry for entry in runs if entry.status is Status.valid]
    if valid:
        last = valid[-1]
        return dataclasses.replace(
            point,
            state=State.done,
            record=str(last.record),
            wall_s=last.wall_s,
            energy_j=last.run_energy_j,
            basis="measured",
        )
    if runs and runs[-1].status is Status.invalid and not cfg.sweep.retry_invalid:
        last = runs[-1]
        return dataclasses.replace(
            point,
            state=State.skipped,
            reason=INVALID_BEFORE,
            message=f"{last.verdict.reason}: {last.verdict.message}; sweep.retry_invalid=true measures it again",
            record=str(last.record),
        )
    return point


@functools.lru_cache(maxsize=4096)
def _label(
    scenario: BatchConfig | ServerConfig, model: ModelConfig, engine: EngineConfig, gpu: GpuConfig
) -> str:
    """What a point's load is called."""
    return asked_load(RunConfig(scenario=scenario, model=model, engine=engine, gpu=gpu))


def session_of(cfg: RunConfig, here: Here) -> str | None:
    """`Point.session`: what is the same for points that differ only in scenario and load, and whose engine is set up alike.

    That is all of the engine, as resolved, with the context length that it is started with; the model, the GPU and its settings;
    how power is read; how long bare idle is measured. Never two repeats or seeds.
    """
    run, share = here.cfg, cfg.sweep.share_engine
    if share is False or not registry.plugin(run.engine.name).capabilities.can_be_shared:
        return None
    if share is None and _start_s(run.engine, run.model) < SHARED_FROM_S:
        return None
    setup = _setup(run.model, run.gpu, run.engine, run.power)
    scenario, asked = run.scenario, list(cfg.gpu.devices)
    further = (scenario.bare_idle_s, scenario.bare_idle_after_s, run.evidence, run.allow_busy_gpu, asked)
    text = f"{setup} {fit.max_model_len(run)} {further} {cfg.seed} {cfg.repeat}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=4096)
def _start_s(engine: EngineConfig, model: ModelConfig) -> float:
    return registry.plugin(engine.name).expected(RunConfig(engine=engine, model=model)).start_s


@functools.lru_cache(maxsize=4096)
def _setup(model: ModelConfig, gpu: GpuConfig, engine: EngineConfig, power: PowerConfig) -> str:
    # Which of several like GPUs are here is no part of the order of a sweep, which may go on on another host.
    alike = dataclasses.replace(gpu, devices=[])
    nodes = to_json(RunConfig(model=model, gpu=alike, engine=engine, power=power))
    return json.dumps([nodes[name] for name in ("model", "gpu", "engine", "power")], sort_keys=True)


def records_folder(cfg: RunConfig) -> Path:
    return Path(cfg.records_dir).expanduser().absolute()


Notice = Callable[[str], object]
