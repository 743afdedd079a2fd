from __future__ import annotations

import pytest

from wattcount.config.composition import compose
from wattcount.config.levers import levers
from wattcount.config.loader import changed
from wattcount.config.schema import RunConfig
from wattcount.engines import registry

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
