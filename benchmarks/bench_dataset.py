"""How long a large submission takes, and how much memory: made, validated, added, loaded for a study, asked by SQL.

    python benchmarks/bench_dataset.py [--records 5580] [--scale 100] [--keep FOLDER] [--only-store]

The records are those of a campaign as large as the largest published one: 5,580 runs with some 14 million samples of power. Each is a real record
of data/h100 with a run id and a seed of its own and power that differs by a little noise, so that no two are the same. To compute the figures of so many takes
a quarter of an hour, so each has those of the real one.
Each step runs in a process of its own, on the cores that this process may use; its peak memory is that of the process and its children.

The validator finds these records out, as it should: their figures and loads are not theirs, and their traces are copies of each other. So adding is measured
without it (`add`), and the time of the validator beside it (`validate`). --only-store leaves the validator out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wattcount.dataset import rows
from wattcount.dataset.adding import Judged, add_file, validated
from wattcount.dataset.bundle import Submitter, write_bundle
from wattcount.dataset.query import query
from wattcount.dataset.storage import sha256
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD, Change, FileFacts
from wattcount.metrics.metrics_json import METRICS_JSON, load_metrics, to_bytes
from wattcount.records import Record, schema
from wattcount.records.writer import write_tables
from wattcount.report.units import markdown

DATA = Path(__file__).resolve().parents[1] / "data" / "h100" / "records"
DAY = "2026-11-28"
POWER_SAMPLES = "power_samples"
SAMPLES = 2500
"""Samples of power in a record [1]: 14 million in 5,580 records."""
NOISE_MW = 500
"""Standard deviation of what is added to a sample of power [mW]: a thousandth of a board under load."""
QUERIES = {
    "a mean by model and GPU": "SELECT model, gpus[1], avg(energy_gpu_j_per_output_token), count(*) FROM results WHERE status = 'valid' GROUP BY ALL",
    "quantiles of all rows": "SELECT kind, quantile_cont(energy_gpu_j_per_output_token, [0.05, 0.5, 0.95]), max(power_gpu_mean_w) FROM results GROUP BY ALL",
    "one row": "SELECT * FROM results WHERE run_id LIKE '%-000017' LIMIT 1",
}


def bases() -> list[Path]:
    """Real records with about SAMPLES samples of power."""
    found = []
    for path in sorted(DATA.glob("*/r*")):
        table = Record.open(path).power_table
        samples = int(
            pa.compute.sum(pa.compute.equal(table["source"].cast(pa.string()), POWER_SAMPLES)).as_py()
        )
        if abs(samples - SAMPLES) < 0.15 * SAMPLES:
            found.append(path)
    return found


@cache
def _opened(base: Path) -> Record:
    """Its tables are decoded once."""
    return Record.open(base)


def made(job: tuple[int, Path, Path]) -> Path:
    """A record like `base` with a seed of its own, in `folder`."""
    number, base, folder = job
    record = _opened(base)
    run_id = f"{record.info.run_id.rpartition('-')[0]}-{number:06d}"
    target = folder / record.info.point_id[:12] / f"r{number}-{run_id}"
    if (target / METRICS_JSON).exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    table = record.power_table
    values = table["value"].to_numpy().copy()
    chosen = np.asarray(table["source"].cast(pa.string())) == POWER_SAMPLES
    values[chosen] += (
        np.random.default_rng(number).normal(0, NOISE_MW, int(chosen.sum())).astype(values.dtype)
    )
    table = table.set_column(
        table.schema.get_field_index("value"), table.schema.field("value"), pa.array(values)
    )
    others = {schema.STEPS_PARQUET: record.steps, schema.HOST_PARQUET: record.host}
    files = write_tables(target, [table], record.requests, others)
    info = replace(record.info, run_id=run_id, seed=number, repeat=number, files=files)
    content = info.to_json() | {"schema_version": schema.RECORD_SCHEMA_VERSION}
    content["config"] |= {"seed": number, "repeat": number}
    (target / schema.RUN_JSON).write_text(json.dumps(content))
    fresh = Record.open(target)
    (target / METRICS_JSON).write_bytes(to_bytes(load_metrics(record), fresh.digests))
    return target


def scaled(dataset: Dataset, copies: int) -> None:
    """Adds the rows of the latest version `copies` times, under other ids: what as many submissions more would be."""
    version = dataset.latest()
    table = dataset.table(version)
    files, changes = dict(version.files), list(version.changes)
    folder = Path(dataset.where)
    for number in range(copies):
        submission = f"{number:016x}"
        copy = table
        for name, values in (
            (rows.SUBMISSION, [submission] * len(table)),
            (rows.ID, [f"{number:04x}{item[4:]}" for item in table[rows.ID].to_pylist()]),
        ):
            copy = copy.set_column(
                copy.schema.get_field_index(name), copy.schema.field(name), pa.array(values)
            )
        content = rows.to_bytes(copy)
        name = f"results/{submission}.parquet"
        (folder / name).write_bytes(content)
        files[name] = FileFacts(sha256(content), len(content), len(copy))
        changes.append(
            Change(version.number + 1, DAY, ADD, submission, "bench", "wattcount", "accepted", len(copy))
        )
    after = replace(version.next(changes[-1], files), changes=tuple(changes))
    (folder / after.manifest).write_bytes(after.to_bytes())
    (folder / "latest.json").write_bytes(after.to_bytes())


def measured(step: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds, peak MB of the process or of its largest child, what it returned) of a step in a process of its own."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(step, send))
    process.start()
    send.close()
    try:
        seconds, peak, result = receive.recv()
    except EOFError:
        raise SystemExit("the step died") from None
    process.join()
    return seconds, peak, result


def _run(step: Callable[[], Any], send: Any) -> None:
    start = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - start
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    send.send((seconds, peak / 1024, result))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=5580)
    parser.add_argument(
        "--scale", type=int, default=100, help="how many times as many rows the last queries have"
    )
    parser.add_argument(
        "--keep", type=Path, help="records are made there, and taken from there the next time"
    )
    parser.add_argument("--only-store", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wattcount-bench-") as temporary:
        work = Path(temporary)
        folder = args.keep or work / "records"
        base = bases()
        jobs = [(number, base[number % len(base)], folder) for number in range(args.records)]
        start = time.perf_counter()
        with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
            records = pool.map(made, jobs, chunksize=8)
        print(
            f"{len(records)} records like {len(base)} real ones, made in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        return _steps(records, work, args)


def _steps(records: list[Path], work: Path, args: argparse.Namespace) -> int:
    bundle, where = work / "large.wattcount", work / "ds"
    samples = sum(Record.open(path).rows(schema.POWER_PARQUET) for path in records)
    found: list[list[str]] = []

    def step(name: str, do: Callable[[], Any], note: Callable[[Any], str] = str) -> Any:
        seconds, peak, result = measured(do)
        found.append([name, f"{seconds:.1f}", f"{peak:.0f}", note(result)])
        print(f"{name}: {seconds:.1f} s, {peak:.0f} MB, {found[-1][3]}", flush=True)
        return result

    submitter = Submitter("bench", "https://example.org", "CC-BY-4.0", b"k" * 32)
    step(
        "submit",
        lambda: write_bundle(records, bundle, submitter).metrics_version,
        lambda _: f"{bundle.stat().st_size / 1e6:.0f} MB, {samples / 1e6:.1f} million rows of power",
    )
    Dataset.init(where, "bench", DAY)
    if not args.only_store:
        step(
            "validate",
            lambda: (
                (v := validated(bundle, Dataset.open(where)).verdict)["decision"]
                + f", {len(v['breaches'])} breaches"
            ),
        )
    accepted = Judged({"decision": "accepted", "breaches": []}, {})
    step(
        "add, validated before",
        lambda: add_file(Dataset.open(where), bundle, DAY, validate=lambda *_: accepted).num_results,
        lambda n: f"{n} results",
    )
    step("load for a study", lambda: len(Dataset.open(where).results()), lambda n: f"{n} results")
    for name, sql in QUERIES.items():
        step(f"SQL, {name}", lambda sql=sql: len(query(Dataset.open(where), sql)), lambda n: f"{n} rows")
    if args.scale > 1:
        scaled(Dataset.open(where), args.scale - 1)
        count = Dataset.open(where).latest().num_results
        for name, sql in QUERIES.items():
            step(
                f"SQL over {count:,} results, {name}",
                lambda sql=sql: len(query(Dataset.open(where), sql)),
                lambda n: f"{n} rows",
            )
    print(f"\ncores: {len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}\n")
    print(markdown(["step", "s", "peak MB", ""], found))
    shutil.rmtree(where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
