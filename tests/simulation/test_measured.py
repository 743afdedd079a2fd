"""The step model finds again what made its runs; the check of rates left out; intervals and bases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wattcount.config.composition import compose
from wattcount.config.schema import SloConfig
from wattcount.prediction.setting import Abstained
from wattcount.prediction.steps import StepBatch
from wattcount.simulation import check, predicted
from wattcount.simulation.figures import figures, latencies
from wattcount.simulation.measured import (
    CONTEXT,
    DECODE_STEP,
    PREFILL_STEP,
    PROMPT_TOKEN,
    SEQUENCE,
    TERMS,
    MeasuredSteps,
    SeenRun,
    UnusableError,
    fit,
    planned_load,
    play_load,
    terms_of,
)
from wattcount.simulation.scheduler import Limits, play

TRUE_S = {DECODE_STEP: 5e-3, PREFILL_STEP: 6e-3, PROMPT_TOKEN: 2e-5, SEQUENCE: 1e-5, CONTEXT: 5e-8}
TRUE_J = {DECODE_STEP: 1.5, PREFILL_STEP: 5.0, PROMPT_TOKEN: 8e-3, SEQUENCE: 0.02, CONTEXT: 1e-5}
ROOT = Path(__file__).resolve().parents[2]


def of(values: dict[int, float]) -> tuple[float, ...]:
    return tuple(values.get(term, 0.0) for term in range(TERMS))


TRUTH = MeasuredSteps(of(TRUE_S), of(TRUE_J), 120.0, 10**6, 10**6, (1000, 8192))


def synthetic(rate: float, model: MeasuredSteps = TRUTH) -> SeenRun:
    """A run whose steps, energy and latencies are exactly those of `model`."""
    config = compose(
        ["model=llama3_1_8b", "gpu=h100", "scenario=server", f"scenario.rate_rps={rate}", "scenario.window_s=30", "scenario.warmup_s=5"]
    )  # fmt: skip
    load, window_s = planned_load(config, 0, 0)
    limits = Limits()
    seen: list[tuple[int, int, int]] = []

    class Watched:
        idle_w = model.idle_w
        kv_capacity_tokens = 10**6

        def step_time_s(self, batch: StepBatch) -> float:
            seen.append((batch.prefill_tokens, batch.decode_sequences, batch.decode_context_tokens))
            return model.step_time_s(batch)

        def step_power_w(self, batch: StepBatch) -> float:
            return model.step_power_w(batch)

    played = play(load, limits, Watched())
    rows = np.array(seen)
    terms = terms_of(rows[:, 0], rows[:, 1], rows[:, 2].astype(float), 1.0)
    steps = played.steps
    above = (steps.power_w - model.idle_w) * (steps.end_s - steps.start_s)
    grouped = np.arange(len(steps)) // 25
    done = np.stack([np.bincount(grouped, column) for column in terms.T], axis=1)
    return SeenRun(
        path="",
        key="one",
        config=config,
        seed=0,
        repeat=0,
        graph_tokens=10**6,
        missed=1.0,
        least_s=(0.0,) * TERMS,
        limits=limits,
        kv_tokens=10**6,
        window_s=window_s,
        steps_s=steps.end_s - steps.start_s,
        terms=terms,
        clock=1.0,
        paused=np.zeros(len(steps), dtype=bool),
        launches_s=np.zeros(0),
        above_j=np.bincount(grouped, above),
        done=done,
        idle_w=model.idle_w,
        energy_j=played.energy_j(*window_s),
        seen=latencies(played, window_s),
        gpu="NVIDIA H100 80GB HBM3",
    )


@pytest.fixture(scope="module")
def runs() -> list[SeenRun]:
    return [synthetic(rate) for rate in (2.0, 8.0, 20.0)]


def test_the_fit_finds_the_steps_that_made_the_runs(runs: list[SeenRun]) -> None:
    found = fit(runs)
    batch = StepBatch(512, 512 * 513 // 2, 10, 5000)
    assert found.step_time_s(batch) == pytest.approx(TRUTH.step_time_s(batch), rel=0.01)
    assert found.step_power_w(batch) == pytest.approx(TRUTH.step_power_w(batch), rel=0.01)
    assert found.front_s == pytest.approx(0.0, abs=1e-3)


def test_a_rate_that_was_left_out_comes_out_right(runs: list[SeenRun]) -> None:
    found = {one.rate_rps: one for one in check.left_out(runs)}
    assert [one.within for one in found.values()] == [False, True, False]
    middle = found[8.0].errors
    for gate, limit in check.GATES.items():
        error = middle[gate]
        assert error is not None
        assert abs(error) < limit / 2


def test_a_model_of_another_truth_does_not_pass(runs: list[SeenRun]) -> None:
    slow = replace(TRUTH, time_s=tuple(1.3 * value for value in TRUTH.time_s))
    errors = check.errors(runs[1], slow)
    assert errors["tpot_p50"] is not None
    assert errors["tpot_p50"] > check.GATES["tpot_p50"]


def test_groups_need_three_rates(runs: list[SeenRun]) -> None:
    assert check.groups(runs[:2]) == []
    assert check.groups(runs) == [runs]


def test_times_are_not_below_the_data_sheet(runs: list[SeenRun]) -> None:
    least = [0.0] * TERMS
    least[DECODE_STEP] = 9e-3
    found = fit([replace(run, least_s=tuple(least)) for run in runs])
    assert found.time_s[DECODE_STEP] >= 9e-3 - 1e-9


def test_too_few_steps_are_no_model(runs: list[SeenRun]) -> None:
    with pytest.raises(UnusableError, match="steps"):
        fit([replace(runs[0], steps_s=runs[0].steps_s[:30], terms=runs[0].terms[:30])])
    with pytest.raises(UnusableError):
        fit([])


def test_clocks_fall_with_power_and_beyond_what_was_seen_as_far_as_keeps_it() -> None:
    model = replace(TRUTH, clocks=((500.0, 1.0), (700.0, 0.8)))
    assert model.at_power(400.0).clock == 1.0
    assert model.at_power(600.0).clock == pytest.approx(0.9)
    assert model.at_power(990.0).clock == pytest.approx(0.8 * (700 - 120) / (990 - 120))
    batch = StepBatch(1000, 0, 0, 0)
    slower = model.at_power(700.0).step_time_s(batch) - model.step_time_s(batch)
    assert slower == pytest.approx(1000 * TRUE_S[PROMPT_TOKEN] * (1 / 0.8 - 1))


def test_launches_lie_between_those_of_the_rates_around() -> None:
    model = replace(
        TRUTH, launches=((1.0, (0.01, 0.02)), (4.0, (0.03, 0.04))), tail_s=0.001, graph_tokens=512
    )
    assert model.launches_at(2.0).tolist() == pytest.approx([0.02, 0.03])
    assert model.launches_at(9.0).tolist() == pytest.approx([0.03, 0.04])
    launching = model.launching(2.0, seed=1)
    assert launching is not None
    assert launching(StepBatch(512, 0, 0, 0)) == (0.0, 0.0)
    launched, earliest = launching(StepBatch(512, 0, 1, 0))
    assert launched in (pytest.approx(0.02), pytest.approx(0.03))
    assert earliest == pytest.approx(launched + 0.001)


def test_the_basis_is_the_runs_of_the_setting_or_the_physics(runs: list[SeenRun]) -> None:
    config = runs[0].config
    basis = predicted.basis_of(config, runs)
    assert basis.rates == (2.0, 8.0, 20.0)
    assert basis.kind(5.0) == predicted.FITTED_WITHIN
    assert basis.kind(50.0) == predicted.FITTED_BEYOND
    other = compose(["model=llama3_1_8b", "gpu=a100", "scenario=server"])
    physics = predicted.basis_of(other, runs)
    assert physics.rates == ()
    assert physics.kind(5.0) == predicted.PHYSICS


def test_what_does_not_fit_abstains() -> None:
    with pytest.raises(Abstained):
        predicted.basis_of(compose(["model=qwen3_32b", "gpu=t4", "scenario=server"]), [])
    with pytest.raises(Abstained, match="replicas"):
        predicted.basis_of(
            compose(["model=llama3_1_8b", "gpu=h100", "gpu.count=2", "scenario=server", "engine.data_parallel_size=2"]), []
        )  # fmt: skip


def test_a_prediction_has_its_interval_its_basis_and_says_what_is_too_much(runs: list[SeenRun]) -> None:
    basis = predicted.basis_of(runs[0].config, runs)
    slo = SloConfig(ttft_ms=500.0, tpot_ms=50.0)
    light = predicted.simulate(predicted.at_rate(runs[0].config, 4.0), basis, slo)
    low, high = light.interval("energy/gpu_j_per_output_token") or (0.0, 0.0)
    assert low < (light.values["energy/gpu_j_per_output_token"] or 0.0) < high
    assert light.interval("requests/sent") is None
    assert light.overloaded is None
    assert light.attained == 1.0
    assert light.to_json()["evidence"] == "predicted"
    heavy = predicted.simulate(predicted.at_rate(runs[0].config, 400.0), basis, slo)
    assert heavy.overloaded is not None
    assert heavy.attained is not None
    assert heavy.attained < 0.5


def test_figures_are_those_of_the_schedule() -> None:
    run = synthetic(4.0)
    played = play_load(run.load, run.window_s, run.limits, TRUTH, 0)
    made = figures(played, run.window_s)
    assert made["energy/gpu_j"] == pytest.approx(run.energy_j)
    assert made["power/gpu_mean_w"] == pytest.approx(run.energy_j / 30.0)
    tokens = made["tokens/output"]
    assert tokens is not None
    assert made["throughput/output_tokens_per_s"] == pytest.approx(tokens / 30.0)
    assert made["requests/sent"] == made["requests/completed"] == len(run.seen.e2e_s)


def test_the_intervals_are_those_that_the_benchmark_found() -> None:
    found = json.loads((ROOT / "data" / "study" / "simulation.json").read_text())["intervals"]
    for name, kind in (
        ("within", predicted.FITTED_WITHIN),
        ("beyond", predicted.FITTED_BEYOND),
        ("physics", predicted.PHYSICS),
    ):
        for figure, error in predicted.ERRORS[kind].items():
            # Rounded up, and not far.
            assert found[name][figure] <= error <= 1.1 * found[name][figure]
