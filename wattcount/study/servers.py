"""Markdown tables of engines as they are deployed: in process beside a server over HTTP, a load curve, what the host's part is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.metrics.service import good_requests
from wattcount.records import Record
from wattcount.report.units import markdown, significant
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY, Result
from wattcount.study.comparison import Scatters, paired, same_arrivals
from wattcount.study.selection import TOKENS, UNREMARKABLE, by, figure, over, remarks, valid
from wattcount.study.tables import cell_of, estimated, plus_minus

TTFT, TPOT = "latency/ttft_p50_ms", "latency/tpot_p50_ms"
FIGURES = {PER_TOKEN: "J per output token", WATTS: "mean W", TOKENS: "output tokens/s", TPOT: "TPOT p50, ms", TTFT: "TTFT p50, ms"}  # fmt: skip
SLO = SloConfig(ttft_ms=200.0, tpot_ms=50.0)
"""Bounds of a request that counts as good in `served_curve`: one for whom a person waits, who reads some 20 words a second at most."""
ONLY_LIMITS = 2
"""Levers of a run of which nothing is set but `max_num_seqs` and `max_num_batched_tokens`."""


def parity(runs: Sequence[Result], here: str, there: str, scatters: Scatters) -> str:
    """The engine `there` against `here` with the same settings and loads: each figure, and its difference with 95 %.

    Paired: starts with the same repeat number have the same arrivals and ran one after the other. The interval is Student's t over the pairs.
    """
    rows = []
    loads = by((run for run in valid(runs) if len(run.levers) == ONLY_LIMITS), _load)
    for load, found in sorted(
        loads.items(), key=lambda item: (item[1][0].rate_rps is None, item[1][0].rate_rps)
    ):
        pairs = same_arrivals(*([run for run in found if run.engine == engine] for engine in (here, there)))
        if len(pairs) < 2:
            continue
        old, new = ([pair[side] for pair in pairs] for side in (0, 1))
        label = f"{load} ({len(pairs)} pairs)"
        for key, name in FIGURES.items():
            if key == TTFT and found[0].rate_rps is None:
                continue  # of a batch it is how long the queue is
            change = paired(cell_of(there, new), cell_of(here, old), key)
            assert change is not None
            difference = f"{change.percent:+.1f} % ({change.interval})"
            rows.append([label, name, _mean(old, key, scatters), _mean(new, key, scatters), difference])
            label = ""
    return markdown(["load", "figure", f"`{here}`", f"`{there}`", "difference"], rows)


def served_curve(runs: Sequence[Result], scatters: Scatters) -> str:
    """A server by offered load: what a token costs, and what a request costs that keeps SLO."""
    served = [run for run in runs if run.rate_rps is not None]
    rows = []
    for rate, found in sorted(by(served, lambda run: float(run.rate_rps or 0)).items()):
        good = valid(found)
        kept = [share for run in good if (share := _kept(run)) is not None]
        rows.append(
            [
                f"{rate:g}",
                significant(over(good, "throughput/requests_per_s")),
                _mean(good, PER_TOKEN, scatters),
                significant(_middle([joules for _, joules in kept if joules is not None])),
                f"{100 * float(np.mean([share for share, _ in kept])):.0f} %" if kept else "-",
                significant(over(good, WATTS)),
                *(
                    significant(over(good, f"latency/{name}_p{p}_ms"))
                    for name in ("ttft", "tpot")
                    for p in (50, 95)
                ),
                f"{len(good)} of {len(found)}",
                remarks(found, UNREMARKABLE),
            ]
        )
    head = ["offered, requests/s", "completed, requests/s", "J per output token", "J per request within the SLO", "requests within it", "mean W", "TTFT p50, ms", "TTFT p95", "TPOT p50, ms", "TPOT p95", "valid runs", "findings"]  # fmt: skip
    return markdown(head, rows)


def host_part(runs: Sequence[Result], scatters: Scatters, rate_rps: float = 16.0) -> str:
    """What larger CUDA graphs, CPUs of its own and a higher priority change of an engine, against none of them."""
    chosen = [run for run in valid(runs) if run.rate_rps == rate_rps]
    settings = by(chosen, lambda run: ", ".join(run.levers[ONLY_LIMITS:]))
    usual = settings.pop("", [])
    keys = (PER_TOKEN, WATTS, TTFT, TPOT)
    rows = [["nothing", str(len(usual)), *_host_cells(usual), *(_mean(usual, key, scatters) for key in keys)]]
    for lever, found in sorted(settings.items()):
        cells = []
        for key in keys:
            change = scatters.compare(cell_of(lever, found), cell_of("nothing", usual), key)
            against = "" if change is None else f" ({change.percent:+.1f} %, {change.interval})"
            cells.append(f"{significant(over(found, key))}{against}")
        rows.append([lever, str(len(found)), *_host_cells(found), *cells])
    head = ["set", "starts", "step with a prompt, ms", "its launch, ms", "step of decode, ms", *(FIGURES[key] for key in keys)]  # fmt: skip
    return markdown(head, rows)


def sharing(runs: Sequence[Result]) -> str:
    """How long a run held its GPU, by its place on its start of the engine [s]: the only one, the first of several, or a later one."""
    sizes = Counter(run.session for run in runs)
    places: dict[str, list[Result]] = {"alone": [], "first of several": [], "a later one": []}
    for run in runs:
        later = "first of several" if run.run_id == run.session else "a later one"
        places["alone" if sizes[run.session] == 1 else later].append(run)
    rows = []
    for place, there in places.items():
        for load, found in sorted(by(there, _load).items()):
            walls_s = [run.wall_s for run in found if run.wall_s is not None]
            if walls_s:
                middle, least, most = (f"{at(walls_s):.0f}" for at in (np.median, min, max))
                rows.append([place, load, str(len(walls_s)), f"{middle} ({least} to {most})"])
    return markdown(["on its start of the engine", "load", "runs", "s: median (least to most)"], rows)


def _load(run: Result) -> str:
    return f"batch of {run.num_requests}" if run.rate_rps is None else f"{run.rate_rps:g} requests/s"


def _mean(runs: Sequence[Result], key: str, scatters: Scatters) -> str:
    found = estimated(runs, key, scatters)
    return "-" if found is None else f"{significant(found.value)}{plus_minus(found)}"


def _middle(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _host_cells(runs: Sequence[Result]) -> list[str]:
    keys = ("host/prefill_step_ms", "host/prefill_launch_ms", "host/decode_step_ms")
    return [significant(over(runs, key)) for key in keys]


def _kept(run: Result) -> tuple[float, float | None] | None:
    """(share of the requests sent in the window that keep SLO, energy of the window / their number [J]); None where nothing was sent."""
    assert run.source is not None
    record = Record.open(run.source)
    count, sent = good_requests(record, SLO), run.value("requests/sent")
    if count is None or not sent:
        return None
    return count / sent, figure(run, ENERGY) / count if count else None
