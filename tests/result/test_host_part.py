"""How far starts of the engine scatter: which run it is said of, and of which figures."""

from __future__ import annotations

from math import hypot
from typing import Any

import pytest

from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import (
    BATCH,
    EAGER_BATCH,
    EAGER_SERVER,
    PER_TOKEN,
    SERVER,
    START_SCATTER,
    WATTS,
)
from wattcount.statistics import t_975

EAGER = {"engine": {"enforce_eager": True}}


def run(**other: Any) -> Result:
    facts: dict[str, Any] = {
        "kind": "server",
        "evidence": Evidence.MEASURED,
        "metrics": {
            "energy/gpu_j": 1000.0,
            "energy/gpu_j_u95": 50.0,
            PER_TOKEN: 2.0,
            "energy/gpu_j_per_request": 100.0,
            WATTS: 500.0,
            "latency/ttft_p50_ms": 40.0,
        },
    }
    return Result(**(facts | other))


def test_the_half_width_of_one_start_is_students() -> None:
    for scatter in (found for figures in START_SCATTER.values() for found in figures.values()):
        assert scatter.t_975 == pytest.approx(t_975(scatter.freedom), rel=1e-5)
        assert scatter.u95_share == scatter.t_975 * scatter.sd


@pytest.mark.parametrize(
    ("facts", "load"),
    [
        ({}, SERVER),
        ({"kind": "batch"}, BATCH),
        ({"setting": EAGER}, EAGER_SERVER),
        ({"kind": "batch", "setting": EAGER}, EAGER_BATCH),
        ({"kind": "offline"}, None),
        ({"kind": None}, None),
        ({"evidence": Evidence.EMULATED}, None),
        ({"origin": "mlperf"}, None),
    ],
)
def test_kinds_of_load(facts: dict[str, Any], load: str | None) -> None:
    assert run(**facts).load_kind == load
    assert (run(**facts).u95_host(PER_TOKEN) is None) == (load is None)


def test_every_kind_of_load_has_both_figures() -> None:
    assert set(START_SCATTER) == {BATCH, SERVER, EAGER_BATCH, EAGER_SERVER}
    for figures in START_SCATTER.values():
        assert set(figures) == {PER_TOKEN, WATTS}
        assert all(0 < scatter.sd < 0.1 and scatter.freedom > 0 for scatter in figures.values())


def test_figures_that_scatter_have_a_hosts_part_and_others_none() -> None:
    result = run()
    per_token, watts = (START_SCATTER[SERVER][key].u95_share for key in (PER_TOKEN, WATTS))
    assert result.u95_host(PER_TOKEN) == pytest.approx(2.0 * per_token)
    assert result.u95_host("energy/gpu_j_per_request") == pytest.approx(100.0 * per_token)
    assert result.u95_host(WATTS) == pytest.approx(500.0 * watts)
    # Of this window, whoever its host was.
    assert result.u95_host("energy/gpu_j") is None
    assert result.u95_host("latency/ttft_p50_ms") is None
    assert run(metrics={PER_TOKEN: None}).u95_host(PER_TOKEN) is None


def test_a_figure_of_the_setting_is_less_sure_than_one_of_the_run() -> None:
    result = run()
    of_run, host = result.u95(PER_TOKEN), result.u95_host(PER_TOKEN)
    assert of_run == pytest.approx(0.1)
    assert host is not None
    assert result.u95_setting(PER_TOKEN) == pytest.approx(hypot(0.1, host))
    assert run(evidence=Evidence.EMULATED).u95_setting(PER_TOKEN) == of_run
    assert run(metrics={PER_TOKEN: 2.0}).u95_setting(PER_TOKEN) == host
    assert result.u95_setting("latency/ttft_p50_ms") is None
