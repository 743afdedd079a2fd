"""How well energy is divided between prefill and decode: against a known truth, and against pure runs.

    python benchmarks/bench_attribution.py [--seeds 200]
    python benchmarks/bench_attribution.py --fit RECORD... --against RECORD...

Without records: engines simulated in virtual time, whose steps draw a known energy (tests/synthetic_steps.py).
Shown are the error of `energy/prefill_j` and `energy/decode_j` and how often their 95 % interval holds the truth.

With records: a model is fitted to the mixed runs (`--fit`), to each alone and to all of them together, and predicts the
energy above idle of runs that are all prefill (scenario.lengths.output_tokens=1) or all decode (a prompt of a few
tokens, long outputs), per token of the kind there is more of. Steps of the pure runs should be like those of the mixed
ones: prompts of the same length, a batch of about the same size. Decoding costs more the longer the context is; a run
that is all decode shows by how much, and what it would cost at the context of the mixed runs. `--against` takes mixed runs, too:
then it shows how well one load predicts another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from wattcount.metrics import work
from wattcount.metrics.attribution import Inputs, attribute_record, read_inputs
from wattcount.metrics.observations import Requests, Window, phase_window
from wattcount.metrics.phases import Attribution, attribute
from wattcount.metrics.work import TERMS, Design, choose_interval_s, interval_edges
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.statistics import t_975

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from synthetic_steps import SimulatedEngine

FIRST_SEED = 1000
"""The length of the intervals was chosen on seeds 0 to 39: what is reported comes from others."""
CONTEXT_INTERVALS = 12
"""Into which a run that is all decode is cut; the first and the last, where not all requests run, are left out."""
SCENARIOS: dict[str, dict[str, object]] = {
    "server, 1 request/s": {"rate_rps": 1.0, "count": 60},
    "server, 2 requests/s": {"rate_rps": 2.0, "count": 100},
    "server, 8 requests/s": {"rate_rps": 8.0, "count": 400},
    "server, 16 requests/s": {"rate_rps": 16.0, "count": 640},
    "the same, steps stamped": {"rate_rps": 16.0, "count": 640},
    "batch of 512": {"rate_rps": None, "count": 512, "output": 256},
    "prompts 64 to 4,096": {
        "rate_rps": 8.0,
        "count": 400,
        "prompt": 64,
        "prompt_max": 4096,
        "context_token_j": 2e-5,
    },
}


def against_truth(seeds: int) -> None:
    print(f"{'':<26}{'told':>6}   {'prefill J: rms, worst error, u95 %':>36}{'covered %':>10}   ", end="")
    print(f"{'decode J: rms, worst error, u95 %':>36}{'covered %':>10}")
    for name, settings in SCENARIOS.items():
        rows = []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            engine = SimulatedEngine(seed=seed, **settings).run()  # type: ignore[arg-type]
            window = engine.window()
            work = engine.work(exact="stamped" in name)
            found = attribute(engine.energy_at, window, work, engine.idle_w)
            if isinstance(found, Attribution):
                truth = engine.truth(window)
                rows.append(
                    (
                        found.prefill_j / truth.prefill_j - 1,
                        found.prefill_j_u95 / truth.prefill_j,
                        found.decode_j / truth.decode_j - 1,
                        found.decode_j_u95 / truth.decode_j,
                    )
                )
        print(f"{name:<26}{len(rows):>6}", end="")
        for error, u95 in (np.array(rows).T.reshape(2, 2, -1)) if rows else ():
            rms, worst, covered = (
                np.sqrt(np.mean(error**2)),
                np.abs(error).max(),
                np.mean(np.abs(error) <= u95),
            )
            print(
                f"   {100 * rms:>20.2f} {100 * worst:>7.2f} {100 * u95.mean():>7.2f}{100 * covered:>10.1f}",
                end="",
            )
        print()


class Run:
    """A record's window: what it drew above idle and what it computed."""

    def __init__(self, path: Path) -> None:
        record = Record.open(path)
        window = phase_window(record.info.phases, Phase.WINDOW)
        inputs = read_inputs(record, window) if window is not None else "no_window"
        if window is None or isinstance(inputs, str):
            sys.exit(f"{path}: {inputs}")
        self.window: Window = window
        self.inputs: Inputs = inputs
        config = record.info.config
        scenario = config["scenario"]
        lengths = scenario["lengths"]
        load = f"{scenario['rate_rps']:g}/s" if "rate_rps" in scenario else f"{scenario['num_requests']}"
        self.name = (
            f"{config['model']['name']} {scenario['name']} {load}, "
            f"{lengths.get('input_tokens')} in, {lengths.get('output_tokens')} out"
        )
        self.evidence = str(record.info.evidence)
        self.found = attribute_record(record, window)
        lag_ns = self.found.lag_ns if isinstance(self.found, Attribution) else 0
        interval_s = choose_interval_s(inputs.work, window, inputs.resolution_s)
        edges_ns = interval_edges(window, interval_s)
        design = Design(inputs.energy_at, edges_ns, inputs.work)
        self.amounts, self.above_j = design.amounts, design.above_idle(lag_ns, inputs.idle_w)
        self.done = self.amounts.sum(axis=0)
        self.idle_u95_j = inputs.idle_u95_w * window.duration_s
        self.requests = Requests.of(record.requests)

    def context_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """When each token arrived in the window, int64[n] ns, and how many tokens its step could look back on."""
        requests = self.requests
        count = requests.token_count
        before = np.cumsum(count) - count
        first = np.unique(requests.token_request, return_index=True)[1]
        earlier = before - np.repeat(before[first], np.diff(np.append(first, len(count))))
        context = requests.input_tokens[requests.token_request] + earlier
        inside = (requests.token_ts_ns > self.window.start_ns) & (requests.token_ts_ns <= self.window.end_ns)
        order = np.argsort(requests.token_ts_ns[inside])
        return requests.token_ts_ns[inside][order], context[inside][order]


def against_pure_runs(mixed: list[Run], pure: list[Run]) -> None:
    if len({run.evidence for run in (*mixed, *pure)}) > 1:
        sys.exit("measured and emulated records are never mixed")
    fits = []
    print("coefficients, mJ per unit, +- 95 % of the fit alone")
    print(f"{'fitted to':<50}" + "".join(f"{term:>22}" for term in TERMS) + f"{'condition':>12}")
    every = [(run.name, [run]) for run in mixed]
    if len(mixed) > 1:
        every.append(("all of them", mixed))
    for name, runs in every:
        amounts = np.concatenate([run.amounts for run in runs])
        above_j = np.concatenate([run.above_j for run in runs])
        terms = [term for term in range(len(TERMS)) if amounts[:, term].any()]
        fit = work.fit(amounts, above_j, terms)
        reach = work.Reach.of(amounts, tuple(run.inputs.clocks.mean_mhz for run in runs))
        fits.append((name, fit, reach))
        t = t_975(max(fit.freedom, 5))
        u95 = t * np.sqrt(np.diag(fit.covariance_j2))
        cells = dict.fromkeys(range(len(TERMS)), "-")
        for term, value, u in zip(fit.terms, fit.value_j, u95, strict=True):
            cells[term] = f"{1e3 * value:.2f} +- {1e3 * u:.2f}" if value > 0 else "0"
        print(
            f"{name:<50}"
            + "".join(f"{cell:>22}" for cell in cells.values())
            + f"{fit.condition_number:>12.1f}"
        )

    print(f"\n{'run':<50}{'measured, mJ above idle (+- idle)':>42}   predicted by")
    for run in pure:
        is_prefill = run.done[0] > run.done[1]
        tokens = run.done[0] if is_prefill else run.done[1]
        measured, idle_u95 = run.above_j.sum() / tokens, run.idle_u95_j / tokens
        unit = "prompt token" if is_prefill else "decoded token"
        print(f"{run.name:<50}{f'{1e3 * measured:.2f} +- {1e3 * idle_u95:.2f} / {unit}':>42}")
        for name, fit, reach in fits:
            told = work.extrapolate(fit, run.done)
            figures = f"{1e3 * told.value_j / tokens:.2f} +- {1e3 * told.u95_j / tokens:.2f}"
            refused = work.predict(fit, reach, run.done, run.inputs.clocks.mean_mhz)
            why = f"   refused: {refused}" if isinstance(refused, str) else ""
            off = 100 * (told.value_j / tokens / measured - 1)
            print(f"{'':<95}{name:<50}{figures:>20} {off:>+8.1f} %{why}")
        if not is_prefill:
            by_context(run, mixed)


def by_context(run: Run, mixed: list[Run]) -> None:
    """Decoding alone, at the context that the mixed runs had: attention reads all of it for each token."""
    arrived_ns, context = run.context_tokens()
    edges_ns = np.linspace(run.window.start_ns, run.window.end_ns, CONTEXT_INTERVALS + 3).astype(np.int64)[
        1:-1
    ]
    seconds = np.diff(edges_ns) / 1e9
    which = np.searchsorted(edges_ns, arrived_ns) - 1
    tokens = np.array([(which == k).sum() for k in range(len(seconds))])
    mean_context = np.array([context[which == k].mean() for k in range(len(seconds))])
    above_j = np.diff(run.inputs.energy_at(edges_ns)) - run.inputs.idle_w * seconds
    slope, at_zero = np.polyfit(mean_context, 1e3 * above_j / tokens, 1)
    scatter = np.std(1e3 * above_j / tokens - np.polyval((slope, at_zero), mean_context), ddof=2)
    print(
        f"{'':<50}by context, {mean_context.min():.0f} to {mean_context.max():.0f} tokens: {at_zero:.2f} + "
        f"{100 * slope:.2f} / 100 tokens, +- {scatter:.2f} (sd of {len(seconds)} stretches)"
    )
    for other in mixed:
        there = float(other.context_tokens()[1].mean())
        found = other.found
        alone = at_zero + slope * there
        if isinstance(found, Attribution):
            told = 1e3 * found.decode_j / found.decode_tokens
            print(
                f"{'':<50}{other.name:<46} context {there:.0f}: {told:.2f} attributed, {alone:.2f} alone "
                f"{100 * (told / alone - 1):>+7.1f} %"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--fit", type=Path, nargs="+", default=[], metavar="RECORD", help="mixed runs")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="RECORD", help="pure runs")
    args = parser.parse_args()
    if bool(args.fit) != bool(args.against):
        parser.error("--fit and --against go together")
    if args.fit:
        against_pure_runs([Run(path) for path in args.fit], [Run(path) for path in args.against])
    else:
        against_truth(args.seeds)


if __name__ == "__main__":
    main()
