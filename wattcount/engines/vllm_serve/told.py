"""What `vllm serve` tells of itself, in two processes: vLLM loads `StepLogger` as a plug-in, `StepReader` is on the run's side.

::

    vLLM's front end: StepLogger --- FIFO, one packet a step ---> StepReader: the run's event loop
                                 --- FACTS_JSON, once up    --->

vLLM finds the plug-in by an entry point in a folder that only this server has on its path (`install`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wattcount.engines.base import EngineStep

FOLDER_VARIABLE = "WATTCOUNT_VLLM_SERVE"
"""Environment variable of the server: the folder with its FIFO and its facts."""
FIFO = "steps"
"""Name of the FIFO, in that folder, through which the server's processes tell their steps."""
FACTS_JSON = "facts.json"
"""Name of the file, in that folder, with what the server resolved."""
FIFO_BYTES = 1 << 20
"""Room for steps that the run has not read yet [bytes]: some 14,000, more than a minute of them. Linux allows it to any user."""
PLUGIN = "wattcount_steps"
"""Name of vLLM's plug-in that tells both."""

_PACKET = struct.Struct("<qqqqqqdqqq")
"""Fields of an `EngineStep` but `engine_ts_ns`, and how many steps found no room before it. Shorter than PIPE_BUF, so that
packets of several servers' processes are never mixed."""
_NONE = -1
"""Stands in a packet for a number that is not known: all that are known are 0 or more."""


def install(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Writes what vLLM finds the plug-in by; the environment variables that its server needs for it.

    folder       of the engine's own
    environment  the server's as it is without them
    """
    site = folder / "site"
    info = site / f"{PLUGIN}-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 0\n", encoding="ascii")
    (info / "entry_points.txt").write_text(
        f"[vllm.stat_logger_plugins]\n{PLUGIN} = wattcount.engines.vllm_serve.steps:StepLogger\n"
        f"[vllm.general_plugins]\n{PLUGIN} = wattcount.engines.vllm.extensions:register\n",
        encoding="ascii",
    )
    paths = [str(site), environment.get("PYTHONPATH", "")]
    found = {FOLDER_VARIABLE: str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if allowed := environment.get("VLLM_PLUGINS"):
        found["VLLM_PLUGINS"] = f"{allowed},{PLUGIN}"
    return found


class StepWriter:
    """The server's end of the FIFO. Never waits: a step that finds no room is counted and lost."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / FIFO, os.O_WRONLY | os.O_NONBLOCK)
        self._lost = 0

    def write(self, step: EngineStep) -> None:
        try:
            os.write(self._descriptor, packed(step, self._lost))
        except BlockingIOError:
            self._lost += 1
        except OSError:
            return  # nobody reads any more
        else:
            self._lost = 0


class StepReader:
    """The run's end of the FIFO, made before the server starts. Calls `on_step` on the event loop's thread."""

    def __init__(self, folder: Path, on_step: Callable[[EngineStep], None]) -> None:
        path = folder / FIFO
        os.mkfifo(path, 0o600)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, FIFO_BYTES)
        self._on_step = on_step
        self._rest = b""
        self.lost = 0
        """Steps that found no room in the FIFO."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """May be called more than once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, FIFO_BYTES)
        except BlockingIOError:
            return
        if not data:  # the server has ended
            self._loop.remove_reader(self._descriptor)
            return
        data = self._rest + data
        whole = len(data) - len(data) % _PACKET.size
        self._rest = data[whole:]
        for offset in range(0, whole, _PACKET.size):
            step, lost = unpacked(data[offset : offset + _PACKET.size])
            self.lost += lost
            self._on_step(step)


def packed(step: EngineStep, lost: int) -> bytes:
    """A step, and how many were lost before it, as one packet."""
    numbers = (step.duration_ns, step.prefill_tokens, step.decode_tokens, step.running, step.waiting)
    usage = float("nan") if step.kv_cache_usage is None else step.kv_cache_usage
    drafts = (step.draft_tokens, step.accepted_tokens)
    return _PACKET.pack(step.logged_ns, *map(_number, numbers), usage, *map(_number, drafts), lost)


def unpacked(packet: bytes) -> tuple[EngineStep, int]:
    """The inverse of `packed`."""
    logged, *numbers, usage, drafts, accepted, lost = _PACKET.unpack(packet)
    duration, prefill, decode, running, waiting = map(_value, numbers)
    step = EngineStep(
        logged_ns=logged,
        engine_ts_ns=None,
        duration_ns=duration,
        prefill_tokens=prefill,
        decode_tokens=decode,
        running=running or 0,
        waiting=waiting or 0,
        kv_cache_usage=None if usage != usage else usage,
        draft_tokens=_value(drafts),
        accepted_tokens=_value(accepted),
    )
    return step, lost


def _number(value: int | None) -> int:
    return _NONE if value is None else value


def _value(number: int) -> int | None:
    return None if number == _NONE else number


def facts(folder: Path) -> dict[str, Any] | None:
    """What the server has told of itself (`vllm.reports.resolved_facts`); None as long as it has not."""
    try:
        found: dict[str, Any] = json.loads((folder / FACTS_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
