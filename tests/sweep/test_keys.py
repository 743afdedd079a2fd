"""A planned point's key is the same before a machine has looked at it and in the record that it made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from wattcount.config.composition import compose
from wattcount.config.loader import changed, from_json, to_json
from wattcount.config.schema import Device, RunConfig
from wattcount.sweep.keys import plan_key


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
