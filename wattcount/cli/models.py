"""`wattcount models`: the packaged models, and which of them a GPU holds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from wattcount.cli.catalogue import (
    add_fit_arguments,
    asked_for_a_fit,
    chosen,
    of_family,
    show_pairs,
)
from wattcount.config import fit, model_shape
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.schema import ModelConfig
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.report.units import columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family",
        metavar="NAME",
        help="only models whose name, hub id or model_type begins so: qwen3, llama, mistralai",
    )
    parser.add_argument("--kind", choices=model_shape.KINDS, help="only models of this kind")
    parser.add_argument("--min-parameters-b", type=float, metavar="N", help="only from N 10^9 parameters on")
    parser.add_argument("--max-parameters-b", type=float, metavar="N", help="only up to N 10^9 parameters")
    add_fit_arguments(parser, "gpu")


def main(args: argparse.Namespace) -> int:
    with_fit = asked_for_a_fit(args)
    models = _selected(args)
    if with_fit:
        gpus = chosen(args.fits, gpu_catalogue(), "gpu")
        titles = {name: f"{name}, {gpu.memory_gib:g} GiB: {{}} of {{}} fit" for name, gpu in gpus.items()}
        show_pairs(args, "model", list(models), titles, lambda gpu, model: (models[model], gpus[gpu]))
    elif args.json:
        print(json.dumps([_facts(model) for model in models.values()], indent=2))
    else:
        print(_listing(models))
    return EXIT_OK


def _selected(args: argparse.Namespace) -> dict[str, ModelConfig]:
    models = model_catalogue()
    words = {
        name: (name, model.hf_id or "", (model.hf_id or "").rpartition("/")[2], _architecture(model))
        for name, model in models.items()
    }
    models = of_family(models, args.family, words)
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


def _facts(model: ModelConfig) -> dict[str, Any]:
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


def _listing(models: dict[str, ModelConfig]) -> str:
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
        for facts in map(_facts, models.values())
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
