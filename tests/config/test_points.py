"""The quick check of a sweep says what composing every point would have said, in far fewer compositions."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from wattcount.config import RunConfig
from wattcount.config.composition import compose_hydra, entangled, from_hydra
from wattcount.config.loader import GROUPS
from wattcount.config.points import build_points
from wattcount.errors import NotStartedError


class Counted:
    """Composes with Hydra; the same overrides once, which saves much time. `calls` counts all."""

    def __init__(self, config_dir: str | None = None) -> None:
        self.calls = 0
        self.config_dir = config_dir
        self._known: dict[tuple[str, ...], DictConfig | NotStartedError] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        self.calls += 1
        key = tuple(overrides)
        if key not in self._known:
            try:
                self._known[key] = compose_hydra(overrides, self.config_dir)
            except NotStartedError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, NotStartedError):
            raise found
        return found


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
    assert build_points(batch, compose, from_hydra, GROUPS)[1] == {}
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
    batch, compose = product(*axes), Counted()
    assert build_points(batch, compose, from_hydra, GROUPS)[1] == slowly(batch, compose)


def test_a_bad_option_costs_one_composition_and_not_one_a_point() -> None:
    compose = Counted()
    batch = product("model=tiny,tinyy,phi4", "seed=0,1,2,3,4,5,6,7,8,9", "repeat=0,1,2,3,4")
    (line,) = build_points(batch, compose, from_hydra, GROUPS)[1]
    assert line.startswith("model=tinyy: no such option")
    assert compose.calls <= 6


def test_an_option_that_writes_elsewhere_is_composed_in_full(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sly.yaml").write_text(
        "# @package _global_\nmodel: {name: sly, weights: random, hf_id: a/b}\nseed: -1\n"
    )
    batch = product("model=tiny,sly", "repeat=0,1")
    found = build_points(batch, Counted(str(tmp_path)), from_hydra, GROUPS)[1]
    assert found == slowly(batch, Counted(str(tmp_path)))
    (line,) = found
    assert line.startswith("seed: must be between 0 and")


def full(batch: Sequence[Sequence[str]], compose: Counted) -> list[RunConfig | None]:
    """Every point as Hydra composes it; None for one that is wrong."""
    runs: list[RunConfig | None] = []
    for point in batch:
        try:
            runs.append(from_hydra(compose(point)))
        except NotStartedError:
            runs.append(None)
    return runs


def options(folder: Path, **files: str) -> str:
    """Option files, by `GROUP__NAME`, in a folder for `--config-dir`."""
    for name, text in files.items():
        group, _, option = name.rpartition("__")
        (folder / group).mkdir(exist_ok=True)
        (folder / group / f"{option}.yaml").write_text(text)
    return str(folder)


TINY = ("engine=tiny", "model=tiny")
BATCH = (*TINY, "scenario=batch")


@pytest.mark.parametrize(
    "axes",
    [
        ("scenario.num_requests=8,16,32", "engine.max_num_seqs=${scenario.num_requests}"),
        ("scenario.num_requests=8,16,32", "engine.max_num_seqs=${.max_num_batched_tokens}"),
        ("scenario.num_requests=8,16,32", "engine.max_num_seqs=${oc.select:scenario.num_requests}"),
        ("scenario.num_requests=8,16,32", "engine.max_num_seqs='${scenario.${oc.decode:num_requests}}'"),
        ("scenario.num_requests=8,16,32", "sweep.name=n${scenario.num_requests}_${oc.env:TEXT}"),
        ("scenario.num_requests=8,16,32", "seed=${oc.env:NUMBER}"),
        ("oc=1", "scenario.num_requests=${oc.env:NUMBER},${oc.env:NUMBER},9"),
        ("repeat=1,2,3", "scenario.lengths.output_tokens=${repeat}"),
        ("seed=1,2,3", "model.hf_config.vocab_size=${seed}"),
        ("seed=1,2,3", "engine.args.deep.deeper=${seed}"),
        ("seed=1,2,3", "engine.args.list=[1;${seed}]"),
        ("model=tiny,gpt2,phi4", "sweep.name=${model.name}"),
        ("gpu=l4,a100,t4", "tracking.tags.watts=${gpu.tdp_w}"),
        ("scenario.lengths.input_tokens=8,16,32", "scenario.lengths={input_tokens:64}"),
        ("scenario.lengths.input_tokens=8,16,32", "++scenario.lengths.input_tokens=64"),
        ("++scenario.lengths.input_tokens=64", "scenario.lengths.input_tokens=8,16,32"),
    ],
)
def test_points_are_what_full_composition_makes_them(
    axes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT", "t")
    monkeypatch.setenv("NUMBER", "7")
    batch = [[*BATCH, *(text.replace(";", ",") for text in point)] for point in product(*axes)]
    batch = [[text for text in point if text != "oc=1"] for point in batch]
    compose = Counted()
    built, _ = build_points(batch, compose, from_hydra, GROUPS)
    assert built == full(batch, compose)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_key_that_is_tied_to_a_swept_one_follows_it(count: int) -> None:
    sizes = [8, 16, 32, 64][:count]
    batch = [
        [*BATCH, f"scenario.num_requests={size}", "engine.max_num_seqs=${scenario.num_requests}"]
        for size in sizes
    ]
    built, problems = build_points(batch, Counted(), from_hydra, GROUPS)
    assert problems == {}
    assert [run.engine.max_num_seqs for run in built if run is not None] == sizes


def test_keys_that_files_tie_follow_what_is_swept(tmp_path: Path) -> None:
    folder = options(
        tmp_path,
        experiment__tied="# @package _global_\nengine: {max_num_seqs: '${scenario.num_requests}'}\n",
        engine__tied="defaults: [engine_schema, _self_]\nname: tiny\nmax_num_seqs: ${scenario.num_requests}\n",
    )
    for tie in ("experiment=tied", "engine=tied"):
        batch = [["model=tiny", "scenario=batch", tie, f"scenario.num_requests={n}"] for n in (8, 16, 32)]
        batch += [[*BATCH, f"scenario.num_requests={n}"] for n in (8, 16)]
        built, problems = build_points(batch, Counted(folder), from_hydra, GROUPS)
        assert problems == {}
        assert [run.engine.max_num_seqs for run in built if run is not None] == [8, 16, 32, None, None]


def test_what_depends_on_the_environment_alone_is_still_quick() -> None:
    batch = product("model=tiny,gpt2,phi4", "seed=0,1,2,3", "records_dir=${wattcount.home:x}")
    compose = Counted()
    assert build_points(batch, compose, from_hydra, GROUPS)[1] == {}
    assert compose.calls == 1 + 3


def test_an_option_that_writes_into_what_another_group_chooses(tmp_path: Path) -> None:
    """The first engine has what the sly option writes, so that by itself it seems to write nothing."""
    folder = options(
        tmp_path,
        tracking__sly="# @package _global_\ntracking: {enabled: false}\nengine: {max_num_seqs: 4}\n",
        engine__four="defaults: [engine_schema, _self_]\nname: tiny\nmax_num_seqs: 4\n",
        engine__eight="defaults: [engine_schema, _self_]\nname: tiny\nmax_num_seqs: 8\n",
    )
    batch = [["model=tiny", *point] for point in product("tracking=none,sly", "engine=four,eight")]
    there = entangled(["structured://", "pkg://wattcount.conf", f"file://{folder}"])
    built, _ = build_points(batch, Counted(folder), from_hydra, GROUPS, entangled=there)
    assert [run.engine.max_num_seqs for run in built if run is not None] == [4, 8, 4, 4]
    assert built == full(batch, Counted(folder))


def test_which_files_entangle_groups(tmp_path: Path) -> None:
    here = [f"file://{tmp_path}"]
    options(tmp_path, experiment__mine="# @package _global_\ndefaults: [override /model: tiny]\nseed: 1\n")
    options(tmp_path, model__mine="defaults: [model_schema, _self_]\nname: mine\npath: ${oc.env:HOME}\n")
    assert not entangled(here)
    assert not entangled(["pkg://wattcount.conf", "structured://"])
    assert entangled(["pkg://of.others"])
    options(tmp_path, special__mine="defaults:\n  - optional /special: ${scenario}_${engine}\n")
    assert entangled(here)


def test_no_packaged_option_entangles_groups() -> None:
    assert not entangled([f"file://{Path(__file__).parents[2] / 'conf'}"])


KEYS = {
    "seed": st.integers(0, 3).map(str),
    "repeat": st.integers(0, 3).map(str),
    "scenario.lengths.input_tokens": st.sampled_from(["8", "16", "${scenario.lengths.output_tokens}"]),
    "scenario.lengths.output_tokens": st.sampled_from(["4", "9", "'${oc.decode:${oc.env:NUMBER}}'"]),
    "scenario.bare_idle_s": st.sampled_from(["1", "2.5", "${scenario.loaded_idle_s}", "-1"]),
    "scenario.lengths": st.sampled_from(["{input_tokens:64}", "{output_tokens:${seed}}"]),
    "++scenario.slo.ttft_ms": st.sampled_from(["5", "null"]),
    "scenario.slo.ttft_ms": st.sampled_from(["7", "null", "${scenario.slo.tpot_ms}"]),
    "engine.max_num_seqs": st.sampled_from(["null", "3", "${scenario.lengths.input_tokens}", "${repeat}"]),
    "engine.args.further": st.sampled_from(["1e3", "${seed}", "[1,${repeat}]", "text", "'${seed}'"]),
    "model.revision": st.sampled_from(["1e3", "'1e3'", "main", "null", "true", "${engine.args.further}"]),
    "tracking.tags.team": st.sampled_from(["a", "1_1", "${model.name}"]),
    "sweep.name": st.sampled_from(["2026_11_24", "n${seed}", "null"]),
    "model": st.sampled_from(["tiny", "gpt2", "phi4"]),
    "gpu": st.sampled_from(["l4", "t4", "auto"]),
    "scenario": st.sampled_from(["batch", "server"]),
    "engine": st.sampled_from(["tiny", "vllm"]),
}


@st.composite
def sweeps(draw: st.DrawFn) -> list[list[str]]:
    """Three or four points of the same keys, in the same order, as a sweep makes them."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=5, unique=True))
    axes = {key: draw(st.lists(KEYS[key], min_size=1, max_size=2)) for key in keys}
    points = list(dict.fromkeys(itertools.product(*axes.values())))
    chosen = draw(st.lists(st.sampled_from(points), min_size=3, max_size=4))
    return [[f"{key}={value}" for key, value in zip(keys, point, strict=True)] for point in chosen]


@settings(
    max_examples=int(os.environ.get("WATTCOUNT_EXAMPLES", "12")),
    derandomize="WATTCOUNT_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
@given(batch=sweeps())
def test_any_sweep_is_what_full_composition_makes_it(batch: list[list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBER", "7")
        compose = Counted()
        built, problems = build_points(batch, compose, from_hydra, GROUPS)
        expected = full(batch, compose)
        assert [run for run in built if run is not None] == [run for run in expected if run is not None]
        assert [run is None for run in built] == [run is None for run in expected]
        assert problems == slowly(batch, compose)
