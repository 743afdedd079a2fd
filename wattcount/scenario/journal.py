"""The phases of a run, and what it observes: from sampler, engine and load generator to the spool, and to whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wattcount.clock import ClockPair, now_ns
from wattcount.energy.events import lost_line, says_lost
from wattcount.energy.rapl import RaplSampler
from wattcount.engines.base import EngineStep
from wattcount.errors import RunFailedError
from wattcount.load.generator import Generator, RequestRecord
from wattcount.records.schema import Phase, PhaseSpan, RequestStatus
from wattcount.records.spool import HostRow
from wattcount.records.writer import RecordWriter

TICK_S = 1.0
"""Time between two rounds of the journal [s]: readings to the spool, a report to whoever watches."""
CLOCK_PAIR_S = 120.0
"""Time between two readings of both clocks [s]: the wall clock is slewed and set meanwhile."""
_ENDED = (RequestStatus.COMPLETED, RequestStatus.FAILED)
"""States in which a request changes no more."""


class PhaseRunner:
    """Keeps the spans of the phases; only here a `PhaseSpan` is made.

    ::

        bare_idle | engine_start |   | loaded_idle | warmup |   window   | drain | loaded_idle_after |   | bare_idle_after
        ----------+--------------+---+-------------+--------+------------+-------+-------------------+---+----------------> t
        no engine   loading        ^   up, no load   load     what counts  no new   up, no load        ^   no engine
                                   |                                       sends                       |
                          prompts are made                                                     the engine ends

        server   warmup and window begin and end at *planned* times: load start + scenario.warmup_s, + window_s
        batch    the window is from the first actual send to the last token; the drain is empty

    At each bound `mark` is called, then `on_bound`. With `mark` the sampler reads every source at once, so that interpolation
    has a point there. A phase that had not ended when the run broke off has `end_ns` None.
    """

    def __init__(self, mark: Callable[[], None], on_bound: Callable[[], None]) -> None:
        self._mark = mark
        self._on_bound = on_bound
        self.spans: list[PhaseSpan] = []
        self.planned_s: float | None = None
        """How long the current phase is going to be, where that is known."""
        self.limit_s: float | None = None
        """How long it may be at most, where that is known."""

    @property
    def current(self) -> PhaseSpan | None:
        """The phase that goes on; None between phases."""
        return self.spans[-1] if self.spans and self.spans[-1].end_ns is None else None

    def begin(
        self,
        phase: Phase,
        planned_s: float | None = None,
        *,
        limit_s: float | None = None,
        at_ns: int | None = None,
    ) -> None:
        """Begins a phase, by default now. A phase that goes on ends at the same moment."""
        at_ns = now_ns() if at_ns is None else at_ns
        self._close(at_ns)
        self.spans.append(PhaseSpan(phase, at_ns, None))
        self.planned_s = planned_s
        self.limit_s = limit_s
        self._bound()

    def end(self, at_ns: int | None = None, *, start_ns: int | None = None) -> None:
        """Ends the current phase, by default now. `start_ns`: its begin, where that is known only afterwards."""
        current = self.current
        assert current is not None, "no phase goes on"
        if start_ns is not None:
            current.start_ns = start_ns
        self._close(now_ns() if at_ns is None else at_ns)
        self.planned_s = self.limit_s = None
        self._bound()

    def _close(self, at_ns: int) -> None:
        current = self.current
        if current is not None:
            if at_ns < current.start_ns:
                raise ValueError(f"{current.phase} cannot end before it began")
            current.end_ns = at_ns

    def _bound(self) -> None:
        self._mark()
        self._on_bound()


class Sampler(Protocol):
    """What a run needs of `power.PowerSampler`."""

    @property
    def gpu_uuids(self) -> tuple[str, ...]: ...
    def mark(self) -> None: ...
    def drain(self) -> NDArray[np.void]: ...
    def latest_power_w(self) -> float | None: ...
    def average_power_w(self) -> float | None: ...
    @property
    def failure(self) -> RunFailedError | None: ...


class HostRecorder(Protocol):
    """What a run needs of `run.host_recorder.HostRecorder`."""

    def drain(self) -> Sequence[HostRow]: ...


@dataclass(frozen=True)
class Progress:
    """How far a run is. Rates are means since the report before. None: not known, or there is no such thing."""

    phase: Phase | None
    elapsed_s: float
    """Time since the phase began."""
    planned_s: float | None
    """Planned length of the phase."""
    limit_s: float | None
    """The longest the phase may be."""
    requests_done: int
    requests_failed: int
    requests_in_flight: int
    requests_total: int | None
    output_tokens_per_s: float | None
    power_w: float | None


class _Followed:
    """The requests of one generator: which were spooled, and how far."""

    def __init__(self, generator: Generator, counted: bool) -> None:
        self.generator = generator
        self.counted = counted
        self._next = 0
        """Index of the first request that was not looked at yet."""
        self._sent = 0
        """Number of requests that were found sent."""
        self._skipped: list[RequestRecord] = []
        """Requests that were looked at and not sent yet, or never: `stop_at` passes some over, and client processes report late."""
        self._open: list[tuple[RequestRecord, int]] = []
        """Requests that were sent and have not ended, with the number of their chunks that were spooled."""

    def planned(self) -> tuple[list[RequestRecord], list[int]]:
        """Rows of the requests that were not sent yet, so that a killed run still knows what it was to send."""
        rows = [*self._skipped, *self.generator.records[self._next :]]
        return rows, [0] * len(rows)

    def changed(self, final: bool) -> tuple[list[RequestRecord], list[int]]:
        """Requests that have changed, and the first new chunk of each. `final`: all that have not ended."""
        self._open += [(record, 0) for record in self._newly_sent()]
        rows: list[RequestRecord] = []
        firsts: list[int] = []
        still: list[tuple[RequestRecord, int]] = []
        for record, spooled in self._open:
            chunks = len(record.token_ts_ns)
            ended = record.status in _ENDED
            if ended or final or chunks > spooled or spooled == 0:
                rows.append(record)
                firsts.append(spooled)
            if not ended:
                still.append((record, chunks))
        self._open = still
        return rows, firsts

    def _newly_sent(self) -> list[RequestRecord]:
        records, wanted = self.generator.records, self.generator.sent - self._sent
        found = [record for record in self._skipped if record.actual_send_ns is not None]
        if found:
            self._skipped = [record for record in self._skipped if record.actual_send_ns is None]
        while len(found) < wanted and self._next < len(records):
            record = records[self._next]
            (self._skipped if record.actual_send_ns is None else found).append(record)
            self._next += 1
        self._sent += len(found)
        return found


class Journal:
    """Collects, spools and reports about once a second.

    ::

        samplers --- drain() --.
        engine ----- on_step() -+--> tick() --> RecordWriter (spool), progress(Progress)
        generators - records ---'

    A tick costs some milliseconds of the event loop. At each bound of a phase there is one at once, and
    then `at_bound` is called; what it returns is done in a thread, so that the disk may take its time.
    """

    def __init__(
        self,
        writer: RecordWriter,
        sampler: Sampler,
        progress: Callable[[Progress], None],
        at_bound: Callable[[], Callable[[], None]],
        *,
        host_power: RaplSampler | None = None,
        host: HostRecorder | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self._writer = writer
        self._sampler = sampler
        self._host_power = host_power
        self._host = host
        self._report = progress
        self._at_bound = at_bound
        self._tick_s = tick_s
        self._steps: list[EngineStep] = []
        self._followed: list[_Followed] = []
        self._tokens_before = 0
        self._reported_ns = now_ns()
        self._wake = asyncio.Event()
        self._sync: asyncio.Future[None] | None = None
        self._total: int | None = None
        self.phases = PhaseRunner(self._mark, self.bound)
        self.clock_pairs: list[ClockPair] = [ClockPair.read()]

    def on_step(self, step: EngineStep) -> None:
        """Keeps a step; `Engine.on_step` calls it."""
        self._steps.append(step)

    def follow(self, generator: Generator, *, planned: bool = True, counted: bool = True) -> None:
        """Spools the generator's requests from now on. Call it when their planned sends are known.

        planned  False: those that will not be sent leave no row
        counted  False: they are no progress of the run, and nothing is missed if they do not end
        """
        followed = _Followed(generator, counted)
        self._followed.append(followed)
        if planned:
            self._writer.append_requests(*followed.planned())

    def planned_anew(self, generator: Generator) -> None:
        """Spools requests again that were not sent yet, because their planned sends have changed."""
        for followed in self._followed:
            if followed.generator is generator:
                self._writer.append_requests(*followed.planned())

    def average_power_w(self) -> float | None:
        """Mean power of all GPUs over about the last second [W]. None: no GPU tells."""
        return self._sampler.average_power_w()

    def expect(self, requests: int) -> None:
        """How many requests the run is going to send, for the display."""
        self._total = requests

    def _mark(self) -> None:
        self._sampler.mark()
        if self._host_power is not None:
            self._host_power.mark()

    def bound(self) -> None:
        """Ticks at once: a phase begins or ends."""
        self._wake.set()

    async def run(self) -> None:
        """Ticks until it is cancelled. Raises `RunFailedError` (`gpu_lost`, `sampler_lost`, `record_unwritable`, `engine_died`)."""
        try:
            while True:
                at_bound = await self._next_tick()
                self.tick()
                if at_bound:
                    await self._finish_sync()
                    self._sync = asyncio.get_running_loop().run_in_executor(None, self._at_bound())
        finally:
            await self._finish_sync()

    def tick(self, *, final: bool = False) -> None:
        """Spools what is new, and reports. `final`: requests that have not ended are spooled as they are."""
        events = self._sampler.drain()
        self._writer.append_power(events)
        if self._host_power is not None:
            self._writer.append_host_power(self._host_power.drain())
        if self._host is not None:
            self._writer.append_host(self._host.drain())
        steps, self._steps = self._steps, []
        self._writer.append_steps(steps)
        for followed in self._followed:
            self._writer.append_requests(*followed.changed(final))
        if final or now_ns() - self.clock_pairs[-1].monotonic_ns > CLOCK_PAIR_S * 1e9:
            self.clock_pairs.append(ClockPair.read())
        self._report(self._progress())
        lost = says_lost(events)
        if lost.any() and not final:
            uuid = self._sampler.gpu_uuids[int(events["gpu"][lost][0])]
            raise RunFailedError(
                "gpu_lost",
                f"{lost_line(uuid)}: see dmesg; the machine may need a reboot",
            )
        if not final and (failure := self._sampler.failure) is not None:
            raise failure
        for followed in self._followed:
            if followed.generator.failure is not None and not final:
                raise followed.generator.failure

    def unfinished(self) -> int:
        """Requests that were sent and neither completed nor failed."""
        return sum(
            record.status == RequestStatus.CANCELLED
            for followed in self._followed
            if followed.counted
            for record in followed.generator.records
        )

    async def _next_tick(self) -> bool:
        """Waits for the next tick. True: a bound asked for it."""
        try:
            async with asyncio.timeout(self._tick_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _finish_sync(self) -> None:
        if self._sync is not None:
            # Cancelled meanwhile, this must end; the disk is then waited for once more by whoever tidies up.
            await asyncio.wait({self._sync})
            sync, self._sync = self._sync, None
            sync.result()

    def _progress(self) -> Progress:
        at_ns = now_ns()
        generators: Sequence[Generator] = [
            followed.generator for followed in self._followed if followed.counted
        ]
        tokens = sum(generator.output_tokens for generator in generators)
        seconds = (at_ns - self._reported_ns) / 1e9
        rate = (tokens - self._tokens_before) / seconds if generators and seconds > 0 else None
        self._tokens_before, self._reported_ns = tokens, at_ns
        span = self.phases.current
        return Progress(
            phase=span.phase if span is not None else None,
            elapsed_s=max(0.0, (at_ns - span.start_ns) / 1e9) if span is not None else 0.0,
            planned_s=self.phases.planned_s,
            limit_s=self.phases.limit_s,
            requests_done=sum(generator.completed for generator in generators),
            requests_failed=sum(generator.failed for generator in generators),
            requests_in_flight=sum(generator.in_flight for generator in generators),
            requests_total=self._total,
            output_tokens_per_s=rate,
            power_w=self._sampler.latest_power_w(),
        )
