from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from sweep_ledger import PER_TOKEN, make_sweep, planned

from wattcount.sweep import status
from wattcount.sweep.ledger import Ledger, read_state
from wattcount.sweep.point import INVALID_BEFORE, Outcome, Plan, State
from wattcount.sweep.state import Writer, tally
from wattcount.sweep.status import (
    COLUMNS,
    FIGURES,
    Column,
    evidence_text,
    render,
    sweep_page,
    table_lines,
    to_json,
    values,
    when,
)

S = 1_000_000_000


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Ledger]:
    with make_sweep(tmp_path) as made:
        yield made


def shown(sweep, width: int = 80, **options) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    for part in render(sweep, **options):
        console.print(part, soft_wrap=bool(getattr(part, "no_wrap", False)))
    return out.getvalue()


@pytest.mark.usefixtures("sweep")
def test_everything_is_said_in_80_columns(tmp_path):
    text = shown(read_state(tmp_path, "big"))
    assert max(len(line) for line in text.splitlines()) <= 80
    one_line = " ".join(text.split())
    for expected in (
        "big: running: pid",
        "2 done, 1 failed, 1 skipped, 1 running, 1 waiting of 6",
        "40.0 % of what can be measured",
        "from what was measured",
        "10.00 kJ",
        "r4: 81.30 mJ per output token, took 2:00",
        "emulated",
        "llama3_8b on h200, server 4/s, r2: since",
        "GPU-01234567",
        "out_of_memory: 1 point, tried once",
        "CUDA [out] of memory",
        "does_not_fit: 1 point",
        "weights 131.4 GiB + KV cache 2.5 GiB > 22.5 GiB [L4]",
        "llama3_8b on h200, server 4/s, r0 done 81.30 mJ 5.000 kJ 2:00",
    ):
        assert expected in one_line
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_killed_sweep_says_how_to_go_on(sweep: Ledger, tmp_path):
    sweep.close()
    text = shown(read_state(tmp_path, "big"))
    assert "was killed" in text
    assert "go on with     python -m wattcount +experiment=big 'a=b c'\n" in text
    assert "process_died: 1 point, tried once" in text
    assert "4 min of runs" in text  # what waits and what was lost


def test_a_sweep_that_ended(sweep: Ledger, tmp_path):
    sweep.append(Outcome(State.done, reason="interrupted"))
    sweep.close()
    text = shown(read_state(tmp_path, "big"))
    assert "(interrupted), 3 not done" in text


def test_a_finished_sweep_asks_for_nothing():
    plan = Plan("big", (planned("a", state=State.done), planned("b", state=State.skipped)), "", ("x",))
    text = shown(tally(plan, []).state(5 * S))
    assert "big: finished" in text
    assert "nothing left to measure" in text
    assert "go on with" not in text


def test_nothing_known_is_said_so():
    text = shown(tally(Plan("big", (planned("a"),), "", ()), []).state(5 * S))
    assert "not started yet" in text
    assert text.count("not known yet") == 2


def test_a_sweep_without_a_point():
    assert "0 points" not in shown(tally(Plan("big", (), "", ()), []).state(5 * S))
    assert to_json(tally(Plan("big", (), "", ()), []).state(5 * S))["points"] == 0


def many_failures(number: int):
    points = tuple(planned(f"{i}") for i in range(number))
    events = [
        Outcome(State.failed, str(i), S, reason=f"reason{i % 15}", message=f"no {i}") for i in range(number)
    ]
    return tally(Plan("big", points, "", ()), [Writer(events, False)]).state(5 * S)


def test_many_failures_are_a_line_a_reason_unless_all_are_asked_for():
    brief, whole = shown(many_failures(300)), shown(many_failures(300), everything=True)
    assert len(brief.splitlines()) < 45
    assert "reason0: 20 points" in brief
    assert "and 5 more reasons" in brief
    assert (
        sum(f"no {i}\n" in "\n".join(line.rstrip() for line in whole.splitlines()) + "\n" for i in range(300))
        == 300
    )


def test_what_another_sweep_found_invalid_is_explained():
    point = planned("a", state=State.skipped, reason=INVALID_BEFORE, message="clock_throttled: hot")
    sweep = tally(Plan("big", (point,), "", ()), []).state(0)
    assert "invalid_before: 1 point" in shown(sweep)
    assert "clock_throttled: hot" in shown(sweep)


@pytest.mark.usefixtures("sweep")
def test_json_is_plain_and_whole(tmp_path):
    found = json.loads(json.dumps(to_json(read_state(tmp_path, "big"))))
    assert found["alive"] is True
    assert found["counts"] == {
        "waiting": 1, "running": 1, "done": 2, "failed": 1, "invalid": 0, "skipped": 1, "lost": 0,
    }  # fmt: skip
    assert found["energy_j"] == 10000.0
    assert found["latest"]["j_per_output_token"] == 0.0813
    assert found["running"][0]["gpu_uuid"] == "GPU-0123456789"
    assert found["failures"][0]["tries"] == 1
    assert found["failures"][0]["reason"] == "out_of_memory"
    assert found["skipped"] == [
        {
            "reason": "does_not_fit",
            "points": 1,
            "message": "weights 131.4 GiB + KV cache 2.5 GiB > 22.5 GiB [L4]",
        }
    ]
    assert found["evidence"] == "emulated"
    assert [start["killed"] for start in found["starts"]] == [False]


@pytest.mark.usefixtures("sweep")
def test_evidence_of_records_that_cannot_be_read(tmp_path):
    found = read_state(tmp_path, "big")
    for record in (tmp_path / "records").iterdir():
        (record / "run.json").write_text("{")
    assert evidence_text(found) is None


def test_times_of_other_days_have_a_date():
    day = 86400 * S
    assert when(10 * day, 10 * day).count(":") == 2
    assert when(10 * day, 12 * day).startswith("1970-01-1")


DONE = Outcome(State.done, "a", wall_s=312.0, energy_j=5000.0, figures={PER_TOKEN: 0.0813})


def test_the_table_of_a_terminal() -> None:
    failed = Outcome(State.failed, "b", wall_s=7.0)
    assert table_lines([(planned("a"), DONE), (planned("b", repeat=1), failed)]) == [
        "                                     state   per token  run's energy  took",
        "  llama3_8b on h200, server 4/s, r0  done     81.30 mJ      5.000 kJ  5:12",
        "  llama3_8b on h200, server 4/s, r1  failed                           0:07",
    ]


def test_it_is_no_wider_than_a_terminal_and_leaves_out_what_is_not_known() -> None:
    long = planned("a", model="a_model_with_a_long_name", load="batch of 512 requests, fp8, eager")
    lines = table_lines([(long, DONE)])
    assert max(map(len, lines)) <= 80
    assert "".join(line[2:30].strip() for line in lines[1:]).count("a_model_with_a_long_name") == 1
    assert "energy" not in table_lines([(planned("a"), Outcome(State.done))])[0]
    assert table_lines([]) == []


def test_figures_are_of_points_that_are_done() -> None:
    assert PER_TOKEN in FIGURES
    invalid = Outcome(State.invalid, figures={PER_TOKEN: 0.0813})
    assert values(planned("a"), DONE)["j_per_output_token"] == 0.0813
    assert values(planned("a"), invalid)["j_per_output_token"] is None


def test_a_column_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Column("tries_too", lambda _, outcome: outcome.attempt, "1", "tries")
    monkeypatch.setattr(status, "COLUMNS", (*COLUMNS, tries))
    assert values(planned("a"), DONE)["tries_too"] == 1
    assert [line.split()[-1] for line in table_lines([(planned("a"), DONE)])] == ["tries", "1"]


@pytest.mark.usefixtures("sweep")
def test_runs_that_shared_an_engine_are_told(tmp_path):
    state = read_state(tmp_path, "big")
    assert "runs on" not in shown(state)
    measured = {
        key: replace(outcome, session="the first") if outcome.state is State.done else outcome
        for key, outcome in state.outcomes.items()
    }
    state = replace(state, outcomes=measured)
    assert "engine         2 runs on 1 start\n" in shown(state)
    rows = to_json(state, everything=True)["rows"]
    assert {row["session"] for row in rows} == {None, "the first"}


def test_the_page_in_mlflow_has_the_table_of_results(tmp_path: Path) -> None:
    with make_sweep(tmp_path):
        results = sweep_page(read_state(tmp_path, "big"), tmp_path).results
    (row,) = [line for line in results.splitlines() if line.startswith("| llama3_8b")]
    assert "| 2 |" in row
    assert row.endswith("| valid |")


def test_a_sweep_over_rates_has_its_load_curve_as_a_picture() -> None:
    from tests.site.sample import RATES, results
    from wattcount.sweep.status import _pictures

    assert _pictures(results())["load_curve.png"].startswith(b"\x89PNG")
    assert _pictures([run for run in results() if run.rate_rps in RATES[:2]]) == {}
