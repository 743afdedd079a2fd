"""Metrics of records whose energy, tokens and latencies are known exactly."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_record import (
    BOUNDS_S,
    SyntheticRun,
    at,
    findings_of,
    metrics_of,
    observation,
    steady_requests,
    step,
    values_of,
)

from wattcount.config.schema import SloConfig
from wattcount.metrics import METRICS, NULL_REASONS, compute, to_bytes, write
from wattcount.metrics.registry import METRICS_VERSION
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase, PhaseSpan, Validity

PROJECT = Path(__file__).parents[2]


# -- what is known exactly -------------------------------------------------------------------------


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


# -- what counts in a window -----------------------------------------------------------------------


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


# -- records that broke off ------------------------------------------------------------------------


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


# -- the file --------------------------------------------------------------------------------------


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
from wattcount.records import Record
sys.stdout.buffer.write(to_bytes(compute(Record.open({str(tmp_path)!r}))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=PROJECT, timeout=60
    )
    assert done.stderr.decode() == ""
    assert done.stdout == here


def test_a_clean_run_has_none(tmp_path):
    processes = [observation("compute_processes", 1, 0), observation("compute_processes", 15, 1)]
    assert findings_of(SyntheticRun(observations=processes), tmp_path) == {}
