"""Load generators. In an open loop they send each request of a plan at its time, whatever the engine does; in a closed loop each of a
number of users sends its next request when its last one has ended."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from wattcount.clock import now_ns
from wattcount.errors import ERROR_CHARACTERS, RunFailedError, one_line
from wattcount.load.plan import LoadPlan
from wattcount.load.request import EngineStamps, Generates, GenerationRequest, TokenChunk

ENGINE_DIED = "engine_died"
"""`reason` of the error after which nothing more is sent."""

FAILED_PAUSE_NS = 200_000_000
"""Time after which a user of a closed loop goes on whose request has failed [ns]: a server that refuses all must not be flooded."""
BURST = 16
"""Most sends in a row at a closed loop's begin [1]: then answers are read before the next ones."""
_COARSE_NS = 1_500_000
"""Last part of a wait, in which the loop only yields [ns]: its timers wake up to 1 ms late, as epoll counts milliseconds."""


@dataclass(slots=True)
class RequestRecord:
    """One request as it went; the columns of `requests.parquet`, times in CLOCK_MONOTONIC nanoseconds.

    `status` is the truth at any moment: a record that is copied out while the request runs says
    `cancelled`, which is what it will have been if the run breaks off there.
    """

    request_id: str
    index: int
    phase: str
    planned_send_ns: int | None = None
    actual_send_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    token_ts_ns: list[int] = field(default_factory=list)
    token_count: list[int] = field(default_factory=list)
    input_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0
    preemptions: int | None = None
    engine_queued_ns: int | None = None
    engine_scheduled_ns: int | None = None
    engine_first_token_ns: int | None = None
    engine_last_token_ns: int | None = None
    status: str = "not_sent"
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Column name to value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class GeneratorOptions(TypedDict, total=False):
    """What a generator is made with, besides its plan."""

    vocab_size: Required[int]
    """Size of the model's vocabulary: prompts are drawn from it."""
    window_start_offset_ns: Required[int | None]
    """Requests planned before it are of phase `before_window`, the others of `window`; None: all are of `before_window`."""
    max_in_flight: int | None
    """A request waits until fewer are in flight, and its send lag shows it; None: as many as come."""
    hold_window: bool
    """Requests of phase `window` wait for `release_window`, which says when the window begins."""
    share_slots: Generator | None
    """Another generator of the same engine, whose `max_in_flight` holds for both together."""
    id_prefix: str
    """Begins the request ids."""
    before_window: str
    """What requests that are not of the window are sent for; `warmup` where it is not given."""
    users: int | None
    """Closed loop: so many users take the requests in their order, whatever their offsets. No send is planned then, and what is sent
    from `begin_window` on is of phase `window`. None: open loop."""


class Generator(ABC):
    """Sends the requests of a plan to an engine and keeps what came back.

    ::

        construct --- run(start_ns) --- drain(limit_s)
        (prompts)     (all sent)        (all ended)

    Times are absolute: a late send does not push back the next ones. Options: see `GeneratorOptions`.
    """

    def __init__(self, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> None:
        max_in_flight, start = options.get("max_in_flight"), options["window_start_offset_ns"]
        id_prefix, before_window = options.get("id_prefix", ""), options.get("before_window", "warmup")
        self.users = options.get("users")
        """Number of users of a closed loop; None: the loop is open."""
        self._before_window = before_window
        self._window_ns: int | None = None
        """Begin of the window in a closed loop: later requests belong to it; None: not known yet."""
        if max_in_flight is not None and max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, got {max_in_flight}")
        if self.users is not None:
            start = None
        self._plan = plan
        self._failure: RunFailedError | None = None
        self.records: list[RequestRecord] = [
            RequestRecord(
                request_id=f"{id_prefix}{self._letter(start, offset)}{index}",
                index=index,
                phase=before_window if start is None or offset < start else "window",
                input_tokens=int(plan.input_tokens[index]),
            )
            for index, offset in enumerate(plan.send_offset_ns.tolist())
        ]
        self.sent = 0
        self.completed = 0
        self.failed = 0
        self.output_tokens = 0

    def _letter(self, start: int | None, offset: int) -> str:
        """`c` of a closed loop, else `w` for the window and `u` for what comes before it."""
        if self.users is not None:
            return "c"
        return "u" if start is None or offset < start else "w"

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""

    @property
    def failure(self) -> RunFailedError | None:
        """What the engine, or this generator, died of; None while both live."""
        return self._failure

    @abstractmethod
    async def run(self, start_ns: int) -> None:
        """Sends every request at `start_ns` plus its offset; returns when all are sent.

        Raises `RunFailedError` as soon as the engine is dead. If it is cancelled, requests in flight go
        on until `drain` or `cancel`.
        """

    @abstractmethod
    def release_window(self, later_ns: int = 0) -> None:
        """Lets the requests of phase `window` go, `later_ns` after what was planned for them."""

    def begin_window(self, at_ns: int) -> None:
        """In a closed loop: what is sent from `at_ns` on, which is not over, is of the window."""
        self._window_ns = at_ns

    def _phase_at(self, sent_ns: int) -> str:
        """The phase of a closed loop's request that was sent then."""
        in_window = self._window_ns is not None and sent_ns >= self._window_ns
        return "window" if in_window else self._before_window

    @abstractmethod
    def stop_at(self, t_ns: int, phase: str | None = None) -> None:
        """Sends nothing from `t_ns` on: neither what is planned for then or later, nor what waits for a slot then.

        phase  None: this holds for all requests, and those that are not sent were never planned.
               A phase: this holds for its requests only, and those that are not sent keep their planned send.
        """

    @abstractmethod
    async def drain(self, limit_s: float) -> int:
        """Waits until all requests in flight have ended, at most `limit_s`, then cancels the rest.

        Returns how many were cancelled. Raises `RunFailedError` if the engine died.
        """

    @abstractmethod
    async def cancel(self) -> None:
        """Cancels everything in flight and waits for it to end; what had arrived stays in the records."""

    def _plan_sends(self, start_ns: int) -> None:
        """Every request is planned for `start_ns` plus its offset."""
        for record, offset in zip(self.records, self._plan.send_offset_ns.tolist(), strict=True):
            record.planned_send_ns = start_ns + offset

    def _plan_window_later(self, later_ns: int) -> None:
        """Every request of the window is planned for `later_ns` later."""
        for record in self.records if later_ns else ():
            if record.phase == "window" and record.planned_send_ns is not None:
                record.planned_send_ns += later_ns

    def _plan_none_from(self, t_ns: int) -> None:
        """What is not sent yet and planned for `t_ns` or later was never planned."""
        for record in self.records:
            if record.status == "not_sent" and (record.planned_send_ns or 0) >= t_ns:
                record.planned_send_ns = None


class LoadGenerator(Generator):
    """Sends from this process, through the engine's `generate`."""

    def __init__(self, engine: Generates, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> None:
        super().__init__(plan, **options)
        self._engine = engine
        max_in_flight, share_slots = options.get("max_in_flight"), options.get("share_slots")
        self._slots = asyncio.Semaphore(max_in_flight) if max_in_flight is not None else None
        if share_slots is not None:
            assert isinstance(share_slots, LoadGenerator)
            self._slots = share_slots._slots
        self._released = asyncio.Event()
        if not options.get("hold_window"):
            self._released.set()
        self._stop_ns: int | None = None
        """When sending stops; None: it does not."""
        self._stops_ns: dict[str, int] = {}
        """When sending stops, by phase of the requests."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[Any] | None = None
        self._vocab_size = options["vocab_size"]
        # Made now: drawing a long prompt costs more than sending it. Of a closed loop, which has more than it sends, each while others run.
        ahead = len(plan) if self.users is None else min(len(plan), 2 * self.users)
        self._prompts = {index: prompt(plan, index, self._vocab_size) for index in range(ahead)}
        self._conversations = iter(plan.conversations()) if self.users is not None else iter(())
        self._turns: dict[asyncio.Task[None], tuple[RequestRecord, Iterator[int]]] = {}
        """Requests of a closed loop that are in flight, each with what is left of its conversation."""
        self._over = asyncio.Event()
        """Set when a closed loop has nothing more to send."""
        self._active = self.users or 0
        """Number of users of a closed loop who have something to send."""

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def run(self, start_ns: int) -> None:
        if self.users is not None:
            await self._run_closed(start_ns, self.users)
            return
        self._plan_sends(start_ns)
        with self._running():
            for record in self.records:
                if record.phase == "window" and not self._released.is_set():
                    await self._released.wait()
                request = self._request(record)
                if record.planned_send_ns is not None:
                    await _sleep_until(record.planned_send_ns)
                if record.planned_send_ns is None:
                    break  # `stop_at`, before or meanwhile
                if self._slots is not None:
                    await self._slots.acquire()
                if self._too_late(record):
                    if self._slots is not None:
                        self._slots.release()
                    continue
                self._send(record, request)
            # The last task has not run yet; when this returns, everything has been sent.
            await asyncio.sleep(0)

    async def _run_closed(self, start_ns: int, users: int) -> None:
        """Each user begins at `start_ns`, and goes on from `_ended`; returns when nothing is to be sent any more."""
        try:
            with self._running():
                await _sleep_until(start_ns)
                for number in range(users):
                    self._next_turn(iter(()))
                    if number % BURST == BURST - 1:
                        await asyncio.sleep(0)
                await self._over.wait()
        finally:
            self._over.set()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """While requests are sent: a failure of one of them cancels this task, and is raised in its place."""
        self._runner = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._failure is None or self._runner is None or self._runner.uncancel() > 0:
                raise
        finally:
            self._runner = None
        if self._failure is not None:
            raise self._failure

    def _next_turn(self, turns: Iterator[int]) -> None:
        """Sends the next request of a conversation or, at its end, the first of the next one."""
        if self._over.is_set():
            return
        index = next(turns, None)
        if index is None:
            turns = iter(next(self._conversations, ()))
            index = next(turns, None)
        if index is None:  # this user is done
            self._active -= 1
            if not self._active:
                self._over.set()
            return
        if self._too_late(self.records[index]):
            self._over.set()
            return
        record = self.records[index]
        task = self._send(record, self._request(record))
        self._turns[task] = record, turns
        if (later := index + 2 * (self.users or 0)) < len(self.records):
            asyncio.get_running_loop().call_soon(self._draw, later)

    def _draw(self, index: int) -> None:
        if index not in self._prompts and self.records[index].actual_send_ns is None:
            self._prompts[index] = prompt(self._plan, index, self._vocab_size)

    def release_window(self, later_ns: int = 0) -> None:
        self._plan_window_later(later_ns)
        self._released.set()

    def stop_at(self, t_ns: int, phase: str | None = None) -> None:
        if phase is not None:
            self._stops_ns[phase] = t_ns
            return
        self._stop_ns = t_ns
        self._plan_none_from(t_ns)

    async def drain(self, limit_s: float) -> int:
        pending = set(self._tasks)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=max(limit_s, 0.0))
        cancelled = len(pending)
        await self.cancel()
        if self._failure is not None:
            raise self._failure
        return cancelled

    async def cancel(self) -> None:
        self._over.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def _too_late(self, record: RequestRecord) -> bool:
        """Whether `stop_at` forbids to send this request now."""
        at_ns = now_ns()
        if self._stop_ns is not None and at_ns >= self._stop_ns:
            record.planned_send_ns = None
            return True
        stop_ns = self._stops_ns.get(record.phase)
        return stop_ns is not None and at_ns >= stop_ns

    def _request(self, record: RequestRecord) -> GenerationRequest:
        index = record.index
        self._draw(index)
        ids: list[int] = self._prompts[index].tolist()
        if self.users is not None:
            del self._prompts[index]
        return GenerationRequest(
            request_id=record.request_id,
            prompt_token_ids=ids,
            max_output_tokens=int(self._plan.output_tokens[index]),
            force_output_length=self._plan.force_output_length,
            sampling=self._plan.sampling,
        )

    def _send(self, record: RequestRecord, request: GenerationRequest) -> asyncio.Task[None]:
        task = asyncio.create_task(self._follow(record, request))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if (found := self._turns.pop(task, None)) is not None:
            record, turns = found
            if record.status == "failed":
                task.get_loop().call_later(FAILED_PAUSE_NS / 1e9, self._next_turn, turns)
            else:
                self._next_turn(turns)
        if self._slots is not None:
            self._slots.release()

    async def _follow(self, record: RequestRecord, request: GenerationRequest) -> None:
        """One request from its send to its last token."""
        record.status = "cancelled"
        record.actual_send_ns = now_ns()
        if self.users is not None:
            record.phase = self._phase_at(record.actual_send_ns)
        self.sent += 1
        try:
            finish_reason = None
            async for chunk in self._engine.generate(request):
                self._take(record, chunk)
                finish_reason = chunk.finish_reason or finish_reason
        except RunFailedError as error:
            self._fail(record, str(error))
            if error.reason == ENGINE_DIED:
                self._stop(error)
            return
        except Exception as error:
            self._fail(record, f"{type(error).__name__}: {error}")
            return
        expected = request.max_output_tokens
        if request.force_output_length and record.output_tokens != expected:
            ending = f", finish reason {finish_reason}" if finish_reason else ""
            self._fail(record, f"ended after {record.output_tokens} of {expected} output tokens{ending}")
        elif record.output_tokens == 0:
            self._fail(record, "ended without an output token")
        else:
            record.status = "completed"
            self.completed += 1

    def _take(self, record: RequestRecord, chunk: TokenChunk) -> None:
        if chunk.token_count:
            if record.first_token_ns is None:
                record.first_token_ns = chunk.t_ns
            record.last_token_ns = chunk.t_ns
            record.token_ts_ns.append(chunk.t_ns)
            record.token_count.append(chunk.token_count)
            record.output_tokens += chunk.token_count
            self.output_tokens += chunk.token_count
        if chunk.stamps is not None:
            _take_stamps(record, chunk.stamps)

    def _fail(self, record: RequestRecord, error: str) -> None:
        record.status = "failed"
        record.error = one_line(error, ERROR_CHARACTERS)
        self.failed += 1

    def _stop(self, error: RunFailedError) -> None:
        """The engine is dead: no further send can succeed."""
        if self._failure is None:
            self._failure = error
            if self._runner is not None:
                self._runner.cancel()


def _take_stamps(record: RequestRecord, stamps: EngineStamps) -> None:
    record.engine_queued_ns = stamps.queued_ns
    record.engine_scheduled_ns = stamps.scheduled_ns
    record.engine_first_token_ns = stamps.first_token_ns
    record.engine_last_token_ns = stamps.last_token_ns
    record.cached_tokens = stamps.cached_tokens
    record.preemptions = stamps.preemptions


def prompt(plan: LoadPlan, index: int, vocab_size: int) -> NDArray[np.int32]:
    """int32[tokens]: the token ids of prompt `index`. Raises `RunFailedError` where the vocabulary has them not."""
    ids = np.asarray(plan.token_ids(index, vocab_size), dtype=np.int32)
    if len(ids) and int(ids.max()) >= vocab_size:
        raise RunFailedError(
            "bad_prompt",
            f"prompt {index} holds token id {int(ids.max())}, the model's vocabulary ends at {vocab_size - 1}:"
            " the prompt file was tokenized for another model",
        )
    return ids


async def _sleep_until(t_ns: int) -> None:
    """Sleeps until a moment of CLOCK_MONOTONIC, to some 0.1 ms if the event loop is free.

    Yields at least once, so that a burst of sends does not keep answers from being read.
    """
    remaining = t_ns - now_ns()
    if remaining > _COARSE_NS:
        await asyncio.sleep((remaining - _COARSE_NS) / 1e9)
    await asyncio.sleep(0)
    while now_ns() < t_ns:
        await asyncio.sleep(0)
