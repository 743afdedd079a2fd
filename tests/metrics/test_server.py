"""Whether a server served only us, by counters that are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic_record import SyntheticRun, at, findings_of, observation, request, steady_requests

from wattcount.config.schema import LengthKind
from wattcount.engines.http.counters import FAMILIES, ServerCounters
from wattcount.metrics import NULL_REASONS
from wattcount.metrics.attribution import attribute_record
from wattcount.metrics.observations import Requests, Window, int_column, phase_window
from wattcount.metrics.phases import Attribution
from wattcount.metrics.server import NOT_ALONE, STEPS_NOT_SEEN, STEPS_UNTOLD, own_load, quiet
from wattcount.records import Record
from wattcount.records.schema import REQUESTS_SCHEMA, Phase

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
    assert found["prefix_cache_hits"]["invalidates"]
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


# -- steps

DATA = Path(__file__).resolve().parents[2] / "data"
SERVED = sorted(
    path for point in ("h200/records/a1d2", "h200/records/267d", "h200/records/509c", "h200/records/1060")
    for path in list(DATA.glob(f"{point}*/r*"))[:1]
)  # fmt: skip
"""Llama-3-8B's shape on an H200: servers at 1, 16 and 64 requests/s, and a batch."""


def as_served(
    path: Path, *, jitter_s: float = 0.0, steps: float = 1.0, others: int = 0
) -> tuple[Record, Window]:
    """A record as a server would have left it: no steps, but a snapshot a second of what was counted.

    jitter_s  tokens arrive that much later, at most
    steps     so many times the steps are counted
    others    requests in the window that were none of ours
    """
    measured, record = Record.open(path), Record.open(path)
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    rows = record.requests.to_pylist()
    rng = np.random.default_rng(0)
    for row in rows:
        stamps = np.array(row["token_ts_ns"], np.int64)
        row["token_ts_ns"] = np.maximum.accumulate(
            stamps + rng.integers(0, round(jitter_s * 1e9) + 1, len(stamps))
        )
    record.__dict__["requests"] = pa.Table.from_pylist(rows, schema=REQUESTS_SCHEMA)
    made = int_column(measured.steps, "prefill_tokens") + int_column(measured.steps, "decode_tokens") > 0
    logged_ns = np.sort(int_column(measured.steps, "logged_ns")[made])
    requests = Requests.of(measured.requests)
    sent_ns, first_ns, last_ns = (
        np.sort(column[column > 0])
        for column in (requests.actual_send_ns, requests.first_token_ns, requests.last_token_ns)
    )
    stamps_ns = np.sort(requests.token_ts_ns)
    begin_ns = min(int(sent_ns[0]), window.start_ns) - 2 * 10**9
    end_ns = max(int(last_ns[-1]), window.end_ns) + 2 * 10**9
    snapshots = []
    for t_ns in range(begin_ns, end_ns, 10**9):
        extra = others if t_ns > (window.start_ns + window.end_ns) / 2 else 0
        snapshots.append(
            ServerCounters(
                t_ns=t_ns,
                asked_ns=t_ns,
                family="vllm",
                requests=int(np.searchsorted(last_ns, t_ns)) + extra,
                prompt_tokens=int(requests.input_tokens[0]) * (int(np.searchsorted(first_ns, t_ns)) + extra),
                generation_tokens=int(np.searchsorted(stamps_ns, t_ns)) + extra,
                steps=round(steps * int(np.searchsorted(logged_ns, t_ns))) if steps else None,
            ).to_json()
        )
    record.__dict__["steps"] = measured.steps.slice(0, 0)
    record.info.engine["details"] = {"server": {}, "server_counters": snapshots}
    return record, window


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("jitter_s", [0.0, 0.001])
def test_arrivals_divide_the_energy_as_the_engines_own_steps_do(path: Path, jitter_s: float) -> None:
    record, window = as_served(path, jitter_s=jitter_s)
    truth = attribute_record(Record.open(path), window)
    found = attribute_record(record, window)
    assert isinstance(truth, Attribution)
    assert isinstance(found, Attribution)
    assert found.prefill_j == pytest.approx(truth.prefill_j, abs=truth.prefill_j_u95)
    assert found.decode_j == pytest.approx(truth.decode_j, abs=truth.decode_j_u95)
    assert found.prefill_j_u95 > 0.9 * truth.prefill_j_u95
    assert found.idle_j + found.prefill_j + found.decode_j == pytest.approx(
        truth.idle_j + truth.prefill_j + truth.decode_j
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"steps": 0.0}, STEPS_UNTOLD),
        ({"steps": 1.2}, STEPS_NOT_SEEN),
        ({"steps": 0.8}, STEPS_NOT_SEEN),
        ({"others": 100}, NOT_ALONE),
    ],
)
def test_steps_that_cannot_be_believed_are_null_with_the_reason(how: dict[str, Any], reason: str) -> None:
    record, window = as_served(SERVED[0], **how)
    assert attribute_record(record, window) == reason
    assert reason in NULL_REASONS
