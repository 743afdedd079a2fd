"""Models as people write them: a hub id or a folder as the option of the group `model`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wattcount.config import compose
from wattcount.config.catalogue import model_catalogue, model_named
from wattcount.config.composition import TextParser
from wattcount.config.loader import did_you_mean
from wattcount.config.schema import Weights
from wattcount.errors import NotStartedError
from wattcount.sweep.sweeper import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the hub's library leaves one."""
    mine = tmp_path / "my-model.v2"
    mine.mkdir()
    (mine / "config.json").write_text(json.dumps({"hidden_size": 64}), encoding="utf-8")
    return mine


def test_a_hub_id_of_the_catalogue_is_the_packaged_model() -> None:
    packaged = model_catalogue()["qwen2_5_0_5b"]
    assert compose(["model=Qwen/Qwen2.5-0.5B-Instruct"]).model == packaged
    assert compose(["model=qwen/qwen2.5-0.5b-instruct"]).model == packaged


def test_another_hub_id_is_a_model_with_that_id_and_takes_further_keys() -> None:
    model = compose(["model=me/mine-7B", "model.dtype=float16", "model.revision=main"]).model
    assert (model.name, model.hf_id, model.weights) == ("mine-7B", "me/mine-7B", Weights.hub)
    assert (model.dtype, model.revision) == ("float16", "main")


def test_a_folder_is_a_model_with_its_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = compose([f"model={folder}"]).model
    assert (model.name, model.path, model.weights) == ("my-model.v2", str(folder), Weights.path)
    monkeypatch.chdir(folder.parent)
    assert compose([f"model=./{folder.name}"]).model == model
    monkeypatch.setenv("HOME", str(folder.parent))
    assert compose([f"model=~/{folder.name}"]).model == model
    random = compose([f"model={folder}", "model.weights=random"]).model
    assert random.weights is Weights.random


def test_a_folder_that_looks_like_a_hub_id_is_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert compose([f"model={folder.parent.name}/{folder.name}"]).model.path == str(folder)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"model\.path: no folder at .*nowhere"):
        compose([f"model={tmp_path}/nowhere"])


def test_in_a_sweep(folder: Path) -> None:
    points = expand({}, [], [f"model=llama3_8b,me/mine,{folder}", "repeat=0,1"], TextParser.create())
    assert len(points) == 6
    assert {compose(point).model.name for point in points} == {"llama3_8b", "mine", "my-model.v2"}


def test_in_a_file_of_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /model: me/mine\n"
    (tmp_path / "experiment" / "try.yaml").write_text(text, encoding="utf-8")
    assert compose(["experiment=try"], str(tmp_path)).model.hf_id == "me/mine"


@pytest.mark.parametrize("text", ["llama3_8b", "a/b/c", "a/", "-a/b", "a b/c"])
def test_other_texts_are_options_or_mistakes(text: str) -> None:
    assert model_named(text) is None


def test_a_text_of_three_parts_is_told_as_one_option() -> None:
    with pytest.raises(NotStartedError, match=r"^model=a/b/c: no such option"):
        compose(["model=a/b/c"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("H100", "h100"), ("A100", "a100"), ("H100-NVL", "h100_nvl"), ("RTX 4090", "rtx4090")],
)
def test_how_a_gpu_is_spelt_makes_no_difference(typed: str, meant: str) -> None:
    from wattcount.config.composition import options

    assert did_you_mean(typed, options("gpu")) == f"; did you mean '{meant}'?"


def test_how_a_model_is_spelt_makes_no_difference() -> None:
    with pytest.raises(NotStartedError, match="did you mean 'llama3_8b'"):
        compose(["model=Llama3-8B"])
