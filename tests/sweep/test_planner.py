"""Which points of a plan go on one start of an engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from wattcount.config.composition import compose
from wattcount.config.fields import FrozenDict
from wattcount.config.schema import RunConfig
from wattcount.run.resolve import Machine, resolve
from wattcount.sweep.machine import Here
from wattcount.sweep.planner import session_of


def session(
    *overrides: str, base: Sequence[str] = ("model=llama3_8b", "gpu=h200", "scenario=server")
) -> str | None:
    cfg: RunConfig = compose([*base, *overrides])
    return session_of(cfg, Here(resolve(cfg, Machine("measured")).config, FrozenDict({})))


def test_loads_share_and_what_the_engine_is_set_up_with_does_not() -> None:
    first = session()
    assert first is not None
    for load in (
        "scenario.rate_rps=4",
        "scenario.window_s=90",
        "scenario.lengths.input_tokens=500",
        "scenario.warmup_s=5",
    ):
        assert session(load) == first, load
    for other in (
        "repeat=1",
        "seed=1",
        "model=qwen3_8b",
        "model.quantization=fp8",
        "gpu=h100",
        "gpu.sm_clock_mhz=1200",
        "engine.max_num_seqs=64",
        "engine.enforce_eager=true",
        "scenario.bare_idle_s=3",
        "power.status_period_ms=500",
    ):
        assert session(other) not in (None, first), other


def test_points_of_other_context_lengths_do_not_share_unless_one_is_set() -> None:
    long = "scenario.lengths.input_tokens=2048"
    assert session(long) != session()
    assert session(long, "engine.max_model_len=4096") == session("engine.max_model_len=4096")


def test_a_batch_and_a_server_share_only_where_the_engine_is_set_up_alike() -> None:
    same = (
        "scenario.lengths.input_tokens=512",
        "scenario.lengths.output_tokens=128",
        "scenario.bare_idle_s=10",
    )
    batch = ("scenario=batch", *same)
    assert session(*batch) != session(*same)  # vLLM's server and its class LLM have other limits
    limits = ("engine.max_num_seqs=256", "engine.max_num_batched_tokens=8192")
    assert session(*batch, *limits) == session(*same, *limits)


@pytest.mark.parametrize(("asked", "shared"), [("null", False), ("true", True), ("false", False)])
def test_an_engine_that_starts_at_once_is_shared_only_when_asked_for(asked: str, shared: bool) -> None:
    tiny = ("model=tiny", "engine=tiny", "power=emulated", "scenario=batch")
    assert (session(f"sweep.share_engine={asked}", base=tiny) is not None) == shared


def test_sharing_can_be_left_out() -> None:
    assert session("sweep.share_engine=false") is None
