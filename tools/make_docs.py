"""Writes the tables of docs/ that come from data, options and declarations in this repository: `make docs`.

A table stands between two marker lines, `<!-- NAME -->` and `<!-- /NAME -->`; the text around it is written
by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import catalogue_tables
import dataset_tables
import importer_tables
import load_curve_picture
import metrics_tables
import pandas as pd
import prediction_tables
import pyarrow.parquet as pq
import reference_tables
import rules_tables
import shown
import simulation_tables
from estimator_constants import estimator_constants

from wattcount.report.labels import name_of
from wattcount.result import Result, results
from wattcount.result.table import of_arrow
from wattcount.study import inventory, pages, servers, single_runs, tables
from wattcount.study.comparison import Scatters, cells

ROOT = Path(__file__).resolve().parent.parent
STUDIED = ("h100", "h200")
"""The GPUs of levers.md, by their folders below data/."""
OWN = (*STUDIED, "campaign", "servers")
"""The folders of our own records below data/."""


@cache
def runs(folder: str) -> list[Result]:
    """All results of `data/<folder>/records`, batches first, then by rate; none where there is no such folder."""
    found = results(ROOT / "data" / folder / "records", keep=False)
    return sorted(found, key=lambda run: (run.rate_rps or 0.0, name_of(run), run.started_utc, run.run_id))


@cache
def frame(name: str) -> pd.DataFrame:
    return pd.read_parquet(ROOT / "data" / "h200" / f"{name}.parquet")


def benchmark(name: str) -> Any:
    """What a benchmark of the study wrote."""
    return json.loads((ROOT / "data" / "study" / f"{name}.json").read_text())


def imported(name: str) -> list[Result]:
    """The results of a source in data/imported."""
    table = pq.read_table(ROOT / "data" / "imported" / f"{name}.parquet")
    return of_arrow(table, [None] * len(table))


def of_source(make: Callable[..., str], name: str) -> Callable[[], str]:
    """`make` of the results of a source in data/imported."""
    return lambda: make(imported(name))


def of_engine(name: str) -> list[Result]:
    """The runs of an engine in data/servers."""
    return [run for run in runs("servers") if run.engine == name]


@cache
def scatters() -> Scatters:
    """How our own results scatter: one and the same in every table."""
    return Scatters(cells(run for folder in OWN for run in runs(folder)))


def with_scatter(make: Callable[..., str], *folders: str) -> Callable[[], str]:
    """As `of`, for tables with intervals."""
    return lambda: make(*map(runs, folders), scatters())


def of(make: Callable[..., str], *folders: str) -> Callable[[], str]:
    """`make` of the runs in these folders, which are read when the table is made."""
    return lambda: make(*map(runs, folders))


def of_own(make: Callable[[list[Result]], str]) -> Callable[[], str]:
    """`make` of all our own runs in one list."""
    return lambda: make([run for folder in OWN for run in runs(folder)])


PICTURES: dict[str, Callable[[], str]] = {
    "load_curve.svg": lambda: load_curve_picture.svg(
        [(f"NVIDIA {gpu.upper()}", load_curve_picture.spots(runs(gpu))) for gpu in STUDIED]
    ),
}
"""What makes each picture of docs/images that is made from records, by its file."""


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "uncertainty.md": {
        "start-scatter": lambda: tables.starts([run for folder in OWN for run in runs(folder)], scatters()),
    },
    "metrics.md": {
        "metrics-energy": metrics_tables.metrics_of(
            "energy", "energy_by_source", "power", "energy_steady", "power_steady"
        ),
        "metrics-attribution": metrics_tables.metrics_of("attribution"),
        "metrics-throughput": metrics_tables.metrics_of("throughput", "throughput_steady", "load"),
        "metrics-latency": metrics_tables.metrics_of("latency"),
        "metrics-counts": metrics_tables.metrics_of("requests", "tokens", "window", "window_steady"),
        "metrics-engine": metrics_tables.metrics_of("engine", "gpu"),
        "metrics-host": metrics_tables.metrics_of("host"),
        "metrics-sampler": metrics_tables.metrics_of("sampler", "run"),
        "null-reasons": metrics_tables.null_reasons,
        "findings": metrics_tables.findings,
    },
    "h200.md": {
        "reproducible": lambda: single_runs.reproducible(runs("h200"), frame("sampler_overhead")),
        "main-job": of(single_runs.main_job, "h200"),
        "sources": of(single_runs.sources, "h200"),
        "budget": of(single_runs.budget, "h200"),
        "phases": of(single_runs.phases, "h200"),
        "period": lambda: single_runs.period(frame("load_period")),
        "sampler": of(single_runs.sampler, "h200"),
        "overhead": lambda: single_runs.overhead(frame("sampler_overhead")),
    },
    "h100.md": {
        "main-job": of(single_runs.main_job, "h100"),
        "sources": of(single_runs.sources, "h100"),
        "sensors": of(single_runs.found_sensors, "h100"),
        "times": of(single_runs.added_times, "h100"),
    },
    "levers.md": {
        **{f"levers-{gpu}": with_scatter(tables.lever_savings, gpu) for gpu in STUDIED},
        **{f"load-curve-{gpu}": with_scatter(tables.load_curve, gpu) for gpu in STUDIED},
        "gpus": with_scatter(tables.shape_ratios, *STUDIED),
        "deployed": of(tables.deployed, "campaign"),
    },
    "appendix.md": {
        "headline": with_scatter(tables.headline, "campaign"),
        **{f"shapes-{gpu}": with_scatter(tables.shapes, gpu) for gpu in STUDIED},
        "estimator-constants": estimator_constants,
    },
    "data.md": {
        "total": of_own(inventory.total),
        "matrix": of_own(lambda found: inventory.Matrix.of(found).to_markdown()),
        "spoiled": of_own(inventory.spoiled),
        "findings": of_own(inventory.findings),
        "costs": of_own(inventory.costs),
    },
    "sweeps.md": {
        "seconds": lambda: inventory.seconds({name: runs(name) for name in ("campaign", "servers")})
    },
    "parity.md": {
        "parity": lambda: servers.parity(runs("servers"), "vllm", "vllm_serve", scatters()),
        "served-curve": lambda: servers.served_curve(of_engine("vllm_serve"), scatters()),
        "sharing": of(servers.sharing, "servers"),
        "host-part": lambda: servers.host_part(of_engine("vllm"), scatters()),
    },
    "rules.md": rules_tables.tables(),
    "dataset_format.md": {"columns": dataset_tables.columns},
    "importing.md": {"sources": importer_tables.sources, "figures": importer_tables.figures},
    "study.md": {
        "coverage": lambda: pages.coverage(benchmark("coverage")),
        **{
            name: of(partial(pages.asked, name), *OWN)
            for name in ("gpu-choice", "savings", "load-curves", "levers", "scaling", "reproduce", "claims")
        },
        **{
            f"mlenergy-{name}": of_source(partial(pages.asked, name), "mlenergy")
            for name in ("savings", "at-once", "claims")
        },
        "interpolation": lambda: pages.interpolation(benchmark("interpolation")),
        "regret": lambda: pages.regret(benchmark("regret")),
    },
    "prediction.md": prediction_tables.tables(lambda: benchmark("prediction")),
    **reference_tables.tables(),
    "tutorial.md": {
        "shown-record": lambda: shown.record(ROOT / shown.RECORD),
        "shown-results": lambda: shown.results(ROOT / point for point in shown.POINTS),
    },
    "simulation.md": {
        "gates": simulation_tables.gates,
        "rates": simulation_tables.rates,
        "intervals": simulation_tables.intervals,
    },
    "fleet.md": {"day": simulation_tables.day},
    "catalogue.md": {
        "models": catalogue_tables.catalogue_models,
        "summary": catalogue_tables.catalogue_summary,
        "failures": catalogue_tables.catalogue_failures,
        "gpus": catalogue_tables.catalogue_gpus,
    },
}


def filled(file: str, text: str) -> str:
    """The text of a page with its tables made afresh. SystemExit where markers are missing."""
    for name, make in TABLES[file].items():
        made = make()
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n?<!-- /{name} -->)", re.S)
        text, count = pattern.subn(lambda m, made=made: f"{m[1]}{made}\n<!-- /{m[2].split('/')[1]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"docs/{file}: the markers of the table {name} are missing")
    return text


def main() -> None:
    for file, make in PICTURES.items():
        (ROOT / "docs" / "images" / file).write_text(make())
    for file in TABLES:
        path = ROOT / "docs" / file
        path.write_text(filled(file, path.read_text()))


if __name__ == "__main__":
    main()
