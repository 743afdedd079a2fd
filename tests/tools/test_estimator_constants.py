"""The table of the estimator's constants: every constant is in it, says where it comes from, and stands in the docs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import estimator_constants as table  # noqa: E402


@pytest.mark.parametrize("module", table.MODULES)
def test_every_constant_says_what_it_is_and_where_it_comes_from(module: str) -> None:
    found = table.constants(ROOT / "wattcount" / "energy" / f"{module}.py")
    assert found
    for constant in found:
        _, value, what, why = table.row(module, *constant)
        assert value
        assert len(what) > 10, constant
        assert len(why) > 10 or why.rstrip(".") in table.ORIGINS, constant


@pytest.mark.parametrize("text", [None, "A number.", "A number [s], chosen because."])
def test_a_constant_without_an_origin_is_an_error(text: str | None) -> None:
    with pytest.raises(ValueError, match=r"estimate\.SOME_S"):
        table.row("estimate", "SOME_S", "1.0", text)


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "wattcount" / "energy").glob("*.py")))
def test_every_constant_of_the_package_has_a_docstring(module: str) -> None:
    missing = [
        name for name, _, text in table.constants(ROOT / "wattcount" / "energy" / f"{module}.py") if not text
    ]
    assert missing == []
