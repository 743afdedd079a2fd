"""When a second submitter has reproduced a setting, and when not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from wattcount.dataset.tiers import MARGIN, MIN_STARTS, Tier, comparisons, tiers
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, START_SCATTER, StartScatter
from wattcount.result.result import Status


def runs(who: str, joules: Sequence[float], setting: str = "s", **facts: object) -> list[Result]:
    """Runs, each on a start of the engine of its own."""
    usual: dict[str, object] = {
        "evidence": Evidence.MEASURED,
        "kind": "server",
        "setting_key": setting,
        "by": who,
    }
    return [
        Result(run_id=f"{who}{number}", metrics={PER_TOKEN: value}, **{**usual, **facts})  # type: ignore[arg-type]
        for number, value in enumerate(joules)
    ]


ANN = runs("ann", [0.2, 0.202, 0.198])


def test_alone_a_setting_is_validated() -> None:
    assert tiers(ANN) == {("s", "ann"): Tier.VALIDATED}
    assert comparisons(ANN) == []


def test_a_second_submitter_reproduces_it() -> None:
    bob = runs("bob", [0.206, 0.204, 0.202])
    assert tiers(ANN + bob) == {("s", "ann"): Tier.REPRODUCED, ("s", "bob"): Tier.REPRODUCED}
    (found,) = comparisons(ANN + bob)
    assert found.submitters == ("ann", "bob")
    assert found.starts == (3, 3)
    assert found.percent == pytest.approx(2.0, abs=0.1)
    assert found.words.endswith("within 10 %")


def test_the_interval_is_that_of_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand: nothing of their own scatters, so the pooled variance is that of 24 starts elsewhere over 28 degrees of freedom.
    monkeypatch.setitem(START_SCATTER, "server", {PER_TOKEN: StartScatter(0.03, 24, 2.0639)})  # type: ignore[arg-type]
    (found,) = comparisons(runs("ann", [0.2] * 3) + runs("bob", [0.2] * 3))
    assert found.percent == pytest.approx(0.0, abs=1e-9)
    sd = 0.03 * math.sqrt(24 / 28)
    assert found.half_width_percent == pytest.approx(
        100 * math.sinh(2.0484 * sd * math.sqrt(2 / 3)), rel=1e-3
    )


@pytest.mark.parametrize("share", [1 + MARGIN, 1 / (1 + MARGIN), 1.08])
def test_what_differs_by_the_margin_or_nearly_is_not_reproduced(share: float) -> None:
    # 8 % is within the margin, but its interval is not.
    bob = runs("bob", [0.2 * share] * 3)
    assert set(tiers(ANN + bob).values()) == {Tier.VALIDATED}
    assert comparisons(ANN + bob)[0].words.endswith("not within 10 %")


def test_a_few_starts_reproduce_nothing() -> None:
    bob = runs("bob", [0.2] * (MIN_STARTS - 1))
    assert set(tiers(ANN + bob).values()) == {Tier.VALIDATED}
    assert "2 starts of the engine are fewer than 3" in comparisons(ANN + bob)[0].words


def test_runs_on_one_start_count_once() -> None:
    bob = runs("bob", [0.2] * 5, session="one")
    assert comparisons(ANN + bob)[0].starts == (3, 1)
    assert tiers(ANN + bob)["s", "bob"] is Tier.VALIDATED


def test_who_differs_from_two_that_agree_stays_below() -> None:
    bob, eve = runs("bob", [0.2] * 3), runs("eve", [0.1] * 3)
    found = tiers(ANN + bob + eve)
    assert found == {
        ("s", "ann"): Tier.REPRODUCED,
        ("s", "bob"): Tier.REPRODUCED,
        ("s", "eve"): Tier.VALIDATED,
    }


@pytest.mark.parametrize(
    "facts",
    [
        {"evidence": Evidence.EMULATED},
        {"origin": "watt_counts"},
        {"status": Status.invalid},
        {"by": None},
        {"setting_key": None},
        {"setting_key": "another"},
    ],
)
def test_what_is_no_measurement_of_the_setting_does_not_count(facts: dict[str, object]) -> None:
    assert tiers(ANN + runs("bob", [0.2] * 3, **facts))["s", "ann"] is Tier.VALIDATED


def test_starts_that_scatter_widen_the_interval() -> None:
    steady = comparisons(ANN + runs("bob", [0.2] * 3))[0]
    wild = comparisons(ANN + runs("bob", [0.1, 0.2, 0.4]))[0]
    assert wild.percent == pytest.approx(steady.percent, abs=0.01)
    assert wild.half_width_percent > 5 * steady.half_width_percent
    assert not wild.agree
