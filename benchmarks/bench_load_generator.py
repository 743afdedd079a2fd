"""How late does the load generator send? Open-loop Poisson arrivals against the tiny engine.

    python benchmarks/bench_load_generator.py [--rates 100,1000,4000] [--seconds 5]

Prints one row a rate: send lag (actual minus planned send) at several quantiles, the processor time
of generator and engine together, and the rate that was reached. The engine runs in the same thread, so
this is the worst case; vLLM's engine core is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np

from wattcount.clock import now_ns
from wattcount.config.schema import EngineConfig, LengthConfig, RunConfig, ServerConfig
from wattcount.engines.registry import create
from wattcount.load.build import build_plan
from wattcount.load.generator import LoadGenerator


async def measure(rate_rps: float, seconds: float, output_tokens: int) -> str:
    scenario = ServerConfig(
        rate_rps=rate_rps,
        warmup_s=0.0,
        window_s=seconds,
        lengths=LengthConfig(input_tokens=512, output_tokens=output_tokens),
    )
    # Steps of 5 ms for up to 4096 sequences: an engine that is never the bottleneck.
    args = {"step_base_ms": 5.0, "decode_ms_per_seq": 0.0, "prefill_tokens_per_s": 1e9}
    engine_config = EngineConfig(name="tiny", args=args, max_num_seqs=4096, max_num_batched_tokens=1_000_000)
    engine = create(RunConfig(engine=engine_config, scenario=scenario), [], Path())
    info = await engine.start()
    load = build_plan(scenario, seed=0, repeat=0)
    generator = LoadGenerator(engine, load.main, vocab_size=info.vocab_size, window_start_offset_ns=0)
    cpu = time.process_time()
    await generator.run(now_ns() + 50_000_000)
    cpu = time.process_time() - cpu
    await generator.drain(30)
    await engine.stop()
    sent = np.array([record.actual_send_ns for record in generator.records])
    planned = np.array([record.planned_send_ns for record in generator.records])
    p50, p99, p999, worst = np.percentile((sent - planned) / 1e6, [50, 99, 99.9, 100])
    reached = (len(sent) - 1) / ((sent[-1] - sent[0]) / 1e9)
    return f"{rate_rps:9.1f} {reached:9.1f} {len(sent):8d} {p50:8.3f} {p99:8.3f} {p999:8.3f} {worst:8.3f} {cpu / seconds:9.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default="1,16,100,1000,2000,4000", help="requests/s, comma between")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each rate")
    parser.add_argument("--output-tokens", type=int, default=8)
    options = parser.parse_args()
    print("   rate/s reached/s requests  p50_ms   p99_ms p99.9_ms   max_ms  cpu_core")
    for rate in options.rates.split(","):
        print(asyncio.run(measure(float(rate), options.seconds, options.output_tokens)), flush=True)


if __name__ == "__main__":
    main()
