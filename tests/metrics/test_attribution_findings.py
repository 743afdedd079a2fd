"""What a record says against applying its attribution elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from synthetic_record import SyntheticRun, observation

from wattcount.metrics import compute
from wattcount.metrics.attribution_findings import slowed
from wattcount.metrics.summary import summary
from wattcount.metrics.window import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase

H200 = Path(__file__).resolve().parents[2] / "data" / "h200" / "records"
CODE = "attribution_at_slowed_clocks"


def found_in(run: SyntheticRun, folder: Path) -> list:
    record = Record.open(run.write(folder))
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    return list(slowed(record, window))


@pytest.mark.parametrize(
    ("point", "said"), [("37f0", True), ("509c", True), ("4720", False), ("a1d2", False)]
)
def test_servers_at_the_power_limit_say_so_and_others_do_not(point: str, said: bool) -> None:
    (path,) = H200.glob(f"{point}*/r*")
    record = Record.open(path)
    content = compute(record)
    findings = {finding["code"]: finding for finding in content["validity"]["findings"]}
    assert (CODE in findings) is said
    assert content["validity"]["valid"]
    console = Console(width=200, record=True)
    console.print(summary(record.info, content))
    assert ("says nothing of a lighter load" in console.export_text()) is said


def test_a_record_without_attribution_has_nothing_to_warn_of(tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [observation("clock_sm", 1, 2000), observation("clock_sm", 40, 1000)]
    content = compute(Record.open(run.write(tmp_path)))
    assert content["metrics"]["energy/prefill_j"] is None
    assert CODE not in {finding["code"] for finding in content["validity"]["findings"]}


@pytest.mark.parametrize(
    ("bit", "why"),
    [(0x40, "temperature"), (0x80, "an external power brake"), (0x0, "something that NVML does not name")],
)
def test_heat_and_unnamed_changes_of_the_clock_count_as_well(bit: int, why: str, tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 1800),
        observation("clock_event_reasons", 1, 0),
        observation("clock_event_reasons", 70, bit),
    ]
    (finding,) = found_in(run, tmp_path)
    assert finding.code == CODE
    assert finding.figure == pytest.approx(0.05)
    assert finding.message.startswith(why)
    assert not finding.invalidates


def test_clocks_that_hardly_moved_are_no_finding(tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [observation("clock_sm", 1, 2000), observation("clock_sm", 40, 1975)]
    assert found_in(run, tmp_path) == []
