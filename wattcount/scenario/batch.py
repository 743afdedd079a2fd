"""The batch scenario: all requests at once."""

from __future__ import annotations

from wattcount.config.schema import BatchConfig
from wattcount.errors import RunFailedError
from wattcount.load.generator import Generator
from wattcount.records.schema import Phase
from wattcount.scenario.base import RunContext, Scenario, Sending, check_some_completed


class BatchScenario(Scenario):
    """A few requests to warm up, then all at once; the window is from the first send to the last token.

    ::

        |-- warmup_requests --|-- num_requests ----------------------|
          warmup                window: first send ... last token      drain (empty)
    """

    def __init__(self, config: BatchConfig) -> None:
        super().__init__(config)
        self._batch = config
        self._warmup: Generator | None = None
        self._main: Generator | None = None

    def prepare(self, ctx: RunContext) -> None:
        assert ctx.engine_info is not None
        vocab_size = ctx.engine_info.vocab_size
        if ctx.load.warmup is not None:
            self._warmup = ctx.engine.generator(
                ctx.load.warmup, vocab_size=vocab_size, window_start_offset_ns=None
            )
        self._main = ctx.engine.generator(
            ctx.load.main,
            vocab_size=vocab_size,
            window_start_offset_ns=ctx.load.window_start_offset_ns,
        )
        ctx.journal.expect(len(ctx.load.main) + (len(ctx.load.warmup) if ctx.load.warmup is not None else 0))

    async def drive(self, ctx: RunContext) -> None:
        assert self._main is not None
        if self._warmup is not None:
            await self._all(ctx, Phase.WARMUP, self._warmup)
        await self._all(ctx, Phase.WINDOW, self._main)
        sent_ns = min(r.actual_send_ns for r in self._main.records if r.actual_send_ns is not None)
        last_ns = max(r.last_token_ns for r in self._main.records if r.last_token_ns is not None)
        # Planned was its beginning until now; what counts is the first actual send.
        ctx.phases.end(last_ns, start_ns=sent_ns)
        ctx.phases.begin(Phase.DRAIN, 0.0, at_ns=last_ns)
        ctx.phases.end()

    async def _all(self, ctx: RunContext, phase: Phase, generator: Generator) -> None:
        """Sends all requests and waits for the last token."""
        limit_s = self._batch.time_limit_s
        async with Sending(ctx, generator) as sending:
            await sending.until(sending.start_ns)
            ctx.phases.begin(phase, limit_s=limit_s, at_ns=sending.start_ns)
            await sending.all_sent(limit_s)
            cancelled = await generator.drain(limit_s)
        check_some_completed(generator, f"scenario.time_limit_s={limit_s:g}")
        if cancelled:
            raise RunFailedError(
                "timeout",
                f"{cancelled} of {len(generator.records)} requests were not done within "
                f"scenario.time_limit_s={limit_s:g}: raise it or lower scenario.num_requests",
            )
