"""The sweep `submission`, measured in small with the tiny engine on an emulated GPU: what it makes is what a submission needs."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from in_process_lane import InProcessLane

from wattcount.cli.main import main
from wattcount.config import cohorts
from wattcount.records import Record
from wattcount.sweep import local

IN_SMALL = (
    "model=tiny", "engine=tiny", "gpu=h200", "power=emulated", "power.probe=false", "tracking=none", "cooldown_limit_s=0", "repeat=0",
    "scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2", "scenario.bare_idle_after_s=0.2",
    "scenario.lengths.input_tokens=8", "scenario.lengths.output_tokens=4", "engine.args.step_base_ms=20",
)  # fmt: skip
SERVED, BATCH = (
    ("scenario=server", "scenario.window_s=3", "scenario.warmup_s=0", "scenario.warmup_limit_s=0"),
    ("scenario=batch",),
)


@pytest.mark.timeout(280)
def test_a_batch_and_three_rates_with_the_seed_of_the_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cohorts, "today", lambda: date(2026, 11, 28))
    monkeypatch.setattr(local, "ChildLane", InProcessLane)
    for loads in (SERVED, (*BATCH, "scenario.num_requests=4", "scenario.warmup_requests=0")):
        assert main(["+experiment=submission", "cohort=2026_q4", *IN_SMALL, *loads]) == 0
    found = [Record.open(run.parent) for run in (tmp_path / "home" / "records").glob("*/r*/run.json")]
    scenarios = [record.info.resolved.scenario for record in found]
    assert sorted((each.name, getattr(each, "rate_rps", None)) for each in scenarios) == [
        ("batch", None), ("server", 1.0), ("server", 4.0), ("server", 16.0),
    ]  # fmt: skip
    for record in found:
        assert record.info.seed == record.info.resolved.seed == cohorts.cohort_seed("2026_q4")
        assert record.info.config["cohort"] == "2026_q4"
