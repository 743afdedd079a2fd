"""Results for the tests of pages: servers of two models on two GPUs, each setting with two starts.

This folder is no package (no `__init__.py`): as one it would be called as Python's own module `site`.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.result.result import ENERGY
from wattcount.site.source import Source

GPUS = {"NVIDIA H200": 1.0, "NVIDIA H100 80GB HBM3": 1.5}
"""GPUs, and the energy of a token on them against that on the first."""
RATES = (1.0, 4.0, 16.0)


def result(
    model: str = "llama3_8b",
    gpu: str = "NVIDIA H200",
    rate_rps: float = 4.0,
    start: int = 0,
    per_token_j: float = 0.2,
    **fields: object,
) -> Result:
    """A run of a server. `fields`: what is otherwise."""
    number = f"20261127-000000-000-{hash_of(model, gpu, rate_rps, start)}"
    made = Result(
        run_id=number,
        session=number,
        repeat=start,
        seed=0,
        setting_key=f"{hash_of(model, gpu, rate_rps):0>12}" * 4,
        setting={"model": {"name": model}, "gpu": {"found_name": gpu}, "engine": {"name": "vllm"}},
        model=model,
        weights="random",
        gpu="h200",
        scenario="server",
        kind="server",
        rate_rps=rate_rps,
        input_tokens=512,
        output_tokens=128,
        engine="vllm",
        engine_version="0.26.0",
        gpus=(gpu,),
        boards=(f"GPU-{gpu[-4:]}",),
        evidence=Evidence.MEASURED,
        instrument="nvml",
        by="somebody",
        started_utc=f"2026-11-27T0{start}:00:00.000+00:00",
        metrics={
            PER_TOKEN: per_token_j,
            ENERGY: 1000.0,
            f"{ENERGY}_u95": 51.0,
            f"{ENERGY}_u95_sensor": 50.0,
            "power/gpu_mean_w": 300.0 + rate_rps,
            "throughput/output_tokens_per_s": 128.0 * rate_rps,
            "energy/gpu_j_per_request": 128 * per_token_j,
            "latency/ttft_p50_ms": 40.0,
            "latency/ttft_p95_ms": 60.0,
            "latency/ttft_p99_ms": 90.0,
            "latency/tpot_p50_ms": 7.0,
            "latency/tpot_p95_ms": 8.0,
            "latency/tpot_p99_ms": 9.0,
        },
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def hash_of(*parts: object) -> str:
    """Six hexadecimal digits that differ where the parts do."""
    import hashlib

    return hashlib.sha256(repr(parts).encode()).hexdigest()[:6]


@cache
def results() -> tuple[Result, ...]:
    return tuple(
        result(model, gpu, rate, start, level * times / rate**0.5 * (1 + 0.01 * start))
        for model, level in (("llama3_8b", 0.9), ("qwen3_8b", 0.905))
        for gpu, times in GPUS.items()
        for rate in RATES
        for start in (0, 1)
    )


def source(*more: Result, name: str = "sample") -> Source:
    return Source.of_results(name, [*results(), *more])


def data_of(path: Path) -> Any:
    """What a script of the pages holds, packed or not."""
    text = path.read_text()
    assert text.isascii()
    packed = re.fullmatch(r'\(\(window\.WATTCOUNT \?\?= {}\)\.packed \?\?= {}\)\.\w+ = "([\w+/=]+)";\n', text)
    if packed is not None:
        return json.loads(gzip.decompress(base64.b64decode(packed[1])))
    plain = re.fullmatch(r"\(window\.WATTCOUNT \?\?= {}\)\.\w+ = (.*);\n", text, re.S)
    assert plain is not None
    return json.loads(plain[1])
