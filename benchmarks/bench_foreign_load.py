"""Is others' load on a server noticed? Our load beside none, and beside 5, 20 and 50 % as many requests of somebody else.

    python benchmarks/bench_foreign_load.py [--tries 30] [--url http://localhost:8000 --model NAME --vocab 32000]

Without --url against the echo server of the tests. Others send at random times. Prints a row a share:
how often it was found (a run would be invalid), how often there was a note, and the share that was found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wattcount.clock import now_ns
from wattcount.config.schema import LengthConfig, LengthKind, ServerConfig
from wattcount.engines.http.client import Endpoint, HttpClients
from wattcount.engines.http.counters import CounterLog
from wattcount.engines.http.fetch import Site
from wattcount.load.build import build_plan
from wattcount.load.generator import Generator
from wattcount.load.plan import LoadPlan
from wattcount.metrics.observations import Requests, Window
from wattcount.metrics.server import LAG_NS, OTHERS_SHARE, others_share, served
from wattcount.records.schema import REQUESTS_SCHEMA

LENGTHS = LengthConfig(
    kind=LengthKind.lognormal,
    input_tokens=64,
    output_tokens=24,
    input_tokens_max=256,
    output_tokens_max=64,
)
QUIET_S = 1.5 * LAG_NS / 1e9
"""Time [s] before and after our load in which a snapshot is quiet."""


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from echo_server import Behaviour, EchoServer

    with EchoServer(Behaviour(first_s=0.03, between_s=0.01)) as server:
        yield server.url


def plan(rate_rps: float, seconds: float, seed: int) -> LoadPlan:
    scenario = ServerConfig(rate_rps=rate_rps, warmup_s=0.0, window_s=seconds, lengths=LENGTHS)
    return build_plan(scenario, seed=seed, repeat=0).main


def others_plan(ours: LoadPlan, share: float, rng: np.random.Generator) -> LoadPlan:
    """So many requests, at random times of our load."""
    count = max(1, round(share * len(ours)))
    last_ns = int(ours.send_offset_ns[-1])
    at_ns = np.sort(rng.integers(0, last_ns, count))
    lengths = [rng.choice(values, count) for values in (ours.input_tokens, ours.output_tokens)]
    return LoadPlan(at_ns, *lengths, force_output_length=True, seed=int(rng.integers(2**31)))


async def one_try(
    clients: HttpClients, others: HttpClients, ours: LoadPlan, theirs: LoadPlan | None, vocab: int
) -> Any:
    log = CounterLog(Site(clients.endpoint.base_url), period_s=0.5)
    if not await asyncio.to_thread(log.start):
        raise SystemExit(f"{clients.endpoint.base_url} tells no counters")
    await asyncio.sleep(QUIET_S)
    generators: list[Generator] = [clients.generator(ours, vocab_size=vocab, window_start_offset_ns=0)]
    if theirs is not None:
        generators.append(others.generator(theirs, vocab_size=vocab, window_start_offset_ns=0))
    start_ns = now_ns() + 100_000_000
    await asyncio.gather(*(generator.run(start_ns) for generator in generators))
    await asyncio.gather(*(generator.drain(60.0) for generator in generators))
    await asyncio.sleep(QUIET_S)
    await asyncio.to_thread(log.stop)
    table = pa.Table.from_pylist(
        [record.to_dict() for record in generators[0].records], schema=REQUESTS_SCHEMA
    )
    requests = Requests.of(table)
    window = Window(start_ns, int(requests.actual_send_ns.max()))
    found = served(requests, log.snapshots, window)
    return None if found is None else others_share(found)


async def measure(options: argparse.Namespace, url: str) -> None:
    endpoint = Endpoint(url, options.model, api_key_variable=options.api_key_env)
    ours, others = HttpClients(endpoint, 1), HttpClients(endpoint, 1)
    await ours.start()
    await others.start()
    rng = np.random.default_rng(options.seed)
    print(
        f"{'others':>8} {'tries':>6} {'invalid':>8} {'note':>6} {'unknown':>8}   found (least, median, most)",
        flush=True,
    )
    for share in (0.0, 0.05, 0.2, 0.5):
        shares = []
        for number in range(options.tries):
            load = plan(options.rate, options.seconds, number)
            theirs = others_plan(load, share, rng) if share else None
            shares.append(await one_try(ours, others, load, theirs, options.vocab))
        known = [found[0] for found in shares if found is not None]
        invalid = sum(value > OTHERS_SHARE for value in known)
        note = sum(0 < value <= OTHERS_SHARE for value in known)
        least, median, most = np.percentile(known, [0, 50, 100]) if known else (np.nan,) * 3
        print(
            f"{share:8.0%} {options.tries:6} {invalid:8} {note:6} {options.tries - len(known):8}   "
            f"{least:.2%}, {median:.2%}, {most:.2%}",
            flush=True,
        )
    await ours.stop()
    await others.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--rate", type=float, default=40.0, help="our requests/s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of our load in each try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="a server that runs")
    parser.add_argument("--model", default="echo", help="what it serves")
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds its key")
    parser.add_argument("--vocab", type=int, default=32_000, help="size of its vocabulary")
    options = parser.parse_args()
    with contextlib.nullcontext(options.url) if options.url else echo_server() as url:
        asyncio.run(measure(options, url))


if __name__ == "__main__":
    main()
