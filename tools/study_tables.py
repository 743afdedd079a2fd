"""Tables of what studies on real GPUs found: what levers save, the load curve, many shapes, one GPU beside another.

Each takes the entries of one GPU model. Valid runs of one setting are its repeats and count alike, whatever boards they
were on; invalid ones count for nothing and are said to be there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.stats import t as student
from tables import Entry, is_of_many_shapes, number, table

from wattcount.config import fit
from wattcount.config.catalogue import model_catalogue

ENERGY = "energy/gpu_j"
PER_TOKEN = "energy/gpu_j_per_output_token"
TOKENS = "throughput/output_tokens_per_s"
WATTS = "power/gpu_mean_w"

UNREMARKABLE = frozenset({"power_capped", "attribution_at_slowed_clocks"})
"""Findings of nearly every full load, so not repeated in each row."""

SHORT_RATE_RPS = 20.0
"""Of `server_short`, unless a shape cannot keep up with it."""

Key = TypeVar("Key", bound=Hashable)


# -- intervals


def half_width(values: Sequence[float]) -> float | None:
    """95 % half-width of the mean of `values`, in their unit, by Student's t over them; None for fewer than two."""
    if len(values) < 2:
        return None
    factor = float(student.ppf(0.975, len(values) - 1))
    return factor * float(np.std(values, ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True)
class Scatter:
    """How far repeats of one setting lie apart: the variance of their logarithms, and its degrees of freedom."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, settings: Iterable[Sequence[float]]) -> Scatter:
        """Pooled over the repeats of each setting, as if all scattered alike in percent."""
        logarithms = [np.log(values) for values in settings if len(values) > 1]
        freedom = sum(len(values) - 1 for values in logarithms)
        squares = sum(float(((values - values.mean()) ** 2).sum()) for values in logarithms)
        return cls(squares / freedom if freedom else 0.0, freedom)

    @classmethod
    def of_runs(cls, key: str, *gpus: Sequence[Entry], many_shapes: bool) -> Scatter:
        """Of a metric, over all settings that were repeated on different boards of a GPU model; a sequence of runs for each
        model. Repeats on one board tell nothing of what boards differ by, which a lever on another board meets: they count
        as one, their mean.

        many_shapes  of the study `architectures` alone, or of all else: its short eager runs depend on the host's CPU, too
        """
        return cls.of(
            [float(np.mean([e.value(key) for e in board])) for board in _by(repeats, _board).values()]
            for runs in gpus
            for repeats in _by(_valid(runs), _setting).values()
            if is_of_many_shapes(repeats[0]) == many_shapes
        )


def change(turned: Sequence[float], usual: Sequence[float], scatter: Scatter) -> tuple[float, float | None]:
    """(percent, 95 % half-width in percentage points) of the geometric mean of `turned` against that of `usual`.

    By Student's t for two means of logarithms, with the variance and the degrees of freedom of `scatter`: None where
    nothing was repeated. The half-width is half of the interval's length after the way back to percent.
    """
    ratio = float(np.log(turned).mean() - np.log(usual).mean())
    percent = 100 * float(np.expm1(ratio))
    if not scatter.freedom:
        return percent, None
    factor = float(student.ppf(0.975, scatter.freedom))
    half = factor * (scatter.variance * (1 / len(turned) + 1 / len(usual))) ** 0.5
    return percent, 100 * float(np.exp(ratio) * np.sinh(half))


def _changed(turned: Sequence[Entry], usual: Sequence[Entry], key: str, scatter: Scatter) -> str:
    percent, half = change([e.value(key) for e in turned], [e.value(key) for e in usual], scatter)
    return f"{percent:+.1f} %" + (f" ± {half:.1f}" if half is not None else ", nothing was repeated")


# -- repeats


def _by(runs: Iterable[Entry], key: Callable[[Entry], Key]) -> dict[Key, list[Entry]]:
    found: dict[Key, list[Entry]] = {}
    for entry in runs:
        found.setdefault(key(entry), []).append(entry)
    return found


def _valid(runs: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in runs if entry.valid]


def _over(runs: Sequence[Entry], key: str, middle: Callable[[list[float]], Any] = np.mean) -> float | None:
    """The mean (or what `middle` is) of a metric over those runs that have it, in its unit."""
    values = [value for entry in runs if (value := entry.metrics[key]) is not None]
    return float(middle(values)) if values else None


def _p50_p95(runs: Sequence[Entry], name: str) -> str:
    """Medians over the runs."""
    return " / ".join(number(_over(runs, f"latency/{name}_p{p}_ms", np.median)) for p in (50, 95))


def _board(entry: Entry) -> str:
    return entry.board


def _boards(runs: Iterable[Entry]) -> str:
    return ", ".join(dict.fromkeys(entry.board for entry in runs))


def _codes(runs: Sequence[Entry], unsaid: Collection[str]) -> str:
    """The findings of runs, each with how many have it, where not all do."""
    counts: dict[str, int] = {}
    for entry in runs:
        for code in dict.fromkeys(entry.findings):
            if code not in unsaid:
                counts[code] = counts.get(code, 0) + 1
    return ", ".join(
        f"`{code}`" + (f" ({count} of {len(runs)})" if count < len(runs) else "")
        for code, count in counts.items()
    )


def remarks(runs: Sequence[Entry], unsaid: Collection[str] = UNREMARKABLE) -> str:
    """What was found in valid runs, and how many are invalid with what findings; all but the codes `unsaid`."""
    invalid = [entry for entry in runs if not entry.valid]
    said = [_codes(_valid(runs), unsaid)]
    if invalid:
        share = f"{len(invalid)} of {len(runs)} " if len(runs) > 1 else ""
        codes = _codes(invalid, unsaid)
        said.append(f"{share}invalid" + (f": {codes}" if codes else ""))
    return "; ".join(part for part in said if part)


# -- tables


def _load(entry: Entry) -> tuple[Hashable, ...]:
    """What two runs must share for a lever to be the only difference; the initialiser is no lever here."""
    scenario, model = entry.scenario, entry.config["model"]
    lengths = scenario["lengths"]
    return (
        entry.model,
        model.get("weights"),
        model.get("initializer", "dummy"),
        scenario["name"],
        scenario.get("num_requests"),
        scenario.get("rate_rps"),
        scenario.get("window_s"),
        lengths["input_tokens"],
        lengths["output_tokens"],
        entry.record.info.versions.get("vllm"),
    )


def _is_weights(lever: str) -> bool:
    return lever.endswith(" weights")


def lever_savings(runs: Sequence[Entry], *others: Sequence[Entry]) -> str:
    """Each lever against the same load without it, whose own row stands first.

    others  runs on other GPU models, whose repeats tell how runs scatter, too
    """
    rows = []
    scatters = [Scatter.of_runs(key, runs, *others, many_shapes=False) for key in (PER_TOKEN, TOKENS)]
    loads = _by((e for e in runs if not is_of_many_shapes(e)), _load)
    for load in sorted(loads.values(), key=lambda found: found[0].name):
        without = {_engine(entry) for entry in load if not entry.levers}
        settings = _by(
            (e for e in load if len(e.levers) < 2),
            # What is set to what the engine takes without is no lever.
            lambda e, without=without: "" if _engine(e) in without else "".join(e.levers),
        )
        usual = settings.pop("", [])
        turned = {lever: found for lever, found in sorted(settings.items()) if not _is_weights(lever)}
        if not turned:
            continue
        name = ", ".join(load[0].name.split(", ")[: -len(load[0].levers) or None])
        rows.append([name, *_setting_cells("none", usual, [], scatters)])
        rows += [
            ["", *_setting_cells(lever, found, _valid(usual), scatters)] for lever, found in turned.items()
        ]
    head = ["load", "lever", "GPUs", "valid runs, with / without", "mJ per output token (board)", "against without", "mean W", "output tokens/s", "against without", "findings"]  # fmt: skip
    return table(head, rows)


def _setting_cells(
    lever: str, runs: Sequence[Entry], usual: Sequence[Entry], scatters: Sequence[Scatter]
) -> list[str]:
    """`runs` of a lever, or without any (`none`), against the valid runs `usual` without it.

    scatters  of J per output token and of tokens/s
    """
    valid = _valid(runs)
    if lever == "none":
        counted, changes = str(len(valid)), ["", ""]
    else:
        counted = f"{len(valid)} / {len(usual)}"
        changes = [
            _changed(valid, usual, key, scatter) if valid and usual else "-"
            for key, scatter in zip((PER_TOKEN, TOKENS), scatters, strict=True)
        ]
    return [
        lever,
        ", ".join(sorted({str(entry.gpus) for entry in runs})) or "-",
        counted,
        ", ".join(f"{1e3 * e.value(PER_TOKEN):.2f} ({e.board})" for e in valid) or "-",
        changes[0],
        number(_over(valid, WATTS)),
        number(_over(valid, TOKENS), 4),
        changes[1],
        remarks(runs) if runs else "not measured",
    ]


def load_curve(runs: Sequence[Entry]) -> str:
    """Llama-3-8B's shape by offered load, one row a rate, nothing turned."""
    chosen = [e for e in runs if e.scenario["name"] == "server" and e.model == "llama3_8b" and not e.levers]
    rows = []
    first: float | None = None
    for rate, found in sorted(_by(chosen, lambda e: float(e.scenario["rate_rps"])).items()):
        valid = _valid(found)
        mean = _over(valid, PER_TOKEN)
        to_first = "" if first is None or mean is None else f"{100 * (mean / first - 1):+.0f} %"
        first = mean if first is None else first
        rows.append(
            [
                f"{rate:g}",
                number(_over(valid, "throughput/requests_per_s")),
                _per_token_percent(valid),
                to_first,
                number(_over(valid, "energy/dynamic_j_per_output_token")),
                number(_over(valid, WATTS)),
                _p50_p95(valid, "ttft"),
                _p50_p95(valid, "tpot"),
                f"{len(valid)} of {len(found)}",
                _boards(valid) or "-",
                _curve_remarks(found),
            ]
        )
    head = ["offered, requests/s", "completed, requests/s", "J per output token", "to the first rate's", "J per output token without idle", "mean W", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms", "valid runs", "boards", "remarks"]  # fmt: skip
    return table(head, rows)


def _per_token_percent(valid: Sequence[Entry]) -> str:
    """Mean J per output token ± 95 % over the repeats; with a single run ± the method's part alone, and it says so."""
    if not valid:
        return "-"
    values = [entry.value(PER_TOKEN) for entry in valid]
    mean, half = float(np.mean(values)), half_width(values)
    if half is not None:
        return f"{number(mean)} ± {100 * half / mean:.1f} %"
    method = valid[0].value(f"{ENERGY}_u95_method") / valid[0].value(ENERGY)
    return f"{number(mean)} ± {100 * method:.2f} % (method)"


def _curve_remarks(runs: Sequence[Entry]) -> str:
    """That it could not keep up, in how many runs and whether they are valid; other findings by their codes."""
    said = []
    slow = [entry for entry in runs if "overloaded" in entry.findings]
    if slow:
        share = f" in {len(slow)} of {len(runs)}" if len(slow) < len(runs) else ""
        counted = len(_valid(slow))
        state = (
            "valid" if counted == len(slow) else f"{counted} of {len(slow)} valid" if counted else "invalid"
        )
        said.append(f"it could not keep up{share} ({state})")
    rest = remarks(runs, UNREMARKABLE | {"overloaded"})
    return "; ".join(part for part in [*said, rest] if part)


def shapes(runs: Sequence[Entry]) -> str:
    """One row a shape and rate of its servers, the highest first and with the shape's batches."""
    catalogue = model_catalogue()
    rows = []
    for name, found in sorted(_by(filter(is_of_many_shapes, runs), lambda e: e.model).items()):
        counted = fit.count_parameters(catalogue[name].hf_config)
        assert counted is not None
        rates = _by(found, lambda e: e.scenario.get("rate_rps"))
        batches = _shape_cells(rates.pop(None, []), completed=False)
        size = [name, f"{counted.total / 1e9:.1f}", f"{counted.active / 1e9:.1f}"]
        servers = [
            [f"{rate:g}", *_shape_cells(rates[rate], completed=True)] for rate in sorted(rates, reverse=True)
        ] or [["-", *_shape_cells([], completed=True)]]
        rows.append([*size, *batches, *servers[0]])
        rows += [[""] * len([*size, *batches]) + cells for cells in servers[1:]]
    head = ["model", "10^9 parameters", "for one token, 10^9", "batch: J per output token", "mean W", "tokens/s", "findings", "server: requests/s", "J per output token", "mean W", "tokens/s", "requests completed in the window", "findings"]  # fmt: skip
    return table(head, rows)


def _shape_cells(runs: Sequence[Entry], *, completed: bool) -> list[str]:
    """J per output token, W, tokens/s, findings; `completed`: the fewest requests completed in a window, too."""
    valid = _valid(runs)
    cells = [_per_token(valid), number(_over(valid, WATTS)), number(_over(valid, TOKENS))]
    if completed:
        fewest = _over(valid, "requests/completed_in_window", np.min)
        cells.append("-" if fewest is None else f"{fewest:.0f}")
    return [*cells, remarks(runs) if runs else "not measured"]


def _per_token(valid: Sequence[Entry]) -> str:
    """Mean J per output token, `± half-width (n=3)` where repeated."""
    values = [entry.value(PER_TOKEN) for entry in valid]
    half = half_width(values)
    mean = number(float(np.mean(values)) if values else None)
    return mean if half is None else f"{mean} ± {number(half, 2)} (n={len(values)})"


# -- one GPU beside another


LATER: dict[str, dict[str, Any]] = {
    "model": {"initializer": "dummy"},
    "engine": {"pipeline_parallel_size": 1, "data_parallel_size": 1},
}
"""Keys that records of earlier versions lack, with what those ran with."""


def _setting(entry: Entry) -> str:
    """All of a run but the GPU: model, load, engine and its version.

    What is not set counts like a key that a record of an earlier version lacks, and so does a default of `LATER`.
    """
    # Nothing that was measured before it depends on it.
    scenario = {k: v for k, v in entry.scenario.items() if k != "bare_idle_after_s"}
    return json.dumps(
        [_set(scenario), entry.record.info.versions.get("vllm"), _engine(entry)], sort_keys=True
    )


def _engine(entry: Entry) -> str:
    """Model and engine as they were asked for, and what the engine chose itself of what shapes its steps.

    Whether a value was asked for or left to the engine (`unset`) makes no other setting.
    """
    asked = {group: LATER[group] | entry.config[group] for group in ("model", "engine")}
    asked["engine"].pop("unset", None)
    chosen = entry.record.info.engine.get("details", {})
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        if asked["engine"].get(name) is None:
            asked["engine"][name] = chosen.get(name)
    return json.dumps(_set(asked), sort_keys=True)


def _set(value: Any) -> Any:
    """A configuration without the keys that are null."""
    if isinstance(value, dict):
        return {key: _set(item) for key, item in value.items() if item is not None}
    return value


def shape_ratios(h100: Sequence[Entry], h200: Sequence[Entry]) -> str:
    """Shapes with valid runs of one and the same setting on both GPUs: J per output token of each, and their ratio."""
    scatter = Scatter.of_runs(PER_TOKEN, h100, h200, many_shapes=True)
    sides = [_by(filter(is_of_many_shapes, _valid(side)), _setting) for side in (h100, h200)]
    pairs: dict[tuple[str, float], dict[str, tuple[list[Entry], list[Entry]]]] = {}
    for setting, ours in sides[0].items():
        if setting in sides[1]:
            rate = ours[0].scenario.get("rate_rps") or SHORT_RATE_RPS
            kinds = pairs.setdefault((ours[0].model, rate), {})
            kinds[ours[0].scenario["kind"]] = (ours, sides[1][setting])
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
    return table(head, rows)


def _ratio_cells(h100: Sequence[Entry], h200: Sequence[Entry], scatter: Scatter) -> list[str]:
    """Both energies and their ratio, with its interval where anything was repeated."""
    if not h100 or not h200:
        return ["-", "-", "-"]
    percent, half = change([e.value(PER_TOKEN) for e in h100], [e.value(PER_TOKEN) for e in h200], scatter)
    ratio = f"{1 + percent / 100:.2f}" + ("" if half is None else f" ± {half / 100:.2f}")
    return [_per_token(h100), _per_token(h200), ratio]


def _spoiled(kinds: dict[str, tuple[list[Entry], list[Entry]]]) -> str:
    """Where a server could not keep up or an engine stood still, so that the two did not serve the same."""
    return "; ".join(
        f"{kind}, {gpu}: `{code}`"
        for kind, pair in sorted(kinds.items())
        for gpu, runs in zip(("H100", "H200"), pair, strict=True)
        for code in ("overloaded", "engine_stalled")
        if any(code in entry.findings for entry in runs)
    )


def scatter_words(*gpus: Sequence[Entry]) -> str:
    """How far repeats lie apart, a sentence each for the many shapes and for all else."""
    sentences = []
    for many_shapes, runs in (
        (False, "Repeats of one setting"),
        (True, "Those of the many shapes (short, eager)"),
    ):
        said = []
        for name, key in (("J per output token", PER_TOKEN), ("tokens/s", TOKENS)):
            found = Scatter.of_runs(key, *gpus, many_shapes=many_shapes)
            said.append(f"sd {100 * found.variance**0.5:.1f} % of {name}")
        sentences.append(f"{runs} scatter by {' and '.join(said)} ({found.freedom} degrees of freedom).")
    return " ".join(sentences)
