"""A tiny continuous-batching engine, in process and without a model.

It queues, schedules, batches, runs out of KV cache, preempts and streams as a real engine does; only the
arithmetic is replaced by the time it would take. Everything around an engine can be tested with it in
milliseconds, its failures included.

Scheduling follows vLLM's default: first every running request decodes one token, then waiting requests
are admitted in order of arrival and prefilled in chunks, within `max_num_batched_tokens` a step. A
request that cannot grow for want of KV cache preempts the latest admitted one, which starts over
(recomputation). One step takes

    step_base_ms + prefill_tokens / prefill_tokens_per_s + decode_tokens * decode_ms_per_seq

and `compile_ms` more for each of two kernels that no step before it had compiled: one for sizes that 16 divides, or 4, and
those that they do not, as Triton specialises integers; one for each number of blocks of 32 tokens, as gpt-oss's experts have.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields
from math import gcd, inf
from types import UnionType
from typing import Any, get_args, get_type_hints
from zlib import crc32

import numpy as np

from wattcount.clock import now_ns
from wattcount.config.fit import longest_request_tokens
from wattcount.config.schema import RunConfig
from wattcount.engines.base import Engine, EngineInfo, EngineStep
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.request import EngineStamps, GenerationRequest, TokenChunk

MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS = 256, 8192
"""Requests that run at once and tokens of a step, where the configuration leaves them to the engine."""
START_FAILURES = ("engine_start_failed", "out_of_memory", "unsupported_model")
"""Reasons that `engine.args.fail_at_start` may give."""
_AT_LEAST_ONE = {"vocab_size", "kv_cache_tokens", "natural_mean_tokens", "fail_request_every"}
"""Arguments that must not be 0."""
_NEVER_NS = 1 << 62
"""A moment that does not come, CLOCK_MONOTONIC [ns]."""


@dataclass(frozen=True)
class TinyArgs:
    """`engine.args` of the tiny engine: its cost model, its limits, and failures on order."""

    step_base_ms: float = 2.0
    prefill_tokens_per_s: float = 100_000.0
    decode_ms_per_seq: float = 0.05
    vocab_size: int = 32_000
    kv_cache_tokens: int = 1_000_000
    natural_mean_tokens: float = 64.0
    """Mean of the geometric length of a completion that is not forced."""
    seed: int = 0
    """Seed of the natural lengths."""
    compile_ms: float = 0.0
    """What the first step of each kind takes longer: by the power of two above its tokens and by which of 16, 8, 4 and 2
    divides them; and again by the number of blocks of 32 tokens."""

    prefix_caching: bool = False
    """Prompts that were computed before take no time again: their tokens are `cached_tokens`."""

    slow_start_s: float = 0.0
    """Start takes this long."""
    fail_at_start: str | None = None
    """Start raises `RunFailedError` with this reason."""
    hang_at_start: bool = False
    """Start never returns by itself; `engine.start_timeout_s` ends it."""
    die_after_s: float | None = None
    """Time after the start when everything in flight and to come fails with `engine_died` [s]."""
    exit_after_s: float | None = None
    """Time after the start when the whole process ends at once, as if killed [s]."""
    exit_code: int = 86
    fail_request_every: int | None = None
    """Every n-th request fails with `request_failed` after half of its tokens."""

    @classmethod
    def parse(cls, args: dict[str, Any]) -> TinyArgs:
        """Checked values. Raises `NotStartedError`."""
        hints = get_type_hints(cls)
        for name, value in args.items():
            if name not in hints:
                close = difflib.get_close_matches(name, hints, n=3)
                raise NotStartedError(
                    f"engine.args.{name}: the tiny engine has no such argument"
                    + (f"; did you mean {' or '.join(close)}?" if close else f"; it has {', '.join(hints)}")
                )
            allowed = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
            # bool is an int and an int is a good float; an int flag or a bool count is a mistake.
            fits = type(value) in allowed or (float in allowed and type(value) is int)
            if not fits:
                wanted = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
                raise NotStartedError(f"engine.args.{name} must be {wanted}, got {value!r}")
        parsed = cls(**args)
        for item in fields(cls):
            value = getattr(parsed, item.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                least = 1 if item.name in _AT_LEAST_ONE else 0
                if not least <= value < inf:
                    raise NotStartedError(f"engine.args.{item.name} must be at least {least}, got {value}")
        if parsed.prefill_tokens_per_s == 0:
            raise NotStartedError("engine.args.prefill_tokens_per_s must be above 0")
        if parsed.fail_at_start is not None and parsed.fail_at_start not in START_FAILURES:
            raise NotStartedError(
                f"engine.args.fail_at_start must be one of {', '.join(START_FAILURES)}, got {parsed.fail_at_start!r}"
            )
        return parsed


@dataclass(eq=False)
class _Sequence:
    """A request inside the engine."""

    request: GenerationRequest
    target_tokens: int
    fails_after: int | None
    chunks: asyncio.Queue[TokenChunk | RunFailedError] = field(default_factory=asyncio.Queue)
    computed_tokens: int = 0
    """Tokens in the KV cache."""
    emitted_tokens: int = 0
    queued_ns: int = 0
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    preemptions: int = 0
    cached_tokens: int = 0
    """Tokens of its prompt that were kept from an earlier one."""

    @property
    def known_tokens(self) -> int:
        """Prompt and completion so far: what has to be in the cache before the next token can come."""
        return len(self.request.prompt_token_ids) + self.emitted_tokens


class TinyEngine(Engine):
    """See the module. `engine.max_num_seqs` (256), `max_num_batched_tokens` (8192) and `max_model_len` apply."""

    compiles_on_first_use = False

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__()
        self.args = TinyArgs.parse(cfg.engine.args)
        self.max_num_seqs = _limit("max_num_seqs", cfg.engine.max_num_seqs, MAX_NUM_SEQS)
        self.max_num_batched_tokens = _limit(
            "max_num_batched_tokens", cfg.engine.max_num_batched_tokens, MAX_NUM_BATCHED_TOKENS
        )
        self.max_model_len = _limit(
            "max_model_len", cfg.engine.max_model_len, longest_request_tokens(cfg.scenario)
        )
        self._start_timeout_s = cfg.engine.start_timeout_s
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._work = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._exit_timer: asyncio.TimerHandle | None = None
        self._die_at_ns = _NEVER_NS
        self._dead: RunFailedError | None = None
        self._accepted = 0
        self._kept_prompts: set[tuple[int, ...]] = set()
        self._compiled: set[tuple[int, ...]] = set()
        self._kernels: list[str] = []

    async def start(self) -> EngineInfo:
        args = self.args
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await asyncio.sleep(inf if args.hang_at_start else args.slow_start_s)
        except TimeoutError:
            raise RunFailedError(
                "engine_start_failed",
                f"the engine was not up within engine.start_timeout_s={self._start_timeout_s:g} s",
            ) from None
        if args.fail_at_start is not None:
            raise RunFailedError(
                args.fail_at_start, "the tiny engine failed to start, as engine.args.fail_at_start says"
            )
        if args.die_after_s is not None:
            self._die_at_ns = now_ns() + round(args.die_after_s * 1e9)
        if args.exit_after_s is not None:
            self._exit_timer = asyncio.get_running_loop().call_later(
                args.exit_after_s, os._exit, args.exit_code
            )
        self._loop_task = asyncio.create_task(self._loop())
        return self._info()

    def _info(self) -> EngineInfo:
        args = self.args
        return EngineInfo(
            name="tiny",
            version="1",
            device="cpu",
            gpu_uuids=(),
            vocab_size=args.vocab_size,
            max_model_len=self.max_model_len,
            details={
                "max_num_seqs": self.max_num_seqs,
                "max_num_batched_tokens": self.max_num_batched_tokens,
                "args": {item.name: getattr(args, item.name) for item in fields(args)},
            },
        )

    def kernels_compiled(self) -> list[str] | None:
        return list(self._kernels)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        sequence = self._accept(request)
        finished = False
        try:
            while not finished:
                chunk = await sequence.chunks.get()
                if isinstance(chunk, RunFailedError):
                    raise chunk
                finished = chunk.finished
                yield chunk
        finally:
            if not finished:
                self._remove(sequence)

    async def clear(self) -> EngineInfo | None:
        self._kept_prompts.clear()
        well = self._dead is None and now_ns() < self._die_at_ns
        return self._info() if well and not self._running and not self._waiting else None

    async def stop(self) -> None:
        if self._exit_timer is not None:
            self._exit_timer.cancel()
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._kill("the engine was stopped")

    def _accept(self, request: GenerationRequest) -> _Sequence:
        if self._loop_task is None and self._dead is None:
            raise RunFailedError("request_failed", "the engine was not started")
        if now_ns() >= self._die_at_ns:
            self._kill("the tiny engine died, as engine.args.die_after_s says")
        if self._dead is not None:
            raise RunFailedError(self._dead.reason, str(self._dead))
        prompt, limit = len(request.prompt_token_ids), min(self.max_model_len, self.args.kv_cache_tokens)
        if prompt < 1 or request.max_output_tokens < 1:
            raise RunFailedError("request_failed", "a request needs at least one prompt and one output token")
        if prompt + request.max_output_tokens > limit:
            raise RunFailedError(
                "request_failed",
                f"{prompt} prompt and {request.max_output_tokens} output tokens do not fit into {limit} tokens",
            )
        self._accepted += 1
        every = self.args.fail_request_every
        sequence = _Sequence(
            request,
            target_tokens=request.max_output_tokens
            if request.force_output_length
            else self._natural_length(request),
            fails_after=request.max_output_tokens // 2 if every and self._accepted % every == 0 else None,
            queued_ns=now_ns(),
        )
        if tuple(request.prompt_token_ids) in self._kept_prompts:
            # The last token of a prompt is computed in any case: the first of the answer comes of it.
            sequence.cached_tokens = sequence.computed_tokens = prompt - 1
        self._waiting.append(sequence)
        self._work.set()
        return sequence

    def _natural_length(self, request: GenerationRequest) -> int:
        random = np.random.Generator(
            np.random.Philox(key=[self.args.seed, crc32(request.request_id.encode())])
        )
        return min(int(random.geometric(1.0 / self.args.natural_mean_tokens)), request.max_output_tokens)

    async def _loop(self) -> None:
        """Step after step on an absolute clock: a late wake-up delays what is seen, not the engine."""
        busy_until_ns = now_ns()
        while True:
            if now_ns() >= self._die_at_ns:
                self._kill("the tiny engine died, as engine.args.die_after_s says")
                return
            if not (self._waiting or self._running):
                self._work.clear()
                alive_s = (self._die_at_ns - now_ns()) / 1e9
                try:
                    async with asyncio.timeout(alive_s if self._die_at_ns < _NEVER_NS else None):
                        await self._work.wait()
                except TimeoutError:
                    continue
                continue
            if not self._running:
                busy_until_ns = max(busy_until_ns, self._waiting[0].queued_ns)
            scheduled = self._schedule(busy_until_ns)
            prefill = sum(
                tokens for sequence, tokens in scheduled if tokens > 1 or sequence.emitted_tokens == 0
            )
            decode = sum(tokens for _, tokens in scheduled) - prefill
            duration_ns = self._step_ns(prefill, decode)
            busy_until_ns += duration_ns
            remaining_s = (busy_until_ns - now_ns()) / 1e9
            await asyncio.sleep(max(remaining_s, 0.0))
            self._finish_step(scheduled, busy_until_ns)
            if self.on_step is not None:
                cached = sum(sequence.computed_tokens for sequence in self._running)
                self.on_step(
                    EngineStep(
                        logged_ns=now_ns(),
                        engine_ts_ns=busy_until_ns,
                        duration_ns=duration_ns,
                        prefill_tokens=prefill,
                        decode_tokens=decode,
                        running=len(self._running),
                        waiting=len(self._waiting),
                        kv_cache_usage=cached / self.args.kv_cache_tokens,
                    )
                )

    def _step_ns(self, prefill_tokens: int, decode_tokens: int) -> int:
        args = self.args
        seconds = (
            args.step_base_ms / 1e3
            + prefill_tokens / args.prefill_tokens_per_s
            + decode_tokens * args.decode_ms_per_seq / 1e3
        )
        tokens = prefill_tokens + decode_tokens
        kernels = {(tokens.bit_length(), gcd(tokens, 16)), (-(-tokens // 32),)} - self._compiled
        self._compiled |= kernels
        seconds += len(kernels) * args.compile_ms / 1e3
        if args.compile_ms:
            self._kernels += sorted("_".join(map(str, kernel)) for kernel in kernels)
        return round(seconds * 1e9)

    def _schedule(self, at_ns: int) -> list[tuple[_Sequence, int]]:
        """Which requests compute how many tokens in the next step; makes room in the KV cache for them."""
        budget = self.max_num_batched_tokens
        free = self.args.kv_cache_tokens - sum(sequence.computed_tokens for sequence in self._running)
        scheduled: dict[_Sequence, int] = {}
        for sequence in list(self._running):
            if sequence not in self._running:
                continue
            tokens = min(sequence.known_tokens - sequence.computed_tokens, budget)
            while tokens > free and self._running[-1] is not sequence:
                victim = self._running.pop()
                free += victim.computed_tokens + scheduled.get(victim, 0)
                budget += scheduled.pop(victim, 0)
                self._preempt(victim)
            tokens = min(tokens, free)
            if tokens > 0:
                scheduled[sequence] = tokens
                budget -= tokens
                free -= tokens
        while self._waiting and budget > 0 and len(self._running) < self.max_num_seqs:
            sequence = self._waiting[0]
            if sequence.known_tokens > free or sequence.queued_ns > at_ns:
                break
            self._waiting.popleft()
            self._running.append(sequence)
            sequence.scheduled_ns = sequence.scheduled_ns or at_ns
            scheduled[sequence] = min(sequence.known_tokens - sequence.computed_tokens, budget)
            budget -= scheduled[sequence]
            free -= scheduled[sequence] + sequence.computed_tokens
        return list(scheduled.items())

    def _preempt(self, sequence: _Sequence) -> None:
        sequence.computed_tokens = 0
        sequence.preemptions += 1
        self._waiting.appendleft(sequence)

    def _finish_step(self, scheduled: list[tuple[_Sequence, int]], end_ns: int) -> None:
        seen_ns = now_ns()
        for sequence, tokens in scheduled:
            if sequence not in self._running:
                continue  # aborted while the step ran
            sequence.computed_tokens += tokens
            if sequence.computed_tokens < sequence.known_tokens:
                continue  # a part of its prompt is still to come
            sequence.emitted_tokens += 1
            if sequence.first_token_ns is None:
                sequence.first_token_ns = end_ns
                if self.args.prefix_caching:
                    self._kept_prompts.add(tuple(sequence.request.prompt_token_ids))
            if sequence.fails_after is not None and sequence.emitted_tokens > sequence.fails_after:
                self._running.remove(sequence)
                sequence.chunks.put_nowait(
                    RunFailedError("request_failed", "request failed, as engine.args.fail_request_every says")
                )
                continue
            finished = sequence.emitted_tokens >= sequence.target_tokens
            if finished:
                self._running.remove(sequence)
            sequence.chunks.put_nowait(self._chunk(sequence, seen_ns, end_ns, finished))

    def _chunk(self, sequence: _Sequence, seen_ns: int, end_ns: int, finished: bool) -> TokenChunk:
        if not finished:
            return TokenChunk(seen_ns, 1)
        full = sequence.emitted_tokens == sequence.request.max_output_tokens
        stamps = EngineStamps(
            queued_ns=sequence.queued_ns,
            scheduled_ns=sequence.scheduled_ns,
            first_token_ns=sequence.first_token_ns,
            last_token_ns=end_ns,
            cached_tokens=sequence.cached_tokens,
            preemptions=sequence.preemptions,
        )
        return TokenChunk(seen_ns, 1, True, "length" if full else "stop", stamps)

    def _remove(self, sequence: _Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def _kill(self, why: str) -> None:
        if self._dead is None:
            self._dead = RunFailedError("engine_died", why)
        for sequence in [*self._running, *self._waiting]:
            sequence.chunks.put_nowait(RunFailedError(self._dead.reason, str(self._dead)))
        self._running.clear()
        self._waiting.clear()


def _limit(name: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise NotStartedError(f"engine.{name} must be at least 1, got {value}")
    return default if value is None else value
