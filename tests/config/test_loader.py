from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from wattcount.config.loader import changed, did_you_mean, from_json, to_json
from wattcount.config.schema import (
    ArrivalKind,
    BatchConfig,
    ModelConfig,
    RunConfig,
    ServerConfig,
    SloConfig,
    Weights,
)
from wattcount.errors import NotStartedError


def a_run(**changes: Any) -> RunConfig:
    return RunConfig(model=ModelConfig(name="tiny", weights=Weights.random), **changes)


@pytest.mark.parametrize(
    "run",
    [
        a_run(),
        a_run(scenario=BatchConfig(name="batch", num_requests=3)),
        a_run(scenario=ServerConfig(name="server", rate_rps=None, slo=SloConfig(ttft_ms=200.0))),
    ],
)
def test_there_and_back_through_json_text(run: RunConfig) -> None:
    again = from_json(json.loads(json.dumps(to_json(run))))
    assert again == run
    assert type(again.scenario) is type(run.scenario)


def test_nested_values_survive() -> None:
    run = a_run()
    run = changed(
        run,
        {
            "model.hf_config": {
                "rope_scaling": {"factor": 8.0},
                "eos_token_id": [1, 2],
                "sliding_window": None,
            },
            "engine.args": {"async_scheduling": False},
            "tracking.tags": {"who": "me"},
            "gpu.devices": ["GPU-1"],
        },
    )
    assert from_json(to_json(run)) == run


def test_what_is_not_there_takes_its_default() -> None:
    run = from_json({"scenario": {"kind": "batch"}})
    assert run.scenario == BatchConfig()
    assert run.seed == 0


def test_an_enum_may_be_given_by_value() -> None:
    run = from_json({"scenario": {"kind": "server", "arrivals": {"kind": "gamma"}}})
    assert run.scenario.arrivals.kind is ArrivalKind.gamma


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sed": 1}, "sed: no such key; did you mean 'seed'?"),
        ({"model": {"nam": "x"}}, "model.nam: no such key; did you mean 'name'?"),
        ({"scenario": {"kind": "batch", "rate_rps": 1}}, "scenario.rate_rps: no such key; scenario has: "),
        ({"scenario": {}}, "scenario.kind: must be given, one of batch, server"),
        ({"scenario": {"kind": "stream"}}, "scenario.kind: 'stream' is not one of batch, server"),
        ({"seed": 1.5}, "seed: must be a whole number, not 1.5"),
        ({"seed": True}, "seed: must be a whole number, not True"),
        ({"seed": None}, "seed: must be a whole number, not None"),
        ({"allow_busy_gpu": 1}, "allow_busy_gpu: must be true or false, not 1"),
        ({"records_dir": 3}, "records_dir: must be text, not 3"),
        ({"gpu": {"devices": "GPU-1"}}, "gpu.devices: must be a list, not 'GPU-1'"),
        ({"gpu": {"devices": ["a", 0]}}, "gpu.devices[1]: must be text, not 0"),
        ({"tracking": {"tags": {"a": [1]}}}, "tracking.tags.a: must be text, not [1]"),
        ({"engine": {"args": []}}, "engine.args: must be a group of keys, not []"),
        ({"power": 3}, "power: must be a group of keys, not 3"),
        (
            {"model": {"weights": "hob"}},
            "model.weights: 'hob' is not one of hub, path, random, served; did you mean",
        ),
    ],
)
def test_a_bad_value_names_its_key(data: dict[str, Any], message: str) -> None:
    with pytest.raises(NotStartedError) as caught:
        from_json(data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_whole_number_will_do_for_a_float_but_no_text() -> None:
    assert from_json({"scenario": {"kind": "server", "window_s": 3}}).scenario.window_s == 3.0
    with pytest.raises(NotStartedError, match=r"scenario.window_s: must be a number, not '3'"):
        from_json({"scenario": {"kind": "server", "window_s": "3"}})


def test_reading_a_config_needs_no_hydra() -> None:
    code = (
        "import sys; from wattcount.config import from_json, to_json, validate; "
        "validate(from_json({'model': {'name': 'auto'}, 'scenario': {'kind': 'batch', 'name': 'b'}})); "
        "assert 'hydra' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_did_you_mean_keeps_quiet_where_nothing_is_close() -> None:
    assert did_you_mean("zzz", ["alpha"]) == ""
