"""The table that the terminal, MLflow and scripts show."""

from __future__ import annotations

import pytest
from sweep_ledger import PER_TOKEN, planned

from wattcount.sweep import columns
from wattcount.sweep.columns import COLUMNS, FIGURES, Column, table_lines, values
from wattcount.sweep.outcome import Outcome, State

DONE = Outcome(State.done, "a", wall_s=312.0, energy_j=5000.0, figures={PER_TOKEN: 0.0813})


def test_the_table_of_a_terminal() -> None:
    failed = Outcome(State.failed, "b", wall_s=7.0)
    assert table_lines([(planned("a"), DONE), (planned("b", repeat=1), failed)]) == [
        "                                     state   per token    energy  took",
        "  llama3_8b on h200, server 4/s, r0  done     81.30 mJ  5.000 kJ  5:12",
        "  llama3_8b on h200, server 4/s, r1  failed                       0:07",
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
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, tries))
    assert values(planned("a"), DONE)["tries_too"] == 1
    assert [line.split()[-1] for line in table_lines([(planned("a"), DONE)])] == ["tries", "1"]
