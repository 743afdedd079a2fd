"""One setting against another: what it rests on, what boards share, and when nobody can tell."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from wattcount.metrics.metrics_json import Status
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, START_SCATTER
from wattcount.result.result import ENERGY
from wattcount.study.comparison import (
    Cell,
    Scatters,
    Tell,
    cells,
    load_of,
    paired,
    same_arrivals,
    setting_of,
)


def run(
    key: str,
    per_token_j: float,
    board: str = "a",
    start: str | None = None,
    *,
    gpu: str = "NVIDIA H200",
    sensor: float = 0.05,
    **fields: object,
) -> Result:
    number = f"{key}-{board}-{start}-{per_token_j}"
    made = Result(
        run_id=number,
        session=start or number,
        setting_key=key,
        model="m",
        weights="random",
        kind="server",
        rate_rps=4.0,
        gpus=(gpu,),
        boards=(board,),
        evidence=Evidence.MEASURED,
        metrics={PER_TOKEN: per_token_j, ENERGY: 100.0, f"{ENERGY}_u95_sensor": 100.0 * sensor},
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def compared(runs: list[Result], one: str = "x", other: str = "y"):  # type: ignore[no-untyped-def]
    found = {cell.key: cell for cell in cells(runs)}
    result = Scatters(list(found.values())).compare(found[one], found[other])
    assert result is not None
    return result


def many(setting: str, level: float, boards: str, gpu: str = "NVIDIA H200", **fields: object) -> list[Result]:
    """Two runs on each board, 1 % apart, boards 2 % apart."""
    return [
        run(
            setting, level * (1 + 0.02 * b) * (1 + 0.01 * r), board, f"{setting}{board}{r}", gpu=gpu, **fields
        )
        for b, board in enumerate(boards)
        for r in (0, 1)
    ]


def test_cells_are_valid_repeats_of_one_setting() -> None:
    broken = run("x", 5.0, status=Status.invalid)
    found = cells([run("x", 1.0), broken, run("x", 4.0), run("y", 3.0)])
    assert [(cell.key, len(cell.runs)) for cell in found] == [("x", 2), ("y", 1)]
    assert found[0].mean(PER_TOKEN) == pytest.approx(2.0)
    assert found[0].middle(PER_TOKEN) == pytest.approx(2.5)
    assert found[0].mean("latency/ttft_p50_ms") is None


def test_an_imported_result_without_a_key_is_nobody_s_repeat() -> None:
    one = replace(run("x", 1.0, origin="imported:s"), setting_key=None)
    other = replace(one, run_id="again")
    assert setting_of(one) == setting_of(replace(one, levers=("fp8",)))
    assert setting_of(one) != setting_of(other)
    assert load_of(one) == load_of(other)
    assert len(cells([one, other])) == 2


def test_a_difference_beyond_the_scatter_is_told_and_says_what_it_rests_on() -> None:
    found = compared([*many("x", 0.8, "abcd"), *many("y", 1.0, "abcd")])
    assert found.ratio == pytest.approx(0.8)
    assert found.tell is Tell.LESS
    assert found.low < 0.8 < found.high < 1
    assert (found.basis.boards, found.basis.starts, found.basis.runs) == (4, 16, 16)
    assert found.basis.pooled == "own"
    assert found.basis.words == "4 boards, 16 starts, 16 runs; scatter by their own repeats"
    inverse = compared([*many("x", 0.8, "abcd"), *many("y", 1.0, "abcd")], "y", "x")
    assert inverse.tell is Tell.MORE
    assert inverse.ratio == pytest.approx(1 / 0.8)
    assert inverse.low == pytest.approx(1 / found.high)


def test_a_difference_within_the_scatter_is_not_told() -> None:
    assert compared([*many("x", 0.995, "abcd"), *many("y", 1.0, "abcd")]).tell is Tell.CANNOT


def test_single_runs_take_the_scatter_of_all_settings() -> None:
    pool = [*many("p", 0.5, "abc"), *many("q", 2.0, "abc")]
    found = compared([run("x", 0.8), run("y", 1.0), *pool])
    assert found.basis.pooled == "pooled"
    assert found.basis.settings == 2
    assert found.tell is Tell.LESS


def test_without_any_repeats_our_own_scatter_stands_in_and_imported_results_have_none() -> None:
    found = compared([run("x", 0.99), run("y", 1.0)])
    assert found.basis.pooled == "prior"
    assert found.basis.freedom == pytest.approx(START_SCATTER["server"][PER_TOKEN].freedom)
    assert found.tell is Tell.CANNOT
    alone = compared([run("x", 0.5, origin="imported:s"), run("y", 1.0, origin="imported:s")])
    assert (alone.low, alone.high, alone.tell) == (None, None, Tell.CANNOT)
    assert alone.interval == "no interval"
    assert "nothing was repeated" in alone.basis.words


def test_the_sensor_cancels_on_one_gpu_model_and_not_between_two() -> None:
    same = compared([*many("x", 0.96, "abcd"), *many("y", 1.0, "abcd")])
    other = compared([*many("x", 0.96, "efgh", "NVIDIA H100"), *many("y", 1.0, "abcd")])
    assert same.tell is Tell.LESS
    assert other.tell is Tell.CANNOT
    # Two sensors of 5 %: at least 7 % on either side.
    assert log(other.high / other.ratio) > 0.0707
    trusted = compared(
        [*many("x", 0.9, "efgh", "NVIDIA H100", sensor=0.0), *many("y", 1.0, "abcd", sensor=0.0)]
    )
    assert trusted.tell is Tell.LESS


def test_boards_that_nobody_compared_differ_by_their_sensors() -> None:
    """Repeats on one board each do not tell by what boards differ."""
    ours = [run("x", 0.97 + 0.001 * i, "a", f"x{i}") for i in range(6)]
    theirs = [run("y", 1.0 + 0.001 * i, "b", f"y{i}") for i in range(6)]
    apart = compared([*ours, *theirs])
    assert apart.tell is Tell.CANNOT
    assert log(apart.high / apart.ratio) > 0.0707
    beside = compared([*ours, *[replace(r, boards=("a",)) for r in theirs]])
    assert beside.tell is Tell.LESS


def test_energy_has_the_sensor_in_its_interval_and_latency_has_not() -> None:
    runs = [
        replace(r, metrics={**r.metrics, "latency/ttft_p50_ms": 20.0 + i})
        for i, r in enumerate(many("x", 1.0, "abcd"))
    ]
    cell = cells(runs)[0]
    scatters = Scatters([cell])
    energy, latency = scatters.estimate(cell), scatters.estimate(cell, "latency/ttft_p50_ms")
    assert energy is not None
    assert latency is not None
    assert energy.low is not None
    assert log(energy.value / energy.low) > 0.05
    assert scatters.estimate(cell, "latency/e2e_p50_ms") is None
    assert scatters.compare(cell, Cell("none", ()), PER_TOKEN) is None


def test_starts_count_once_where_the_prior_tells_the_scatter() -> None:
    """Three runs on one start know no more of other starts than one does."""
    once = Scatters(cells([run("x", 1.0, start="s")]))
    thrice = Scatters(cells([run("x", value, start="s") for value in (0.99, 1.0, 1.01)]))
    one, three = (found.estimate(found.results[0], sensor=False) for found in (once, thrice))
    assert one is not None
    assert three is not None
    assert three.half_width == pytest.approx(one.half_width, rel=1e-3)


def test_few_repeats_count_together_with_the_prior() -> None:
    runs = [run("p", 1.0, "a"), run("p", 1.2, "b"), run("x", 0.9), run("y", 1.0)]
    found = compared(runs)
    assert found.basis.pooled == "prior"
    assert found.basis.freedom == pytest.approx(START_SCATTER["server"][PER_TOKEN].freedom + 1)
    assert found.low < compared(runs[2:]).low


def test_pairs_with_the_same_arrivals_share_what_these_do_to_a_figure() -> None:
    far = [run("x", 0.9 * level, repeat=n, seed=1) for n, level in enumerate((1.0, 2.0, 4.0))]
    near = [run("y", level, repeat=n, seed=1) for n, level in enumerate((1.0, 2.0, 4.0, 8.0))]
    found = paired(Cell("x", tuple(far)), Cell("y", tuple(near)))
    assert found is not None
    assert (found.ratio, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9))
    assert (found.basis.runs, found.basis.freedom) == (6, 2)
    assert same_arrivals(far, [replace(one, seed=2) for one in near]) == []
    assert paired(Cell("x", tuple(far)), Cell("y", (near[3],))) is None
    alone = paired(Cell("x", (far[0],)), Cell("y", (near[0],)))
    assert alone is not None
    assert alone.tell is Tell.CANNOT


def test_one_start_on_a_board_of_its_own_has_all_parts() -> None:
    found = Scatters(cells([*many("p", 0.5, "abc"), *many("q", 2.0, "abc")]))
    told = found.of_one_start(PER_TOKEN, found.kinds[0])
    variances = found.pooled(PER_TOKEN, found.kinds[0])
    assert told is not None
    assert told[0] ** 2 == pytest.approx(sum(variances.of.values()))
    # More than of the two boards' freedom, at most that of all runs.
    assert 1 < told[1] <= 10
