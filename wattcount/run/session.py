"""What the runs on one start of an engine have in common, as their parent holds it.

::

    NVML -- locks and settings of the GPUs -- folder for temporary files -- the process with the engine
            (from the first run that is not done already)                   (`run.worker`), its jobs and its log

A single run has a session of its own. A sweep keeps one over points that differ only in scenario and load
(`sweep.share_engine`).

Between the engines of a sweep, `Rest` waits until the GPU is as it was before the first one, or changes no more. A GPU that is
still warm leaks more current at idle, and boosts less: the order of the runs would show in their energies. And what an engine that
is gone still holds of its memory, the next one lacks.
"""

from __future__ import annotations

import contextlib
import copy
import getpass
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wattcount import ownership
from wattcount.config.schema import PowerConfig, RunConfig
from wattcount.errors import WattcountError
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import NvmlSession, open_session
from wattcount.records.schema import ENGINE_LOG
from wattcount.records.writer import RecordWriter
from wattcount.run.claims import TEMPORARY_PREFIX, gpus_locked
from wattcount.run.gpu_settings import gpu_settings, restore_before, restore_recorded
from wattcount.run.messages import ENGINE_STOP_LIMIT_S, Job, Lines, Start
from wattcount.run.preflight import wait_while_busy
from wattcount.run.process import SessionProcess
from wattcount.statistics import theil_sen

JOB_JSON = "job.json"
"""Name of the file with what a run's process is to do."""
LEFTOVER_GRACE_S = 0.5
"""Time in which descendants of a run's process may end by themselves [s]: a helper that cleans up shared memory needs a moment."""
END_GRACE_S = 10.0
"""Most time from the end of the engine to the end of its process [s]."""

Notice = Callable[[str], object]


class Session:
    """See the module. Once closed it is as new: what comes next has an engine of its own.

    ::

        with Session() as session:
            run_point(cfg, display, session=session, last=False)
            run_point(another, display, session=session)     # on the same engine, if that is well
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._stack = contextlib.ExitStack()
        self._nvml: NvmlSession | None = None
        self._scratch: Path | None = None
        self._jobs: socket.socket | None = None
        self._claims: list[str] = []
        """Claims of the temporary folders, for the process to hold."""
        self._locks: list[int] = []
        self._settings: dict[str, Any] = {}
        self._id: str | None = None
        self._count = 0
        self.process: SessionProcess | None = None
        self.log: Path | None = None
        """What the process writes to."""
        self.lines = Lines()
        """Lines of what the process says."""
        self.cooldown: dict[str, Any] = {}
        """What the cool-down was, for the first run's `run.json`."""
        self.devices: list[str] = []
        """UUIDs of its GPUs, once they are locked."""
        self.measured_once: dict[str, Any] = {}
        """What a run of it has measured for the further ones (`metrics.session`)."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_up(self) -> bool:
        """Whether the process waits for its next run, with the engine."""
        return self.process is not None and not self.process.has_ended()

    def nvml(self, cfg: RunConfig) -> NvmlSession:
        """The library that `cfg` asks for; the same for all runs."""
        if self._nvml is None:
            self._nvml = self._stack.enter_context(open_session(cfg.power, cfg.gpu))
            if self._nvml.machine is not None and self._nvml.machine.claim is not None:
                self._claims.append(str(self._nvml.machine.claim.path))
        return self._nvml

    def take_gpus(self, cfg: RunConfig, purpose: str, rest: Rest | None, notice: Notice) -> None:
        """Waits for the GPUs of `cfg`, holds them, has them cool down and their settings in force.

        Raises `NotStartedError` where that is not possible.
        """
        nvml = self.nvml(cfg)
        gpus = nvml.select(cfg.gpu)
        # The GPUs of a machine that was made for this run are nobody else's.
        wanted = gpus if nvml.machine is None else []
        locked = gpus_locked(wanted, purpose, cfg.gpu_lock_timeout_s, notice, nvml.remote)
        self._locks = self._stack.enter_context(locked)
        if nvml.remote is None:  # a listener has restored its own
            restore_before(nvml, wanted, notice)
        wait_while_busy(cfg, gpus, nvml.native.compute_processes, notice)
        if rest is not None:
            try:
                uuids = [gpu.uuid for gpu in gpus]
                self.cooldown = rest.wait(nvml, uuids, cfg.cooldown_limit_s, notice)
            except WattcountError as error:  # the run will say in its record what is wrong with the GPU
                notice(f"cannot tell whether the GPU has cooled down: {error}")
        in_force = gpu_settings(cfg.gpu, nvml.select(cfg.gpu), nvml, notice)
        self._settings = self._stack.enter_context(in_force)
        self.devices = list(cfg.gpu.devices)

    def settings(self) -> dict[str, Any]:
        """What `RunInfo.gpu_settings` says."""
        return copy.deepcopy(self._settings)

    def number(self, run_id: str) -> dict[str, Any]:
        """Counts a run; for its `RunInfo.session`."""
        self._id = self._id or run_id
        self._count += 1
        return {"id": self._id, "number": self._count, **self.measured_once}

    def make_scratch(self) -> None:
        """Makes the folder for temporary files. Raises OSError."""
        if self._scratch is None:
            self._scratch = self._stack.enter_context(self._scratch_folder())

    def restore(self, settings: dict[str, Any]) -> None:
        """Undoes `settings` and notes so in them. Raises `UndoError`."""
        assert self._nvml is not None
        restore_recorded(self._nvml, settings)

    def launch(self, writer: RecordWriter, alone: bool) -> SessionProcess:
        """The process, started for the first run. Raises OSError where it cannot be.

        alone  no other run follows: the log is in the record from the beginning
        """
        if self.process is None:
            assert self._scratch is not None
            self.log = (writer.folder if alone else self._scratch) / ENGINE_LOG
            self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self.process = SessionProcess(
                    lambda pipe: self._command(pipe, theirs.fileno()),
                    self.log,
                    _environment(self._scratch),
                    [theirs.fileno(), *self._locks],
                )
        return self.process

    def give(self, job: Job, locks: Sequence[int]) -> None:
        """Has the process begin with a run; `locks` are descriptors for it to hold meanwhile."""
        assert self._jobs is not None
        file = Path(job.folder) / "spool" / JOB_JSON
        file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        with contextlib.suppress(OSError):  # it has died, which whoever listens to it will hear
            socket.send_fds(self._jobs, [os.fsencode(file)], locks)

    def end_process(self) -> tuple[int | None, list[int]]:
        """Leaves nothing of it; its exit code as `SessionProcess.exit_status`, and what could not be killed."""
        process, self.process = self.process, None
        if process is None:
            return None, []
        left = process.kill(grace_s=LEFTOVER_GRACE_S)
        status = process.exit_status()
        process.close()
        return status, left

    def close(self) -> None:
        """Ends the engine in order, and lets go of everything."""
        stack, process, jobs = self._stack, self.process, self._jobs
        self._reset()
        with stack:
            if jobs is not None:
                jobs.close()
            if process is not None:
                process.kill(grace_s=ENGINE_STOP_LIMIT_S + END_GRACE_S)
                process.close()

    def _command(self, pipe: int, jobs: int) -> list[str]:
        start = Start(jobs, pipe, os.getpid(), self._claims, list(self._locks))
        return [sys.executable, "-m", "wattcount.run.worker", json.dumps(asdict(start))]

    @contextlib.contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        """A folder for temporary files, claimed. Engines that are killed leave theirs behind: sockets, models' configurations,
        rendezvous files."""
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        claim = ownership.claim(folder / ownership.CLAIM_NAME)
        self._claims += [str(claim.path)] if claim is not None else []
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if claim is not None:
                claim.release()


def _environment(scratch: Path) -> dict[str, str]:
    """Has temporary files made in `scratch`."""
    # A socket's path has at most 107 characters, of which engines use up to 50 below this folder.
    if len(str(scratch)) > 55:
        return {}
    environment = {"TMPDIR": str(scratch)}
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        # Compiled kernels are worth keeping; this is where torch puts them by default.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(scratch.parent / f"torchinductor_{_user()}")
    return environment


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, ImportError, OSError):  # a container's user without an entry in passwd
        return f"uid_{os.getuid()}"
    return re.sub(r'[\\/:*?"<>|]', "_", name)


SAMPLE_S = 0.5
"""Time between two readings of a GPU that rests [s]."""
NEAR_C, NEAR_POWER_PERCENT, NEAR_MEMORY_BYTES = 3.0, 5.0, 256 * 2**20
"""Differences to before the first run up to which a GPU has rested: temperature [K], power [%], memory in use [bytes]."""
STEADY_SAMPLES = 40
"""Readings that a trend is looked for in: 20 s of them, because temperatures are whole degrees."""
STEADY_PERCENT = 2.0
"""Trend over STEADY_SAMPLES that is let pass, however certain it is [%]."""

_POWER = ("power_average", "power_usage", "power_instant", "power_samples")
"""Sources of power, the steadiest first."""
POWER_W, TEMPERATURE_C, MEMORY_USED_BYTES = "power_w", "temperature_c", "memory_used_bytes"
"""Keys of readings."""
Readings = dict[str, dict[str, float]]
"""POWER_W, TEMPERATURE_C and MEMORY_USED_BYTES of each GPU, by UUID: those that NVML tells."""


@dataclass
class Rest:
    """The pauses of one sweep. Made before the first run, which finds the GPUs as they are to be again."""

    before: Readings = field(default_factory=dict)

    def wait(
        self,
        session: NvmlSession,
        gpu_uuids: Sequence[str],
        limit_s: float,
        notice: Callable[[str], object],
    ) -> dict[str, Any]:
        """Returns once all GPUs are back, or steady with their memory back, or after `limit_s`; for `run.json`.

        Raises `WattcountError` where the GPUs cannot be read.
        """
        power = PowerConfig(power_period_ms=100.0, status_period_ms=250.0, energy_counter_period_ms=60_000.0)
        began_s = time.monotonic()
        last: deque[Readings] = deque(maxlen=STEADY_SAMPLES)
        told = False
        with PowerSampler(list(gpu_uuids), session, power) as sampler:
            while True:
                now = dict(zip(gpu_uuids, map(_reading, sampler.latest()), strict=True))
                last.append(now)
                for uuid in gpu_uuids:
                    self.before.setdefault(uuid, now[uuid])
                back = all(is_near(now[uuid], self.before[uuid]) for uuid in gpu_uuids)
                steady = not back and all(
                    has_memory_back(now[uuid], self.before[uuid])
                    and is_steady([sample[uuid] for sample in last])
                    for uuid in gpu_uuids
                )
                waited_s = time.monotonic() - began_s
                if back or steady or waited_s >= limit_s:
                    return {
                        "seconds": round(waited_s, 3),
                        "limit_s": limit_s,
                        "ended": "back" if back else "steady" if steady else "limit",
                        "before": {uuid: self.before[uuid] for uuid in gpu_uuids},
                        "after": now,
                    }
                if not told:
                    notice(f"letting the GPU cool down, at most {limit_s:g} s")
                    told = True
                time.sleep(min(SAMPLE_S, max(0.0, limit_s - waited_s)))


def is_near(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether what is known of both is about the same; colder, or less power, is near too."""
    known = now.keys() & before.keys()
    limits = {
        POWER_W: before.get(POWER_W, 0.0) * (1 + NEAR_POWER_PERCENT / 100),
        TEMPERATURE_C: before.get(TEMPERATURE_C, 0.0) + NEAR_C,
        MEMORY_USED_BYTES: before.get(MEMORY_USED_BYTES, 0.0) + NEAR_MEMORY_BYTES,
    }
    return all(now[name] <= limits[name] for name in known)


def has_memory_back(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether no more of the GPU's memory is in use than before, as far as it is known."""
    used, base = now.get(MEMORY_USED_BYTES), before.get(MEMORY_USED_BYTES)
    return used is None or base is None or used <= base + NEAR_MEMORY_BYTES


def is_steady(samples: Sequence[Mapping[str, float]]) -> bool:
    """Whether nothing has a trend over the last STEADY_SAMPLES, taken at even intervals."""
    if len(samples) < STEADY_SAMPLES:
        return False
    for name in (POWER_W, TEMPERATURE_C):
        values = np.array([sample[name] for sample in samples if name in sample])
        drift = theil_sen(values) if len(values) == len(samples) else None
        if drift is not None and drift.certain and abs(drift.percent) > STEADY_PERCENT:
            return False
    return True


def _reading(latest: Mapping[str, int]) -> dict[str, float]:
    found = {}
    if (power := next((name for name in _POWER if name in latest), None)) is not None:
        found[POWER_W] = latest[power] / 1e3
    if "temperature_gpu" in latest:
        found[TEMPERATURE_C] = float(latest["temperature_gpu"])
    if "memory_used" in latest:
        found[MEMORY_USED_BYTES] = float(latest["memory_used"])
    return found
