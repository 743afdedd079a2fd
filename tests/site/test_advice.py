"""The advice of the pages is that of `recommend`, at loads within what was measured."""

from __future__ import annotations

from tests.site.sample import RATES, result, results, source
from wattcount.records.schema import Evidence
from wattcount.site.advice import MOST_TIMES, SLOS, advised
from wattcount.site.answers import groups, numbers, told
from wattcount.site.source import Source
from wattcount.study.advice import advise


def test_each_load_is_answered_as_recommend_does() -> None:
    found = advised(source())
    assert {one.need.model for one in found} == {"llama3_8b", "qwen3_8b"}
    for one in found[:: len(SLOS) + 1]:
        expected = advise(results(), one.need)
        assert one.advice.to_json() == expected.to_json()
        assert one.told == (expected.refusal is None)


def test_no_rate_lies_beyond_what_was_measured() -> None:
    rates = {one.need.rate_rps for one in advised(source()) if one.need.rate_rps is not None}
    assert set(RATES) <= rates
    assert min(RATES) <= min(rates)
    assert max(rates) <= MOST_TIMES * max(RATES)


def test_emulated_results_give_neither_advice_nor_answers() -> None:
    emulated = Source.of_results("s", [result(start=at, evidence=Evidence.EMULATED) for at in range(3)])
    assert advised(emulated) == []
    assert groups(emulated) == []


def test_origins_are_asked_by_themselves_and_ours_come_first() -> None:
    others = [
        result(model=name, gpu=gpu, start=9, origin="imported:x", by="x", setting_key=None, per_token_j=level)
        for name in ("a", "b", "c")
        for gpu, level in (("P", 0.1), ("Q", 0.2))
    ]
    found = groups(source(*others))
    assert [group.origin for group in found] == ["wattcount", "imported:x"]
    choice = found[0].answer("gpu-choice")
    assert choice is not None
    assert {row["model"] for row in choice.rows} == {"llama3_8b", "qwen3_8b"}
    counted = told(choice)
    assert counted is not None
    assert sum(counted.values()) == len(choice.rows)
    assert len(numbers(choice)) == len(choice.cells()[0])
