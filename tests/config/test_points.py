"""The quick check of a sweep says what composing every point would have said, in far fewer compositions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig

from wattcount.config.catalogue import GROUPS
from wattcount.config.composition import compose_hydra, from_hydra
from wattcount.config.points import problems_of_points
from wattcount.errors import NotStartedError


class Counted:
    def __init__(self, config_dir: str | None = None) -> None:
        self.calls = 0
        self.config_dir = config_dir

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        self.calls += 1
        return compose_hydra(overrides, self.config_dir)


def product(*axes: str) -> list[list[str]]:
    """`product("model=a,b", "seed=1,2")` as the basic sweeper has it."""
    expanded = [[f"{axis.split('=')[0]}={value}" for value in axis.split("=")[1].split(",")] for axis in axes]
    return [list(point) for point in itertools.product(*expanded)]


def slowly(batch: Sequence[Sequence[str]], compose: Counted) -> dict[str, str]:
    found: dict[str, str] = {}
    for point in batch:
        try:
            from_hydra(compose(point))
        except NotStartedError as error:
            found.setdefault(str(error), " ".join(point))
    return found


def test_a_big_sweep_needs_a_composition_an_option() -> None:
    batch = product(
        "model=tiny,qwen2_5_0_5b,qwen2_5_7b",
        "gpu=h200,a100,l4,t4",
        "scenario=batch,server",
        "seed=0,1,2,3,4,5,6,7,8,9",
        "power.heartbeat_ms=500,1000",
    )
    assert len(batch) == 480
    compose = Counted()
    assert problems_of_points(batch, compose, from_hydra, GROUPS) == {}
    assert compose.calls == 1 + 3 + 4 + 2


@pytest.mark.parametrize(
    "axes",
    [
        ("model=tiny,phi4", "scenario.rate_rps=1,-1,0,2"),
        ("model=tiny,phi4,tinyy", "seed=1,2"),
        ("scenario=batch,server", "scenario.rate_rps=1,2"),
        ("scenario=server,batch", "scenario.num_requests=1,0"),
        ("model=olmoe_1b_7b,tiny", "scenario.lengths.input_tokens=100,5000"),
        ("seed=1,1.5,x", "repeat=0,1"),
        ("scenario.slo.ttft_ms=null,0,5", "scenario.arrivals.kind=poisson,posson"),
        ("+engine.args.async_scheduling=true,false", "seed=1,2,-1"),
        ("engine.args.dtype=half,float16", "seed=1,2"),
        ("tracking.run_name=1,2,3", "seed=1,2"),
        ("scenario.lengths={input_tokens:0},{input_tokens:5}", "seed=1,2"),
        ("experiment=paper", "seed=1,2,-3"),
        ("no_such_key=1,2,3", "seed=1"),
        ("no.such.key=1,2,3", "seed=1"),
        ("hydra.job.chdir=true,false", "seed=1,-1"),
        ("records_dir=${model.name},x", "seed=1,-1"),
        ("model=custom", "model.hf_id=a/b,null,c/d"),
        ("scenario.window_s=nan,inf,1e400,60", "seed=1"),
    ],
)
def test_it_says_what_full_composition_says(axes: tuple[str, ...]) -> None:
    batch = product(*axes)
    assert problems_of_points(batch, Counted(), from_hydra, GROUPS) == slowly(batch, Counted())


def test_a_bad_option_costs_one_composition_and_not_one_a_point() -> None:
    compose = Counted()
    batch = product("model=tiny,tinyy,phi4", "seed=0,1,2,3,4,5,6,7,8,9", "repeat=0,1,2,3,4")
    (line,) = problems_of_points(batch, compose, from_hydra, GROUPS)
    assert line.startswith("model=tinyy: no such option")
    assert compose.calls <= 6


def test_an_option_that_writes_elsewhere_is_composed_in_full(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sly.yaml").write_text(
        "# @package _global_\nmodel: {name: sly, weights: random, hf_id: a/b}\nseed: -1\n"
    )
    batch = product("model=tiny,sly", "repeat=0,1")
    found = problems_of_points(batch, Counted(str(tmp_path)), from_hydra, GROUPS)
    assert found == slowly(batch, Counted(str(tmp_path)))
    (line,) = found
    assert line.startswith("seed: must be between 0 and")
