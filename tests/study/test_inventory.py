"""What records hold: which runs, starts and boards a cell counts, what was spoiled, and what a valid run took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic_record import SyntheticRun

from wattcount.metrics.metrics_json import Finding, Status
from wattcount.result import Result
from wattcount.study.inventory import Matrix, costs, findings, seconds, spoiled, total


def run(run_id: str, **other: Any) -> Result:
    values: dict[str, Any] = {
        "run_id": f"20261127-120000-000-{run_id}",
        "session": run_id,
        "model": "llama3_8b",
        "gpus": ("NVIDIA H200",),
        "boards": ("GPU-aaaa",),
        "kind": "server",
        "rate_rps": 4.0,
        "wall_s": 100.0,
    }
    return Result(**(values | other))


def stalled(run_id: str, **other: Any) -> Result:
    return run(run_id, status=Status.invalid, reasons=("engine_stalled",), **other)


def texts(*runs: Result) -> dict[str, str]:
    """The cells that are not empty, by their load, of the only row."""
    matrix = Matrix.of(runs)
    (cells,) = matrix.rows.values()
    return {load: cell.text for load, cell in zip(matrix.loads, cells, strict=True) if cell.text}


def test_a_cell_counts_valid_runs_their_starts_and_their_boards() -> None:
    shared = [run("a"), run("b", session="a"), run("c", boards=("GPU-bbbb",))]
    assert texts(*shared) == {"4/s": "3, 2, 2"}


def test_invalid_runs_are_counted_apart_and_give_no_start_and_no_board() -> None:
    assert texts(run("a"), stalled("b", boards=("GPU-bbbb",))) == {"4/s": "1, 1, 1 !1"}
    assert texts(stalled("b")) == {"4/s": "0 !1"}


def test_loads_stand_in_ascending_order_behind_batches() -> None:
    runs = [
        run("a", rate_rps=16.0),
        run("b"),
        run("c", kind="batch", rate_rps=None),
        run("d", kind="chat", rate_rps=None),
    ]
    assert Matrix.of(runs).loads == ("batch", "4/s", "16/s", "other")


def test_what_is_not_as_usual_has_a_row_of_its_own() -> None:
    rows = Matrix.of([run("a"), run("b", levers=("fp8",)), run("c", gpus=("NVIDIA H100",))]).rows
    assert list(rows) == [
        ("NVIDIA H100", "llama3_8b"),
        ("NVIDIA H200", "llama3_8b"),
        ("NVIDIA H200", "llama3_8b, fp8"),
    ]


def test_json_has_each_cell_with_the_reasons_of_its_invalid_runs() -> None:
    (cell,) = Matrix.of([run("a"), stalled("b")]).to_json()
    assert (cell["load"], cell["valid"], cell["starts"], cell["boards"]) == ("4/s", 1, 1, 1)
    assert cell["invalid"] == [
        {"run_id": "20261127-120000-000-b", "status": "invalid", "reasons": ["engine_stalled"]}
    ]


def test_text_of_a_record_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in Matrix.of([run("a", model="m\x1b[31m")]).to_text()


def test_spoiled_runs_are_named_with_their_reason() -> None:
    assert "`b`" in spoiled([run("a"), stalled("b")])
    assert "engine_stalled" in spoiled([stalled("b")])
    assert spoiled([run("a")]) == "Every run is valid."


def test_findings_are_counted_by_run_and_not_by_how_often_a_run_has_them() -> None:
    mild = [
        Finding("power_capped", 0.5, 0.1, "share", message, invalidates=False)
        for message in ("once", "twice")
    ]
    table = findings([run("a", findings=tuple(mild)), run("b"), stalled("c"), run("d")])
    assert "| `power_capped` | 1 | 25 % | - |" in table
    assert "| `engine_stalled` | 1 | 25 % | 1 |" in table


def test_what_invalid_runs_and_further_gpus_took_is_in_the_cost_of_valid_ones() -> None:
    alone = [run("a"), stalled("b"), run("c", boards=("GPU-aaaa", "GPU-bbbb"))]
    shared = [run("d"), run("e", session="d", wall_s=50.0)]
    table = costs([*alone, *shared])
    assert "| an engine of its own | 3 | 2 of 3 | 200 |" in table  # (100 + 100 + 2 * 100) / 2
    assert "| an engine shared by several runs | 1 | 2 of 2 | 75 |" in table


def test_a_run_that_tells_no_time_costs_nothing_that_is_known() -> None:
    assert costs([run("a", wall_s=None)]).count("\n") == 1  # the heading alone


def test_the_total_counts_what_is_valid() -> None:
    assert total([run("a"), run("b", session="a"), stalled("c", boards=("GPU-cccc",))]) == (
        "3 runs, 2 of them valid, of 1 model on 1 board, from 1 start of the engine."
    )


def test_seconds_of_phases_are_those_of_valid_servers_by_their_place_on_a_start(tmp_path: Path) -> None:
    record = SyntheticRun().write(tmp_path / "record")
    window = {"kind": "server", "source": record}
    runs = [
        run("a", **window), run("b", **window, session="s"), run("c", **window, session="s"),
        run("d", **window | {"kind": "batch"}), stalled("e", **window),
    ]  # fmt: skip
    (alone, first) = seconds({"data": runs}).splitlines()[2:]
    assert alone == "| data, alone | 1 | 10 | 30 | 0 | 10 | 60 | 10 | 120 |"
    assert first == "| data, first of several | 2 | 10 | 30 | 0 | 10 | 60 | 10 | 120 |"
