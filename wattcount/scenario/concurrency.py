"""A closed loop: a warm-up until power and throughput have settled, the window, the drain."""

from __future__ import annotations

from wattcount.clock import now_ns
from wattcount.config.schema import ConcurrencyConfig
from wattcount.load.generator import Generator
from wattcount.records.schema import Phase
from wattcount.scenario.base import RunContext, Scenario, Sending, check_some_completed
from wattcount.scenario.server import DECIDE_BEFORE_NS, SAMPLE_S, SAMPLES, Settling
from wattcount.statistics import preload

WINDOW_LEAD_NS = 100_000_000
"""Time from the decision that a warm-up has ended to the begin of the window [ns]: until then, clients have told of what they sent before."""


class ConcurrencyScenario(Scenario):
    """A number of users, each of whom sends one request after the other through warm-up and window. What is in flight at the window's end is drained.

    ::

        load start          + warmup_s          until settled,           + window_s
                                                at most warmup_limit_s
        |-- users send, each its next request when the last is answered ------|-- no new ones ------|
          warmup                                   window: tokens and energy    drain, at most drain_limit_s
    """

    def __init__(self, config: ConcurrencyConfig) -> None:
        super().__init__(config)
        preload()  # what `Settling` asks under load
        self._closed = config
        self._generator: Generator | None = None

    def prepare(self, ctx: RunContext) -> None:
        assert ctx.engine_info is not None
        self._generator = ctx.engine.generator(
            ctx.load.main,
            vocab_size=ctx.engine_info.vocab_size,
            window_start_offset_ns=None,
            users=ctx.load.users,
        )

    @property
    def max_in_flight(self) -> int | None:
        return self._closed.concurrency

    async def drive(self, ctx: RunContext) -> None:
        generator, config, phases = self._generator, self._closed, ctx.phases
        assert generator is not None
        async with Sending(ctx, generator, planned=False) as sending:
            window_ns = sending.start_ns + round(config.warmup_s * 1e9)
            fixed = config.warmup_limit_s <= config.warmup_s or config.warmup_s == 0
            if fixed:
                generator.begin_window(window_ns)
            await sending.until(sending.start_ns)
            if fixed and config.warmup_s > 0:
                phases.begin(Phase.WARMUP, config.warmup_s, at_ns=sending.start_ns)
            elif not fixed:
                phases.begin(Phase.WARMUP, limit_s=config.warmup_limit_s, at_ns=sending.start_ns)
                window_ns = await self._settled(ctx, sending, window_ns)
                generator.begin_window(window_ns)
            end_ns = window_ns + round(config.window_s * 1e9)
            generator.stop_at(end_ns)
            await sending.until(window_ns)
            phases.begin(Phase.WINDOW, config.window_s, at_ns=window_ns)
            await sending.until(end_ns)
            phases.begin(Phase.DRAIN, limit_s=config.drain_limit_s, at_ns=end_ns)
            await sending.all_sent(0.0)
            await generator.drain(config.drain_limit_s)
            check_some_completed(
                generator, f"the window and scenario.drain_limit_s={config.drain_limit_s:g} s"
            )
            phases.end()

    async def _settled(self, ctx: RunContext, sending: Sending, planned_ns: int) -> int:
        """Goes on until the load has settled. Returns the begin of the window, at `planned_ns` or later."""
        generator, start_ns, limit_s = sending.generator, sending.start_ns, self._closed.warmup_limit_s
        last_ns = start_ns + round(limit_s * 1e9)
        steps = max(SAMPLES, round((planned_ns - start_ns) / 1e9 / SAMPLE_S))
        step_ns = (planned_ns - start_ns) // steps
        early_ns = min(DECIDE_BEFORE_NS, step_ns // 2)
        settling = Settling(start_ns)
        at_ns, sent = start_ns, generator.records[:0]
        while at_ns + step_ns <= last_ns:
            at_ns += step_ns
            await sending.until(at_ns - early_ns)
            settling.add(now_ns(), generator.output_tokens, ctx.journal.average_power_w())
            sent = [record for record in generator.records if record.actual_send_ns is not None]
            if at_ns >= planned_ns - early_ns and settling.settled(sent):
                break
        window_ns = max(planned_ns, now_ns() + WINDOW_LEAD_NS)
        ctx.warmup |= settling.verdict(sent)
        ctx.warmup |= {"seconds": (window_ns - start_ns) / 1e9, "limit_s": limit_s}
        return window_ns
