"""Variances between boards, starts and repeats, and differences of settings: against analyses of variance that are known in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from wattcount.statistics import t_975
from wattcount.study import mixed
from wattcount.study.mixed import BOARD, REST, START, Run, contrast, variances_of

Board = tuple[int, int] | int


def nested(
    boards: int, starts: int, repeats: int, sds: tuple[float, float, float], seed: int, shared: bool = True
) -> list[Run]:
    """Two settings 0 and 1 on boards; `shared`: on the same ones. `sds` of boards, starts, repeats."""
    rng = np.random.default_rng(seed)
    effects: dict[Board, float] = {}
    runs = []
    for setting, board, start in itertools.product((0, 1), range(boards), range(starts)):
        name: Board = board if shared else (setting, board)
        effect = effects.setdefault(name, float(rng.normal(0, sds[0])))
        of_start = rng.normal(0, sds[1])
        runs += [
            Run(effect + of_start + rng.normal(0, sds[2]), setting, name, (setting, start))
            for _ in range(repeats)
        ]
    return runs


def sides(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    return [r for r in runs if r.setting == 0], [r for r in runs if r.setting == 1]


def values(runs: list[Run], shape: tuple[int, ...]) -> np.ndarray:
    return np.array([run.log_value for run in runs]).reshape(shape)


def test_a_balanced_design_gives_the_mean_squares_of_its_analysis_of_variance() -> None:
    boards, starts, repeats = 6, 3, 2
    runs = nested(boards, starts, repeats, (0.03, 0.02, 0.01), seed=1, shared=False)
    y = values(runs, (2, boards, starts, repeats))
    of_start, of_board, of_setting = y.mean(3), y.mean((2, 3)), y.mean((1, 2, 3))
    rest = ((y - of_start[..., None]) ** 2).sum() / (2 * boards * starts * (repeats - 1))
    start = repeats * ((of_start - of_board[..., None]) ** 2).sum() / (2 * boards * (starts - 1))
    board = starts * repeats * ((of_board - of_setting[:, None]) ** 2).sum() / (2 * (boards - 1))
    found = variances_of(runs)
    assert found.of[REST] == pytest.approx(rest, rel=1e-5)
    assert found.of[START] == pytest.approx((start - rest) / repeats, rel=1e-5)
    assert found.of[BOARD] == pytest.approx((board - start) / (starts * repeats), rel=1e-5)
    assert found.freedom == len(runs) - 2
    assert found.settings == 2


def test_settings_on_different_boards_differ_as_sure_as_the_means_of_their_boards() -> None:
    """Student's two-sample t of board means: exact in a balanced design."""
    runs = nested(3, 2, 2, (0.03, 0.02, 0.01), seed=2, shared=False)
    of_board = values(runs, (2, 3, 4)).mean(2)
    found = contrast(*sides(runs), variances_of(runs))
    assert found is not None
    pooled = (of_board.var(axis=1, ddof=1) / 3).sum()
    assert found.difference == pytest.approx(of_board[0].mean() - of_board[1].mean())
    assert found.sd == pytest.approx(pooled**0.5, rel=1e-5)
    assert found.freedom == pytest.approx(4, rel=1e-3)


def test_on_shared_boards_what_boards_differ_by_cancels() -> None:
    """However far boards lie apart, the difference is as sure as starts tell it."""
    near, far = (nested(4, 2, 2, (sd, 0.01, 0.005), seed=3) for sd in (0.001, 1.0))
    found = [contrast(*sides(runs), variances_of(runs)) for runs in (near, far)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].sd < 0.02
    assert found[1].freedom < 20
    one, other = (values(side, (4, 2, 2)).mean((1, 2)) for side in sides(far))
    assert found[1].difference == pytest.approx(float((one - other).mean()), abs=1e-9)


def test_with_one_board_a_setting_the_board_is_not_told_and_nothing_breaks() -> None:
    runs = [Run(x, s, s, (s, i)) for s in (0, 1) for i, x in enumerate((0.01, 0.02, 0.04))]
    found = variances_of(runs)
    assert BOARD not in found.of
    # Each run is a start of its own: starts and repeats are one.
    assert set(found.of) == {REST}
    assert found.of[REST] == pytest.approx(np.var([0.01, 0.02, 0.04], ddof=1))


def test_boards_of_one_run_each_are_in_the_rest() -> None:
    runs = [Run(x, 0, i, i) for i, x in enumerate((0.01, 0.02, 0.04))]
    assert set(variances_of(runs).of) == {REST}


def test_nothing_repeated_tells_nothing() -> None:
    found = variances_of([Run(0.1, 0, 0, 0), Run(0.2, 1, 1, 1)])
    assert not found.of
    assert contrast([Run(0.1, 0, 0, 0)], [Run(0.2, 1, 1, 1)], found) is None
    assert not variances_of([]).of


def test_equal_repeats_tell_no_variance() -> None:
    assert not variances_of([Run(0.5, 0, 0, i) for i in range(4)]).of


def test_a_variance_may_come_out_below_zero_and_its_sd_is_then_zero() -> None:
    """Repeats of a start lie apart, and the means of starts are equal."""
    runs = [Run(x, 0, 0, i) for i in range(4) for x in (-0.01, 0.01)]
    found = variances_of(runs)
    assert found.of[REST] > 0
    assert found.of.get(START, 0.0) <= 0
    assert found.sd(START) in (None, 0.0)


def test_a_variance_that_is_known_is_kept_and_has_no_doubt() -> None:
    runs = nested(2, 2, 2, (0.02, 0.01, 0.01), seed=5)
    found = variances_of(runs, {BOARD: 0.01})
    assert found.of[BOARD] == 0.01
    everything = variances_of(runs, {BOARD: 0.01, START: 1e-4, REST: 1e-4})
    difference = contrast(*sides(runs), everything)
    assert difference is not None
    assert difference.freedom == mixed.MOST_FREEDOM


def test_pooled_variances_compare_single_runs() -> None:
    """Of two single runs on other boards: both variances twice."""
    pooled = variances_of(nested(10, 2, 2, (0.03, 0.02, 0.01), seed=6, shared=False))
    found = contrast([Run(1.0, 7, "p", "p")], [Run(0.9, 8, "q", "q")], pooled)
    assert found is not None
    assert found.difference == pytest.approx(0.1)
    assert found.sd**2 == pytest.approx(2 * sum(pooled.of.values()))
    beside = contrast([Run(1.0, 7, "p", "p")], [Run(0.9, 8, "p", "q")], pooled)
    assert beside is not None
    assert beside.sd**2 == pytest.approx(2 * (pooled.of[START] + pooled.of[REST]))


def test_the_order_of_runs_changes_nothing() -> None:
    runs = nested(3, 2, 3, (0.03, 0.02, 0.01), seed=7)[:-4]
    shuffled = [runs[i] for i in np.random.default_rng(8).permutation(len(runs))]
    one, other = variances_of(runs), variances_of(shuffled)
    for part, value in one.of.items():
        assert other.of[part] == pytest.approx(value, rel=1e-4)


def test_intervals_of_few_boards_cover_the_truth() -> None:
    """Seeded: two boards, unbalanced. A method that cuts variances off at 0 covers some 85 %."""
    rng = np.random.default_rng(9)
    hits, tries = 0, 200
    for seed in range(tries):
        runs = [r for r in nested(2, 2, 2, (0.03, 0.01, 0.01), seed, shared=False) if rng.random() < 0.85]
        found = contrast(*sides(runs), variances_of(runs))
        if found is None:
            continue
        hits += abs(found.difference) < t_975(max(1, int(found.freedom))) * found.sd
    assert 0.92 * tries <= hits <= 0.99 * tries
