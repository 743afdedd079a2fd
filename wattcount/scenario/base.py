"""What every scenario does around its load."""

from __future__ import annotations

import asyncio
import gc
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig, ScenarioConfig
from wattcount.engines import registry
from wattcount.engines.base import Engine, EngineInfo, EngineStep
from wattcount.engines.plugin import EnginePlugin
from wattcount.errors import ERROR_CHARACTERS, RunFailedError, one_line
from wattcount.load.build import BuiltLoad, beginning
from wattcount.load.generator import Generator
from wattcount.load.stalls import Stalls, Steps, stalls
from wattcount.records.schema import Phase
from wattcount.scenario.journal import Journal, PhaseRunner

START_GRACE_S = 60.0
"""An engine ends its own start after `engine.start_timeout_s`; this long after that it is not waited for."""
REHEARSAL_ROUNDS = 8
"""Most rounds of a rehearsal [1]."""
REHEARSAL_LIMIT_S = 180.0
"""A rehearsal takes as long as the load that it plays, and a minute or two where many kernels have to be compiled."""
PLAYED_S = 20.0
"""Length of a server's window that is played [s]."""
ROUND_LIMIT_S = 30.0
"""A round of a longer load is cut off then [s]: the steps of a long batch are alike."""


@dataclass
class RunContext:
    """What a scenario runs with."""

    cfg: RunConfig
    load: BuiltLoad
    engine: Engine
    journal: Journal
    stop_engine: Callable[[], Awaitable[bool]]
    """Ends the engine; whether it ended cleanly."""
    engine_up: Callable[[EngineInfo], None] = lambda _: None
    """Called when the engine is up, before its start ends."""
    engine_info: EngineInfo | None = None
    """Set once the engine is up; from the beginning where it is up already, for another run."""
    last: bool = True
    """No other run follows on this start of the engine."""
    rehearsed: bool = False
    """A run before it, whole and with a rehearsal, was on this start of the engine."""
    warmup: dict[str, Any] = field(default_factory=dict)
    """How an adaptive warm-up ended, for `run.json`."""
    rehearsal: dict[str, Any] = field(default_factory=dict)
    """How the rehearsal ended, for `run.json`."""

    @property
    def phases(self) -> PhaseRunner:
        return self.journal.phases

    @property
    def plugin(self) -> EnginePlugin:
        return registry.plugin(self.cfg.engine.name)


class Scenario(ABC):
    """All phases of a run.

    ::

        bare idle --> engine start --> loaded idle --> rehearsal --> [ warm-up --> window --> drain ]
                                                                       drive(), the scenario's own
                                       --> loaded idle --> bare idle

    Of several runs on one start of the engine, the first begins with bare idle and that start, each later one with loaded idle;
    the last ends with bare idle.

    The rehearsal plays the beginning of the load (`load.build.beginning`) until that shows nothing new, so that what the engine compiles
    on first use is compiled before the window. A later run has none where the engine has compiled nothing in all loads before.
    """

    def __init__(self, config: ScenarioConfig) -> None:
        self._config = config

    async def run(self, ctx: RunContext) -> None:
        """Runs all phases. Raises `RunFailedError`; then the phase in which it failed has no end."""
        phases, idle_s = ctx.phases, self._config.loaded_idle_s
        # Somebody else's server is there before and after the run.
        bare = ctx.plugin.capabilities.owns_process
        if ctx.engine_info is None:
            if bare:
                await self._idle(ctx, Phase.BARE_IDLE, self._config.bare_idle_s)
            await self._start_engine(ctx)
        self.prepare(ctx)
        rehearsing = self._rehearsal(ctx)
        with _collected_garbage():
            await self._idle(ctx, Phase.LOADED_IDLE, idle_s)
            if rehearsing is not None:
                await rehearsing.run()
            rehearsed = len(ctx.engine.kernels_compiled() or ())
            await self.drive(ctx)
            if (compiled := ctx.engine.kernels_compiled()) is not None and ctx.rehearsal:
                ctx.rehearsal["compiled_later"] = compiled[rehearsed:]
            await self._idle(ctx, Phase.IDLE_AFTER, idle_s)
        if phases.current is not None:
            phases.end()
        # What is left of an engine that did not end cleanly would pass for the bare GPU.
        if bare and ctx.last and self._config.bare_idle_after_s > 0 and await ctx.stop_engine():
            await self._idle(ctx, Phase.BARE_IDLE_AFTER, self._config.bare_idle_after_s)
            phases.end()

    @abstractmethod
    def prepare(self, ctx: RunContext) -> None:
        """Makes the requests. The engine is up, and nothing is measured meanwhile."""

    @abstractmethod
    async def drive(self, ctx: RunContext) -> None:
        """Warm-up, window and drain."""

    @property
    def max_in_flight(self) -> int | None:
        """Requests that the load may have in flight at once; None: as many as come."""
        return None

    def _rehearsal(self, ctx: RunContext) -> _Rehearsing | None:
        """What is rehearsed with; None: there is no rehearsal."""
        info, requests = ctx.engine_info, self._config.rehearsal_requests
        assert info is not None
        if requests == 0 or (requests is None and not ctx.engine.compiles_on_first_use):
            return None
        if requests is None and ctx.rehearsed and ctx.engine.kernels_compiled() == []:
            # An engine that compiles what a step needs has compiled something in a whole load.
            ctx.rehearsal |= {"rounds": [], "settled": True, "seconds": 0.0, "limit_s": 0.0}
            return None
        if requests is None:
            # They fill the engine, and run out as the whole load does.
            at_once = info.details.get("max_num_seqs") or ctx.plugin.defaults(ctx.cfg).max_num_seqs
            replicas = ctx.cfg.engine.data_parallel_size
            requests = int(at_once) * replicas if isinstance(at_once, int) else len(ctx.load.main)
        return _Rehearsing(ctx, requests, self.max_in_flight, info)

    async def _idle(self, ctx: RunContext, phase: Phase, seconds: float) -> None:
        if seconds > 0:
            ctx.phases.begin(phase, seconds)
            assert ctx.phases.current is not None
            await sleep_until(ctx.phases.current.start_ns + round(seconds * 1e9))

    async def _start_engine(self, ctx: RunContext) -> None:
        limit_s = ctx.cfg.engine.start_timeout_s
        ctx.phases.begin(Phase.ENGINE_START, limit_s=limit_s)
        limit = asyncio.timeout(limit_s + START_GRACE_S)
        try:
            async with limit:
                ctx.engine_info = await ctx.engine.start()
                ctx.engine_up(ctx.engine_info)
        except TimeoutError as error:
            if not limit.expired():  # the engine's own
                what = f": {one_line(error, ERROR_CHARACTERS)}" if str(error).strip() else ""
                raise RunFailedError(
                    "engine_start_failed", f"the engine ended its start with a TimeoutError{what}"
                ) from error
            raise RunFailedError(
                "engine_start_failed",
                f"the engine was not up {START_GRACE_S:g} s after engine.start_timeout_s={limit_s:g}",
            ) from None
        ctx.phases.end()


class _Rehearsing:
    """The rehearsal of one run: the beginning of its own load, again and again until a round shows nothing new.

    requests       of a round, at most
    max_in_flight  of these at once; None: as many as come

    A round shows nothing new when the engine tells of no kernel that was compiled in it, and no step of it stood still
    (`load.stalls`). An engine that tells neither is played to once.
    """

    def __init__(self, ctx: RunContext, requests: int, max_in_flight: int | None, info: EngineInfo) -> None:
        self._ctx = ctx
        self._requests = requests
        self._max_in_flight = max_in_flight
        self._info = info
        self._next = self._generator(0)
        self._steps: list[EngineStep] = []

    async def run(self) -> None:
        """Plays rounds until one shows nothing new. What has not ended at the limit is cancelled, which is no failure."""
        engine, found = self._ctx.engine, self._ctx.rehearsal
        self._ctx.phases.begin(Phase.REHEARSAL, limit_s=REHEARSAL_LIMIT_S)
        begun_ns = now_ns()
        end_ns = begun_ns + round(REHEARSAL_LIMIT_S * 1e9)
        rounds: list[dict[str, Any]] = []
        found |= {
            "rounds": rounds,
            "settled": False,
            "limit_s": REHEARSAL_LIMIT_S,
        }
        on_step = engine.on_step
        engine.on_step = self._heard(on_step)
        try:
            for number in range(REHEARSAL_ROUNDS):
                whole, told = await self._round(end_ns)
                rounds.append(told)
                if not whole:
                    break
                if not told["compiled"] and not told["stalls"]:
                    found["settled"] = True
                    break
                self._next = self._generator(number + 1)
        finally:
            engine.on_step = on_step
            found["seconds"] = (now_ns() - begun_ns) / 1e9
        self._ctx.phases.end()

    def _heard(self, on_step: Callable[[EngineStep], None] | None) -> Callable[[EngineStep], None]:
        def both(step: EngineStep) -> None:
            self._steps.append(step)
            if on_step is not None:
                on_step(step)

        return both

    async def _round(self, end_ns: int) -> tuple[bool, dict[str, Any]]:
        """Whether it was played, none of it failed and it did not last until `end_ns`; and what it showed."""
        generator = self._next
        known = len(self._ctx.engine.kernels_compiled() or ())
        self._steps = []
        start_ns = now_ns()
        until_ns = min(end_ns, start_ns + round(ROUND_LIMIT_S * 1e9))
        async with Sending(self._ctx, generator, counted=False) as sending:
            await sending.all_sent((until_ns - now_ns()) / 1e9)
            await generator.drain(max(0.0, (until_ns - now_ns()) / 1e9))
        ended_ns = now_ns()
        compiled = self._ctx.engine.kernels_compiled()
        found = _stalls_of(generator, self._steps, start_ns, ended_ns)
        completed = generator.completed == len(generator.records)
        return completed or (not generator.failed and ended_ns < end_ns), {
            "requests": len(generator.records),
            "completed": generator.completed,
            "seconds": (ended_ns - start_ns) / 1e9,
            "compiled": None if compiled is None else compiled[known:],
            "stalls": None if found is None else found.count,
            "stall_s": None if found is None else found.seconds,
        }

    def _generator(self, number: int) -> Generator:
        load = self._ctx.load
        begin_ns = load.window_start_offset_ns
        return self._ctx.engine.generator(
            beginning(
                load.main,
                number,
                self._requests,
                begin_ns=begin_ns,
                end_ns=begin_ns + round(PLAYED_S * 1e9),
            ),
            vocab_size=self._info.vocab_size,
            window_start_offset_ns=None,
            id_prefix=f"rehearsal-{number}-",
            before_window="rehearsal",
            max_in_flight=self._max_in_flight,
        )


def _stalls_of(
    generator: Generator, steps: Sequence[EngineStep], start_ns: int, end_ns: int
) -> Stalls | None:
    """The stalls of the engine while it served `generator`. None: its steps do not tell."""
    if any(step.prefill_tokens is None or step.decode_tokens is None for step in steps):
        return None
    sent = [record for record in generator.records if record.actual_send_ns is not None]
    return stalls(
        Steps(
            *np.array([(s.logged_ns, s.prefill_tokens, s.decode_tokens) for s in steps], np.int64)
            .reshape(-1, 3)
            .T
        ),
        np.array([record.actual_send_ns for record in sent], np.int64),
        np.array([record.last_token_ns or end_ns for record in sent], np.int64),
        start_ns,
        end_ns,
    )


class Sending:
    """A generator at work: sends in the background, and tells at once when the engine dies.

    start_ns   None: as soon as everything is ready
    planned    whether requests that will not be sent are to leave a row
    counted    whether they are progress of the run
    """

    def __init__(
        self,
        ctx: RunContext,
        generator: Generator,
        *,
        start_ns: int | None = None,
        planned: bool = True,
        counted: bool = True,
    ) -> None:
        self._journal = ctx.journal
        self.generator = generator
        self._task: asyncio.Task[None] | None = None
        self._planned = planned
        self._counted = counted
        self.start_ns = start_ns or 0

    async def __aenter__(self) -> Sending:
        if not self.start_ns:
            self.start_ns = now_ns() + time_to_plan_ns(self.generator)
        self._task = asyncio.create_task(self.generator.run(self.start_ns))
        await asyncio.sleep(0)
        self._journal.follow(self.generator, planned=self._planned, counted=self._counted)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.generator.cancel()

    async def until(self, t_ns: int) -> None:
        """Waits until `t_ns`. Raises `RunFailedError` if the engine dies meanwhile."""
        assert self._task is not None
        if (remaining_s := (t_ns - now_ns()) / 1e9) > 0:
            await asyncio.wait({self._task}, timeout=remaining_s)
        if self._task.done():
            self._task.result()
        await sleep_until(t_ns)

    async def all_sent(self, limit_s: float) -> None:
        """Waits until everything is sent, at most `limit_s`. What is not sent by then is never sent."""
        assert self._task is not None
        await asyncio.wait({self._task}, timeout=max(0.0, limit_s))
        if self._task.done():
            self._task.result()
        else:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def time_to_plan_ns(generator: Generator) -> int:
    """Time in which every planned send gets to the spool before the first one is due [ns]. A closed loop plans none."""
    return 100_000_000 + 30_000 * (len(generator.records) if generator.users is None else 0)


def check_some_completed(generator: Generator, limit: str) -> None:
    """Raises `RunFailedError` where no request of a load was completed."""
    if generator.completed or not generator.records:
        return
    if generator.failed:
        first = next(record for record in generator.records if record.status == "failed")
        raise RunFailedError(
            "requests_failed",
            f"none of the {len(generator.records)} requests completed; {generator.failed} failed, the first: {first.error}",
        )
    raise RunFailedError("timeout", f"no request completed within {limit}")


async def sleep_until(t_ns: int) -> None:
    while (remaining_ns := t_ns - now_ns()) > 0:
        await asyncio.sleep(remaining_ns / 1e9)


@contextmanager
def _collected_garbage() -> Iterator[None]:
    """Takes what is there out of the collector's sight: with an engine loaded (700,000 objects), one full
    collection stopped the load generator for 440 ms on a 2.5 GHz core."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
