"""What is known of a planned point: the settings that were left to the engine are filled in before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from wattcount.config import compose
from wattcount.config.fields import FrozenDict
from wattcount.config.identity import planned_point
from wattcount.config.loader import changed
from wattcount.engines import registry
from wattcount.gpu.nvml import open_session
from wattcount.run import preflight
from wattcount.sweep.machine import AnotherMachine, Here, Skip, ThisMachine, skip_of

NULL = ("model=llama3_8b", "gpu=h100", "scenario=server", "power=emulated")
EXPLICIT = (
    "engine.max_num_seqs=1024",
    "engine.max_num_batched_tokens=8192",
    "engine.enable_prefix_caching=true",
    "engine.gpu_memory_utilization=0.92",
)


@pytest.mark.parametrize("machine", [AnotherMachine, ThisMachine])
def test_null_and_what_the_engine_chooses_are_one_planned_point(machine: Any) -> None:
    looked = machine()
    null, explicit, other = (
        looked.look(compose([*NULL, "engine.device=cuda", *more])).cfg
        for more in ((), EXPLICIT, ("engine.max_num_seqs=128",))
    )
    assert null.engine.max_num_seqs == 1024
    assert null.engine.unset
    assert planned_point(null) == planned_point(explicit) != planned_point(other)


def test_a_record_of_it_is_found() -> None:
    cfg = compose([*NULL, "engine.device=cuda"])
    planned = planned_point(AnotherMachine().look(cfg).cfg)
    measured = compose([*NULL, "engine.device=cuda"])
    measured = changed(measured, {"gpu.found_name": "NVIDIA H100 80GB HBM3", "engine.version_minor": "0.26"})
    measured = changed(
        measured, {"engine": registry.plugin(measured.engine.name).resolved(measured, int(79.6 * 2**30))}
    )
    assert planned_point(measured) == planned


def test_repeats_of_a_point_are_looked_at_once() -> None:
    machine = AnotherMachine()
    cfg = compose(list(NULL))
    assert machine.look(cfg) is machine.look(changed(compose(list(NULL)), {"seed": 3, "repeat": 1}))


@pytest.mark.parametrize(
    "asked", [(), ("engine=tiny", "model=auto"), ("model=tiny", "engine.max_num_seqs=8")]
)
def test_a_plan_foresees_what_a_run_becomes(asked: tuple[str, ...]) -> None:
    cfg = compose(["model=tiny", "engine=tiny", "gpu=h100", "power=emulated", *asked])
    with open_session(cfg.power, cfg.gpu) as session:
        run = preflight.resolved(cfg, session).config
    planned = ThisMachine().look(cfg).cfg
    # A machine is made for each of the two, with a GPU of its own.
    assert changed(planned, {"gpu.devices": run.gpu.devices}) == run


# -- what cannot be measured ------------------------------------------------------------------------


def skip(*overrides: str) -> Skip | None:
    return skip_of(AnotherMachine().look(compose(overrides)))


@pytest.mark.parametrize(
    ("overrides", "reason", "said"),
    [
        (["model=llama3_3_70b", "gpu=l4"], "does_not_fit", "131.4 GiB"),
        (["model=llama3_8b", "gpu=v100"], "dtype_unsupported", "no bfloat16"),
        (["model=qwen2_5_0_5b", "gpu=t4", "model.dtype=float16", "engine.kv_cache_dtype=fp8"], "kv_cache_dtype_unsupported", "8"),
        (["model=gpt_oss_20b", "gpu=v100", "model.dtype=float16", "model.quantization=mxfp4"], "quantization_unsupported", "8"),
    ],
)  # fmt: skip
def test_a_point_that_cannot_be_measured(overrides: Sequence[str], reason: str, said: str) -> None:
    found = skip(*overrides)
    assert found is not None
    assert found.reason == reason
    assert said in found.message


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=llama3_8b", "gpu=h200"],
        ["model=llama3_8b", "gpu=v100", "model.dtype=float16"],
        ["model=llama3_3_70b", "gpu=l4", "engine=tiny"],
        ["model=auto", "gpu=auto"],
    ],
)
def test_a_point_that_may_be_measured(overrides: Sequence[str]) -> None:
    assert skip(*overrides) is None


def test_a_gpu_that_is_not_here_goes_before_everything_else() -> None:
    cfg = compose(["model=llama3_3_70b", "gpu=l4"])
    assert skip_of(Here(cfg, FrozenDict(), problem="no L4 here")) == Skip("no_such_gpu", "no L4 here")
