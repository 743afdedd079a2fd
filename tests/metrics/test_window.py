import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from synthetic_record import at

from wattcount.metrics.observations import MISSING, ends_in, starts_in
from wattcount.metrics.window import Window, phase_window
from wattcount.records.schema import Phase, PhaseSpan


def test_a_phase_that_ended_is_whole():
    spans = [PhaseSpan(Phase.WARMUP, at(0), at(1)), PhaseSpan(Phase.WINDOW, at(1), at(3))]
    assert phase_window(spans, Phase.WINDOW) == Window(at(1), at(3), True)
    assert phase_window(spans, Phase.WINDOW).duration_s == 2.0


def test_a_phase_that_broke_off_is_cut_where_observation_ended():
    spans = [PhaseSpan(Phase.WINDOW, at(1), None)]
    assert phase_window(spans, Phase.WINDOW, at(2)) == Window(at(1), at(2), False)
    assert phase_window(spans, Phase.WINDOW, at(0.5)) is None
    assert phase_window(spans, Phase.WINDOW, None) is None


def test_a_phase_that_never_came_is_none():
    assert phase_window([PhaseSpan(Phase.BARE_IDLE, at(0), at(1))], Phase.WINDOW) is None


@given(
    st.lists(st.integers(0, 1000), max_size=50),
    st.integers(1, 999),
)
def test_adjacent_windows_share_nothing_and_lose_nothing(stamps, cut):
    t_ns = np.array([*stamps, MISSING], dtype=np.int64)
    whole, left, right = Window(0, 1000), Window(0, cut), Window(cut, 1000)
    for inside in (starts_in, ends_in):
        both = inside(t_ns, left).astype(int) + inside(t_ns, right).astype(int)
        assert (both == inside(t_ns, whole).astype(int)).all()
        assert not inside(t_ns, whole)[-1]
