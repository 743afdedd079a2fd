"""Names of a run, its GPUs, its load, its phases and its evidence, and the sentences that belong to its figures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wattcount.config.identity import levers, particulars, window_in_words
from wattcount.config.schema import RunConfig, ScenarioKind, SloConfig
from wattcount.records.schema import Phase
from wattcount.text import printable

if TYPE_CHECKING:
    from wattcount.result import Result

PHASE_NAMES = {
    Phase.BARE_IDLE: "bare idle",
    Phase.ENGINE_START: "engine start",
    Phase.LOADED_IDLE: "loaded idle",
    Phase.REHEARSAL: "rehearsal",
    Phase.WARMUP: "warm-up",
    Phase.WINDOW: "window",
    Phase.DRAIN: "drain",
    Phase.IDLE_AFTER: "loaded idle after",
    Phase.BARE_IDLE_AFTER: "bare idle after",
}
"""What people call the phases."""

USUAL_SHARE = " for 95 %"
"""Of requests that are to keep an SLO, as `slo_in_words` says it. Names of points say others only."""
EMULATED = "EMULATED: power comes from a model of a GPU, not from a meter. Not a result."
"""What is said of every figure of an emulated run."""
PREDICTED = "PREDICTED: nobody measured this. It is what the data make likely, with 90 % intervals."
"""What is said of every figure of a predicted row."""
RANDOM_WEIGHTS = "RANDOM WEIGHTS: not comparable with runs of the real weights."
"""What is said of every figure of a run with random weights."""

MAIN_FIGURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Energy of the window", ("energy/gpu_j",)),
    ("Energy of the batch", ("energy/batch_gpu_j",)),
    ("  per output token", ("energy/gpu_j_per_output_token",)),
    ("    without idle", ("energy/dynamic_j_per_output_token",)),
    ("    engine full", ("energy_steady/gpu_j_per_output_token",)),
    ("  per request completed", ("energy/gpu_j_per_request",)),
    ("  per good one of these", ("energy/gpu_j_per_good_request",)),
    ("  at the wall, per output token", ("energy/wall_j_per_output_token",)),
    ("Power, mean", ("power/gpu_mean_w",)),
    ("  at the wall", ("power/wall_mean_w",)),
    ("  idle loaded / bare", ("power/idle_loaded_w", "power/idle_bare_w")),
    ("Output tokens", ("throughput/output_tokens_per_s",)),
    ("Requests completed", ("throughput/requests_per_s",)),
    ("  good ones, by the SLO", ("throughput/goodput_rps",)),
    ("Requests offered / sent", ("load/offered_rps", "load/achieved_rps")),
    ("  of those sent good / all", ("requests/good", "requests/sent")),
    ("TTFT p50 / p95 / p99", tuple(f"latency/ttft_p{p}_ms" for p in (50, 95, 99))),
    ("TPOT p50 / p95 / p99", tuple(f"latency/tpot_p{p}_ms" for p in (50, 95, 99))),
    ("E2E p50 / p95 / p99", tuple(f"latency/e2e_p{p}_ms" for p in (50, 95, 99))),
)
"""The figures that a person looks at first, from top to bottom: name and keys. A source need not have all of them."""


# -- parts of a name


def gpu_label(gpus: Iterable[str]) -> str:
    """`NVIDIA H200`, `2 x NVIDIA H200`; `no GPU` where none was found. `gpus`: the name of each."""
    names = [printable(name, lines=False) for name in gpus]
    if not names:
        return "no GPU"
    kinds = sorted(set(names))
    return " + ".join(f"{names.count(k)} x {k}" if names.count(k) > 1 else k for k in kinds)


def board_label(uuid: str) -> str:
    """`8d2e`: the first digits of a GPU's UUID, enough to tell a study's boards apart."""
    return uuid.removeprefix("GPU-")[:4]


def short_id(run_id: str | None) -> str:
    """`b685d2` of `20261127-151129-393-b685d2`: enough to tell the runs of one folder apart, and what commands take for a run."""
    return printable((run_id or "-").rpartition("-")[2] or "-", lines=False)


def load_label(kind: str | None, num_requests: int | None = None, rate_rps: float | None = None) -> str:
    """`batch of 512`, `server 4 requests/s`. Of an imported run: its source's own word."""
    if kind == "batch":
        return f"batch of {num_requests}" if num_requests is not None else "batch"
    if rate_rps is not None:
        return f"{kind} {rate_rps:g} requests/s"
    return "server, rate of the trace" if kind == "server" else kind or "unknown load"


def evidence_label(evidence: str | None, origin: str, weights: str | None) -> str:
    """`measured`, `emulated`, `measured, random weights`, ..."""
    words = [evidence or "unknown evidence"]
    if origin != "wattcount":
        words.append(origin)
    if weights == "random":
        words.append("random weights")
    return printable(", ".join(words), lines=False)


def caveats(evidence: str | None, weights: str | None) -> list[str]:
    """Sentences that belong to every figure of a run."""
    said = {"emulated": [EMULATED], "predicted": [PREDICTED]}.get(evidence or "", [])
    return said + [RANDOM_WEIGHTS] * (weights == "random")


# -- of a configuration


def asked_load(cfg: RunConfig) -> str:
    """The load of a configuration, what else is not as usual, and its levers: `batch of 512, vllm_serve, fp8, eager`."""
    scenario, kind = cfg.scenario, cfg.scenario.kind.value
    number, rate = getattr(scenario, "num_requests", None), getattr(scenario, "rate_rps", None)
    window = window_in_words(kind, getattr(scenario, "window_s", None))
    load = load_label(kind, number, rate)
    if scenario.kind is ScenarioKind.capacity:  # its rate is where the search begins
        load = f"capacity at {slo_in_words(scenario.slo).removesuffix(USUAL_SHARE)}"
    return ", ".join([load, *particulars(cfg), *window, *levers(cfg)])


def slo_in_words(slo: SloConfig) -> str:
    """`TTFT 500 ms and TPOT 50 ms for 95 %`."""
    bounds = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
    words = " and ".join(f"{name} {bound:g} ms" for name, bound in bounds if bound is not None)
    return f"{words} for {100 * slo.attainment:g} %"


def headline(cfg: RunConfig) -> str:
    """The name of a run before it has a result: `llama3_8b on NVIDIA H200, server 4 requests/s, fp8`."""
    gpus = gpu_label([cfg.gpu.found_name or cfg.gpu.name] * cfg.gpu.count)
    return f"{cfg.model.name} on {gpus}, {asked_load(cfg)}"


# -- of a result


def describe(result: Result) -> str:
    """The name of a result: `llama3_8b on NVIDIA H200, batch of 512, fp8`."""
    load = load_label(result.kind, result.num_requests, result.rate_rps)
    words = ", ".join([load, *_unusual(result), *result.levers])
    return printable(f"{result.model or 'unknown model'} on {gpu_label(result.gpus)}, {words}", lines=False)


def _unusual(result: Result) -> list[str]:
    return [*result.particulars, *window_in_words(result.kind, result.window_s)]


def name_of(result: Result) -> str:
    """The name of a run among others of its GPU: `llama3_8b, batch of 512, fp8`. Without the window's length, which is
    no part of a setting."""
    return ", ".join([load_of(result), *result.levers])


def load_of(result: Result) -> str:
    """As `name_of`, without levers."""
    load = load_label(result.kind, result.num_requests, result.rate_rps)
    return ", ".join([str(result.model), load, *result.particulars])


def board_of(result: Result) -> str:
    """`8d2e`, or `3733+8d2e` of a run on two."""
    return "+".join(sorted(map(board_label, result.boards)))


def short_name(result: Result) -> str:
    """The name of a run in a narrow list: `llama3_8b h200 server 4 rps r0`.

    What is not as usual and levers stand before the repeat (`vllm_serve, fp8`), evidence other than `measured` after it.
    """
    gpu = result.gpu or ""
    if gpu == "auto":
        gpu = re.sub(r"[^a-z0-9]+", "_", _without_maker(gpu_label(result.gpus)).lower()).strip("_")
    words = [result.model, gpu, result.kind]
    if result.num_requests is not None:
        words.append(str(result.num_requests))
    else:
        words.append(
            f"{result.rate_rps:g} rps"
            if result.rate_rps is not None
            else "trace"
            if result.kind == "server"
            else None
        )
    words += [", ".join([*_unusual(result), *result.levers])]
    words.append(None if result.repeat is None else f"r{result.repeat}")
    if result.evidence != "measured":
        words.append(result.evidence)
    return " ".join(word for word in words if word)


def _without_maker(name: str) -> str:
    return re.sub(r"^(NVIDIA|Tesla|GeForce)\s+|\b(NVIDIA|GeForce)\b", "", name).strip()
