"""The table of results: which runs it pools, how sure it is of their means, and how it looks."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from math import exp, hypot, sqrt
from typing import Any

import pytest

from wattcount.metrics.metrics_json import Status
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import BATCH, PER_TOKEN, START_SCATTER
from wattcount.result.result import ENERGY
from wattcount.statistics import t_975
from wattcount.study.pooled import names, pooled, title, to_csv, to_json, to_lines, to_markdown
from wattcount.study.selection import TOKENS

TTFT = "latency/ttft_p50_ms"


def run(per_token_j: float | None = 0.1, *, key: str = "a", sensor: float = 0.03, **other: Any) -> Result:
    """A measured batch of 512 by default, with an energy of 1 kJ, of which 1 J is the method's uncertainty."""
    metrics = {
        PER_TOKEN: per_token_j,
        TOKENS: 1000.0,
        ENERGY: 1000.0,
        f"{ENERGY}_u95_method": 1.0,
        f"{ENERGY}_u95_sensor": 1000.0 * sensor,
        TTFT: 40.0,
    }
    values: dict[str, Any] = {
        "setting_key": key,
        "model": "llama3_8b",
        "gpus": ("NVIDIA H200",),
        "boards": ("GPU-aaaa",),
        "kind": "batch",
        "num_requests": 512,
        "evidence": Evidence.MEASURED,
        "weights": "hub",
        "metrics": metrics,
    }
    return Result(**(values | other))


def invalid(reason: str, **other: Any) -> Result:
    return run(9.0, status=Status.invalid, reasons=(reason,), **other)


def test_repeats_of_a_setting_are_one_row_whatever_their_board() -> None:
    rows = pooled([run(0.1), run(0.3, key="b", levers=("fp8",)), run(0.2, boards=("GPU-bbbb",))])
    assert [len(row.runs) for row in rows] == [2, 1]
    assert rows[0].mean(PER_TOKEN) == pytest.approx(0.15)


def test_invalid_runs_are_counted_and_not_averaged() -> None:
    (row,) = pooled([run(0.1), invalid("interrupted"), run(0.1), invalid("interrupted"), invalid("timeout")])
    assert row.mean(PER_TOKEN) == pytest.approx(0.1)
    assert row.verdict == "2 of 5 valid: interrupted, timeout"
    (none,) = pooled([invalid("timeout")])
    assert none.mean(PER_TOKEN) is None
    assert none.u95(PER_TOKEN) is None
    assert none.verdict == "INVALID: timeout"


def test_the_uncertainty_of_one_run_has_method_sensor_and_how_starts_scatter() -> None:
    (row,) = pooled([run()])
    scatter = START_SCATTER[BATCH][PER_TOKEN]
    assert row.u95(PER_TOKEN) == pytest.approx(0.1 * hypot(0.001, 0.03, scatter.u95_share))


def test_repeats_are_pooled_with_what_others_scattered_by() -> None:
    logarithms = (-0.05, 0.0, 0.05)
    (row,) = pooled([run(0.1 * exp(x)) for x in logarithms])
    known = START_SCATTER[BATCH][PER_TOKEN]
    freedom = 2 + known.freedom
    variance = (0.005 + known.freedom * known.sd**2) / freedom
    expected = hypot(
        t_975(freedom) * sqrt(variance / 3), 0.001 / sqrt(3), 0.03
    )  # one board: its sensor stays
    mean = row.mean(PER_TOKEN)
    assert mean is not None
    assert row.u95(PER_TOKEN) == pytest.approx(mean * expected)


def test_each_board_has_a_sensor_of_its_own() -> None:
    one, two = ([run(boards=(f"GPU-{board}",), sensor=0.5) for board in boards] for boards in ("aa", "ab"))
    (same,), (different,) = pooled(one), pooled(two)
    assert (different.u95(PER_TOKEN) or 0) == pytest.approx((same.u95(PER_TOKEN) or 0) / sqrt(2), rel=0.01)


def test_emulated_repeats_have_students_interval_and_a_single_one_no_scatter() -> None:
    emulated = [run(0.1 * exp(x), evidence=Evidence.EMULATED, sensor=0.0) for x in (-0.01, 0.01)]
    (row,) = pooled(emulated)
    assert (row.u95(PER_TOKEN) or 0) / (row.mean(PER_TOKEN) or 1) == pytest.approx(12.7062 * 0.01, rel=0.01)
    (alone,) = pooled(emulated[:1])
    assert alone.u95(TTFT) is None


def test_rows_can_be_parted_by_a_field_and_are_in_its_order() -> None:
    runs = [run(host="b"), run(host="a"), run(host="b")]
    assert [(row.by, len(row.runs)) for row in pooled(runs, "host")] == [("a", 1), ("b", 2)]
    rates = [
        run(key=f"{rate}", kind="server", num_requests=None, rate_rps=rate) for rate in (16.0, 4.0, 128.0)
    ]
    assert [row.by for row in pooled(rates, "rate_rps")] == ["4", "16", "128"]


def test_what_all_rows_share_is_said_once() -> None:
    rows = pooled([run(), run(key="b", levers=("fp8",)), run(key="c", particulars=("vllm_serve",))])
    assert names(rows) == ("llama3_8b, NVIDIA H200, batch of 512", ["as above", "fp8", "vllm_serve"])
    assert title(rows) == "llama3_8b, NVIDIA H200, batch of 512; measured: 3 settings, 3 runs"
    assert names(pooled([run()])) == ("", ["llama3_8b, NVIDIA H200, batch of 512"])


def test_lines_fit_the_width_and_long_names_stand_above_their_figures() -> None:
    rows = pooled(
        [run(), run(0.2, key="b", levers=("fp8",)), invalid("interrupted", key="b", levers=("fp8",))]
    )
    wide = to_lines(rows, 200)
    assert wide[1].split() == [
        "as",
        "above",
        "1",
        "of",
        "1",
        "100",
        "mJ",
        "4.3",
        "%",
        "-",
        "1000",
        "40.0",
        "ms",
        "-",
    ]
    assert wide[3].strip() == "1 of 2 valid: interrupted"
    narrow = to_lines(rows, 80)
    assert max(map(len, narrow)) <= 80
    long = pooled([run(), run(key="b", levers=tuple(f"option_{n}=value" for n in range(20)))])
    assert max(map(len, to_lines(long, 80))) <= 80


def test_markdown_is_a_table_whose_cells_cannot_break_it() -> None:
    rows = pooled([run(levers=("a|b\nc",)), run(key="b")])
    lines = [line for line in to_markdown(rows).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert "| measured" not in lines[0]


def test_csv_and_json_have_plain_numbers_and_what_a_run_was() -> None:
    setting = {"scenario": {"arrivals": {"kind": "constant"}, "max_in_flight": 8}}
    served = run(kind="server", num_requests=None, rate_rps=4.0, engine="vllm_serve", setting=setting)
    served = replace(served, input_tokens=512, output_tokens=64, window_s=8.0)
    (row,) = csv.DictReader(io.StringIO(to_csv(pooled([served]))))
    assert (row["engine"], row["arrivals"], row["max_in_flight"]) == ("vllm_serve", "constant", "8")
    assert (row["input_tokens"], row["output_tokens"], row["window_s"]) == ("512", "64", "8.0")
    assert float(row[PER_TOKEN]) == 0.1
    assert row["power/gpu_mean_w"] == ""
    (plain,) = json.loads(json.dumps(to_json(pooled([served]))))
    assert plain[PER_TOKEN] == 0.1
    assert plain["power/gpu_mean_w"] is None
    assert to_csv([]) == ""


def test_a_predicted_row_stands_alone_with_its_interval() -> None:
    guess = {PER_TOKEN: 0.2, f"{PER_TOKEN}_p05": 0.19, f"{PER_TOKEN}_p95": 0.22}
    rows = pooled([run(), run(evidence=Evidence.PREDICTED, metrics=guess, energy_basis=("a guess",))])
    assert [row.verdict for row in rows] == ["valid", "predicted"]
    assert "-5.0 +10 %" in to_lines(rows, 120)[-2]
    measured, predicted = to_json(rows)
    assert (measured[f"{PER_TOKEN}_p05"], predicted[f"{PER_TOKEN}_p05"]) == (None, 0.19)
    assert predicted["energy_basis"] == ["a guess"]
    assert f"{PER_TOKEN}_p05" not in to_json(rows[:1])[0]
