from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.report.units import clock, columns, count, duration, markdown, quantity, scale_for, significant

SIZES = {"GJ": 1e9, "MJ": 1e6, "kJ": 1e3, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0813, "J", "81.30 mJ"),
        (1.97, "J", "1.970 J"),
        (41_600.0, "J", "41.60 kJ"),
        (0.99996, "J", "1.000 J"),
        (999.96, "J", "1.000 kJ"),
        (36e9, "J", "36.00 GJ"),
        (0, "J", "0 J"),
        (-125.0, "J", "-125.0 J"),
        (693.2, "W", "693.2 W"),
        (5544.0, "W", "5544 W"),
        (34.5, "ms", "34.50 ms"),
        (1304.5, "ms", "1.304 s"),
        (0.05, "ms", "50.00 us"),
        (512, "1", "512"),
        (0.25, "1", "0.2500"),
        (48.0, "requests/s", "48.00 requests/s"),
        (65, "C", "65 degC"),
        (0x24, "bitmask", "0x24"),
        (None, "J", "-"),
    ],
)
def test_quantity(value, unit, text):
    assert quantity(value, unit) == text


@given(st.floats(1e-5, 1e9))
def test_what_is_shown_is_the_value_to_four_digits(value):
    shown = re.fullmatch(r"(\S+) (\w+)", quantity(value, "J"))
    assert shown is not None
    assert float(shown[1]) * SIZES[shown[2]] == pytest.approx(value, rel=6e-4)
    assert "e" not in shown[1]


@given(st.floats(1e-7, 1e7))
def test_significant_never_uses_an_exponent(value):
    assert re.fullmatch(r"[\d.]+", significant(value))


def test_one_scale_for_a_row_suits_its_smallest_value():
    assert scale_for([0.624, 0.185, None], "J") == (1e-3, "mJ")
    assert scale_for([None, None], "J") == (1.0, "J")
    assert scale_for([0.0, 0], "W") == (1.0, "W")
    assert scale_for([4.0], "requests/s") == (1.0, "requests/s")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 3, "-"), (0.0, 3, "0"), (1234.5, 3, "1234"), (0.0812, 2, "0.081"), (0.9996, 3, "1.00")],
)
def test_significant_has_as_many_digits_as_are_asked_for(value, digits, text):
    assert significant(value, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.9, "0:07"), (750, "12:30"), (3723, "1:02:03"), (360000, "100:00:00"), (-1, "0:00")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45 s"),
        (89.6, "90 s"),
        (90, "2 min"),
        (3570, "1 h"),
        (12000, "3 h 20 min"),
        (2 * 86400, "2 days"),
        (4 * 86400 + 6 * 3600, "4 days 6 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_count():
    assert [count(number, "point") for number in (0, 1, 3211)] == ["0 points", "1 point", "3,211 points"]


def test_markdown() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_columns_have_words_on_the_left_and_figures_on_the_right() -> None:
    assert columns(("gpu", "GiB"), [("h200", "141"), ("t4", "9")]) == "gpu   GiB\nh200  141\nt4      9"
    assert columns(("gpu", "kind"), [("h200", "SXM")], left=2) == "gpu   kind\nh200  SXM"
