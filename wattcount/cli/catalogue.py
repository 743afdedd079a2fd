"""What `wattcount models` and `wattcount gpus` share: pairs of model and GPU, and tables for 80 columns."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from wattcount.config import compose, fit
from wattcount.config.loader import did_you_mean
from wattcount.config.schema import GpuConfig, ModelConfig, RunConfig, has_bfloat16
from wattcount.errors import NotStartedError
from wattcount.report.units import columns
from wattcount.text import WIDTH

T = TypeVar("T")

Row = Sequence[str]


def add_fit_arguments(parser: argparse.ArgumentParser, other: str) -> None:
    """The options that judge pairs; `other` is what the listed things are to fit or to hold."""
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
        help="the load and the engine to fit, e.g. scenario=batch engine.max_model_len=8192",
    )


def fit_base(args: argparse.Namespace) -> RunConfig:
    """The run whose model and GPU `report` fills in. Raises `NotStartedError` for what is no configuration."""
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


def asked_for_a_fit(args: argparse.Namespace) -> bool:
    """Whether there is a pair to judge. Raises `NotStartedError` for options that only make sense with one."""
    if args.fits:
        return True
    if args.dtype or args.quantization or args.tensor_parallel != 1 or args.fitting or args.overrides:
        raise NotStartedError(
            "--dtype, --quantization, --tensor-parallel, --fitting and KEY=VALUE need --fits"
        )
    return False


def show_pairs(
    args: argparse.Namespace,
    listed: str,
    names: Sequence[str],
    titles: Mapping[str, str],
    pair: Callable[[str, str], tuple[ModelConfig, GpuConfig]],
) -> None:
    """Prints a table for each of `titles`, by name, with a row for each of `names`, which are of kind `listed`.

    `pair` has the model and the GPU of a table and a row. A title has two `{}`: how many fit, and of how many.
    """
    base = fit_base(args)
    pairs = {(title, name): pair(title, name) for title in titles for name in names}
    reports = {key: report(base, *both, args) for key, both in pairs.items()}
    shown = {key: found for key, found in reports.items() if found.fits or not args.fitting}
    if args.json:
        print(json.dumps([pair_json(*pairs[key], found) for key, found in shown.items()], indent=2))
        return
    for title, text in titles.items():
        print(text.format(sum(reports[title, name].fits for name in names), len(names)) + "\n")
        rows = [(name, *fit_cells(shown[title, name])) for name in names if (title, name) in shown]
        if rows:
            print(columns((listed, *FIT_HEAD), rows) + "\n")
    models, gpus = zip(*pairs.values(), strict=True)
    for note in (*bfloat16_notes(models, gpus, args), fit_legend(base)):
        print(note)


def report(base: RunConfig, model: ModelConfig, gpu: GpuConfig, args: argparse.Namespace) -> fit.FitReport:
    """The fit arithmetic of one pair on the GPU's nominal memory."""
    assert gpu.memory_gib is not None
    asked = {"dtype": args.dtype, "quantization": args.quantization}
    chosen = dataclasses.replace(model, **{key: value for key, value in asked.items() if value})
    return fit.estimate(dataclasses.replace(base, model=chosen, gpu=gpu), int(gpu.memory_gib * fit.GIB))


def pair_json(model: ModelConfig, gpu: GpuConfig, found: fit.FitReport) -> dict[str, Any]:
    values = dataclasses.asdict(found)
    return {"model": model.name, "gpu": gpu.name, **values, "explanation": found.explain()}


FIT_HEAD = ("weights", "KV", "act.", "engine", "needed", "usable", "fits")


def fit_cells(found: fit.FitReport) -> Row:
    parts = (found.weights_bytes, found.kv_cache_bytes, found.activation_bytes, found.overhead_bytes)
    total = (found.needed_bytes, found.usable_bytes)
    fits = "no" if not found.fits else "yes" if found.all_at_once else "queues"
    return (*(f"{size / fit.GIB:.1f}" for size in (*parts, *total)), fits)


def fit_legend(base: RunConfig) -> str:
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


def bfloat16_notes(
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


def chosen(names: Iterable[str], known: Mapping[str, T], what: str) -> dict[str, T]:
    """Those of `known` that are named, each also as a comma-separated list."""
    found = {}
    for name in (part for given in names for part in given.split(",") if part):
        if name not in known:
            raise NotStartedError(
                f"{name!r} is no {what} (wattcount {what}s lists them){did_you_mean(name, known)}"
            )
        found[name] = known[name]
    return found


def of_family(
    values: Mapping[str, T], family: str | None, words: Mapping[str, Sequence[str]]
) -> dict[str, T]:
    """Those for which one of the `words` begins with `family`, whatever its case and punctuation."""
    if family is None:
        return dict(values)
    wanted = _bare(family)
    return {
        name: value for name, value in values.items() if any(_bare(w).startswith(wanted) for w in words[name])
    }


def _bare(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())
