"""Writes the tables of docs/ that come from data in this repository: `make docs`.

A table stands between two marker lines, `<!-- NAME -->` and `<!-- /NAME -->`; the text around it is written
by hand.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyarrow.parquet as pq

from wattcount.metrics import compute
from wattcount.record import Record

ROOT = Path(__file__).resolve().parent.parent
H200 = ROOT / "data" / "h200"
STUDENT_T_975 = {3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 11: 2.201}
"""Quantile 0.975 of Student's t by degrees of freedom."""


def records() -> list[tuple[str, Record, dict[str, float | None]]]:
    """(name, record, metrics), batches first, then by rate."""
    found = []
    for path in sorted(H200.glob("records/*/*/run.json")):
        record = Record.open(path.parent)
        scenario = record.info.config["scenario"]
        rate = scenario.get("rate_rps")
        load = f"batch of {scenario['num_requests']}" if rate is None else f"server, {rate:g} requests/s"
        name = f"{record.info.config['model']['name']}, {load}"
        found.append(((rate or 0.0, name), name, record, compute(record)["metrics"]))
    return [(name, record, metrics) for _, name, record, metrics in sorted(found, key=lambda item: item[0])]


def number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def main_job() -> str:
    head = ["run", "window s", "J per output token", "mean W", "bare / loaded idle W", "output tokens/s", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms"]  # fmt: skip
    rows = [
        [
            name,
            number(m["window/duration_s"]),
            number(m["energy/gpu_j_per_output_token"]),
            number(m["power/gpu_mean_w"]),
            f"{number(m['power/idle_bare_w'])} / {number(m['power/idle_loaded_w'])}",
            number(m["throughput/output_tokens_per_s"]),
            f"{number(m['latency/ttft_p50_ms'])} / {number(m['latency/ttft_p95_ms'])}",
            f"{number(m['latency/tpot_p50_ms'])} / {number(m['latency/tpot_p95_ms'])}",
        ]
        for name, _, m in records()
    ]
    return table(head, rows)


def sources() -> str:
    names = ["energy_counter", "power_samples", "power_average", "power_instant", "power_usage"]
    rows = []
    for name, _, m in records():
        energy = m["energy/gpu_j"]
        assert energy is not None
        values = [m[f"energy_by_source/{source}_j"] for source in names]
        rows.append(
            [name, f"{energy:.0f} J", *(f"{100 * (v / energy - 1):+.2f} %" if v else "-" for v in values)]
        )
    return table(["run", "energy of the window", *(f"`{source}` alone" for source in names)], rows)


def sampler() -> str:
    rows = []
    for name, record, m in records():
        (health,) = record.info.sampler.values()
        counter, instant = health["sources"]["energy_counter"], health["sources"]["power_instant"]
        share = m["sampler/cpu_share"]
        assert share is not None
        rows.append(
            [
                name,
                f"{100 * share:.2f} %",
                f"{counter['rate_hz']:.2f} / {instant['rate_hz']:.1f}",
                f"{counter['call_p50_ns'] / 1e6:.1f} / {counter['call_p99_ns'] / 1e6:.1f}",
                f"{counter['cpu_ns'] / counter['calls'] / 1e6:.1f}",
                f"{instant['lateness_p50_ns'] / 1e6:.2f} / {instant['lateness_p99_ns'] / 1e6:.2f}",
                f"{health['missed_deadlines']} of {sum(s['calls'] for s in health['sources'].values())}",
            ]
        )
    head = ["run", "CPU, of a core", "counter / instant reads per s", "counter read p50 / p99 ms", "its CPU ms", "instant: lateness p50 / p99 ms", "deadlines missed"]  # fmt: skip
    return table(head, rows)


def overhead() -> str:
    rows = pq.read_table(H200 / "sampler_overhead.parquet").to_pylist()
    batches = [row for row in rows if not row["idle"]]
    idles = [row for row in rows if row["idle"]]
    idle_w = sum(row["energy_j"] / row["span_s"] for row in idles if row["engine"] == "compiled") / sum(
        row["engine"] == "compiled" for row in idles
    )
    lines = []
    for label, chosen, value in (
        ("output tokens/s", batches, lambda r: r["tokens"] / r["seconds"]),
        (
            "J per output token",
            batches,
            lambda r: (r["energy_j"] - (r["span_s"] - r["seconds"]) * idle_w) / r["tokens"],
        ),
        ("loaded idle, W", idles, lambda r: r["energy_j"] / r["span_s"]),
    ):
        values = {(row["engine"], row["pair"], row["sampler"]): value(row) for row in chosen}
        off = {key[:2]: v for key, v in values.items() if not key[2]}
        change = [100 * (v / off[key[:2]] - 1) for key, v in values.items() if key[2] and key[:2] in off]
        n = len(change)
        mean = sum(change) / n
        deviation = math.sqrt(sum((c - mean) ** 2 for c in change) / (n - 1))
        half = STUDENT_T_975[n - 1] * deviation / math.sqrt(n)
        lines.append([label, f"{sum(off.values()) / len(off):.4g}", str(n), f"{mean:+.2f} %", f"{mean - half:+.2f} to {mean + half:+.2f} %"])  # fmt: skip
    return table(["figure", "sampler off", "pairs", "on against off", "95 % interval"], lines)


TABLES = {"main-job": main_job, "sources": sources, "sampler": sampler, "overhead": overhead}


def main() -> None:
    path = ROOT / "docs" / "h200.md"
    text = path.read_text()
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n?<!-- /{name} -->)", re.S)
        text, count = pattern.subn(lambda m, make=make: f"{m[1]}{make()}\n<!-- /{m[2].split('/')[1]}", text)
        if count != 1:
            raise SystemExit(f"{path}: the markers of the table {name} are missing")
    path.write_text(text)


if __name__ == "__main__":
    main()
