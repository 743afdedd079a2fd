"""`wattcount gpus`: the packaged GPUs, and which of them hold a model."""

from __future__ import annotations

import argparse
import json

from wattcount.cli.catalogue import (
    FIT_HEAD,
    add_fit_arguments,
    asked_for_a_fit,
    bfloat16_notes,
    chosen,
    fit_base,
    fit_cells,
    fit_legend,
    of_family,
    pair_json,
    report,
    table,
)
from wattcount.config.composition import gpu_catalogue, model_catalogue
from wattcount.config.schema import GpuConfig
from wattcount.errors import EXIT_OK, NotStartedError

FACTS = (
    "name",
    "architecture",
    "compute_capability",
    "memory_gib",
    "memory_bandwidth_gb_s",
    "fp16_dense_tflops",
    "fp8_dense_tflops",
    "tdp_w",
    "nvml_names",
    "source",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family", metavar="NAME", help="only GPUs whose name or architecture begins so: a100, Ada"
    )
    parser.add_argument(
        "--fits",
        action="append",
        metavar="MODEL[,MODEL...]",
        help="with the arithmetic, whether they hold these models",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_fit_arguments(parser)


def main(args: argparse.Namespace) -> int:
    with_fit = asked_for_a_fit(args)
    gpus = _selected(args)
    if not with_fit:
        listed = [{key: getattr(gpu, key) for key in FACTS} for gpu in gpus.values()]
        print(json.dumps(listed, indent=2) if args.json else _listing(gpus))
        return EXIT_OK
    models = chosen(args.fits, model_catalogue(), "model")
    base = fit_base(args)
    pairs = {(name, gpu): report(base, models[name], gpus[gpu], args) for name in models for gpu in gpus}
    if args.json:
        listed = [pair_json(models[name], gpus[gpu], found) for (name, gpu), found in pairs.items()]
        print(json.dumps(listed, indent=2))
        return EXIT_OK
    for name in models:
        reports = {gpu: pairs[name, gpu] for gpu in gpus}
        print(f"{name}: fits {sum(found.fits for found in reports.values())} of {len(gpus)} GPUs\n")
        print(table(("gpu", *FIT_HEAD), [(gpu, *fit_cells(found)) for gpu, found in reports.items()]) + "\n")
    for note in (*bfloat16_notes(models.values(), gpus.values(), args), fit_legend(base)):
        print(note)
    return EXIT_OK


def _selected(args: argparse.Namespace) -> dict[str, GpuConfig]:
    gpus = gpu_catalogue()
    words = {name: (name, gpu.architecture or "") for name, gpu in gpus.items()}
    gpus = of_family(gpus, args.family, words)
    if not gpus:
        raise NotStartedError("no GPU is left; wattcount gpus without filters lists them all")
    return dict(sorted(gpus.items(), key=lambda item: (item[1].memory_gib or 0.0, item[0])))


def _listing(gpus: dict[str, GpuConfig]) -> str:
    rows = [
        (
            gpu.name,
            gpu.architecture or "-",
            gpu.compute_capability or "-",
            *(_figure(getattr(gpu, key)) for key in FACTS[3:8]),
        )
        for gpu in gpus.values()
    ]
    head = ("gpu", "architecture", "CC", "GiB", "GB/s", "FP16", "FP8", "TDP")
    legend = "CC: CUDA compute capability; FP16, FP8: dense tensor-core TFLOPS; TDP: W"
    return f"{table(head, rows, left=2)}\n\n{legend}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
