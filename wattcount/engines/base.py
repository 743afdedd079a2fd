"""What the scenarios know of an engine.

An engine may live in this process (vLLM, the tiny one) or elsewhere (an OpenAI-compatible server):
nothing here assumes more than "send a prompt, get tokens with the time each batch of them arrived".
What only a local engine can tell (steps, its own stamps) is optional and `None` where unknown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from wattcount.load.generator import Generator, GeneratorOptions
    from wattcount.load.plan import LoadPlan
    from wattcount.load.request import GenerationRequest, TokenChunk


@dataclass(frozen=True, slots=True)
class EngineStep:
    """One scheduler step of the engine. `None` where the engine does not tell."""

    logged_ns: int
    """When the front end heard of the step."""
    engine_ts_ns: int | None
    duration_ns: int | None
    """Length of the step where `engine_ts_ns` is its end. Else what the engine waited for its result, once it was launched: the
    rest of the time between two steps is the host's (`metrics.host`)."""
    prefill_tokens: int | None
    """Prompt tokens computed (again after a preemption); the first output token of a request comes with the last."""
    decode_tokens: int | None
    """Tokens computed for requests past their prompt: output tokens emitted, less the first of each request; with
    speculative decoding the proposals that were checked, too."""
    running: int
    waiting: int
    kv_cache_usage: float | None
    """0..1."""
    draft_tokens: int | None = None
    """Proposals of speculative decoding that this step checked; None: none were made."""
    accepted_tokens: int | None = None
    """How many of the drafted tokens became output."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the started engine turned out to be. Goes into `run.json`."""

    name: str
    version: str | None
    """None: a server that does not tell."""
    device: str
    """`cuda`, `cpu` or `remote`."""
    gpu_uuids: tuple[str, ...]
    """NVML UUIDs (`GPU-...`) of the GPUs it computes on; empty on a CPU."""
    vocab_size: int
    max_model_len: int | None
    """None, as for the version."""
    details: dict[str, object]
    """Whatever else is worth keeping (torch and CUDA versions, KV-cache blocks, arguments as resolved)."""


class Engine(ABC):
    """An LLM inference engine under measurement.

    ::

        construct -- start() -- generate()* [-- clear() -- generate()*]* -- stop()
        (checks)     (slow)     (concurrent)   (between runs)               (idempotent)

    The constructor only checks its arguments and raises `NotStartedError`. `start` raises
    `RunFailedError` with reason `engine_start_failed`, `out_of_memory` or `unsupported_model`.
    """

    compiles_on_first_use: bool = True
    """Whether some kernels are compiled when a batch first needs them; such an engine is rehearsed with."""

    def __init__(self) -> None:
        self.on_step: Callable[[EngineStep], None] | None = None
        """Called for every engine step, on the event loop's thread; must be quick."""

    @property
    def client_pids(self) -> frozenset[int]:
        """Processes of the run that send requests to the engine, and compute nothing of it."""
        return frozenset()

    def kernels_compiled(self) -> list[str] | None:
        """Names of the kernels that were compiled since the engine was up, one each time, in order; None: it does not tell."""
        return None

    @abstractmethod
    async def start(self) -> EngineInfo: ...

    def generator(self, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> Generator:
        """What sends a plan to this engine. By default this process does, through `generate`.

        Called when the engine is up, and only between phases: it may draw the prompts, which takes long.
        """
        from wattcount.load.generator import LoadGenerator

        return LoadGenerator(self, plan, **options)

    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Tokens as they come. Raises `RunFailedError` (`engine_died`, `request_failed`).

        Not needed of an engine with a `generator` of its own.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has neither `generate` nor a `generator` of its own"
        )

    async def clear(self) -> EngineInfo | None:
        """Makes it ready for another run: no request is left in it, and nothing is kept of prompts.

        Returns it as the next run finds it; the `EngineInfo` of the run before is complete then. None: it cannot, or it is not
        well, and the next run has an engine of its own. Asked only of engines whose plug-in says `Capabilities.can_be_shared`.
        """
        return None

    @abstractmethod
    async def stop(self) -> None:
        """Free everything the engine holds. May be called at any time and more than once."""
