"""One request: what is asked of an engine, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wattcount.config.schema import SamplingConfig


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to complete."""

    request_id: str
    prompt_token_ids: Sequence[int]
    max_output_tokens: int
    force_output_length: bool
    """True: exactly `max_output_tokens` tokens (end-of-sequence is ignored)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How each token is drawn."""


@dataclass(frozen=True, slots=True)
class EngineStamps:
    """The engine's own account of a finished request; CLOCK_MONOTONIC nanoseconds."""

    queued_ns: int | None = None
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    cached_tokens: int | None = None
    preemptions: int | None = None


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens that arrived together; `t_ns` is when the client saw them (CLOCK_MONOTONIC)."""

    t_ns: int
    token_count: int
    finished: bool = False
    finish_reason: str | None = None
    stamps: EngineStamps | None = None
    """Given with the last chunk only, by engines that keep such stamps."""


class Generates(Protocol):
    """What completes prompts: an engine."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Tokens as they come. Raises `RunFailedError` (`engine_died`, `request_failed`)."""
