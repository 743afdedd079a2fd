"""Plans of tiny fleets against all that could be planned; traffic by slots; what a plan must keep."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wattcount.errors import NotStartedError
from wattcount.fleet.options import Board
from wattcount.fleet.plan import Fleet, Plan, Rule, solve, why_not
from wattcount.fleet.traffic import Traffic, shares
from wattcount.load.arrivals import read_trace

BIG = Board("m", "big", 10.0, (100.0, 200.0, 280.0, 340.0, 380.0), 100.0, 75.0, 50.0, 100.0, 5.0, "")
SMALL = Board("m", "small", 4.0, (40.0, 90.0, 120.0, 140.0, 150.0), 40.0, 30.0, 20.0, 100.0, 5.0, "")


def fleet(demand: list[float], owned: dict[str, int], spare: bool = False) -> Fleet:
    boards = {("big", "m"): BIG, ("small", "m"): SMALL}
    return Fleet(
        owned,
        {pair: board for pair, board in boards.items() if pair[0] in owned},
        {"m": demand},
        3600.0,
        spare,
    )


def cheapest(problem: Fleet, parts: int = 40) -> float:
    """The least energy over all plans of one slot [J], each board at one of `parts` loads: no change costs anything, so what is not on is off."""
    (rate,) = problem.demand["m"]
    gpus = list(problem.owned)
    best = np.inf
    for counts in itertools.product(*(range(problem.owned[gpu] + 1) for gpu in gpus)):
        boards = [problem.boards[gpu, "m"] for gpu, n in zip(gpus, counts, strict=True) for _ in range(n)]
        capacity = sum(board.capacity_rps for board in boards)
        spare = max((board.capacity_rps for board in boards), default=0.0) if problem.spare else 0.0
        if capacity - spare + 1e-9 < rate:
            continue
        # The least power that serves so much, one board after the other.
        steps = round(rate * parts)
        least = np.zeros(1)
        for board in boards:
            most = round(board.capacity_rps * parts)
            power = np.array([board.power_at(step / most) for step in range(most + 1)])
            longer = np.full(len(least) + most, np.inf)
            for step, watts in enumerate(power):
                longer[step : step + len(least)] = np.minimum(longer[step : step + len(least)], least + watts)
            least = longer
        if len(least) > steps:
            best = min(best, float(least[steps:].min()) * problem.slot_s)
    return float(best)


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.9, 3.0, 7.0, 11.0, 14.3, 16.7])
def test_one_slot_is_the_best_of_all_plans(rate: float, spare: bool) -> None:
    problem = fleet([rate], {"big": 2, "small": 2}, spare)
    plan = solve(problem, Rule("best"))
    assert plan is not None
    assert plan.energy_j(problem) == pytest.approx(cheapest(problem), rel=0.006)


def served(problem: Fleet, plan: Plan, slot: int) -> float:
    return sum(
        share * number * problem.boards[gpu, model].capacity_rps
        for (t, gpu, model), loads in plan.on.items()
        if t == slot
        for share, number in loads
    )


def test_a_plan_serves_each_slot_and_counts_each_board_once() -> None:
    problem = fleet([2.0, 12.0, 20.0, 5.0], {"big": 3, "small": 3}, spare=True)
    plan = solve(problem, Rule("best"))
    assert plan is not None
    for slot, rate in enumerate(problem.demand["m"]):
        assert served(problem, plan, slot) >= rate - 1e-6
        for gpu, owned in problem.owned.items():
            there = plan.boards_on(slot, gpu) + plan.asleep.get((slot, gpu, "m"), 0)
            there += plan.unloaded.get((slot, gpu), 0) + plan.off.get((slot, gpu), 0)
            assert there == owned
        capacity = [
            problem.boards[gpu, "m"].capacity_rps
            for gpu in problem.owned
            for _ in range(plan.boards_on(slot, gpu))
        ]
        assert sum(capacity) - max(capacity) >= rate - 1e-6


def test_boards_rest_where_waking_is_cheap_and_stay_on_where_it_is_dear() -> None:
    cheap = fleet([1.0, 9.0], {"big": 2})
    plan = solve(cheap, Rule("best"))
    assert plan is not None
    assert plan.boards_on(0, "big") == 1
    dear = replace(
        cheap,
        demand={"m": [1.0, 19.0]},
        boards={("big", "m"): replace(BIG, load_s=1e6, wake_s=1e6, asleep_w=99.0)},
    )
    plan = solve(dear, Rule("best"))
    assert plan is not None
    assert plan.boards_on(0, "big") == 2
    assert plan.changes(dear) == 0.0


def test_baselines_do_what_they_say_and_never_better_than_the_plan() -> None:
    problem = replace(fleet([2.0, 12.0, 20.0, 5.0], {"big": 3, "small": 5}), price={"big": 5.0, "small": 1.0})
    best = solve(problem, Rule("best"))
    always = solve(problem, Rule("always", always_on=True))
    price = solve(problem, Rule("price", fixed=True, by_price=True))
    only = solve(problem, Rule("only", gpus=frozenset({"big"})))
    assert best is not None
    assert always is not None
    assert price is not None
    assert only is not None
    assert all(
        always.boards_on(slot, gpu) == owned for slot in range(4) for gpu, owned in problem.owned.items()
    )
    # Five small boards serve 20 requests a second at a third of what two big ones cost.
    assert [price.boards_on(slot, "small") for slot in range(4)] == [5] * 4
    assert price.boards_on(0, "big") == 0
    assert sum(only.boards_on(slot, "small") for slot in range(4)) == 0
    least = best.energy_j(problem)
    assert all(plan.energy_j(problem) >= 0.994 * least for plan in (always, price, only))
    assert price.cost(problem) == pytest.approx(5 * 1.0 * 4)


def test_what_cannot_be_served_has_no_plan_and_a_reason() -> None:
    problem = fleet([30.0], {"big": 2})
    assert solve(problem, Rule("best")) is None
    assert "30 requests/s" in why_not(problem)
    assert "no GPU" in why_not(replace(problem, demand={"other": [1.0]}))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    # Ten requests in the first half of 100 s, thirty in the second, and one at its end.
    times = [*np.linspace(0, 49, 10), *np.linspace(50, 99, 29), 100.0]
    lines = [
        f"2023-11-16 18:{int(t // 60):02d}:{t % 60:09.6f},{int(t) + 1},{i + 1}" for i, t in enumerate(times)
    ]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines))
    return path


def test_traffic_keeps_its_rate_over_a_stretched_day(trace: Path) -> None:
    traffic = Traffic(read_trace(trace), slots=2, scale=3.0)
    assert traffic.rates_rps() == pytest.approx([3 * 10 / 50, 3 * 30 / 50])
    assert traffic.slot_s == 43200.0


def test_requests_of_a_slot_are_those_of_its_part_of_the_trace(trace: Path) -> None:
    traffic = Traffic(read_trace(trace), slots=2)
    drawn = traffic.drawn(1, 5.0, 400.0, seed=0)
    assert len(drawn) == pytest.approx(2000, rel=0.1)
    assert drawn.input_tokens.min() >= 51
    assert (traffic.drawn(1, 5.0, 400.0, seed=0).arrival_s == drawn.arrival_s).all()
    assert len(traffic.drawn(None, 5.0, 400.0, seed=0)) == pytest.approx(2000, rel=0.1)


def test_a_trace_without_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,5,5\n")
    with pytest.raises(NotStartedError, match="no time"):
        Traffic(read_trace(path), 24)


def test_shares_of_models() -> None:
    assert shares(["a=3", "b"]) == {"a": 0.75, "b": 0.25}
    for wrong in (["a", "a"], ["a=x"], ["=1"], ["a=-1"]):
        with pytest.raises(NotStartedError, match="each model once"):
            shares(wrong)
