"""What a sweep keeps of itself, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from wattcount.config import RunConfig, compose
from wattcount.config.hydra_input import keep_text
from wattcount.errors import NotStartedError
from wattcount.sweep.planner import sweep_name
from wattcount.sweep.sweeper import _keep_config


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
