"""Emulated machines as Python makes them, and the sensors in virtual time."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.clock import now_ns
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.schema import GpuConfig
from wattcount.emulation import machine as emulation
from wattcount.emulation import machine as emulation_machine
from wattcount.emulation.machine import (
    CONFIG_ENV,
    LIBRARY_ENV,
    ActivityPower,
    EmulatedActivity,
    EmulatedGpu,
    EmulatedMachine,
    LiveTruth,
    simulate,
)
from wattcount.engines.base import EngineStep
from wattcount.errors import NotStartedError
from wattcount.prediction.steps import PredictionSetting, StepBatch, step_model

S = 1_000_000_000
PROFILES = [profile["name"] for profile in emulation.profiles()]


def ns(*seconds: float) -> np.ndarray:
    return np.round(np.array(seconds) * 1e9).astype(np.int64)


# ---- machines ------------------------------------------------------------------------------------


def test_a_machine_points_the_environment_at_itself_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONFIG_ENV, "before")
    monkeypatch.delenv(LIBRARY_ENV, raising=False)
    machine = EmulatedMachine([EmulatedGpu("a100", truth="curve.csv", uuid="GPU-7")], tmp_path, epoch_ns=5)
    assert os.environ[CONFIG_ENV] == "before"
    with machine:
        assert os.environ[CONFIG_ENV] == str(tmp_path / "machine.json")
        assert Path(os.environ[LIBRARY_ENV]) == emulation.library_path()
        machine.open()  # twice does no harm
    assert os.environ[CONFIG_ENV] == "before"
    assert LIBRARY_ENV not in os.environ
    machine.close()
    written = json.loads((tmp_path / "machine.json").read_text())
    assert written == {
        "gpus": [{"uuid": "GPU-7", "profile": "a100", "truth": "curve.csv"}], "faults": [], "epoch_ns": 5,
    }  # fmt: skip


def test_uuids_are_the_same_every_time_and_differ_between_gpus(tmp_path: Path) -> None:
    first = EmulatedMachine([EmulatedGpu("h200"), EmulatedGpu("h200"), EmulatedGpu("l4")], tmp_path / "1")
    second = EmulatedMachine([EmulatedGpu("h200"), EmulatedGpu("h200"), EmulatedGpu("l4")], tmp_path / "2")
    assert list(first.live) == list(second.live)
    assert len(first.live) == 3


def test_a_config_becomes_a_machine(tmp_path: Path) -> None:
    gpu = GpuConfig(name="a100_pcie", emulator_profile="a100", memory_gib=40, tdp_w=250, count=2)
    machine = EmulatedMachine.for_config(gpu, tmp_path / "m")
    written = json.loads(machine.config_path.read_text())["gpus"]
    assert [entry["profile"] for entry in written] == ["a100", "a100"]
    assert {entry["power_limit_w"] for entry in written} == {250}
    machine.close()
    assert not (tmp_path / "m").exists()


def test_a_gpu_without_a_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"k80.*h200"):
        EmulatedMachine.for_config(GpuConfig(name="k80"), tmp_path)


def test_every_gpu_of_the_configuration_has_a_profile() -> None:
    groups = Path(__file__).resolve().parents[2] / "conf" / "gpu"
    names = {path.stem for path in groups.glob("*.yaml")} - {"auto"}
    for name in names:
        text = (groups / f"{name}.yaml").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("emulator_profile:")]
        assert line.split(":")[1].strip() in PROFILES, name


# ---- profiles ------------------------------------------------------------------------------------


def test_every_profile_says_how_it_is_known() -> None:
    assert len(set(PROFILES)) == len(PROFILES)
    for profile in emulation.profiles():
        assert profile["evidence"] in ("measured", "published", "guessed"), profile["name"]
        assert len(profile["source"]) > 10
        assert 0 < profile["idle_w"] < profile["tdp_w"]
        if profile["evidence"] == "guessed":
            assert "not verified" in profile["source"]
    assert [p["name"] for p in emulation.profiles() if p["evidence"] == "measured"] == ["h200"]


@pytest.mark.parametrize("name", PROFILES)
def test_steady_power_looks_the_same_from_every_source(name: str) -> None:
    profile = next(p for p in emulation.profiles() if p["name"] == name)
    power_w = profile["idle_w"] + 0.5 * (profile["tdp_w"] - profile["idle_w"])
    sensors = simulate(name, ns(0), np.array([power_w]))
    polls = ns(*np.arange(20, 30, 0.1))
    for read, source in (
        (sensors.average_w, "average"),
        (sensors.instant_w, "instant"),
        (sensors.usage_w, "usage"),
    ):
        if profile[source] is not None:
            np.testing.assert_allclose(read(polls), power_w, atol=2.0)
    if profile["counter"]:
        first, last = sensors.counter_j(ns(20, 1020))
        assert last - first == pytest.approx(1000 * power_w, rel=3e-4)
    if profile["ring"]:
        _, stamps, watts = sensors.samples(20 * S, 30 * S)
        assert len(stamps) == pytest.approx(10e3 / profile["ring_period_ms"], abs=1)
        np.testing.assert_allclose(watts, power_w, atol=2.0)


# ---- virtual time --------------------------------------------------------------------------------


def square(period_s: float, duty: float, length_s: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    starts = np.arange(0, length_s, period_s)
    t_s = np.sort(np.concatenate([starts, starts + duty * period_s]))
    return ns(*t_s), np.where(np.arange(len(t_s)) % 2 == 0, 600.0, 100.0)


def test_the_same_seed_is_the_same_board() -> None:
    polls = ns(*np.arange(5, 8, 0.01))
    curve = square(0.3, 0.5)
    one, same, other = (simulate("h200", *curve, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.instant_w(polls), same.instant_w(polls))
    np.testing.assert_array_equal(one.counter_j(polls), same.counter_j(polls))
    for mine, theirs in zip(one.samples(5 * S, 8 * S), same.samples(5 * S, 8 * S), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (one.instant_w(polls) != other.instant_w(polls)).any()


def test_asking_backwards_changes_nothing() -> None:
    polls = ns(*np.arange(5, 9, 0.007))
    forward, backward = (simulate("h200", *square(0.13, 0.4), seed=2) for _ in range(2))
    for read in ("counter_j", "average_w", "instant_w"):
        there = getattr(forward, read)(polls)
        back = getattr(backward, read)(np.ascontiguousarray(polls[::-1]))
        np.testing.assert_array_equal(there, back[::-1])


def test_the_counter_keeps_the_energy_whatever_the_load() -> None:
    for period_s in (0.02, 0.1, 0.1017, 0.13, 1.0):
        sensors = simulate("h200", *square(period_s, 0.4, 140))
        at = ns(10, 130)
        counted, true = np.diff(sensors.counter_j(at)), np.diff(sensors.true_energy_j(at))
        assert counted[0] == pytest.approx(true[0], rel=2e-3), period_s


def test_the_h200_aliases_as_one_does() -> None:
    """A load on the 20 ms grid of its sensor is seen wrong by every power reading, and right by the counter."""
    errors = []
    for phase in np.arange(0, 1, 0.1):
        sensors = simulate("h200", *square(0.02, 0.425), ring_phase=float(phase))
        mean_w = 0.425 * 600 + 0.575 * 100
        assert np.diff(sensors.counter_j(ns(5, 35)))[0] / 30 == pytest.approx(mean_w, rel=0.01)
        errors.append(float(np.mean(sensors.average_w(ns(*np.arange(5, 35, 0.1))))) / mean_w - 1)
    assert max(errors) > 0.1
    assert min(errors) < -0.1


def test_lost_slots_come_with_steps_only() -> None:
    steady = simulate("h200", ns(0), np.array([600.0])).samples(10 * S, 110 * S)[0]
    assert len(steady) == 5000
    lost = []
    for seed in range(1, 6):
        numbers = simulate("h200", *square(0.2, 0.5, 60), seed=seed).samples(10 * S, 50 * S)[0]
        lost.append(1 - len(numbers) / (numbers[-1] - numbers[0] + 1))
    assert 0.01 < np.mean(lost) < 0.07


def test_the_ring_keeps_what_its_depth_allows() -> None:
    sensors = simulate("h200", ns(0), np.array([200.0]))
    stamps, watts = sensors.ring(30 * S, 0)
    assert len(stamps) == len(watts) == 120
    assert stamps[-1] <= 30 * S
    newer, _ = sensors.ring(31 * S, int(stamps[-1]))
    assert len(newer) == pytest.approx(50, abs=1)
    assert newer[0] > stamps[-1]


def test_curves_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="no sensor profile"):
        simulate("h300", ns(0), np.array([1.0]))
    for t_ns, power_w in ((ns(0, 1), [1.0]), (ns(1, 0), [1.0, 2.0]), (ns(), [])):
        with pytest.raises(ValueError, match="t_ns"):
            simulate("h200", t_ns, np.array(power_w))


def test_gain_and_offset_reach_every_source() -> None:
    sensors = simulate("h200", ns(0), np.array([200.0]), gain=1.05, offset_w=3.0)
    assert np.mean(sensors.average_w(ns(*np.arange(10, 20, 0.1)))) == pytest.approx(213, abs=0.5)
    assert np.diff(sensors.counter_j(ns(10, 110)))[0] / 100 == pytest.approx(213, rel=2e-3)


def test_polling_grows_with_its_length_alone() -> None:
    rng = np.random.default_rng(1)
    t_ns = np.cumsum(rng.integers(1_000_000, 20_000_000, 8000)).astype(np.int64)
    sensors = simulate("h200", t_ns, rng.uniform(80, 700, len(t_ns)))

    def polling(milliseconds: int) -> Callable[[], object]:
        polls = np.arange(S, S + milliseconds * 1_000_000, 1_000_000, dtype=np.int64)

        def poll() -> None:
            (
                sensors.counter_j(polls),
                sensors.average_w(polls),
                sensors.instant_w(polls),
                sensors.usage_w(polls),
            )
            sensors.samples(int(polls[0]), int(polls[-1]))

        return poll

    assert growth(polling, 7_000, 8) < 30


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=40), st.integers(1, 2**31))
def test_readings_stay_within_what_was_true(levels: list[float], seed: int) -> None:
    t_ns = np.arange(len(levels), dtype=np.int64) * 50_000_000
    sensors = simulate("h200", t_ns, np.array(levels), seed=seed)
    polls = np.arange(0, int(t_ns[-1]) + S, 10_000_000, dtype=np.int64)
    counted = sensors.counter_j(polls)
    assert (np.diff(counted) >= 0).all()
    for watts in (sensors.average_w(polls), sensors.instant_w(polls)):
        assert watts.min() >= min(levels) - 3
        assert watts.max() <= max(levels) + 3


# ---- live truth, and what drives it --------------------------------------------------------------


def test_a_live_truth_remembers_what_was_in_effect(tmp_path: Path) -> None:
    truth = LiveTruth(tmp_path / "truth", capacity=4)
    for i in range(10):
        truth.append(i * S, i * 1000)
    truth.append(5 * S, 77_000)  # older than the last point: moved up to it
    assert truth.clamped == 1
    t_ns, power_mw = truth.history()
    assert t_ns.tolist() == [i * S for i in range(10)] + [9 * S]
    assert power_mw.tolist() == [i * 1000 for i in range(10)] + [77_000]
    truth.save(tmp_path / "kept.csv")
    lines = (tmp_path / "kept.csv").read_text().splitlines()
    assert lines[0] == "t_ns,power_mw"
    assert lines[-1] == f"{9 * S},77000"
    assert len(lines) == 12


def test_a_live_truth_refuses_nonsense(tmp_path: Path) -> None:
    truth = LiveTruth(tmp_path / "truth")
    with pytest.raises(ValueError, match="negative"):
        truth.append(0, -1)
    with pytest.raises(RuntimeError, match="at least 2"):
        LiveTruth(tmp_path / "small", capacity=1)
    (tmp_path / "text").write_text("x" * 200)
    with pytest.raises(RuntimeError, match="no live truth"):
        LiveTruth(tmp_path / "text", attach=True)


def test_attaching_goes_on_and_leaves_fixed_curves_alone(tmp_path: Path) -> None:
    machine = EmulatedMachine([EmulatedGpu("h200"), EmulatedGpu("l4", truth="curve.csv")], tmp_path)
    (uuid,) = machine.live
    machine.live[uuid].append(time.monotonic_ns(), 123_000)
    attached = LiveTruth.attach(machine.config_path)
    assert list(attached) == [uuid]
    assert attached[uuid].history()[1][-1] == 123_000


def step(running: int, *, prefill: int | None = 0, decode: int | None = 0, waiting: int = 0) -> EngineStep:
    return EngineStep(now_ns(), None, 1_000_000, prefill, decode, running, waiting, 0.1)


def test_activity_power_rises_with_work_and_stays_on_the_board() -> None:
    gpu = GpuConfig(name="a100", tdp_w=400, idle_w=55)
    model = ActivityPower(gpu)
    assert model.idle_bare_w == 55
    assert model.idle_bare_w < model.idle_loaded_w < 200
    decode = [model.step_power_w(step(tokens, decode=tokens)) for tokens in (1, 8, 64, 512)]
    prefill = [model.step_power_w(step(1, prefill=tokens, decode=1)) for tokens in (1, 16, 256)]
    # Beyond the captured graphs the host launches each kernel, and the GPU may wait for it.
    most = model.step_power_w(step(1, prefill=4096, decode=1))
    for powers in (decode, prefill):
        assert powers == sorted(powers)
        assert model.idle_loaded_w < powers[0]
        assert powers[-1] <= 400
    assert prefill[0] < most <= 400
    assert model.step_power_w(step(0)) == model.idle_loaded_w
    assert (
        model.step_power_w(step(32, prefill=None, decode=None)) > model.idle_loaded_w
    )  # an engine that tells little


def test_activity_power_is_the_prediction_of_the_model() -> None:
    gpu, known = gpu_catalogue()["h100"], model_catalogue()
    for name in ("llama3_8b", "qwen3_30b_a3b"):
        model, predicted = ActivityPower(gpu, known[name]), step_model(PredictionSetting(known[name], gpu))
        assert model.idle_loaded_w == predicted.idle_w
        batch = StepBatch(0, 0, 32, round(32 * emulation_machine.CONTEXT_TOKENS))
        assert model.step_power_w(step(32, decode=32)) == pytest.approx(predicted.step_power_w(batch))
    # What would leave the GPU idle shows nothing, so another stands in.
    stand_in = ActivityPower(gpu, known[emulation_machine.STAND_IN])
    for model in (ActivityPower(gpu), ActivityPower(gpu, known["tiny"])):
        assert model.step_power_w(step(8, decode=8)) == stand_in.step_power_w(step(8, decode=8))


def test_activity_power_without_facts_is_that_of_the_default() -> None:
    model = ActivityPower(GpuConfig(name="auto"))
    assert 50 < model.idle_bare_w < 150
    assert model.step_power_w(step(256, prefill=8192, decode=256)) < 700


def test_the_documented_profiles_are_those_there_are() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "emulator.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    documented = {row[0].strip("| "): row[1] for row in rows}
    for profile in emulation.profiles():
        assert documented[profile["name"]] == profile["evidence"]


GPU = GpuConfig(name="h200", tdp_w=700.0, idle_w=80.0)


@pytest.fixture
def following(emulated: Any) -> EmulatedActivity:
    emulated()
    made = EmulatedActivity.attach(GPU)
    assert made is not None
    return made


def powers(of: EmulatedActivity, tmp_path: Path) -> list[float]:
    of.save(tmp_path / "truth.csv")
    lines = (tmp_path / "truth.csv").read_text().splitlines()
    assert lines[0] == "t_ns,power_mw"
    times = [int(line.split(",")[0]) for line in lines[1:]]
    assert times == sorted(times)
    return [int(line.split(",")[1]) / 1e3 for line in lines[1:]]


def test_power_rises_with_the_work_and_falls_when_it_is_done(
    following: EmulatedActivity, tmp_path: Path
) -> None:
    following.engine_up()
    following.on_step(step(1, decode=1))
    following.on_step(step(64, decode=64))
    following.on_step(step(64, prefill=4096, decode=64))
    following.on_step(step(0, decode=1))  # the last token of the last request
    *_, bare, loaded, one, many, prefill, after = powers(following, tmp_path)
    assert bare == 80.0
    assert bare < loaded < one < many < prefill < 700.0
    assert after == loaded


def test_waiting_requests_keep_it_busy(following: EmulatedActivity, tmp_path: Path) -> None:
    following.engine_up()
    following.on_step(step(0, decode=1, waiting=3))
    assert powers(following, tmp_path)[-1] > powers(following, tmp_path)[-2]


def test_an_engine_that_takes_no_step_idles(
    following: EmulatedActivity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following.engine_up()
    (*_, loaded) = powers(following, tmp_path)
    following.on_step(step(8, decode=8))
    following.check_stall()
    busy = powers(following, tmp_path)
    monkeypatch.setattr(emulation_machine, "STALL_NS", -1)
    following.check_stall()
    following.check_stall()
    assert powers(following, tmp_path) == [*busy, loaded]


def test_gpus_with_curves_of_their_own_are_left_alone(tmp_path: Path) -> None:
    from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

    (tmp_path / "curve.csv").write_text("t_s,power_w\n0,100\n")
    with EmulatedMachine([EmulatedGpu("h200", truth=str(tmp_path / "curve.csv"))], tmp_path / "machine"):
        assert EmulatedActivity.attach(GPU) is None


def test_runs_on_two_gpus_of_one_machine_leave_each_other_alone(tmp_path: Path) -> None:
    from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

    gpus = [EmulatedGpu("h200", uuid="GPU-a"), EmulatedGpu("h200", uuid="GPU-b")]
    with EmulatedMachine(gpus, tmp_path / "machine"):
        made = [EmulatedActivity.attach(dataclasses.replace(GPU, devices=[gpu.uuid])) for gpu in gpus]
        for following in made:
            assert following is not None
            following.engine_up()
            following.on_step(step(64, decode=64))


def test_without_an_emulated_machine_there_is_nothing_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_EMULATOR", raising=False)
    assert EmulatedActivity.attach(GPU) is None


def test_a_second_writer_goes_on_where_the_first_one_was(emulated: Any, tmp_path: Path) -> None:
    """Two runs on one emulated machine: what read the first one's curve reads the second one's too."""
    from wattcount.gpu.nvml import attach_session

    emulated()
    first = EmulatedActivity.attach(GPU)
    assert first is not None
    first.engine_up()
    with attach_session() as session:
        assert session.gpus()
        second = EmulatedActivity.attach(GPU)
        assert second is not None
        second.on_step(step(64, decode=64))
        assert powers(second, tmp_path)[-1] > powers(second, tmp_path)[-2] == 80.0
        from wattcount.gpu import PowerSampler

        with PowerSampler(session=session) as sampler:
            assert (sampler.latest_power_w() or 0) > 0
