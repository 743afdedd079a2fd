"""`wattcount predict` on the published data set: rows in, rows with figures and intervals out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from wattcount.cli.main import main
from wattcount.cli.predict import PREDICTED

DATA = Path(__file__).resolve().parents[2] / "data" / "dataset"
HEADER = "model,gpu,num_gpus,tensor_parallel,dtype,quantization,max_num_seqs,concurrency,rate_rps,input_tokens,output_tokens,mine"


def predicted(folder: Path, *lines: str) -> list[dict[str, str]]:
    given, made = folder / "in.csv", folder / "out.csv"
    given.write_text("\n".join((HEADER, *lines)) + "\n")
    assert main(["predict", "--data", str(DATA), "--csv", str(given), "-o", str(made)]) == 0
    with made.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_of_results_has_a_row_for_each_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, made = tmp_path / "in.csv", tmp_path / "out.parquet"
    given.write_text(
        "model,gpu,concurrency,input_tokens,output_tokens\nllama3_1_8b,h100,8,512,128\nllama9,h100,8,512,128\n"
    )
    assert main(["predict", "--data", str(DATA), "--csv", str(given), "-o", str(made)]) == 0
    assert "1 of 2" in capsys.readouterr().out
    assert main(["list", str(made)]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert "predicted" in first
    assert "no_prediction" in second


def test_settings_get_figures_with_intervals_and_abstain_where_nothing_is_known(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "rwkv7", "hidden_size": 64, "num_hidden_layers": 2}))
    lines = (
        "llama3_1_8b,h100,1,1,bfloat16,,,64,,512,128,a",
        "meta-llama/Llama-3.1-8B-Instruct,NVIDIA A100-SXM4-80GB,1,1,bf16,,,,4,512,128,b",
        "qwen3_30b_a3b,H200,,,,fp8,,128.0,,512,256,c",
        "nobody/nothing,h100,1,1,,,,1,,64,64,d",
        "llama3_1_8b,abacus,1,1,,,,1,,64,64,e",
        f"{config},h100,1,1,,,,1,,64,64,f",
        "llama3_1_8b,h100,1,1,,,,,900,512,128,g",
        "llama3_1_70b,h100,1,1,,,,1,,512,128,h",
    )
    rows = predicted(tmp_path, *lines)
    assert [row["mine"] for row in rows] == list("abcdefgh")
    for row in rows[:3]:
        for name in ("power_w", "tpot_ms", "output_tokens_per_s", "j_per_output_token"):
            low, value, high = (float(row[f"{name}{end}"]) for end in ("_p05", "", "_p95"))
            assert 0 < low <= value <= high
        assert row["basis"].startswith("predicted: ")
    # Arriving tokens are known; so J per token is power over them.
    assert rows[1]["output_tokens_per_s"] == rows[1]["output_tokens_per_s_p95"] == "512"
    assert float(rows[1]["j_per_output_token"]) == pytest.approx(float(rows[1]["power_w"]) / 512, rel=1e-4)
    for row, reason in zip(
        rows[3:],
        ("'nobody/nothing'", "'abacus'", "'rwkv7'", "more than this serves", "does not fit 1 x h100"),
        strict=True,
    ):
        assert row["basis"].startswith("no prediction: ")
        assert reason in row["basis"]
        assert not any(row[name] for name in PREDICTED if name != "basis")
    # A second run writes the same bytes.
    first = (tmp_path / "out.csv").read_bytes()
    predicted(tmp_path, *lines)
    assert (tmp_path / "out.csv").read_bytes() == first


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("llama3_1_8b,h100,1,1,,,,many,,512,128,a",), "line 2: concurrency is 'many'"),
        (("llama3_1_8b,h100,1,1,,,,1,,512,128,a", "llama3_1_8b,h100,1"), "line 3: 3 columns instead of 12"),
        (("llama3_1_8b,h100,1,1,,,,-4,,512,128,a",), "line 2: concurrency is '-4'"),
        (("llama3_1_8b,h100,1,1,,,,1,,0,128,a",), "line 2: input_tokens is 0"),
        (("llama3_1_8b,h100,1,1,,,,,nan,512,128,a",), "line 2: rate_rps is 'nan'"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    lines: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "in.csv"
    given.write_text("\n".join((HEADER, *lines)) + "\n")
    made = tmp_path / "out.csv"
    assert main(["predict", "--data", str(DATA), "--csv", str(given), "-o", str(made)]) == 2
    assert f"in.csv, {said}" in capsys.readouterr().err
    assert not made.exists()


def test_a_file_without_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "in.csv"
    given.write_text("gpu,concurrency\nh100,3\n")
    assert main(["predict", "--data", str(DATA), "--csv", str(given)]) == 2
    assert "line 1" in capsys.readouterr().err


def test_one_setting_is_predicted_from_options(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", "--data", str(DATA), "--model", "llama3_1_8b", "--gpu", "h200", "--rate-rps", "4"]
    assert main([*asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["evidence"] == "predicted"
    # Six of our own runs at this load took 455 to 474 W.
    assert said["power_w_p05"] < 465 < said["power_w_p95"]
    assert main(["predict", "--data", str(DATA), "--model", "llama3_1_8b"]) == 2
