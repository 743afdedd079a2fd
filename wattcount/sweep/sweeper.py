"""Hydra's sweeper: plan, show, stop (`dry_run`) or measure what is missing, and say what is left.

What Hydra's own would do, compose and launch every product of values one after the other, is not enough for
thousands of points: `config.points` builds them, `planner` leaves out what is done or cannot be, and
`local` or `cluster` measures the rest.

What a sweep declares are `params`, swept against each other in each of its `cases` (`expand`):

    params: {model: "a,b", repeat: range(5)}
    cases: [{}, {engine.enforce_eager: true}, {gpu: "v100,t4", model.dtype: float16}]

is two models and five repeats as they are, the same eager, and the same in 16 bit on two other GPUs: a baseline and
one change at a time, which no product of axes could say. What the command line sets goes before both. Where cases
list values of a key, the command line chooses among them: each case keeps those it lists, and what none lists goes
to the first one that has the key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from wattcount.config import hub
from wattcount.config.composition import (
    SWEEPER_TARGET,
    TextParser,
    concealed_config,
    entangled,
    from_hydra,
    plain_errors,
)
from wattcount.config.loader import GROUPS
from wattcount.config.paths import default_records_dir
from wattcount.config.points import build_points
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED, EXIT_OK, NotStartedError
from wattcount.masking import concealed_arguments
from wattcount.run.preflight import check_folder, fetches_model
from wattcount.run.waiting import Background
from wattcount.sweep import cluster, local, report
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.local import Job
from wattcount.sweep.machine import AnotherMachine, ThisMachine
from wattcount.sweep.mlflow_log import SweepLog
from wattcount.sweep.planner import Planned, RecordIndex, make_plan, read_index, records_folder, sweep_name
from wattcount.sweep.point import Outcome, Plan, State
from wattcount.sweep.report import SweepResult

NAMED_MODELS = 4
"""Most models that a plan names whose weights are not here."""
SET_ASIDE_LINES = 5
"""Most damaged records that are named when a sweep is planned."""


class PointSweeper(Sweeper):
    """See the module. `cases` are declared beside `params`, see `wattcount.sweep.sweeper`."""

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping[str, Any] | None = None,
        cases: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        del max_batch_size  # Hydra's own sweeper has it
        self._params = dict(params or {})
        self._cases = list(cases or ())

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's launcher is not made: lanes measure here, and `cluster` elsewhere."""
        del task_function
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> SweepResult:
        """`arguments`: the command line's overrides. Raises `NotStartedError` where a point makes no sense."""
        assert self.config is not None
        # Also those of files: plans, `multirun.yaml` and what launchers send to their jobs are made of it.
        self.config = concealed_config(self.config)
        arguments = concealed_arguments(arguments)
        batch = [tuple(concealed_arguments(point)) for point in self._expand(arguments)]
        runs = self._build(batch)
        first = _common(runs)
        here = cluster.launcher_of(self.config) is None
        folder = records_folder(first)
        index = RecordIndex(()) if first.resume is False else read_index(folder, keep=not first.dry_run)
        _set_aside(index, folder)
        planned = make_plan(
            sweep_name(first, arguments),
            _as_typed(self.config, arguments),
            zip(batch, runs, strict=True),
            ThisMachine() if here else AnotherMachine(),
            index,
            share=here,
        )
        jobs = _jobs(planned)
        at_once = local.lane_limit(jobs, first.sweep.workers) if here else None
        elsewhere_kept = None if folder == Path(default_records_dir()).absolute() else folder
        for line in report.plan_lines(planned.plan, at_once, planned.repeated, elsewhere_kept):
            print(line, flush=True)
        for line in _weights_lines(jobs) if here else ():
            print(line, flush=True)
        if first.dry_run:
            print("dry run: nothing was started")
            return SweepResult(planned.plan, dry_run=True)
        elsewhere = None if here else cluster.Cluster(self.config, jobs, planned.plan.name, first)
        check_folder(folder)  # the sweep's ledger is kept there, whoever measures it
        _keep_config(self.config, needed=not here)
        result = self._measure(planned, jobs, first, at_once, elsewhere)
        return dataclasses.replace(result, records_dir=elsewhere_kept)

    def _expand(self, arguments: list[str]) -> list[tuple[str, ...]]:
        assert self.hydra_context is not None
        with plain_errors():
            parser = TextParser.create(config_loader=self.hydra_context.config_loader)
            points = expand(self._params, self._cases, arguments, parser)
        if not points:
            raise NotStartedError("the sweep has no point: none of its cases has the values asked for")
        return points

    def _build(self, batch: Sequence[tuple[str, ...]]) -> list[RunConfig]:
        """Every point's configuration; one line for each problem, all of them at once, and nothing started."""
        assert self.hydra_context is not None
        assert self.config is not None
        loader, master = self.hydra_context.config_loader, self.config

        def compose(overrides: Sequence[str]) -> DictConfig:
            with plain_errors():
                return loader.load_sweep_config(master, list(overrides))

        search_path = [f"{source.schema}://{source.path}" for source in master.hydra.runtime.config_sources]
        runs, problems = build_points(batch, compose, from_hydra, GROUPS, entangled=entangled(search_path))
        if problems:
            raise NotStartedError(
                "\n".join(f"{line}  (in the point: {point})" for line, point in problems.items())
            )
        return [run for run in runs if run is not None]

    def _measure(
        self,
        planned: Planned,
        jobs: Sequence[Job],
        first: RunConfig,
        at_once: int | None,
        elsewhere: cluster.Cluster | None,
    ) -> SweepResult:
        plan = planned.plan
        _record_lines(plan)
        background = Background("sweep")
        logs = SweepLog(
            first.records_dir,
            plan.name,
            first.tracking,
            lambda problem: watcher.notice(problem),
            lambda line: background.post(partial(print, line, flush=True)),
        )
        with Ledger.open(first.records_dir, plan.name) as ledger:
            ledger.write_plan(plan)
            ledger.append(Outcome(State.running))
            watcher = report.create_watcher(
                first,
                plan,
                logs if first.tracking.enabled else None,
                background,
                by_others=elsewhere is not None,
            )
            interrupted: int | None = None
            reason = "failed"
            try:
                if elsewhere is not None:
                    outcomes, interrupted = elsewhere.run(ledger, watcher)
                else:
                    lanes = local.Lanes(plan.name, ledger, watcher, first.sweep, limit=at_once or 1)
                    outcomes, interrupted = lanes.run(jobs)
                reason = "finished" if interrupted is None else "interrupted"
            except KeyboardInterrupt:
                reason = "interrupted"
                raise
            finally:
                ledger.append(Outcome(State.done, reason=reason))
                if not (first.tracking.enabled and reason == "finished"):
                    logs.abandon()
                watcher.close()
        if first.tracking.enabled and interrupted is None and plan.in_state(State.waiting):
            logs.close()
            background.flush()
        return SweepResult(plan, outcomes, interrupted)


def register() -> None:
    """Makes `hydra/sweeper=wattcount` this one."""
    # Hydra takes plugins only by names below `hydra_plugins`, which no editable install can provide.
    Plugins.instance().class_name_to_class[SWEEPER_TARGET] = PointSweeper


def exit_code(sweep: SweepResult) -> int:
    """0 all that can be done is done, 2 nothing was started, 1 anything else (see `wattcount.errors`)."""
    if sweep.interrupted is not None:
        return sweep.interrupted
    if sweep.dry_run:
        return EXIT_OK
    done = bool(sweep.plan.in_state(State.done))
    codes = {
        EXIT_FAILED if outcome.exit_code == EXIT_OK and outcome.state is not State.done else outcome.exit_code
        for outcome in sweep.outcomes.values()
    }
    if len(sweep.outcomes) < len(sweep.plan.in_state(State.waiting)):
        codes.add(EXIT_FAILED)
    if any(point.reason == "invalid_before" for point in sweep.plan.points):
        codes.add(EXIT_FAILED)
    if not codes:
        return EXIT_OK if done else EXIT_NOT_STARTED
    if codes == {EXIT_OK}:
        return EXIT_OK
    return EXIT_NOT_STARTED if codes == {EXIT_NOT_STARTED} and not done else EXIT_FAILED


def _complain(problem: str) -> None:
    print(f"wattcount: {problem}", file=sys.stderr, flush=True)


def _set_aside(index: RecordIndex, records_dir: Path) -> None:
    """A line for each record that is damaged; for many only the first."""
    for result in index.set_aside[:SET_ASIDE_LINES]:
        _complain(f"set aside: {result.verdict.message}")
    if (more := len(index.set_aside) - SET_ASIDE_LINES) > 0:
        _complain(f"and {more} more damaged records in {records_dir}; wattcount show lists them")


def _weights_lines(jobs: Sequence[Job]) -> list[str]:
    """Models whose files are not in the hub's local cache, and whether the hub answers; the fit of such a model is by data sheet alone."""
    models = {job.cfg.model for job in jobs if fetches_model(job.cfg)}
    absent = sorted(
        (model for model in models if not hub.is_complete(model)), key=lambda model: model.hf_id or ""
    )
    if not absent:
        return []
    names = ", ".join(dict.fromkeys(model.hf_id or "" for model in absent[:NAMED_MODELS]))
    more = f" and {len(absent) - NAMED_MODELS} more" if len(absent) > NAMED_MODELS else ""
    found = hub.look(absent[0])
    how = "each is downloaded before its first run" if found.problem is None else "their runs will be refused"
    why = [] if found.problem is None else [f"            {found.problem}"]
    return [f"  weights   not in the local cache: {names}{more}; {how}", *why]


def _record_lines(plan: Plan) -> None:
    """Prints where the records are that make points done before anything is started."""
    done = plan.in_state(State.done)
    if done:
        print("already measured (resume=false measures again):")
    for point in done:
        print(f"record: {point.record}")


def _keep_config(config: DictConfig, *, needed: bool) -> None:
    """What the sweep was asked for, as `multirun.yaml` in its folder, over no other one's.

    `needed`: a launcher keeps files of its own in that folder. Raises `NotStartedError` where it cannot be made.
    """
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(config)
        for number in itertools.count(1):
            with contextlib.suppress(FileExistsError):
                name = "multirun.yaml" if number == 1 else f"multirun-{number}.yaml"
                with (folder / name).open("x", encoding="utf-8") as stream:
                    stream.write(text)
                return
    except OSError as error:
        problem = f"hydra.sweep.dir: cannot write to {folder}: {error.strerror}; set hydra.sweep.dir=FOLDER or $WATTCOUNT_HOME"
        if needed:
            raise NotStartedError(problem) from None
        _complain(f"{problem}; what this sweep was asked for is kept in its plan only")


def _common(runs: Sequence[RunConfig]) -> RunConfig:
    first = runs[0]
    for name in ("records_dir", "sweep", "dry_run"):
        if any(getattr(run, name) != getattr(first, name) for run in runs):
            raise NotStartedError(f"{name}: must be the same for all points of a sweep")
    return first


def _as_typed(master: DictConfig, arguments: Sequence[str]) -> list[str]:
    """The command line that starts this sweep again."""
    flags = [] if any(argument.startswith("experiment=") for argument in arguments) else ["-m"]
    for source in master.hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
    own = (text for text in master.hydra.overrides.hydra if not text.startswith("hydra.mode"))
    return [*flags, *arguments, *own]


def _jobs(planned: Planned) -> list[Job]:
    return [
        Job(
            point,
            _to_measure(planned.configs[point.key]),
            tuple(gpu.uuid for gpu in planned.here[point.key].gpus),
        )
        for point in planned.plan.in_state(State.waiting)
    ]


def _to_measure(cfg: RunConfig) -> RunConfig:
    return dataclasses.replace(cfg, resume=cfg.resume is not False)


Axes = dict[str, list[str]]
"""Keys in order, each with the overrides that set it, one a value."""


def expand(
    params: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
    arguments: Sequence[str],
    parser: OverridesParser,
) -> list[tuple[str, ...]]:
    """Every point's overrides, in the order declared; none twice. `arguments` are the command line's overrides.

    Raises `NotStartedError` for a sweep that is none of a list, `choice`, `range` or `glob`.
    """
    declared = _axes([f"{key}={to_override(value)}" for key, value in params.items()], parser)
    asked = _axes(arguments, parser)
    each = [
        _axes([f"{key}={to_override(value)}" for key, value in case.items()], parser) for case in cases
    ] or [{}]
    points: dict[tuple[str, ...], None] = {}
    for index in range(len(each)):
        axes = declared | each[index]
        for key, texts in asked.items():
            axes[key] = _chosen(each, index, key, texts) if key in each[index] else texts
        points |= dict.fromkeys(itertools.product(*axes.values()))
    return list(points)


def to_override(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it on the right of `=`; text stays as it is and may sweep."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{to_override(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(to_override(inner) for inner in value) + "]"
    return str(value)


def _chosen(cases: Sequence[Axes], index: int, key: str, texts: Sequence[str]) -> list[str]:
    having = [number for number, case in enumerate(cases) if key in case]
    listed = {text for number in having for text in cases[number][key]}
    return [
        text for text in texts if text in cases[index][key] or (text not in listed and index == having[0])
    ]


def _axes(texts: Sequence[str], parser: OverridesParser) -> Axes:
    return {override.get_key_element(): _values(override) for override in parser.parse_overrides(list(texts))}


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        assert override.value_type is not None
        raise NotStartedError(
            f"{key}: {override.value_type.name.lower()} is no list of values; write KEY=A,B or KEY=range(5)"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
