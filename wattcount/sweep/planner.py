"""Makes the plan of a sweep's configurations: what is done, what cannot be, what is to run and what it will take.

What is done tell the results of the folder, by planned point (`RecordIndex`). What a run will take is estimated from its like
where there are some, else by `wattcount.prediction` (`predict`): a prediction is for planning alone and never leaves the plan.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Protocol

from wattcount.config import fit
from wattcount.config.identity import planned_key, planned_point
from wattcount.config.loader import to_json
from wattcount.config.schema import (
    BatchConfig,
    CapacityConfig,
    EngineConfig,
    GpuConfig,
    ModelConfig,
    PowerConfig,
    RunConfig,
    Scenario,
)
from wattcount.engines import registry
from wattcount.metrics.metrics_json import Status
from wattcount.prediction.setting import Abstained, PredictionSetting
from wattcount.prediction.steady import Expected, expected
from wattcount.report.labels import asked_load
from wattcount.result import Result, results
from wattcount.sweep.capacity import probe_config
from wattcount.sweep.machine import Here, skip_of
from wattcount.sweep.point import INVALID_BEFORE, Plan, Point, State, ordered

FACTS = ("evidence", "device", "version_minor", "found_name", "fingerprints")
"""Fields of a `Result` that a planned point leaves out, because the machine that measures finds them."""


class RecordIndex:
    """Results by planned point, seed and repeat; in each the oldest first.

    set_aside   damaged records, which stand for nothing
    """

    def __init__(self, found: Iterable[Result]) -> None:
        """`found`: the oldest first."""
        self._by_run: dict[tuple[str | None, int | None, int | None], list[Result]] = {}
        self._by_point: dict[str | None, list[Result]] = {}
        self.set_aside: list[Result] = []
        for result in found:
            if result.status is Status.damaged:
                self.set_aside.append(result)
                continue
            point = result.planned_point
            self._by_run.setdefault((point, result.seed, result.repeat), []).append(result)
            self._by_point.setdefault(point, []).append(result)

    def __len__(self) -> int:
        return sum(map(len, self._by_point.values()))

    def runs(self, point: str, seed: int, repeat: int, facts: Mapping[str, str | None]) -> list[Result]:
        """Those of one repeat, of machines of which all that is known in `facts` (of FACTS) holds too."""
        return [found for found in self._by_run.get((point, seed, repeat), ()) if _agree(found, facts)]

    def valid(self, point: str, facts: Mapping[str, str | None]) -> list[Result]:
        """Valid ones of a point, whatever their seed and repeat."""
        return [found for found in self._by_point.get(point, ()) if found.valid and _agree(found, facts)]


def read_index(records_dir: Path, *, keep: bool = True) -> RecordIndex:
    """All results of a folder, see `results.results`."""
    return RecordIndex(results(records_dir, keep=keep))


def _agree(found: Result, facts: Mapping[str, str | None]) -> bool:
    return all(getattr(found, name) == value for name, value in facts.items())


MEASURED, PREDICTED = "measured", "predicted"

SLOW_STEP_S = 0.01
"""Time of a whole step [s], where nothing is known of what computes it."""
UNKNOWN_BUSY_SHARE = 0.5
"""Power while computing, where nothing is known of the model or the GPU, as a share of the power limit."""
UNKNOWN_LOADED_SHARE = 0.07
"""Power of an engine without a request above bare idle, in the same case."""
UNKNOWN_TDP_W, UNKNOWN_IDLE_W = 300.0, 50.0


@dataclass(frozen=True)
class Estimate:
    """Estimate for one run: seconds from start to end, joules of its GPUs, and what both rest on."""

    wall_s: float
    energy_j: float | None
    basis: str


class Estimator:
    """Estimates by what is in `index`; points that differ only in seed and repeat have one estimate."""

    def __init__(self, index: RecordIndex) -> None:
        self._index = index
        self._known: dict[tuple[str, bool], Estimate] = {}

    def estimate(
        self, point: str, cfg: RunConfig, facts: Mapping[str, str | None], *, follows: bool = False
    ) -> Estimate:
        """`point`: its key without seed and repeat. `facts`: as for `RecordIndex.valid`. `follows`: as for `predict`."""
        known = self._known.get((point, follows))
        if known is None:
            known = self._measured(point, facts, follows) or predict(cfg, follows=follows)
            self._known[point, follows] = known
        return known

    def _measured(self, point: str, facts: Mapping[str, str | None], follows: bool) -> Estimate | None:
        like = [
            result
            for result in self._index.valid(point, facts)
            if result.wall_s is not None and (result.session not in (None, result.run_id)) == follows
        ]
        energies = [result.run_energy_j for result in like if result.run_energy_j is not None]
        if not like:
            return None
        wall_s = fmean(result.wall_s or 0.0 for result in like)
        return Estimate(wall_s, fmean(energies) if energies else None, MEASURED)


def predict(cfg: RunConfig, *, follows: bool = False) -> Estimate:
    """Estimates a run from the scenario's phases and the prediction of its load; without a prediction from a slow engine and half of the power limit.

    follows   it goes on with the engine of the run before, so that nothing has to start
    """
    scenario, gpu = cfg.scenario, cfg.gpu
    if isinstance(scenario, CapacityConfig):
        probe = probe_config(cfg, scenario.rate_rps or 1.0)
        first, next_ = predict(probe, follows=follows), predict(probe, follows=True)
        more, energies = scenario.max_probes - 1, (first.energy_j, next_.energy_j)
        energy_j = None if None in energies else (energies[0] or 0.0) + more * (energies[1] or 0.0)
        return Estimate(first.wall_s + more * next_.wall_s, energy_j, PREDICTED)
    plugin = registry.plugin(cfg.engine.name)
    engine = plugin.expected(cfg)
    load = _load(cfg) if plugin.capabilities.computes_model else None
    idle_w = gpu.count * (gpu.idle_w or UNKNOWN_IDLE_W)
    tdp_w = gpu.count * (gpu.tdp_w or UNKNOWN_TDP_W)
    outputs = scenario.lengths.output_tokens
    if load is None:
        at_once = fit.concurrency(cfg)
        request_s = outputs * SLOW_STEP_S
        busy_w, loaded_w = UNKNOWN_BUSY_SHARE * tdp_w, idle_w + UNKNOWN_LOADED_SHARE * tdp_w
        output_rate = at_once / SLOW_STEP_S
    else:
        request_s = load.first_s + outputs * load.tpot_s
        busy_w, loaded_w, output_rate = load.power_w, load.idle_w, load.output_rate
    idle_s = 2 * scenario.loaded_idle_s + (0.0 if follows else engine.start_s)
    bare = plugin.capabilities.owns_process and not follows
    bare_s = scenario.bare_idle_s + scenario.bare_idle_after_s if bare else 0.0
    if isinstance(scenario, BatchConfig):
        busy_s = max(request_s, scenario.num_requests * outputs / output_rate)
    else:
        warmup_s = min((scenario.warmup_s + scenario.warmup_limit_s) / 2, scenario.warmup_limit_s)
        busy_s = (warmup_s if scenario.warmup_s else 0.0) + scenario.window_s + request_s
    wall_s = bare_s + idle_s + busy_s + engine.overhead_s
    return Estimate(wall_s, bare_s * idle_w + idle_s * loaded_w + busy_s * busy_w, PREDICTED)


def _load(cfg: RunConfig) -> Expected | None:
    """None where nothing is known of the model or the GPU, or the model does not fit."""
    try:
        return expected(PredictionSetting.of_run(cfg))
    except Abstained:
        return None


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
        where = _where(here.cfg)
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


def _where(cfg: RunConfig) -> str:
    """`planned_point`; searches that end differently are different points, though their runs may be the same."""
    where = planned_point(cfg)
    if not isinstance(cfg.scenario, CapacityConfig):
        return where
    search = (cfg.scenario.slo.attainment, cfg.scenario.tolerance, cfg.scenario.max_probes)
    return hashlib.sha256(f"{where} {search}".encode()).hexdigest()


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
        expected = estimator.estimate(_where(here.cfg), here.cfg, here.facts, follows=follows)
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
def _label(scenario: Scenario, model: ModelConfig, engine: EngineConfig, gpu: GpuConfig) -> str:
    """What a point's load is called."""
    return asked_load(RunConfig(scenario=scenario, model=model, engine=engine, gpu=gpu))


def session_of(cfg: RunConfig, here: Here) -> str | None:
    """`Point.session`: what is the same for points that differ only in scenario and load, and whose engine is set up alike.

    That is all of the engine, as resolved, with the context length that it is started with; the model, the GPU and its settings;
    how power is read; how long bare idle is measured. Never two repeats or seeds.
    """
    run, share = here.cfg, cfg.sweep.share_engine
    if isinstance(cfg.scenario, CapacityConfig):
        return None  # its runs share one of their own
    if share is False or not registry.plugin(run.engine.name).capabilities.can_be_shared:
        return None
    if share is None and _start_s(run.engine, run.model) < SHARED_FROM_S:
        return None
    setup = _setup(run.model, run.gpu, run.engine, run.power)
    scenario, asked = run.scenario, list(cfg.gpu.devices)
    idle = f"{scenario.bare_idle_s} {scenario.bare_idle_after_s}"
    # Servers are told once whether lengths are forced.
    further = f"{run.evidence} {run.allow_busy_gpu} {asked} {scenario.lengths.force_output}"
    text = f"{setup} {fit.max_model_len(run)} {idle} {further} {cfg.seed} {cfg.repeat}"
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
