"""The registry of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.dataset import rules
from wattcount.dataset.rules import Severity, Submitted


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", {})
    monkeypatch.setattr(rules, "TRAITS", {})


@pytest.mark.usefixtures("empty")
def test_a_declared_rule_is_in_the_registry() -> None:
    @rules.rule("physics/cold", severity=Severity.flag, clause="It is cold.", limit=3, unit="degC")
    def cold(record: Submitted) -> list[rules.Breach]:
        return [rules.Breach(f"{record.folder} is warm", 4, 3)]

    found = rules.RULES["physics/cold"]
    assert (found.family, found.severity, found.limit, found.unit) == ("physics", "flag", 3, "degC")
    assert found.check is cold


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("code", ["nofamily", "a/b"])
def test_a_code_needs_a_family_and_is_taken_once(code: str) -> None:
    def check(record: Submitted) -> list[rules.Breach]:
        return [rules.Breach(record.folder)]

    rules.rule("a/b", severity=Severity.warn, clause="x")(check)
    with pytest.raises(ValueError, match=code):
        rules.rule(code, severity=Severity.warn, clause="x")(check)


@pytest.mark.usefixtures("empty")
def test_a_trait_is_found_once_or_told() -> None:
    calls = []

    @rules.trait("length")
    def length(record: Submitted) -> int:
        calls.append(record.folder)
        return len(record.folder)

    own, told = Submitted(Path("/x/abc")), Submitted(Path("/x/abc"), traits={"length": 7})
    assert [own.trait("length"), own.trait("length"), told.trait("length")] == [3, 3, 7]
    assert calls == ["abc"]
    with pytest.raises(ValueError, match="length"):
        rules.trait("length")(length)
