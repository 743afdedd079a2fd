"""Any launcher, whatever it does: here Hydra's own that runs jobs one by one, made to break."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode

from wattcount.config.composition import _initialized, compose
from wattcount.errors import NotStartedError
from wattcount.sweep.planning.keys import plan_key
from wattcount.sweep.planning.plan import Plan, PlannedPoint
from wattcount.sweep.running.job import JOB_LOST
from wattcount.sweep.running.launch import Launch
from wattcount.sweep.running.task import PointResult
from wattcount.sweep.story.ledger import Ledger, read_state
from wattcount.sweep.view.watch import Lines

SHORT = [
    "model=tiny", "engine=tiny", "power=emulated", "tracking=none", "scenario=batch", "scenario.num_requests=4",
    "scenario.warmup_requests=0", "scenario.lengths.input_tokens=8", "scenario.lengths.output_tokens=150",
    "scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2", "scenario.bare_idle_after_s=0.2",
    "power.probe=false",
]  # fmt: skip


class BreaksAfterOne(BasicLauncher):
    """Its second job takes it down."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        done = super().launch(job_overrides[:1], initial_job_idx)
        if len(job_overrides) > 1:
            raise RuntimeError("a worker died")
        return done


class Refuses(BasicLauncher):
    def launch(self, *_: object) -> Sequence[JobReturn]:
        raise RuntimeError("no such queue")


def launch(
    launcher: type, home: Path, points: Sequence[Sequence[str]], *more: str
) -> tuple[list[PointResult], Path]:
    common = [*SHORT, f"records_dir={home / 'records'}", *more]
    planned, configs = [], {}
    for values in points:
        cfg = compose([*common, *values])
        key = plan_key(cfg)
        configs[key] = cfg
        planned.append(
            PlannedPoint(key, (*common, *values), "tiny", cfg.gpu.name, "batch", "4", cfg.seed, cfg.repeat)
        )
    state = Singleton.get_state()
    target = f"hydra_plugins.wattcount_tests.{launcher.__name__}"
    Plugins.instance().class_name_to_class[target] = launcher
    try:
        with _initialized():
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config(
                "config",
                [
                    *common,
                    f"hydra.launcher._target_={target}",
                    f"hydra.sweep.dir={home / 'sweep'}",
                ],
                RunMode.MULTIRUN,
                with_log_configuration=False,
            )
            context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
            first = next(iter(configs.values()))
            study = Launch(config, context, planned, configs, "s", first)
            with Ledger.open(first.records_dir, "s") as ledger:
                ledger.write_plan(Plan("s", tuple(planned), "2026-01-01T00:00:00+00:00", ()))
                results, interrupted = study.run(ledger, Lines(len(planned), None))
    finally:
        Singleton.set_state(state)
    assert interrupted is None
    return [results[point.key] for point in planned], home / "records"


def test_what_was_measured_before_a_launcher_broke_counts_and_the_rest_is_tried_again(tmp_path: Path) -> None:
    points = [["gpu=l4", f"repeat={repeat}"] for repeat in range(3)]
    results, records = launch(BreaksAfterOne, tmp_path, points)
    assert [result.reason == JOB_LOST for result in results] == [False, False, True]
    assert [result.attempt for result in results] == [1, 2, 2]
    assert "the launcher failed: RuntimeError: a worker died" in (results[2].message or "")
    assert len(list(records.glob("*/r*/run.json"))) == 2
    states = [point.state.value for point in read_state(records, "s").points]
    assert states[2] == "lost"
    assert not list(records.glob(".studies/s/jobs/*"))


def test_groups_do_not_cost_each_other_anything(tmp_path: Path) -> None:
    results, _ = launch(BreaksAfterOne, tmp_path, [["gpu=l4"], ["gpu=a100"]])
    assert [result.reason == JOB_LOST for result in results] == [False, False]


def test_a_launcher_that_refuses_everything_loses_every_point_with_its_reason(tmp_path: Path) -> None:
    results, _ = launch(Refuses, tmp_path, [["gpu=l4"], ["gpu=a100"]], "sweep.attempts=1")
    assert {result.message for result in results} == {"the launcher failed: RuntimeError: no such queue"}
    assert {result.attempt for result in results} == {1}


def test_a_placement_that_the_launcher_does_not_know_is_found_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match="partition: no such key"):
        launch(Refuses, tmp_path, [["gpu=l4"]], "sweep.placement.l4.partition=gpu")
