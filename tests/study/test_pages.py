"""Tables of docs/study.md: a question's answer, and what the benchmarks wrote."""

from __future__ import annotations

from wattcount.study import pages
from wattcount.study.answers import NOTHING


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_question_without_an_answer_is_its_sentence() -> None:
    assert pages.asked("levers", []) == NOTHING


def coverage(boards: int, scatter: str, same: bool, covered: int) -> dict[str, object]:
    return {
        "boards": boards, "scatter": scatter, "same_boards": same, "truth": "a", "tries": 100, "without_interval": 20,
        "covered": covered, "half_width_median": 0.05,
    }  # fmt: skip


def test_coverage_counts_what_has_an_interval_over_all_truths() -> None:
    found = [coverage(3, "own", True, 78), coverage(3, "own", True, 74), coverage(2, "pooled", False, 80)]
    _, _, two, three = rows(pages.coverage(found))
    assert two == ["2", "-", "-", "-", "100.0 % (± 5.0 %)", "80"]
    assert three == ["3", "95.0 % (± 5.0 %)", "-", "-", "-", "160"]


def test_regret_has_the_mean_and_counts_what_was_refused() -> None:
    loads = [{"tries": 20, "refused": 3}, {"tries": 1, "refused": 0}]
    (_, _, row) = rows(pages.regret({"batch": {"loads": loads, "mean": {"regret": 0.012, "worst": 0.5}}}))
    assert row == ["batch", "2 (21)", "1.2 %", "-", "-", "-", "-", "-", "50.0 %", "3"]


def test_interpolation_has_a_row_for_each_line() -> None:
    done = {
        "rms": {"power over rate": 0.1},
        "bias": {"power over rate": -0.02},
        "rms_by_factor": {"power over rate": {"0 to 2": [0.01, 5], "2 to inf": [0.2, 7]}},
    }
    head, _, row = rows(pages.interpolation(done))
    assert head[-1] == "rates apart by a factor of 2 and more"
    assert row == ["power over rate", "10.0 %", "-2.0 %", "1.0 % (5)", "20.0 % (7)"]
