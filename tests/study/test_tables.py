"""Tables of runs: what they make of repeats, levers, loads and invalid runs, made up here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wattcount.config.identity import key_of, levers
from wattcount.config.schema import EngineConfig, ModelConfig, RunConfig
from wattcount.metrics.metrics_json import Status
from wattcount.metrics.sheet import Finding
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY
from wattcount.study import tables
from wattcount.study.comparison import Cell, Comparison, Scatters, cells
from wattcount.study.selection import TOKENS
from wattcount.study.tables import deployed, moves_with

LENGTHS = {"batch": (512, 256), "server": (512, 128), "batch_short": (256, 64), "server_short": (256, 64)}
REQUESTS = {"batch": 512, "batch_short": 256}
RATES_RPS = {"server": 4.0, "server_short": 20.0}
TAKEN = {"max_num_seqs": 128, "max_num_batched_tokens": 2048}
"""What the engine takes where nothing is asked."""


def run(
    per_token_j: float | None,
    *,
    scenario: str = "batch",
    model: str = "llama3_8b",
    boards: tuple[str, ...] = ("aaaa",),
    findings: tuple[str, ...] = (),
    valid: bool = True,
    rate_rps: float | None = None,
    quantization: str | None = None,
    vllm: str = "0.26.0",
    metrics: dict[str, float | None] | None = None,
    **engine: Any,
) -> Result:
    rate_rps = rate_rps or RATES_RPS.get(scenario)
    known: dict[str, float | None] = {
        PER_TOKEN: per_token_j,
        TOKENS: 1000.0,
        WATTS: 500.0,
        ENERGY: 20000.0,
        f"{ENERGY}_u95_method": 20.0,
        "energy/dynamic_j_per_output_token": 0.05,
        "throughput/requests_per_s": 4.0,
        "requests/completed_in_window": 150.0,
        **{f"latency/{name}_p{p}_ms": 40.0 for name in ("ttft", "tpot") for p in (50, 95)},
        **(metrics or {}),
    }
    setting = {
        "model": {"name": model, "quantization": quantization},
        "scenario": {"name": scenario, "rate_rps": rate_rps},
        "engine": {**TAKEN, **engine, "version": vllm},
    }
    input_tokens, output_tokens = LENGTHS[scenario]
    return Result(
        setting_key=key_of(setting),
        setting=setting,
        model=model,
        weights="random",
        scenario=scenario,
        kind=scenario.removesuffix("_short"),
        num_requests=REQUESTS.get(scenario),
        rate_rps=rate_rps,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        levers=tuple(
            levers(RunConfig(model=ModelConfig(quantization=quantization), engine=EngineConfig(**engine)))
        ),
        engine_version=vllm,
        gpus=("NVIDIA H100",) * len(boards),
        boards=tuple(f"GPU-{board}0000-1111" for board in boards),
        status=Status.valid if valid else Status.invalid,
        findings=tuple(Finding(code, 1.0, 0.0, "1", code, not valid) for code in findings),
        metrics=known,
    )


def rows(made: str) -> list[dict[str, str]]:
    """A Markdown table's rows; columns of one name are numbered."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines()]
    head = [name if lines[0].index(name) == at else f"{name}#{at}" for at, name in enumerate(lines[0])]
    return [dict(zip(head, line, strict=True)) for line in lines[2:]]


def known(*runs: Result) -> Scatters:
    return Scatters(cells(runs))


def headline(runs: Sequence[Result]) -> str:
    return tables.headline(runs, known(*runs))


def lever_savings(runs: Sequence[Result], *more: Result) -> str:
    """`more`: other runs, whose repeats also tell how runs scatter."""
    return tables.lever_savings(runs, known(*runs, *more))


def load_curve(runs: Sequence[Result]) -> str:
    return tables.load_curve(runs, known(*runs))


def shapes(runs: Sequence[Result]) -> str:
    return tables.shapes(runs, known(*runs))


def shape_ratios(h100: Sequence[Result], h200: Sequence[Result]) -> str:
    return tables.shape_ratios(h100, h200, known(*h100, *h200))


def changed(turned: Sequence[Result], usual: Sequence[Result], *pool: Result) -> Comparison:
    """What the study says of two settings."""
    found = known(*pool).compare(Cell("turned", tuple(turned)), Cell("usual", tuple(usual)))
    assert found is not None
    return found


def test_what_the_engine_takes_by_itself_is_no_lever() -> None:
    same, other = run(0.11, boards=("bbbb",), max_num_seqs=128), run(0.08, max_num_seqs=256)
    none, turned = rows(lever_savings([run(0.10), same, other]))
    assert (none["lever"], none["valid runs, with / without"]) == ("none", "2")
    assert none["mJ per output token (board)"] == "100.00 (aaaa), 110.00 (bbbb)"
    assert (turned["lever"], turned["valid runs, with / without"]) == ("256 at once", "1 / 2")


# -- runs


@pytest.mark.parametrize("make", [headline, lever_savings, load_curve, shapes])
def test_without_entries_a_table_is_its_header(make: Any) -> None:
    assert len(make(()).splitlines()) == 2


def test_without_entries_on_one_gpu_there_are_no_ratios() -> None:
    assert rows(shape_ratios((), [on_h200(run(0.1, scenario="batch_short"))])) == []


# -- levers


def test_a_load_stands_first_without_levers_then_with_each() -> None:
    made = rows(
        lever_savings(
            [
                *(run(j, boards=(b,)) for j, b in ((0.10, "aaaa"), (0.11, "bbbb"))),
                *(run(j, boards=(b,), quantization="fp8") for j, b in ((0.07, "aaaa"), (0.08, "bbbb"))),
                run(0.09, boards=("cccc", "dddd"), tensor_parallel_size=2, metrics={WATTS: 900.0}),
            ]
        )
    )
    assert [row["lever"] for row in made] == ["none", "TP 2", "fp8"]
    none, parallel, fp8 = made
    assert none["load"] == "llama3_8b, batch of 512"
    assert none["valid runs, with / without"] == "2"
    assert none["mJ per output token (board)"] == "100.00 (aaaa), 110.00 (bbbb)"
    assert (parallel["GPUs"], parallel["mean W"], parallel["valid runs, with / without"]) == (
        "2",
        "900",
        "1 / 2",
    )
    assert parallel["mJ per output token (board)"] == "90.00 (cccc+dddd)"
    assert fp8["valid runs, with / without"] == "2 / 2"
    usual = [run(j, boards=(b,)) for j, b in ((0.10, "aaaa"), (0.11, "bbbb"))]
    turned = [run(j, boards=(b,), quantization="fp8") for j, b in ((0.07, "aaaa"), (0.08, "bbbb"))]
    found = changed(turned, usual, *usual, *turned)
    assert fp8["against without"] == f"{found.percent:+.1f} % ({found.interval})"


def test_where_nothing_was_repeated_there_is_no_interval() -> None:
    once = [run(0.1), run(0.075, quantization="fp8")]
    _, fp8 = rows(lever_savings(once))
    assert fp8["against without"] == "-25.0 % (no interval)"
    elsewhere = [run(0.3, model="m"), run(0.31, model="m", boards=("bbbb",))]
    _, fp8 = rows(lever_savings(once, *elsewhere))
    found = changed(once[1:], once[:1], *once, *elsewhere)
    assert found.low is not None
    assert fp8["against without"] == f"-25.0 % ({found.interval})"


def test_invalid_runs_of_a_lever_count_for_nothing_and_are_said() -> None:
    stalled = run(9.0, quantization="fp8", findings=("engine_stalled", "power_capped"), valid=False)
    _, fp8 = rows(lever_savings([run(0.1), run(0.1), run(0.05, quantization="fp8"), stalled]))
    assert fp8["valid runs, with / without"] == "1 / 2"
    assert fp8["against without"].startswith("-50.0 %")
    assert fp8["findings"] == "1 of 2 invalid: `engine_stalled`"
    _, fp8 = rows(lever_savings([run(0.1), stalled]))
    assert (fp8["valid runs, with / without"], fp8["against without"]) == ("0 / 1", "-")
    assert fp8["findings"] == "invalid: `engine_stalled`"


def test_a_lever_whose_load_was_not_measured_without_it_says_so() -> None:
    none, fp8 = rows(lever_savings([run(0.05, quantization="fp8"), run(0.1, vllm="0.25.0")]))
    assert none["findings"] == "not measured"
    assert (fp8["load"], fp8["valid runs, with / without"], fp8["against without"]) == ("", "1 / 0", "-")
    assert none["load"] == "llama3_8b, batch of 512"


def test_two_levers_at_once_and_loads_without_any_are_left_out() -> None:
    both = run(0.05, quantization="fp8", tensor_parallel_size=2)
    assert rows(lever_savings([run(0.1), both, run(0.1, scenario="server")])) == []


# -- the load curve


def server(per_token_j: float | None, rate_rps: float, **other: Any) -> Result:
    return run(per_token_j, scenario="server", rate_rps=rate_rps, **other)


def test_a_rate_is_one_row_over_its_repeats() -> None:
    ttft = "latency/ttft_p50_ms"
    four, sixteen = rows(
        load_curve(
            [
                server(0.24, 16, boards=("bbbb",), metrics={ttft: 60.0}),
                server(1.0, 4),
                server(0.26, 16, boards=("cccc",), metrics={ttft: 64.0}),
                server(0.25, 16, boards=("bbbb",), metrics={ttft: 90.0}),
            ]
        )
    )
    assert four["J per output token"].startswith("1.00 ± ")
    assert sixteen["J per output token"].startswith("0.251 ± ")
    assert (sixteen["offered, requests/s"], sixteen["to the first rate's"]) == ("16", "-75 %")
    assert sixteen["TTFT p50 / p95 ms"] == "64.0 / 40.0"
    assert (sixteen["valid runs"], sixteen["boards"]) == ("3 of 3", "bbbb, cccc")


def test_a_single_measured_run_of_a_rate_has_the_hosts_part() -> None:
    measured = replace(server(1.0, 4), evidence=Evidence.MEASURED)
    (row,) = rows(load_curve([measured]))
    host = measured.u95_host(PER_TOKEN)
    assert host is not None
    assert row["J per output token"] == f"1.00 ± {100 * math.sinh(host):.1f} %"


def test_starts_of_each_kind_of_load_have_a_row() -> None:
    runs = [
        replace(
            run(joule, scenario=scenario, metrics={"host/decode_launch_ms": launch_ms}),
            evidence=Evidence.MEASURED,
        )
        for scenario, joule, launch_ms in (
            ("batch", 1.0, 5.0), ("batch", 1.1, 6.0), ("server", 0.3, 3.0), ("batch", 1.2, 7.0)
        )
    ]  # fmt: skip
    (row,) = rows(tables.starts(runs, known(*runs)))
    assert (row["kind of load"], row["degrees of freedom"]) == ("batch", "2")
    sd = float(np.std(np.log([1.0, 1.1, 1.2]), ddof=1))
    assert row["sd: J per output token"] == f"{100 * sd:.1f} %"
    assert row["95 % of one start, J per output token"] == f"{430.265 * sd:.1f} %"
    assert "(r = +1.00, 3 runs)" in row["J per output token ~ CPU time of a decoding step, to the power of"]


def test_a_rate_without_a_valid_run_has_a_row_without_figures() -> None:
    invalid = server(9.0, 4, findings=("engine_stalled",), valid=False)
    four, sixteen = rows(load_curve([invalid, server(0.25, 16)]))
    assert (four["J per output token"], four["mean W"], four["valid runs"]) == ("-", "-", "0 of 1")
    assert four["remarks"] == "invalid: `engine_stalled`"
    assert (sixteen["to the first rate's"], sixteen["valid runs"]) == ("", "1 of 1")


@pytest.mark.parametrize(
    ("valid", "said"),
    [
        ((True, True), "it could not keep up (valid)"),
        ((False, False), "it could not keep up (invalid); 2 of 2 invalid: `engine_stalled`"),
        ((True, False), "it could not keep up (1 of 2 valid); 1 of 2 invalid: `engine_stalled`"),
    ],
)
def test_what_could_not_keep_up_says_so_and_whether_it_is_valid(valid: tuple[bool, bool], said: str) -> None:
    runs = [
        server(
            0.1,
            48,
            valid=is_valid,
            findings=("overloaded",) if is_valid else ("overloaded", "engine_stalled"),
        )
        for is_valid in valid
    ]
    assert rows(load_curve(runs))[0]["remarks"] == said


def test_one_repeat_that_could_not_keep_up_is_counted() -> None:
    (row,) = rows(load_curve([server(0.1, 48), server(0.1, 48, findings=("overloaded",))]))
    assert row["remarks"] == "it could not keep up in 1 of 2 (valid)"


def test_a_latency_that_no_run_has_is_a_dash() -> None:
    (row,) = rows(load_curve([server(0.1, 48, metrics={"latency/ttft_p95_ms": None})]))
    assert row["TTFT p50 / p95 ms"] == "40.0 / -"


# -- shapes


def shape(per_token_j: float | None, kind: str = "batch", **other: Any) -> Result:
    return run(per_token_j, scenario=f"{kind}_short", enforce_eager=True, **{"model": "gpt2", **other})


def test_a_shape_is_one_row_with_the_mean_of_its_repeats() -> None:
    completed = "requests/completed_in_window"
    (row,) = rows(
        shapes(
            [
                *(shape(j) for j in (0.10, 0.11, 0.12)),
                shape(0.2, "server", metrics={completed: 155.0}),
                shape(0.2, "server", metrics={completed: 99.0}, findings=("overloaded",)),
            ]
        )
    )
    assert row["batch: J per output token"] == "0.110 ± 0.025 (n=3)"
    assert row["J per output token"] == "0.200 (n=2)"
    assert row["requests completed in the window"] == "99"
    assert row["findings#12"] == "`overloaded` (1 of 2)"


def test_servers_of_a_shape_at_another_rate_have_a_row_of_their_own() -> None:
    first, second = rows(
        shapes([shape(0.1), shape(0.3, "server", rate_rps=5.0), shape(0.2, "server", rate_rps=20.0)])
    )
    assert [first[key] for key in ("model", "batch: J per output token")] == ["gpt2", "0.100"]
    assert [first[key] for key in ("server: requests/s", "J per output token")] == ["20", "0.200"]
    assert [second[key] for key in ("model", "batch: J per output token")] == ["", ""]
    assert [second[key] for key in ("server: requests/s", "J per output token")] == ["5", "0.300"]


def test_a_shape_whose_run_is_invalid_has_no_figures_and_says_so() -> None:
    (row,) = rows(shapes([shape(None, valid=False, findings=("engine_stalled",))]))
    assert (row["batch: J per output token"], row["mean W"]) == ("-", "-")
    assert row["findings"] == "invalid: `engine_stalled`"
    assert row["findings#12"] == "not measured"


def test_what_is_deployed_stands_beside_the_limits_of_a_bare_engine_on_the_same_board() -> None:
    limits = {"max_num_seqs": 128, "max_num_batched_tokens": 2048}
    pair = [run(0.08, **limits), run(0.07, metrics={TOKENS: 1100.0})]
    alone = [run(0.06, boards=("bbbb",)), run(0.05, boards=("cccc",), **limits)]
    (row,) = rows(deployed([*pair, *alone, run(0.01, valid=False)]))
    assert (row["load"], row["board"], row["as deployed"]) == ("llama3_8b, batch of 512", "aaaa", "0.0700")
    assert (row["difference"], row["tokens/s"]) == ("-12.5 %", "+10.0 %")


# -- one GPU beside another


def on_h200(entry: Result) -> Result:
    setting = {**entry.setting, "gpu": {"found_name": "NVIDIA H200"}}
    return replace(entry, gpus=("NVIDIA H200",), setting=setting, setting_key=key_of(setting))


def test_each_load_has_a_row_for_each_gpu_and_the_ratio_with_its_interval_in_the_first() -> None:
    h100 = [
        run(0.11, boards=("aaaa",)),
        run(0.13, boards=("bbbb",)),
        run(9.0, valid=False, findings=("odd",)),
    ]
    h200 = [on_h200(run(0.08, boards=("cccc",)))]
    server_alone = [on_h200(server(0.3, 4.0, boards=("cccc",)))]
    limits = {"max_num_seqs": 128, "max_num_batched_tokens": 2048}
    first, second, third = rows(headline([*h200, *server_alone, *h100, run(0.5, **limits)]))
    found = changed(h100[:2], h200, *h100, run(0.5, **limits), *h200, *server_alone)
    assert found.low is not None
    assert (first["load"], first["GPU"], first["valid runs"]) == ("llama3_8b, batch of 512", "H100", "2 of 3")
    assert first["J per output token"].startswith("0.120 ± ")
    assert first["H100 / H200"] == f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})"
    assert (first["boards"], first["findings"]) == ("aaaa, bbbb", "1 of 3 invalid: `odd`")
    assert first["TTFT p50 / p95 ms"] == "-"
    assert (second["load"], second["GPU"], second["J per output token"][:8]) == ("", "H200", "0.0800 ±")
    assert (third["load"], third["GPU"], third["H100 / H200"]) == (
        "llama3_8b, server 4 requests/s",
        "H200",
        "-",
    )
    assert third["TTFT p50 / p95 ms"] == "40.0 / 40.0"


def test_a_ratio_at_another_rate_has_a_row_of_its_own() -> None:
    h100 = [shape(0.6, "server", rate_rps=5.0), shape(0.3, "server", rate_rps=20.0)]
    h200 = [on_h200(shape(0.5, "server", rate_rps=5.0)), on_h200(shape(0.2, "server", rate_rps=20.0))]
    slow, usual = rows(shape_ratios(h100, h200))
    assert (slow["model"], slow["H100 / H200#6"]) == ("gpt2, 5 requests/s", "1.20")
    assert (usual["model"], usual["H100 / H200#6"]) == ("gpt2", "1.50")


def test_a_ratio_is_of_runs_of_one_setting_and_the_valid_ones() -> None:
    h100 = [shape(0.12), shape(9.0, "server", valid=False), shape(0.5, model="qwen3_4b", vllm="0.25.0")]
    h200 = [on_h200(one) for one in (shape(0.10), shape(0.2, "server"), shape(0.4, model="qwen3_4b"))]
    (row,) = rows(shape_ratios(h100, h200))
    assert (row["model"], row["H100 / H200"]) == ("gpt2", "1.20")
    assert row["H100 / H200#6"] == "-"


def test_a_ratio_with_repeats_has_an_interval_and_says_what_spoils_it() -> None:
    h100 = [
        shape(j, "server", boards=(board,), findings=("overloaded",))
        for j, board in ((0.119, "aaaa"), (0.120, "bbbb"), (0.121, "cccc"))
    ]
    h200 = [on_h200(shape(0.1, "server"))]
    (row,) = rows(shape_ratios(h100, h200))
    found = changed(h100, h200, *h100, *h200)
    assert found.low is not None
    assert row["H100 / H200#6"] == f"1.20 ({found.low:.2f} to {found.high:.2f})"
    assert row["findings that touch the ratio"] == "server, H100: `overloaded`"


# -- one figure with another


def _start(key: str, value: float | None, cause: float | None = None) -> Result:
    return Result(
        setting_key=key, kind="server", evidence=Evidence.MEASURED, metrics={"figure": value, "cause": cause}
    )


def test_how_far_a_figure_moves_with_another_within_settings() -> None:
    # Twice the cause is half of the figure, in both settings; between them they differ for other reasons.
    runs = [_start("a", 8.0, 1.0), _start("a", 4.0, 2.0), _start("b", 100.0, 10.0), _start("b", 50.0, 20.0)]
    runs += [_start("once", 1.0, 100.0), _start("a", 5.0, None)]
    assert moves_with(runs, "cause", "figure") == (pytest.approx(-1.0), pytest.approx(-1.0), 4)
    slope, correlation, count = moves_with([_start("a", 1.0, 1.0)], "cause", "figure")
    assert (math.isnan(slope), math.isnan(correlation), count) == (True, True, 0)
