"""`wattcount gpus`: the packaged GPUs, and which of them hold a model."""

from __future__ import annotations

import argparse
import json

from wattcount.cli.catalogue import (
    add_fit_arguments,
    asked_for_a_fit,
    chosen,
    of_family,
    show_pairs,
)
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.schema import GpuConfig
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.report.units import columns

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
    parser.add_argument("--min-memory-gib", type=float, metavar="N", help="only with at least N GiB")
    add_fit_arguments(parser, "model")


def main(args: argparse.Namespace) -> int:
    with_fit = asked_for_a_fit(args)
    gpus = _selected(args)
    if with_fit:
        models = chosen(args.fits, model_catalogue(), "model")
        titles = {name: f"{name}: fits {{}} of {{}} GPUs" for name in models}
        show_pairs(args, "gpu", list(gpus), titles, lambda model, gpu: (models[model], gpus[gpu]))
    elif args.json:
        print(json.dumps([{key: getattr(gpu, key) for key in FACTS} for gpu in gpus.values()], indent=2))
    else:
        print(_listing(gpus))
    return EXIT_OK


def _selected(args: argparse.Namespace) -> dict[str, GpuConfig]:
    gpus = gpu_catalogue()
    words = {name: (name, gpu.architecture or "") for name, gpu in gpus.items()}
    gpus = of_family(gpus, args.family, words)
    if args.min_memory_gib is not None:
        gpus = {name: gpu for name, gpu in gpus.items() if (gpu.memory_gib or 0.0) >= args.min_memory_gib}
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
    return f"{columns(head, rows, left=2)}\n\n{legend}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
