"""The difference of two clocks from pings through a network that is made up, so that the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from wattcount.gpu.remote.clock import DRIFTS, SHOWN_KNOTS, ClockOffset

S = 1_000_000_000
APART_NS = 1_000_000 * S + 123_456_789
"""Their clock less ours, at the beginning."""


class Network:
    """Two machines: `their_ns(t)` is what their clock shows when ours shows t; ways there and back take what `ways` says [ns]."""

    def __init__(
        self, drift: float, there_ns: float, back_ns: float, jitter_ns: float, seed: int = 1
    ) -> None:
        self.drift, self.there_ns, self.back_ns, self.jitter_ns = drift, there_ns, back_ns, jitter_ns
        self.rng = np.random.default_rng(seed)
        self.t_ns = 5_000 * S
        self.began_ns = self.t_ns

    def their_ns(self, t_ns: int) -> int:
        return t_ns + APART_NS + round(self.drift * (t_ns - self.began_ns))

    def ping(self, clock: ClockOffset) -> None:
        c0 = self.t_ns
        at = c0 + round(self.there_ns + self.rng.exponential(self.jitter_ns))
        s1 = self.their_ns(at)
        at += 20_000
        s2 = self.their_ns(at)
        self.t_ns = at + round(self.back_ns + self.rng.exponential(self.jitter_ns))
        clock.add(c0, s1, s2, self.t_ns)

    def run(self, clock: ClockOffset, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """(our times, what the translation makes of theirs) of events that came meanwhile, [ns]."""
        for _ in range(32):
            self.ping(clock)
        clock.commit_last()
        true_ns, made_ns = [], []
        for step in range(round(seconds * 10)):
            begin_ns = self.t_ns
            self.t_ns += S // 10
            self.ping(clock)
            if step % 3 == 2:
                events = np.linspace(begin_ns, self.t_ns, 20).astype(np.int64)
                theirs = np.array([self.their_ns(int(t)) for t in events], np.int64)
                clock.commit(self.their_ns(self.t_ns))
                true_ns.append(events)
                made_ns.append(clock.to_local(theirs))
        return np.concatenate(true_ns), np.concatenate(made_ns)


NETWORKS = {
    "one host": (0.0, 20e3, 20e3, 30e3),
    "a rack": (2e-5, 100e3, 100e3, 300e3),
    "another town": (-4e-5, 8e6, 8e6, 2e6),
    "one way is slow": (3e-5, 30e6, 100e3, 300e3),
    "the other way is slow": (-9e-5, 100e3, 30e6, 300e3),
    "a clock that is slewed": (5e-4, 100e3, 100e3, 300e3),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(5))
def test_the_bound_covers_what_the_translation_is_off(name: str, seed: int) -> None:
    clock, network = ClockOffset(), Network(*NETWORKS[name], seed)
    true_ns, made_ns = network.run(clock, 60)
    found = clock.to_json()
    off_ns = np.abs(made_ns - true_ns)
    assert off_ns.max() <= found["bound_ns"]
    # It is no more than half of a usual round trip, and how far the clocks may have moved apart between good pings.
    assert found["bound_ns"] <= found["round_trip_p50_ns"] / 2 + 2 * found["drift_bound"] * S
    assert not clock.contradicted
    assert found["drift_bound"] == next(most for most in DRIFTS if abs(network.drift) <= most)


def test_what_a_record_keeps() -> None:
    clock, network = ClockOffset(), Network(*NETWORKS["a rack"])
    network.run(clock, 60)
    found = clock.to_json()
    assert found["pings"] == 32 + 600
    assert 200_000 <= found["round_trip_min_ns"] <= found["round_trip_p50_ns"]
    assert found["drift"] == pytest.approx(2e-5, abs=1e-5)
    middle_ns = (
        network.their_ns((network.began_ns + network.t_ns) // 2) - (network.began_ns + network.t_ns) // 2
    )
    assert found["offset_ns"] == pytest.approx(middle_ns, abs=2 * found["bound_ns"])
    assert len(found["knots"]) == SHOWN_KNOTS
    times_ns, differences_ns, bounds_ns = np.array(found["knots"]).T
    assert (np.diff(times_ns) > 0).all()
    assert max(bounds_ns) <= found["bound_ns"]
    truth_ns = [network.their_ns(int(t)) - int(t) for t in times_ns]
    assert (np.abs(differences_ns - truth_ns) <= bounds_ns).all()


def test_one_ping_bounds_the_difference_by_half_the_round_trip() -> None:
    clock = ClockOffset()
    clock.add(1_000, 501_000, 502_000, 12_000)
    clock.commit_last()
    found = clock.to_json()
    # s2 - c3 = 490,000; s1 - c0 = 500,000
    assert (found["offset_ns"], found["bound_ns"]) == (495_000, 5_001)  # rounded up
    assert found["drift"] is None
    assert clock.to_local(np.array([502_000, 600_000])).tolist() == [7_000, 105_000]


def test_times_stay_in_their_order_when_a_much_better_ping_comes() -> None:
    """The first pings were off by 15 ms, the later ones by 50 us."""
    clock, network = ClockOffset(), Network(0.0, 30e6, 1e3, 1e3)
    network.run(clock, 1)
    network.there_ns = 50e3
    true_ns, made_ns = network.run(clock, 30)
    assert (np.diff(made_ns) >= 0).all()
    assert np.abs(made_ns - true_ns)[-1] < 1e6 < np.abs(made_ns - true_ns)[0]
    assert np.abs(made_ns - true_ns).max() <= clock.to_json()["bound_ns"]


def test_a_clock_that_was_moved_is_noticed_and_bounded() -> None:
    clock, network = ClockOffset(), Network(*NETWORKS["a rack"])
    network.run(clock, 5)
    assert not clock.contradicted
    network.began_ns -= 10**13  # with the drift: 200 ms
    true_ns, made_ns = network.run(clock, 5)
    assert clock.contradicted
    found = clock.to_json()
    assert found["drift_bound"] is None
    assert np.abs(made_ns - true_ns).max() <= found["bound_ns"]


def test_the_translation_of_what_was_seen_never_changes() -> None:
    clock, network = ClockOffset(), Network(*NETWORKS["another town"])
    network.run(clock, 3)
    at_ns = np.array([network.their_ns(network.began_ns + t) for t in range(0, 3 * S, S // 7)], np.int64)
    before = clock.to_local(at_ns).tolist()
    network.run(clock, 20)
    assert clock.to_local(at_ns).tolist() == before


@pytest.mark.parametrize(
    "stamps",
    [(10, 1_000, 1_001, 9), (10, 1_001, 1_000, 20), (10, 1_000, 2_000, 20)],
    ids=["an answer before the question", "sent before it came", "an answer that took longer than the ping"],
)
def test_stamps_that_cannot_be_are_refused(stamps: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="order of time"):
        ClockOffset().add(*stamps)
