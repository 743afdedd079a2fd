"""What a saving does to users: the SLO on the same arrivals, and scores of lm-evaluation-harness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wattcount.config.schema import SloConfig
from wattcount.errors import NotStartedError
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.study.comparison import Cell
from wattcount.study.quality import (
    NOT_MEASURED,
    Quality,
    Users,
    against_unquantised,
    quality,
    read_scores,
    service,
)

SLO = SloConfig(ttft_ms=500.0)


def run(good: int, repeat: int, quantization: str | None = None, seed: int = 0) -> Result:
    return Result(
        run_id=f"{good}{repeat}{quantization}",
        seed=seed,
        repeat=repeat,
        kind="server",
        model="m",
        setting={"scenario": {"slo": {"ttft_ms": 500}}, "model": {"hf_id": "org/m", "quantization": quantization}},
        evidence=Evidence.MEASURED,
        metrics={"requests/sent": 1000, "requests/good": good},
    )  # fmt: skip


def cell(*goods: int, seed: int = 0) -> Cell:
    return Cell("c", tuple(run(good, i, seed=seed) for i, good in enumerate(goods)))


@pytest.mark.parametrize(
    ("turned", "users"),
    [
        ((980, 979, 981), Users.KEPT),
        ((900, 901, 899), Users.WORSE),
        ((990, 900, 985), Users.UNTOLD),
        ((980,), Users.UNTOLD),
    ],
)
def test_users_are_kept_only_where_pairs_show_it(turned: tuple[int, ...], users: Users) -> None:
    found = service(cell(*turned), cell(981, 980, 979), SLO)
    assert found.users is users
    assert found.pairs == len(turned)


def test_a_few_requests_that_all_keep_the_slo_tell_little() -> None:
    def small(repeat: int) -> Result:
        return replace(run(20, repeat), metrics={"requests/sent": 20.0, "requests/good": 20.0})

    few = Cell("f", tuple(small(i) for i in range(3)))
    found = service(few, few, SLO)
    assert (found.change, found.low) == (0.0, pytest.approx(-3 / 60))
    assert found.users is Users.UNTOLD


def test_shares_within_bounds_claim_neither_a_loss_nor_that_there_is_none() -> None:
    """By percentiles alone 95 to 100 % of the requests keep the SLO, in both settings."""

    def vague(repeat: int) -> Result:
        shares = {f"latency/ttft_p{p}_ms": 400.0 for p in (50, 95)}
        return replace(run(0, repeat), setting={}, metrics={"requests/sent": 1000.0, **shares})

    both = Cell("v", tuple(vague(i) for i in range(4)))
    found = service(both, both, SLO)
    assert (found.change, found.pairs) == (pytest.approx(0.0), 4)
    assert (found.low, found.high) == (pytest.approx(-0.05 - 3 / 4000), pytest.approx(0.05 + 3 / 4000))
    assert found.users is Users.UNTOLD


def test_runs_with_other_arrivals_are_no_pair() -> None:
    assert service(cell(980, 980), cell(980, 980, seed=1), SLO).pairs == 0


def test_the_difference_is_that_of_pairs_and_not_of_means() -> None:
    """Arrivals that are hard for one setting are hard for the other."""
    found = service(cell(990, 900, 800), cell(991, 900, 801), SLO)
    assert found.change == pytest.approx(-2 / 3000)
    assert found.users is Users.KEPT


def harness(path: Path, precision: str, acc: float, model: str = "org/m") -> Path:
    path.write_text(
        json.dumps(
            {
                "model_name": model,
                "config": {"model_args": f"pretrained={model},dtype=bfloat16" + (f",quantization={precision}" if precision != "bfloat16" else "")},
                "results": {"arc": {"acc,none": acc, "acc_stderr,none": 0.01, "alias": "arc"}, "wiki": {"word_perplexity,none": 9.0}},
            }
        )
    )  # fmt: skip
    return path


def test_quality_is_joined_by_model_and_precision(tmp_path: Path) -> None:
    harness(tmp_path / "results_a.json", "bfloat16", 0.60)
    harness(tmp_path / "results_b.json", "fp8", 0.59)
    scores = read_scores([tmp_path])
    assert [(s.precision, s.task, s.value) for s in scores] == [
        ("bfloat16", "arc", 0.60),
        ("fp8", "arc", 0.59),
    ]
    found = quality(run(1, 0, "fp8"), run(1, 0), scores)
    assert found.change == pytest.approx(-0.01)
    assert found.half_width == pytest.approx(1.96 * 0.01 * 2**0.5)
    assert found.words == "quality -1.0 ± 2.8 points (1 task)"
    assert quality(run(1, 0, "awq"), run(1, 0), scores).words == NOT_MEASURED
    assert quality(run(1, 0), run(1, 0), []).change == 0.0


@pytest.mark.parametrize("text", ["{", "[]", '{"results": 1}', '{"results": {}}'])
def test_what_is_no_result_of_the_harness_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(NotStartedError, match=str(path)):
        read_scores([path])
    with pytest.raises(NotStartedError):
        read_scores([tmp_path / "none"])


def test_auto_is_the_dtype_that_the_harness_found(tmp_path: Path) -> None:
    content = {
        "results": {"arc": {"acc,none": 0.5}},
        "config": {"model_args": "pretrained=org/m,dtype=auto", "model_dtype": "torch.bfloat16"},
    }
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert [score.precision for score in read_scores([tmp_path])] == ["bfloat16"]


@pytest.mark.parametrize(
    ("change", "half", "users"),
    [
        (-0.002, 0.005, Users.KEPT),
        (-0.03, 0.005, Users.WORSE),
        (-0.012, 0.005, Users.UNTOLD),
        (None, None, Users.UNTOLD),
    ],
)
def test_quality_is_kept_within_its_margin(change: float | None, half: float | None, users: Users) -> None:
    assert Quality(change, half, 1).users is users


def test_quantisation_stands_against_the_same_model_without(tmp_path: Path) -> None:
    harness(tmp_path / "results_a.json", "bfloat16", 0.60)
    harness(tmp_path / "results_b.json", "fp8", 0.59)
    found = against_unquantised(run(1, 0, "fp8"), read_scores([tmp_path]))
    assert found is not None
    assert found.change == pytest.approx(-0.01)
    assert against_unquantised(run(1, 0), ()) is None
