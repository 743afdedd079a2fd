"""The tiny engine before it runs."""

from __future__ import annotations

from wattcount.config import compose, from_json, to_json
from wattcount.config.schema import Device
from wattcount.config.validation import problems
from wattcount.engines import registry
from wattcount.engines.defaults import Defaults

TINY = registry.plugin("tiny")


def test_what_is_left_to_it_is_no_part_of_a_point() -> None:
    cfg = compose(["engine=tiny", "model=llama3_8b", "model.weights=random"])
    assert TINY.defaults(cfg) == Defaults(max_num_seqs=256, max_num_batched_tokens=8192)
    assert TINY.resolved(cfg) is cfg.engine
    assert TINY.identity_facts() == {}


def test_it_computes_on_the_cpu_whatever_is_asked() -> None:
    assert {TINY.device(asked, emulated=False) for asked in Device} == {Device.cpu}
    assert list(TINY.checks(Device.cuda, emulated=False)) == []


def test_an_argument_that_it_does_not_know_is_found_with_the_configuration() -> None:
    cfg = compose(["engine=tiny", "model=tiny"])
    assert list(problems(cfg)) == []
    wrong = from_json(to_json(cfg) | {"engine": {"name": "tiny", "args": {"step_bas_ms": 1.0}}})
    assert list(problems(wrong)) == [
        "engine.args.step_bas_ms: the tiny engine has no such argument; did you mean step_base_ms?"
    ]
