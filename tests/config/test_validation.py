"""Every check of a value: that it fires with a line that names the key, and that good values pass."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.config import compose, validate
from wattcount.config.loader import changed, from_json, to_json
from wattcount.config.validation import problems, tag_problem, usable_tags
from wattcount.errors import NotStartedError


def refused(*overrides: str) -> str:
    with pytest.raises(NotStartedError) as caught:
        compose(list(overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("scenario.rate_rps=-1", "scenario.rate_rps: must be above 0 requests/s, not -1 requests/s"),
        (
            "model=llama3_8b model.initializer=normal",
            "model.initializer: normal draws random weights, but model.weights=hub",
        ),
        (
            "model.weights=random model.initializer=fan_in engine=tiny",
            "model.initializer: engine=tiny cannot draw fan_in weights",
        ),
        (
            "model.weights=random model.initializer=normal engine.args.worker_extension_cls=mine.Extension",
            "model.initializer: normal needs wattcount's own worker extension",
        ),
        ("scenario.rate_rps=0", "scenario.rate_rps: must be above 0"),
        ("engine.pipeline_parallel_size=0", "engine.pipeline_parallel_size: must be at least 1"),
        ("engine.data_parallel_size=0", "engine.data_parallel_size: must be at least 1"),
        (
            "engine.pipeline_parallel_size=2 engine.data_parallel_size=3 gpu.count=2",
            "gpu.count: the engine is spread over 6 GPUs (pipeline_parallel_size=2 x data_parallel_size=3) but gpu.count is 2; "
            "set gpu.count=6",
        ),
        (
            "gpu.count=4 engine.pipeline_parallel_size=2",
            "gpu.count: the engine would use 2 of 4 GPUs and the rest would idle; set engine.tensor_parallel_size, "
            "pipeline_parallel_size or data_parallel_size so that they multiply to 4, or gpu.count=2",
        ),
        (
            "model=tiny gpu.count=5 engine.pipeline_parallel_size=5",
            "engine.pipeline_parallel_size: 5 is more than the 4 layers of tiny",
        ),
        (
            "engine.args.data_parallel_size=2",
            "engine.args.data_parallel_size: set engine.data_parallel_size instead",
        ),
        ("engine.kv_cache_dtype=int3", "engine.kv_cache_dtype: 'int3' is not one of auto, "),
        (
            "engine.max_num_seqs=64 engine.max_num_batched_tokens=32",
            "engine.max_num_batched_tokens: 32 is less than engine.max_num_seqs, 64",
        ),
        (
            "engine.enable_chunked_prefill=false engine.max_num_batched_tokens=256",
            "engine.max_num_batched_tokens: 256 cannot hold a prompt of engine.max_model_len=768 in one step",
        ),
        (
            "engine=tiny engine.speculative.method=ngram",
            "engine.speculative.method: engine=tiny cannot do ngram",
        ),
        (
            "engine.speculative.method=ngram engine.speculative.num_speculative_tokens=0",
            "engine.speculative.num_speculative_tokens: must be at least 1",
        ),
        (
            "engine.speculative.prompt_lookup_max=3",
            "engine.speculative.prompt_lookup_max: needs engine.speculative.method",
        ),
        (
            "engine.speculative.method=ngram engine.speculative.prompt_lookup_min=4 engine.speculative.prompt_lookup_max=2",
            "engine.speculative.prompt_lookup_min: 4 is above prompt_lookup_max, 2",
        ),
        (
            "engine.speculative.method=ngram engine.speculative.draft_model=llama3_2_1b",
            "engine.speculative.draft_model: ngram needs none",
        ),
        ("engine.speculative.method=draft_model", "engine.speculative.draft_model: must be given"),
        (
            "engine.speculative.method=draft_model engine.speculative.draft_model=../gpu/h200",
            "engine.speculative.draft_model: '../gpu/h200' is no option of the group model",
        ),
        (
            "model=llama3_1_8b engine.speculative.method=draft_model engine.speculative.draft_model=qwen3_0_6b",
            "engine.speculative.draft_model: qwen3_0_6b has a vocabulary of 151936 tokens and llama3_1_8b one of 128256",
        ),
        (
            "engine.speculative.method=draft_model engine.speculative.draft_model=llama3_2_1b "
            "engine.speculative.prompt_lookup_max=2",
            "engine.speculative.prompt_lookup_max: is for engine.speculative.method=ngram",
        ),
        (
            "engine.args.speculative_config={method:ngram,num_speculative_tokens:2}",
            "engine.args.speculative_config: set engine.speculative.method=ngram instead",
        ),
        (
            "engine.speculative.method=ngram engine.args.speculative_config={method:eagle}",
            "engine.args.speculative_config: leave it out, or leave engine.speculative.method at null",
        ),
        ("gpu.sm_clock_mhz=0", "gpu.sm_clock_mhz: must be above 0 MHz"),
        ("gpu.power_limit_w=-5", "gpu.power_limit_w: must be above 0 W, not -5 W"),
        ("scenario.rate_rps=nan", "scenario.rate_rps: must be a finite number, not nan"),
        ("scenario.window_s=inf", "scenario.window_s: must be a finite number, not inf"),
        ("scenario.rate_rps=null", "scenario.rate_rps: must be given for poisson arrivals"),
        (
            "scenario.rate_rps=0.01",
            "scenario.window_s: 0.01 requests/s for 45 s is 0.45 requests; make it at least",
        ),
        ("scenario.rate_rps=1e9", "scenario.rate_rps: 1e+09 requests/s makes more than"),
        ("scenario.window_s=0", "scenario.window_s: must be above 0 s"),
        ("scenario.bare_idle_after_s=-1", "scenario.bare_idle_after_s: must be at least 0 s"),
        ("scenario.warmup_limit_s=-1", "scenario.warmup_limit_s: must be at least 0 s"),
        ("scenario.warmup_s=-1", "scenario.warmup_s: must be at least 0 s"),
        ("scenario.bare_idle_s=-1", "scenario.bare_idle_s: must be at least 0 s"),
        ("scenario.loaded_idle_s=-0.1", "scenario.loaded_idle_s: must be at least 0 s"),
        ("scenario.drain_limit_s=0", "scenario.drain_limit_s: must be above 0 s"),
        ("scenario.max_in_flight=0", "scenario.max_in_flight: must be at least 1"),
        ("scenario.slo.ttft_ms=0", "scenario.slo.ttft_ms: must be above 0 ms, not 0 ms; null for no bound"),
        ("scenario.slo.tpot_ms=-5", "scenario.slo.tpot_ms: must be above 0 ms"),
        ("scenario.slo.e2e_ms=nan", "scenario.slo.e2e_ms: must be a finite number"),
        ("scenario.arrivals.kind=gamma scenario.arrivals.cv=0", "scenario.arrivals.cv: must be above 0"),
        ("scenario.arrivals.kind=trace", "scenario.arrivals.path: must be given: the path of a trace file"),
        (
            "scenario=batch scenario.num_requests=0",
            "scenario.num_requests: must be between 1 and 5000000, not 0",
        ),
        (
            "scenario=batch scenario.num_requests=9000000",
            "scenario.num_requests: must be between 1 and 5000000",
        ),
        ("scenario=batch scenario.warmup_requests=-1", "scenario.warmup_requests: must be at least 0"),
        ("scenario=batch scenario.time_limit_s=0", "scenario.time_limit_s: must be above 0 s"),
        ("scenario.lengths.input_tokens=0", "scenario.lengths.input_tokens: must be at least 1"),
        ("scenario.lengths.output_tokens=-3", "scenario.lengths.output_tokens: must be at least 1"),
        (
            "scenario.lengths.kind=uniform scenario.lengths.input_tokens_min=9 scenario.lengths.input_tokens_max=8",
            "scenario.lengths.input_tokens_min: 9 is above input_tokens_max, 8",
        ),
        (
            "scenario.lengths.kind=lognormal scenario.lengths.input_cv=-1",
            "scenario.lengths.input_cv: must be at least 0",
        ),
        (
            "scenario.lengths.kind=lognormal scenario.lengths.output_tokens=5000",
            "scenario.lengths.output_tokens: the mean, 5000, lies outside",
        ),
        ("scenario.lengths.kind=prompts", "scenario.lengths.path: must be given: the path of a prompt file"),
        ("scenario.lengths.kind=trace", "scenario.lengths.path: must be given: the path of a trace file"),
        (
            "model=olmoe_1b_7b scenario.lengths.input_tokens=4000",
            "scenario.lengths: requests of up to 4128 tokens do not fit the context of olmoe_1b_7b, 4096 tokens",
        ),
        (
            "model=olmoe_1b_7b scenario.lengths.kind=lognormal",
            "scenario.lengths: requests of up to 5120 tokens do not fit",
        ),
        ("engine.max_model_len=100", "engine.max_model_len: 100 is less than the longest request"),
        (
            "model=olmoe_1b_7b engine.max_model_len=9000",
            "engine.max_model_len: 9000 is more than the context",
        ),
        ("engine.max_model_len=0", "engine.max_model_len: "),
        ("engine.max_num_seqs=0", "engine.max_num_seqs: must be at least 1"),
        ("scenario.sampling.temperature=-1", "scenario.sampling.temperature: must be at least 0, not -1"),
        ("scenario.sampling.top_p=0", "scenario.sampling.top_p: must be above 0 and at most 1, not 0"),
        ("scenario.sampling.top_k=-1", "scenario.sampling.top_k: must be at least 0, not -1"),
        ("scenario.sampling.min_p=2", "scenario.sampling.min_p: must be between 0 and 1, not 2"),
        ("scenario.sampling.seed=-1", "scenario.sampling.seed: must be at least 0, not -1"),
        ("engine.gpu_memory_utilization=1.5", "engine.gpu_memory_utilization: must be above 0 and at most 1"),
        ("engine.gpu_memory_utilization=0", "engine.gpu_memory_utilization: must be above 0 and at most 1"),
        ("engine.start_timeout_s=0", "engine.start_timeout_s: must be above 0 s"),
        ("engine.tensor_parallel_size=0", "engine.tensor_parallel_size: must be at least 1"),
        (
            "engine.tensor_parallel_size=2",
            "gpu.count: the engine is spread over 2 GPUs (tensor_parallel_size=2) but gpu.count is 1",
        ),
        ("gpu.count=2", "gpu.count: the engine would use 1 of 2 GPUs and the rest would idle"),
        (
            "model=qwen2_5_7b gpu.count=8 engine.tensor_parallel_size=8",
            "engine.tensor_parallel_size: 8 does not divide the 28 attention heads",
        ),
        ("engine.args.dtype=half", "engine.args.dtype: set model.dtype instead"),
        ("engine.args.seed=3", "engine.args.seed: set seed instead"),
        ("gpu.count=0", "gpu.count: must be at least 1"),
        ("gpu.devices=[a,b]", "gpu.devices: names 2 GPUs but gpu.count is 1; set gpu.count=2"),
        (
            "gpu.count=2 gpu.devices=[a,a] engine.tensor_parallel_size=2",
            "gpu.devices: names a GPU twice: a, a",
        ),
        (
            "gpu.compute_capability=sm_90",
            "gpu.compute_capability: 'sm_90' is no CUDA compute capability, such as 9.0",
        ),
        ("gpu.nvml_names=['(']", "gpu.nvml_names[0]: '(' is no regular expression"),
        ("gpu.tdp_w=-1", "gpu.tdp_w: must be above 0"),
        ("model=tiny model.dtype=int4", "model.dtype: 'int4' is not one of bfloat16, float16, float32"),
        ("model=tiny model.name=''", "model.name: must not be empty"),
        ("model=tiny model.weights=path", "model.path: must be given with model.weights=path"),
        ("model=tiny model.weights=hub", "model.hf_id: model tiny needs one for model.weights=hub"),
        ("model=custom", "model.hf_id: model custom needs one for model.weights=hub"),
        ("model=custom model.weights=random", "model.weights: random needs the model's config.json"),
        (
            "model=custom model.path=/no/such/folder",
            "model.path: no folder at /no/such/folder; give the folder",
        ),
        ("model=tiny model.parameters_b=0", "model.parameters_b: must be above 0"),
        ("power.power_period_ms=0", "power.power_period_ms: must be between 0.5 and 60000 ms, not 0 ms"),
        ("power.heartbeat_ms=1e9", "power.heartbeat_ms: must be between 0.5 and 60000 ms"),
        ("power.buffer_mib_per_gpu=0", "power.buffer_mib_per_gpu: must be at least 1 MiB"),
        ("tracking.experiment=''", "tracking.experiment: must not be empty"),
        ("power.remote=''", "power.remote: '' is not HOST:PORT, such as gpu7:9470 or [::1]:9470"),
        ("power.remote=gpu7:0", "power.remote: 'gpu7:0' is not HOST:PORT"),
        ("power.remote=http://gpu7:9470", "power.remote: 'http://gpu7:9470' is not HOST:PORT"),
        (
            "power.remote=gpu7:9470 power=emulated",
            "power.remote: the listener there says whether its GPUs are emulated; leave out power.backend=emulated",
        ),
        (
            "power.remote=gpu7:9470 gpu.power_limit_w=300",
            "gpu.power_limit_w: is not set on another machine (power.remote)",
        ),
        (
            "power.remote=gpu7:9470 gpu.sm_clock_mhz=1410",
            "gpu.sm_clock_mhz: is not set on another machine (power.remote)",
        ),
        (
            "power.remote=gpu7:9470 engine.device=cuda",
            "power.remote: engine=vllm computes on the GPUs of this machine; measure a server over there",
        ),
        ("cooldown_limit_s=-1", "cooldown_limit_s: must be at least 0 s"),
        ("gpu_busy_timeout_s=-1", "gpu_busy_timeout_s: must be at least 0 s"),
        ("gpu_lock_timeout_s=-1", "gpu_lock_timeout_s: must be at least 0 s"),
        ("display.plain_interval_s=0", "display.plain_interval_s: must be above 0 s"),
        ("seed=-1", "seed: must be between 0 and"),
        ("repeat=-1", "repeat: must be between 0 and"),
        ("records_dir=''", "records_dir: must not be empty"),
    ],
)
def test_bad_values(overrides: str, message: str) -> None:
    text = refused(*overrides.split())
    assert text.startswith(message), text


def test_the_model_folder(tmp_path: Path) -> None:
    given = ["model=custom", f"model.path={tmp_path}", "model.weights=path"]
    assert refused(*given).startswith(f"model.path: {tmp_path} has no config.json")
    (tmp_path / "config.json").write_text("{}")
    compose(given)
    text = refused("model=custom", f"model.path={tmp_path}")
    assert text.startswith("model.weights: is hub although model.path is given; set model.weights=path")


def test_trace_files(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    given = ["scenario.arrivals.kind=trace", f"scenario.arrivals.path={trace}"]
    assert refused(*given) == f"scenario.arrivals.path: no trace file at {trace}"
    assert refused(given[0], f"scenario.arrivals.path={tmp_path}").endswith("(that is a folder)")
    trace.touch()
    assert refused(*given) == f"scenario.arrivals.path: {trace} is empty"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    compose(given)
    compose([*given, "scenario.rate_rps=null", "scenario.lengths.kind=trace"])


@pytest.mark.parametrize(
    "overrides",
    [
        "scenario.arrivals.kind=gamma scenario.arrivals.cv=0.5",
        "scenario.lengths.kind=lognormal scenario.lengths.output_cv=0",
        "scenario.lengths.kind=uniform",
        "scenario.bare_idle_s=0 scenario.loaded_idle_s=0 scenario.warmup_s=0",
        "gpu.count=4 engine.tensor_parallel_size=4 model=llama3_8b",
        "gpu.count=4 engine.tensor_parallel_size=2 engine.pipeline_parallel_size=2 model=llama3_8b",
        "gpu.count=8 engine.tensor_parallel_size=2 engine.pipeline_parallel_size=2 engine.data_parallel_size=2",
        "engine.enable_chunked_prefill=false engine.max_num_batched_tokens=768",
        "engine.speculative.method=ngram engine.speculative.prompt_lookup_max=4",
        "model=llama3_1_8b engine.speculative.method=draft_model engine.speculative.draft_model=llama3_2_1b",
        "engine.args.speculative_config={method:eagle,model:me/head}",
        "gpu.sm_clock_mhz=1410 gpu.power_limit_w=400",
        "gpu.count=2 gpu.devices=[0,1] engine.tensor_parallel_size=2",
        "gpu.count=2 power=emulated",
        "power.remote=gpu7 engine=tiny",
        "power.remote='[::1]:9470' engine=tiny",
        "model=llama3_1_8b engine.max_model_len=131072",
        "engine.gpu_memory_utilization=1",
        "scenario.slo.ttft_ms=0.1",
    ],
)
def test_good_values(overrides: str) -> None:
    compose([item.replace("[0,1]", "['0','1']") for item in overrides.split()])


FLOAT_KEYS = [
    "scenario.rate_rps",
    "scenario.window_s",
    "scenario.warmup_s",
    "scenario.warmup_limit_s",
    "scenario.bare_idle_s",
    "scenario.loaded_idle_s",
    "scenario.bare_idle_after_s",
    "scenario.drain_limit_s",
    "scenario.slo.ttft_ms",
    "scenario.arrivals.cv",
    "scenario.lengths.input_cv",
    "power.power_period_ms",
    "power.heartbeat_ms",
    "engine.gpu_memory_utilization",
    "engine.start_timeout_s",
    "display.plain_interval_s",
    "gpu_busy_timeout_s",
    "gpu_lock_timeout_s",
    "cooldown_limit_s",
    "gpu.tdp_w",
    "model.parameters_b",
]
BASE = to_json(compose(["model=tiny"]))


@given(st.sampled_from(FLOAT_KEYS), st.floats())
@settings(max_examples=200)
def test_any_number_is_either_taken_or_refused_by_its_key(key: str, value: float) -> None:
    run = from_json(BASE)
    run = changed(run, {key: value})
    found = list(problems(run))
    if not math.isfinite(value):
        assert found == [f"{key}: must be a finite number, not {value}"]
    for line in found:
        assert "\n" not in line
        assert line.split(":")[0].split("[")[0].split(".")[0] in {f.name for f in dataclasses.fields(run)}
    if value < 0:
        assert found


def test_not_a_number_deep_inside_is_found() -> None:
    run = compose(["model=tiny"])
    run = changed(run, {"engine.args": {"nested": {"values": [1.0, math.nan]}}})
    with pytest.raises(NotStartedError, match=r"engine.args.nested.values\[1\]: must be a finite number"):
        validate(run)


def test_a_key_that_was_never_given() -> None:
    run = compose(["model=tiny"])
    run = changed(run, {"model.name": "???"})
    with pytest.raises(NotStartedError, match=r"model.name: must be given"):
        validate(run)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("engine.args.hf_token=secretsecret", "engine.args.hf_token"),
        ("engine.args.otlp_traces_endpoint=http://a:hunter2@h", "engine.args.otlp_traces_endpoint"),
        ("engine.args.model_loader_extra_config={url: 'http://a:hunter2@h'}", "engine.args.model_loader_extra_config.url"),
        ("model.hf_id=https://hf_abcdefghijklmnopqrstuvwxyz@hf.co/x", "model.hf_id"),
        ("engine.args.x=hf_abcdefghijklmnopqrstuvwxyz", "engine.args.x"),
        ("engine.args.x=http://a:***@h", "engine.args.x"),
    ],
)  # fmt: skip
def test_a_secret_in_what_every_record_keeps_is_refused_and_not_repeated(override: str, key: str) -> None:
    text = refused("model=llama3_8b", override)
    assert text.startswith(f"{key}: holds a password or a token")
    assert "hunter2" not in text
    assert "hf_abc" not in text


def test_what_only_looks_like_a_secret_is_none() -> None:
    compose(["model=llama3_8b", "engine.args.hf_token=true", "engine.args.max_logprobs=5"])


@pytest.mark.parametrize(
    "key", ["cluster", "a.b", "a/b", "my tag", "x:y", "evidence_of", "mlflow", "k" * 250]
)
def test_good_keys(key: str) -> None:
    assert tag_problem(key) is None


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("evidence", "is set by wattcount or MLflow itself"),
        ("valid", "is set by wattcount or MLflow itself"),
        ("wattcount.run_id", "is set by wattcount or MLflow itself"),
        ("mlflow.note.content", "is set by wattcount or MLflow itself"),
        ("version.vllm", "is set by wattcount or MLflow itself"),
        ("k" * 300, "has 300 characters, MLflow takes at most 250"),
        ("a=b", "MLflow takes no key 'a=b'"),
        ("a//b", "MLflow takes no key"),
        ("../a", "MLflow takes no key"),
        ("", "MLflow takes no key"),
    ],
)
def test_keys_that_are_refused(key: str, what: str) -> None:
    problem = tag_problem(key)
    assert problem is not None
    assert what in problem
    assert len(problem) < 200
    assert usable_tags({key: "x", "fine": 1, "empty": None}) == {"fine": "1"}


def test_a_run_with_such_a_tag_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"tracking\.tags\.evidence: is set by wattcount"):
        compose(["tracking.tags.evidence=measured"])
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own_tags.yaml").write_text(
        "# @package _global_\ntracking:\n  tags:\n    wattcount.run_id: x\n    mlflow.parentRunId: abc\n"
    )
    with pytest.raises(NotStartedError, match=r"tracking\.tags\.wattcount\.run_id: is set by wattcount"):
        compose(["experiment=own_tags"], str(tmp_path))
    assert compose(["tracking.tags.cluster=blue"]).tracking.tags == {"cluster": "blue"}
