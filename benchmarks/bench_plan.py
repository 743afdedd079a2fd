"""How long a plan of 100,000 points takes: values swept, points built and checked, keys, fit, records looked up.

    python benchmarks/bench_plan.py [POINTS]

Plans a sweep of models x GPUs x rates x repeats as `python -m wattcount -m ...` would, in a process of its own, with no
record in the folder and then with 5,580 of them, and prints one JSON object of seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wattcount.metrics import load_metrics, to_bytes
from wattcount.records import Record
from wattcount.records.schema import METRICS_JSON, RUN_JSON

MODELS = (
    "llama3_8b,llama3_1_8b,qwen3_8b,mistral_7b,phi4,gemma3_12b,olmo2_7b,qwen2_5_7b,granite3_0_8b,qwen3_32b"
)
GPUS = "a100,a30,h100,h200,l4,l40s,rtx3090,rtx4090,b200,h100_nvl"
REPEATS = 10
RECORDS = 5580


def plan_s(records_dir: Path, points: int) -> tuple[float, float]:
    """Seconds of `dry_run` from start to end of the process, and CPU seconds (on a busy machine less than those)."""
    rates = ",".join(f"{1 + n / 100:g}" for n in range(points // (10 * 10 * REPEATS)))
    command = [
        sys.executable, "-m", "wattcount", "-m", f"model={MODELS}", f"gpu={GPUS}", "scenario=server",
        f"scenario.rate_rps={rates}", f"repeat=range({REPEATS})", "power=emulated", "dry_run=true",
        f"records_dir={records_dir}",
    ]  # fmt: skip
    began_s, before = time.monotonic(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took_s, after = time.monotonic() - began_s, os.times()
    assert f"{points:,} points" in done.stdout, done.stdout
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return round(took_s, 2), round(cpu_s, 2)


def make_records(folder: Path, count: int) -> None:
    """Copies of one real record, each with a repeat of its own; the raw files are linked."""
    template = Path(__file__).parent.parent / "data" / "h200" / "records"
    records = (Record.open(file.parent) for file in sorted(template.glob("*/r*/run.json")))
    source = next(record for record in records if record.info.resolved.scenario.kind.value == "batch")
    info, metrics = json.loads((source.path / RUN_JSON).read_text()), load_metrics(source)
    folder.mkdir(parents=True, exist_ok=True)
    raw_files = [Path(shutil.copy(raw, folder)) for raw in source.path.glob("*.parquet")]
    for number in range(count):
        run = folder / f"{number // 5:012x}" / f"r{number % 5}-{info['run_id'][:-6]}{number:06x}"
        run.mkdir(parents=True)
        info["repeat"], info["config"]["scenario"]["num_requests"] = number % 5, 1 + number // 5
        content = json.dumps(info, indent=1).encode()
        (run / RUN_JSON).write_bytes(content)
        for raw in raw_files:
            os.link(raw, run / raw.name)
        digests = source.digests | {RUN_JSON: hashlib.sha256(content).hexdigest()}
        (run / METRICS_JSON).write_bytes(to_bytes(metrics, digests))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", nargs="?", type=int, default=100_000)
    points = parser.parse_args().points
    from wattcount.result.table import TABLE_FILE
    from wattcount.sweep.planner import read_index

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WATTCOUNT_HOME"] = scratch
        records = Path(scratch) / "records"
        result: dict[str, float | None] = {"points": points, "cores": os.cpu_count()}
        result["plan_s"], result["plan_cpu_s"] = plan_s(records, points)
        make_records(records, RECORDS)
        for name in ("index_cold_s", "index_warm_s"):
            began_s, cpu_s = time.monotonic(), time.process_time()
            assert len(read_index(records)) == RECORDS
            result[name] = round(time.monotonic() - began_s, 2)
            result[name.replace("_s", "_cpu_s")] = round(time.process_time() - cpu_s, 2)
        assert (records / TABLE_FILE).exists()
        result["plan_with_records_s"], result["plan_with_records_cpu_s"] = plan_s(records, points)
    print(json.dumps(result | {"records": RECORDS}))


if __name__ == "__main__":
    main()
