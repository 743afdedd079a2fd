from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException

from wattcount.config import compose, from_json, to_json
from wattcount.config.catalogue import gpu_catalogue, load_yaml, match_gpu, model_catalogue
from wattcount.config.composition import (
    TextParser,
    explain,
    initialized,
    keep_text,
    options,
    plain_errors,
    register,
)
from wattcount.config.loader import GROUPS
from wattcount.config.packaged import conf_path, packaged_options
from wattcount.config.schema import BatchConfig, PowerBackend, ServerConfig, Weights
from wattcount.emulation import machine as emulation
from wattcount.engines import registry
from wattcount.errors import NotStartedError
from wattcount.sweep.sweeper import expand

GPUS = [
    "t4",
    "v100",
    "a30",
    "a100",
    "a100_40gb",
    "a100_80gb",
    "l4",
    "l40s",
    "rtx3090",
    "rtx4090",
    "h100",
    "h100_nvl",
    "h200",
    "b200",
    "auto",
]
MODELS = [
    "llama3_8b",
    "llama3_1_8b",
    "qwen2_5_0_5b",
    "qwen2_5_7b",
    "gemma2_2b",
    "phi4",
    "mistral_7b",
    "olmoe_1b_7b",
    "tiny",
    "custom",
    "auto",
]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))


def test_the_options_that_were_promised() -> None:
    assert set(GPUS) <= set(options("gpu"))
    assert set(MODELS) <= set(options("model"))
    assert {"batch", "server", "batch_paper", "server_paper_low", "server_paper_high"} <= set(
        options("scenario")
    )
    assert {"auto", "nvml", "emulated"} <= set(options("power"))
    assert {"vllm", "tiny"} <= set(options("engine"))


@pytest.mark.parametrize("group", sorted({*GROUPS} - {"experiment"}))
def test_every_option_composes_under_its_own_name(group: str) -> None:
    for option in options(group):
        overrides = [f"{group}={option}"]
        if (group, option) == ("model", "custom"):
            overrides.append("model.hf_id=someone/something")
        if (group, option) == ("engine", "openai"):
            overrides.append("engine.base_url=http://localhost:8000")
        run = compose(overrides)
        assert from_json(json.loads(json.dumps(to_json(run)))) == run
        node = getattr(run, group)
        if group in ("model", "gpu", "scenario"):
            assert node.name == option
        if group == "gpu" and option != "auto":
            assert node == gpu_catalogue()[option]


def test_the_defaults() -> None:
    run = compose()
    assert (run.model.name, run.gpu.name, run.scenario.name) == ("auto", "auto", "server")
    assert run.model.weights is Weights.random
    assert run.engine.name == "vllm"
    assert run.power.backend is PowerBackend.auto
    assert run.tracking.enabled
    assert run.records_dir == os.path.join(os.environ["WATTCOUNT_HOME"], "records")  # noqa: PTH118


def test_a_run_on_a_machine_without_a_gpu_is_over_in_three_minutes() -> None:
    scenario = compose().scenario
    idle_s = scenario.bare_idle_s + 2 * scenario.loaded_idle_s + scenario.bare_idle_after_s
    assert idle_s + scenario.warmup_s + scenario.window_s <= 90


def test_scenarios_are_typed() -> None:
    batch, server = (
        compose(["scenario=batch_paper"]).scenario,
        compose(["scenario=server_paper_low"]).scenario,
    )
    assert isinstance(batch, BatchConfig)
    assert isinstance(server, ServerConfig)
    assert batch.num_requests == 1000
    assert (server.rate_rps, server.window_s) == (0.017, 300.0)
    assert compose(["scenario=server_paper_high"]).scenario.rate_rps == 0.33
    for scenario in (batch, server):
        assert scenario.lengths.output_tokens == 256
        assert not scenario.lengths.force_output


def test_engine_arguments_tags_and_shapes_are_open() -> None:
    run = compose(
        [
            "model=llama3_8b",
            "engine.args.async_scheduling=false",
            "engine.args.compilation_config.level=3",
            "tracking.tags.team=a",
            "model.hf_config.num_hidden_layers=2",
        ]
    )
    assert run.engine.args == {"async_scheduling": False, "compilation_config": {"level": 3}}
    assert run.tracking.tags == {"team": "a"}
    assert run.model.hf_config["num_hidden_layers"] == 2
    assert run.model.hf_config["hidden_size"] == 4096


def test_composing_leaves_hydra_as_it_was() -> None:
    compose(["model=tiny"])
    assert not GlobalHydra.instance().is_initialized()


def test_groups_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [model_schema, _self_]\nname: mine\nhf_id: me/mine\nweights: random\n"
        "hf_config: {hidden_size: 8}\n"
    )
    (tmp_path / "scenario").mkdir()
    (tmp_path / "scenario" / "untyped.yaml").write_text("kind: batch\nname: untyped\nnum_requests: 3\n")
    run = compose(["model=mine", "scenario=untyped"], config_dir=str(tmp_path))
    assert run.model.name == "mine"
    assert run.scenario == BatchConfig(name="untyped", num_requests=3)
    assert "mine" in options("model", str(tmp_path))


def test_a_mistake_in_a_group_of_ones_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "scenario").mkdir()
    file = tmp_path / "scenario" / "mine.yaml"
    file.write_text("kind: batch\nname: mine\nnum_request: 3\n")
    with pytest.raises(
        NotStartedError, match=r"scenario.num_request: no such key; did you mean 'num_requests'"
    ):
        compose(["scenario=mine"], config_dir=str(tmp_path))
    file.write_text("defaults: [batch_schema, _self_]\nname: mine\nnum_requests: many\n")
    with pytest.raises(NotStartedError, match=r"num_requests: must be a whole number, not 'many'"):
        compose(["scenario=mine"], config_dir=str(tmp_path))
    file.write_text("kind: [batch\n")
    with pytest.raises(NotStartedError) as caught:
        compose(["scenario=mine"], config_dir=str(tmp_path))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "option"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200_nvl"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100_80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("A100-SXM4-40GB", "a100_40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100_pcie_40gb"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie_80gb"),
        ("NVIDIA A30", "a30"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla V100-SXM2-16GB", "v100_16gb"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA GB300", "gb300"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A2", "a2"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA RTX A6000", "rtx_a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000_ada"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx_pro_6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx_pro_6000_max_q"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None),
        ("NVIDIA GeForce RTX 5090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_device_names_tell_variants_apart(found: str, option: str | None) -> None:
    gpu = match_gpu(found)
    assert (gpu.name if gpu else None) == option


def test_a_packaged_option_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="cannot be changed"):
        gpu_catalogue()["l4"].nvml_names.append("NVIDIA L5")
    with pytest.raises(TypeError, match="cannot be changed"):
        model_catalogue()["tiny"].hf_config["vocab_size"] = 1


def test_gpu_facts_are_complete_and_plausible() -> None:
    catalogue = gpu_catalogue()
    profiles = {profile["name"] for profile in emulation.profiles()}
    assert set(GPUS) - {"auto"} <= set(catalogue)
    assert "auto" not in catalogue
    for name, gpu in catalogue.items():
        assert gpu.name == name
        assert gpu.source
        assert gpu.emulator_profile in profiles
        assert gpu.emulated_name is not None
        found = match_gpu(gpu.emulated_name)
        assert found is not None
        assert found.nvml_names == gpu.nvml_names
        assert gpu.architecture
        assert gpu.memory_gib is not None
        assert 16 <= gpu.memory_gib <= 288
        assert gpu.memory_bandwidth_gb_s is not None
        assert 200 <= gpu.memory_bandwidth_gb_s <= 8000
        assert gpu.fp16_dense_tflops is not None
        assert gpu.tdp_w is not None
        if gpu.idle_w is not None:
            assert 0.05 * gpu.tdp_w <= gpu.idle_w < 0.3 * gpu.tdp_w or gpu.name.startswith("rtx")
        assert gpu.compute_capability is not None
        has_fp8 = float(gpu.compute_capability) >= 8.9
        assert (gpu.fp8_dense_tflops is not None) is has_fp8
        if gpu.fp8_dense_tflops is not None:
            assert gpu.fp8_dense_tflops / gpu.fp16_dense_tflops == pytest.approx(2.0, rel=0.02)


def test_it_works_from_any_folder(tmp_path: Path) -> None:
    code = "from wattcount.config import compose; print(compose(['gpu=h200', 'model=tiny']).gpu.tdp_w)"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ}
    if not conf_path().startswith("pkg://"):
        environment["PYTHONPATH"] = str(root)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "700.0", done.stderr
    assert list(tmp_path.iterdir()) == []


HEADER = "# @package _global_\n"


@pytest.mark.parametrize(
    ("group", "content", "said"),
    [
        ("experiment", b"seed: 1\n", "experiment/mine.yaml: its first line must be: # @package _global_"),
        ("experiment", b"\n# a sweep\n" + HEADER.encode() + b"seed: 1\n", "mine.yaml: its first line must be"),
        ("experiment", b"hydra: {mode: MULTIRUN}\n", "mine.yaml: its first line must be"),
        ("experiment", b"# @package _globl_\nseed: 1\n", "experiment/mine.yaml: _globl_: no such key"),
        ("experiment", b"# @package _global_ # x\nseed: 1\n", "mine.yaml: a line that begins with # @ must be"),
        ("experiment", b"# @package\nseed: 1\n", "mine.yaml: a line that begins with # @ must be"),
        ("experiment", HEADER.encode() + b"sed: 1\n", "experiment/mine.yaml: sed: no such key"),
        ("experiment", HEADER.encode() + b"seed: x\n", "experiment/mine.yaml: seed: must be a whole number"),
        ("experiment", HEADER.encode("utf-16"), "mine.yaml: is not UTF-8 text"),
        ("experiment", HEADER.encode() + b"model: {name: \xe9}\n", "mine.yaml: is not UTF-8 text: byte 34"),
        ("experiment", HEADER.encode() + b"model: {name: x\n", "mine.yaml: line 3, column 1: expected"),
        ("experiment", b"- a\n", "mine.yaml: must hold a group of keys"),
        ("scenario", b"num_request: 1\nname: x\nkind: batch\n", "num_request: no such key; did you mean"),
        ("model", b"defaults: [model_schma]\n", "model/mine.yaml: model=model_schma: no such option"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_of_a_group_is_told_with_its_name(
    group: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_bytes(content)
    with pytest.raises(NotStartedError) as caught:
        compose(["model=tiny", f"{group}=mine"], str(tmp_path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf# @package _global_\nseed: 3\n", b"# @package _global_\r\nseed: 3\r\n"]
)
def test_a_byte_order_mark_or_another_line_end_hides_no_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    assert compose(["experiment=mine"], str(tmp_path)).seed == 3


def test_a_file_of_ones_own_does_not_take_the_place_of_an_option_of_ours(tmp_path: Path) -> None:
    for file in ("engine/tiny", "engine/mine", "model/tiny"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.yaml").write_text(
            f"name: tiny\n{'weights: hub' if 'model' in file else 'max_num_seqs: 7'}\n"
        )
    run = compose(["model=tiny", "engine=tiny"], config_dir=str(tmp_path))
    assert (run.model.weights, run.engine.max_num_seqs) == (Weights.random, None)
    assert compose(["model=tiny", "engine=mine"], config_dir=str(tmp_path)).engine.max_num_seqs == 7


@pytest.mark.parametrize("group", GROUPS)
def test_the_help_names_the_options_that_hydra_has(group: str) -> None:
    assert packaged_options(group) == options(group)


def test_schemas_are_no_options() -> None:
    assert not [name for group in GROUPS for name in options(group) if "schema" in name]
    with pytest.raises(NotStartedError) as caught:
        compose(["scenario=batch_schem"])
    assert "schema" not in str(caught.value)
    register()  # which may come once more
    assert "batch" in options("scenario")
    with initialized():
        loader = GlobalHydra.instance().config_loader()
        found = list(
            TextParser.create(loader).parse_overrides(["scenario=glob(*)"])[0].sweep_string_iterator()
        )
    assert sorted(found) == options("scenario")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scenario.rate_rp=4", "scenario.rate_rp: no such key; did you mean 'rate_rps'?"),
        (
            "scenario=batch scenario.rate_rps=4",
            "scenario.rate_rps: no such key; scenario has: bare_idle_after_s, bare_idle_s, ",
        ),
        ("window_s=10", "window_s: no such key; did you mean 'scenario.window_s'?"),
        ("max_num_seqs=4", "max_num_seqs: no such key; did you mean 'engine.max_num_seqs'?"),
        ("modle=tiny", "modle: no such key; did you mean 'model'?"),
        ("zzz=1", "zzz: no such key; the configuration has: allow_busy_gpu, "),
        ("+zzz=1", "zzz: no such key; the configuration has: allow_busy_gpu, "),
        ("model=lama3_8b", "model=lama3_8b: no such option; did you mean 'llama3_8b'?"),
        ("model=zz", "model=zz: no such option; wattcount models lists them"),
        ("gpu=radeon", "gpu=radeon: no such option; there are: a10, a100, a100_40gb, "),
        ("experiment=nothing", "experiment=nothing: no such option; there are: architectures, "),
        ("scenario.rate_rps=abc", "scenario.rate_rps: must be a number, not 'abc'"),
        ("scenario.rate_rps=[1,2]", "scenario.rate_rps: "),
        ("seed=1.5", "seed: must be a whole number, not '1.5'"),
        ("allow_busy_gpu=maybe", "allow_busy_gpu: must be true or false, not 'maybe'"),
        ("records_dir=null", "records_dir: must not be null"),
        (
            "scenario.arrivals.kind=posson",
            "scenario.arrivals.kind: 'posson' is not one of poisson, gamma, constant, trace; did you mean 'poisson'?",
        ),
        ("engine=trt", f"engine=trt: no such option; there are: {', '.join(sorted(registry.PACKAGED))}"),
        (
            "power.backend=nvlm",
            "power.backend: 'nvlm' is not one of auto, nvml, emulated; did you mean 'nvml'?",
        ),
        ("model", "'model': not an override; write KEY=VALUE"),
        ("scenario.lengths=[1", "'scenario.lengths=[1': cannot be read as KEY=VALUE"),
        ("seed=1,2", "'seed=1,2': several values; add -m to run each of them"),
        ("nogroup@x=3", "Override nogroup@x=3 looks like a config group override, but "),
        ("~model.name", "model.name: "),
    ],
)
def test_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(NotStartedError) as caught:
        compose(override.split())
    text = str(caught.value)
    assert text.startswith(message), text
    assert "\n" not in text
    assert "_schema" not in text


def test_a_config_folder_that_is_not_there_changes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(NotStartedError, match="model=mine: no such option"):
        compose(["model=mine"], config_dir=str(tmp_path))


def test_other_errors_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError), plain_errors():
        raise ZeroDivisionError
    with pytest.raises(NotStartedError, match="kept"), plain_errors():
        raise NotStartedError("kept")
    with pytest.raises(NotStartedError, match="a; b"), plain_errors():
        raise ValueError("a\n  b")


def test_an_unknown_hydra_error_keeps_its_text_on_one_line() -> None:
    from hydra.errors import ConfigCompositionException

    assert explain(ConfigCompositionException("first\nsecond")) == "first; second"


def test_a_launcher_that_is_not_installed_is_told_with_how_to_get_it() -> None:
    error = MissingConfigException("", "hydra/launcher/submitit_slurm", ["basic"])
    assert explain(error).endswith("it is not installed: pip install 'wattcount[slurm]'")
    error = MissingConfigException("", "hydra/launcher/slurm", ["basic"])
    assert explain(error) == "hydra/launcher=slurm: no such option; there are: basic"


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
    return load_yaml(text, described, "x.yaml")


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
