"""What a server counts of itself in `/metrics` (Prometheus' text format), and what of it is not our own load.

::

    Site --scrape()--> ServerCounters --.
    CounterLog: about once a second     +--> others_load(before, after, ours) --> OthersLoad
    our requests ----------> OwnLoad ---'

The server is not trusted: what it says is bounded, and what it does not say is None. Names of metrics are those of vLLM
(v1/metrics/loggers.py), SGLang (observability/metrics_collector.py), TensorRT-LLM (metrics/collector.py) and llama.cpp
(tools/server).
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from wattcount.clock import now_ns

if TYPE_CHECKING:
    # Not at run time: what reads a record needs no HTTP, and to load it takes a tenth of the start of `wattcount show`.
    from wattcount.engines.http.fetch import Site

PATHS = ("/metrics", "/prometheus/metrics")
"""Where counters are; TensorRT-LLM has something else at the first."""
MAX_LINES = 200_000
"""Lines of an answer that are looked at."""
MAX_COUNT = 2**62
"""Largest count [1] that is believed."""
PERIOD_S = 1.0
"""Time from one snapshot to the next [s]: a server needs some milliseconds of CPU for each."""
MAX_SNAPSHOTS = 4096
"""Snapshots that are kept [1], an hour's. Of a longer run every second one goes, and the period doubles."""

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*")
"""A line of Prometheus' text format: name, labels, value, and a stamp that nobody needs."""
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
"""One label of such a line; a quoted value may hold escaped quotes."""
_SAME_COUNT = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
"""Labels of processes that tell the same of one replica: of their gauges the largest is taken, others are added up."""


@dataclass(frozen=True)
class Family:
    """How one kind of server names what it counts.

    names      of each field of `ServerCounters`, the first that is there
    as_made    tokens are counted when they are made; False: when their request ends
    all_input  prompt tokens that the prefix cache had are counted as prompt tokens, too
    """

    name: str
    prefix: str
    names: Mapping[str, tuple[str, ...]]
    as_made: bool = False
    all_input: bool = True


FAMILIES = (
    Family(
        "vllm",
        "vllm:",
        {
            "requests": ("vllm:request_success_total",),
            "prompt_tokens": ("vllm:prompt_tokens_total",),
            "generation_tokens": ("vllm:generation_tokens_total",),
            "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
            "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
            "preemptions": ("vllm:num_preemptions_total",),
            "steps": ("vllm:iteration_tokens_total_count",),
            "step_tokens": ("vllm:iteration_tokens_total_sum",),
            "running": ("vllm:num_requests_running",),
            "waiting": ("vllm:num_requests_waiting",),
            "kv_cache_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        },
        as_made=True,
    ),
    Family(
        "sglang",
        "sglang:",
        {
            "requests": ("sglang:num_requests_total",),
            "prompt_tokens": ("sglang:prompt_tokens_total",),
            "generation_tokens": ("sglang:generation_tokens_total",),
            "prefix_hits": ("sglang:cached_tokens_total",),
            "preemptions": ("sglang:num_retracted_requests_total",),
            "running": ("sglang:num_running_reqs",),
            "waiting": ("sglang:num_queue_reqs",),
            "kv_cache_usage": ("sglang:token_usage",),
        },
    ),
    Family(
        "tensorrt_llm",
        "trtllm_",
        {
            "requests": ("trtllm_request_success_total",),
            "prompt_tokens": ("trtllm_prompt_tokens_total",),
            "generation_tokens": ("trtllm_generation_tokens_total",),
            "prefix_hits": ("trtllm_prompt_cached_tokens_total",),
            "running": ("trtllm_num_requests_running",),
            "waiting": ("trtllm_num_requests_waiting",),
            "kv_cache_usage": ("trtllm_kv_cache_utilization",),
        },
    ),
    Family(
        "llama_cpp",
        "llamacpp:",
        {
            "prompt_tokens": ("llamacpp:prompt_tokens_total",),
            "generation_tokens": ("llamacpp:tokens_predicted_total",),
            "prefix_hits": ("llamacpp:prompt_tokens_cached_total",),
            "steps": ("llamacpp:n_decode_total",),
            "running": ("llamacpp:requests_processing",),
            "waiting": ("llamacpp:requests_deferred",),
            "kv_cache_usage": ("llamacpp:kv_cache_usage_ratio",),
        },
        all_input=False,
    ),
)
"""The servers whose counters are known. A new one is an entry."""

GAUGES = frozenset({"running", "waiting", "kv_cache_usage"})
"""Counters' names here whose values go up and down. Others only grow, and what counts is their difference."""
COUNTS = ("requests", "prompt_tokens", "generation_tokens")
"""What others' load is told by."""


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """A server's own counts at one moment between `asked_ns` and `t_ns` (CLOCK_MONOTONIC). None where it does not tell.

    requests           that have ended
    prompt_tokens, generation_tokens
    prefix_hits        prompt tokens that the prefix cache had, of `prefix_queries` that were looked up
    preemptions        requests that were put back
    steps, step_tokens steps of the scheduler, and the tokens computed in them
    running, waiting   requests at that moment
    kv_cache_usage     share of the KV cache in use, 0..1
    started_s          when the server's process started, seconds of Unix time
    """

    t_ns: int
    asked_ns: int
    family: str
    requests: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    prefix_hits: int | None = None
    prefix_queries: int | None = None
    preemptions: int | None = None
    steps: int | None = None
    step_tokens: int | None = None
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    started_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Field to value; what is None is left out."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServerCounters:
        """The inverse of `to_json`. Raises `ValueError` for what is no snapshot."""
        try:
            kept: dict[str, Any] = {"t_ns": int(data["t_ns"]), "family": str(data["family"])}
            kept["asked_ns"] = int(data.get("asked_ns", kept["t_ns"]))
            for item in fields(cls):
                if item.name not in kept and data.get(item.name) is not None:
                    kind = float if item.name in ("kv_cache_usage", "started_s") else int
                    kept[item.name] = kind(data[item.name])
            return cls(**kept)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"no snapshot of a server's counters: {error}") from error


def scrape(site: Site, paths: Sequence[str] = PATHS) -> ServerCounters | None:
    """The server's counters now; None where it tells none that are known."""
    for path in paths:
        asked_ns = now_ns()
        text = site.get(path).text
        found = None if text is None else parse(text, asked_ns, now_ns())
        if found is not None:
            return found
    return None


def parse(text: str, asked_ns: int, t_ns: int) -> ServerCounters | None:
    """Counters out of an answer of `/metrics`; None where it holds none of a family that is known."""
    family = next((each for each in FAMILIES if f"\n{each.prefix}" in f"\n{text}"), None)
    if family is None:
        return None
    wanted = {name for names in family.names.values() for name in names} | {"process_start_time_seconds"}
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for name, labels, value in samples(text, wanted):
        key = tuple(sorted((k, v) for k, v in labels.items() if k not in _SAME_COUNT))
        series = found.setdefault(name, {})
        gauge = any(name in names for field, names in family.names.items() if field in GAUGES)
        series[key] = max(series.get(key, 0.0), value) if gauge else series.get(key, 0.0) + value
    kept: dict[str, Any] = {}
    for field, names in family.names.items():
        series = next((found[name] for name in names if name in found), {})
        if not series:
            continue
        total = math.fsum(series.values())
        if field == "kv_cache_usage":
            kept[field] = max(series.values()) if max(series.values()) <= 1 else None
        elif total <= MAX_COUNT:
            kept[field] = round(total)
    started = found.get("process_start_time_seconds", {})
    return ServerCounters(t_ns, asked_ns, family.name, started_s=next(iter(started.values()), None), **kept)


def samples(text: str, wanted: set[str]) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of each sample of the metrics `wanted`; what is no finite number of at least 0 is left out."""
    for number, line in enumerate(text.split("\n")):
        if number >= MAX_LINES:
            return
        if line.startswith("#") or line.partition("{")[0].partition(" ")[0] not in wanted:
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            continue
        try:
            value = float(sample[3])
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            yield sample[1], dict(_LABEL.findall(sample[2] or "")), value


def restarted(before: ServerCounters, after: ServerCounters) -> bool:
    """Whether the server has started anew in between: a count went back, or its process is another."""
    if before.family != after.family:
        return True
    for name in ("requests", "prompt_tokens", "generation_tokens", "prefix_hits", "prefix_queries", "steps"):
        first, last = getattr(before, name), getattr(after, name)
        if first is not None and last is not None and last < first:
            return True
    started = (before.started_s, after.started_s)
    return None not in started and before.started_s != after.started_s


# -- whose load it was


@dataclass(frozen=True)
class Count:
    """At least `low`, at most `high`."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"at least {self.low} is more than at most {self.high}")


@dataclass(frozen=True)
class OwnLoad:
    """What the server must have counted of ours between two snapshots. Requests in flight at a snapshot make the difference
    between `low` and `high`. None: not known."""

    requests: Count | None
    prompt_tokens: Count | None
    generation_tokens: Count | None


@dataclass(frozen=True)
class OthersLoad:
    """What the server counted between two snapshots, and what of it was others'. None where it does not tell.

    counted  by the server, by name (`COUNTS`)
    ours     by name
    """

    counted: Mapping[str, int | None]
    ours: OwnLoad
    per_request: bool
    """The server counts requests."""

    def low(self, name: str) -> int | None:
        """Others' at least; 0 where ours may have been all of it."""
        counted, own = self.counted[name], getattr(self.ours, name)
        return None if counted is None or own is None else max(0, counted - own.high)

    def high(self, name: str) -> int | None:
        """Others' at most."""
        counted, own = self.counted[name], getattr(self.ours, name)
        return None if counted is None or own is None else max(0, counted - own.low)

    def share(self, name: str) -> float | None:
        """Others' at least, as a share of ours at most; None where one is not known, or there was none of ours."""
        low, own = self.low(name), getattr(self.ours, name)
        return None if low is None or own.high == 0 else low / own.high


def others_load(before: ServerCounters, after: ServerCounters, ours: OwnLoad) -> OthersLoad:
    """What the server did for others between two snapshots. Raises `ValueError` where it started anew in between."""
    if restarted(before, after):
        raise ValueError("the server started anew between the two snapshots")
    counted: dict[str, int | None] = {}
    for name in COUNTS:
        first, last = getattr(before, name), getattr(after, name)
        # A counter with labels appears with its first count.
        counted[name] = None if last is None else last - (first or 0)
    return OthersLoad(counted, ours, after.requests is not None)


class CounterLog:
    """Takes a snapshot about once a second, in a thread of its own. `snapshots`: in order of time."""

    def __init__(self, site: Site, period_s: float = PERIOD_S) -> None:
        self._site = site
        self._period_s = period_s
        self._paths: tuple[str, ...] = PATHS
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.snapshots: list[ServerCounters] = []
        self.failed = 0
        """Snapshots that could not be taken."""

    def start(self) -> bool:
        """The first snapshot, at once; False where the server tells no counters, and then nothing goes on."""
        for path in PATHS:
            self._paths = (path,)
            if self.take() is not None:
                self._thread = threading.Thread(target=self._run, name="server-counters", daemon=True)
                self._thread.start()
                return True
        self.failed = 0
        return False

    def take(self) -> ServerCounters | None:
        """A snapshot now, besides those that are taken anyway."""
        with self._lock:
            found = scrape(self._site, self._paths)
            if found is None:
                self.failed += 1
                return None
            self.snapshots.append(found)
            if len(self.snapshots) > MAX_SNAPSHOTS:
                del self.snapshots[1::2]
                self._period_s *= 2
            return found

    def stop(self) -> None:
        """A last snapshot, and no more; may be called twice."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self.take()

    def to_json(self) -> list[dict[str, Any]]:
        """The snapshots, for a record."""
        with self._lock:
            return [snapshot.to_json() for snapshot in self.snapshots]

    def _run(self) -> None:
        due_ns = now_ns()
        while True:
            due_ns += round(self._period_s * 1e9)
            if self._stop.wait(max(0.0, (due_ns - now_ns()) / 1e9)):
                return
            self.take()
            due_ns = max(due_ns, now_ns() - round(self._period_s * 1e9))
