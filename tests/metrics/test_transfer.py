"""What a fitted attribution may be applied to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.metrics.attribution import attribute_record, read_inputs
from wattcount.metrics.least_squares import fit
from wattcount.metrics.phase_energy import Attribution
from wattcount.metrics.transfer import OTHER_CLOCKS, OUTSIDE_FIT, Prediction, Reach, extrapolate, predict
from wattcount.metrics.window import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase

H200 = Path(__file__).resolve().parents[2] / "data" / "h200" / "records"
SERVERS = {1: "a1d2", 4: "4720", 16: "267d", 32: "37f0", 64: "509c"}
"""Llama-3-8B's shape, 512 in, 128 out, by requests/s: the first characters of the point."""


def mixed(rows: int = 60) -> np.ndarray:
    """Intervals of 2 to 6 requests at once, contexts of 300 to 600 tokens, 0 to 100 prompt tokens a step."""
    rng = np.random.default_rng(0)
    steps = rng.uniform(20, 40, rows)
    tokens = steps * rng.uniform(2, 6, rows)
    return np.stack(
        (steps * rng.uniform(0, 100, rows), tokens, steps, tokens * rng.uniform(300, 600, rows)), axis=1
    )


def work(
    *, batch: float = 4.0, context: float = 450.0, prompt: float = 50.0, steps: float = 1000.0
) -> np.ndarray:
    return np.array([prompt * steps, batch * steps, steps, batch * steps * context])


REACH = Reach.of(mixed(), (1980.0,))


def test_work_like_that_of_the_fit_is_predicted() -> None:
    amounts = mixed()
    found = predict(fit(amounts, amounts @ (0.01, 0.02, 1.5, 1e-5), range(4)), REACH, work(), 1980.0)
    assert isinstance(found, Prediction)
    assert found.value_j == pytest.approx(float(work() @ (0.01, 0.02, 1.5, 1e-5)), rel=1e-6)
    assert found.u95_j >= 0


@pytest.mark.parametrize(
    ("done", "clock_mhz", "code"),
    [
        (work(batch=30.0), 1980.0, OUTSIDE_FIT),
        (work(batch=1.0), 1980.0, OUTSIDE_FIT),
        (work(context=5000.0), 1980.0, OUTSIDE_FIT),
        (work(prompt=500.0), 1980.0, OUTSIDE_FIT),
        (np.array([5000.0, 0.0, 0.0, 0.0]), 1980.0, OUTSIDE_FIT),
        (work(), 1500.0, OTHER_CLOCKS),
        (work(), None, OTHER_CLOCKS),
        (work(), 1950.0, None),
    ],
)
def test_other_loads_and_other_clocks_are_refused(
    done: np.ndarray, clock_mhz: float | None, code: str | None
) -> None:
    assert REACH.refuses(done, clock_mhz) == code


def test_a_fit_to_several_clocks_holds_at_none_of_them() -> None:
    for clocks in ((1980.0, 1500.0), (1980.0, None), ()):
        assert Reach.of(mixed(), clocks).refuses(work(), 1980.0) == OTHER_CLOCKS


def test_a_fit_without_decode_is_of_prefill_alone() -> None:
    prefill = np.array([[100.0, 0, 0, 0], [300.0, 0, 0, 0]])
    reach = Reach.of(prefill, (1980.0,))
    assert reach.refuses(np.array([700.0, 0, 0, 0]), 1980.0) is None
    assert reach.refuses(work(), 1980.0) == OUTSIDE_FIT


@settings(max_examples=60)
@given(st.floats(0.1, 50.0), st.floats(1.0, 20.0))
def test_what_is_refused_stays_refused_further_out(batch: float, further: float) -> None:
    if REACH.refuses(work(batch=batch), 1980.0) is not None:
        away = batch * further if batch > 4 else batch / further
        assert REACH.refuses(work(batch=away), 1980.0) is not None


@pytest.fixture(scope="module")
def servers() -> dict[int, tuple[Attribution, np.ndarray, float, float | None]]:
    """By requests/s: attribution, work of the window, its energy above idle, its clock."""
    found = {}
    for rate, point in SERVERS.items():
        (path,) = H200.glob(f"{point}*/r*")
        record = Record.open(path)
        window = phase_window(record.info.phases, Phase.WINDOW)
        assert window is not None
        inputs, attribution = read_inputs(record, window), attribute_record(record, window)
        assert not isinstance(inputs, str)
        assert isinstance(attribution, Attribution)
        edges_ns = np.array([window.start_ns, window.end_ns])
        above_j = float(np.diff(inputs.energy_at(edges_ns))[0]) - inputs.idle_w * window.duration_s
        found[rate] = (attribution, inputs.work.terms(edges_ns)[0], above_j, inputs.clocks.mean_mhz)
    return found


@pytest.mark.parametrize("lighter", [1, 4, 16])
@pytest.mark.parametrize("limited", [32, 64])
def test_a_server_at_its_power_limit_does_not_price_lighter_ones(
    servers: dict[int, tuple[Attribution, np.ndarray, float, float | None]], limited: int, lighter: int
) -> None:
    attribution = servers[limited][0]
    _, done, above_j, clock_mhz = servers[lighter]
    # It would be wrong by far more than it says ...
    wrong = extrapolate(attribution.fit, done)
    assert abs(wrong.value_j / above_j - 1) > 0.1
    # ... so that nothing is said.
    assert isinstance(predict(attribution.fit, attribution.reach, done, clock_mhz), str)


def test_what_is_not_refused_is_right(
    servers: dict[int, tuple[Attribution, np.ndarray, float, float | None]],
) -> None:
    told = 0
    for attribution, *_ in servers.values():
        for _, done, above_j, clock_mhz in servers.values():
            found = predict(attribution.fit, attribution.reach, done, clock_mhz)
            if isinstance(found, Prediction):
                told += 1
                assert found.value_j == pytest.approx(above_j, rel=0.02)
    assert told >= len(servers)
