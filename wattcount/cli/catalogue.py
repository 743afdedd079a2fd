"""`wattcount models` and `wattcount gpus`: the packaged models and GPUs, and which pairs of them fit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from wattcount.config import compose, fit, model_shape
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.loader import did_you_mean
from wattcount.config.schema import GpuConfig, ModelConfig, RunConfig, has_bfloat16
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.report.units import columns
from wattcount.text import WIDTH

T = TypeVar("T")
"""What is listed: models or GPUs."""

FIT_HEAD = ("weights", "KV", "act.", "engine", "needed", "usable", "fits")
"""Columns of a table of pairs, after the name; sizes in GiB."""
GPU_FACTS = (
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
"""Fields of `GpuConfig` that `wattcount gpus --json` prints."""


# -- models


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family",
        metavar="NAME",
        help="only models whose name, hub id or model_type begins so: qwen3, llama, mistralai",
    )
    parser.add_argument("--kind", choices=model_shape.KINDS, help="only models of this kind")
    parser.add_argument("--min-parameters-b", type=float, metavar="N", help="only from N 10^9 parameters on")
    parser.add_argument("--max-parameters-b", type=float, metavar="N", help="only up to N 10^9 parameters")
    _add_fit_arguments(parser, "gpu")


def list_models(args: argparse.Namespace) -> int:
    with_fit = _asked_for_a_fit(args)
    models = _selected_models(args)
    if with_fit:
        gpus = _chosen(args.fits, gpu_catalogue(), "gpu")
        titles = {name: f"{name}, {gpu.memory_gib:g} GiB: {{}} of {{}} fit" for name, gpu in gpus.items()}
        _show_pairs(args, "model", list(models), titles, lambda gpu, model: (models[model], gpus[gpu]))
    elif args.json:
        print(json.dumps([_model_facts(model) for model in models.values()], indent=2))
    else:
        print(_model_table(models))
    return EXIT_OK


def _selected_models(args: argparse.Namespace) -> dict[str, ModelConfig]:
    models = model_catalogue()
    words = {
        name: (name, model.hf_id or "", (model.hf_id or "").rpartition("/")[2], _architecture(model))
        for name, model in models.items()
    }
    models = _of_family(models, args.family, words)
    if args.kind is not None:
        models = {name: m for name, m in models.items() if model_shape.model_kind(m.hf_config) == args.kind}
    if args.min_parameters_b is not None:
        models = {name: m for name, m in models.items() if _count(m).total >= args.min_parameters_b * 1e9}
    if args.max_parameters_b is not None:
        models = {name: m for name, m in models.items() if _count(m).total <= args.max_parameters_b * 1e9}
    if not models:
        raise NotStartedError("no model is left; wattcount models without filters lists them all")
    return dict(sorted(models.items(), key=lambda item: (_count(item[1]).total, item[0])))


def _count(model: ModelConfig) -> model_shape.ParameterCount:
    found = model_shape.count_parameters(model.hf_config)
    assert found is not None, f"conf/model/{model.name}.yaml names no shape that can be counted"
    return found


def _architecture(model: ModelConfig) -> str:
    return str(model_shape.text_config(model.hf_config).get("model_type", ""))


def _model_facts(model: ModelConfig) -> dict[str, Any]:
    count, element = _count(model), fit.DTYPE_BYTES[model.dtype]
    return {
        "name": model.name,
        "hf_id": model.hf_id,
        "model_type": _architecture(model),
        "kind": model_shape.model_kind(model.hf_config),
        "dtype": model.dtype,
        "quantization": (model.hf_config.get("quantization_config") or {}).get("quant_method"),
        "weight_bits": fit.weight_bits(model),
        "gated": model.gated,
        "parameters": count.total,
        "active_parameters": count.active,
        "kv_bytes_per_token": model_shape.kv_bytes_per_token(model.hf_config, element),
        "state_bytes_per_request": model_shape.state_bytes(model.hf_config, element),
        "context_tokens": model_shape.stated_context_tokens(model.hf_config),
        "source": model.source,
    }


def _model_table(models: dict[str, ModelConfig]) -> str:
    rows = [
        (
            facts["name"],
            facts["model_type"],
            facts["kind"],
            _billions(facts["parameters"]),
            _billions(facts["active_parameters"]),
            f"{facts['weight_bits']:.3g}",
            f"{facts['kv_bytes_per_token'] / 1024:g}",
            _context(facts["context_tokens"]),
        )
        for facts in map(_model_facts, models.values())
    ]
    head = ("model", "model_type", "kind", "total", "used", "bits", "KV", "ctx")
    legend = (
        "total: 10^9 parameters, all embeddings included; used: of these, for one token;\n"
        "bits: of a weight in a layer; KV: KiB a token in the cache; ctx: context, tokens"
    )
    return f"{columns(head, rows, left=3)}\n\n{legend}"


def _context(tokens: int | None) -> str:
    if tokens is None:
        return "-"
    return f"{tokens // 1024}K" if tokens >= 1024 else str(tokens)


def _billions(parameters: int) -> str:
    billions = parameters / 1e9
    if billions < 0.1:
        return f"{billions:.3f}"
    return f"{billions:#.3g}" if billions < 100 else f"{billions:.0f}"


# -- GPUs


def add_gpu_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family", metavar="NAME", help="only GPUs whose name or architecture begins so: a100, Ada"
    )
    parser.add_argument("--min-memory-gib", type=float, metavar="N", help="only with at least N GiB")
    _add_fit_arguments(parser, "model")


def list_gpus(args: argparse.Namespace) -> int:
    with_fit = _asked_for_a_fit(args)
    gpus = _selected_gpus(args)
    if with_fit:
        models = _chosen(args.fits, model_catalogue(), "model")
        titles = {name: f"{name}: fits {{}} of {{}} GPUs" for name in models}
        _show_pairs(args, "gpu", list(gpus), titles, lambda model, gpu: (models[model], gpus[gpu]))
    elif args.json:
        print(json.dumps([{key: getattr(gpu, key) for key in GPU_FACTS} for gpu in gpus.values()], indent=2))
    else:
        print(_gpu_table(gpus))
    return EXIT_OK


def _selected_gpus(args: argparse.Namespace) -> dict[str, GpuConfig]:
    gpus = gpu_catalogue()
    words = {name: (name, gpu.architecture or "") for name, gpu in gpus.items()}
    gpus = _of_family(gpus, args.family, words)
    if args.min_memory_gib is not None:
        gpus = {name: gpu for name, gpu in gpus.items() if (gpu.memory_gib or 0.0) >= args.min_memory_gib}
    if not gpus:
        raise NotStartedError("no GPU is left; wattcount gpus without filters lists them all")
    return dict(sorted(gpus.items(), key=lambda item: (item[1].memory_gib or 0.0, item[0])))


def _gpu_table(gpus: dict[str, GpuConfig]) -> str:
    rows = [
        (
            gpu.name,
            gpu.architecture or "-",
            gpu.compute_capability or "-",
            *(_figure(getattr(gpu, key)) for key in GPU_FACTS[3:8]),
        )
        for gpu in gpus.values()
    ]
    head = ("gpu", "architecture", "CC", "GiB", "GB/s", "FP16", "FP8", "TDP")
    legend = "CC: CUDA compute capability; FP16, FP8: dense tensor-core TFLOPS; TDP: W"
    return f"{columns(head, rows, left=2)}\n\n{legend}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


# -- pairs of a model and a GPU


def _add_fit_arguments(parser: argparse.ArgumentParser, other: str) -> None:
    """Adds the options that judge pairs. `other`: what the listed things must fit (`gpu`) or hold (`model`)."""
    parser.add_argument(
        "--fits",
        action="append",
        metavar=f"{other.upper()}[,{other.upper()}...]",
        help=f"with the arithmetic, which pairs with {'GPUs' if other == 'gpu' else 'models'} named fit",
    )
    parser.add_argument("--fitting", action="store_true", help="with --fits, only the pairs that fit")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--dtype", help="of weights and KV cache, e.g. float16; default: the model's own")
    parser.add_argument("--quantization", metavar="METHOD", help="of the weights, e.g. fp8 or awq")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="spread over N GPUs")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="the load and the engine to fit, e.g. scenario=batch engine.max_model_len=8192; a single word is as --family",
    )


def _fit_base(args: argparse.Namespace) -> RunConfig:
    """A run without its model and GPU, which `_report` fills in. Raises `NotStartedError` where it is no configuration."""
    for override in args.overrides:
        if override.split("=")[0].split(".")[0] not in ("scenario", "engine"):
            raise NotStartedError(f"{override!r}: only keys of scenario and engine say what is to fit")
    if args.tensor_parallel < 1:
        raise NotStartedError(f"--tensor-parallel {args.tensor_parallel} must be at least 1")
    if args.dtype is not None and args.dtype not in fit.DTYPE_BYTES:
        raise NotStartedError(f"--dtype {args.dtype!r} is none of {', '.join(fit.DTYPE_BYTES)}")
    if args.quantization is not None and args.quantization not in fit.QUANTIZED_BITS:
        raise NotStartedError(
            f"--quantization {args.quantization!r} is none of {', '.join(fit.QUANTIZED_BITS)}"
        )
    parallel = [f"gpu.count={args.tensor_parallel}", f"engine.tensor_parallel_size={args.tensor_parallel}"]
    return compose(["model=tiny", "engine.device=cuda", *parallel, *args.overrides])


def _asked_for_a_fit(args: argparse.Namespace) -> bool:
    """Whether pairs are to be judged. Raises `NotStartedError` for options that need pairs where there are none.

    A single word is what --family is: `wattcount models qwen3`.
    """
    words = [word for word in args.overrides if "=" not in word]
    if len(words) == 1 and args.family is None:
        args.family, args.overrides = words[0], [word for word in args.overrides if "=" in word]
    if args.fits:
        return True
    if args.dtype or args.quantization or args.tensor_parallel != 1 or args.fitting or args.overrides:
        raise NotStartedError(
            "--dtype, --quantization, --tensor-parallel, --fitting and KEY=VALUE need --fits"
        )
    return False


def _show_pairs(
    args: argparse.Namespace,
    listed: str,
    names: Sequence[str],
    titles: Mapping[str, str],
    pair: Callable[[str, str], tuple[ModelConfig, GpuConfig]],
) -> None:
    """Prints a table for each of `titles`, by name, with a row for each of `names`.

    listed  the kind of the names: `model` or `gpu`
    titles  with two `{}` each: how many fit, and of how many
    pair    the model and the GPU of a table and a row
    """
    base = _fit_base(args)
    pairs = {(title, name): pair(title, name) for title in titles for name in names}
    reports = {key: _report(base, *both, args) for key, both in pairs.items()}
    shown = {key: found for key, found in reports.items() if found.fits or not args.fitting}
    if args.json:
        print(json.dumps([_pair_json(*pairs[key], found) for key, found in shown.items()], indent=2))
        return
    for title, text in titles.items():
        print(text.format(sum(reports[title, name].fits for name in names), len(names)) + "\n")
        rows = [(name, *_fit_cells(shown[title, name])) for name in names if (title, name) in shown]
        if rows:
            print(columns((listed, *FIT_HEAD), rows) + "\n")
    models, gpus = zip(*pairs.values(), strict=True)
    for note in (*_bfloat16_notes(models, gpus, args), _fit_legend(base)):
        print(note)


def _report(base: RunConfig, model: ModelConfig, gpu: GpuConfig, args: argparse.Namespace) -> fit.FitReport:
    """The fit arithmetic of one pair on the GPU's nominal memory."""
    assert gpu.memory_gib is not None
    asked = {"dtype": args.dtype, "quantization": args.quantization}
    chosen = dataclasses.replace(model, **{key: value for key, value in asked.items() if value})
    return fit.estimate(dataclasses.replace(base, model=chosen, gpu=gpu), int(gpu.memory_gib * fit.GIB))


def _pair_json(model: ModelConfig, gpu: GpuConfig, found: fit.FitReport) -> dict[str, Any]:
    values = dataclasses.asdict(found)
    return {"model": model.name, "gpu": gpu.name, **values, "explanation": found.explain()}


def _fit_cells(found: fit.FitReport) -> Sequence[str]:
    parts = (found.weights_bytes, found.kv_cache_bytes, found.activation_bytes, found.overhead_bytes)
    total = (found.needed_bytes, found.usable_bytes)
    fits = "no" if not found.fits else "yes" if found.all_at_once else "queues"
    return (*(f"{size / fit.GIB:.1f}" for size in (*parts, *total)), fits)


def _fit_legend(base: RunConfig) -> str:
    parallel = base.engine.tensor_parallel_size
    gpus = f" on each of {parallel} GPUs" if parallel > 1 else ""
    asked = base.engine.max_model_len
    tokens = fit.longest_request_tokens(base.scenario) if asked is None else asked
    return textwrap.fill(
        f"GiB{gpus}. needed = weights + KV cache of one request of {tokens} tokens + activations + engine; "
        "usable = nominal memory x gpu_memory_utilization (a real GPU shows up to a tenth less). "
        f"queues: fits, but not {fit.concurrency(base)} requests of mean length at once.",
        WIDTH,
    )


def _bfloat16_notes(
    models: Iterable[ModelConfig], gpus: Iterable[GpuConfig], args: argparse.Namespace
) -> Iterator[str]:
    """What to do on GPUs without bfloat16, where it would be used."""
    if (args.dtype or "bfloat16") != "bfloat16" or all(model.dtype != "bfloat16" for model in models):
        return
    without = {gpu.name: None for gpu in gpus if not has_bfloat16(gpu.compute_capability)}
    if without:
        names = ", ".join(without)
        yield textwrap.fill(
            f"No bfloat16 on {names}: run with model.dtype=float16, which takes as much.", WIDTH
        )


def _chosen(names: Iterable[str], known: Mapping[str, T], what: str) -> dict[str, T]:
    """Those of `known` that are named. A name may also be a list of names with commas."""
    found = {}
    for name in (part for given in names for part in given.split(",") if part):
        if name not in known:
            raise NotStartedError(
                f"{name!r} is no {what} (wattcount {what}s lists them){did_you_mean(name, known)}"
            )
        found[name] = known[name]
    return found


def _of_family(
    values: Mapping[str, T], family: str | None, words: Mapping[str, Sequence[str]]
) -> dict[str, T]:
    """Those of `values` for which one of the `words` begins with `family`. Case and punctuation do not count."""
    if family is None:
        return dict(values)
    wanted = _bare(family)
    return {
        name: value for name, value in values.items() if any(_bare(w).startswith(wanted) for w in words[name])
    }


def _bare(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())
