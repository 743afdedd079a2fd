from __future__ import annotations

import json

import pytest

from wattcount.cli.main import main
from wattcount.config.catalogue import gpu_catalogue


def rows(out: str) -> list[list[str]]:
    """The cells of each line of a printed table."""
    names = set(gpu_catalogue())
    return [line.split() for line in out.splitlines() if line.split() and line.split()[0] in names]


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
def test_family(family: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
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


def test_json_has_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--fits", "phi5"], "did you mean 'phi4'"),
        (["--family", "voodoo"], "no GPU is left"),
        (["--tensor-parallel", "2"], "need --fits"),
    ],
)
def test_what_makes_no_sense_ends_with_2_and_says_so(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpus", *args]) == 2
    assert named in capsys.readouterr().err
