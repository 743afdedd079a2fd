"""`wattcount study`: sources, and what is printed and written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from wattcount.cli.main import main
from wattcount.result import results
from wattcount.result.table import to_arrow
from wattcount.study.questions import QUESTIONS

RECORDS = Path(__file__).resolve().parents[2] / "data" / "campaign" / "records"


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "results.parquet"
    pq.write_table(to_arrow(results(RECORDS, keep=False)), path)
    return path


def test_every_question_is_answered_within_80_columns(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(parquet), "--all"]) == 0
    said = capsys.readouterr().out
    assert said.count("?\n") == len(QUESTIONS)
    assert max(map(len, said.splitlines())) <= 80
    assert "NVIDIA H200" in said


def test_json_has_rows_in_plain_units(parquet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(parquet), "--json", "--only", "levers", "--only", "gpu-choice"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["name"] for answer in answers] == ["levers", "gpu-choice"]
    assert {row["tell"] for row in answers[1]["rows"]} <= {"less", "more", "cannot tell", None}


def test_csv_is_a_file_a_question(parquet: Path, tmp_path: Path) -> None:
    assert main(["study", str(parquet), "--csv", str(tmp_path / "out")]) == 0
    assert {path.stem for path in (tmp_path / "out").iterdir()} == set(QUESTIONS)
    with (tmp_path / "out" / "gpu-choice.csv").open() as file:
        assert {row["model"] for row in csv.DictReader(file)} >= {"llama3_1_8b"}


def test_what_is_no_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    for source, said in (
        (tmp_path / "no", "does not exist"),
        (tmp_path / "x.parquet", "no table of results"),
    ):
        assert main(["study", str(source)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("slo", ["ttft=5", "ttft_ms=-1", "ttft_ms=inf", "ttft_ms=x", ""])
def test_an_slo_that_is_none_is_refused(slo: str, parquet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(parquet), "--slo", slo]) == 2
    assert "ttft_ms=500" in capsys.readouterr().err


def test_recommend_ends_with_what_serves_and_verifies_it(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["recommend", "--data", str(parquet), "--model", "llama3_1_8b", "--lengths"]
    assert main([*asked, "512/128", "--rate", "16", "--all"]) == 0
    said = capsys.readouterr().out
    assert "vllm serve meta-llama/Llama-3.1-8B-Instruct" in said
    assert "scenario.rate_rps=16" in said
    commands = [line for line in said.splitlines() if line.startswith("  ")]
    assert max(len(line) for line in said.splitlines() if line not in commands) <= 80
    assert main([*asked, "512/256", "--batch", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    assert advice["options"][0]["how"] == "measured"


def test_recommend_refuses_with_the_run_that_would_tell(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["recommend", "--data", str(parquet), "--model", "never_measured", "--rate", "4", "--gpus", "l4"]
    assert main(asked) == 1
    said = capsys.readouterr().out
    assert "No advice: no result is of never_measured" in said
    assert "wattcount model=never_measured gpu=l4 scenario=server" in said


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--rate", "x"], ["--rate", "4", "--lengths", "5"], []])
def test_recommend_refuses_what_is_no_load(wrong: list[str], parquet: Path) -> None:
    assert main(["recommend", "--data", str(parquet), "--model", "phi4", *wrong]) == 2


def test_a_default_gpu_is_named_by_its_option_and_one_that_no_result_is_of_is_refused(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["study", str(parquet), "--only", "savings", "--json", "--default-gpu"]
    assert main([*asked, "h200"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert {"NVIDIA H200"} <= {row["of"] for row in answer["rows"]}
    assert answer["by_origin"][0]["of"] == "Measured by wattcount"
    assert main([*asked, "l4"]) == 2
    assert "NVIDIA H200" in capsys.readouterr().err


def test_a_gpu_that_nothing_was_measured_on_is_said_to_be(
    parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "recommend",
        "--data",
        str(parquet),
        "--model",
        "llama3_1_8b",
        "--rate",
        "16",
        "--gpus",
        "h100,l4",
    ]
    assert main(asked) == 0
    assert "Left out: no run of it on l4." in capsys.readouterr().out


def test_scores_of_no_result_are_named(parquet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = Path(__file__).resolve().parents[1] / "study" / "lm_eval_0_4_13.json"
    asked = ["study", str(parquet), "--only", "levers", "--quality"]
    assert main([*asked, f"never_measured:fp8={scores}"]) == 0
    assert "never_measured:fp8" in capsys.readouterr().err
    assert main([*asked, f"llama3_1_8b:fp8={scores}", f"llama3_1_8b:bfloat16={scores}", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    (answer,) = json.loads(shown.out)
    assert "quality +0.0" in {str(row["quality"])[:12] for row in answer["rows"]}
