"""What does sending cost, and do all tools see the same? wattcount's HTTP client beside `vllm bench serve`, AIPerf and guidellm.

    python benchmarks/bench_http_client.py alone [--rates 50,200] [--seconds 10] [--client-cpus 0,1 --server-cpus 2-5 --servers 4]
    python benchmarks/bench_http_client.py agree --url http://localhost:8000 --model NAME --tokenizer FOLDER [--rounds 6] [--rate 4]

alone   The client against an echo server that computes nothing and sends an event every --step-ms: how late requests come at
        constant gaps, p99 (ours also as dispatch delay), TTFT (truth: half a step) and TPOT (a step) as the tool tells them, and CPU of the client for each streamed event. CPU is that of all of the tool's processes, of a long run
        less that of a short one, so that starting up does not count; what it was held up by other work does not count either.
agree   The same load on one real server, tools in turn: TTFT, TPOT, tokens/s of each round, and CPU for 1,000 streamed
        tokens/s: median, least and most of the rounds.

Other tools are used where their commands are given: --vllm PYTHON (of an environment with vLLM), --aiperf and --guidellm (their
programs). They are no part of wattcount.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ECHO_SERVER = ROOT / "tests" / "echo_server.py"
INPUT_TOKENS = 32
LIMIT_S = 560
"""The longest that a tool may run [s]."""
VLLM_BENCH = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; "
    "p = argparse.ArgumentParser(); add_cli_args(p); main(p.parse_args())"
)
"""`vllm bench serve`, whose program finds no version of itself in vLLM's CPU build."""


@dataclass(frozen=True)
class Load:
    url: str
    model: str
    tokenizer: Path
    rate_rps: float
    requests: int
    tokens: int
    constant: bool
    processes: int | None = None


@dataclass
class Seen:
    """What a tool says of a load. Latencies are medians."""

    completed: int
    ttft_ms: float | None
    tpot_ms: float | None
    tokens_per_s: float | None
    dispatch_p99_ms: float | None = None
    cpu_s: float = 0.0


# -- tools: the command for a load, and what it says


def ours(load: Load, folder: Path, _: str) -> tuple[list[str], Callable[[], Seen]]:
    job = folder / "load.json"
    job.write_text(json.dumps(vars(load) | {"tokenizer": str(load.tokenizer)}))
    command = [sys.executable, str(Path(__file__).resolve()), "send", str(job), str(folder / "seen.json")]
    return command, lambda: Seen(**json.loads((folder / "seen.json").read_text()))


def vllm(load: Load, folder: Path, python: str) -> tuple[list[str], Callable[[], Seen]]:
    options = {
        "backend": "openai", "base-url": load.url, "endpoint": "/v1/completions", "model": load.model,
        "tokenizer": load.tokenizer, "dataset-name": "random", "random-input-len": INPUT_TOKENS,
        "random-output-len": load.tokens, "num-prompts": load.requests, "request-rate": load.rate_rps,
        "burstiness": 1e6 if load.constant else 1, "result-dir": folder, "result-filename": "seen.json", "seed": 1,
        "percentile-metrics": "ttft,tpot",
    }  # fmt: skip
    command = [python, "-c", VLLM_BENCH, "--ignore-eos", "--save-result", "--disable-tqdm"]

    def seen() -> Seen:
        said = json.loads((folder / "seen.json").read_text())
        return Seen(
            said["completed"], said["median_ttft_ms"], said["median_tpot_ms"], said["output_throughput"]
        )

    return command + [f"--{key}={value}" for key, value in options.items()], seen


def aiperf(load: Load, folder: Path, program: str) -> tuple[list[str], Callable[[], Seen]]:
    options = {
        "model-names": load.model, "url": load.url, "custom-endpoint": "/v1/completions", "endpoint-type": "completions",
        "tokenizer": load.tokenizer, "request-rate": load.rate_rps, "request-count": load.requests,
        "arrival-pattern": "constant" if load.constant else "poisson", "isl": INPUT_TOKENS, "osl": load.tokens,
        "extra-inputs": "ignore_eos:true", "output-artifact-dir": folder, "ui-type": "none", "random-seed": 1,
    }  # fmt: skip
    flags = ["--streaming", "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"]
    command = [program, "profile", *flags, *(f"--{key}={value}" for key, value in options.items())]

    def seen() -> Seen:
        said = json.loads(next(folder.rglob("profile_export_aiperf.json")).read_text())
        return Seen(
            int(said["request_count"]["avg"]),
            said["time_to_first_token"]["p50"],
            said["inter_token_latency"]["p50"],
            said["output_token_throughput"]["avg"],
        )

    return command, seen


def guidellm(load: Load, folder: Path, program: str) -> tuple[list[str], Callable[[], Seen]]:
    kind = "constant" if load.constant else "poisson"
    command = [
        program, "run", "--disable-console",
        f"--backend=kind=openai_http,target={load.url},model={load.model},request_format=/v1/completions",
        f"--profile=kind={kind},rate={load.rate_rps}", f"--constraint=kind=max_requests,count={load.requests}",
        f"--tokenizer=kind=hf_auto,model={load.tokenizer}",
        f"--data=kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={load.tokens}",
        f"--output=kind=json,path={folder / 'seen.json'}",
    ]  # fmt: skip

    def seen() -> Seen:
        metrics = json.loads((folder / "seen.json").read_text())["benchmarks"][0]["metrics"]

        def median(name: str) -> float:
            return float(metrics[name]["successful"]["percentiles"]["p50"])

        return Seen(
            int(metrics["request_totals"]["successful"]),
            median("time_to_first_token_ms"),
            median("inter_token_latency_ms"),
            float(metrics["output_tokens_per_second"]["successful"]["mean"]),
        )

    return command, seen


Tool = Callable[[Load, Path, str], tuple[list[str], Callable[[], Seen]]]
TOOLS: dict[str, Tool] = {"wattcount": ours, "vllm": vllm, "aiperf": aiperf, "guidellm": guidellm}


def measured(tool: str, program: str, load: Load, cpus: set[int] | None) -> Seen:
    """What a tool says of a load that it sends, and the CPU that it takes. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command, seen = TOOLS[tool](load, folder, program)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
            preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            found = seen()
        except (OSError, KeyError, TypeError, StopIteration, ValueError) as error:
            text = (done.stderr or done.stdout)[-1500:]
            raise RuntimeError(
                f"{tool} told nothing (exit code {done.returncode}): {error!r}\n{text}"
            ) from error
        found.cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return found


# -- ours, in a process of its own as the others are


async def sent(load: Load) -> Seen:
    from wattcount.clock import now_ns
    from wattcount.engines.http.client import Endpoint, HttpClients
    from wattcount.load.plan import LoadPlan

    rng = np.random.default_rng(1)
    gaps = np.full(load.requests, 1.0) if load.constant else rng.exponential(size=load.requests)
    gaps *= load.requests / gaps.sum()  # as the other tools do
    plan = LoadPlan(
        (np.cumsum(gaps) / load.rate_rps * 1e9).astype(np.int64),
        np.full(load.requests, INPUT_TOKENS, np.int32),
        np.full(load.requests, load.tokens, np.int32),
        True,
        seed=1,
    )
    clients = HttpClients(Endpoint(load.url, load.model), load.processes)
    await clients.start()
    try:
        generator = clients.generator(plan, vocab_size=256, window_start_offset_ns=0)
        start_ns = now_ns() + 200_000_000
        await generator.run(start_ns)
        await generator.drain(LIMIT_S)
    finally:
        await clients.stop()
    done = [record for record in generator.records if record.status == "completed"]
    if not done:
        raise RuntimeError(f"no request completed: {generator.records[0].error}")
    send = np.array([record.actual_send_ns for record in done])
    first = np.array([record.first_token_ns for record in done])
    last = np.array([record.last_token_ns for record in done])
    tokens = np.array([record.output_tokens for record in done])
    return Seen(
        len(done),
        float(np.median(first - send)) / 1e6,
        float(np.median((last - first) / np.maximum(tokens - 1, 1))) / 1e6,
        float(tokens.sum() / ((last.max() - start_ns) / 1e9)),
        clients.details["dispatch_delay_ms"]["p99"],
    )


# -- the client alone


@contextlib.contextmanager
def echo_servers(
    count: int, tokens: int, step_ms: float, cpus: set[int] | None, folder: Path
) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """As many processes at one port; its URL, and when requests came since it was asked last."""
    processes: list[subprocess.Popen[bytes]] = []
    port = 0
    try:
        for number in range(count):
            command = [
                sys.executable,
                str(ECHO_SERVER),
                f"--port={port}",
                f"--tokens={tokens}",
                f"--step-ms={step_ms}",
            ]
            process = subprocess.Popen(
                [*command, f"--arrivals={folder / f'arrivals-{number}'}"],
                stdout=subprocess.PIPE,
                preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
            )
            processes.append(process)
            assert process.stdout is not None
            port = int(process.stdout.readline())

        def arrivals() -> list[int]:
            found: list[int] = []
            for number, process in enumerate(processes):
                file = folder / f"arrivals-{number}"
                file.unlink(missing_ok=True)
                process.send_signal(signal.SIGUSR1)
                while not file.exists() or not (text := file.read_text()).endswith("]"):
                    time.sleep(0.05)
                found += json.loads(text)
            return sorted(found)

        yield f"http://127.0.0.1:{port}", arrivals
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def lateness_p99_ms(arrivals_ns: Sequence[int], rate_rps: float, requests: int) -> float:
    """p99 of how much later than at constant gaps requests came; the gaps begin where the least late one fits."""
    at = np.array(arrivals_ns[-requests:]) / 1e6
    late = at - np.arange(len(at)) * 1e3 / rate_rps
    return float(np.percentile(late - late.min(), 99))


def alone(options: argparse.Namespace, programs: dict[str, str], tokenizer: Path) -> None:
    client_cpus, server_cpus = cpus_of(options.client_cpus), cpus_of(options.server_cpus)
    print(
        f"{os.cpu_count()} CPUs; client on {options.client_cpus or 'all'}, server on {options.server_cpus or 'all'}; load {os.getloadavg()}"
    )
    print(
        f"{'tool':<10} {'asked/s':>8} {'came/s':>8} {'events/s':>9} {'late p99 ms':>12} {'dispatch p99 ms':>16} {'TTFT p50 ms':>12} "
        f"{'TPOT p50 ms':>12} {'us CPU/event':>13}"
    )
    with (
        tempfile.TemporaryDirectory() as name,
        echo_servers(options.servers, options.tokens, options.step_ms, server_cpus, Path(name)) as (
            url,
            arrivals,
        ),
    ):
        for rate in options.rates:
            for tool, program in programs.items():
                short, many = max(10, round(rate)), round(rate * (options.seconds + 1))
                try:
                    cpu_s = 0.0
                    for requests in (short, many):
                        load = Load(
                            url, "echo", tokenizer, rate, requests, options.tokens, True, options.processes
                        )
                        seen = measured(tool, program, load, client_cpus)
                        came_ns = arrivals()[-requests:]
                        cpu_s = seen.cpu_s - cpu_s
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print(f"{tool:<10} {rate:>8g} failed: {str(error)[-600:]}", flush=True)
                    arrivals()
                    continue
                came = (len(came_ns) - 1) / ((came_ns[-1] - came_ns[0]) / 1e9)
                delay = "-" if seen.dispatch_p99_ms is None else f"{seen.dispatch_p99_ms:.2f}"
                print(
                    f"{tool:<10} {rate:>8g} {came:>8.1f} {came * options.tokens:>9.0f} "
                    f"{lateness_p99_ms(came_ns, rate, many):>12.2f} {delay:>16} {seen.ttft_ms or math.nan:>12.2f} "
                    f"{seen.tpot_ms or math.nan:>12.2f} "
                    f"{cpu_s / ((many - short) * options.tokens) * 1e6:>13.2f}",
                    flush=True,
                )


# -- the same load, all tools


def agree(options: argparse.Namespace, programs: dict[str, str], tokenizer: Path) -> None:
    rows: dict[str, list[Seen]] = {tool: [] for tool in programs}
    starts: dict[str, float] = {}
    load = Load(options.url, options.model, options.tokenizer or tokenizer, options.rate, round(options.rate * options.seconds), options.tokens, False, options.processes)  # fmt: skip
    few = Load(**(vars(load) | {"requests": 2}))
    for tool, program in programs.items():
        starts[tool] = measured(tool, program, few, None).cpu_s
    for number in range(options.rounds):
        order = list(programs.items())
        for tool, program in order[number % len(order) :] + order[: number % len(order)]:
            seen = measured(tool, program, load, None)
            rows[tool].append(seen)
            print(f"round {number}: {tool:<10} {seen}", flush=True)
    print(
        f"{'tool':<10} {'done':>5} {'TTFT p50 ms':>24} {'TPOT p50 ms':>24} {'tokens/s':>24} {'CPU s per 1,000 tokens/s':>26}"
    )
    for tool, found in rows.items():
        cells = [
            spread([getattr(one, name) for one in found]) for name in ("ttft_ms", "tpot_ms", "tokens_per_s")
        ]
        # CPU seconds a second at 1,000 tokens/s = CPU seconds for 1,000 tokens.
        cpu = [1000 * (one.cpu_s - starts[tool]) / (one.completed * load.tokens) for one in found]
        print(
            f"{tool:<10} {found[-1].completed:>5} {cells[0]:>24} {cells[1]:>24} {cells[2]:>24} {spread(cpu):>26}"
        )


def spread(values: Sequence[float]) -> str:
    """Median, least and most: one round may meet other work on the machine."""
    return f"{statistics.median(values):.4g} ({min(values):.3g} to {max(values):.3g})"


def cpus_of(text: str | None) -> set[int] | None:
    """CPUs of a list like `0,2-4`."""
    if not text:
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def byte_tokenizer(folder: Path) -> Path:
    """A tokenizer of 256 tokens, one a byte, as files that every tool reads."""
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made: Any = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32768, "eos_token": alphabet[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["alone", "agree", "send"], nargs="?", default="alone")
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "--rates", type=lambda text: [float(one) for one in text.split(",")], default=[50.0, 200.0]
    )
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--processes", type=int, help="client processes of ours")
    parser.add_argument("--servers", type=int, default=1, help="echo servers at one port")
    parser.add_argument("--client-cpus", help="like 0,2-4")
    parser.add_argument("--server-cpus")
    parser.add_argument("--url")
    parser.add_argument("--model", default="echo")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--vllm", help="Python of an environment with vLLM")
    parser.add_argument("--aiperf", help="its program")
    parser.add_argument("--guidellm", help="its program")
    options = parser.parse_args()
    if options.what == "send":
        job = json.loads(Path(options.files[0]).read_text())
        seen = asyncio.run(sent(Load(**job)))
        Path(options.files[1]).write_text(json.dumps(vars(seen)))
        return
    programs = {"wattcount": ""} | {
        tool: str(Path(program).absolute())
        for tool in ("vllm", "aiperf", "guidellm")
        if (program := getattr(options, tool))
    }
    with tempfile.TemporaryDirectory() as name:
        (alone if options.what == "alone" else agree)(options, programs, byte_tokenizer(Path(name)))


if __name__ == "__main__":
    main()
