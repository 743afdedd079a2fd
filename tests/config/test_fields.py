"""Nodes that never change and can be keys, and ranges that say what they want."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

from wattcount.config.fields import (
    FolderName,
    FrozenDict,
    FrozenList,
    HostPort,
    NotBlank,
    OneOf,
    Pattern,
    Range,
)
from wattcount.config.loader import changed
from wattcount.config.schema import EngineConfig, GpuConfig, ModelConfig, RunConfig

ARGS = {"a": [1, {"b": None}], "c": 2.5}


@pytest.mark.parametrize(
    "change",
    [
        lambda run: setattr(run, "seed", 1),
        lambda run: setattr(run.engine, "name", "tiny"),
        lambda run: run.gpu.devices.append("GPU-2"),
        lambda run: run.engine.args.update(x=1),
        lambda run: run.engine.args["a"].sort(),
        lambda run: run.engine.args["a"][1].pop("b"),
    ],
)
def test_nothing_of_a_configuration_can_be_changed(change: Any) -> None:
    run = RunConfig(gpu=GpuConfig(devices=["GPU-1"]), engine=EngineConfig(args=ARGS))
    with pytest.raises((AttributeError, TypeError)):
        change(run)
    assert run == RunConfig(gpu=GpuConfig(devices=["GPU-1"]), engine=EngineConfig(args=ARGS))


def test_what_it_was_made_of_can_change_without_it() -> None:
    args = copy.deepcopy(ARGS)
    engine = EngineConfig(args=args)
    args["c"] = 3
    assert engine.args["c"] == 2.5


def test_another_one_is_made_with_other_values() -> None:
    run = RunConfig()
    other = changed(run, {"model.name": "x", "scenario.lengths.input_tokens": 3, "seed": 4})
    assert (other.model.name, other.scenario.lengths.input_tokens, other.seed) == ("x", 3, 4)
    assert other.engine is run.engine
    assert run == RunConfig()


def test_equal_ones_are_one_key() -> None:
    found = {RunConfig(engine=EngineConfig(args=ARGS)): 1}
    assert found[RunConfig(engine=EngineConfig(args=copy.deepcopy(ARGS)))] == 1
    assert RunConfig() not in found


@pytest.mark.parametrize("pair", [(1, True), (1, 1.0), (0, False)])
def test_values_of_other_types_are_other_keys(pair: tuple[Any, Any]) -> None:
    one, other = (ModelConfig(name="x", hf_config={"v": [{"w": value}]}) for value in pair)
    assert one != other
    assert len({one, other}) == 2


def test_a_hash_stays_in_its_process() -> None:
    run = RunConfig(model=ModelConfig(name="x", hf_config={"a": [1]}))
    hash(run)
    code = (
        "import pickle, sys; from wattcount.config.schema import *; run = pickle.load(sys.stdin.buffer); "
        "assert run in {RunConfig(model=ModelConfig(name='x', hf_config={'a': [1]}), records_dir=run.records_dir)}"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(run), check=True, timeout=60)


def test_copies_and_json_are_as_of_lists_and_dicts() -> None:
    made = EngineConfig(args=ARGS).args
    for other in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert isinstance(other, FrozenDict)
        assert isinstance(other["a"], FrozenList)
        assert other == made == ARGS
    assert json.loads(json.dumps(made)) == ARGS


@pytest.mark.parametrize(
    ("rule", "value", "problem"),
    [
        (Range(above=0, unit="s"), 0.0, "must be above 0 s, not 0 s"),
        (Range(at_least=1), 0, "must be at least 1, not 0"),
        (Range(at_most=2.5), 3.0, "must be at most 2.5, not 3"),
        (Range(above=0, at_most=1), 1.5, "must be above 0 and at most 1, not 1.5"),
        (Range(at_least=0, at_most=2**31 - 1), -1, "must be between 0 and 2147483647, not -1"),
        (Range(above=0, unit="ms", hint="null for none"), -2.0, "must be above 0 ms, not -2 ms; null for none"),
        (Range(above=0, at_most=1), 1.0, None),
        (OneOf(("a", "b")), "c", "'c' is not one of a, b"),
        (OneOf(("a", "b")), "b", None),
        (NotBlank("null for none"), " ", "must not be empty; null for none"),
        (NotBlank(), "x", None),
        (Pattern(), "(", "'(' is no regular expression: "),
        (Pattern(), "H100.*", None),
        (FolderName(), "a/b", "'a/b' becomes a folder; use letters"),
        (FolderName(3), "abcd", "has 4 characters and becomes a folder; use at most 3"),
        (FolderName(), "a-1", None),
        (HostPort(), "gpu7:9470", None),
        (HostPort(), "10.0.0.7", None),
        (HostPort(), "[fe80::1%eth0]:9470", None),
        (HostPort(), "::1", "'::1' is not HOST:PORT"),
        (HostPort(), "gpu7:99999", "'gpu7:99999' is not HOST:PORT"),
        (HostPort(), "gpu7:0", "'gpu7:0' is not HOST:PORT"),
        (HostPort(), "gpu7:port", "'gpu7:port' is not HOST:PORT"),
        (HostPort(), "user@gpu7:9470", "'user@gpu7:9470' is not HOST:PORT"),
        (HostPort(), "gpu 7:9470", "'gpu 7:9470' is not HOST:PORT"),
    ],
)  # fmt: skip
def test_a_rule_says_what_is_wrong(rule: Any, value: Any, problem: str | None) -> None:
    found = rule.problem(value)
    assert found == problem if problem is None else found.startswith(problem)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gpu7", ("gpu7", 9470)),
        ("gpu7.example.org:1", ("gpu7.example.org", 1)),
        ("[::1]", ("::1", 9470)),
        ("[::1]:80", ("::1", 80)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert HostPort.parts(text, 9470) == parts
