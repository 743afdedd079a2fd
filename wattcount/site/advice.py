"""What `wattcount recommend` says of common loads: for each model that was measured, at the rates within what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from wattcount.config.schema import SloConfig
from wattcount.report.units import significant
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import OWN
from wattcount.site.shown import finite, plain, shown
from wattcount.site.source import Source
from wattcount.study.advice import Advice, Need, Option, advise, names_of, serve_command, verify_command
from wattcount.study.comparison import Scatters, cells
from wattcount.study.questions import USUAL_SLO

RATES_RPS = (1.0, 4.0, 10.0, 16.0, 32.0, 64.0)
"""Rates that are asked for where they lie within what was measured [requests/s]."""
MOST_TIMES = 2.0
"""Highest rate that is asked for, as a multiple of the highest measured one: two replicas."""
SLOS: tuple[tuple[str, SloConfig], ...] = (
    ("usual", USUAL_SLO),
    ("tight", SloConfig(ttft_ms=300.0, tpot_ms=30.0)),
    ("first token only", SloConfig(ttft_ms=300.0)),
    ("loose", SloConfig(ttft_ms=2000.0, tpot_ms=100.0)),
)
"""Bounds that are asked for: the study's, half of them for the first token, ones for voice, and ones for who can wait."""
MOST_SERVERS, MOST_BATCHES = 140, 60
"""Most loads of each kind that are asked for: some 50 ms each, so ten seconds. Those of the models with the most results of our own come first."""
SURE = 0.95
"""Probability of the first option from which on no other run is named, as `recommend` does."""
SHOWN_OPTIONS = 4
"""Options of a load that pages show: the first, and enough to see what others cost."""


@dataclass(frozen=True)
class Advised:
    """What is said of one load. `slo`: what its bounds are called; None: a batch has none."""

    need: Need
    slo: str | None
    advice: Advice

    @property
    def first(self) -> Option | None:
        return self.advice.options[0] if self.advice.options else None

    @property
    def load(self) -> str:
        return "batch" if self.need.rate_rps is None else f"{self.need.rate_rps:g} requests/s"

    @property
    def lengths(self) -> str:
        return f"{self.need.input_tokens}/{self.need.output_tokens}"

    @property
    def bounds(self) -> str:
        """`TTFT ≤ 300 ms, TPOT ≤ 30 ms`; empty for a batch."""
        if self.slo is None:
            return ""
        slo = self.need.slo
        named = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
        return ", ".join(f"{name} ≤ {bound:g} ms" for name, bound in named if bound is not None)

    @property
    def told(self) -> bool:
        return self.advice.refusal is None and self.first is not None

    @property
    def sure_enough(self) -> bool:
        """Whether another run would hardly change the advice."""
        return (self.advice.sure_of_first or 0.0) >= SURE

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.need.model,
            "load": self.load,
            "rate_rps": self.need.rate_rps,
            "input_tokens": self.need.input_tokens,
            "output_tokens": self.need.output_tokens,
            "slo": self.slo,
            "bounds": self.bounds or None,
            **finite(
                self.advice.to_json()
                | {"options": [option.to_json() for option in self.advice.options[:SHOWN_OPTIONS]]}
            ),
        }

    def for_page(self, ids: Mapping[Hashable, str]) -> dict[str, Any]:
        """What the page's script shows: texts that are ready, so that a figure is written in one way. `ids`: of settings by the keys of cells."""
        first = self.first
        return {
            "model": shown(self.need.model),
            "load": self.load,
            "lengths": self.lengths,
            "bounds": self.bounds,
            "refusal": None if self.advice.refusal is None else plain(self.advice.refusal),
            "why": plain(self.advice.why),
            "regret": _percent(self.advice.regret, 1),
            "sure": _percent(self.advice.sure_of_first, 0),
            "notes": [plain(note) for note in self.advice.notes],
            "left_out": [f"{plain(reason)} ({number})" for reason, number in self.advice.left_out.items()],
            "tell": None
            if (self.told and self.sure_enough) or self.advice.tell is None
            else plain(self.advice.tell),
            "serve": None if first is None or not self.told else _plain(serve_command(first)),
            "verify": None if first is None or not self.told else plain(verify_command(first, self.need)),
            "more": max(0, len(self.advice.options) - SHOWN_OPTIONS),
            "options": [
                _option(option, self.advice.options[0], ids) for option in self.advice.options[:SHOWN_OPTIONS]
            ],
        }


def _plain(text: str | None) -> str | None:
    return None if text is None else plain(text)


def _percent(share: float | None, decimals: int) -> str | None:
    return None if share is None else f"{100 * share:.{decimals}f} %"


def _option(option: Option, first: Option, ids: Mapping[Hashable, str]) -> dict[str, Any]:
    return {
        "measured": [[ids[node.key], node.first.rate_rps] for node in option.nodes],
        "gpu": shown(f"{option.replicas} x {option.gpu}" if option.replicas > 1 else option.gpu),
        "setting": shown(option.setting),
        "each": None if option.rate_rps is None else f"{significant(option.rate_rps, 3)} requests/s",
        "how": option.how,
        "energy": significant(option.energy_j, 3),
        "interval": f"{significant(option.low_j, 3)} to {significant(option.high_j, 3)}",
        "low": float(f"{option.low_j:.5g}"),
        "value": float(f"{option.energy_j:.5g}"),
        "high": float(f"{option.high_j:.5g}"),
        "to_first": "" if option is first else f"{100 * (option.energy_j / first.energy_j - 1):+.0f} %",
        "share": None if option.share is None else f"{100 * option.share:.0f} %",
        "carbon": significant(option.carbon_g_per_1000, 2),
    }  # fmt: skip


def advised(source: Source) -> list[Advised]:
    """By model, load and bounds. Empty where nothing was measured."""
    measured = [
        r
        for r in source.results
        if r.is_measured and r.valid and any(r.value(key) for key in (PER_TOKEN, WATTS))
    ]
    of_model = _by_model(measured)
    by_name: dict[str, list[Result]] = {}
    for run in measured:
        for name in names_of(run):
            by_name.setdefault(name, []).append(run)
    found = []
    for kind, needs in (
        ("server", islice(_servers(of_model), MOST_SERVERS)),
        ("batch", islice(_batches(of_model), MOST_BATCHES)),
    ):
        scatters = Scatters(cells(r for r in measured if r.kind == kind))
        for need, slo in needs:
            found.append(Advised(need, slo, advise(by_name[need.model.lower()], need, scatters=scatters)))
    return found


def _by_model(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """The results of each model: that with the most of our own first."""
    found: dict[str, list[Result]] = {}
    for result in results:
        if result.model:
            found.setdefault(result.model, []).append(result)
    own = {model: sum(result.origin == OWN for result in mine) for model, mine in found.items()}
    return sorted(found.items(), key=lambda item: (-own[item[0]], -len(item[1]), item[0]))


ByModel = Sequence[tuple[str, list[Result]]]


def _servers(by_model: ByModel) -> Iterator[tuple[Need, str | None]]:
    for model, of_model in by_model:
        mine = [r for r in of_model if r.kind == "server" and r.rate_rps]
        for lengths in _lengths(mine):
            measured = {float(r.rate_rps or 0.0) for r in mine if _of(r) == lengths}
            asked = {rate for rate in RATES_RPS if min(measured) <= rate <= MOST_TIMES * max(measured)}
            for rate in sorted(asked if len(measured) > 1 and asked else measured):
                for name, slo in SLOS:
                    yield Need(model, rate, *lengths, slo), name


def _batches(by_model: ByModel) -> Iterator[tuple[Need, str | None]]:
    for model, of_model in by_model:
        for lengths in _lengths([r for r in of_model if r.kind == "batch" and r.value(PER_TOKEN)]):
            yield Need(model, None, *lengths, SloConfig()), None


def _of(result: Result) -> tuple[int, int] | None:
    if result.input_tokens is None or not result.output_tokens:
        return None
    return result.input_tokens, result.output_tokens


def _lengths(results: Sequence[Result]) -> list[tuple[int, int]]:
    """The lengths of loads, those with the most results first."""
    counts = Counter(lengths for r in results if (lengths := _of(r)) is not None)
    return [lengths for lengths, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
