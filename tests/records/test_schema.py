from __future__ import annotations

import dataclasses
import json

from wattcount.energy.events import EVENT_DTYPE
from wattcount.engines.base import EngineStep
from wattcount.load.generator import RequestRecord
from wattcount.records.schema import (
    POWER_SCHEMA,
    REQUESTS_SCHEMA,
    STEPS_SCHEMA,
    FileFacts,
    Phase,
    PhaseSpan,
    RunInfo,
    Validity,
)


def test_run_json_comes_back_as_it_was(info: RunInfo) -> None:
    info.phases = [PhaseSpan(Phase.WINDOW, 2**62, 2**62 + 1), PhaseSpan(Phase.DRAIN, 3, None)]
    info.validity = Validity(False, ["engine_died"], ["vLLM died"])
    info.files = {"power.parquet": FileFacts(1, 2, "ab")}
    info.timing = {"overhead_s": 0.5}
    info.complete = True
    assert RunInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_columns_are_those_of_what_is_observed() -> None:
    """One name for one thing, from the place where it is seen to the file."""
    assert set(REQUESTS_SCHEMA.names) == {item.name for item in dataclasses.fields(RequestRecord)}
    assert set(STEPS_SCHEMA.names) == {item.name for item in dataclasses.fields(EngineStep)}
    assert set(POWER_SCHEMA.names) == set(EVENT_DTYPE.names or ())
