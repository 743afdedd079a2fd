from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wattcount.cli.main import main
from wattcount.config import compose, fit
from wattcount.config.catalogue import gpu_catalogue, model_catalogue

ROOT = Path(__file__).resolve().parents[2]


def rows(out: str) -> list[list[str]]:
    """The cells of each line of a printed table."""
    names = {*model_catalogue(), *gpu_catalogue()}
    return [line.split() for line in out.splitlines() if line.split() and line.split()[0] in names]


def test_every_model_is_listed_smallest_first_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    names = [row[0] for row in rows(out)]
    assert sorted(names) == sorted(model_catalogue())
    assert names[0] == "tiny"
    assert names[-1] == "qwen3_235b_a22b_2507"
    assert ["llama3_8b", "llama", "dense", "8.03", "8.03", "16", "128", "8K"] in rows(out)
    assert ["olmoe_1b_7b", "olmoe", "moe", "6.92", "1.28", "16", "128", "4K"] in rows(out)
    assert ["qwen3_8b_awq", "qwen3", "dense", "8.19", "8.19", "4.16", "144", "40K"] in rows(out)
    assert ["falcon3_mamba_7b", "falcon_mamba", "ssm", "7.27", "7.27", "16", "0", "-"] in rows(out)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--family", "Qwen3", "--max-parameters-b", "2"], ["qwen3_0_6b", "qwen3_1_7b"]),
        (["--family", "gpt-oss"], ["gpt_oss_20b", "gpt_oss_20b_bf16", "gpt_oss_120b"]),
        (["--family", "allenai"], ["olmoe_1b_7b", "olmo2_7b", "olmo2_13b"]),
        (["--kind", "ssm"], ["falcon3_mamba_7b"]),
        (["--kind", "hybrid"], ["nemotron3_nano_30b_a3b"]),
        (["--max-parameters-b", "0.4"], ["tiny", "gpt2"]),
        (["--min-parameters-b", "100"], ["gpt_oss_120b", "qwen3_235b_a22b", "qwen3_235b_a22b_2507"]),
        (["--min-parameters-b", "7.25", "--max-parameters-b", "7.4"], ["falcon3_mamba_7b", "olmo2_7b"]),
    ],
)
def test_filters(args: list[str], names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *args]) == 0
    assert [row[0] for row in rows(capsys.readouterr().out)] == names


def test_json_has_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--family", "nemotron_h", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["hf_id"] == "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    assert facts["parameters"] == 31_577_937_344
    assert (facts["kind"], facts["kv_bytes_per_token"]) == ("hybrid", 6144)


def test_fits_says_the_arithmetic_of_the_run_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--fits", "l4", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    assert [pair["model"] for pair in pairs if pair["fits"]]
    assert [pair["model"] for pair in pairs if not pair["fits"]]
    assert len(pairs) == len(model_catalogue())
    (llama,) = [pair for pair in pairs if pair["model"] == "llama3_8b"]
    expected = fit.estimate(compose(["model=llama3_8b", "engine.device=cuda"]), 24 * fit.GIB)
    assert llama["explanation"] == expected.explain()
    assert llama["needed_bytes"] == expected.needed_bytes


def test_the_fit_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--fits", "l4,h200", "--family", "llama3_1", "scenario=batch"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "l4, 24 GiB: 2 of 3 fit" in out
    assert "h200, 141 GiB: 2 of 3 fit" in out
    on_l4, on_h200 = (row for row in rows(out) if row[0] == "llama3_1_8b")
    assert (on_l4[1], on_l4[-1]) == ("15.0", "queues")
    assert on_h200[-1] == "yes"
    assert [row[-1] for row in rows(out) if row[0] == "llama3_1_70b"] == ["no", "no"]


def test_only_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--fits", "l4,h200", "--family", "llama3_1", "--fitting"]) == 0
    out = capsys.readouterr().out
    assert "l4, 24 GiB: 2 of 3 fit" in out
    assert [row[0] for row in rows(out)] == ["llama3_1_minitron_4b_width", "llama3_1_8b"] * 2
    assert main(["models", "--fits", "l4,h200", "--family", "llama3_1", "--fitting", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    assert [pair["gpu"] for pair in pairs] == ["l4", "l4", "h200", "h200"]
    assert main(["models", "--fits", "l4", "--family", "llama3_1_70b", "--fitting"]) == 0
    out = capsys.readouterr().out
    assert "l4, 24 GiB: 0 of 1 fit" in out
    assert rows(out) == []


def test_a_quantised_checkpoint_fits_where_its_original_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--fits", "l4", "--family", "qwen3_14b"]) == 0
    fits = {row[0]: row[-1] for row in rows(capsys.readouterr().out)}
    assert fits == {"qwen3_14b": "no", "qwen3_14b_awq": "yes", "qwen3_14b_fp8": "yes"}


def test_dtype_quantisation_length_and_gpus_count(capsys: pytest.CaptureFixture[str]) -> None:
    def needed(*args: str) -> int:
        assert main(["models", "--family", "llama3_8b", "--fits", "l4", "--json", *args]) == 0
        (pair,) = json.loads(capsys.readouterr().out)
        found: int = pair["needed_bytes"]
        return found

    plain = needed()
    assert (
        needed("--dtype", "float32")
        > plain
        > needed("--quantization", "fp8")
        > needed("--quantization", "awq")
    )
    assert needed("engine.max_model_len=8192") - plain == (8192 - 768) * 128 * 1024
    assert needed("--tensor-parallel", "2") < plain / 1.5


@pytest.mark.parametrize("gpu", ["t4", "v100"])
def test_a_gpu_without_bfloat16_is_pointed_out(gpu: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--family", "qwen", "--fits", gpu]) == 0
    assert f"No bfloat16 on {gpu}" in capsys.readouterr().out
    assert main(["models", "--family", "qwen", "--fits", gpu, "--dtype", "float16"]) == 0
    assert "bfloat16" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["models", "--fits", "l44"], "did you mean 'l4'"),
        (["models", "--family", "nothing"], "no model is left"),
        (["models", "--max-parameters-b", "0.001"], "no model is left"),
        (["models", "--dtype", "float16"], "need --fits"),
        (["models", "--fitting"], "need --fits"),
        (["models", "engine.max_model_len=8192"], "need --fits"),
        (["models", "--fits", "l4", "--dtype", "int3"], "--dtype 'int3'"),
        (["models", "--fits", "l4", "--quantization", "magic"], "--quantization 'magic'"),
        (["models", "--fits", "l4", "--tensor-parallel", "0"], "--tensor-parallel 0"),
        (["models", "--fits", "l4", "model=tiny"], "only keys of scenario and engine"),
        (["models", "--fits", "l4", "engine.max_modellen=3"], "max_modellen"),
        (["models", "--kind", "sparse"], "invalid choice"),
        (["gpus", "--fits", "phi5"], "did you mean 'phi4'"),
        (["gpus", "--family", "voodoo"], "no GPU is left"),
        (["gpus", "--tensor-parallel", "2"], "need --fits"),
    ],
)
def test_what_makes_no_sense_ends_with_2_and_says_so(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert named in capsys.readouterr().err


def test_it_ends_quietly_when_its_reader_has_gone(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m wattcount models | head -2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WATTCOUNT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[1].startswith("tiny")


def test_every_gpu_is_listed_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert sorted(row[0] for row in rows(out)) == sorted(gpu_catalogue())
    assert ["t4", "Turing", "7.5", "16", "320", "65", "-", "70"] in rows(out)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("hopper", ["h100", "h100_pcie", "h100_nvl", "gh200", "h20", "h200", "h200_nvl"]),
        ("Ada", ["l4", "rtx4090", "l40", "l40s", "rtx6000_ada"]),
        ("a100_p", ["a100_pcie_40gb", "a100_pcie_80gb"]),
    ],
)
def test_family_of_gpus(family: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--family", family]) == 0
    assert [row[0] for row in rows(capsys.readouterr().out)] == names


def test_memory_and_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--min-memory-gib", "180"]) == 0
    assert [row[0] for row in rows(capsys.readouterr().out)] == ["b200", "gb200", "b300", "gb300"]
    assert main(["gpus", "--family", "h", "--fits", "llama3_1_70b", "--fitting"]) == 0
    out = capsys.readouterr().out
    assert "llama3_1_70b: fits 0 of 7 GPUs" in out
    assert rows(out) == []
    assert main(["gpus", "--min-memory-gib", "1000"]) == 2
    assert "no GPU is left" in capsys.readouterr().err


def test_json_has_the_facts_of_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--family", "b200", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["memory_gib"] == gpu_catalogue()["b200"].memory_gib
    assert facts["source"]


def test_which_gpus_hold_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--fits", "phi4,tiny"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert f"tiny: fits {len(gpu_catalogue())} of {len(gpu_catalogue())} GPUs" in out
    phi4 = [row for row in rows(out) if row[1] == "27.3"]
    assert {row[0]: row[-1] for row in phi4}["l4"] == "no"
    assert {row[0]: row[-1] for row in phi4}["a100_40gb"] == "yes"


def test_both_ways_round_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--fits", "qwen3_8b_fp8", "--json"]) == 0
    by_gpu = {pair["gpu"]: pair for pair in json.loads(capsys.readouterr().out)}
    assert main(["models", "--fits", "a30", "--family", "qwen3_8b_fp8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [by_gpu["a30"]]


def test_a_single_word_chooses_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "qwen3"]) == 0
    by_word = capsys.readouterr().out
    assert main(["models", "--family", "qwen3"]) == 0
    assert by_word == capsys.readouterr().out
    assert "llama3_8b" not in by_word
    assert main(["gpus", "h100"]) == 0
    assert "h100_nvl" in capsys.readouterr().out
