"""Markdown tables of runs on real GPUs: what levers save, the load curve, many shapes, one GPU beside another.

Each table takes the results of one GPU model. Valid runs of one setting are repeats and count alike, whatever boards they
were on. Invalid runs count for nothing, and the tables tell their number.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from wattcount.config import model_shape
from wattcount.config.catalogue import model_catalogue
from wattcount.report.labels import board_of, load_of, name_of
from wattcount.report.units import markdown, significant
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY, Result
from wattcount.statistics import t_975
from wattcount.study.repeats import (
    TOKENS,
    UNREMARKABLE,
    Scatter,
    by,
    change,
    figure,
    half_width,
    has,
    is_of_many_shapes,
    moves_with,
    over,
    remarks,
    scatter_of,
    setting_on_any_gpu,
    start_scatter,
    valid,
)

SHORT_RATE_RPS = 20.0
"""Offered load of `server_short` [requests/s], unless a shape cannot keep up with it."""

BARE_LIMITS = ("128 at once", "2048 tokens a step")
"""Levers of a run with the limits of a bare `AsyncLLM` of vLLM, which nobody deploys."""


def number(value: float | None, digits: int = 3) -> str:
    """`value` as in every table; None is `-`."""
    return significant(value, digits)


def _changed(turned: Sequence[Result], usual: Sequence[Result], key: str, scatter: Scatter) -> str:
    percent, half = change([figure(r, key) for r in turned], [figure(r, key) for r in usual], scatter)
    return f"{percent:+.1f} %" + (f" ± {half:.1f}" if half is not None else ", nothing was repeated")


def _p50_p95(runs: Sequence[Result], name: str) -> str:
    """Medians over the runs; `-` where there is none."""
    return (
        " / ".join(number(over(runs, f"latency/{name}_p{p}_ms", np.median)) for p in (50, 95))
        if runs
        else "-"
    )


def _boards(runs: Sequence[Result]) -> str:
    return ", ".join(dict.fromkeys(map(board_of, runs)))


# -- levers


def _load(run: Result) -> tuple[Hashable, ...]:
    """What two runs must share for a lever to be their only difference. How weights were made up is no lever here."""
    weights = [lever for lever in run.levers if _is_weights(lever)]
    return (
        run.model,
        run.weights,
        *weights,
        run.scenario,
        run.num_requests,
        run.rate_rps,
        run.input_tokens,
        run.output_tokens,
        run.engine_version,
    )


def _is_weights(lever: str) -> bool:
    return lever.endswith(" weights")


def lever_savings(runs: Sequence[Result], *others: Sequence[Result]) -> str:
    """Each lever against the same load without it. The row without levers comes first.

    others  runs on other GPU models, whose repeats also tell how runs scatter
    """
    rows = []
    scatters = [scatter_of(key, runs, *others, many_shapes=False) for key in (PER_TOKEN, TOKENS)]
    loads = by((run for run in runs if not is_of_many_shapes(run)), _load)
    for load in sorted(loads.values(), key=lambda found: name_of(found[0])):
        without = {run.setting_key for run in load if not run.levers}
        at_most_one = [run for run in load if len(run.levers) < 2]
        # What is set to what the engine takes without is no lever.
        usual = [run for run in at_most_one if run.setting_key in without]
        settings = by(
            (run for run in at_most_one if run.setting_key not in without), lambda run: "".join(run.levers)
        )
        turned = {lever: found for lever, found in sorted(settings.items()) if not _is_weights(lever)}
        if not turned:
            continue
        rows.append([load_of(load[0]), *_setting_cells("none", usual, [], scatters)])
        rows += [
            ["", *_setting_cells(lever, found, valid(usual), scatters)] for lever, found in turned.items()
        ]
    head = ["load", "lever", "GPUs", "valid runs, with / without", "mJ per output token (board)", "against without", "mean W", "output tokens/s", "against without", "findings"]  # fmt: skip
    return markdown(head, rows)


def _setting_cells(
    lever: str, runs: Sequence[Result], usual: Sequence[Result], scatters: Sequence[Scatter]
) -> list[str]:
    """`runs` of a lever, or without any (`none`), against the valid runs `usual` without it.

    scatters  of J per output token and of tokens/s
    """
    good = valid(runs)
    if lever == "none":
        counted, changes = str(len(good)), ["", ""]
    else:
        counted = f"{len(good)} / {len(usual)}"
        changes = [
            _changed(good, usual, key, scatter) if good and usual else "-"
            for key, scatter in zip((PER_TOKEN, TOKENS), scatters, strict=True)
        ]
    return [
        lever,
        ", ".join(sorted({str(len(run.gpus)) for run in runs})) or "-",
        counted,
        ", ".join(f"{1e3 * figure(run, PER_TOKEN):.2f} ({board_of(run)})" for run in good) or "-",
        changes[0],
        number(over(good, WATTS)),
        number(over(good, TOKENS), 4),
        changes[1],
        remarks(runs) if runs else "not measured",
    ]


def load_curve(runs: Sequence[Result]) -> str:
    """Llama-3-8B's shape by offered load, one row a rate, nothing turned."""
    chosen = [run for run in runs if run.scenario == "server" and run.model == "llama3_8b" and not run.levers]
    rows = []
    first: float | None = None
    for rate, found in sorted(by(chosen, lambda run: float(run.rate_rps or 0)).items()):
        good = valid(found)
        mean = over(good, PER_TOKEN)
        to_first = "" if first is None or mean is None else f"{100 * (mean / first - 1):+.0f} %"
        first = mean if first is None else first
        rows.append(
            [
                f"{rate:g}",
                number(over(good, "throughput/requests_per_s")),
                _per_token_percent(good),
                to_first,
                number(over(good, "energy/dynamic_j_per_output_token")),
                number(over(good, WATTS)),
                _p50_p95(good, "ttft"),
                _p50_p95(good, "tpot"),
                f"{len(good)} of {len(found)}",
                _boards(good) or "-",
                _curve_remarks(found),
            ]
        )
    head = ["offered, requests/s", "completed, requests/s", "J per output token", "to the first rate's", "J per output token without idle", "mean W", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms", "valid runs", "boards", "remarks"]  # fmt: skip
    return markdown(head, rows)


def _per_token_percent(good: Sequence[Result]) -> str:
    """Mean J per output token ± 95 % over the repeats. A single run has ± method and host, marked so."""
    if not good:
        return "-"
    values = [figure(run, PER_TOKEN) for run in good]
    mean, half = float(np.mean(values)), half_width(values)
    if half is not None:
        return f"{number(mean)} ± {100 * half / mean:.1f} %"
    method = figure(good[0], f"{ENERGY}_u95_method") / figure(good[0], ENERGY)
    if (scatter := good[0].scatter(PER_TOKEN)) is None:
        return f"{number(mean)} ± {100 * method:.2f} % (method)"
    return f"{number(mean)} ± {100 * math.hypot(method, scatter.u95_share):.1f} % (method and host)"


def _curve_remarks(runs: Sequence[Result]) -> str:
    """In how many runs the server could not keep up, and whether these are valid; the codes of other findings."""
    said = []
    slow = [run for run in runs if has(run, "overloaded")]
    if slow:
        share = f" in {len(slow)} of {len(runs)}" if len(slow) < len(runs) else ""
        counted = len(valid(slow))
        state = (
            "valid" if counted == len(slow) else f"{counted} of {len(slow)} valid" if counted else "invalid"
        )
        said.append(f"it could not keep up{share} ({state})")
    rest = remarks(runs, UNREMARKABLE | {"overloaded"})
    return "; ".join(part for part in [*said, rest] if part)


def shapes(runs: Sequence[Result]) -> str:
    """One row for each rate of a shape's servers, the highest rate first and with the shape's batches."""
    catalogue = model_catalogue()
    rows = []
    for name, found in sorted(by(filter(is_of_many_shapes, runs), lambda run: str(run.model)).items()):
        counted = model_shape.count_parameters(catalogue[name].hf_config)
        assert counted is not None
        rates = by(found, lambda run: run.rate_rps)
        batches = _shape_cells(rates.pop(None, []), completed=False)
        offered = sorted((rate for rate in rates if rate is not None), reverse=True)
        size = [name, f"{counted.total / 1e9:.1f}", f"{counted.active / 1e9:.1f}"]
        servers = [[f"{rate:g}", *_shape_cells(rates[rate], completed=True)] for rate in offered] or [
            ["-", *_shape_cells([], completed=True)]
        ]
        rows.append([*size, *batches, *servers[0]])
        rows += [[""] * len([*size, *batches]) + cells for cells in servers[1:]]
    head = ["model", "10^9 parameters", "for one token, 10^9", "batch: J per output token", "mean W", "tokens/s", "findings", "server: requests/s", "J per output token", "mean W", "tokens/s", "requests completed in the window", "findings"]  # fmt: skip
    return markdown(head, rows)


def _shape_cells(runs: Sequence[Result], *, completed: bool) -> list[str]:
    """J per output token, W, tokens/s, findings. `completed`: also the fewest requests completed in a window."""
    good = valid(runs)
    cells = [_per_token(good), number(over(good, WATTS)), number(over(good, TOKENS))]
    if completed:
        fewest = over(good, "requests/completed_in_window", np.min)
        cells.append("-" if fewest is None else f"{fewest:.0f}")
    return [*cells, remarks(runs) if runs else "not measured"]


def _per_token(good: Sequence[Result]) -> str:
    """Mean J per output token, `± half-width (n=3)` where repeated."""
    values = [figure(run, PER_TOKEN) for run in good]
    half = half_width(values)
    mean = number(float(np.mean(values)) if values else None)
    return mean if half is None else f"{mean} ± {number(half, 2)} (n={len(values)})"


def deployed(runs: Sequence[Result]) -> str:
    """Valid runs with BARE_LIMITS against runs with what the engine's server takes by itself, board by board."""
    rows = []
    pairs = by(
        (run for run in valid(runs) if run.levers in ((), BARE_LIMITS)),
        lambda run: (_load(run), board_of(run)),
    )
    for pair in sorted(pairs.values(), key=lambda pair: (load_of(pair[0]), pair[0].started_utc or "")):
        limited = [run for run in pair if run.levers]
        usual = [run for run in pair if not run.levers]
        if not limited or not usual:
            continue
        before, after = (
            [over(side, key) or math.nan for key in (PER_TOKEN, TOKENS)] for side in (limited, usual)
        )
        rows.append(
            [
                load_of(usual[0]),
                board_of(usual[0]),
                f"{before[0]:.4f}",
                f"{after[0]:.4f}",
                *(f"{100 * (now / then - 1):+.1f} %" for now, then in zip(after, before, strict=True)),
            ]
        )
    limits = " and ".join(BARE_LIMITS)
    return markdown(
        ["load", "board", f"J per output token, {limits}", "as deployed", "difference", "tokens/s"], rows
    )


# -- one GPU beside another


def headline(runs: Sequence[Result]) -> str:
    """Loads as they are deployed, on H100 and H200: J per output token, the ratio, latency. Invalid runs are only counted."""
    chosen = [run for run in runs if not is_of_many_shapes(run) and run.levers != BARE_LIMITS]
    names = ("H100", "H200")
    by_gpu = [[run for run in chosen if name in "".join(run.gpus)] for name in names]
    scatter = scatter_of(PER_TOKEN, *by_gpu, many_shapes=False)
    rows = []
    for load, found in sorted(by(chosen, lambda run: (run.rate_rps or 0.0, name_of(run))).items()):
        sides = [[run for run in found if run in side] for side in by_gpu]
        good = [valid(side) for side in sides]
        ratio = _ratio_cells(good[0], good[1], scatter)[2]
        for name, side, counted in zip(names, sides, good, strict=True):
            if side:
                first = name == names[0] or not sides[0]
                rows.append(
                    [
                        load[1] if first else "",
                        name,
                        _per_token(counted),
                        ratio if first else "",
                        number(over(counted, WATTS)),
                        number(over(counted, TOKENS), 4),
                        _p50_p95(counted, "ttft") if load[0] else "-",
                        _p50_p95(counted, "tpot"),
                        f"{len(counted)} of {len(side)}",
                        _boards(counted) or "-",
                        remarks(side),
                    ]
                )
    head = ["load", "GPU", "J per output token", "H100 / H200", "mean W", "tokens/s", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms", "valid runs", "boards", "findings"]  # fmt: skip
    return markdown(head, rows)


def shape_ratios(h100: Sequence[Result], h200: Sequence[Result]) -> str:
    """Shapes with valid runs of one and the same setting on both GPUs: J per output token of each, and their ratio."""
    scatter = scatter_of(PER_TOKEN, h100, h200, many_shapes=True)
    sides = [by(filter(is_of_many_shapes, valid(side)), setting_on_any_gpu) for side in (h100, h200)]
    pairs: dict[tuple[str, float], dict[str, tuple[list[Result], list[Result]]]] = {}
    for setting, ours in sides[0].items():
        if setting in sides[1]:
            rate = ours[0].rate_rps or SHORT_RATE_RPS
            kinds = pairs.setdefault((str(ours[0].model), rate), {})
            kinds[str(ours[0].kind)] = (ours, sides[1][setting])
    rows = [
        [
            name if rate == SHORT_RATE_RPS else f"{name}, {rate:g} requests/s",
            *(
                cell
                for kind in ("batch", "server")
                for cell in _ratio_cells(*kinds.get(kind, ([], [])), scatter)
            ),
            _spoiled(kinds),
        ]
        for (name, rate), kinds in sorted(pairs.items())
    ]
    figures = ["J per output token, H100", "H200", "H100 / H200"]
    head = ["model", f"batch: {figures[0]}", *figures[1:], f"server: {figures[0]}", *figures[1:], "findings that touch the ratio"]  # fmt: skip
    return markdown(head, rows)


def _ratio_cells(h100: Sequence[Result], h200: Sequence[Result], scatter: Scatter) -> list[str]:
    """Both energies and their ratio, with its interval where anything was repeated."""
    if not h100 or not h200:
        return ["-", "-", "-"]
    percent, half = change(
        [figure(run, PER_TOKEN) for run in h100], [figure(run, PER_TOKEN) for run in h200], scatter
    )
    ratio = f"{1 + percent / 100:.2f}" + ("" if half is None else f" ± {half / 100:.2f}")
    return [_per_token(h100), _per_token(h200), ratio]


def _spoiled(kinds: dict[str, tuple[list[Result], list[Result]]]) -> str:
    """Servers that could not keep up and engines that stood still: there the two GPUs did not do the same work."""
    return "; ".join(
        f"{kind}, {gpu}: `{code}`"
        for kind, pair in sorted(kinds.items())
        for gpu, runs in zip(("H100", "H200"), pair, strict=True)
        for code in ("overloaded", "engine_stalled")
        if any(has(run, code) for run in runs)
    )


def starts(*gpus: Sequence[Result]) -> str:
    """By how much starts of an engine scatter, by kind of load, and how far the CPU's time for a step goes with it."""
    runs = [run for found in gpus for run in found]
    figures = (PER_TOKEN, WATTS, "latency/ttft_p50_ms", "latency/tpot_p50_ms")
    scatters = [start_scatter(runs, key) for key in figures]
    rows = []
    for kind, per_token in scatters[0].items():
        if not per_token.freedom:
            continue
        slope, correlation, count = moves_with(
            [run for run in valid(runs) if run.load_kind == kind], "host/decode_launch_ms", PER_TOKEN
        )
        rows.append(
            [
                kind,
                str(per_token.freedom),
                *(f"{100 * found[kind].variance ** 0.5:.1f} %" for found in scatters),
                f"{100 * t_975(per_token.freedom) * per_token.variance**0.5:.1f} %",
                f"{slope:+.2f} (r = {correlation:+.2f}, {count} runs)",
            ]
        )
    head = ["kind of load", "degrees of freedom", "sd: J per output token", "mean W", "TTFT p50", "TPOT p50", "95 % of one start, J per output token", "J per output token ~ CPU time of a decoding step, to the power of"]  # fmt: skip
    return markdown(head, rows)


def scatter_words(*gpus: Sequence[Result]) -> str:
    """How far repeats lie apart, a sentence each for the many shapes and for all else."""
    sentences = []
    for many_shapes, runs in (
        (False, "Repeats of one setting"),
        (True, "Those of the many shapes (short, eager)"),
    ):
        said = []
        for name, key in (("J per output token", PER_TOKEN), ("tokens/s", TOKENS)):
            found = scatter_of(key, *gpus, many_shapes=many_shapes)
            said.append(f"sd {100 * found.variance**0.5:.1f} % of {name}")
        sentences.append(f"{runs} scatter by {' and '.join(said)} ({found.freedom} degrees of freedom).")
    return " ".join(sentences)
