"""How the regret of an advice is counted: by starts held out, refusals apart, with baselines that see no more than the advice does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from bench_advice_regret import SPLITS, Choice, Try, best_gpus, judged, repeats_held_out  # noqa: E402

from wattcount.records.schema import Evidence  # noqa: E402
from wattcount.result import Result  # noqa: E402
from wattcount.result.host_part import PER_TOKEN, WATTS  # noqa: E402

H100, H200 = "NVIDIA H100", "NVIDIA H200"
GOOD, BAD = Choice(H200, True, 1.0, 1.0, 0), Choice(H100, False, 1.5, 1.5, 1)


def test_each_baseline_takes_what_it_would() -> None:
    wrong = [replace(GOOD, place=1), replace(BAD, place=0, all_j=0.9)]
    rows, means = judged([Try("a", [GOOD, BAD], False), Try("b", wrong, False), Try("c", [GOOD, BAD], False)])
    assert [row["regret"] for row in rows] == [0.0, 0.5, 0.0]
    assert [row["knows_all"] for row in rows] == [0.0, 0.5, 0.0]
    assert means["regret"] == pytest.approx(0.5 / 3)
    assert means["default_gpu"] == pytest.approx(0.5)
    assert means["nothing_turned"] == 0.0
    assert means["worst"] == pytest.approx(0.5)


def test_a_refused_load_is_no_advice_and_is_counted_apart() -> None:
    wrong = [replace(GOOD, place=1), replace(BAD, place=0)]
    (row,), means = judged([Try("a", [GOOD, BAD], False), Try("a", wrong, True)])
    assert (row["tries"], row["refused"], row["regret"]) == (2, 1, 0.0)
    assert row["regret_where_refused"] == pytest.approx(0.5)
    assert means["regret"] == 0.0


def test_the_best_single_gpu_is_that_of_the_other_loads() -> None:
    other = [replace(GOOD, all_j=2.0), replace(BAD, all_j=1.0)]
    assert best_gpus([Try("a", [GOOD, BAD], False), Try("b", other, False)]) == {"a": H100, "b": H200}


def test_starts_are_held_out_by_halves() -> None:
    def run(gpu: str, joules: float, repeat: int) -> Result:
        return Result(
            run_id=f"{gpu}{repeat}", setting_key=gpu, model="m", weights="random", kind="batch", scenario="batch", num_requests=64,
            input_tokens=8, output_tokens=8, gpus=(gpu,), boards=(f"{gpu}{repeat}",), evidence=Evidence.MEASURED,
            metrics={PER_TOKEN: joules, WATTS: 100.0, "throughput/output_tokens_per_s": 100.0},
        )  # fmt: skip

    runs = [run(gpu, level * (1 + n / 100), n) for gpu, level in ((H100, 2.0), (H200, 1.0)) for n in range(2)]
    tries = list(repeats_held_out(runs, "batch"))
    assert len(tries) == SPLITS
    for one in tries:
        first = min(one.choices, key=lambda choice: choice.place)
        assert first.gpu == H200
        assert first.truth_j in (pytest.approx(1.0), pytest.approx(1.01))
    assert {round(c.truth_j, 2) for one in tries for c in one.choices} == {1.0, 1.01, 2.0, 2.02}
