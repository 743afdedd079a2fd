"""Stalls of an engine whose steps are known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_record import SyntheticRun, at, request

from wattcount.load.stalls import MIN_STEPS, Stalls
from wattcount.metrics import compute
from wattcount.metrics.observations import Requests
from wattcount.metrics.stalls import stalls
from wattcount.metrics.window import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase

H200 = Path(__file__).resolve().parents[2] / "data" / "h200" / "records"
START_S = 41.0
PREFILL_S = 0.4
DECODE_S = 0.02


def step(seconds: float, prefill: int | None, decode: int) -> dict[str, Any]:
    return {
        "logged_ns": at(seconds),
        "prefill_tokens": prefill,
        "decode_tokens": decode,
        "running": decode,
        "waiting": 0,
    }


def run(
    late_s: dict[int, float], count: int = 400, prefill: int | None = 2048, idle_s: float = 0.0
) -> SyntheticRun:
    """Every eighth step prefills, which takes 20 times as long; `late_s`: step -> how much longer it took.

    idle_s   between two bursts of half of the steps each; nothing is in flight then
    """
    noise = np.random.default_rng(0).uniform(0.9, 1.1, count)
    now, steps, bursts = START_S, [], [[START_S, START_S]]
    for index in range(count):
        if index == count // 2 and idle_s:
            now += idle_s
            bursts.append([now, now])
        prefills = index % 8 == 0
        now += (PREFILL_S if prefills else DECODE_S) * float(noise[index]) + late_s.get(index, 0.0)
        steps.append(step(now, (prefill if prefills else 0) if prefill is not None else None, 64))
        bursts[-1][1] = now
    rows = []
    for index, (sent_s, last_s) in enumerate(bursts):
        row = request(index, sent_s, tokens=2)
        stamps = [at(sent_s + 0.01), at(last_s)]
        rows.append(row | {"token_ts_ns": stamps, "first_token_ns": stamps[0], "last_token_ns": stamps[-1]})
    return SyntheticRun(scenario="batch", requests=rows, steps=steps)


def found(run: SyntheticRun, folder: Path) -> Stalls | None:
    record = Record.open(run.write(folder))
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    return stalls(record, Requests.of(record.requests), window)


def test_an_engine_that_never_stands_still(tmp_path):
    assert found(run({}), tmp_path) == Stalls(0, 0.0, 0.0)


def test_stalls_are_counted_with_what_they_took_beyond_their_steps(tmp_path):
    """A long prefill is none; a stall within one is."""
    late = {9: 0.7, 10: 0.6, 50: 0.31, 80: 0.9, 81: 0.2}
    told = found(run(late), tmp_path)
    assert told is not None
    assert told.count == 4  # 0.2 s is within what a host may do
    assert told.seconds == pytest.approx(0.7 + 0.6 + 0.31 + 0.9, rel=0.05)
    assert told.longest_s == pytest.approx(0.9 + PREFILL_S, rel=0.05)


def test_the_first_step_of_a_window_may_stand_still_too(tmp_path):
    """Nothing is reported in the window before it; the report before is of the warm-up."""
    late = run({0: 0.9})
    late.steps.insert(0, step(START_S - 2.0, 0, 1))
    told = found(late, tmp_path)
    assert told is not None
    assert (told.count, told.seconds) == (1, pytest.approx(0.9, rel=0.1))


def batch_of_an_eager_mamba(first_s: float) -> SyntheticRun:
    """As seen on an H200: five steps of 256 to 16,383 tokens, each reported once the next was launched, and 64 of decoding."""
    prefills = [256, 16383, 16320, 16256, 16192] + [0] * 64
    decodes = [0, 1, 64, 128, 192] + [256] * 64
    now, steps = START_S, [step(START_S - 2.0, 0, 1)]
    for took_s, prefill, decode in zip(
        [first_s, 3.6, 3.5, 3.5, 1.55] + [0.09] * 64, prefills, decodes, strict=True
    ):
        now += took_s
        steps.append(step(now, prefill, decode))
    row = request(0, START_S, tokens=2)
    stamps = [at(START_S + 3.0), at(now)]
    row |= {"token_ts_ns": stamps, "first_token_ns": stamps[0], "last_token_ns": stamps[-1]}
    return SyntheticRun(scenario="batch", requests=[row], steps=steps)


def test_the_first_report_waits_for_the_launch_of_the_second_step(tmp_path):
    assert found(batch_of_an_eager_mamba(2.1), tmp_path / "as_seen") == Stalls(0, 0.0, 0.0)
    told = found(batch_of_an_eager_mamba(9.0), tmp_path / "late")
    assert told is not None
    assert told.count == 1


@pytest.mark.parametrize(("gap_s", "stalls_found"), [(0.0003, 0), (0.00001, 1)])
def test_who_sends_a_thousand_requests_hears_no_report_meanwhile(tmp_path, gap_s, stalls_found):
    """The engine is not late where its first report waits for the end of a burst of sends."""
    late = run({0: 0.9})
    late.steps.insert(0, step(START_S - 2.0, 0, 1))
    last = late.requests[0]
    late.requests += [
        request(index, START_S + index * gap_s, tokens=2)
        | {name: last[name] for name in ("token_ts_ns", "first_token_ns", "last_token_ns")}
        for index in range(1, 3000)
    ]
    told = found(late, tmp_path)
    assert told is not None
    assert told.count == stalls_found


def test_a_step_of_the_warm_up_that_reaches_into_the_window_is_none_of_its(tmp_path):
    served = run({})
    served.requests[0]["actual_send_ns"] = at(START_S - 3.0)
    served.steps.insert(0, step(START_S - 2.0, 0, 1))
    assert found(served, tmp_path) == Stalls(0, 0.0, 0.0)


def test_nothing_to_do_is_no_stall(tmp_path):
    assert found(run({}, idle_s=5.0), tmp_path) == Stalls(0, 0.0, 0.0)


def test_a_stall_beside_a_pause(tmp_path):
    told = found(run({300: 1.0}, idle_s=5.0), tmp_path)
    assert told is not None
    assert told.count == 1
    assert told.seconds == pytest.approx(1.0, rel=0.05)


def test_a_request_without_an_end_was_in_flight(tmp_path):
    broken = run({300: 1.0})
    for row in broken.requests:
        row["last_token_ns"] = None
    told = found(broken, tmp_path)
    assert told is not None
    assert told.count == 1


@pytest.mark.parametrize("what", ["no steps", "few steps", "no token counts"])
def test_what_cannot_be_told_is_not(tmp_path, what):
    broken = run(
        {3: 2.0}, count=MIN_STEPS if what == "few steps" else 100, prefill=None if "token" in what else 1
    )
    if what == "no steps":
        broken.steps = []
    assert found(broken, tmp_path) is None


@pytest.mark.parametrize(
    ("late", "invalidates"),
    [({}, None), ({9: 0.3}, None), ({9: 0.9}, False), (dict.fromkeys(range(9, 300, 16), 0.8), True)],
)
def test_the_finding(tmp_path, late, invalidates):
    """Windows of 70 s: some 0.4, 1.3 and 21 % of them."""
    (verdict,) = [compute(Record.open(run(late).write(tmp_path)))["validity"]["findings"]]
    codes = {finding["code"]: finding for finding in verdict}
    if invalidates is None:
        assert "engine_stalled" not in codes
    else:
        assert codes["engine_stalled"]["invalidates"] is invalidates
        assert codes["engine_stalled"]["figure"] == pytest.approx(sum(late.values()) / 60, rel=0.05)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        (
            "2127c45b5c4d/r0-20261123-174455-908-d7c081",
            0.61,
        ),  # fused_moe_kernel was compiled nine times in the batch
        ("7cb71515b882/r0-20261123-092253-387-66a951", 0.05),  # the same, once
        ("08f2265753b1/r0-20261123-174602-212-02ec1e", None),  # the next run of the first one's model
        (
            "5b4360d28259/r0-20261123-174654-569-11a92a",
            None,
        ),  # prefills that take half a second; the first report waits for the launch of the second
        ("a1d2a1b9692c/r0-20261123-092528-692-35362f", None),  # a server that is idle half of the time
    ],
)
def test_real_runs(name, share):
    record = Record.open(H200 / name)
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    told = stalls(record, Requests.of(record.requests), window)
    assert told is not None
    assert told.seconds / window.duration_s == pytest.approx(share or 0.0, abs=0.005)
