"""Open-loop arrivals: a warm-up until power and throughput have settled, the window, the drain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import numpy as np

from wattcount.clock import now_ns
from wattcount.config.schema import ServerConfig
from wattcount.load.generator import Generator, RequestRecord
from wattcount.records.schema import Phase
from wattcount.scenario.base import RunContext, Scenario, Sending, check_some_completed, time_to_plan_ns
from wattcount.statistics import MIN_VALUES, preload, residual, theil_sen

SAMPLE_S = 1.0
"""Time between two looks at whether the warm-up has settled [s]: sensors give the mean power of a second."""
SAMPLES = 10
"""Fewest looks in a warm-up, however short it is."""
DECIDE_BEFORE_NS = 50_000_000
"""Time before the planned end of the warm-up at which its end is decided [ns]: asking takes some milliseconds."""
TOLERANCE_PERCENT = 5.0
"""Trend over the samples that is let pass, however certain it is [%]."""
LIVES = 2.0
"""Least length of a warm-up [median life of a request]: before the first requests end, more and more are in flight."""


class Settling:
    """Samples of a load that warms up, and whether power and throughput have settled.

    Samples are taken at even intervals from the load's begin on. The later half of them is looked at, so that this half
    grows with the warm-up and the begin is forgotten. It must have

    - as many samples as a trend can be told from;
    - no trend of the tokens/s beyond chance: then the server has filled up;
    - no trend of the power beyond chance that the tokens/s do not explain (clocks, temperature);
    - a load before it that has lasted LIVES times as long as a request.
    """

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._tokens: list[int] = [0]
        self._power_w: list[float | None] = []

    def add(self, t_ns: int, output_tokens: int, power_w: float | None) -> None:
        """A sample: output tokens in all, and mean power since the one before; at even intervals."""
        self._now_ns = t_ns
        self._tokens.append(output_tokens)
        self._power_w.append(power_w)

    def unsettled(self) -> dict[str, float]:
        """Drift of `power` and `throughput` over the samples looked at, where it is too large [%]."""
        count = max(MIN_VALUES, (len(self._power_w) + 1) // 2)
        if len(self._power_w) < count:
            return {}
        tokens = np.diff(np.array(self._tokens, dtype=np.float64))[-count:]
        drifts = {"throughput": theil_sen(tokens)}
        known = [value for value in self._power_w[-count:] if value is not None]
        if len(known) == count:
            watts = np.array(known)
            drifts["power"] = theil_sen(residual(watts, tokens), float(watts.mean()))
        return {
            name: drift.percent
            for name, drift in drifts.items()
            if drift is not None and drift.certain and abs(drift.percent) > TOLERANCE_PERCENT
        }

    def needed_s(self, requests: Iterable[RequestRecord]) -> float | None:
        """Time that the load has to go on until it has filled up [s]. None: no request has ended yet."""
        lives, sent = [], False
        for record in requests:
            sent = sent or record.actual_send_ns is not None
            if record.status == "completed":
                assert record.actual_send_ns is not None
                assert record.last_token_ns is not None
                lives.append(record.last_token_ns - record.actual_send_ns)
        if not lives:
            return None if sent else 0.0
        return LIVES * median(lives) / 1e9

    def settled(self, requests: Iterable[RequestRecord]) -> bool:
        """Whether the warm-up may end; `requests`: what was sent or is to be sent in it."""
        needed_s = self.needed_s(requests)
        if len(self._power_w) < MIN_VALUES or needed_s is None:
            return False
        return (self._now_ns - self._start_ns) / 1e9 >= needed_s and not self.unsettled()

    def verdict(self, requests: Sequence[RequestRecord]) -> dict[str, Any]:
        """What `run.json` says of the warm-up: `settled`, `unsettled` (percent by what drifts), `needed_s`."""
        return {
            "settled": self.settled(requests),
            "unsettled": {name: round(percent, 2) for name, percent in self.unsettled().items()},
            "needed_s": self.needed_s(requests),
        }


class ServerScenario(Scenario):
    """One arrival process through warm-up and window; what is in flight at the window's end is drained.

    ::

        load start          + warmup_s          until settled,           + window_s
                                                at most warmup_limit_s
        |-- arrivals --------|-- more arrivals --|-- arrivals ----------------|-- no new ones ------|
          warmup                                   window: tokens and energy    drain, at most drain_limit_s

    Where power and throughput have settled after `warmup_s`, the window follows at once. Where not, its
    arrivals wait while others, of a seed of their own, keep the server busy: whenever the window begins, the
    same requests come at the same distance from its begin.
    """

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        preload()  # what `Settling` asks under load
        self._server = config
        self._generator: Generator | None = None
        self._more: Generator | None = None

    def prepare(self, ctx: RunContext) -> None:
        assert ctx.engine_info is not None
        self._generator = ctx.engine.generator(
            ctx.load.main,
            vocab_size=ctx.engine_info.vocab_size,
            window_start_offset_ns=ctx.load.window_start_offset_ns,
            max_in_flight=self._server.max_in_flight,
            hold_window=ctx.load.more_warmup is not None,
        )
        if ctx.load.more_warmup is not None:
            self._more = ctx.engine.generator(
                ctx.load.more_warmup,
                vocab_size=ctx.engine_info.vocab_size,
                window_start_offset_ns=None,
                share_slots=self._generator,
                id_prefix="more-",
            )
        ctx.journal.expect(len(ctx.load.main))

    @property
    def max_in_flight(self) -> int | None:
        return self._server.max_in_flight

    async def drive(self, ctx: RunContext) -> None:
        assert self._generator is not None
        assert ctx.load.end_offset_ns is not None
        config, phases = self._server, ctx.phases
        window_length_ns = ctx.load.end_offset_ns - ctx.load.window_start_offset_ns
        async with AsyncExitStack() as stack:
            sending = await stack.enter_async_context(Sending(ctx, self._generator))
            window_ns = sending.start_ns + ctx.load.window_start_offset_ns
            await sending.until(sending.start_ns)
            if self._more is not None:
                limit_s = config.warmup_s + ctx.load.more_warmup_ns / 1e9
                phases.begin(Phase.WARMUP, limit_s=limit_s, at_ns=sending.start_ns)
                window_ns = await self._until_settled(ctx, stack, sending, window_ns)
            elif config.warmup_s > 0:
                phases.begin(Phase.WARMUP, config.warmup_s, at_ns=sending.start_ns)
            # What `max_in_flight` still holds back would take the slots of the window's own requests.
            self._generator.stop_at(window_ns, "warmup")
            await sending.until(window_ns)
            end_ns = window_ns + window_length_ns
            phases.begin(Phase.WINDOW, config.window_s, at_ns=window_ns)
            await sending.until(end_ns)
            phases.begin(Phase.DRAIN, limit_s=config.drain_limit_s, at_ns=end_ns)
            # Held back by max_in_flight, requests may still wait to be sent: they belong to no window.
            await sending.all_sent(0.0 if config.max_in_flight is not None else config.drain_limit_s)
            await self._generator.drain(config.drain_limit_s)
            if self._more is not None:
                await self._more.drain(max(0.0, config.drain_limit_s - (now_ns() - end_ns) / 1e9))
            check_some_completed(
                self._generator, f"the window and scenario.drain_limit_s={config.drain_limit_s:g} s"
            )
            phases.end()

    async def _until_settled(
        self, ctx: RunContext, stack: AsyncExitStack, sending: Sending, planned_ns: int
    ) -> int:
        """Goes on until the load has settled. Returns the begin of the window, at `planned_ns` or later.

        The requests of the window are then released, and no others are sent from its begin on.
        """
        main, more = sending.generator, self._more
        assert more is not None
        start_ns, last_ns = sending.start_ns, planned_ns + ctx.load.more_warmup_ns
        steps = max(SAMPLES, round((planned_ns - start_ns) / 1e9 / SAMPLE_S))
        step_ns = (planned_ns - start_ns) // steps
        early_ns, lead_ns = min(DECIDE_BEFORE_NS, step_ns // 2), time_to_plan_ns(main)
        warming = [record for record in main.records if record.phase == "warmup"]
        settling = Settling(start_ns)

        async def sample(at_ns: int) -> None:
            await sending.until(at_ns - early_ns)
            if more.failure is not None:
                raise more.failure
            tokens = main.output_tokens + more.output_tokens
            settling.add(now_ns(), tokens, ctx.journal.average_power_w())

        for step in range(1, steps + 1):
            await sample(start_ns + step * step_ns)
        window_ns = planned_ns
        if not settling.settled(warming):
            await stack.enter_async_context(Sending(ctx, more, start_ns=planned_ns, planned=False))
            at_ns = start_ns + (steps + 1) * step_ns
            while at_ns + lead_ns <= last_ns:
                await sample(at_ns)
                ctx.journal.expect(len(main.records) + more.sent)
                if settling.settled([*warming, *more.records[: more.sent]]):
                    break
                at_ns += step_ns
            window_ns = max(planned_ns, now_ns() + lead_ns)
            more.stop_at(window_ns)
        main.release_window(window_ns - planned_ns)
        if window_ns > planned_ns:
            ctx.journal.planned_anew(main)
        ctx.warmup |= settling.verdict([*warming, *more.records[: more.sent]])
        ctx.warmup |= {"seconds": (window_ns - start_ns) / 1e9, "limit_s": (last_ns - start_ns) / 1e9}
        return window_ns
