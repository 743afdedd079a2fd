"""Attribution of records: of an H200's, and of made ones that do not hold enough."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic_record import SyntheticRun, at, observation, steady_requests
from synthetic_steps import SimulatedEngine, ns, requests

from wattcount.metrics import attribution, compute
from wattcount.metrics.attribution import divide_among_requests, prices_at_slowed_clocks
from wattcount.metrics.gpu import load_clocks
from wattcount.metrics.observations import phase_window
from wattcount.metrics.phases import MIN_INTERVALS, TOO_FEW_INTERVALS, Attribution, attribute
from wattcount.metrics.work import MIN_INTERVAL_S, Reach, fit
from wattcount.records import Record
from wattcount.records.schema import Phase, PhaseSpan
from wattcount.report.summary import summary
from wattcount.result import Result

H200 = sorted((Path(__file__).resolve().parents[2] / "data" / "h200" / "records").glob("*/*/"))


@pytest.fixture(params=H200, ids=lambda path: path.parent.name)
def measured(request: pytest.FixtureRequest) -> Record:
    return Record.open(request.param)


def test_an_h200_run_is_divided_without_a_rest(measured: Record) -> None:
    window = phase_window(measured.info.phases, Phase.WINDOW)
    assert window is not None
    found = attribution.attribute_record(measured, window)
    # Steps of half a second make long intervals: Falcon Mamba's prefills, the stalls of OLMoE's batch. And windows of 8 to
    # 11 s have few: OLMo 2's and Gemma 3 1B's servers, the batches of Qwen3 32B and Gemma 3 12B.
    long_steps = measured.path.parent.name in ("5b4360d28259", "a4fec73e9963", "2127c45b5c4d")
    few = measured.path.parent.name in ("04ed5205d240", "e85a6fe9d2d8", "59e7ce3d6ab9", "767800e3894e")
    if window.duration_s < MIN_INTERVALS * MIN_INTERVAL_S or long_steps or few:
        assert found == TOO_FEW_INTERVALS
        return
    assert isinstance(found, Attribution)
    (uuid,) = measured.power.gpu_uuids
    energy_j = measured.power.energy(window.start_ns, window.end_ns, uuid).value_j
    assert found.idle_j + found.prefill_j + found.decode_j == pytest.approx(energy_j, rel=1e-9)
    divided = attribution.request_energies(measured, window)
    assert not isinstance(divided, str)
    assert len(divided.total_j) == len(measured.requests)
    assert divided.total_j.sum() + divided.unattributed_j == pytest.approx(energy_j, rel=1e-9)
    # Nearly all prefill and decode is somebody's.
    assert divided.prefill_j.sum() == pytest.approx(found.prefill_j, rel=0.01)
    assert divided.decode_j.sum() == pytest.approx(found.decode_j, rel=0.01)


def test_a_prompt_token_costs_about_the_same_under_every_load() -> None:
    """Llama-3-8B shape, prompts of 512: batches of 512, prefill alone, and servers at 1 to 64 requests/s."""
    costs = []
    for record in map(Record.open, H200):
        config = record.info.config
        same = config["model"]["name"] == "llama3_8b" and not config["model"]["quantization"]
        if same and config["scenario"]["lengths"]["input_tokens"] == 512:
            content = compute(record)["metrics"]
            costs.append((content["energy/prefill_j_per_token"], content["energy/prefill_j_per_token_u95"]))
    assert len(costs) == 11
    for per_token, u95 in costs:
        assert 0.010 < per_token < 0.020
        assert u95 < 0.2 * per_token


def metrics_of(run: SyntheticRun, folder: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = compute(Record.open(run.write(folder)))
    return content


def engine_steps(**columns: object) -> list[dict[str, object]]:
    row = {
        "engine_ts_ns": None,
        "duration_ns": None,
        "prefill_tokens": 4,
        "decode_tokens": 4,
        "running": 4,
        "waiting": 0,
        "kv_cache_usage": 0.1,
    } | columns
    return [row | {"logged_ns": at(30 + i / 20)} for i in range(1400)]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (SyntheticRun(), "no_step_tokens"),
        (SyntheticRun(steps=engine_steps(prefill_tokens=None)), "no_step_tokens"),
        (
            SyntheticRun(steps=engine_steps(), phases=[PhaseSpan(Phase.WINDOW, at(40), at(100))]),
            "no_loaded_idle",
        ),
        (SyntheticRun(steps=engine_steps()), "no_power_curve"),  # only a counter
    ],
)
def test_metrics_are_null_with_the_reason(run: SyntheticRun, reason: str, tmp_path: Path) -> None:
    content = metrics_of(run, tmp_path)
    keys = [
        key
        for key in content["metrics"]
        if key.startswith(("energy/prefill", "energy/decode", "energy/request_", "attribution/"))
    ]
    assert len(keys) == 12
    assert {content["metrics"][key] for key in keys} == {None}
    assert {content["null_reasons"][key] for key in keys} == {reason}


def ring(power_w: float, source: str = "power_samples", rate_hz: int = 50) -> list[dict[str, object]]:
    """Two minutes of samples of a steady power, which no sensor shows by one value, and one pair of clocks."""
    clock = {"gpu": 0, "prev_t0_ns": -1, "source_ts_us": -1, "nvml_return": 0}
    rows: list[dict[str, object]] = [
        clock | {"source": "realtime", "t0_ns": at(0), "t1_ns": at(0), "value": at(0)}
    ]
    for i in range(120 * rate_hz):
        t_ns = at(i / rate_hz)
        rows.append(
            clock
            | {
                "source": source,
                "t0_ns": t_ns,
                "t1_ns": t_ns,
                "source_ts_us": t_ns // 1000,
                "value": round(power_w * 1000) + i % 2,
            }
        )
    return rows


def test_constant_power_says_nothing_of_phases(tmp_path: Path) -> None:
    run = SyntheticRun(steps=engine_steps(), requests=steady_requests(), observations=ring(300.0))
    content = metrics_of(run, tmp_path)
    assert content["null_reasons"]["energy/prefill_j"] == "phases_collinear"
    assert content["metrics"]["energy/gpu_j"] is not None


@pytest.mark.parametrize(("source", "rate_hz"), [("power_samples", 50), ("power_instant", 10)])
def test_the_curve_is_as_fine_as_its_samples(source: str, rate_hz: int, tmp_path: Path) -> None:
    record = Record.open(SyntheticRun(observations=ring(300.0, source, rate_hz)).write(tmp_path))
    (uuid,) = record.power.gpu_uuids
    basis = record.power.energy(at(40), at(100), uuid).basis
    curve = attribution.power_curve(record.power, uuid, basis or "")
    assert curve is not None
    energy_at, spacing_s = curve
    assert spacing_s == pytest.approx(1 / rate_hz)
    assert np.diff(energy_at(ns(1040, 1041.5))) == pytest.approx([450], rel=1e-3)


def split(
    edges_s: list[float],
    idle_j: list[float],
    prefill_j: list[float],
    decode_j: list[float],
    context_j: list[float] | None = None,
) -> Attribution:
    return Attribution(
        idle_j=sum(idle_j),
        prefill_j=sum(prefill_j),
        decode_j=sum(decode_j),
        prefill_j_u95=0.0,
        decode_j_u95=0.0,
        prefill_tokens=0.0,
        decode_tokens=0.0,
        coefficients={},
        condition_number=1.0,
        r_squared=None,
        residual_share=0.0,
        lag_ns=0,
        edges_ns=ns(*edges_s),
        idle_split_j=np.array(idle_j),
        prefill_split_j=np.array(prefill_j),
        decode_split_j=np.array(decode_j),
        context_split_j=np.array(context_j if context_j is not None else [0.0] * len(decode_j)),
        fit=fit(np.ones((2, 4)), np.ones(2), (0,)),
        reach=Reach.of(np.ones((2, 4)), ()),
    )


def test_each_request_pays_for_its_tokens_and_its_share_of_idle() -> None:
    # Seconds 0-4. A: scheduled at 1, prefill until 2, a token at 3. B: scheduled at 1, prefill until 2, tokens at 3 and 4.
    found = split([0, 1, 2, 3, 4], [10, 10, 10, 10], [0, 90, 0, 0], [0, 0, 8, 6])
    divided = divide_among_requests(found, requests((1, 200, [2, 3]), (1, 100, [2, 3, 4])))
    assert divided.prefill_j == pytest.approx([60, 30])
    assert divided.decode_j == pytest.approx([4, 4 + 6])
    assert divided.idle_j == pytest.approx([10, 10 + 10])
    assert divided.unattributed_j == pytest.approx(10)  # the first second: nobody was there
    assert divided.whole.tolist() == [True, True]


def test_prompt_tokens_from_the_cache_cost_nothing() -> None:
    found = split([0, 1], [0], [90], [0])
    cached = np.array([400, 0], np.int64)
    divided = divide_among_requests(found, requests((0, 500, [1]), (0, 800, [1]), cached_tokens=cached))
    assert divided.prefill_j == pytest.approx([10, 80])


def test_what_lies_outside_the_window_is_not_paid_for() -> None:
    # From 1 s before the window to 1 s after it.
    found = split([10, 11, 12], [5, 5], [0, 0], [10, 10])
    divided = divide_among_requests(found, requests((8, 100, [9, 11, 13])))
    assert divided.total_j.sum() == pytest.approx(30)
    assert not divided.whole.any()


def test_requests_without_a_token_pay_nothing_and_leave_their_energy_over() -> None:
    found = split([0, 1], [5], [20], [0])
    divided = divide_among_requests(found, requests((0, 100, [])))
    assert divided.total_j.tolist() == [0]
    assert divided.unattributed_j == pytest.approx(25)


def test_no_requests_leave_everything_over() -> None:
    divided = divide_among_requests(split([0, 1], [5], [20], [7]), requests())
    assert divided.unattributed_j == pytest.approx(32)


def test_a_request_that_failed_is_not_whole_but_pays() -> None:
    found = split([0, 1, 2], [5, 5], [20, 0], [0, 10])
    divided = divide_among_requests(found, requests((0, 100, [1, 2]), completed=np.zeros(1, np.bool_)))
    assert divided.total_j == pytest.approx([40])
    assert not divided.whole.any()


def test_a_long_context_costs_its_request_more() -> None:
    simulated = SimulatedEngine(prompt=64, prompt_max=4096, context_token_j=2e-5, count=400).run()
    found = attribute(simulated.energy_at, simulated.window(), simulated.work(), simulated.idle_w)
    assert isinstance(found, Attribution), found
    divided = divide_among_requests(found, simulated.requests())
    by_tokens = divide_among_requests(
        dataclasses.replace(found, context_split_j=0 * found.context_split_j), simulated.requests()
    )
    truth = simulated.request_decode_j()[divided.whole]
    error, error_by_tokens = (
        float(np.sqrt(np.mean((each.decode_j[divided.whole] / truth - 1) ** 2)))
        for each in (divided, by_tokens)
    )
    assert error < 0.08
    assert error < 0.6 * error_by_tokens


CODE = "attribution_at_slowed_clocks"


def found_in(run: SyntheticRun, folder: Path) -> list:
    record = Record.open(run.write(folder))
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    return list(prices_at_slowed_clocks(load_clocks(record, window)))


@pytest.mark.parametrize(
    ("point", "said"), [("37f0", True), ("509c", True), ("4720", False), ("a1d2", False)]
)
def test_servers_at_the_power_limit_say_so_and_others_do_not(point: str, said: bool) -> None:
    (path,) = [path for path in H200 if path.parent.name.startswith(point)]
    record = Record.open(path)
    content = compute(record)
    findings = {finding["code"]: finding for finding in content["validity"]["findings"]}
    assert (CODE in findings) is said
    assert content["validity"]["valid"]
    console = Console(width=200, record=True)
    console.print(summary(Result.of(record, content)))
    assert ("says nothing of a lighter load" in console.export_text()) is said


def test_a_record_without_attribution_has_nothing_to_warn_of(tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [observation("clock_sm", 1, 2000), observation("clock_sm", 40, 1000)]
    content = compute(Record.open(run.write(tmp_path)))
    assert content["metrics"]["energy/prefill_j"] is None
    assert CODE not in {finding["code"] for finding in content["validity"]["findings"]}


@pytest.mark.parametrize(
    ("bit", "why"),
    [(0x40, "temperature"), (0x80, "an external power brake"), (0x0, "something that NVML does not name")],
)
def test_heat_and_unnamed_changes_of_the_clock_count_as_well(bit: int, why: str, tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 1800),
        observation("clock_event_reasons", 1, 0),
        observation("clock_event_reasons", 70, bit),
    ]
    (finding,) = found_in(run, tmp_path)
    assert finding.code == CODE
    assert finding.figure == pytest.approx(0.05)
    assert finding.message.startswith(why)
    assert not finding.invalidates


def test_clocks_that_hardly_moved_are_no_finding(tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [observation("clock_sm", 1, 2000), observation("clock_sm", 40, 1975)]
    assert found_in(run, tmp_path) == []
