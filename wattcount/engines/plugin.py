"""What wattcount asks of an engine's plug-in. Code outside `engines/` asks this, and never for an engine's name.

::

    registry.plugin(name) --- capabilities, problems, defaults, ...   without the engine: nothing heavy is imported
                          '-- create() --> engines.base.Engine        one engine, not started
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wattcount.engines.defaults import Defaults, filled
from wattcount.errors import NotStartedError

if TYPE_CHECKING:
    from wattcount.config.schema import Device, EngineConfig, Initializer, RunConfig, SpeculativeMethod
    from wattcount.engines.base import Engine
    from wattcount.gpu.nvml import NvmlSession


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do. The values here are those of an engine that computes the configured model in its own processes.

    Whether it tells its limits, `EnginePlugin.defaults` says; what it computes on, `EnginePlugin.device`.
    """

    owns_process: bool = True
    """The run starts and stops it. False: it is somebody else's server, so no power without it can be measured."""
    computes_model: bool = True
    """It computes the configured model. False: memory and number formats of the model say nothing about it."""
    reports_steps: bool = True
    """It reports each step of its scheduler (`EngineStep`)."""
    takes_token_ids: bool = True
    """Prompts may be token ids. False: text only."""
    forces_length: bool = True
    """It can be made to emit exactly so many tokens."""
    scheduler_is_played: bool = False
    """Its scheduler is the one that `wattcount.simulation` plays: requests join and leave between steps, running ones come first, prompts are
    cut to what a step has left."""
    can_be_shared: bool = False
    """One start of it can serve several runs, one after the other (`Engine.clear`)."""
    spreads_over_gpus: bool = False
    """It can be spread over several GPUs (`engine.tensor_parallel_size` and its like)."""
    speculates: frozenset[SpeculativeMethod] = frozenset()
    """Methods of `engine.speculative` that it has."""
    initializers: frozenset[Initializer] = frozenset()
    """What it can draw random weights from, besides its own placeholder (`model.initializer=dummy`)."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at on this machine. A run is refused by the first with a `problem` that is no `remark`."""

    name: str
    problem: str | None = None
    """What is wrong, as a clause; None: nothing."""
    advice: str | None = None
    """What to do about it."""
    remark: bool = False
    """A run is possible all the same."""


@dataclass(frozen=True)
class Unsupported:
    """Why a GPU cannot run a configuration. `code` is stable."""

    code: str
    message: str
    """One line that begins with the key."""


@dataclass(frozen=True)
class Expected:
    """How long an engine takes, for planning only [s].

    start_s     from its start until it is up
    overhead_s  starting the run's process, ending the engine, writing the record
    step_s      of each step, besides what the GPU computes
    """

    start_s: float = 30.0
    overhead_s: float = 6.0
    step_s: float = 0.001


class EnginePlugin(ABC):
    """One engine as wattcount sees it before it runs. Has no state; importing it must be quick."""

    title: str
    """What people call it."""
    capabilities: Capabilities
    packages: tuple[str, ...] = ()
    """Distributions whose versions go into a record."""
    released: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """By distribution and version the first day (UTC) on which it is known to have been there: what ran on a day was released by then."""

    @abstractmethod
    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        """The engine that a run asks for, not started. Only checks: raises `NotStartedError`.

        gpu_uuids  NVML UUIDs of the GPUs to compute on; empty on a CPU
        log_dir    the folder that its log goes to (`records.schema.ENGINE_LOG`)
        """

    @abstractmethod
    def device(self, asked: Device, *, emulated: bool) -> Device:
        """What `engine.device` becomes on this machine; `auto` where that is not known.

        emulated  no real GPU is measured
        """

    def discovered(self, cfg: RunConfig, session: NvmlSession) -> RunConfig:
        """`cfg` with what somebody else's server tells: its GPUs, its model, `engine.served`. Asked before anything is resolved.

        Raises `NotStartedError` where the server cannot be measured.
        """
        del session
        return cfg

    def own_processes(self, cfg: RunConfig) -> frozenset[int] | None:
        """Processes of the engine that are there before the run, of those on its GPUs; None: they cannot be told from others."""
        del cfg
        return frozenset() if self.capabilities.owns_process else None

    def checks(self, asked: Device, *, emulated: bool) -> Iterator[Check]:
        """What must be true of this machine, in the order in which it is to be mended; arguments as of `device`.

        Ends early where later checks make no sense.
        """
        del asked, emulated
        yield from ()

    def installation(self) -> Mapping[str, str]:
        """The distributions that it consists of here, with their versions; empty where it consists of none, or none is there."""
        return {}

    def serve_command(self, setting: Mapping[str, Any]) -> list[str]:
        """The command line that serves a setting (`config.identity.setting`) to users, outside of wattcount; empty: there is none."""
        del setting
        return []

    def identity_facts(self) -> Mapping[str, str]:
        """Fields of `EngineConfig` that only the installation knows, and that are part of a point: `version_minor`."""
        return {}

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        """What of a configuration this engine could do on no machine, a line each that begins with the key.

        Ranges of values have been looked at, and whatever follows from `capabilities`.
        """
        del cfg
        yield from ()

    def unsupported(self, cfg: RunConfig, compute_capability: str | None) -> Iterator[Unsupported]:
        """What it cannot compute on a GPU of this capability (`8.9`; None: not known), or lacks the weights for."""
        del cfg, compute_capability
        yield from ()

    def defaults(self, cfg: RunConfig, memory_bytes: int | None = None) -> Defaults:
        """What it works with: what `cfg` sets, and its own choice for everything that is null.

        memory_bytes  of one GPU, as NVML or CUDA tells; None: by the data sheet, and without one as of a small GPU
        """
        del memory_bytes
        return Defaults().under(cfg.engine)

    def filled(self, engine: EngineConfig, chosen: Defaults) -> EngineConfig:
        """`engine` with its null settings as `chosen`, so that they are part of the point (`defaults.filled`)."""
        return filled(engine, chosen)

    def resolved(self, cfg: RunConfig, memory_bytes: int | None = None) -> EngineConfig:
        """`cfg.engine` as a run on this machine has it, but for its device; arguments as of `defaults`."""
        return self.filled(cfg.engine, self.defaults(cfg, memory_bytes))

    def overhead_bytes(self, device: Device) -> int:
        """Memory that it takes besides weights, KV cache and activations: on each GPU, or on the host."""
        del device
        return 0

    def expected(self, cfg: RunConfig) -> Expected:
        """How long it takes."""
        del cfg
        return Expected()

    def upgraded(self, engine: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
        """The group `engine` of a record of an earlier version, with what was left unsaid then; `engine` stays as it is.

        details  what the engine of the record told of itself (`EngineInfo.details`)
        """
        del details
        return engine


def refuse(checks: Iterator[Check]) -> None:
    """Raises `NotStartedError` for the first check that a run fails."""
    for check in checks:
        if check.problem is not None and not check.remark:
            raise NotStartedError("; ".join(text for text in (check.problem, check.advice) if text))
