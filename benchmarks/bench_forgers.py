"""Forgers against the rules of physics and novelty: which are caught, and how often a real record is taken for forged.

    python benchmarks/bench_forgers.py                      # all records of data/, each forged by everybody
    python benchmarks/bench_forgers.py --every 10           # every tenth record
    python benchmarks/bench_forgers.py --limits             # what the limits of ours were chosen from, and the other half
    python benchmarks/bench_forgers.py --write docs/forgeries.md

A forger makes of each real record one that is whole in itself (`benchmarks/forgers.py`): its `metrics.json` would follow from its raw
files, so that only physics and novelty can catch it. *Caught* is rejected, *flagged* is for a person to judge. A forger who borrows
gets a record of the same setting where there is one, else of another.

Records are halved by their boards (`half_of`). Limits were chosen on the first half; false alarms are told for both.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from forgers import FORGERS, Case
from scipy.stats import beta

from wattcount.dataset import checks_novelty, checks_physics, fingerprint, signs
from wattcount.dataset.rules import RULES, Severity, Submission, Submitted
from wattcount.energy.events import Source
from wattcount.records import Record

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- forgers: begin -->", "<!-- forgers: end -->"
CONFIDENCE = 0.95


def record_folders(root: Path = ROOT) -> list[Path]:
    """All records of `data/`."""
    return sorted(file.parent for file in (root / "data").glob("*/records/*/*/run.json"))


def half_of(record: Record) -> int:
    """0: limits were chosen on it; 1: they were not. All records of a board are in one half."""
    return hashlib.sha256(record.power.gpu_uuids[0].encode()).digest()[-1] % 2


def broken(record: Record) -> dict[str, Severity]:
    """Rules of physics that the record breaks, with the worst severity of each."""
    submitted = Submitted(record.path)
    submitted.record = record
    order = list(Severity)
    found: dict[str, Severity] = {}
    for code, rule in RULES.items():
        if rule.scope != "record" or rule.check.__module__ not in MODULES:
            continue
        for breach in rule.check(submitted):
            worst = min((breach.severity or rule.severity, found.get(code, Severity.warn)), key=order.index)
            found[code] = worst
    return found


MODULES = (checks_physics.__name__, checks_novelty.__name__)


def verdict(found: dict[str, Severity]) -> str:
    worst = set(found.values())
    return "caught" if Severity.reject in worst else "flagged" if Severity.flag in worst else "not caught"


@dataclass
class Tally:
    """Of one forger: verdicts, and the rules that told."""

    verdicts: collections.Counter[str] = field(default_factory=collections.Counter)
    rules: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, found: dict[str, Severity]) -> None:
        self.verdicts[verdict(found)] += 1
        worst = Severity.reject if Severity.reject in found.values() else Severity.flag
        self.rules.update(code for code, severity in found.items() if severity == worst)


def other_of(number: int, folders: Sequence[Path]) -> Path:
    """A record of the same setting, else one of another."""
    own = folders[number]
    same = [folder for folder in folders if folder.parent == own.parent and folder != own]
    return same[number % len(same)] if same else folders[(number + 7) % len(folders)]


def upper_limit(hits: int, of: int) -> float:
    """Upper end of the one-sided 95 % interval of a share (Clopper and Pearson)."""
    return 1.0 if hits >= of else float(beta.ppf(CONFIDENCE, hits + 1, of - hits))


def run(
    folders: Sequence[Path], every: int, only: Sequence[str]
) -> tuple[dict[str, Tally], list[tuple[int, dict[str, Severity], float]]]:
    """Tallies by forger, and of each real record its half, what it broke, and CPU seconds that the rules took."""
    tallies = {name: Tally() for name in FORGERS if not only or name in only}
    real = []
    for number, folder in enumerate(folders):
        record = Record.open(folder)
        _ = [trace.model for trace in signs.traces(record)], record.requests, record.steps
        began = time.process_time()
        found = broken(record)
        real.append((half_of(record), found, time.process_time() - began))
        if number % every:
            continue
        other = Record.open(other_of(number, folders))
        for name in tallies:
            forged = FORGERS[name].forge(Case(record, other, np.random.default_rng(number)))
            if forged is not None:
                tallies[name].add(broken(forged))
    return tallies, real


def report(tallies: dict[str, Tally], real: list[tuple[int, dict[str, Severity], float]]) -> Iterator[str]:
    yield "| forger | what it does | records | caught | flagged | not caught | told by |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, tally in tallies.items():
        count = sum(tally.verdicts.values())
        told = ", ".join(f"`{code.partition('/')[2]}` {n}" for code, n in tally.rules.most_common(3))
        shares = " | ".join(str(tally.verdicts[one]) for one in ("caught", "flagged", "not caught"))
        yield f"| {name} | {FORGERS[name].what} | {count} | {shares} | {told or '-'} |"
    yield ""
    yield "| real records | records | rejected | upper limit of that rate | flagged | rules |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for title, halves in (("limits chosen on them", (0,)), ("others", (1,)), ("all", (0, 1))):
        which = [found for half, found, _ in real if half in halves]
        verdicts = collections.Counter(verdict(found) for found in which)
        rules = collections.Counter(
            code.partition("/")[2] for found in which for code, s in found.items() if s != Severity.warn
        )
        told = ", ".join(f"`{code}` {n}" for code, n in rules.most_common())
        rejected = verdicts["caught"]
        yield (
            f"| {title} | {len(which)} | {rejected} | {upper_limit(rejected, len(which)):.2%} | {verdicts['flagged']} | {told or '-'} |"
        )
    took = np.array([seconds for _, _, seconds in real]) * 1e3
    yield ""
    yield (
        f"All rules of physics together take {np.median(took):.0f} ms of CPU a record (median; 95 % under {np.quantile(took, 0.95):.0f} ms), "
        "after the record was read and its power prepared."
    )


COPIES = {
    "the same readings": lambda v, _rng: v,
    "half of them": lambda v, _rng: v[len(v) // 3 : 5 * len(v) // 6],
    "scaled by 0.83": lambda v, _rng: v * 0.83,
    "0.7 of it and 20 W": lambda v, _rng: 20_000 + v * 0.7,
    "with noise of 0.3 W": lambda v, rng: v + rng.normal(0, 300, len(v)),
    "with noise of 1 W": lambda v, rng: v + rng.normal(0, 1000, len(v)),
    "half a sample later": lambda v, _rng: np.interp(np.arange(len(v)) + 0.5, np.arange(len(v)), v),
    "resampled to 1.05 of the length": lambda v, _rng: np.interp(
        np.arange(len(v)) / 1.05, np.arange(len(v)), v
    ),
    "resampled to 0.97": lambda v, _rng: np.interp(
        np.arange(int(len(v) * 0.97)) / 0.97, np.arange(len(v)), v
    ),
    "resampled to 1.2": lambda v, _rng: np.interp(np.arange(len(v)) / 1.2, np.arange(len(v)), v),
    "smoothed over 5 samples, noise of 1 W": lambda v, rng: (
        np.convolve(v, np.ones(5) / 5, "same") + rng.normal(0, 1000, len(v))
    ),
}
"""What is done to the readings of a ring that is in the data set already."""


def copies(folders: Sequence[Path], every: int) -> Iterator[str]:
    """What novelty makes of copies, and of all real records handed in together."""
    index, rings = fingerprint.Index(), []
    for folder in folders:
        value = signs.traces(Record.open(folder))[0].samples[1]
        rings.append(value)
        index.add(str(folder), fingerprint.shape_of(value))
    yield "| copy of a trace that is known | traces | rejected | flagged | the original is the most alike |"
    yield "| --- | --- | --- | --- | --- |"
    for title, change in COPIES.items():
        rejected = flagged = right = count = 0
        for number in range(0, len(rings), every):
            value = np.round(change(rings[number].astype(np.float64), np.random.default_rng(number)))
            found = index.matches(fingerprint.shape_of(value.astype(np.int64)))
            count += 1
            if not found:
                continue
            right += found[0].name == str(folders[number])
            rejects = found[0].short >= checks_novelty.SAME
            rejected += rejects
            flagged += not rejects and (
                found[0].short >= checks_novelty.ALIKE_SHORT or found[0].long >= checks_novelty.ALIKE_LONG
            )
        yield f"| {title} | {count} | {rejected} | {flagged} | {right} |"
    began = time.process_time()
    told = list(
        checks_novelty.power(Submission(None, [Submitted(folder, str(folder)) for folder in folders]))
    )
    took = (time.process_time() - began) / len(folders)
    rejected = sum(breach.severity in (None, Severity.reject) for breach in told)
    yield ""
    yield (
        f"All {len(folders)} real records handed in together, each held against those before it: {rejected} rejected "
        f"(upper limit {upper_limit(rejected, len(folders)):.2%}), {len(told) - rejected} flagged; {took * 1e3:.0f} ms of CPU a record."
    )


FIGURES = {
    "step of the converter, mW": lambda t: _get(t.steps, "step_mw"),
    "share on the ladder": lambda t: _get(t.steps, "share"),
    "ring's period off, ppm": lambda t: _times(_off(_get(t.grid, "period_ns"), 2e7), 1e6),
    "share of stamps on the grid": lambda t: _get(t.grid, "on_grid"),
    "counter / ring off, %": lambda t: _times(_off(_get(signs.counter_by_ring(t), "gain"), 1.0), 100),
    "counter / ring, rms of steps, %": lambda t: _times(_get(signs.counter_by_ring(t), "residual"), 100),
    "average / ring off, %": lambda t: _times(_off(_get(signs.average_by_ring(t), "gain"), 1.0), 100),
    "average / ring, median, %": lambda t: _times(_get(signs.average_by_ring(t), "usual"), 100),
    "instant / ring off, %": lambda t: _times(_off(_get(signs.instant_by_ring(t), "gain"), 1.0), 100),
    "instant / ring, median, %": lambda t: _times(_get(signs.instant_by_ring(t), "usual"), 100),
    "GetPowerUsage in average": signs.usage_in_average,
    "temperature explained": lambda t: _get(signs.heat(t), "explained"),
    "temperature left, C": lambda t: _get(signs.heat(t), "residual_c"),
    "lag of work and power, ms": lambda t: _size(_get(signs.beat(t), "lag_ms")),
    "power with work, sd": lambda t: _ratio(signs.beat(t)),
    "idle power under steps, s": lambda t: _get(signs.unexplained(t), "idle_s"),
    "power of steps without, s": lambda t: _get(signs.unexplained(t), "busy_s"),
    "tokens a step": lambda t: _get(signs.ledger(t.record), "tokens_per_step"),
    "arrivals of several tokens": lambda t: _get(signs.ledger(t.record), "together"),
    "counter call, fastest 5 %, us": lambda t: float(
        np.quantile(signs.call_us(t, Source.ENERGY_COUNTER), 0.05)
    ),
    "counter call, median, us": lambda t: float(np.median(signs.call_us(t, Source.ENERGY_COUNTER))),
    "field call, median, us": lambda t: float(np.median(signs.call_us(t, Source.POWER_AVERAGE))),
    "ring call, median, us": lambda t: float(np.median(signs.call_us(t, Source.POWER_SAMPLES))),
}
"""What the rules look at, one figure a GPU."""


def _get(found: object | None, name: str) -> float | None:
    return None if found is None else getattr(found, name)


def _off(value: float | None, of: float) -> float | None:
    return None if value is None else abs(value / of - 1.0)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _ratio(found: signs.Beat | None) -> float | None:
    return None if found is None else found.near / max(found.far_sd, 1e-9)


def figures(folders: Sequence[Path]) -> Iterator[str]:
    """Each figure's extremes in the half that limits were chosen on, what three times as far is, and the other half's extremes."""
    values: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in FIGURES}
    for folder in folders:
        record = Record.open(folder)
        for trace in signs.traces(record):
            for name, of in FIGURES.items():
                value = of(trace)
                if value is not None:
                    values[name][half_of(record)].append(value)
    yield "| figure | least | median | most | three times as far | other half: least | most |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, (first, second) in values.items():
        low, middle, high = np.quantile(first, [0.0, 0.5, 1.0])
        far = f"{middle - 3 * (middle - low):.4g} .. {middle + 3 * (high - middle):.4g}"
        yield f"| {name} | {low:.4g} | {middle:.4g} | {high:.4g} | {far} | {min(second):.4g} | {max(second):.4g} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="forge every Nth record only")
    parser.add_argument("--only", nargs="*", default=[], metavar="FORGER", help="these forgers only")
    parser.add_argument("--limits", action="store_true", help="the figures that limits were chosen from")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables into this page, between its marks"
    )
    options = parser.parse_args(arguments)
    folders = record_folders()
    lines: list[str] = []
    if options.limits or options.write:
        lines += [*figures(folders), ""]
    if not options.limits:
        tallies, real = run(folders, options.every, options.only)
        lines += list(report(tallies, real))
        if not options.only:
            lines += ["", *copies(folders, options.every)]
    text = "\n".join(lines).strip()
    print(text)
    if options.write:
        page = options.write.read_text()
        before, rest = page.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
