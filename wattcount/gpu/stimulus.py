"""Square waves of power with known edges, to see what sensors make of them.

On a real GPU in a process of its own, so that no CUDA context stays behind: `python -m wattcount.gpu.stimulus UUID WAVE...`.
On an emulated one the true power is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from wattcount.clock import now_ns
from wattcount.errors import NotStartedError
from wattcount.gpu.characterise import Load
from wattcount.gpu.nvml import NvmlSession

S_NS = 1_000_000_000
"""Nanoseconds in a second."""
WAVES = (
    (2513.0, 1257.0, 10.1),
    (20.0, 10.0, 3.0),
    (100.0, 25.0, 3.0),
    (101.7, 25.0, 3.0),
    (130.0, 40.0, 3.0),
)
"""(period ms, on ms, seconds): steps first, longer than a box of 1 s and out of step with 100 ms; then loads that samples of 20 ms and 100 ms alias."""
PAUSE_S = 1.0
"""Idle time [s] between two loads, longer than any box of averaged power."""
TIMEOUT_S = 120.0
"""Longest time [s] that the process with the loads may take: CUDA starts in some seconds, the loads in a dozen."""
PRODUCT_SIZE = 4096
"""Rows of the square matrices that are multiplied: one product takes a millisecond or two, so that bursts end in time."""


def run_waves(session: NvmlSession, gpu_uuid: str) -> list[Load]:
    """Plays WAVES on a GPU and says when each burst began. Raises `NotStartedError` where that cannot be done."""
    if session.machine is not None:
        return _emulated(session, gpu_uuid, WAVES)
    if session.evidence == "emulated":
        raise NotStartedError(
            "the true power of this emulated GPU is another process's: no load can be put on it"
        )
    command = [sys.executable, "-m", "wattcount.gpu.stimulus", gpu_uuid]
    command += [":".join(f"{value:g}" for value in wave) for wave in WAVES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotStartedError(f"the load on {gpu_uuid} did not end within {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NotStartedError(f"no load on {gpu_uuid}: {said}")
    return [Load(**{**load, "edges_ns": tuple(load["edges_ns"])}) for load in json.loads(done.stdout)]


def _emulated(session: NvmlSession, gpu_uuid: str, waves: Sequence[tuple[float, float, float]]) -> list[Load]:
    assert session.machine is not None
    live = session.machine.live[gpu_uuid]
    facts = next(gpu for gpu in session.gpus() if gpu.uuid == gpu_uuid)
    limit_mw = facts.power_limit_enforced_mw or 300_000
    low_mw, high_mw = round(0.18 * limit_mw), round(0.9 * limit_mw)
    ahead_ns = S_NS // 5

    def burst(begin_ns: int, on_ns: int) -> None:
        # The true power is written a little ahead, so that readers never see it change under them.
        live.append(begin_ns, high_mw)
        live.append(begin_ns + on_ns, low_mw)

    return play(burst, waves, ahead_ns=ahead_ns)


def play(
    burst: Callable[[int, int], None], waves: Sequence[tuple[float, float, float]], *, ahead_ns: int = 0
) -> list[Load]:
    """Has `burst(begin ns, length ns)` called at each period's start, `ahead_ns` before it."""
    loads = []
    for period_ms, on_ms, seconds in waves:
        time.sleep(PAUSE_S)
        start_ns = now_ns() + ahead_ns + S_NS // 100
        period_ns, edges = round(period_ms * 1e6), []
        for k in range(max(1, round(seconds * 1e3 / period_ms))):
            begin_ns = start_ns + k * period_ns
            _wait_until(begin_ns - ahead_ns)
            edges.append(begin_ns if ahead_ns else now_ns())
            burst(begin_ns, round(on_ms * 1e6))
        end_ns = start_ns + len(edges) * period_ns
        _wait_until(end_ns)
        loads.append(Load(period_ms, on_ms, start_ns, end_ns, tuple(edges)))
    return loads


def _wait_until(t_ns: int) -> None:
    while (left_ns := t_ns - now_ns()) > 0:
        if left_ns > 2_000_000:
            time.sleep((left_ns - 1_000_000) / S_NS)


def main(argv: Sequence[str]) -> int:
    """The load's own process: JSON of the loads on stdout."""
    gpu_uuid, *texts = argv
    waves = [tuple(float(part) for part in text.split(":")) for text in texts]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu_uuid
    try:
        import torch
    except ImportError:
        print("torch is not installed, which makes the loads: pip install torch", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("torch finds no CUDA device", file=sys.stderr)
        return 3
    matrix = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device="cuda", dtype=torch.float16)
    out = torch.empty_like(matrix)

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(matrix, matrix, out=out)

    products(200)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    products(500)
    torch.cuda.synchronize()
    product_ns = (time.perf_counter() - begin) * S_NS / 500

    def burst(begin_ns: int, on_ns: int) -> None:
        del begin_ns
        products(max(1, round(on_ns / product_ns)))

    loads: list[dict[str, Any]] = [vars(load) for load in play(burst, waves)]  # type: ignore[arg-type]
    torch.cuda.synchronize()
    print(json.dumps(loads))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
