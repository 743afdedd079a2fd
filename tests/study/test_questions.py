"""The standing questions: what each says of results that are made up, and of those that others published."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from wattcount.config.schema import SloConfig
from wattcount.metrics.sheet import Finding
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY
from wattcount.study.answers import NOTHING, Answer
from wattcount.study.curves import curves
from wattcount.study.questions import QUESTIONS, Study
from wattcount.study.savings import OPTIMUM
from wattcount.study.service import MOST_COUNTED, Count, attained

H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def run(
    per_token_j: float,
    *,
    model: str = "llama3_8b",
    gpu: str = H200,
    rate_rps: float | None = None,
    levers: tuple[str, ...] = (),
    board: str = "a",
    repeat: int = 0,
    ttft_p99_ms: float = 100.0,
    idle_j: float = 25.0,
    **fields: object,
) -> Result:
    kind = "batch" if rate_rps is None else "server"
    name = f"{model}-{gpu}-{rate_rps}-{levers}-{board}-{repeat}"
    made = Result(
        run_id=name,
        session=name,
        setting_key=f"{model}-{gpu}-{rate_rps}-{levers}",
        setting={"model": {"name": model}, "scenario": {"kind": kind, "rate_rps": rate_rps}, "gpu": {"found_name": gpu}, "engine": {"levers": list(levers)}},
        model=model,
        weights="random",
        scenario=kind,
        kind=kind,
        num_requests=512 if rate_rps is None else None,
        rate_rps=rate_rps,
        input_tokens=512,
        output_tokens=128,
        levers=levers,
        gpus=(gpu,),
        boards=(board,),
        repeat=repeat,
        evidence=Evidence.MEASURED,
        metrics={
            PER_TOKEN: per_token_j,
            WATTS: 400.0,
            ENERGY: per_token_j * 1000,
            f"{ENERGY}_u95_sensor": per_token_j * 50,
            "energy/gpu_j_per_request": per_token_j * 128,
            "energy/bare_idle_j": idle_j,
            "energy/context_idle_j": None,
            "energy/dynamic_j": per_token_j * 1000 - idle_j,
            "tokens/output": 1000,
            "requests/sent": 100,
            **{f"latency/ttft_p{p}_ms": ttft_p99_ms for p in (50, 95, 99)},
            **{f"latency/tpot_p{p}_ms": 10.0 for p in (50, 95, 99)},
        },
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def repeats(per_token_j: float, boards: str = "abc", **fields: object) -> list[Result]:
    return [
        run(per_token_j * (1 + 0.004 * i + _noise(per_token_j, i)), board=board, repeat=i, **fields)  # type: ignore[arg-type]
        for i, board in enumerate(boards)
    ]


def _noise(level: float, repeat: int) -> float:
    """From -0.2 to 0.2 %, another one for each run, and always the same."""
    return (hash((round(1e6 * level), repeat)) % 401 - 200) / 1e5


def answer(name: str, runs: list[Result], **options: object) -> Answer:
    return QUESTIONS[name](Study(runs, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_is_answered_without_results_and_emulated_ones_are_none(name: str) -> None:
    for runs in ([], [run(1.0, evidence=Evidence.EMULATED, gpu=gpu) for gpu in (H100, H200)]):
        found = answer(name, runs)
        assert found.rows == []
        assert found.sentence in (
            NOTHING,
            "No setting was repeated: whether anything reproduces, these results do not tell.",
        )
        json.dumps(found.to_json())


def test_the_gpu_with_the_least_energy_is_named_where_the_data_tell() -> None:
    (row,) = answer("gpu-choice", [*repeats(0.5, gpu=H200), *repeats(1.0, "def", gpu=H100)]).rows
    assert (row["gpu"], row["runner_up"], row["tell"]) == (H200, H100, "less")
    assert row["change_percent"] == pytest.approx(-50, abs=0.3)
    (row,) = answer("gpu-choice", [*repeats(0.99, gpu=H200), *repeats(1.0, "def", gpu=H100)]).rows
    assert row["tell"] == "cannot tell"


def test_a_gpu_that_breaks_the_slo_is_not_chosen() -> None:
    runs = [
        *repeats(0.5, gpu=H200, rate_rps=4.0, ttft_p99_ms=900.0),
        *repeats(1.0, "def", gpu=H100, rate_rps=4.0),
    ]
    (row,) = answer("gpu-choice", runs).rows
    assert (row["gpu"], row["break_slo"], row["runner_up"]) == (H100, H200, None)
    (row,) = answer("gpu-choice", runs, slo=SloConfig(ttft_ms=1000.0)).rows
    assert row["gpu"] == H200


def test_the_best_setting_of_a_gpu_stands_for_it() -> None:
    runs = [*repeats(1.2, gpu=H200), *repeats(0.5, gpu=H200, levers=("fp8",)), *repeats(1.0, "def", gpu=H100)]
    (row,) = answer("gpu-choice", runs).rows
    assert (row["gpu"], row["setting"]) == (H200, "fp8")


def test_savings_are_parted_in_baseline_and_choice_and_in_idle_and_active() -> None:
    """H200 is best for all but one of six models: 6 + 5 x 1 J against 11 J of the H100 alone."""
    runs = []
    for number in range(6):
        model = f"m{number}"
        runs += [run(1.0, model=model, gpu=H200, idle_j=100.0), run(2.0 if number else 0.5, model=model, gpu=H100, idle_j=500.0 if number else 100.0)]  # fmt: skip
    rows = {(row["of"], row["to"]): row for row in answer("savings", runs).rows}
    assert rows[H100, H200]["saved_percent"] == pytest.approx(100 * (1 - 6.0 / 10.5))
    assert rows[H200, OPTIMUM]["saved_percent"] == pytest.approx(100 * (1 - 5.5 / 6.0))
    assert rows[H200, OPTIMUM]["excess_percent"] == pytest.approx(100 * (6.0 / 5.5 - 1))
    assert rows[H100, OPTIMUM]["saved_percent"] == pytest.approx(100 * (1 - 5.5 / 10.5))
    # Idle: 0.6 J of 10.5 against 2.6 J.
    assert rows[H100, H200]["idle_percent"] == pytest.approx(100 * (2.6 - 0.6) / 10.5)
    for row in rows.values():
        assert row["idle_percent"] + row["active_percent"] == pytest.approx(row["saved_percent"])
        assert row["low_percent"] <= row["saved_percent"] <= row["high_percent"]


def test_a_default_gpu_is_a_baseline_of_its_own() -> None:
    runs = [
        run(j, model=f"m{n}", gpu=gpu) for n in range(5) for gpu, j in (("A", 1.0), ("B", 2.0), ("C", 3.0))
    ]
    told = {(row["of"], row["to"]) for row in answer("savings", runs, default_gpu="B").rows}
    assert told == {("C", "A"), ("B", "A"), ("B", OPTIMUM), ("A", OPTIMUM)}


def test_what_picking_the_least_of_equal_gpus_saves_is_chance() -> None:
    """Six models, twice, on two GPUs that are the same: the optimum seems to save what scatter gives."""
    runs = [
        run(
            1.0 + 0.05 * ((n + repeat + number) % 2),
            model=f"m{n}",
            gpu=gpu,
            board=f"{gpu}{repeat}",
            repeat=repeat,
        )
        for n in range(6)
        for number, gpu in enumerate((H100, H200))
        for repeat in (0, 1)
    ]
    row = next(r for r in answer("savings", runs).rows if r["to"] == OPTIMUM)
    assert row["by_chance_percent"] > 0.3
    assert row["saved_percent"] < row["by_chance_percent"] + 1e-9


def test_few_loads_have_no_interval_of_their_saving() -> None:
    rows = answer("savings", [run(1.0, gpu=H200), run(2.0, gpu=H100)]).rows
    assert all(row["low_percent"] is None for row in rows)


def test_a_load_curve_has_measured_rates_only_and_a_knee() -> None:
    levels = {1.0: 4.0, 4.0: 2.0, 16.0: 1.05, 32.0: 1.0, 64.0: 1.02}
    runs = [one for rate, level in levels.items() for one in repeats(level, rate_rps=rate)]
    found = answer("load-curves", runs)
    assert [row["rate_rps"] for row in found.rows] == list(levels)
    assert [row["rate_rps"] for row in found.rows if row["knee"]] == [16.0]
    assert "lies at 16 requests/s" in found.sentence
    rising = [one for rate in (1.0, 2.0, 4.0) for one in repeats(4.0 / rate, rate_rps=rate)]
    assert not any(row["knee"] for row in answer("load-curves", rising).rows)
    assert answer("load-curves", rising[:6]).rows == []


def test_overload_is_counted_on_a_curve() -> None:
    late = Finding("overloaded", False, 0.5, "1", 0.1, "slow")
    runs = [run(1.0, rate_rps=r, findings=(late,) if r == 4.0 else ()) for r in (1.0, 2.0, 4.0)]
    (curve,) = curves(Study(runs).cells, Study(runs).scatters, SloConfig())
    assert [point.overloaded for point in curve.points] == [0, 0, 1]


def test_each_lever_is_compared_with_the_same_load_without_it() -> None:
    runs = [
        *repeats(1.0),
        *repeats(0.7, levers=("fp8",)),
        *repeats(1.001, levers=("nice -10",)),
        *repeats(0.6, levers=("fp8", "nice -10")),
        *repeats(0.2, levers=("fp8",), rate_rps=4.0),
    ]
    rows = {(row["lever"], row["beside"]): row for row in answer("levers", runs).rows}
    assert set(rows) == {("fp8", None), ("nice -10", None), ("fp8", "nice -10"), ("nice -10", "fp8")}
    assert (rows["fp8", None]["tell"], rows["nice -10", None]["tell"]) == ("less", "cannot tell")
    assert rows["fp8", None]["change_percent"] == pytest.approx(-30, abs=0.5)


def test_the_exponent_of_size_is_found() -> None:
    sizes = {
        "llama3_2_1b": 1.2358,
        "llama3_2_3b": 3.2127,
        "llama3_8b": 8.0303,
        "phi4": 14.6595,
        "qwen3_32b": 32.7621,
    }
    found = answer("scaling", [run(0.1 * size**0.7, model=name) for name, size in sizes.items()])
    rows = {row["what"]: row for row in found.rows}
    assert rows["parameters"]["exponent"] == pytest.approx(0.7, abs=0.02)
    assert rows["parameters"]["low"] <= 0.7 <= rows["parameters"]["high"]
    assert rows["parameters"]["models"] == 5


def test_repeats_tell_how_boards_differ_and_versions_are_compared() -> None:
    runs = [
        run(
            level * (1.03 if board == "b" else 1.0) * (1 + 0.001 * repeat),
            levers=lever,
            board=board,
            repeat=repeat,
        )
        for lever, level in (((), 1.0), (("fp8",), 0.7))
        for board in "abc"
        for repeat in (0, 1)
    ]
    old = [
        replace(r, setting_key=f"old {r.setting_key}", version_minor="0.25", setting={**r.setting, "engine": {**r.setting["engine"], "version_minor": "0.25"}})
        for r in runs
    ]  # fmt: skip
    new = [
        replace(r, version_minor="0.26", setting={**r.setting, "engine": {**r.setting["engine"], "version_minor": "0.26"}})
        for r in runs
    ]  # fmt: skip
    found = answer("reproduce", [*old, *new])
    parts = next(row for row in found.rows if row["what"] == "J per output token")
    assert parts["board_percent"] > 5 * parts["rest_percent"]
    versions = [row for row in found.rows if row["what"].startswith("engine version 0.26 against 0.25")]
    assert [row["tell"] for row in versions] == ["cannot tell", "cannot tell"]


def test_attainment_lies_between_what_percentiles_tell() -> None:
    slo = SloConfig(ttft_ms=500.0, tpot_ms=50.0)
    good = attained(run(1.0, rate_rps=4.0), slo)
    assert good is not None
    assert (good.low, good.high, good.keeps) == (pytest.approx(0.98), pytest.approx(1.0), True)
    late = attained(run(1.0, rate_rps=4.0, ttft_p99_ms=900.0), slo)
    assert late is not None
    assert (late.high, late.keeps) == (pytest.approx(0.5), False)
    assert attained(run(1.0), slo) is None
    counted = run(1.0, rate_rps=4.0, setting={"scenario": {"slo": {"ttft_ms": 500, "tpot_ms": 50}}})
    counted = replace(counted, metrics={**counted.metrics, "requests/good": 93})
    exact = attained(counted, slo)
    assert exact is not None
    assert (exact.low, exact.high) == (0.93, 0.93)


def mlenergy_v1(path: Path) -> list[Result]:
    with path.open() as file:
        return [
            Result(
                model=row["model"],
                gpus=(row["gpu"],),
                scenario=row["task"],
                kind="batch",
                evidence=Evidence.MEASURED,
                origin="imported:mlenergy",
                metrics={PER_TOKEN: float(row["energy"]) / float(row["response_length"])},
            )
            for row in csv.DictReader(file)
        ]


def test_savings_of_ml_energy_v1_are_the_known_ones(outside_data: Path) -> None:
    """By hand from the same rows: best fixed GPU to optimum 1.96 %, worst to best 43.7 %."""
    rows = mlenergy_v1(outside_data / "outside" / "mlenergy_v1_v2" / "v1_flat.csv")
    found = {(r["of"], r["to"]): r for r in answer("savings", rows).rows if r["gpus"] == 3}
    assert found["A40", "A100"]["units"] == 84
    assert found["A40", "A100"]["saved_percent"] == pytest.approx(43.7, abs=0.05)
    assert found["A100", OPTIMUM]["excess_percent"] == pytest.approx(1.96, abs=0.005)
    assert found["A100", OPTIMUM]["by_chance_percent"] is None


# -- how many at once, and the paper's claims


def at(limit: int, model: int, per_token_j: float) -> Result:
    made = run(per_token_j, model=f"model_{model}")
    setting = {**made.setting, "engine": {"max_num_seqs": limit}}
    return replace(
        made, setting=setting, setting_key=f"{made.setting_key}-{limit}", run_id=f"{model}-{limit}"
    )


def test_the_number_at_once_is_chosen_once_for_all_loads_or_for_each() -> None:
    """Six models: 64 is best for five of them, 256 for one; 8 takes twice as much."""
    runs = [at(8, n, 2.0) for n in range(6)] + [at(64, n, 1.0 if n else 1.2) for n in range(6)]
    runs += [at(256, n, 1.1 if n else 0.9) for n in range(6)] + [at(1024, 0, 0.1)]
    rows = Study(runs).answer("at-once").rows
    found = {(row["of"], row["to"]): row for row in rows}
    assert found["at most 8", "at most 64"]["saved_percent"] == pytest.approx(100 * (1 - 6.2 / 12))
    assert found["at most 64", OPTIMUM]["excess_percent"] == pytest.approx(100 * (6.2 / 5.9 - 1))
    # One load in six was measured with 1024: that tells nothing of the others.
    assert not any("1024" in str(row["of"]) + str(row["to"]) for row in rows)


def test_too_few_loads_tell_nothing_of_the_number_at_once() -> None:
    assert Study([at(8, 0, 2.0), at(64, 0, 1.0)]).answer("at-once").sentence == NOTHING


def test_a_claim_of_a_saving_says_what_part_of_it_is_a_bad_baseline() -> None:
    """H200 takes half of H100 for five models; for the sixth H100 takes 0.8 of it."""
    runs = [run(2.0 if n else 0.8, model=f"model_{n}", gpu=H100) for n in range(6)]
    runs += [run(1.0, model=f"model_{n}", gpu=H200) for n in range(6)]
    rows = {row["claim"]: row for row in Study(runs).answer("claims").rows}
    saves = rows["GPU choice saves (batch)"]
    assert saves["most_percent"] == pytest.approx(50.0)
    assert saves["all_percent"] == pytest.approx(100 * (1 - 5.8 / 10.8))
    assert saves["bad_baseline_percent"] == pytest.approx(100 * (10.8 - 6.0) / (10.8 - 5.8))
    differs = rows["the best GPU differs by model (batch)"]
    assert (differs["differs"], differs["loads"]) == (1, 6)


def test_users_of_a_lever_that_saves_are_counted_where_pairs_show_it() -> None:
    def served(
        joules: float, board: str, repeat: int, levers: tuple[str, ...] = (), good: int = 1000
    ) -> Result:
        made = run(joules, rate_rps=4.0, levers=levers, board=board, repeat=repeat, seed=1)
        scenario = {**made.setting["scenario"], "slo": {"ttft_ms": 500.0, "tpot_ms": 50.0}}
        metrics = {**made.metrics, "requests/sent": 1000.0, "requests/good": float(good)}
        return replace(made, setting={**made.setting, "scenario": scenario}, metrics=metrics)

    runs = [served(1.0, b, i) for i, b in enumerate("abc")]
    runs += [served(0.5, b, i, ("x",)) for i, b in enumerate("abc")]
    runs += [served(0.6, b, i, ("y",), good=900 + 40 * i) for i, b in enumerate("abc")]
    row = next(r for r in Study(runs).answer("claims").rows if "users" in str(r["claim"]))
    assert row["found"] == "shown for 1 of 2 levers that save"


def test_details_are_left_out_where_there_is_little_room() -> None:
    runs = [
        run(joules, model=f"model_{n}", gpu=gpu)
        for n in range(6)
        for gpu, joules in ((H100, 2.0), (H200, 1.0))
    ]
    answer = Study(runs).answer("savings")
    wide, narrow = (answer.cells(details=details)[0] for details in (True, False))
    assert "takes more by, %" in wide
    assert set(wide) - set(narrow) == {"takes more by, %", "idle part", "active part", "by chance"}


def test_who_measured_otherwise_has_an_answer_of_his_own() -> None:
    own = [*repeats(0.5, gpu=H200), *repeats(1.0, "def", gpu=H100)]
    others = [
        run(joules, gpu=gpu, origin="imported:x", weights="hub", setting_key=None, boards=())
        for gpu, joules in ((H100, 2.0), (H200, 1.0))
    ]
    emulated = [run(1.0, evidence=Evidence.EMULATED)]
    study = Study([*others, *own, *emulated])
    assert study.data == (
        "Data: 6 runs measured by wattcount (6 boards, 6 starts); 2 results that others measured (x 2). Left out: 1 emulated."
    )
    parts = {part.source: part.answer("gpu-choice") for part in study.parts()}
    assert list(parts) == ["Measured by wattcount", "Published by x"]
    assert [len(answer.rows) for answer in parts.values()] == [1, 1]
    assert [row["basis"] for answer in parts.values() for row in answer.rows] == ["6/6/6", "?/2/2"]
    both = study.answer("gpu-choice").rows
    assert [row["data"] for row in both] == ["measured", "x"]
    assert [list(answer.rows) for answer in parts.values()] == [[row] for row in both]


def test_a_saving_is_claimed_with_what_it_does_to_users() -> None:
    def claim(rate_rps: float | None, late_ms: float = 100.0, model: dict[str, object] | None = None) -> str:
        setting = {"model": model or {}, "scenario": {}, "gpu": {}, "engine": {}}
        plain = repeats(1.0, rate_rps=rate_rps, seed=1)
        turned = repeats(0.5, rate_rps=rate_rps, levers=("x",), seed=1, ttft_p99_ms=late_ms, setting=setting)
        (row,) = answer("levers", [*plain, *turned]).rows
        return str(row["claim"])

    assert claim(None) == "saves"
    assert claim(4.0) == "saves; SLO not shown to be kept"
    assert claim(4.0, late_ms=900.0) == "saves; SLO lost"
    assert claim(None, model={"quantization": "fp8"}) == "saves; quality not measured"
    assert answer("levers", [*repeats(1.0), *repeats(2.0, levers=("x",))]).rows[0]["claim"] == "costs energy"


def test_no_more_records_are_counted_than_there_is_time_for(tmp_path: Path) -> None:
    def runs(number: int, **fields: object) -> list[Result]:
        return [run(1.0, rate_rps=4.0, repeat=i, source=tmp_path, **fields) for i in range(number)]  # type: ignore[arg-type]

    slo = SloConfig(ttft_ms=500.0)
    unsure = {"latency/ttft_p50_ms": 100.0}
    assert Count.affordable(runs(MOST_COUNTED), slo) is Count.ALWAYS
    assert Count.affordable(runs(MOST_COUNTED + 1), slo) is Count.WHERE_UNSURE
    assert Count.affordable(runs(MOST_COUNTED + 1, metrics=unsure), slo) is Count.NEVER
