"""Does the sampler disturb what it measures? Interleaved on/off pairs in one engine.

    python benchmarks/bench_sampler_overhead.py model=llama3_8b model.weights=random
    python benchmarks/bench_sampler_overhead.py --pairs 2 --batch 16 model=tiny power.backend=emulated

One engine is started. Then identical batches run in turn with the native sampler off and on, in the
order off-on, on-off, off-on, ... so that drift cancels; after them idle stretches in the same order.
The energy of a stretch is read the same way in both cases, by somebody else: pynvml polls the energy
counter until it ticks, just before and just after. What lies between a tick and the batch is idle, at
most 0.1 s of it, and is taken off at the loaded-idle power of the same pair.

Printed and written as JSON: the relative difference on/off of tokens/s, of J per output token, and of
loaded-idle watts, each as mean and 95 % interval (Student's t over pairs), and the sampler's CPU share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pynvml
from scipy import stats

from wattcount import config
from wattcount.clock import now_ns
from wattcount.engine import create
from wattcount.engine.base import Engine, GenerationRequest
from wattcount.power import PowerSampler
from wattcount.power.nvml import open_session
from wattcount.run.preflight import preflight


@dataclass
class Stretch:
    pair: int
    sampler: bool
    seconds: float
    tokens: int
    energy_j: float
    """From the tick before to the tick after."""
    span_s: float
    """Between these ticks."""


@dataclass
class Tick:
    t_ns: int
    energy_mj: int


class Counter:
    """The energy counter read the plain way, by polling until it changes."""

    def __init__(self, uuid: str) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def next_tick(self) -> Tick:
        first = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        deadline_ns = now_ns() + 2_000_000_000
        while now_ns() < deadline_ns:
            before_ns = now_ns()
            value = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            if value != first:
                return Tick((before_ns + now_ns()) // 2, value)
        raise SystemExit("The energy counter did not move for 2 s; this benchmark needs one.")


async def run_batch(engine: Engine, requests: list[GenerationRequest]) -> tuple[int, float]:
    """(output tokens, seconds from the first send to the last token)."""

    async def one(request: GenerationRequest) -> int:
        return sum([chunk.token_count async for chunk in engine.generate(request)])

    start_ns = now_ns()
    counts = await asyncio.gather(*(one(request) for request in requests))
    return sum(counts), (now_ns() - start_ns) / 1e9


def interval(differences: np.ndarray) -> dict[str, float]:
    n = len(differences)
    half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return {"mean_percent": 100 * float(differences.mean()), "half_width_percent": 100 * half, "pairs": n}


async def measure(args: argparse.Namespace) -> dict[str, object]:
    cfg = config.compose(args.overrides)
    session = open_session(cfg.power, cfg.gpu)
    cfg = preflight(cfg, session)
    (gpu,) = session.select(cfg.gpu)
    counter = Counter(gpu.uuid)
    engine = create(cfg, [gpu.uuid], Path(tempfile.mkdtemp()))
    info = await engine.start()
    rng = np.random.default_rng(0)

    def requests(label: str) -> list[GenerationRequest]:
        ids = rng.integers(256, info.vocab_size, (args.batch, args.input_tokens)).tolist()
        return [
            GenerationRequest(f"{label}-{i}", ids[i], args.output_tokens, True) for i in range(args.batch)
        ]

    for i in range(args.warmup_batches):
        await run_batch(engine, requests(f"warm{i}"))

    batches: list[Stretch] = []
    idles: list[Stretch] = []
    cpu_shares: list[float] = []

    async def stretch(pair: int, on: bool, idle: bool) -> Stretch:
        sampler = PowerSampler(gpus=[gpu.uuid], session=session, config=cfg.power) if on else None
        work = requests(f"{pair}-{on}") if not idle else []
        if sampler:
            sampler.start()
        await asyncio.sleep(args.settle_s)
        before = counter.next_tick()
        if idle:
            await asyncio.sleep(args.idle_s)
            tokens, seconds = 0, args.idle_s
        else:
            tokens, seconds = await run_batch(engine, work)
        after = counter.next_tick()
        if sampler:
            sampler.stop()
            (health,) = sampler.health()
            cpu_shares.append(health["cpu_ns"] / health["wall_ns"])
        return Stretch(
            pair,
            on,
            seconds,
            tokens,
            (after.energy_mj - before.energy_mj) / 1e3,
            (after.t_ns - before.t_ns) / 1e9,
        )

    for target, idle in ((batches, False), (idles, True)):
        for pair in range(args.pairs):
            for on in (False, True) if pair % 2 == 0 else (True, False):
                target.append(await stretch(pair, on, idle))
                print(json.dumps({"idle": idle, **asdict(target[-1])}), file=sys.stderr, flush=True)
    await engine.stop()
    session.close()

    idle_w = {(s.pair, s.sampler): s.energy_j / s.span_s for s in idles}
    mean_idle_w = float(np.mean(list(idle_w.values())))
    net = [replace(s, energy_j=s.energy_j - (s.span_s - s.seconds) * mean_idle_w) for s in batches]

    def relative(values: dict[tuple[int, bool], float]) -> np.ndarray:
        return np.array([values[p, True] / values[p, False] - 1 for p in range(args.pairs)])

    return {
        "gpu": gpu.name,
        "evidence": session.evidence,
        "engine": f"{info.name} {info.version}",
        "model": cfg.model.name,
        "weights": cfg.model.weights.value,
        "batch": [args.batch, args.input_tokens, args.output_tokens],
        "output_tokens_per_s": interval(relative({(s.pair, s.sampler): s.tokens / s.seconds for s in net})),
        "j_per_output_token": interval(relative({(s.pair, s.sampler): s.energy_j / s.tokens for s in net})),
        "loaded_idle_w": interval(relative(idle_w)),
        "absolute": {
            "output_tokens_per_s": float(np.mean([s.tokens / s.seconds for s in net])),
            "j_per_output_token": float(np.mean([s.energy_j / s.tokens for s in net])),
            "loaded_idle_w": mean_idle_w,
        },
        "sampler_cpu_share_of_a_core": {"mean": float(np.mean(cpu_shares)), "max": float(np.max(cpu_shares))},
        "stretches": [asdict(s) for s in batches + idles],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=512, help="requests a batch")
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--warmup-batches", type=int, default=1)
    parser.add_argument("--settle-s", type=float, default=1.0)
    parser.add_argument("--idle-s", type=float, default=5.0)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("overrides", nargs="*", help="config overrides, as for python -m wattcount")
    args = parser.parse_args()
    result = asyncio.run(measure(args))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    del result["stretches"]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
