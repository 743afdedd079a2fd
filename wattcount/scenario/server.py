"""Open-loop arrivals: warm-up, window, drain."""

from __future__ import annotations

from wattcount.config.schema import ServerConfig
from wattcount.load.generator import LoadGenerator
from wattcount.record.schema import Phase
from wattcount.scenario.base import RunContext, Scenario, Sending, check_some_completed


class ServerScenario(Scenario):
    """One arrival process through warm-up and window; what is in flight at the window's end is drained.

    ::

        load start          + warmup_s                    + warmup_s + window_s
        |-- arrivals --------|-- arrivals ------------------|-- no new ones ------|
          warmup               window: tokens and energy      drain, at most drain_limit_s
    """

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self._server = config
        self._generator: LoadGenerator | None = None

    def prepare(self, ctx: RunContext) -> None:
        assert ctx.engine_info is not None
        self._generator = LoadGenerator(
            ctx.engine,
            ctx.load.main,
            vocab_size=ctx.engine_info.vocab_size,
            window_start_offset_ns=ctx.load.window_start_offset_ns,
            max_in_flight=self._server.max_in_flight,
        )
        ctx.journal.expect(len(ctx.load.main))

    async def drive(self, ctx: RunContext) -> None:
        assert self._generator is not None
        assert ctx.load.end_offset_ns is not None
        config, phases = self._server, ctx.phases
        async with Sending(ctx, self._generator) as sending:
            window_ns = sending.start_ns + ctx.load.window_start_offset_ns
            end_ns = sending.start_ns + ctx.load.end_offset_ns
            await sending.until(sending.start_ns)
            if config.warmup_s > 0:
                phases.begin(Phase.WARMUP, config.warmup_s, at_ns=sending.start_ns)
                await sending.until(window_ns)
            phases.begin(Phase.WINDOW, config.window_s, at_ns=window_ns)
            await sending.until(end_ns)
            phases.begin(Phase.DRAIN, limit_s=config.drain_limit_s, at_ns=end_ns)
            # Held back by max_in_flight, requests may still wait to be sent: they belong to no window.
            await sending.all_sent(0.0 if config.max_in_flight is not None else config.drain_limit_s)
            await self._generator.drain(config.drain_limit_s)
            check_some_completed(
                self._generator, f"the window and scenario.drain_limit_s={config.drain_limit_s:g} s"
            )
            phases.end()
