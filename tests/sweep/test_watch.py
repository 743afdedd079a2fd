"""What is printed while a sweep is measured: a block on a terminal, lines elsewhere."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from sweep_ledger import planned
from synthetic_record import SyntheticRun

from wattcount.config.composition import compose
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_FAILED, EXIT_OK
from wattcount.sweep import watch
from wattcount.sweep.display import LiveSweepDisplay
from wattcount.sweep.ledger import Ledger, read_tally
from wattcount.sweep.local import LANE_DIED, Job
from wattcount.sweep.plan import Plan
from wattcount.sweep.task import PointResult

PLAN = Plan("s", (planned("a"), planned("b", repeat=1)), "2026-01-01T00:00:00Z", ())


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    made = compose(["model=tiny", "engine=tiny"])
    made.records_dir = str(tmp_path)
    with Ledger.open(tmp_path, "s") as ledger:
        ledger.write_plan(PLAN)
    return made


def job(cfg: RunConfig, number: int) -> Job:
    return Job(PLAN.points[number], cfg)


def result(number: int, exit_code: int = EXIT_OK, **values: object) -> PointResult:
    plain = PointResult(exit_code, (), f"/records/{number}", None, key=PLAN.points[number].key)
    return dataclasses.replace(plain, **values)  # type: ignore[arg-type]


def test_lines_where_nobody_looks(cfg: RunConfig) -> None:
    assert isinstance(watch.shown(cfg, PLAN), watch.Lines)


def test_a_block_where_it_is_asked_for(cfg: RunConfig) -> None:
    cfg.display.live = True
    block = watch.shown(cfg, PLAN)
    assert isinstance(block, watch.Block)
    block.close()


def test_the_block_ends_with_what_became_of_every_point(cfg: RunConfig) -> None:
    out = io.StringIO()
    block = watch.Block(LiveSweepDisplay(read_tally(cfg.records_dir, "s"), out))
    block.started(job(cfg, 0))
    block.started(job(cfg, 1))
    (Path(cfg.records_dir) / "record").mkdir()
    (Path(cfg.records_dir) / "record" / "run.json").touch()
    figures = {
        "record_path": f"{cfg.records_dir}/record",
        "wall_s": 60.0,
        "energy_j": 5e3,
        "j_per_output_token": 0.08,
    }
    block.ended(job(cfg, 0), result(0, **figures), again=False)
    block.ended(job(cfg, 1), result(1, EXIT_FAILED, record_path=None, reason=LANE_DIED), again=True)
    block.tick()
    block.close()
    shown = out.getvalue()
    assert f"record: {cfg.records_dir}/record\n" in shown
    assert "lost, lane_died" in shown
    assert "2 points: 1 done, 1 lost" in shown


def test_a_lane_that_is_free_is_numbered_again(cfg: RunConfig) -> None:
    out = io.StringIO()
    block = watch.Block(LiveSweepDisplay(read_tally(cfg.records_dir, "s"), out))
    block.started(job(cfg, 0))
    block.ended(job(cfg, 0), result(0), again=False)
    block.started(job(cfg, 1))
    assert list(block._numbers.values()) == [1]
    block.close()


def test_a_line_has_the_figures_of_a_run_and_what_they_rest_on(
    cfg: RunConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = SyntheticRun().write(tmp_path / "records")
    figures = {"record_path": str(record), "wall_s": 60.0, "j_per_output_token": 0.08}
    watch.Lines(2).ended(job(cfg, 0), result(0, **figures), again=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith(": 80.00 mJ per output token, took 1:00; measured")
    assert shown[1] == f"record: {record}"
