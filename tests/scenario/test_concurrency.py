from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wattcount.config.loader import changed, to_json
from wattcount.config.schema import ConcurrencyConfig, LengthConfig, RunConfig
from wattcount.metrics import compute
from wattcount.records.schema import Phase


@pytest.fixture
def closed(tiny_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """A closed loop of about a second on the tiny engine."""

    def make(engine: dict[str, object] | None = None, **keys: Any) -> RunConfig:
        idle = dict.fromkeys(("bare_idle_s", "loaded_idle_s", "bare_idle_after_s"), 0.05)
        lengths = LengthConfig(input_tokens=16, output_tokens=8)
        given: dict[str, Any] = {"warmup_s": 0.3, "warmup_limit_s": 0.3, "window_s": 0.6, **idle, **keys}
        scenario = ConcurrencyConfig(name="concurrency", lengths=lengths, **{"concurrency": 4, **given})
        return changed(tiny_run(engine=engine), {"scenario": scenario})

    return make


def figures(run: Any) -> dict[str, Any]:
    """`metrics.json` of a run whose record knows its own scenario."""
    run.info.config["scenario"] = to_json(run.cfg)["scenario"]
    run.run()
    return compute(run.record())


def test_warm_up_and_window_follow_each_other_under_the_same_users(bench: Any, closed: Any) -> None:
    run = bench(closed())
    run.run()
    spans = {span.phase: span for span in run.ctx.phases.spans}
    window = spans[Phase.WINDOW]
    assert spans[Phase.WARMUP].end_ns == window.start_ns
    assert window.start_ns - spans[Phase.WARMUP].start_ns == 300_000_000
    assert window.end_ns - window.start_ns == 600_000_000
    rows = run.record().requests.to_pylist()
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["planned_send_ns"] for row in rows} == {None}
    for row in rows:
        in_window = row["actual_send_ns"] >= window.start_ns
        assert row["phase"] == ("window" if in_window else "warmup")
        assert row["actual_send_ns"] < window.end_ns
    begins, ends = ([row[key] for row in rows] for key in ("actual_send_ns", "last_token_ns"))
    changes = sorted([(begin, 1) for begin in begins] + [(end, -1) for end in ends])
    assert np.cumsum([change for _, change in changes]).max() == 4


def test_its_figures_have_no_offered_rate_and_no_lag(bench: Any, closed: Any) -> None:
    content = figures(bench(closed()))
    metrics, reasons = content["metrics"], content["null_reasons"]
    for key in ("load/offered_rps", "load/send_lag_p99_ms", "latency/ttft_planned_p50_ms"):
        assert metrics[key] is None
        assert reasons[key] == "closed_loop"
    assert metrics["requests/not_sent"] == 0
    assert metrics["load/achieved_rps"] == pytest.approx(metrics["throughput/requests_per_s"], rel=0.1)
    # Little's law: as many in flight as there are users.
    in_flight = metrics["load/achieved_rps"] * metrics["latency/e2e_p50_ms"] / 1e3
    assert in_flight == pytest.approx(4, rel=0.15)
    codes = {finding["code"] for finding in content["validity"]["findings"]}
    assert not codes & {
        "users_idle",
        "load_not_achieved",
        "overloaded",
        "client_limited",
        "generator_lagging",
    }


def test_a_load_that_ran_out_is_invalid(bench: Any, closed: Any) -> None:
    content = figures(bench(closed(max_requests=24, window_s=2.0)))
    found = {finding["code"]: finding for finding in content["validity"]["findings"]}
    assert found["users_idle"]["invalidates"]


def test_a_warm_up_goes_on_until_the_load_has_settled(bench: Any, closed: Any) -> None:
    run = bench(closed(engine={"step_base_ms": 60.0}, warmup_limit_s=6.0))
    run.run()
    spans = {span.phase: span for span in run.ctx.phases.spans}
    assert run.ctx.warmup["seconds"] >= run.ctx.warmup["needed_s"] > 0.9
    assert spans[Phase.WARMUP].end_ns == spans[Phase.WINDOW].start_ns


def test_without_warm_up_the_window_begins_with_the_load(bench: Any, closed: Any) -> None:
    run = bench(closed(warmup_s=0.0))
    run.run()
    phases = [span.phase for span in run.ctx.phases.spans]
    assert Phase.WARMUP not in phases
    assert {row["phase"] for row in run.record().requests.to_pylist()} == {"window"}
