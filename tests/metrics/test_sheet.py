"""The sheet of metrics: what is put on it and what is missing."""

from __future__ import annotations

import math

import pytest

from wattcount.metrics.sheet import Sheet, canonical


def test_a_value_has_no_reason_and_a_missing_one_has_its_own() -> None:
    sheet = Sheet()
    sheet.put("a", 1.5, "unused")
    sheet.put("b", None, "no_window")
    sheet.update({"c": (None, None), "d": (2, None)})
    assert sheet.metrics == {"a": 1.5, "b": None, "c": None, "d": 2}
    assert sheet.null_reasons == {"b": "no_window", "c": "not_recorded"}
    assert sheet.cell("b") == (None, "no_window")
    assert sheet.cell("d") == (2, None)


def test_a_ratio_is_missing_with_what_it_is_made_of() -> None:
    sheet = Sheet()
    sheet.ratio("whole", 10.0, 4, "no_output_tokens")
    sheet.ratio("empty", 10.0, 0, "no_output_tokens")
    sheet.ratio("without", None, 4, "no_output_tokens")
    sheet.put("energy/gpu_j", None, "phase_missing")
    sheet.ratio("because", None, 4, "no_output_tokens")
    assert sheet.metrics["whole"] == 2.5
    assert sheet.null_reasons == {
        "empty": "no_output_tokens",
        "without": "no_power_data",
        "energy/gpu_j": "phase_missing",
        "because": "phase_missing",
    }


@pytest.mark.parametrize(
    ("value", "kept"), [(1 / 3, 0.333333333333), (-0.0, 0.0), (123456789012345.6, 123456789012000.0)]
)
def test_values_are_kept_to_twelve_digits(value: float, kept: float) -> None:
    assert canonical(value) == kept
    assert math.copysign(1, canonical(value)) == math.copysign(1, kept)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_json_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        canonical(value)
