"""Which GPU, settings and number of replicas should serve a model at a load: ranked by the energy of a request that keeps the SLO.

A replica with rate r draws the power that was measured at r, or that lies between those of the two measured rates around it: where the curves of models of like size that
were measured between these two lie between theirs, and without such curves on a straight line of logarithms:

    J per good request = P(r) / (r x share that keeps the SLO at the measured rate at or above r)

Nothing is taken from beyond the measured rates. So a load is served by as many replicas as put each within them.

The *regret* is how much more energy the advice takes than the truly best option, in the mean over what the data leave open: the energies are
drawn by their uncertainties, and each time the best one is looked up.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.engines import registry
from wattcount.report.units import count
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import Result
from wattcount.study.bills import Bills
from wattcount.study.comparison import Cell, Scatters, cells, sensor_sd, start_of
from wattcount.study.curves import Shape, curve_key, part_of_rise, shapes
from wattcount.study.quality import MARGIN, Quality, Score, Users, against_unquantised, service
from wattcount.study.service import KEPT_SHARE, Attained, Count, over_runs

MOST_REPLICAS = 64
"""Most replicas of one option: beyond a machine of eight GPUs many times over, others count more than energy."""
SHAPE_SD = (0.015, 0.032)
"""Standard uncertainty of the logarithm of the power between two measured rates, where curves of like models tell the shape: for each unit of
ln(rate above / rate below) up to a factor of 16, and the most of it, up to a factor of 48. `benchmarks/bench_interpolation.py` derives it from the curves in data/."""
LINE_SD = (0.023, 0.045)
"""The same where nothing tells the shape, and a straight line of logarithms stands for it."""
UNTOLD_SD = 0.05
"""Standard uncertainty of a figure whose scatter nothing tells, of the logarithm: the largest that kinds of load have in `result.host_part`."""
MOST_REGRET = 0.05
"""Expected regret above which there is no advice: as much as starts of the engine differ by."""
DRAWS = 4000
"""Draws of the energies: the regret of one set of draws differs from another's by less than a tenth of it."""
SEED = 7
"""Of the draws: the same results give the same advice."""
HOW_MEASURED, HOW_INTERPOLATED = "measured", "interpolated"


@dataclass(frozen=True)
class Need:
    """What is to be served. `rate_rps` None: a batch, without an SLO."""

    model: str
    rate_rps: float | None
    input_tokens: int
    output_tokens: int
    slo: SloConfig
    gpus: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        load = "as a batch" if self.rate_rps is None else f"at {self.rate_rps:g} requests/s"
        return f"{self.model} {load}, {self.input_tokens} tokens in, {self.output_tokens} out"


@dataclass(frozen=True)
class Option:
    """A GPU with settings, so many times.

    energy_j   of a request that keeps the SLO (of a request of a batch), with its 95 % interval
    sd, sensor standard uncertainty of its logarithm: scatter and interpolation, and the sensor, which options on one GPU model share
    share      at least this share of the requests keep the SLO; None: a batch
    nodes      the measured cells that it rests on: one, or the two rates around
    quality    what its quantisation costs in scores; None: it has none
    """

    gpu: str
    gpu_model: str
    gpus: int
    setting: str
    replicas: int
    rate_rps: float | None
    how: str
    energy_j: float
    low_j: float
    high_j: float
    sd: float
    sensor: float
    share: float | None
    watts: float
    nodes: tuple[Cell, ...]
    cost_per_1000: float | None
    carbon_g_per_1000: float | None
    quality: Quality | None = None

    @property
    def place(self) -> tuple[str, str]:
        """The GPU and its settings, however many times."""
        return self.gpu, self.setting

    @property
    def basis(self) -> str:
        """On how many boards, starts and runs it rests: `4/9/9`."""
        runs = [run for cell in self.nodes for run in cell.runs]
        boards, starts = {board for run in runs for board in run.boards}, {start_of(run) for run in runs}
        return f"{len(boards) or '?'}/{len(starts)}/{len(runs)}"

    @property
    def how_words(self) -> str:
        """`measured`, `interpolated between 8 and 16 requests/s`."""
        if self.how != HOW_INTERPOLATED:
            return self.how
        ends = [f"{cell.first.rate_rps:g}" for cell in self.nodes]
        return f"interpolated between {ends[0]} and {ends[-1]} requests/s"

    @property
    def num_gpus(self) -> int:
        return self.gpus * self.replicas

    def to_json(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "setting": self.setting,
            "replicas": self.replicas,
            "gpus": self.num_gpus,
            "rate_rps_per_replica": self.rate_rps,
            "how": self.how,
            "j_per_good_request": self.energy_j,
            "low_j": self.low_j,
            "high_j": self.high_j,
            "share_that_keeps_the_slo_at_least": self.share,
            "mean_w": self.watts,
            "cost_per_1000_good_requests": self.cost_per_1000,
            "carbon_g_per_1000_good_requests": self.carbon_g_per_1000,
            "quality": None if self.quality is None else self.quality.words,
            "quality_change_share": None if self.quality is None else self.quality.change,
            "boards": len({board for cell in self.nodes for run in cell.runs for board in run.boards}),
            "starts": len({start_of(run) for cell in self.nodes for run in cell.runs}),
            "runs": sum(len(cell.runs) for cell in self.nodes),
            "measured_at_rps": [cell.first.rate_rps for cell in self.nodes],
        }


@dataclass(frozen=True)
class Advice:
    """Options from the least energy on, and what may be said of them.

    refusal    why there is no advice; None: there is
    regret     expected, relative; None without options
    sure_of_first  probability that the first is the best of these
    tell       the command that measures what would tell more
    as_good    options of another GPU or other settings than the first's that may be as good, for all that the data tell: the choice among these is a matter of price
    left_out   options that were not considered, by reason
    """

    need: Need
    options: tuple[Option, ...]
    refusal: str | None
    regret: float | None
    sure_of_first: float | None
    why: str
    tell: str | None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    as_good: tuple[Option, ...] = ()

    def to_json(self) -> dict[str, Any]:
        first = self.options[0] if self.options and self.refusal is None else None
        return {
            "need": self.need.words,
            "refusal": self.refusal,
            "expected_regret": self.regret,
            "probability_that_the_first_is_best": self.sure_of_first,
            "why": self.why,
            "run_that_would_tell": self.tell,
            "serve": None if first is None else serve_command(first),
            "verify": None if first is None else verify_command(first, self.need),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "options": [
                option.to_json() | {"may_be_as_good_as_the_first": option in self.as_good}
                for option in self.options
            ],
        }


def advise(
    results: Sequence[Result],
    need: Need,
    bills: Bills | None = None,
    scores: Sequence[Score] = (),
    scatters: Scatters | None = None,
) -> Advice:
    """`scatters`: of all measured results of the need's kind, where somebody asks for many needs; `results` may then be of its model alone.

    Raises nothing: where the data cannot tell, the advice says so. An option whose quantisation surely costs quality by `scores` is left out."""
    bills = bills or Bills()
    measured = [run for run in results if run.is_measured]
    mine = [run for run in measured if is_model(run, need.model)]
    kind = "batch" if need.rate_rps is None else "server"
    lengths = (need.input_tokens, need.output_tokens)
    fitting = [run for run in mine if run.kind == kind and (run.input_tokens, run.output_tokens) == lengths]
    wanted = [run for run in fitting if not need.gpus or _is_gpu(run, need.gpus)]
    if not wanted:
        return _nothing(need, mine, fitting, kind)
    # Scatter is pooled over everything of the kind; the options are of this model only.
    scatters = scatters or Scatters(cells(run for run in measured if run.kind == kind))
    found = cells(wanted)
    left_out = {
        f"no run of it on {gpu}": 0 for gpu in need.gpus if not any(_is_gpu(run, (gpu,)) for run in wanted)
    }
    options = (
        [option for cell in found if (option := _batch(cell, scatters, bills)) is not None]
        if need.rate_rps is None
        else _served(found, scatters, need, bills, left_out)
    )
    options = [
        replace(option, quality=against_unquantised(option.nodes[-1].first, scores)) for option in options
    ]
    worse = [o for o in options if o.quality is not None and o.quality.users is Users.WORSE]
    if worse:
        left_out["its quantisation costs more than 1 point of quality"] = len(worse)
        options = [option for option in options if option not in worse]
    options.sort(key=lambda option: option.energy_j)
    if not options:
        what = (
            "; ".join(f"{reason} ({number})" for reason, number in left_out.items())
            or "no run of it is valid"
        )
        return Advice(
            need,
            (),
            f"no option serves {need.words}: {what}",
            None,
            None,
            "",
            _missing_run(need, found),
            left_out,
        )
    regret, sure = _regret(options)
    why, close = _why(options)
    refusal = None
    if regret > MOST_REGRET:
        refusal = (
            f"the data cannot tell: the first may take {100 * regret:.0f} % more energy than the best, "
            f"above {100 * MOST_REGRET:.0f} %"
        )
    return Advice(
        need,
        tuple(options),
        refusal,
        regret,
        sure,
        why,
        verify_command(close or options[0], need),
        left_out,
        (*_notes(options), *_users(options, need.slo)),
        tuple(best for best in _best_of_places(options)[1:] if not _surely_more(options[0], best)),
    )


def is_model(run: Result, name: str) -> bool:
    """Whether a run is of a model, by the option's name or the id on the hub."""
    return name.lower() in names_of(run)


def names_of(run: Result) -> set[str]:
    """What the model of a run may be called, in small letters."""
    known = {run.model, run.setting.get("model", {}).get("hf_id")}
    return {str(item).lower() for item in known if item}


def _is_gpu(run: Result, gpus: Iterable[str]) -> bool:
    names = [str(run.gpu or "").lower(), *(name.lower() for name in run.gpus)]
    return any(
        gpu.lower() == names[0] or any(gpu.lower() in name.split() for name in names[1:]) for gpu in gpus
    )


# -- options


def _batch(cell: Cell, scatters: Scatters, bills: Bills) -> Option | None:
    found = _figure(cell, scatters, PER_TOKEN)
    if found is None or cell.first.output_tokens is None:
        return None
    value, sd = found
    watts, tokens_per_s = cell.mean(WATTS), cell.mean("throughput/output_tokens_per_s")
    energy = value * cell.first.output_tokens
    rate = None if tokens_per_s is None else tokens_per_s / cell.first.output_tokens
    return _option(
        cell, 1, None, HOW_MEASURED, energy, sd, None, watts or 0.0, (cell,), PER_TOKEN, rate, bills
    )


def _served(
    found: Sequence[Cell], scatters: Scatters, need: Need, bills: Bills, left_out: dict[str, int]
) -> list[Option]:
    assert need.rate_rps is not None
    known = shapes(scatters.results, need.slo)
    groups: dict[Hashable, list[Cell]] = {}
    for cell in found:
        if cell.first.rate_rps is not None and cell.mean(WATTS) is not None:
            groups.setdefault(curve_key(cell), []).append(cell)
    options = []
    for group in groups.values():
        points = sorted(group, key=lambda cell: cell.first.rate_rps or 0.0)
        rates = [float(cell.first.rate_rps or 0.0) for cell in points]
        reached = False
        for replicas in range(1, MOST_REPLICAS + 1):
            rate = need.rate_rps / replicas
            around = _around(rates, rate)
            if around is None:
                if rate < rates[0]:
                    break
                continue
            reached = True
            option = _at(points, around, rate, replicas, scatters, known, need, bills, left_out)
            if option is not None:
                options.append(option)
        if not reached:
            _count(left_out, f"measured at {_from_to(rates)} only")
    return options


def _from_to(rates: Sequence[float]) -> str:
    return (
        f"{rates[0]:g} requests/s" if rates[0] == rates[-1] else f"{rates[0]:g} to {rates[-1]:g} requests/s"
    )


def _around(rates: Sequence[float], rate: float) -> tuple[int, int] | None:
    """Indices of the measured rates around a rate; twice the same where it was measured; None: it lies beyond them."""
    for at, measured in enumerate(rates):
        if math.isclose(measured, rate, rel_tol=1e-9):
            return at, at
        if measured > rate:
            return (at - 1, at) if at else None
    return None


def _at(
    points: Sequence[Cell],
    around: tuple[int, int],
    rate: float,
    replicas: int,
    scatters: Scatters,
    known: Sequence[Shape],
    need: Need,
    bills: Bills,
    left_out: dict[str, int],
) -> Option | None:
    below, above = (points[at] for at in around)
    share = _share(above, need.slo)
    if share is None or share.keeps is None:
        _count(left_out, "its figures do not tell whether it keeps the SLO")
        return None
    if not share.keeps:
        _count(left_out, "breaks the SLO" if below is above else "the next measured rate breaks the SLO")
        return None
    ends = [_figure(cell, scatters, WATTS) for cell in (below, above)]
    if ends[0] is None or ends[1] is None:
        return None
    (low_w, low_sd), (high_w, high_sd) = ends[0], ends[1]
    if below is above:
        watts, sd, how = low_w, low_sd, HOW_MEASURED
        nodes: tuple[Cell, ...] = (below,)
    else:
        ends_rps = [float(cell.first.rate_rps or 0.0) for cell in (below, above)]
        span = math.log(ends_rps[1] / ends_rps[0])
        part = part_of_rise(known, above.first, ends_rps[0], rate, ends_rps[1])
        each, most = LINE_SD if part is None else SHAPE_SD
        part = math.log(rate / ends_rps[0]) / span if part is None else part
        watts = low_w ** (1 - part) * high_w**part
        sd = math.hypot((1 - part) * low_sd, part * high_sd, min(each * span, most))
        how, nodes = HOW_INTERPOLATED, (below, above)
    energy = watts / (rate * share.low)
    return _option(
        above, replicas, rate, how, energy, sd, share.low, watts, nodes, WATTS, rate * share.low, bills
    )


def _share(cell: Cell, slo: SloConfig) -> Attained | None:
    return over_runs(cell.runs, slo, Count.WHERE_UNSURE)


def _figure(cell: Cell, scatters: Scatters, key: str) -> tuple[float, float] | None:
    """(mean, standard uncertainty of its logarithm without the sensor)."""
    value = cell.mean(key)
    if value is None:
        return None
    sd = scatters.log_sd(cell, key)
    return value, UNTOLD_SD if sd is None else sd


def _option(
    cell: Cell,
    replicas: int,
    rate: float | None,
    how: str,
    energy_j: float,
    sd: float,
    share: float | None,
    watts: float,
    nodes: tuple[Cell, ...],
    key: str,
    good_rps: float | None,
    bills: Bills,
) -> Option:
    sensor = max(sensor_sd(node.runs, key) for node in nodes)
    half = 1.96 * math.hypot(sd, sensor)
    gpus = max(1, len(cell.first.gpus))
    return Option(
        cell.gpu,
        cell.gpu_model,
        gpus,
        setting_words(cell),
        replicas,
        rate,
        how,
        energy_j,
        energy_j * math.exp(-half),
        energy_j * math.exp(half),
        sd,
        sensor,
        share,
        watts,
        nodes,
        bills.cost_per_1000(cell.first.gpu, cell.gpu_model, gpus, good_rps),
        bills.carbon_g_per_1000(energy_j),
    )


def setting_words(cell: Cell) -> str:
    """What an operator sets, in words."""
    run = cell.first
    words = [run.engine or ""] if run.engine else []
    words += list(cell.levers)
    if run.kind == "batch" and run.num_requests is not None:
        words.append(f"{run.num_requests} at a time")
    return ", ".join(word for word in words if word) or "as the engine chooses"


def _count(of: dict[str, int], reason: str) -> None:
    of[reason] = of.get(reason, 0) + 1


# -- how sure


def _regret(options: Sequence[Option]) -> tuple[float, float]:
    """(expected regret of taking the first, probability that it is the best). Options on one GPU model share the sensor's error."""
    if len(options) == 1:
        return 0.0, 1.0
    rng = np.random.default_rng(SEED)
    models = sorted({option.gpu_model for option in options})
    common = {model: rng.normal(size=DRAWS) for model in models}
    # Options of the same cells move together: they are the same measurement.
    own: dict[tuple[Hashable, ...], Any] = {}
    drawn = []
    for option in options:
        nodes = tuple(node.key for node in option.nodes)
        mine = own.setdefault(nodes, rng.normal(size=DRAWS))
        drawn.append(math.log(option.energy_j) + option.sd * mine + option.sensor * common[option.gpu_model])
    logs = np.array(drawn)
    least = logs.min(axis=0)
    return float(np.mean(np.expm1(logs[0] - least))), float(np.mean(logs[0] <= least))


def _best_of_places(options: Sequence[Option]) -> list[Option]:
    """Of each GPU with its settings the number of replicas that takes the least energy."""
    found: dict[tuple[str, str], Option] = {}
    for option in options:
        found.setdefault(option.place, option)
    return list(found.values())


def _surely_more(first: Option, other: Option) -> bool:
    """Whether `other` takes more energy than the first, beyond chance with 95 %."""
    sensor = 0.0 if first.gpu_model == other.gpu_model else math.hypot(first.sensor, other.sensor)
    half = 1.96 * math.sqrt(first.sd**2 + other.sd**2 + sensor**2)
    return math.log(other.energy_j / first.energy_j) > half


def _why(options: Sequence[Option]) -> tuple[str, Option | None]:
    """(why the first stands before the next of another GPU or other settings, the option that another run should be of where that is not sure)."""
    first, *others = _best_of_places(options)
    if not others:
        return "it is the only option that was measured", None
    second = others[0]
    less = 100 * (1 - first.energy_j / second.energy_j)
    what = f"{second.gpu} x {second.replicas}, {second.setting}"
    if _surely_more(first, second):
        return f"{less:.1f} % less energy than {what}, which is more than chance", None
    weaker = first if first.sd >= second.sd else second
    return f"{less:.1f} % less energy than {what}, which may be chance", weaker


def _notes(options: Sequence[Option]) -> tuple[str, ...]:
    runs = [run for option in options for node in option.nodes for run in node.runs]
    found = []
    if any(run.weights == "random" for run in runs):
        found.append(
            "Random weights: energy and latency are those of the shape; outputs are of the length that was asked for."
        )
    if any(option.how == HOW_INTERPOLATED for option in options[:1]):
        found.append(f"The first option was not measured at its rate: it is {options[0].how_words}.")
    for option in options[:1]:
        if option.quality is not None:
            words = option.quality.words
            found.append(
                f"{words[0].upper()}{words[1:]}, quantised against not{_SCORES if option.quality.change is None else '.'}"
            )
    return tuple(found)


def _users(options: Sequence[Option], slo: SloConfig) -> list[str]:
    """What the first does to users against the next, by runs with the same arrivals, where both were measured at one rate."""
    if len(options) < 2 or any(o.how != HOW_MEASURED or o.rate_rps is None for o in options[:2]):
        return []
    first, second = options[0], options[1]
    if first.rate_rps != second.rate_rps:
        return []
    found = service(first.nodes[0], second.nodes[0], slo)
    on = f"{count(found.pairs, 'pair')} of runs with the same arrivals"
    margin = f"{100 * MARGIN:.0f} points"
    if found.users is Users.KEPT:
        return [
            f"The share of requests that keep the SLO falls by less than {margin} against the next (95 %, {on})."
        ]
    if found.users is Users.WORSE:
        return [
            f"The share of requests that keep the SLO falls by more than {margin} against the next (95 %, {on})."
        ]
    return [
        f"Whether fewer requests keep the SLO than with the next, by {margin} or more, was not shown ({on})."
    ]


_SCORES = ": results of lm-evaluation-harness with --quality would tell."


def _nothing(need: Need, mine: Sequence[Result], fitting: Sequence[Result], kind: str) -> Advice:
    if fitting:
        there = sorted({str(run.gpu or run.gpus) for run in fitting})
        why = f"{need.model} was measured on {', '.join(there)}, not on {', '.join(need.gpus)}"
    elif mine:
        lengths = sorted({f"{r.input_tokens}/{r.output_tokens} ({r.kind})" for r in mine})
        why = f"{need.model} was measured with the lengths {', '.join(lengths)} only, not {need.input_tokens}/{need.output_tokens} as a {kind}"
    else:
        why = f"no result is of {need.model}"
    return Advice(need, (), why, None, None, "", _missing_run(need, ()))


# -- commands


def _missing_run(need: Need, found: Sequence[Cell]) -> str:
    if found:
        best = min(found, key=lambda cell: abs((cell.first.rate_rps or 0.0) - (need.rate_rps or 0.0)))
        return _command(best, need.rate_rps, need)
    gpu = need.gpus[0] if need.gpus else "auto"
    words = [f"model={need.model}", f"gpu={gpu}", *_load_overrides(need, need.rate_rps)]
    return shlex.join(["wattcount", *words])


def verify_command(option: Option, need: Need) -> str:
    """The command that measures an option at its rate."""
    return _command(option.nodes[-1], option.rate_rps, need)


def _command(cell: Cell, rate_rps: float | None, need: Need) -> str:
    run = cell.first
    words = [f"model={run.model}", f"gpu={run.gpu or 'auto'}"]
    words += [f"model.{key}={_plain(value)}" for key, value in run.setting.get("model", {}).items() if key not in _MODEL_IS and _simple(value)]  # fmt: skip
    words += [f"gpu.{key}={_plain(value)}" for key, value in run.setting.get("gpu", {}).items() if key != "found_name" and _simple(value)]  # fmt: skip
    engine = run.setting.get("engine", {})
    words += [f"engine.{key}={_plain(value)}" for key, value in engine.items() if key not in _ENGINE_IS and _simple(value)]  # fmt: skip
    words += [
        f"+engine.args.{key}={_plain(value)}"
        for key, value in engine.get("args", {}).items()
        if _simple(value)
    ]
    if run.engine and "name" in engine:
        words.append(f"engine={run.engine}")
    words += _load_overrides(need, rate_rps, run)
    return shlex.join(["wattcount", *words])


_MODEL_IS = ("name", "hf_id", "hf_config")
"""Keys of a model that its option has already."""
_ENGINE_IS = ("name", "device", "version_minor", "args", "speculative", "served")
"""Keys of an engine that the machine fills in, or that are written in another way."""


def _load_overrides(need: Need, rate_rps: float | None, run: Result | None = None) -> list[str]:
    kind = "batch" if need.rate_rps is None else "server"
    words = [f"scenario={run.scenario if run is not None and run.scenario else kind}"]
    words += [f"scenario.lengths.input_tokens={need.input_tokens}", f"scenario.lengths.output_tokens={need.output_tokens}"]  # fmt: skip
    if rate_rps is not None:
        words.append(f"scenario.rate_rps={rate_rps:g}")
        bounds = (("ttft_ms", need.slo.ttft_ms), ("tpot_ms", need.slo.tpot_ms), ("e2e_ms", need.slo.e2e_ms))
        words += [f"scenario.slo.{name}={bound:g}" for name, bound in bounds if bound is not None]
    elif run is not None and run.num_requests is not None:
        words.append(f"scenario.num_requests={run.num_requests}")
    return words


def serve_command(option: Option) -> str | None:
    """What serves one replica of an option outside of wattcount; None: its engine does not tell."""
    run = option.nodes[-1].first
    if run.engine is None or (run.engine not in registry.PACKAGED and run.engine not in registry.names()):
        return None
    return shlex.join(registry.plugin(run.engine).serve_command(run.setting)) or None


def _simple(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["KEPT_SHARE", "Advice", "Need", "Option", "advise", "serve_command", "verify_command"]
