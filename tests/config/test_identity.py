from __future__ import annotations

import dataclasses
import enum
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.config import identity
from wattcount.config.composition import compose
from wattcount.config.fields import ALWAYS, IDENTITY, LEFT_OUT
from wattcount.config.identity import (
    LENGTHS,
    canonical_json,
    identity_fields,
    key_of,
    levers,
    particulars,
    planned_key,
    planned_point,
    point_id,
    setting,
    setting_key,
)
from wattcount.config.loader import changed, from_json, to_json
from wattcount.config.schema import (
    ArrivalKind,
    BatchConfig,
    Device,
    EngineConfig,
    GpuConfig,
    LengthKind,
    ModelConfig,
    RunConfig,
    ServerConfig,
    Weights,
)
from wattcount.engines import registry
from wattcount.errors import NotStartedError


def resolved(*overrides: str) -> RunConfig:
    run = compose(list(overrides))
    return changed(
        run,
        {
            "gpu.found_name": "NVIDIA H200",
            "engine.device": Device.cuda,
            "engine.version_minor": "0.32",
            "evidence": "measured",
        },
    )


GOLDEN = {
    (
        "model=llama3_8b",
        "model.weights=random",
        "scenario=server",
    ): "c0e33750af86a9dc2e737872c1dccefb82d8582443cd7449efd079c804f05b23",
    (
        "model=llama3_8b",
        "scenario=server",
    ): "c5a0dd4cef33490587f8652f47f1ca0447445bcf1b7976fa86156fdd60bc9fd9",
    ("model=llama3_8b", "scenario=batch"): "2e5cb9c7ec0c2fa7126f25937da20716d5f07d23cbaad5692001db9368784eed",
    (
        "model=tiny",
        "scenario=batch",
        "scenario.slo.ttft_ms=200",
    ): "ef8fe3a8221d36945cd617015999e70d36d3abaa7700c19529af604150fccd95",
    (
        "model=olmoe_1b_7b",
        "scenario.arrivals.kind=gamma",
        "scenario.arrivals.cv=2",
        "engine.args.async_scheduling=false",
    ): "49b614b7e83110458b8e3117bf18af005f26f377a6f4e65340b27b6d20393279",
}
"""Records in the world carry these. A change here orphans them: it must never be needed."""


@pytest.mark.parametrize(("overrides", "expected"), GOLDEN.items())
def test_golden(overrides: tuple[str, ...], expected: str) -> None:
    assert point_id(resolved(*overrides)) == expected


def test_the_canonical_form_is_readable() -> None:
    assert json.loads(canonical_json(resolved("model=llama3_8b", "scenario.rate_rps=4"))) == {
        "model": {"name": "llama3_8b", "hf_id": "meta-llama/Meta-Llama-3-8B-Instruct"},
        "gpu": {"found_name": "NVIDIA H200"},
        "scenario": {"kind": "server", "rate_rps": 4},
        "engine": {"device": "cuda", "version_minor": "0.32"},
        "evidence": "measured",
    }


OUTSIDE = [
    "seed=7",
    "repeat=3",
    "records_dir=/tmp/elsewhere",
    "tracking=none",
    "tracking.uri=http://localhost:5000",
    "tracking.tags.who=me",
    "display.plain_interval_s=1",
    "power=emulated",
    "power.power_period_ms=5",
    "allow_busy_gpu=true",
    "gpu_busy_timeout_s=5",
    "gpu_lock_timeout_s=5",
    "resume=true",
    "cooldown_limit_s=5",
    "gpu=h200",
    "gpu.devices=[GPU-1]",
    "gpu.tdp_w=600",
    "scenario.name=other",
    "scenario.drain_limit_s=5",
    "engine.start_timeout_s=5",
    "model.gated=false",
    "model.parameters_b=9",
    "model.source=elsewhere",
]


@pytest.mark.parametrize("override", OUTSIDE)
def test_what_is_not_measured_does_not_count(override: str) -> None:
    assert point_id(resolved("model=llama3_8b", override)) == point_id(resolved("model=llama3_8b"))


INSIDE = [
    "model=llama3_1_8b",
    "model.weights=random",
    "model.dtype=float16",
    "model.revision=abc",
    "model.quantization=fp8",
    "gpu.count=2",
    "scenario=batch",
    "scenario.rate_rps=2",
    "scenario.window_s=61",
    "scenario.bare_idle_s=11",
    "scenario.slo.ttft_ms=200",
    "scenario.sampling.temperature=0",
    "scenario.sampling.top_p=0.9",
    "scenario.sampling.top_k=50",
    "scenario.sampling.min_p=0.1",
    "scenario.sampling.seed=1",
    "scenario.lengths.output_tokens=129",
    "scenario.lengths.force_output=false",
    "scenario.arrivals.kind=constant",
    "scenario.max_in_flight=8",
    "engine=tiny",
    "engine.max_num_seqs=8",
    "engine.enforce_eager=true",
    "engine.args.async_scheduling=false",
    "engine.kv_cache_dtype=fp8",
    "engine.pipeline_parallel_size=2",
    "engine.data_parallel_size=2",
    "engine.enable_chunked_prefill=false",
    "engine.speculative.method=ngram",
    "engine.speculative.num_speculative_tokens=2",
    "gpu.sm_clock_mhz=1410",
    "gpu.power_limit_w=400",
]


def test_what_is_measured_counts() -> None:
    runs = [resolved("model=llama3_8b")]
    for override in INSIDE:
        extra = {
            "gpu.count=2": ["engine.tensor_parallel_size=2"],
            "engine.pipeline_parallel_size=2": ["gpu.count=2"],
            "engine.data_parallel_size=2": ["gpu.count=2"],
            "engine.speculative.num_speculative_tokens=2": ["engine.speculative.method=ngram"],
        }.get(override, [])
        runs.append(resolved("model=llama3_8b", override, *extra))
    for key, value in (
        ("evidence", "emulated"),
        ("gpu.found_name", "NVIDIA H100 80GB HBM3"),
        ("engine.version_minor", "0.31"),
    ):
        runs.append(changed(runs[0], {key: value}))
    assert len({point_id(run) for run in runs}) == len(runs)


def test_what_was_the_default_is_still_left_out() -> None:
    first, null = resolved("model=llama3_8b"), resolved("model=llama3_8b")
    first = changed(
        first,
        {
            "engine.gpu_memory_utilization": 0.9,
            "engine.enable_prefix_caching": False,
            "engine.enable_chunked_prefill": True,
        },
    )
    assert point_id(first) == point_id(null)
    for name, value in (("gpu_memory_utilization", 0.92), ("enable_prefix_caching", True)):
        other = changed(first, {f"engine.{name}": value})
        assert point_id(other) != point_id(first)


def test_a_setting_left_to_the_engine_and_the_same_one_asked_for_are_one_point() -> None:
    left, asked = (
        resolved("model=llama3_8b", "gpu=h200", "scenario=server"),
        resolved(
            "model=llama3_8b",
            "gpu=h200",
            "scenario=server",
            "engine.max_num_seqs=1024",
            "engine.max_num_batched_tokens=8192",
            "engine.enable_prefix_caching=true",
            "engine.gpu_memory_utilization=0.92",
        ),
    )
    left, asked = (
        changed(run, {"engine": registry.plugin(run.engine.name).resolved(run)}) for run in (left, asked)
    )
    assert left.engine.unset
    assert point_id(left) == point_id(asked)
    assert point_id(left) != point_id(resolved("model=llama3_8b", "gpu=h200", "scenario=server"))


def test_batch_and_server_with_all_their_defaults_differ() -> None:
    run = resolved("model=tiny")
    batch, server = (changed(run, {"scenario": scenario}) for scenario in (BatchConfig(), ServerConfig()))
    assert point_id(batch) != point_id(server)


def test_the_shape_counts_only_where_the_weights_are_random() -> None:
    hub = resolved("model=llama3_8b")
    other = changed(hub, {"model.hf_config": {"hidden_size": 1}})
    assert point_id(hub) == point_id(other)
    hub, other = (changed(run, {"model.weights": Weights.random}) for run in (hub, other))
    assert point_id(hub) != point_id(other)


def test_whole_floats_and_integers_are_one_value() -> None:
    run = resolved("model=tiny")
    one, other = (changed(run, {"engine.args": {"x": x}}) for x in (5, 5.0))
    assert point_id(one) == point_id(other)


@given(st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_order_and_a_trip_through_json_do_not_matter(rng: random.Random) -> None:
    run = RESOLVED_ONCE

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            rng.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return value

    assert point_id(from_json(shuffled(to_json(run)))) == point_id(run)


RESOLVED_ONCE = resolved("model=llama3_1_8b", "model.weights=random", "engine.args.async_scheduling=true")


@given(
    st.sampled_from(["temperature", "speculative", "policy"]), st.one_of(st.none(), st.integers(), st.text())
)
@settings(max_examples=25)
def test_a_new_option_with_a_default_changes_no_old_hash(name: str, default: Any) -> None:
    newer = dataclasses.make_dataclass(
        "NewerModel",
        [(name, Any, dataclasses.field(default=default, metadata={IDENTITY: True, ALWAYS: False}))],
        bases=(ModelConfig,),
        frozen=True,
    )
    old = RESOLVED_ONCE
    values = {f.name: getattr(old.model, f.name) for f in dataclasses.fields(old.model)}
    new = dataclasses.replace(old, model=newer(**values))
    assert point_id(new) == point_id(old)
    new = changed(new, {f"model.{name}": "something else entirely"})
    assert point_id(new) != point_id(old)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("model.name", "auto", "model.name=auto"),
        ("gpu.found_name", None, "gpu.found_name=null"),
        ("engine.device", Device.auto, "engine.device=auto"),
        ("evidence", None, "evidence=null"),
        ("model.weights", Weights.path, "model.path_fingerprint=null"),
        ("model.name", "???", "model.name=???"),
    ],
)
def test_what_is_not_resolved_has_no_identity(key: str, value: Any, named: str) -> None:
    run = changed(resolved("model=tiny"), {key: value})
    with pytest.raises(NotStartedError) as caught:
        point_id(run)
    assert named in str(caught.value)


def test_every_field_says_whether_it_counts() -> None:
    """Only fields made with identity() carry the mark; a plain field is outside by choice."""
    marked = {f.name for f in dataclasses.fields(RunConfig) if f.metadata.get(IDENTITY)}
    assert marked == {"model", "gpu", "scenario", "engine", "evidence"}
    assert "path" not in identity_fields(resolved("model=llama3_8b"))["model"]
    assert identity.point_id is point_id


DEFAULTS: dict[str, Any] = {
    "model.name": "???",
    "model.hf_id": None,
    "model.revision": None,
    "model.weights": "hub",
    "model.path_fingerprint": None,
    "model.hf_config": {},
    "model.dtype": "bfloat16",
    "model.quantization": None,
    "model.tokenizer": None,
    "gpu.count": 1,
    "gpu.found_name": None,
    "gpu.sm_clock_mhz": None,
    "gpu.power_limit_w": None,
    "batch.kind": "batch",
    "batch.lengths.kind": "fixed",
    "batch.lengths.input_tokens": 512,
    "batch.lengths.output_tokens": 128,
    "batch.lengths.input_tokens_min": 1,
    "batch.lengths.input_tokens_max": 4096,
    "batch.lengths.output_tokens_min": 1,
    "batch.lengths.output_tokens_max": 1024,
    "batch.lengths.input_cv": 1.0,
    "batch.lengths.output_cv": 1.0,
    "batch.lengths.fingerprint": None,
    "batch.lengths.force_output": True,
    "batch.slo.ttft_ms": None,
    "batch.slo.tpot_ms": None,
    "batch.slo.e2e_ms": None,
    "batch.bare_idle_s": 10.0,
    "batch.loaded_idle_s": 10.0,
    "batch.num_requests": 512,
    "batch.warmup_requests": 16,
    "server.kind": "server",
    "server.lengths.kind": "fixed",
    "server.lengths.input_tokens": 512,
    "server.lengths.output_tokens": 128,
    "server.lengths.input_tokens_min": 1,
    "server.lengths.input_tokens_max": 4096,
    "server.lengths.output_tokens_min": 1,
    "server.lengths.output_tokens_max": 1024,
    "server.lengths.input_cv": 1.0,
    "server.lengths.output_cv": 1.0,
    "server.lengths.fingerprint": None,
    "server.lengths.force_output": True,
    "server.sampling.temperature": 1.0,
    "server.sampling.top_p": 1.0,
    "server.sampling.top_k": 0,
    "server.sampling.min_p": 0.0,
    "server.sampling.seed": None,
    "server.slo.ttft_ms": None,
    "server.slo.tpot_ms": None,
    "server.slo.e2e_ms": None,
    "server.bare_idle_s": 10.0,
    "server.loaded_idle_s": 10.0,
    "server.arrivals.kind": "poisson",
    "server.arrivals.cv": 1.0,
    "server.arrivals.fingerprint": None,
    "server.rate_rps": 1.0,
    "server.warmup_s": 10.0,
    "server.warmup_limit_s": 60.0,
    "server.window_s": 45.0,
    "server.max_in_flight": None,
    "engine.name": "vllm",
    "engine.device": "auto",
    "engine.version_minor": None,
    "engine.tensor_parallel_size": 1,
    "engine.max_model_len": None,
    "engine.max_num_seqs": None,
    "engine.max_num_batched_tokens": None,
    "engine.gpu_memory_utilization": 0.9,
    "engine.enforce_eager": False,
    "engine.enable_prefix_caching": False,
    "engine.kv_cache_dtype": "auto",
    "engine.args": {},
    "engine.pipeline_parallel_size": 1,
    "engine.data_parallel_size": 1,
    "engine.enable_chunked_prefill": True,
    "engine.speculative.method": None,
    "engine.speculative.num_speculative_tokens": 4,
    "engine.speculative.prompt_lookup_min": None,
    "engine.speculative.prompt_lookup_max": None,
    "engine.speculative.draft_model": None,
}
"""What is left out of a hash because it is the default. To change a default is to change the meaning of
every hash that left it out: give the new value in `conf/` instead, and leave this table alone."""


def default_table() -> dict[str, Any]:
    def of(cls: type, where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            if not item.metadata.get(IDENTITY):
                continue
            factory = item.default_factory
            default = item.default if factory is dataclasses.MISSING else factory()
            default = next(iter(item.metadata.get(LEFT_OUT, ())), default)
            if dataclasses.is_dataclass(default):
                found |= of(type(default), f"{where}{item.name}.")
            else:
                found[where + item.name] = default.value if isinstance(default, enum.Enum) else default
        return found

    return {
        **of(ModelConfig, "model."),
        **of(GpuConfig, "gpu."),
        **of(BatchConfig, "batch."),
        **of(ServerConfig, "server."),
        **of(EngineConfig, "engine."),
    }


def test_no_default_of_an_identity_field_has_changed() -> None:
    table = default_table()
    assert {key: table[key] for key in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    "same",
    [
        ("scenario.window_s=300",),
        ("scenario.warmup_s=20", "scenario.warmup_limit_s=90", "scenario.bare_idle_s=2", "scenario.loaded_idle_s=3"),
        ("power.power_period_ms=7", "seed=3", "repeat=4", "records_dir=/elsewhere"),
    ],
)  # fmt: skip
def test_runs_of_one_setting_may_differ_in_lengths_places_and_repeats(same: tuple[str, ...]) -> None:
    base = ("model=llama3_8b", "scenario=server")
    assert setting_key(resolved(*base, *same)) == setting_key(resolved(*base))


@pytest.mark.parametrize(
    "other",
    [
        ("scenario.rate_rps=2",),
        ("engine.enforce_eager=true",),
        ("gpu.power_limit_w=300",),
        ("scenario=batch",),
    ],
)
def test_another_load_or_lever_is_another_setting(other: tuple[str, ...]) -> None:
    base = ("model=llama3_8b", "scenario=server")
    assert setting_key(resolved(*base, *other)) != setting_key(resolved(*base))


def test_a_setting_has_one_key_on_all_gpu_models_where_the_gpu_is_left_out() -> None:
    here, there = resolved("model=llama3_8b"), resolved("model=llama3_8b")
    there = changed(there, {"gpu.found_name": "NVIDIA H100"})
    assert setting_key(here) != setting_key(there)
    left_out = ("gpu.found_name",)
    assert key_of(setting(here), left_out) == key_of(setting(there), left_out)
    there = changed(there, {"gpu.sm_clock_mhz": 1200})
    assert key_of(setting(here), left_out) != key_of(setting(there), left_out)


def test_a_setting_leaves_out_only_fields_of_the_identity() -> None:
    known = {
        f"scenario.{key.partition('.')[2]}"
        for key in default_table()
        if key.startswith(("server.", "batch."))
    }
    assert set(LENGTHS) <= known


def test_what_is_not_resolved_has_no_setting() -> None:
    with pytest.raises(NotStartedError, match="no identity yet"):
        setting_key(compose(["model=llama3_8b"]))


def plan_key(cfg: RunConfig) -> str:
    return planned_key(planned_point(cfg), cfg.seed, cfg.repeat)


@pytest.fixture(scope="module")
def planned() -> RunConfig:
    return compose(["model=llama3_8b", "gpu=h200", "scenario=server"])


def test_what_only_the_measuring_machine_knows_is_not_in_it(planned: RunConfig) -> None:
    resolved = changed(
        planned,
        {
            "gpu.found_name": "NVIDIA H200",
            "gpu.devices": ["GPU-1"],
            "evidence": "measured",
            "engine.device": Device.cuda,
            "engine.version_minor": "0.26",
            "power.power_period_ms": 20.0,
            "records_dir": "/elsewhere",
        },
    )
    assert plan_key(from_json(to_json(resolved))) == plan_key(planned)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("seed", 1),
        ("repeat", 1),
        ("gpu.name", "h100"),
        ("gpu.count", 2),
        ("model.dtype", "float16"),
        ("model.weights", "random"),
        ("scenario.rate_rps", 2.0),
        ("scenario.slo.ttft_ms", 500.0),
        ("engine.max_num_seqs", 8),
        ("engine.args", {"x": 1}),
    ],
)
def test_what_is_measured_is_in_it(planned: RunConfig, where: str, value: Any) -> None:
    data = to_json(planned)
    *path, last = where.split(".")
    node = data
    for name in path:
        node = node[name]
    node[last] = value
    assert plan_key(from_json(data)) != plan_key(planned)


def test_names_of_files_stand_for_their_fingerprints(planned: RunConfig, tmp_path: Path) -> None:
    def with_trace(path: Path, fingerprint: str | None = None) -> RunConfig:
        arrivals = dataclasses.replace(planned.scenario.arrivals, path=str(path), fingerprint=fingerprint)
        return dataclasses.replace(planned, scenario=dataclasses.replace(planned.scenario, arrivals=arrivals))

    key = plan_key(with_trace(tmp_path / "a.csv"))
    assert plan_key(with_trace(Path("a.csv"), "abc")) == key
    assert plan_key(with_trace(tmp_path / "b.csv")) != key


DATA = Path(__file__).resolve().parents[2] / "data"


def test_every_recorded_point_keeps_its_identity() -> None:
    recorded = [json.loads(file.read_text()) for file in DATA.glob("*/records/*/*/run.json")]
    # For a while a kind of rehearsal could be chosen, and was a part of a point.
    same = [info for info in recorded if "rehearsal" not in info["config"]["scenario"]]
    assert len(same) >= 118
    assert [info["run_id"] for info in same if point_id(from_json(info["config"])) != info["point_id"]] == []


BASE = ("model=llama3_8b", "model.weights=random", "gpu=h200", "engine=vllm", "scenario=batch")


def config(*overrides: str) -> RunConfig:
    return compose([*BASE, *overrides])


def test_nothing_turned() -> None:
    assert levers(config()) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.quantization=fp8", "fp8"),
        ("model.dtype=float16", "float16"),
        ("model.initializer=fan_in", "fan_in weights"),
        ("engine.enforce_eager=true", "eager"),
        ("engine.kv_cache_dtype=fp8", "fp8 KV cache"),
        ("engine.tensor_parallel_size=2 gpu.count=2", "TP 2"),
        ("engine.pipeline_parallel_size=2 gpu.count=2", "PP 2"),
        ("engine.data_parallel_size=2 gpu.count=2", "DP 2"),
        ("engine.max_num_seqs=32", "32 at once"),
        ("engine.max_num_batched_tokens=2048", "2048 tokens a step"),
        ("engine.enable_prefix_caching=true", "prefix caching"),
        ("engine.enable_prefix_caching=false", "no prefix caching"),
        ("engine.enable_chunked_prefill=false", "no chunked prefill"),
        ("engine.enable_chunked_prefill=true", "chunked prefill"),
        ("scenario.sampling.temperature=0", "temperature 0"),
        ("scenario.sampling.top_p=0.9", "top-p 0.9"),
        ("scenario.sampling.top_k=50", "top-k 50"),
        ("scenario.sampling.min_p=0.1", "min-p 0.1"),
        ("scenario.sampling.seed=7", "sampling seed 7"),
        ("engine.speculative.method=ngram", "ngram speculation"),
        ("engine.pinned_cpus=4", "4 CPUs"),
        ("engine.nice=-5", "nice -5"),
        ("+engine.args.block_size=32", "block_size=32"),
        ("gpu.sm_clock_mhz=1200", "1200 MHz"),
        ("gpu.power_limit_w=400", "400 W"),
    ],
)
def test_each_has_its_words(override: str, words: str) -> None:
    assert levers(config(*override.split())) == [words]


def test_what_was_left_to_the_engine_was_not_turned() -> None:
    run = compose(list(BASE))
    run = changed(run, {"engine": registry.plugin(run.engine.name).resolved(run)})
    assert run.engine.max_num_seqs == 1024
    assert levers(run) == []


def test_several_in_a_fixed_order() -> None:
    turned = config("gpu.power_limit_w=400", "engine.enforce_eager=true", "model.quantization=fp8")
    assert levers(turned) == ["fp8", "eager", "400 W"]


def test_nothing_particular() -> None:
    assert particulars(config()) == particulars(config("scenario=server")) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("engine=vllm_serve", ["vllm_serve"]),
        ("engine=tiny", ["tiny"]),
        ("scenario.lengths.input_tokens=64", ["64 in, 256 out"]),
        ("scenario.lengths.output_tokens=64", ["512 in, 64 out"]),
        ("scenario.lengths.force_output=false", ["512 in, up to 256 out"]),
        ("scenario.lengths.kind=lognormal", ["512 in, 256 out (lognormal)"]),
        ("scenario=server scenario.lengths.output_tokens=256", ["512 in, 256 out"]),
        ("scenario=server scenario.arrivals.kind=constant", ["constant arrivals"]),
        ("scenario=server scenario.arrivals.kind=gamma scenario.arrivals.cv=2", ["gamma arrivals, cv 2"]),
        ("scenario=server scenario.max_in_flight=8", ["at most 8 in flight"]),
        ("scenario=server_short", ["256 in, 64 out"]),
        ("scenario=server scenario.max_in_flight=8 engine=vllm_serve", ["vllm_serve", "at most 8 in flight"]),
    ],
)
def test_what_is_particular_has_its_words(override: str, words: list[str]) -> None:
    assert particulars(config(*override.split())) == words


@pytest.mark.parametrize(
    ("group", "kind", "words"),
    [
        ("lengths", LengthKind.prompts, "prompts of b.jsonl"),
        ("lengths", LengthKind.trace, "lengths of b.jsonl"),
        ("arrivals", ArrivalKind.trace, "arrivals of b.jsonl"),
    ],
)
def test_a_file_is_named_without_its_folder(group: str, kind: LengthKind | ArrivalKind, words: str) -> None:
    keys = {f"scenario.{group}.kind": kind, f"scenario.{group}.path": "/a/b.jsonl"}
    assert particulars(changed(config("scenario=server"), keys)) == [words]
