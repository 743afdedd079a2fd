"""Does the sampler disturb what it measures? Interleaved on/off stretches in one engine.

    python benchmarks/bench_sampler_overhead.py model=llama3_8b model.weights=random
    python benchmarks/bench_sampler_overhead.py --rehearse --idle-pairs 2 --decode-pairs 2 --batch 8 --decode-tokens 1500 \
        --decode-s 0.6 model=tiny engine=tiny power.backend=emulated

One engine is started. First come stretches of loaded idle, with the native sampler off and on in the order
off-on, on-off, off-on, ... so that drift cancels. Then a batch of requests decodes steadily, and while it
does the sampler is switched off and on in the same way; decoding slows down as contexts grow, which a cubic
in time for each batch takes off. Stretches that meet a prefill are not used, because their number of tokens says
little. `--batch-pairs` adds whole batches, prefill included.

The energy of a stretch is read the same way in both cases, by somebody else: pynvml polls the energy
counter until it ticks, at the start and at the end. Tokens, joules and seconds are those between the two
ticks. A tick shows up to some 20 ms late; as ticks are 100 ms apart, a straight line through all that
were seen tells when each of them was.

Printed and written as JSON: the relative difference on/off of tokens/s, of J per output token, and of
loaded-idle watts, each as mean and 95 % interval (Student's t over pairs), and the sampler's CPU share.
Each stretch is appended to the file of `--stretches` (JSON lines) as soon as it is over.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
from numpy.typing import NDArray

from wattcount import config
from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig
from wattcount.engines.base import Engine, EngineInfo
from wattcount.engines.registry import create
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import NvmlSession, open_session
from wattcount.load.request import GenerationRequest
from wattcount.run.preflight import preflight
from wattcount.statistics import detrended, paired

TICK_NS = 100_000_000
"""Of the energy counter, where its period was measured (A100, H100, H200)."""
STEP_GAP_NS = 1_000_000
"""Tokens further apart than this are of two steps."""


@dataclass
class Tick:
    seen_ns: int
    energy_mj: int


@dataclass
class Stretch:
    kind: str
    """`idle`, `decode` or `batch`."""
    pair: int
    sampler: bool
    start: Tick
    end: Tick
    tokens: int = 0
    """Of a batch; a decode stretch's are counted between its ticks."""
    seconds: float = 0.0
    """Of a batch, first send to last token."""


class Counter:
    """The energy counter read the plain way, by polling until it changes."""

    def __init__(self, uuid: str, library_path: str) -> None:
        # The library of the session, whatever its name: the emulated one is not on the linker's path.
        pynvml.nvmlLib = ctypes.CDLL(library_path)
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


class Bench:
    """The engine under test, its tokens as they come, and the switch of the sampler."""

    def __init__(
        self, args: argparse.Namespace, cfg: RunConfig, session: NvmlSession, uuid: str, engine: Engine
    ) -> None:
        self.args, self.cfg, self.session, self.uuid, self.engine = args, cfg, session, uuid, engine
        self.info: EngineInfo
        self.counter = Counter(uuid, session.library["path"])
        self.stretches: list[Stretch] = []
        self.cpu_shares: list[float] = []
        self.arrivals: list[tuple[int, int]] = []
        """(when, how many tokens) of everything that was generated."""
        self._rng = np.random.default_rng(0)
        self._number = 0

    def requests(self, output_tokens: int) -> list[GenerationRequest]:
        ids = self._rng.integers(
            256, self.info.vocab_size, (self.args.batch, self.args.input_tokens)
        ).tolist()
        self._number += 1
        return [
            GenerationRequest(f"{self._number}-{i}", ids[i], output_tokens, True) for i in range(len(ids))
        ]

    async def generate(self, requests: list[GenerationRequest]) -> None:
        async def one(request: GenerationRequest) -> None:
            async for chunk in self.engine.generate(request):
                self.arrivals.append((chunk.t_ns, chunk.token_count))

        await asyncio.gather(*(one(request) for request in requests))

    async def stretch(self, kind: str, pair: int, on: bool) -> Stretch:
        sampler = PowerSampler(gpus=[self.uuid], session=self.session, config=self.cfg.power) if on else None
        requests = self.requests(self.args.output_tokens) if kind == "batch" else []
        if sampler:
            sampler.start()
        await asyncio.sleep(self.args.settle_s)
        start = await asyncio.to_thread(self.counter.next_tick)
        tokens, seconds = 0, 0.0
        if kind == "batch":
            seen, sent_ns = len(self.arrivals), now_ns()
            await self.generate(requests)
            fresh = self.arrivals[seen:]
            tokens, seconds = sum(n for _, n in fresh), (max(t for t, _ in fresh) - sent_ns) / 1e9
        else:
            await asyncio.sleep(self.args.idle_s if kind == "idle" else self.args.decode_s)
        end = await asyncio.to_thread(self.counter.next_tick)
        if sampler:
            sampler.stop()
            (health,) = sampler.health()
            self.cpu_shares.append(health["cpu_ns"] / health["wall_ns"])
        return Stretch(kind, pair, on, start, end, tokens, seconds)

    def keep(self, stretch: Stretch) -> None:
        self.stretches.append(stretch)
        if self.args.stretches:
            with self.args.stretches.open("a") as out:
                out.write(json.dumps(asdict(stretch)) + "\n")
        print(
            f"{stretch.kind} {stretch.pair} {'on' if stretch.sampler else 'off'}", file=sys.stderr, flush=True
        )

    async def simple(self, kind: str, pairs: int) -> None:
        for pair in range(pairs):
            for on in order(pair):
                self.keep(await self.stretch(kind, pair, on))

    async def decode(self, pairs: int) -> None:
        """As many batches as it takes; a pair that the end of a batch cuts off is measured again."""
        pair = 0
        while pair < pairs:
            before = pair
            batch = asyncio.create_task(self.generate(self.requests(self.args.decode_tokens)))
            # Prefill over, every request decoding: nothing but decode steps until the first one ends.
            seen = len(self.arrivals)
            while len(self.arrivals) - seen < 16 * self.args.batch:
                await asyncio.sleep(0.05)
            while pair < pairs:
                both = [await self.stretch("decode", pair, on) for on in order(pair)]
                if (
                    batch.done()
                    or len(self.arrivals) - seen > self.args.batch * self.args.decode_tokens * 0.98
                ):
                    break
                for stretch in both:
                    self.keep(stretch)
                pair += 1
            await batch
            if pair == before:
                raise SystemExit(
                    "a batch ended before one pair was over: raise --decode-tokens or lower --decode-s"
                )


def order(pair: int) -> tuple[bool, bool]:
    return (False, True) if pair % 2 == 0 else (True, False)


def tick_times(stretches: list[Stretch]) -> dict[int, float]:
    """When each tick was, in ns since the first one, by when it was seen: a straight line through all of them."""
    seen = np.array([tick.seen_ns for s in stretches for tick in (s.start, s.end)], np.int64)
    since = (seen - seen[0]).astype(float)
    period, phase = float(TICK_NS), 0.0
    # From stretch to stretch: the line must be known well enough to tell which tick the next one is.
    for upto in sorted({*range(4, len(seen), 4), len(seen)}):
        number = np.round((since[:upto] - phase) / period)
        if upto >= 8:
            period, phase = (float(x) for x in np.polyfit(number, since[:upto], 1))
    number = np.round((since - phase) / period)
    return {int(t): phase + period * n for t, n in zip(seen, number, strict=True)}


def steps(arrivals: list[tuple[int, int]], zero_ns: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Ends of the engine's steps, ns since `zero_ns`, and the tokens emitted up to each.

    The tokens of a step arrive within a millisecond or two of each other: spread over the step, they say to a
    fraction of a step how many there were at any moment.
    """
    arrived = np.array(sorted(arrivals), np.int64).reshape(-1, 2)
    if not len(arrived):
        return np.empty(0), np.empty(0, np.int64)
    total = np.cumsum(arrived[:, 1])
    last = np.append(np.flatnonzero(np.diff(arrived[:, 0]) > STEP_GAP_NS), len(arrived) - 1)
    begin = np.append(0, last[:-1] + 1)
    return (arrived[begin, 0] - zero_ns).astype(float), total[last]


def figures(stretches: list[Stretch], arrivals: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """One row a stretch: seconds, joules and tokens between its ticks."""
    if not stretches:
        return
    when = tick_times(stretches)
    first = stretches[0].start.seen_ns
    t_ns, total = steps(arrivals, first)
    for s in stretches:
        start, end = when[s.start.seen_ns], when[s.end.seen_ns]
        row: dict[str, Any] = {
            "kind": s.kind,
            "pair": s.pair,
            "sampler": s.sampler,
            "start_s": start / 1e9,
            "span_s": (end - start) / 1e9,
            "energy_j": (s.end.energy_mj - s.start.energy_mj) / 1e3,
            "tokens": float(s.tokens),
            "seconds": s.seconds,
        }
        if s.kind == "decode":
            row["tokens"] = float(np.diff(np.interp([start, end], t_ns, total))[0])
            row["seconds"] = row["span_s"]
        yield row


def compare(rows: list[dict[str, Any]]) -> dict[str, object]:
    """Differences on/off of each kind of stretch."""
    found: dict[str, object] = {}
    for kind, name, numerator, denominator in FIGURES:
        chosen = [row for row in rows if row["kind"] == kind]
        if not chosen:
            continue
        values = np.array([row[numerator] / row[denominator] for row in chosen])
        on = np.array([row["sampler"] for row in chosen])
        if kind == "decode":
            difference = detrended(values, on, np.array([row["start_s"] for row in chosen]))
        else:
            # Stretches come pair by pair, whichever of the two is first.
            both = values.reshape(-1, 2)
            difference = paired(
                np.where(on.reshape(-1, 2)[:, 0], both[:, 0] / both[:, 1], both[:, 1] / both[:, 0]) - 1
            )
        found[f"{kind}/{name}"] = {**asdict(difference), "sampler_off": float(values[~on].mean())}
    return found


FIGURES = (
    ("idle", "loaded_idle_w", "energy_j", "span_s"),
    ("decode", "output_tokens_per_s", "tokens", "seconds"),
    ("decode", "j_per_output_token", "energy_j", "tokens"),
    ("batch", "output_tokens_per_s", "tokens", "seconds"),
    ("batch", "j_per_output_token", "energy_j", "tokens"),
)


async def measure(args: argparse.Namespace) -> dict[str, object]:
    cfg = config.compose(
        [
            f"scenario.lengths.input_tokens={args.input_tokens}",
            f"scenario.lengths.output_tokens={max(args.output_tokens, args.decode_tokens)}",
            *args.overrides,
        ]
    )
    session = open_session(cfg.power, cfg.gpu)
    if session.evidence == "emulated" and not args.rehearse:
        session.close()
        print("skipped: there is no GPU to disturb (--rehearse runs on an emulated one all the same)")
        raise SystemExit(0)
    cfg = preflight(cfg, session)
    (gpu,) = session.select(cfg.gpu)
    engine = create(cfg, [gpu.uuid], Path(tempfile.mkdtemp()))
    bench = Bench(args, cfg, session, gpu.uuid, engine)
    bench.info = await engine.start()
    await bench.simple("idle", args.idle_pairs)
    if args.batch_pairs or args.decode_pairs:
        await bench.generate(bench.requests(args.output_tokens))
    if args.decode_pairs:
        await bench.decode(args.decode_pairs)
    await bench.simple("batch", args.batch_pairs)
    await engine.stop()
    session.close()
    # Stretch by stretch between ticks; a batch begins and ends between two, so that idle of up to a tick is in it.
    rows = [
        row
        for kind in ("idle", "decode", "batch")
        for row in figures([s for s in bench.stretches if s.kind == kind], bench.arrivals)
    ]
    return {
        "gpu": gpu.name,
        "evidence": session.evidence,
        "engine": f"{bench.info.name} {bench.info.version}",
        "model": cfg.model.name,
        "weights": cfg.model.weights.value,
        "requests": {
            "batch": args.batch,
            "input_tokens": args.input_tokens,
            "output_tokens": args.output_tokens,
            "decode_tokens": args.decode_tokens,
        },
        "on_against_off": compare(rows),
        "sampler_cpu_share_of_a_core": {
            "mean": float(np.mean(bench.cpu_shares)),
            "max": float(np.max(bench.cpu_shares)),
        },
        "stretches": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--idle-pairs", type=int, default=16)
    parser.add_argument("--decode-pairs", type=int, default=16)
    parser.add_argument("--batch-pairs", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128, help="requests at once")
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256, help="of a batch")
    parser.add_argument("--decode-tokens", type=int, default=3072, help="of a request that decodes steadily")
    parser.add_argument("--settle-s", type=float, default=0.4)
    parser.add_argument("--idle-s", type=float, default=4.0)
    parser.add_argument("--decode-s", type=float, default=1.5)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--stretches", type=Path, help="append each stretch here")
    parser.add_argument(
        "--rehearse", action="store_true", help="on an emulated GPU; says nothing of a real one"
    )
    parser.add_argument("overrides", nargs="*", help="config overrides, as for python -m wattcount")
    args = parser.parse_args()
    result = asyncio.run(measure(args))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    del result["stretches"]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
