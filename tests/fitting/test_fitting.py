"""What is learned of results: groups that were left out are predicted as if they had never been there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wattcount.dataset.store import Dataset
from wattcount.fitting.evaluation import splits
from wattcount.fitting.fit import fitted, left_out
from wattcount.fitting.predicting import Predictor
from wattcount.fitting.rows import Row, rows

DATA = Path(__file__).resolve().parents[2] / "data" / "dataset"


@pytest.fixture(scope="module")
def own() -> list[Row]:
    found = rows(Dataset.open(DATA).results())
    return [row for row in found if row.source == "wattcount" and not row.prepared.setting.enforce_eager]


def test_repeats_are_one_row_in_an_order_of_their_own(own: list[Row]) -> None:
    results = [one for one in Dataset.open(DATA).results() if one.origin == "wattcount"]
    again = [row for row in rows(reversed(results)) if not row.prepared.setting.enforce_eager]
    assert [row.power_w for row in again] == pytest.approx([row.power_w for row in own])
    assert sum(row.repeats for row in own) > 1.5 * len(own)


def test_no_split_has_a_shape_or_a_gpu_on_both_sides(own: list[Row]) -> None:
    seen: dict[str, list[int]] = {"model": [], "gpu": []}
    for split, _, at in splits(own):
        left, rest = set(at), set(range(len(own))) - set(at)
        key = "shape" if split == "model" else "family"
        assert not {getattr(own[one], key) for one in left} & {getattr(own[one], key) for one in rest}
        seen[split] += at
    # Llama 3 and Llama 3.1 of 8e9 parameters are one model to a GPU.
    assert len({row.shape for row in own if row.model in ("llama3_8b", "llama3_1_8b")}) == 1
    assert all(sorted(places) == list(range(len(own))) for places in seen.values())


def test_a_group_left_out_by_algebra_is_as_one_that_was_never_there(own: list[Row]) -> None:
    """To first order: coefficients move a little in a fit of the rest."""
    fit = fitted(own)
    left = left_out(fit, fit.table.shape)
    shape = next(row.shape for row in own if row.model == "qwen3_8b")
    rest = Predictor.of([row for row in own if row.shape != shape])
    for at, row in enumerate(own):
        if row.shape != shape or row.power_w is None:
            continue
        found = rest.predict_rows([row])[0].figures
        assert np.log(row.power_w / found["power_w"].value) == pytest.approx(
            left.error[2, at], abs=left.sd[2, at]
        )
        joules = found["j_per_output_token"].value
        assert np.log(row.j_per_token / joules) == pytest.approx(left.joules[at], abs=left.joules_sd[at])


def test_time_and_power_of_a_row_err_against_each_other(own: list[Row]) -> None:
    """So that the interval of their product is narrower than if they erred apart."""
    fit = fitted(own)
    left = left_out(fit, fit.table.shape)
    closed = np.array([row.prepared.setting.rate_rps is None for row in own])
    apart = np.hypot(left.sd[0], left.sd[2])
    assert np.all(left.joules_sd[closed] < apart[closed])


def test_intervals_widen_with_the_distance_from_the_data(own: list[Row]) -> None:
    whole = Predictor.of(own)
    without = Predictor.of([row for row in own if row.family != "h200"])
    row = next(row for row in own if row.family == "h200" and row.model == "qwen3_8b")
    near, far = (one.predict([row.prepared.setting])[0].figures["power_w"] for one in (whole, without))
    assert far.p95 / far.p05 > near.p95 / near.p05
