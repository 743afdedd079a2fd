"""Size and time of the pages, by the number of results: `python benchmarks/bench_site.py [NUMBER ...]`.

The results are those of one measured run with other names and figures: models x GPUs x loads x 5 repeats, as a community's data set would have
them. Sizes are without the traces of single runs, which have a file each and are loaded when they are asked for.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from wattcount.report.units import markdown
from wattcount.result import Result, results
from wattcount.site.builder import build
from wattcount.site.source import Source

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = (100, 5580, 50_000)
REPEATS = 5
MODELS, GPUS = 50, 10
"""As many as the paper has."""
SEED = 3


def synthetic(number: int) -> list[Result]:
    """So many results of servers at 1, 2, 4, ... requests/s; energy falls with the rate, and repeats scatter by 3 %."""
    found = results(ROOT / "data" / "campaign" / "records", keep=False)
    pattern = next(run for run in found if run.valid and run.kind == "server")
    rng = np.random.default_rng(SEED)
    return [_one(pattern, rng, *which) for which in itertools.islice(_places(), number)]


def _places() -> Iterator[tuple[int, int, int, int]]:
    for load in itertools.count():
        yield from itertools.product([load], range(MODELS), range(GPUS), range(REPEATS))


def _one(pattern: Result, rng: np.random.Generator, load: int, model: int, gpu: int, repeat: int) -> Result:
    times = (1 + model / 10) * (1 + gpu / 20) / (1 + load) * float(np.exp(0.03 * rng.standard_normal()))
    number = f"20261127-000000-{load:03d}-{model:02d}{gpu:02d}{repeat:02d}"
    return replace(
        pattern,
        run_id=number,
        session=number,
        source=None,
        repeat=repeat,
        setting_key=f"{load:06x}{model:03x}{gpu:03x}" * 5,
        model=f"model_{model}_of_a_usual_length",
        gpu=f"gpu{gpu}",
        gpus=(f"NVIDIA GPU {gpu} 80GB HBM3",),
        boards=(f"GPU-{gpu:08x}-{repeat:04x}-0000-0000-000000000000",),
        rate_rps=float(1 + load),
        by="somebody",
        metrics={
            key: None if value is None else value * times if key.startswith(("energy/", "latency/", "power/")) else value
            for key, value in pattern.metrics.items()
        },
    )  # fmt: skip


def main(numbers: list[int]) -> None:
    rows = []
    for number in numbers:
        source = Source.of_results("bench", synthetic(number))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            build(source, Path(folder))
            took_s = time.perf_counter() - began
            sizes = {path: path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}
            api = sum(size for path, size in sizes.items() if "api" in path.parts)
            rows.append(
                [f"{number:,}", f"{sum(sizes.values()) / 1e6:.2f}", f"{api / 1e6:.2f}", f"{took_s:.1f}"]
            )
            largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
            print(number, [(str(path.relative_to(folder)), size) for path, size in largest], file=sys.stderr)
    print(markdown(["results", "all files, MB", "of these the API, MB", "build, s"], rows))


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or list(NUMBERS))
