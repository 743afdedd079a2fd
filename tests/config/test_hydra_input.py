"""A key that holds text keeps what was typed, wherever it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from wattcount.config import compose, from_json, to_json
from wattcount.config.catalogue import load_yaml
from wattcount.config.hydra_input import TextParser, keep_text
from wattcount.errors import NotStartedError
from wattcount.sweep.sweeper import expand

TYPED = [
    "12e4567", "1e3", "1_1_1", "2026_11_24", "1_0", "007", "0x1F", "1.10", "1.", "-0", "+5", "TRUE", "False",
    "nan", "inf", "yes", "no", "on", "1:30", "2026-11-24", "main",
]  # fmt: skip


@pytest.mark.parametrize("text", TYPED)
def test_on_the_command_line(text: str) -> None:
    run = compose(["model=custom", f"model.revision={text}", "model.hf_id=a/b", f"tracking.tags.it={text}"])
    assert (run.model.revision, run.tracking.tags["it"]) == (text, text)
    assert from_json(json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("model.revision=1e3", "model.revision='1e3'"),
        ("+model.revision=1e3", "+model.revision='1e3'"),
        ("tracking.run_name=1_1_1", "tracking.run_name='1_1_1'"),
        ("model={revision: 1e3, parameters_b: 1e3, name: x}", "model={revision:'1e3',parameters_b:1000.0,name:x}"),
        ("gpu.devices=[0,1_0]", "gpu.devices=['0','1_0']"),
        ("tracking.tags={a: 1e3}", "tracking.tags={a:'1e3'}"),
        ("experiment=2026_11", "experiment='2026_11'"),
        ("scenario.lengths.path=1e3", "scenario.lengths.path='1e3'"),
        ("model.revision=1e3,main,2_0", "model.revision='1e3',main,'2_0'"),
        ("model.revision=choice(1e3,main)", "model.revision=choice('1e3',main)"),
        ("model.revision=choice('1e3','a b')", "model.revision=choice('1e3','a b')"),
        ("engine.args.some=choice('1e3',1e3,a)", "engine.args.some=choice('1e3',1000.0,a)"),
        # Not text, or nothing to lose.
        ("model.revision=null", "model.revision=null"),
        ("model.revision=main", "model.revision=main"),
        ("model.revision='1e3'", "model.revision='1e3'"),
        ("model.parameters_b=1e3", "model.parameters_b=1e3"),
        ("model.hf_config.rope_theta=1e6", "model.hf_config.rope_theta=1e6"),
        ("engine.args.some=1e3", "engine.args.some=1e3"),
        ("seed=range(3)", "seed=range(3)"),
        ("model.revision=range(3)", "model.revision=range(3)"),
        ("~model.revision", "~model.revision"),
        ("no.such.key=1e3", "no.such.key=1e3"),
        ("model.revision=[", "model.revision=["),
    ],
)  # fmt: skip
def test_what_gets_quotes(override: str, kept: str) -> None:
    assert keep_text(override) == kept
    assert keep_text(kept) == kept


def test_in_a_sweep() -> None:
    parser = TextParser.create()
    points = expand({"model.revision": "1e3,12e4567"}, [{"tracking.run_name": "1_1"}], ["seed=1"], parser)
    assert points == [
        ("model.revision='1e3'", "tracking.run_name='1_1'", "seed=1"),
        ("model.revision='12e4567'", "tracking.run_name='1_1'", "seed=1"),
    ]
    run = compose(["model=custom", "model.hf_id=a/b", *points[1]])
    assert (run.model.revision, run.tracking.run_name) == ("12e4567", "1_1")


def plain(text: str, described: str = "") -> Any:
    return OmegaConf.to_container(load_yaml(text, described, "x.yaml"))


@pytest.mark.parametrize("text", TYPED)
def test_in_yaml(text: str) -> None:
    assert plain(f"revision: {text}", "model") == {"revision": text}
    assert plain(f"tracking: {{tags: {{a: {text}}}}}") == {"tracking": {"tags": {"a": text}}}
    assert plain(f"gpu: {{devices: [{text}]}}") == {"gpu": {"devices": [text]}}


def test_yaml_that_is_no_text_is_read_as_ever() -> None:
    assert plain("{parameters_b: 1e3, gated: yes, revision: null, tokenizer: ~, hf_config: {a: 1e3, b: 010}}", "model") == {
        "parameters_b": 1000.0, "gated": True, "revision": None, "tokenizer": None, "hf_config": {"a": 1000.0, "b": 8},
    }  # fmt: skip


def test_an_anchor_is_text_where_text_is_wanted() -> None:
    text = (
        "model: {parameters_b: &x 1e3, revision: *x}\nsweep: &s {name: 1_0}\ntracking: {tags: {<<: {a: 1_0}}}"
    )
    assert plain(text) == {
        "model": {"parameters_b": 1000.0, "revision": "1e3"},
        "sweep": {"name": "1_0"},
        "tracking": {"tags": {"a": "1_0"}},
    }


def test_what_a_file_sweeps() -> None:
    text = (
        "hydra: {sweeper: {params: {model.revision: 1e3, seed: 1_0, +tracking.tags.a: yes},"
        " cases: [{model: 2026_11}, {model: {revision: 1e3}, scenario: {lengths: {path: 1_0, input_tokens: 1_0}}}]}}"
    )
    assert plain(text)["hydra"]["sweeper"] == {
        "params": {"model.revision": "1e3", "seed": 10, "+tracking.tags.a": "yes"},
        "cases": [
            {"model": "2026_11"},
            {"model": {"revision": "1e3"}, "scenario": {"lengths": {"path": "1_0", "input_tokens": 10}}},
        ],
    }


def test_in_files_of_groups(tmp_path: Path) -> None:
    for group, text in {
        "model": "defaults: [model_schema, _self_]\nname: 1_0\nhf_id: a/b\nrevision: 12e4567\n",
        "scenario": "defaults: [batch_schema, _self_]\nname: yes\n",
        "experiment": "# @package _global_\nsweep: {name: 2026_11_24}\ntracking: {run_name: 010}\n",
    }.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "2026_11.yaml").write_text(text)
    run = compose([f"{group}=2026_11" for group in ("model", "scenario", "experiment")], str(tmp_path))
    assert (run.model.name, run.model.revision, run.scenario.name) == ("1_0", "12e4567", "yes")
    assert (run.sweep.name, run.tracking.run_name) == ("2026_11_24", "010")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [b\n", r"x\.yaml: line 2, column 1: expected ',' or '\]'"),
        ("a: 1\na: 2\n", r"x\.yaml: line 2, column 1: found duplicate key a"),
        ("- a\n", r"x\.yaml: must hold a group of keys"),
        ("a: &a [*a]\n", r"x\.yaml: holds itself"),
        ("\ta: 1\n", r"x\.yaml: line 1, column 1: found character"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(NotStartedError, match=said) as caught:
        load_yaml(text, "", "x.yaml")
    assert "\n" not in str(caught.value)
