"""Metrics of records whose energy, tokens and latencies are known exactly."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_record import BOUNDS_S, SyntheticRun, at, observation, request, steady_requests

from wattcount.config.schema import SloConfig
from wattcount.metrics import METRICS, NULL_REASONS, compute, load_metrics, to_bytes, write
from wattcount.metrics.registry import METRICS_VERSION
from wattcount.record import Record
from wattcount.record.schema import Evidence, Phase, PhaseSpan, Validity

PROJECT = Path(__file__).parents[2]


def metrics_of(run: SyntheticRun, folder: Path, **kwargs):
    return compute(Record.open(run.write(folder, **kwargs)))


def values_of(run: SyntheticRun, folder: Path) -> dict:
    return metrics_of(run, folder)["metrics"]


# -- what is known exactly ------------------------------------------------------------------------


def test_constant_power_gives_exact_energies(tmp_path):
    # 4 requests/s for 60 s, 11 tokens each, 300 W.
    found = values_of(SyntheticRun(power_w=300.0, slo=SloConfig(ttft_ms=100)), tmp_path)
    exact = {
        "energy/gpu_j": 18000.0,
        "energy/gpu_j_per_output_token": 18000.0 / (240 * 11),
        "energy/gpu_j_per_request": 75.0,
        "energy/gpu_j_per_good_request": 75.0,
        "energy/bare_idle_j": 18000.0,
        "energy/context_idle_j": 0.0,
        "energy/dynamic_j": 0.0,
        "energy_by_source/energy_counter_j": 18000.0,
        "energy_by_gpu/gpu0_j": 18000.0,
        "power/gpu_mean_w": 300.0,
        "power/idle_bare_w": 300.0,
        "power/idle_loaded_w": 300.0,
        "power/idle_loaded_after_w": 300.0,
        "throughput/output_tokens_per_s": 44.0,
        "throughput/input_tokens_per_s": 2048.0,
        "throughput/requests_per_s": 4.0,
        "throughput/goodput_rps": 4.0,
        "load/offered_rps": 4.0,
        "load/achieved_rps": 4.0,
        "latency/ttft_p99_ms": 50.0,
        "latency/tpot_p50_ms": 10.0,
        "latency/itl_p95_ms": 10.0,
        "latency/e2e_p99_ms": 150.0,
        "window/duration_s": 60.0,
    }
    for key, value in exact.items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-6), key


def test_every_key_is_there_and_every_null_has_a_known_reason(tmp_path):
    content = metrics_of(SyntheticRun(), tmp_path)
    assert set(METRICS) <= set(content["metrics"])
    nulls = {key for key, value in content["metrics"].items() if value is None}
    assert nulls == set(content["null_reasons"])
    assert set(content["null_reasons"].values()) <= set(NULL_REASONS)


def test_several_gpus_are_summed(tmp_path):
    found = values_of(SyntheticRun(power_w=250.0, gpus=3), tmp_path)
    assert found["energy/gpu_j"] == pytest.approx(3 * 250 * 60, rel=1e-9)
    assert found["power/idle_bare_w"] == pytest.approx(750, rel=1e-9)
    assert [found[f"energy_by_gpu/gpu{i}_j"] for i in range(3)] == pytest.approx([15000.0] * 3, rel=1e-9)


def test_one_gpu_without_data_makes_the_sum_null_not_smaller(tmp_path):
    run = SyntheticRun(gpus=2)
    run.write(tmp_path)
    half = SyntheticRun(gpus=1)
    power = half.power_rows()
    run.power_rows = lambda: power  # type: ignore[method-assign]
    content = metrics_of(run, tmp_path)
    assert content["metrics"]["energy/gpu_j"] is None
    assert content["null_reasons"]["energy/gpu_j"] == "no_power_data"
    assert content["metrics"]["energy_by_gpu/gpu0_j"] == pytest.approx(18000)
    assert content["metrics"]["energy_by_gpu/gpu1_j"] is None
    assert content["metrics"]["throughput/output_tokens_per_s"] == 44.0


def test_idle_powers_come_from_their_own_phases(tmp_path):
    def power_w(t: float) -> float:
        return 80.0 if t < 10 else 120.0 if t < 30 else 400.0 if t < 110 else 140.0

    found = values_of(SyntheticRun(power_w=power_w), tmp_path)
    # Half a second of the next phase's power can enter at a bound: the counter is read twice a second.
    assert found["power/idle_bare_w"] == pytest.approx(80, rel=0.03)
    assert found["power/idle_loaded_w"] == pytest.approx(120, rel=0.12)
    assert found["power/gpu_mean_w"] == pytest.approx(400, rel=1e-9)
    parts = ("bare_idle_j", "context_idle_j", "dynamic_j")
    assert sum(found[f"energy/{part}"] for part in parts) == pytest.approx(found["energy/gpu_j"], rel=1e-9)


def rapl_domain(name, kind, **other):
    return {"name": name, "kind": kind, "zone": "", "max_energy_range_uj": 10**10, "error": None} | other


def host_power(name, power_w, start_uj=0):
    """Reads at odd times, between the bounds of the phases; the counter starts over at 10 kJ."""
    seconds = [tick + 0.3 for tick in range(-1, 121)]
    return [
        {
            "domain": name,
            "t0_ns": at(s),
            "t1_ns": at(s),
            "value_uj": round(start_uj + power_w * (s + 1) * 1e6) % 10**10,
        }
        for s in seconds
    ]


def test_cpu_and_dram_energy_are_figures_of_their_own(tmp_path):
    domains = [
        rapl_domain("package-0", "package"),
        rapl_domain("package-1", "package"),
        rapl_domain("package-0/dram", "dram"),
        rapl_domain("psys", "psys"),
    ]
    run = SyntheticRun(
        power_w=300.0,
        rapl={"state": "ok", "domains": domains},
        host_power=host_power("package-0", 200.0, start_uj=9 * 10**9)
        + host_power("package-1", 150.0)
        + host_power("package-0/dram", 30.0)
        + host_power("psys", 900.0),
    )
    found = values_of(run, tmp_path)
    assert found["energy/cpu_package_j"] == pytest.approx(350.0 * 60)
    assert found["power/cpu_package_mean_w"] == pytest.approx(350.0)
    assert found["energy/dram_j"] == pytest.approx(30.0 * 60)
    assert found["energy/gpu_j"] == 18000.0


def test_why_there_is_no_cpu_energy(tmp_path):
    def reasons(rapl, folder):
        found = metrics_of(SyntheticRun(rapl=rapl), tmp_path / folder)
        assert found["metrics"]["energy/cpu_package_j"] is None
        assert found["metrics"]["power/cpu_package_mean_w"] is None
        keys = ("energy/cpu_package_j", "power/cpu_package_mean_w", "energy/dram_j")
        return [found["null_reasons"][key] for key in keys]

    assert reasons(None, "old") == ["not_recorded"] * 3
    assert reasons({"state": "rapl_not_present", "domains": []}, "virtual") == ["rapl_not_present"] * 3
    amd = [rapl_domain("package-0", "package", error="Permission denied")]
    assert reasons({"state": "rapl_not_readable", "domains": amd}, "amd") == [
        "rapl_not_readable",
        "rapl_not_readable",
        "rapl_not_present",
    ]


# -- what counts in a window ----------------------------------------------------------------------


def test_tokens_count_by_emission_and_latency_by_send(tmp_path):
    requests = [
        # Sent before the window, most tokens inside: 2 before (39.95 s, 40.0 s exactly is outside), 8 inside.
        request(0, 39.9, ttft_ms=50, itl_ms=50, tokens=10, phase="warmup"),
        # Sent inside, finished in the drain: tokens up to 100.0 s inclusive count.
        request(1, 99.9, ttft_ms=50, itl_ms=50, tokens=10),
        # Sent at the very end: not of the window.
        request(2, 100.0, tokens=5),
    ]
    found = values_of(SyntheticRun(requests=requests), tmp_path)
    assert found["tokens/output"] == 8 + 2
    assert found["tokens/input"] == 512  # only request 1 had its first token in the window
    assert found["requests/sent"] == 1
    assert found["requests/completed"] == 1
    assert found["requests/completed_in_window"] == 1  # request 0
    assert found["energy/gpu_j_per_request"] == pytest.approx(18000)
    assert found["energy/gpu_j_per_output_token"] == pytest.approx(1800)


def test_a_batch_from_first_send_to_last_token_holds_both(tmp_path):
    requests = [request(i, 40.0, ttft_ms=1000 + i, itl_ms=10, tokens=100) for i in range(100)]
    end = max(row["last_token_ns"] for row in requests)
    phases = [
        PhaseSpan(Phase.LOADED_IDLE, at(20), at(30)),
        PhaseSpan(Phase.WINDOW, at(40), end),
    ]
    run = SyntheticRun(scenario="batch", requests=requests, phases=phases)
    content = metrics_of(run, tmp_path)
    found = content["metrics"]
    assert found["tokens/output"] == 100 * 100
    assert found["requests/completed_in_window"] == 100
    assert found["energy/batch_gpu_j"] == pytest.approx(found["energy/gpu_j"], rel=1e-12)
    assert found["energy/batch_gpu_j"] == pytest.approx(300 * (end - at(40)) / 1e9, rel=1e-9)
    assert content["null_reasons"]["load/offered_rps"] == "batch_has_no_rate"


def test_energy_of_a_batch_that_did_not_complete_is_null(tmp_path):
    requests = [request(0, 40.0), request(1, 40.0, status="failed", tokens=3)]
    content = metrics_of(SyntheticRun(scenario="batch", requests=requests), tmp_path)
    assert content["metrics"]["energy/batch_gpu_j"] is None
    assert content["null_reasons"]["energy/batch_gpu_j"] == "requests_unfinished"
    assert content["metrics"]["energy/gpu_j"] is not None


@settings(deadline=None, max_examples=20)
@given(cut_s=st.floats(41, 99))
def test_splitting_the_window_splits_tokens_completions_and_energy(tmp_path_factory, cut_s):
    requests = steady_requests(4.0, ttft_ms=700, itl_ms=130, tokens=12)
    parts = []
    for start, end in ((40.0, 100.0), (40.0, cut_s), (cut_s, 100.0)):
        run = SyntheticRun(requests=requests, phases=[PhaseSpan(Phase.WINDOW, at(start), at(end))])
        parts.append(values_of(run, tmp_path_factory.mktemp("split")))
    whole, left, right = parts
    for key in ("tokens/output", "tokens/input", "requests/sent", "requests/completed_in_window"):
        assert left[key] + right[key] == whole[key], key
    assert left["energy/gpu_j"] + right["energy/gpu_j"] == pytest.approx(whole["energy/gpu_j"], rel=1e-9)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(tmp_path_factory, seed):
    run = SyntheticRun(
        requests=steady_requests(tokens=7, chunk=2),
        observations=[observation("temperature_gpu", t, 40 + t % 7) for t in range(0, 120, 5)],
        steps=[step(t, running=t % 5) for t in range(30, 110)],
    )
    folder = tmp_path_factory.mktemp("order")
    plain = to_bytes(metrics_of(run, folder / "a"))
    assert to_bytes(metrics_of(run, folder / "b", shuffle=seed)) == plain


# -- requests that went wrong ---------------------------------------------------------------------


def test_failed_requests_are_counted_and_rank_as_slowest(tmp_path):
    requests = steady_requests()
    window = [r for r in requests if r["phase"] == "window"]
    for row in window[:6]:
        row.update(status="failed", first_token_ns=None, last_token_ns=None, token_ts_ns=[], token_count=[])
    for row in window[6:9]:  # broke off after the first token
        row.update(
            status="cancelled", last_token_ns=row["first_token_ns"],
            token_ts_ns=row["token_ts_ns"][:1], token_count=row["token_count"][:1],
        )  # fmt: skip
    content = metrics_of(SyntheticRun(requests=requests, slo=SloConfig(e2e_ms=1000)), tmp_path)
    found, why = content["metrics"], content["null_reasons"]
    assert (found["requests/sent"], found["requests/completed"]) == (240, 231)
    assert (found["requests/failed"], found["requests/cancelled"]) == (6, 3)
    assert found["requests/good"] == 231
    assert found["throughput/goodput_rps"] == pytest.approx(231 / 60)
    # 6 of 240 have no first token: the top 2.5 %.
    assert found["latency/ttft_p95_ms"] == 50.0
    assert (found["latency/ttft_p99_ms"], why["latency/ttft_p99_ms"]) == (None, "requests_unfinished")
    # 9 of 240 have no end: the top 3.75 %.
    assert found["latency/e2e_p95_ms"] == 150.0
    assert why["latency/e2e_p99_ms"] == why["latency/tpot_p99_ms"] == "requests_unfinished"


def test_requests_never_sent_are_counted(tmp_path):
    requests = [*steady_requests(), *(request(900 + i, 99.0, status="not_sent") for i in range(3))]
    found = values_of(SyntheticRun(requests=requests), tmp_path)
    assert found["requests/not_sent"] == 3
    assert found["load/offered_rps"] == pytest.approx(243 / 60)
    assert found["load/achieved_rps"] == pytest.approx(4.0)


def test_latency_starts_at_the_actual_send_and_lag_is_its_own_figure(tmp_path):
    found = values_of(SyntheticRun(requests=steady_requests(lag_ms=30.0)), tmp_path)
    assert found["latency/ttft_p50_ms"] == 50.0
    assert found["load/send_lag_p50_ms"] == found["load/send_lag_p99_ms"] == 30.0
    assert found["load/send_lag_max_ms"] == 30.0


def test_few_requests_have_no_p99(tmp_path):
    content = metrics_of(SyntheticRun(requests=steady_requests(0.5)), tmp_path)
    assert content["metrics"]["requests/sent"] == 30
    assert content["metrics"]["latency/ttft_p95_ms"] == 50.0
    assert content["null_reasons"]["latency/ttft_p99_ms"] == "too_few_requests"
    assert content["null_reasons"]["load/send_lag_p99_ms"] == "too_few_requests"
    assert content["metrics"]["load/send_lag_max_ms"] == 0.0


def test_a_window_without_requests_has_energy_and_no_ratios(tmp_path):
    content = metrics_of(SyntheticRun(requests=[], slo=SloConfig(ttft_ms=1)), tmp_path)
    found, why = content["metrics"], content["null_reasons"]
    assert found["energy/gpu_j"] == pytest.approx(18000)
    assert found["throughput/output_tokens_per_s"] == 0
    assert found["requests/sent"] == 0
    assert why["energy/gpu_j_per_output_token"] == "no_output_tokens"
    assert why["energy/gpu_j_per_request"] == "no_completed_requests"
    assert why["energy/gpu_j_per_good_request"] == "no_good_requests"
    assert why["latency/ttft_p50_ms"] == why["latency/itl_p50_ms"] == "no_requests"


# -- TPOT, ITL, SLO -------------------------------------------------------------------------------


def test_single_token_outputs_have_no_tpot_and_still_meet_the_slo(tmp_path):
    run = SyntheticRun(requests=steady_requests(tokens=1), slo=SloConfig(tpot_ms=1))
    content = metrics_of(run, tmp_path)
    assert content["null_reasons"]["latency/tpot_p50_ms"] == "single_token_outputs"
    assert content["null_reasons"]["latency/itl_p50_ms"] == "single_token_outputs"
    assert content["metrics"]["latency/e2e_p50_ms"] == 50.0
    assert content["metrics"]["requests/good"] == 240


def test_tokens_that_arrive_together(tmp_path):
    # 12 tokens in chunks of 4, 30 ms apart: three arrivals, two gaps.
    found = values_of(SyntheticRun(requests=steady_requests(tokens=12, chunk=4, itl_ms=30)), tmp_path)
    assert found["tokens/output"] == 240 * 12
    assert found["latency/tpot_p50_ms"] == pytest.approx(60 / 11)
    assert found["latency/itl_p50_ms"] == 30.0


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (SloConfig(ttft_ms=50), 240),  # exactly at the bound is met
        (SloConfig(ttft_ms=49.999), 0),
        (SloConfig(tpot_ms=10), 240),
        (SloConfig(tpot_ms=9.9), 0),
        (SloConfig(e2e_ms=150), 240),
        (SloConfig(ttft_ms=50, tpot_ms=10, e2e_ms=149), 0),
    ],
)
def test_slo_bounds(tmp_path, slo, good):
    assert values_of(SyntheticRun(slo=slo), tmp_path)["requests/good"] == good


def test_without_an_slo_goodput_is_null(tmp_path):
    content = metrics_of(SyntheticRun(), tmp_path)
    for key in ("throughput/goodput_rps", "energy/gpu_j_per_good_request", "requests/good"):
        assert (content["metrics"][key], content["null_reasons"][key]) == (None, "no_slo")


# -- the GPU and the engine -----------------------------------------------------------------------


def step(t: float, running: int = 1, **other) -> dict:
    return {
        "logged_ns": at(t), "engine_ts_ns": None, "duration_ns": None, "prefill_tokens": None,
        "decode_tokens": None, "running": running, "waiting": 0, "kv_cache_usage": None,
    } | other  # fmt: skip


def test_engine_figures_of_the_window_only(tmp_path):
    steps = [
        step(35, running=99, kv_cache_usage=0.9),
        step(50, running=2, kv_cache_usage=0.25),
        step(60, running=4, waiting=3),
    ]
    found = values_of(SyntheticRun(steps=steps), tmp_path)
    assert found["engine/running_mean"] == 3.0
    assert (found["engine/running_max"], found["engine/waiting_max"]) == (4, 3)
    assert found["engine/kv_cache_usage_max"] == 0.25


def test_proposals_that_were_accepted(tmp_path):
    steps = [
        step(35, draft_tokens=99, accepted_tokens=99),
        step(50, draft_tokens=8, accepted_tokens=2),
        step(60, draft_tokens=4, accepted_tokens=1),
        step(70),
    ]
    found = values_of(SyntheticRun(steps=steps), tmp_path / "with")
    assert (found["engine/draft_tokens"], found["engine/draft_acceptance"]) == (12, 0.25)
    content = metrics_of(SyntheticRun(steps=[step(50)]), tmp_path / "without")
    for key in ("engine/draft_tokens", "engine/draft_acceptance"):
        assert (content["metrics"][key], content["null_reasons"][key]) == (None, "no_draft_tokens")


def test_preemptions_and_cached_tokens(tmp_path):
    rows = steady_requests(preemptions=1, cached_tokens=100)
    found = values_of(SyntheticRun(requests=rows), tmp_path)
    assert found["engine/preemptions"] == 240
    assert found["tokens/cached_input"] == 100 * 240
    rows[-1]["cached_tokens"] = None
    assert values_of(SyntheticRun(requests=rows), tmp_path)["tokens/cached_input"] is None


def test_slow_sources_hold_until_the_next_value(tmp_path):
    seen = [
        observation("temperature_gpu", 1, 30),
        observation("temperature_gpu", 30, 55),  # holds at the window's start
        observation("temperature_gpu", 80, 70),
        observation("temperature_gpu", 105, 90),  # after the window
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 1000),  # half the window each
        observation("clock_event_reasons", 1, 0x1),
        observation("clock_event_reasons", 85, 0x4 | 0x20),
        observation("clock_event_reasons", 91, 0x0),
    ]
    found = values_of(SyntheticRun(observations=seen), tmp_path)
    assert (found["gpu/temperature_min_c"], found["gpu/temperature_max_c"]) == (55, 70)
    assert found["gpu/clock_sm_mean_mhz"] == 1500.0
    assert found["gpu/clock_event_reasons"] == 0x25
    assert found["gpu/power_capped_share"] == found["gpu/thermal_slowdown_share"] == pytest.approx(0.1)


def test_errors_of_a_source_hold_nothing(tmp_path):
    seen = [
        observation("clock_sm", 1, 1000),
        observation("clock_sm", 50, 12345, nvml_return=999),
        observation("clock_sm", 90, 2000),
    ]
    assert values_of(SyntheticRun(observations=seen), tmp_path)["gpu/clock_sm_mean_mhz"] == 1500.0


# -- records that broke off -----------------------------------------------------------------------


def broken_run(**kwargs) -> SyntheticRun:
    phases = [PhaseSpan(p, at(a), at(b)) for p, (a, b) in BOUNDS_S.items() if b <= 40]
    phases.append(PhaseSpan(Phase.WINDOW, at(40), None))
    rows = [r for r in steady_requests() if r["last_token_ns"] <= at(70)]
    return SyntheticRun(
        phases=phases, requests=rows, validity=Validity(False, ["engine_died"], ["the engine died"]), **kwargs
    )


def test_a_run_that_broke_off_is_computed_as_far_as_it_goes(tmp_path):
    content = metrics_of(broken_run(last_read_s=70.5), tmp_path)
    found = content["metrics"]
    assert content["window"]["complete"] is False
    assert content["validity"]["valid"] is False
    assert content["validity"]["reasons"] == ["engine_died"]
    assert found["window/duration_s"] == pytest.approx(30.5, abs=0.2)
    assert found["power/gpu_mean_w"] == pytest.approx(300, rel=1e-6)
    assert found["power/idle_bare_w"] == pytest.approx(300, rel=1e-9)
    assert content["null_reasons"]["power/idle_loaded_after_w"] == "phase_missing"


def test_a_run_that_never_reached_its_window(tmp_path):
    phases = [PhaseSpan(Phase.BARE_IDLE, at(0), at(10)), PhaseSpan(Phase.ENGINE_START, at(10), None)]
    run = SyntheticRun(
        phases=phases,
        requests=[],
        last_read_s=12.0,
        validity=Validity(False, ["out_of_memory"], ["no memory"]),
    )
    content = metrics_of(run, tmp_path)
    assert content["window"] is None
    assert content["energy"] == {}
    assert content["metrics"]["power/idle_bare_w"] == pytest.approx(300, rel=1e-9)
    assert content["null_reasons"]["energy/gpu_j"] == "no_window"
    assert set(METRICS) <= set(content["metrics"])


def test_a_record_without_any_observation(tmp_path):
    run = SyntheticRun(requests=[])
    run.power_rows = list  # type: ignore[method-assign]
    content = metrics_of(run, tmp_path)
    assert content["metrics"]["energy/gpu_j"] is None
    assert content["null_reasons"]["energy/gpu_j_per_output_token"] == "no_power_data"
    assert content["metrics"]["requests/sent"] == 0


def test_a_run_without_a_gpu(tmp_path):
    run = SyntheticRun(gpus=0)
    content = metrics_of(run, tmp_path)
    assert content["null_reasons"]["energy/gpu_j"] == "no_power_data"
    assert content["metrics"]["latency/ttft_p50_ms"] == 50.0


# -- the file -------------------------------------------------------------------------------------


def test_write_is_idempotent_and_leaves_nothing_behind(tmp_path):
    SyntheticRun().write(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} - before == {"metrics.json"}
    content = json.loads(first)
    assert content["metrics_version"] == METRICS_VERSION
    assert content["evidence"] == "measured"


def test_evidence_is_carried(tmp_path):
    assert metrics_of(SyntheticRun(evidence=Evidence.EMULATED), tmp_path)["evidence"] == "emulated"


def test_load_takes_a_current_file_and_computes_an_outdated_one(tmp_path):
    SyntheticRun().write(tmp_path)
    record = Record.open(tmp_path)
    fresh = load_metrics(record)
    stored = json.loads(to_bytes(fresh)) | {"evidence": "as stored"}
    (tmp_path / "metrics.json").write_text(json.dumps(stored))
    assert load_metrics(record)["evidence"] == "as stored"
    (tmp_path / "metrics.json").write_text(json.dumps(stored | {"metrics_version": 0}))
    assert load_metrics(record) == fresh
    assert record.metrics["evidence"] == "as stored"  # and nothing was written


def test_numbers_are_finite(tmp_path):
    for value in values_of(SyntheticRun(), tmp_path).values():
        assert value is None or math.isfinite(value)


def test_needs_neither_native_code_nor_engines_nor_pandas(tmp_path):
    """The same bytes in a fresh interpreter in which those modules cannot be imported."""
    SyntheticRun().write(tmp_path)
    here = to_bytes(compute(Record.open(tmp_path)))
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlflow", "pandas", "vllm", "torch", "hydra", "pynvml") or name.endswith("._native"):
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
from wattcount.metrics import compute, to_bytes
from wattcount.record import Record
sys.stdout.buffer.write(to_bytes(compute(Record.open({str(tmp_path)!r}))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=PROJECT, timeout=60
    )
    assert done.stderr.decode() == ""
    assert done.stdout == here
