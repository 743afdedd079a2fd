"""Whether a server served only us, by counters that are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from synthetic_record import SyntheticRun, at, findings_of, observation, request, steady_requests

from wattcount.config.schema import LengthKind
from wattcount.engines.http.counters import FAMILIES, ServerCounters
from wattcount.metrics.observations import Requests
from wattcount.metrics.server import own_load, quiet
from wattcount.records.schema import REQUESTS_SCHEMA

Rows = list[dict[str, Any]]
FAMILY_NAMES = [family.name for family in FAMILIES]


def counted(rows: Rows, t_ns: int, family: str) -> dict[str, int]:
    """What a server of this family has counted of these requests by `t_ns`."""
    as_made = family == "vllm"
    ended = [row for row in rows if row["status"] == "completed" and row["last_token_ns"] <= t_ns]
    begun = [row for row in rows if row["first_token_ns"] is not None and row["first_token_ns"] <= t_ns]
    made = sum(
        count
        for row in rows
        for stamp, count in zip(row["token_ts_ns"], row["token_count"], strict=True)
        if stamp <= t_ns
    )
    found = {
        "requests": len(ended),
        "prompt_tokens": sum(row["input_tokens"] for row in (begun if as_made else ended)),
        "generation_tokens": made if as_made else sum(row["output_tokens"] for row in ended),
    }
    if family == "llama_cpp":
        del found["requests"]
    return found


def server_run(
    rows: Rows,
    others: Rows = (),  # type: ignore[assignment]
    *,
    family: str = "vllm",
    times_s: Sequence[float] = tuple(range(20, 121)),
    change: Callable[[dict[str, Any]], object] = dict.copy,
    base: int = 1000,
    **more: Any,
) -> SyntheticRun:
    """A run on a server that serves `others`, too, with a snapshot at each of `times_s`."""
    snapshots = []
    for seconds in times_s:
        t_ns = at(seconds)
        counts = {name: base + n for name, n in counted([*rows, *others], t_ns, family).items()}
        snapshots.append({"t_ns": t_ns, "asked_ns": t_ns - 5_000_000, "family": family, **counts})
        change(snapshots[-1])
    details = {"server": {"base_url": "http://localhost:8000"}, "server_counters": snapshots}
    return SyntheticRun(requests=rows, engine={"details": details}, **more)


def strangers(share: float, rows: Rows, start_s: float = 40.0, end_s: float = 100.0) -> Rows:
    """Others' requests, evenly in that time: so many of ours."""
    count = round(share * len(rows))
    return [request(i, start_s + (i + 0.5) * (end_s - start_s) / count) for i in range(count)]


# -- what is ours


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("first_s", [25.0, 40.03, 55.37])
@pytest.mark.parametrize("last_s", [70.01, 99.98, 115.0])
def test_ours_lies_between_its_bounds_wherever_the_snapshots_are(
    family: str, first_s: float, last_s: float
) -> None:
    rows = steady_requests(rate_rps=20.0, tokens=40, itl_ms=20.0)
    requests = Requests.of(pa.Table.from_pylist(rows, schema=REQUESTS_SCHEMA))
    snapshots = [
        ServerCounters(t_ns=at(s), asked_ns=at(s) - 5_000_000, family=family, **counted(rows, at(s), family))
        for s in (first_s, last_s)
    ]
    ours = own_load(requests, *snapshots)
    for name in ("requests", "prompt_tokens", "generation_tokens"):
        before, after = (getattr(snapshot, name) for snapshot in snapshots)
        if before is None:
            continue
        assert getattr(ours, name).low <= after - before <= getattr(ours, name).high
    if (first_s, last_s) == (25.0, 115.0):
        assert ours.generation_tokens is not None
        assert ours.generation_tokens.low == ours.generation_tokens.high == 40 * len(rows)


def test_a_snapshot_is_quiet_where_none_of_ours_is_in_flight() -> None:
    rows = [request(0, 40.0, tokens=101), request(1, 50.0, tokens=101, status="failed")]  # 1.05 s each
    requests = Requests.of(pa.Table.from_pylist(rows, schema=REQUESTS_SCHEMA))
    times = (39.9, 40.5, 41.2, 41.5, 50.5, 53.0)
    snapshots = [ServerCounters(t_ns=at(s), asked_ns=at(s), family="vllm") for s in times]
    assert quiet(requests, snapshots).tolist() == [True, False, False, True, False, True]


# -- others


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_server_that_served_only_us_has_no_finding(family: str, tmp_path: Path) -> None:
    assert findings_of(server_run(steady_requests(), family=family), tmp_path) == {}


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_others_load_is_found_with_its_share(family: str, share: float, tmp_path: Path) -> None:
    rows = steady_requests()
    others = strangers(share, rows)
    found = findings_of(server_run(rows, others, family=family), tmp_path)
    assert set(found) == {"other_users_load"}
    assert found["other_users_load"]["invalidates"]
    assert found["other_users_load"]["figure"] == pytest.approx(len(others) / len(rows))


def test_a_probe_now_and_then_is_a_note(tmp_path: Path) -> None:
    rows = steady_requests()
    found = findings_of(server_run(rows, [request(0, 50.0, tokens=1, input_tokens=1)]), tmp_path)
    assert not found["other_users_load"]["invalidates"]
    assert "281 requests" in found["other_users_load"]["message"]
    assert "ours were 280 requests" in found["other_users_load"]["message"]


def test_one_long_request_of_others_counts_by_its_tokens(tmp_path: Path) -> None:
    rows = steady_requests()
    long_output = [request(0, 45.0, tokens=500, itl_ms=50.0)]
    assert findings_of(server_run(rows, long_output), tmp_path / "a")["other_users_load"]["invalidates"]
    long_prompt = [request(0, 45.0, tokens=1, input_tokens=100_000)]
    assert findings_of(server_run(rows, long_prompt), tmp_path / "b")["other_users_load"]["invalidates"]


def test_others_before_and_after_our_load_do_not_touch_the_window(tmp_path: Path) -> None:
    rows = steady_requests()
    found = findings_of(server_run(rows, strangers(0.5, rows, 21.0, 29.0)), tmp_path)
    assert set(found) == {"other_users_in_idle"}
    assert not found["other_users_in_idle"]["invalidates"]
    assert found["other_users_in_idle"]["figure"] == 0.5 * len(rows) * 11


@pytest.mark.parametrize(("prompt", "output"), [(1, 0), (30, 0), (0, 1), (0, -1)])
def test_a_server_that_counts_tokens_otherwise_is_no_other_user(
    prompt: int, output: int, tmp_path: Path
) -> None:
    """A begin-of-text token, a chat template, the token that ends an output."""
    rows = steady_requests(tokens=200, itl_ms=5.0)

    def otherwise(snapshot: dict[str, Any]) -> None:
        ended = snapshot["requests"] - 1000
        snapshot["prompt_tokens"] += prompt * ended
        snapshot["generation_tokens"] += output * ended

    assert findings_of(server_run(rows, change=otherwise), tmp_path) == {}


def test_requests_of_ours_that_broke_off_are_not_others(tmp_path: Path) -> None:
    rows = steady_requests()
    for number, row in enumerate(rows[100:110]):
        row.update(status="cancelled" if number % 2 else "failed")
        for name in ("token_ts_ns", "token_count"):
            row[name] = row[name][:3]
        row.update(last_token_ns=row["token_ts_ns"][-1], output_tokens=3)
    whole = steady_requests()  # the server went on with them
    run = server_run(rows)
    run.engine["details"]["server_counters"] = server_run(whole).engine["details"]["server_counters"]
    assert "other_users_load" not in findings_of(run, tmp_path)


def test_without_a_quiet_moment_only_what_is_certain_counts(tmp_path: Path) -> None:
    rows = steady_requests(start_s=20.1, end_s=119.9, rate_rps=20.0)
    times = [30.0, 70.0, 110.0]
    assert findings_of(server_run(rows, times_s=times), tmp_path / "alone") == {}
    found = findings_of(server_run(rows, strangers(0.2, rows), times_s=times), tmp_path / "shared")
    assert found["other_users_load"]["invalidates"]


@pytest.mark.parametrize("times_s", [(), (50.0, 60.0), (20.0, 50.0), (60.0, 115.0)])
def test_a_server_without_counters_around_the_window_is_told_of(
    times_s: tuple[float, ...], tmp_path: Path
) -> None:
    found = findings_of(server_run(steady_requests(), times_s=times_s), tmp_path)
    assert set(found) == {"other_users_unknown"}
    assert not found["other_users_unknown"]["invalidates"]


def test_a_run_without_a_server_is_not_asked(tmp_path: Path) -> None:
    for number, details in enumerate(({}, None, {"server": None}, {"server_counters": 3})):
        assert findings_of(SyntheticRun(engine={"details": details}), tmp_path / str(number)) == {}


def test_rows_that_are_no_snapshots_are_left_out(tmp_path: Path) -> None:
    run = server_run(steady_requests())
    run.engine["details"]["server_counters"] += [None, 3, {}, {"t_ns": "x"}]
    assert findings_of(run, tmp_path) == {}


def test_a_server_that_started_anew_is_invalid(tmp_path: Path) -> None:
    def anew(snapshot: dict[str, Any]) -> None:
        if snapshot["t_ns"] > at(60.5):
            for name in ("requests", "prompt_tokens", "generation_tokens"):
                snapshot[name] //= 100

    found = findings_of(server_run(steady_requests(), change=anew), tmp_path)
    assert set(found) == {"server_restarted"}
    assert found["server_restarted"]["invalidates"]


# -- what was not computed


def test_answers_that_the_server_did_not_count_are_found(tmp_path: Path) -> None:
    rows = steady_requests()
    run = server_run(rows)
    run.engine["details"]["server_counters"] = server_run(rows[::2]).engine["details"]["server_counters"]
    found = findings_of(run, tmp_path)
    assert set(found) == {"outputs_not_computed"}
    assert found["outputs_not_computed"]["figure"] == pytest.approx(0.5)
    assert found["outputs_not_computed"]["invalidates"]


def test_answers_that_come_whole_and_far_too_fast_are_told_of(tmp_path: Path) -> None:
    rows = steady_requests()
    cached = [request(i, 50 + i / 4 + 0.1, ttft_ms=3, itl_ms=0) for i in range(10)]
    found = findings_of(server_run([*rows, *cached]), tmp_path)
    assert set(found) == {"outputs_at_once"}
    assert found["outputs_at_once"]["figure"] == pytest.approx(10 / 250)
    assert findings_of(server_run(steady_requests(itl_ms=0)), tmp_path / "all") == {}


@pytest.mark.parametrize("told", ["hits", "usage"])
def test_hits_in_the_prefix_cache_are_told_of(told: str, tmp_path: Path) -> None:
    rows = steady_requests(cached_tokens=0 if told == "hits" else 128)

    def hits(snapshot: dict[str, Any]) -> None:
        if told == "hits":
            snapshot["prefix_hits"] = (snapshot["prompt_tokens"] - 1000) // 4 + 77

    run = server_run(rows, change=hits)
    found = findings_of(run, tmp_path / "random")
    assert set(found) == {"prefix_cache_hits"}
    assert found["prefix_cache_hits"]["figure"] == pytest.approx(0.25)
    plain = run.config()
    plain["scenario"]["lengths"] |= {"kind": LengthKind.prompts.value, "path": "prompts.jsonl"}
    run.config = lambda: plain  # type: ignore[method-assign]
    assert findings_of(run, tmp_path / "prompts") == {}


# -- processes


@pytest.mark.parametrize(("there", "foreign"), [(2, False), (3, True)])
def test_a_servers_own_processes_are_not_foreign(there: int, foreign: bool, tmp_path: Path) -> None:
    run = server_run(
        steady_requests(),
        observations=[observation("compute_processes", 1, 0), observation("compute_processes", 15, there)],
    )
    run.engine["details"]["server"]["computing"] = {run.uuid(): [41, 42]}
    found = findings_of(run, tmp_path)
    assert ("foreign_process" in found) == foreign
    if foreign:
        assert found["foreign_process"]["invalidates"]
        assert "1 process(es) beside the server's 2" in found["foreign_process"]["message"]
