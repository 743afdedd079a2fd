import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from sweep_ledger import planned

from wattcount.sweep.outcome import Outcome, State
from wattcount.sweep.plan import Plan, Point
from wattcount.sweep.report import SweepResult, end_lines, plan_lines, result_lines
from wattcount.text import WIDTH

MODELS = [f"model_of_some_length_{number:02d}" for number in range(50)]


def skipped(models: Sequence[str], gpu: str, reason: str = "does_not_fit") -> list[Point]:
    return [
        planned(
            f"{reason} {model} {gpu} {repeat}",
            model=model,
            gpu=gpu,
            repeat=repeat,
            state=State.skipped,
            reason=reason,
            message=f"weights of {model} 43.9 GiB + KV cache 0.1 GiB (512 tokens x 160 KiB) > {gpu}",
        )
        for model in models
        for repeat in range(2)
    ]


def shown(points: Sequence[Point], records_dir: Path | None = None) -> list[str]:
    return list(plan_lines(Plan("s", tuple(points), "", ()), at_once=1, records_dir=records_dir))


def groups(lines: Sequence[str]) -> Mapping[str, tuple[int, int, int]]:
    """By GPUs: points, models, and models that are named or counted as more."""
    text = re.sub(r"\n      +", " ", "\n".join(lines))
    found = re.findall(r"(?m)^    (.+?): ([\d,]+) points? of (\d+) models?: (.+)$", text)
    assert found
    return {
        gpus: (
            int(points.replace(",", "")),
            int(models),
            len(set(re.findall(r"model_\w+", names))) + sum(map(int, re.findall(r"and (\d+) more", names))),
        )
        for gpus, points, models, names in found
    }


@pytest.mark.parametrize(
    ("repeats", "said"),
    [((0, 0, 1, 1), "2, one of every point before the next"), ((0, 1, 0, 1), "2, in the order declared")],
)
def test_the_order_of_repeats_is_told_as_it_is(repeats: tuple[int, ...], said: str) -> None:
    points = [planned(f"{at}", repeat=repeat) for at, repeat in enumerate(repeats)]
    assert f"  repeats   {said}" in shown(points)


def test_an_estimate_is_no_finer_than_it_is_known() -> None:
    points = [planned(str(number), wall_s=100.0, energy_j=51_234.5) for number in range(100)]
    assert "  estimate: 2 h 47 min of runs, 5.1 MJ" in shown(points)


def test_a_plan_of_thousands_of_skips_is_read_at_a_glance() -> None:
    points = [planned(model, model=model, gpu="h200") for model in MODELS]
    for number in range(11):
        points += skipped(MODELS[: 20 + number], f"gpu{number}")
    lines = shown(points)
    assert len(lines) < 40
    assert max(map(len, lines)) <= WIDTH
    assert lines[1].startswith("  models    50: model_of_some_length_00, ")
    assert "  skipped 550: does_not_fit" in lines
    assert groups(lines) == {f"gpu{n}": (2 * (20 + n), 20 + n, 20 + n) for n in range(11)}
    assert sum("e.g." in line for line in lines) == 1
    assert "  each of them, once started: wattcount status s --all-points" in lines


def test_gpus_that_lack_the_same_models_share_their_lines() -> None:
    here = [planned(model, model=model) for model in MODELS]
    lines = shown(here + skipped(MODELS[:3], "l4") + skipped(MODELS[:3], "a30") + skipped(MODELS[:2], "t4"))
    assert groups(lines) == {"a30, l4": (12, 3, 3), "t4": (4, 2, 2)}


def test_what_is_skipped_for_every_model_names_none_of_them() -> None:
    lines = shown(skipped(MODELS, "l4", "no_such_gpu"))
    assert "    l4: 100 points of all 50 models" in lines


def test_a_plan_of_one_gpu_names_every_model_that_is_skipped() -> None:
    here = [planned(model, model=model) for model in MODELS]
    assert all(name in "\n".join(shown(here + skipped(MODELS[:20], "l4"))) for name in MODELS[:20])


def test_one_name_is_there_however_little_room_there_is() -> None:
    long = "m" * 60
    points = [planned("here", model="a")]
    for number in range(20):
        points += skipped([f"{long}{n:02d}" for n in range(number + 1)], f"gpu{number}")
    lines = shown(points)
    assert lines.count(f"      {long}00") == 1
    assert lines.count(f"      {long}00 and 19 more") == 1
    assert max(map(len, lines)) <= WIDTH


def test_each_reason_has_its_example() -> None:
    lines = shown(skipped(MODELS[:1], "l4") + skipped(MODELS[:1], "t4", "dtype_unsupported"))
    assert [line for line in lines if line.startswith("  skipped")] == [
        "  skipped 2: does_not_fit",
        "  skipped 2: dtype_unsupported",
    ]
    text = " ".join(" ".join(lines).split())
    for gpu in ("l4", "t4"):
        example = f"weights of {MODELS[0]} 43.9 GiB + KV cache 0.1 GiB (512 tokens x 160 KiB) > {gpu}"
        assert f"e.g. {MODELS[0]} on {gpu}: {example}" in text


def test_where_all_are_is_a_command_to_copy() -> None:
    some = skipped(MODELS[:1], "l4")
    assert shown(some, Path("/my records"))[-1].endswith("status s --all-points --records-dir '/my records'")
    assert not any("wattcount status" in line for line in shown([*some[:1], planned("k")]))


def test_the_end_of_a_sweep_that_was_interrupted_says_how_to_go_on() -> None:
    plan = Plan("s", (planned("a"),), "", ())
    again = "the same command again goes on with what is missing"
    assert list(end_lines(SweepResult(plan, interrupted=130)))[-1] == again
    assert again not in list(end_lines(SweepResult(plan)))
    assert shown(plan.points)[0] == "sweep s: 1 point: 1 to run, 0 done before, 0 skipped"


def test_results_are_listed_at_the_end_unless_they_are_many() -> None:
    plan = Plan("s", tuple(planned(f"{n}", repeat=n) for n in range(30)), "", ())
    done = {f"{n}": Outcome(State.done, f"{n}", wall_s=60.0) for n in range(30)}
    few = {"0": done["0"], "1": Outcome(State.failed, "1"), "2": Outcome(State.done, "2", before=True)}
    assert list(result_lines(SweepResult(plan, few))) == [
        "results:",
        "                                     state  took",
        "  llama3_8b on h200, server 4/s, r0  done   1:00",
    ]
    assert list(result_lines(SweepResult(plan, done))) == ["results: wattcount status s --all-points"]
    (command,) = result_lines(SweepResult(plan, done, records_dir=Path("/my records")))
    assert command == "results: wattcount status s --all-points --records-dir '/my records'"
    assert list(result_lines(SweepResult(plan))) == []


def test_what_is_not_done_is_named_by_what_tells_it_from_others() -> None:
    same = ("model=m", "engine.enforce_eager=true")
    points = [planned(f"{n}", overrides=(*same, f"seed={n}", "sweep.workers=2"), seed=n) for n in (0, 1)]
    failed = Outcome(State.failed, "1", exit_code=1, reason="timeout", message="too slow", attempt=2)
    lines = list(end_lines(SweepResult(Plan("s", tuple(points), "", ()), {"1": failed})))
    assert lines[1:4] == ["  seed=0: not begun", "  seed=1: failed: too slow", "      timeout, 2 tries"]
    alone = list(end_lines(SweepResult(Plan("s", (points[0],), "", ()))))
    assert alone[1] == "  model=m engine.enforce_eager=true seed=0: not begun"
