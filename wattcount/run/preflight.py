"""What can be found out before the engine starts: everything that would otherwise fail minutes later.

`resolved` comes first (`run.resolve`). `check` looks at everything else, `check_busy` at other processes on the GPU once no
other run can be there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from wattcount.config import fit, hub
from wattcount.config.schema import (
    Device,
    LengthKind,
    RunConfig,
)
from wattcount.config.validation import validate
from wattcount.engines import registry
from wattcount.errors import NotStartedError, RecordsUnwritableError
from wattcount.gpu.settings import plan as plan_settings
from wattcount.load.build import build_plan
from wattcount.load.prompts import check_tokenizer, read_conversations, read_prompts, tokenizer_source
from wattcount.run.resolve import Machine, Resolved, installed_engine, resolve

if TYPE_CHECKING:
    from wattcount.gpu.nvml import GpuFacts, NvmlSession

MIN_DISK_BYTES = 256 * 2**20
"""A record of an hour at 1,000 requests is some 20 MiB; running full in the middle loses the run."""

BUSY_POLL_S = 0.2
"""Time between two looks at whether a GPU is still busy [s]."""


def preflight(cfg: RunConfig, nvml: NvmlSession) -> RunConfig:
    """`resolved` and `check` in one."""
    cfg = resolved(cfg, nvml).config
    check(cfg, nvml)
    return cfg


def resolved(asked: RunConfig, nvml: NvmlSession, devices: Sequence[str] = ()) -> Resolved:
    """`asked` on this machine, valid and with an identity; `devices` are the GPUs to use, where it names none.

    Raises `NotStartedError` with one line that says what is wrong and what to do.
    """
    plugin = registry.plugin(asked.engine.name)
    with registry.refusing_failures(asked.engine.name):
        told = plugin.discovered(asked, nvml)
    if not plugin.capabilities.owns_process:
        devices = ()  # somebody else has chosen
    gpus = nvml.select(dataclasses.replace(told.gpu, devices=list(devices)) if devices else told.gpu)
    engine = installed_engine(asked.engine.name, asked.engine.device, nvml.evidence)
    found = dataclasses.replace(resolve(told, Machine(nvml.evidence, tuple(gpus), engine)), asked=asked)
    for problem in found.problems:
        raise NotStartedError(problem)
    validate(found.config)  # what `auto` became is checked like anything else
    return found


def check(cfg: RunConfig, nvml: NvmlSession) -> None:
    """Whether this machine can run `cfg`, which is resolved.

    Raises `NotStartedError` with one line that says what is wrong and what to do.
    """
    gpus = nvml.select(cfg.gpu)
    check_capability(cfg, gpus)
    check_fit(cfg, gpus, available_memory_bytes())
    check_load(cfg)
    if fetches_model(cfg):
        hub.check(cfg.model)
    check_folder(Path(cfg.records_dir).expanduser())
    plan_settings(cfg.gpu, gpus, nvml.native)  # what NVML says a GPU cannot do
    uuids = [gpu.uuid for gpu in gpus] if cfg.engine.device is Device.cuda else []
    with tempfile.TemporaryDirectory(prefix="wattcount-preflight-") as scratch:
        registry.create(cfg, uuids, Path(scratch))  # the engine's own checks


def fetches_model(cfg: RunConfig) -> bool:
    """Whether the engine takes files of the model from the hub, or from its cache."""
    able = registry.plugin(cfg.engine.name).capabilities
    return able.computes_model and able.owns_process and hub.needs_hub(cfg.model)


def check_again(cfg: RunConfig) -> None:
    """What `check` has not seen of another run on an engine that is up: its load, and the room for its record."""
    check_load(cfg)
    check_folder(Path(cfg.records_dir).expanduser())


def check_capability(cfg: RunConfig, gpus: Sequence[GpuFacts]) -> None:
    """What the GPU can compute with and what the model brings along, as far as the engine computes on it."""
    there = gpus[0].compute_capability or cfg.gpu.compute_capability
    on_gpu = cfg.engine.device is Device.cuda
    for problem in registry.plugin(cfg.engine.name).unsupported(cfg, there if on_gpu else None):
        raise NotStartedError(problem.message)


def check_fit(cfg: RunConfig, gpus: Sequence[GpuFacts], host_available_bytes: int) -> None:
    """The model against the memory of each GPU of the run and, for an engine on the CPU, of the host."""
    if not registry.plugin(cfg.engine.name).capabilities.computes_model:
        return
    # An emulated GPU too: a model that it could not hold would make a record of something impossible.
    on_gpu = dataclasses.replace(cfg, engine=dataclasses.replace(cfg.engine, device=Device.cuda))
    for gpu in gpus:
        if gpu.memory_total_bytes is None:
            continue
        report = fit.estimate(on_gpu, gpu.memory_total_bytes)
        if not report.fits:
            raise NotStartedError(
                f"model {cfg.model.name} does not fit {gpu.name}: {report.explain()}; use a smaller model, "
                "model.quantization, engine.tensor_parallel_size or pipeline_parallel_size with more GPUs, or a GPU with "
                "more memory"
            )
    if cfg.engine.device is Device.cpu:
        report = fit.estimate(cfg, host_available_bytes)
        if not report.fits:
            raise NotStartedError(
                f"model {cfg.model.name} does not fit this machine's free memory: {report.explain()}; use a "
                "smaller model (model=tiny) or free some memory"
            )


def available_memory_bytes() -> int:
    """Host memory that this process may still take: what is free, within the control group's limit."""
    available = int(psutil.virtual_memory().available)
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(limit_file).read_text(encoding="ascii"))
            used = int(Path(used_file).read_text(encoding="ascii"))
            available = min(available, limit - used + _reclaimable_bytes(Path(limit_file).parent))
    return max(0, available)


def _reclaimable_bytes(group: Path) -> int:
    """File cache counts as used but goes when memory is asked for."""
    for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def check_busy(
    cfg: RunConfig,
    gpus: Sequence[GpuFacts],
    compute_processes: Callable[[str], list[tuple[int, int | None]]],
    own: frozenset[int] | None = frozenset(),
) -> None:
    """Another process on the GPU takes power and time that would be counted as the model's.

    own  processes of an engine that the run does not start; None: they cannot be told from others
    """
    elsewhere = cfg.power.remote is not None
    if cfg.allow_busy_gpu or own is None:
        return
    mine = own if elsewhere else {os.getpid(), *own}
    for gpu in gpus:
        try:
            there = compute_processes(gpu.uuid)
        except RuntimeError:
            continue  # NVML does not tell (MIG, vGPU); the record has what the sampler sees
        # In a container NVML's numbers are the host's, and a server's own processes not among them.
        numbered = elsewhere or not own or any(pid in own for pid, _ in there)
        others = [
            (pid, used) for pid, used in there if pid not in mine and (numbered or psutil.pid_exists(pid))
        ]
        if others:
            raise NotStartedError(
                f"{gpu.name} ({gpu.uuid}) is busy: {', '.join(describe_process(*other, known=not elsewhere) for other in others)}; "
                "wait for it, choose another GPU with gpu.devices=[UUID], or measure all the same with "
                "allow_busy_gpu=true"
            )


def wait_while_busy(
    cfg: RunConfig,
    gpus: Sequence[GpuFacts],
    compute_processes: Callable[[str], list[tuple[int, int | None]]],
    notice: Callable[[str], object],
) -> None:
    """`check_busy`, again and again for up to `gpu_busy_timeout_s`."""
    deadline_s = time.monotonic() + cfg.gpu_busy_timeout_s
    told = False
    own = registry.plugin(cfg.engine.name).own_processes(cfg)
    while True:
        try:
            check_busy(cfg, gpus, compute_processes, own)
            return
        except NotStartedError as error:
            if time.monotonic() >= deadline_s:
                raise
            if not told:
                what, _, _ = str(error).partition("; ")
                notice(f"{what}; waiting up to {cfg.gpu_busy_timeout_s:g} s for it to end")
                told = True
        time.sleep(BUSY_POLL_S)


def describe_process(pid: int, used_bytes: int | None, *, known: bool = True) -> str:
    """`known`: it is a process of this machine."""
    name = "another user's or container's process" if known else "a process there"
    with contextlib.suppress(psutil.Error):
        name = psutil.Process(pid).name() if known else name
    used = "" if used_bytes is None else f", {fit.gib(used_bytes)}"
    return f"{name} (pid {pid}{used})"


def check_load(cfg: RunConfig) -> None:
    """Builds the load once: a broken trace or an empty window shows here and not after the engine is up.

    The run's process loads the tokenizer. Of prompts that need it only their file's form is looked at here.
    """
    try:
        build_plan(
            cfg.scenario, cfg.seed, cfg.repeat, tokenize=_later if tokenizer_source(cfg.model) else None
        )
    except _TextPromptError:
        check_tokenizer(cfg.model)
        lengths = cfg.scenario.lengths
        assert lengths.path is not None
        read = read_conversations if lengths.kind is LengthKind.conversations else read_prompts
        read(lengths.path, lambda _text: [0])


class _TextPromptError(Exception):
    """There is a prompt to be tokenized."""


def _later(_text: str) -> list[int]:
    raise _TextPromptError


def check_folder(folder: Path) -> None:
    """That records can be written to `folder`, which is made if need be, and that there is room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise RecordsUnwritableError(
            f"records_dir: cannot write to {folder}: {why}; set records_dir=FOLDER or $WATTCOUNT_HOME"
        ) from None
    if free < MIN_DISK_BYTES:
        raise RecordsUnwritableError(
            f"records_dir: {free / 2**20:.0f} MiB free at {folder}, at least {MIN_DISK_BYTES / 2**20:.0f} MiB "
            "are needed; free some or set records_dir=FOLDER"
        )
