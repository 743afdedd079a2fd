"""Markdown tables of runs on real GPUs: what levers save, the load curve, many shapes, one GPU beside another.

Each table takes the results of one GPU model. Valid runs of one setting are repeats and count alike, whatever boards they
were on. Invalid runs count for nothing, and the tables tell their number. Intervals and what settings differ by are those of `study.comparison`;
`scatters` knows how results scatter, of more runs than a table shows.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from wattcount.config import model_shape
from wattcount.config.catalogue import model_catalogue
from wattcount.report.labels import board_of, load_of, name_of
from wattcount.report.units import markdown, significant
from wattcount.result.host_part import PER_TOKEN, WATTS, load_kind
from wattcount.result.result import Result
from wattcount.statistics import t_975
from wattcount.study.comparison import Cell, Estimate, Scatters
from wattcount.study.selection import (
    TOKENS,
    UNREMARKABLE,
    by,
    figure,
    has,
    is_of_many_shapes,
    over,
    remarks,
    setting_on_any_gpu,
    valid,
)

SHORT_RATE_RPS = 20.0
"""Offered load of `server_short` [requests/s], unless a shape cannot keep up with it."""

BARE_LIMITS = ("128 at once", "2048 tokens a step")
"""Levers of a run with the limits of a bare `AsyncLLM` of vLLM, which nobody deploys."""


def number(value: float | None, digits: int = 3) -> str:
    """`value` as in every table; None is `-`."""
    return significant(value, digits)


def cell_of(name: Hashable, runs: Sequence[Result]) -> Cell:
    """Valid runs as one setting."""
    return Cell(name, tuple(valid(runs)))


def _changed(turned: Sequence[Result], usual: Sequence[Result], key: str, scatters: Scatters) -> str:
    """`-15.3 % (-18.3 to -12.2 %)`."""
    found = scatters.compare(cell_of("turned", turned), cell_of("usual", usual), key)
    return "-" if found is None else f"{found.percent:+.1f} % ({found.interval})"


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


def lever_savings(runs: Sequence[Result], scatters: Scatters) -> str:
    """Each lever against the same load without it. The row without levers comes first."""
    rows = []
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
    lever: str, runs: Sequence[Result], usual: Sequence[Result], scatters: Scatters
) -> list[str]:
    """`runs` of a lever, or without any (`none`), against the valid runs `usual` without it."""
    good = valid(runs)
    if lever == "none":
        counted, changes = str(len(good)), ["", ""]
    else:
        counted = f"{len(good)} / {len(usual)}"
        changes = [
            _changed(good, usual, key, scatters) if good and usual else "-" for key in (PER_TOKEN, TOKENS)
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


def load_curve(runs: Sequence[Result], scatters: Scatters) -> str:
    """Llama-3-8B's shape by offered load, one row a rate, nothing turned."""
    chosen = [run for run in runs if run.scenario == "server" and run.model == "llama3_8b" and not run.levers]
    rows = []
    first: float | None = None
    for rate, found in sorted(by(chosen, lambda run: float(run.rate_rps or 0)).items()):
        good = valid(found)
        found_j = estimated(good, PER_TOKEN, scatters)
        mean = None if found_j is None else found_j.value
        to_first = "" if first is None or mean is None else f"{100 * (mean / first - 1):+.0f} %"
        first = mean if first is None else first
        rows.append(
            [
                f"{rate:g}",
                number(over(good, "throughput/requests_per_s")),
                _percent(found_j),
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


def estimated(runs: Sequence[Result], key: str, scatters: Scatters) -> Estimate | None:
    """A figure of valid runs of one setting on any start and board of the GPU model: the sensors' own error is not in the interval."""
    return scatters.estimate(cell_of("these", runs), key, sensor=False)


def _percent(found: Estimate | None) -> str:
    """`0.267 ± 4.3 %`."""
    if found is None:
        return "-"
    half = found.half_width
    return number(found.value) + ("" if half is None else f" ± {100 * half / found.value:.1f} %")


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


def shapes(runs: Sequence[Result], scatters: Scatters) -> str:
    """One row for each rate of a shape's servers, the highest rate first and with the shape's batches."""
    catalogue = model_catalogue()
    rows = []
    for name, found in sorted(by(filter(is_of_many_shapes, runs), lambda run: str(run.model)).items()):
        counted = model_shape.count_parameters(catalogue[name].hf_config)
        assert counted is not None
        rates = by(found, lambda run: run.rate_rps)
        batches = _shape_cells(rates.pop(None, []), scatters, completed=False)
        offered = sorted((rate for rate in rates if rate is not None), reverse=True)
        size = [name, f"{counted.total / 1e9:.1f}", f"{counted.active / 1e9:.1f}"]
        servers = [
            [f"{rate:g}", *_shape_cells(rates[rate], scatters, completed=True)] for rate in offered
        ] or [["-", *_shape_cells([], scatters, completed=True)]]
        rows.append([*size, *batches, *servers[0]])
        rows += [[""] * len([*size, *batches]) + cells for cells in servers[1:]]
    head = ["model", "10^9 parameters", "for one token, 10^9", "batch: J per output token", "mean W", "tokens/s", "findings", "server: requests/s", "J per output token", "mean W", "tokens/s", "requests completed in the window", "findings"]  # fmt: skip
    return markdown(head, rows)


def _shape_cells(runs: Sequence[Result], scatters: Scatters, *, completed: bool) -> list[str]:
    """J per output token, W, tokens/s, findings. `completed`: also the fewest requests completed in a window."""
    good = valid(runs)
    cells = [_per_token(good, scatters), number(over(good, WATTS)), number(over(good, TOKENS))]
    if completed:
        fewest = over(good, "requests/completed_in_window", np.min)
        cells.append("-" if fewest is None else f"{fewest:.0f}")
    return [*cells, remarks(runs) if runs else "not measured"]


def _per_token(good: Sequence[Result], scatters: Scatters) -> str:
    """Mean J per output token and half of its interval; `(n=3)` where repeated."""
    found = estimated(good, PER_TOKEN, scatters)
    if found is None:
        return "-"
    return number(found.value) + plus_minus(found) + (f" (n={len(good)})" if len(good) > 1 else "")


def plus_minus(found: Estimate) -> str:
    """` ± 0.012`; empty where nothing tells it."""
    return "" if found.half_width is None else f" ± {number(found.half_width, 2)}"


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


def headline(runs: Sequence[Result], scatters: Scatters) -> str:
    """Loads as they are deployed, on H100 and H200: J per output token, the ratio, latency. Invalid runs are only counted."""
    chosen = [run for run in runs if not is_of_many_shapes(run) and run.levers != BARE_LIMITS]
    names = ("H100", "H200")
    by_gpu = [[run for run in chosen if name in "".join(run.gpus)] for name in names]
    rows = []
    for load, found in sorted(by(chosen, lambda run: (run.rate_rps or 0.0, name_of(run))).items()):
        sides = [[run for run in found if run in side] for side in by_gpu]
        good = [valid(side) for side in sides]
        ratio = _ratio_cells(good[0], good[1], scatters)[2]
        for name, side, counted in zip(names, sides, good, strict=True):
            if side:
                first = name == names[0] or not sides[0]
                rows.append(
                    [
                        load[1] if first else "",
                        name,
                        _per_token(counted, scatters),
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


def shape_ratios(h100: Sequence[Result], h200: Sequence[Result], scatters: Scatters) -> str:
    """Shapes with valid runs of one and the same setting on both GPUs: J per output token of each, and their ratio."""
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
                for cell in _ratio_cells(*kinds.get(kind, ([], [])), scatters)
            ),
            _spoiled(kinds),
        ]
        for (name, rate), kinds in sorted(pairs.items())
    ]
    figures = ["J per output token, H100", "H200", "H100 / H200"]
    head = ["model", f"batch: {figures[0]}", *figures[1:], f"server: {figures[0]}", *figures[1:], "findings that touch the ratio"]  # fmt: skip
    return markdown(head, rows)


def _ratio_cells(h100: Sequence[Result], h200: Sequence[Result], scatters: Scatters) -> list[str]:
    """Both energies and their ratio, with its interval, which has both sensors in it."""
    found = scatters.compare(cell_of("H100", h100), cell_of("H200", h200))
    if found is None:
        return ["-", "-", "-"]
    ends = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    return [_per_token(h100, scatters), _per_token(h200, scatters), f"{found.ratio:.2f}{ends}"]


def _spoiled(kinds: dict[str, tuple[list[Result], list[Result]]]) -> str:
    """Servers that could not keep up and engines that stood still: there the two GPUs did not do the same work."""
    return "; ".join(
        f"{kind}, {gpu}: `{code}`"
        for kind, pair in sorted(kinds.items())
        for gpu, runs in zip(("H100", "H200"), pair, strict=True)
        for code in ("overloaded", "engine_stalled")
        if any(has(run, code) for run in runs)
    )


def starts(runs: Sequence[Result], scatters: Scatters) -> str:
    """By how much starts of an engine scatter, by kind of load, and how far the CPU's time for a step goes with it."""
    figures = (PER_TOKEN, WATTS, "latency/ttft_p50_ms", "latency/tpot_p50_ms")
    rows = []
    for kind in sorted(scatters.kinds, key=str):
        name = load_kind(str(kind[-2]), bool(kind[-1]))
        found = [scatters.of_one_start(key, kind) for key in figures]
        per_token = found[0]
        if name is None or per_token is None:
            continue
        slope, correlation, count = moves_with(
            [run for run in valid(runs) if run.load_kind == name], "host/decode_launch_ms", PER_TOKEN
        )
        rows.append(
            [
                name,
                f"{per_token[1]:.0f}",
                *("-" if one is None else f"{100 * one[0]:.1f} %" for one in found),
                f"{100 * t_975(per_token[1]) * per_token[0]:.1f} %",
                f"{slope:+.2f} (r = {correlation:+.2f}, {count} runs)",
            ]
        )
    head = ["kind of load", "degrees of freedom", "sd: J per output token", "mean W", "TTFT p50", "TPOT p50", "95 % of one start, J per output token", "J per output token ~ CPU time of a decoding step, to the power of"]  # fmt: skip
    return markdown(head, rows)


def moves_with(runs: Iterable[Result], cause: str, key: str) -> tuple[float, float, int]:
    """(slope, correlation, runs) of the logarithm of a figure on that of another, within the settings that were repeated; nan where there are none."""
    x: list[float] = []
    y: list[float] = []
    for repeats in by(runs, lambda run: run.setting_key).values():
        both = [(a, b) for run in repeats if (a := run.value(cause)) and (b := run.value(key))]
        if len(both) > 1:
            centred = np.log(both) - np.log(both).mean(axis=0)
            x += centred[:, 0].tolist()
            y += centred[:, 1].tolist()
    across, along = float(np.dot(x, x)), float(np.dot(y, y))
    if not across or not along:
        return float("nan"), float("nan"), len(x)
    together = float(np.dot(x, y))
    return together / across, together / math.sqrt(across * along), len(x)
