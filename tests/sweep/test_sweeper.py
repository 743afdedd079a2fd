"""What a sweep keeps of itself, and what it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from wattcount.config import RunConfig, compose
from wattcount.config.composition import keep_text
from wattcount.errors import NotStartedError
from wattcount.sweep.planner import sweep_name
from wattcount.sweep.sweeper import _keep_config, expand, to_override


def asked(folder: Path, what: str) -> DictConfig:
    made = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}, "what": what})
    assert isinstance(made, DictConfig)
    return made


def test_two_sweeps_in_one_second_keep_what_each_was_asked_for(tmp_path: Path) -> None:
    for what in ("one", "two", "three"):
        _keep_config(asked(tmp_path / "now", what), needed=False)
    kept = {file.name: OmegaConf.load(file).what for file in (tmp_path / "now").iterdir()}
    assert kept == {"multirun.yaml": "one", "multirun-2.yaml": "two", "multirun-3.yaml": "three"}


def test_a_folder_that_cannot_be_written_costs_the_sweep_nothing_that_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    _keep_config(asked(tmp_path / "file" / "now", "x"), needed=False)
    assert "hydra.sweep.dir: cannot write to" in capsys.readouterr().err
    with pytest.raises(NotStartedError, match=r"set hydra\.sweep\.dir=FOLDER"):
        _keep_config(asked(tmp_path / "file" / "now", "x"), needed=True)


def test_an_experiment_that_looks_like_a_number_names_its_sweep() -> None:
    assert sweep_name(RunConfig(), [keep_text("experiment=2026_11_24"), "seed=1"]) == "2026_11_24"
    assert sweep_name(RunConfig(), ["experiment=mine/deep"]) == "mine_deep"
    assert compose(["sweep.name=2026_11_24"]).sweep.name == "2026_11_24"


def test_a_name_that_no_folder_can_have_is_refused() -> None:
    assert compose([f"sweep.name={'a' * 200}"]).sweep.name == "a" * 200
    with pytest.raises(
        NotStartedError, match=r"sweep\.name: has 300 characters and becomes a folder; use at most 200"
    ):
        compose([f"sweep.name={'a' * 300}"])


def points(params: dict[str, Any], cases: list[dict[str, Any]], *arguments: str) -> list[str]:
    return [" ".join(point) for point in expand(params, cases, arguments, OverridesParser.create())]


def test_params_are_swept_against_each_other_in_the_order_given() -> None:
    assert points({"model": "a,b", "repeat": "range(2)"}, []) == [
        "model=a repeat=0", "model=a repeat=1", "model=b repeat=0", "model=b repeat=1",
    ]  # fmt: skip


def test_cases_are_one_change_at_a_time_and_no_product() -> None:
    cases = [{}, {"engine.enforce_eager": True}, {"engine.max_num_seqs": "8,16", "gpu.count": 2}]
    assert points({"model": "a"}, cases) == [
        "model=a",
        "model=a engine.enforce_eager=True",
        "model=a engine.max_num_seqs=8 gpu.count=2",
        "model=a engine.max_num_seqs=16 gpu.count=2",
    ]


def test_the_command_line_goes_before_params() -> None:
    assert points({"model": "a,b"}, [{}], "model=c", "seed=1,2") == ["model=c seed=1", "model=c seed=2"]


def test_the_command_line_chooses_among_what_the_cases_list() -> None:
    cases = [{"gpu": "a100,h200"}, {"gpu": "t4,v100", "model.dtype": "float16"}]
    assert points({}, cases, "gpu=h200") == ["gpu=h200"]
    assert points({}, cases, "gpu=v100") == ["gpu=v100 model.dtype=float16"]
    assert points({}, cases, "gpu=h200,t4") == ["gpu=h200", "gpu=t4 model.dtype=float16"]


def test_a_value_that_no_case_lists_goes_to_the_first_that_has_the_key() -> None:
    cases = [{"seed": 1}, {"gpu": "a100"}, {"gpu": "t4", "model.dtype": "float16"}]
    assert points({}, cases, "gpu=b200") == ["seed=1 gpu=b200", "gpu=b200"]


def test_no_point_is_there_twice() -> None:
    assert points({}, [{"seed": "1,1"}, {"seed": 1}]) == ["seed=1"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (2.5, "2.5"),
        ("a, b", "a, b"),
        ([1, None], "[1,null]"),
        ({"method": "ngram", "n": 4}, "{method:ngram,n:4}"),
    ],
)
def test_yaml_values_as_overrides(value: Any, text: str) -> None:
    assert to_override(value) == text


def test_a_sweep_without_an_end_is_refused() -> None:
    with pytest.raises(NotStartedError, match="seed: interval_sweep is no list of values"):
        points({"seed": "interval(0,1)"}, [])
