import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.report.units import quantity, scale_for, significant

SIZES = {"MJ": 1e6, "kJ": 1e3, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0813, "J", "81.30 mJ"),
        (1.97, "J", "1.970 J"),
        (41_600.0, "J", "41.60 kJ"),
        (0.99996, "J", "1.000 J"),
        (999.96, "J", "1.000 kJ"),
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
