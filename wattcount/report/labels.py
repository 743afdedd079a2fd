"""What a run, its GPUs, its load and its evidence are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from wattcount.text import printable

if TYPE_CHECKING:
    from wattcount.result import Result


def gpu_label(gpus: Iterable[str]) -> str:
    """`NVIDIA H200`, `2 x NVIDIA H200`; `no GPU` where none was found. `gpus`: the name of each."""
    names = [printable(name, lines=False) for name in gpus]
    if not names:
        return "no GPU"
    kinds = sorted(set(names))
    return " + ".join(f"{names.count(k)} x {k}" if names.count(k) > 1 else k for k in kinds)


def load_label(kind: str | None, num_requests: int | None = None, rate_rps: float | None = None) -> str:
    """`batch of 512`, `server 4 requests/s`; of an imported run what its source calls the load."""
    if kind == "batch":
        return f"batch of {num_requests}" if num_requests is not None else "batch"
    if rate_rps is not None:
        return f"{kind} {rate_rps:g} requests/s"
    return "server, rate of the trace" if kind == "server" else kind or "unknown load"


def describe(result: Result) -> str:
    """One line: model, GPU, load, and what was turned: `llama3_8b on NVIDIA H200, batch of 512, fp8`."""
    load = load_label(result.kind, result.num_requests, result.rate_rps)
    words = ", ".join([load, *result.levers])
    return printable(f"{result.model or 'unknown model'} on {gpu_label(result.gpus)}, {words}", lines=False)


def evidence_label(evidence: str | None, origin: str, weights: str | None) -> str:
    """`measured`, `emulated`, `measured, random weights`, ..."""
    words = [evidence or "unknown evidence"]
    if origin != "wattcount":
        words.append(origin)
    if weights == "random":
        words.append("random weights")
    return printable(", ".join(words), lines=False)
