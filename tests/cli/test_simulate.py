"""`wattcount simulate` and `wattcount fleet`: what they refuse, what they abstain from, what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wattcount.cli.main import main

RECORDS = str(Path(__file__).resolve().parents[2] / "data" / "h200" / "records")
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:00:{second:02d},200,50" for second in range(60)]
    path.write_text("\n".join([HEADER, *rows]))
    return path


def test_a_rate_is_predicted_with_interval_and_basis(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["simulate", "--data", RECORDS, "--json", "--rates", "2,8", "model=llama3_8b", "gpu=h200"]
    assert main([*asked, "scenario.window_s=20", "scenario.lengths.input_tokens=512", "scenario.lengths.output_tokens=128"]) == 0  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert told["evidence"] == "predicted"
    assert "real runs of llama3_8b" in told["basis"]
    slow, fast = (row["figures"]["energy/gpu_j_per_output_token"] for row in told["rows"])
    assert slow["p05"] < slow["value"] < slow["p95"]
    assert slow["value"] > fast["value"]


def test_predicted_rows_are_results_that_no_study_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(tmp_path / "rows.parquet")
    asked = ["simulate", "--data", RECORDS, "--rates", "2,8", "-o", rows, "model=llama3_8b", "gpu=h200", "scenario.window_s=20"]  # fmt: skip
    assert main(asked) == 0
    capsys.readouterr()
    assert main(["results", rows, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["evidence"], row["rate_rps"]) for row in found] == [("predicted", 2.0), ("predicted", 8.0)]
    assert "real runs of llama3_8b" in found[0]["energy_basis"][0]
    assert main(["study", rows, "--json"]) == 0
    assert not any(answer["rows"] for answer in json.loads(capsys.readouterr().out))
    assert main(["recommend", "--data", rows, "--model", "llama3_8b", "--rate", "4", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["options"] == []


def test_a_model_that_does_not_fit_abstains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--data", RECORDS, "model=qwen3_32b", "gpu=t4"]) == 0
    assert "Nothing is predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["model=nosuch", "gpu=h200"], "nosuch"),
        (["model=llama3_8b", "gpu=nosuch"], "nosuch"),
        (["model=llama3_8b"], "gpu=..."),
        (["llama3_8b"], "KEY=VALUE"),
        (["--rates", "0", "model=llama3_8b", "gpu=h200"], "requests/s above 0"),
    ],
)
def test_what_names_nothing_is_refused(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--data", RECORDS, *wrong]) == 2
    assert said in capsys.readouterr().err


def test_a_batch_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--data", RECORDS, "model=llama3_8b", "gpu=h200", "scenario=batch"]) == 2
    assert "scenario=server" in capsys.readouterr().err


def fleet(trace: Path, *more: str) -> list[str]:
    return ["fleet", "--data", RECORDS, "--traffic", str(trace), "--models", "llama3_8b", *more]


def test_a_malformed_trace_is_refused_with_its_line(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace.write_text(f"{HEADER}\n2023-11-16 18:00:00,5,5\n2023-11-16 18:00:01,five,5\n")
    assert main(fleet(trace, "--gpus", "h200=1")) == 2
    assert "line 3" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["h200", "h200=0", "h200=x", "nosuch=1"])
def test_boards_that_are_none_are_refused(
    wrong: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fleet(trace, "--gpus", wrong)) == 2
    assert wrong.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_day_is_planned_and_played(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A load that is a little less than one of the levels that the program knows: it rounds a board's load up to the next one.
    assert main([*fleet(trace, "--gpus", "h200=3", "--slots", "2", "--scale", "27"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["evidence"] == "predicted"
    plan, always = told["plans"]
    assert plan["kwh"] < always["kwh"]
    assert plan["slo_attainment"] >= 0.95
    assert plan["kwh"] == pytest.approx(plan["planned_kwh"], rel=0.1)
    assert main(fleet(trace, "--gpus", "h200=1", "--slots", "2", "--scale", "1000")) == 0
    assert "No plan" in capsys.readouterr().out
