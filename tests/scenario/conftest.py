from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import virtual_time

from wattcount import scenario
from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig
from wattcount.engines.registry import create as create_engine
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import attach_session
from wattcount.load.build import build_plan
from wattcount.records import Record, RecordWriter
from wattcount.records.schema import Phase, RunInfo
from wattcount.scenario import Journal, Progress, RunContext


class Bench:
    """A scenario on the tiny engine and an emulated GPU, in this process. Only the GPU's sampler lives in real time."""

    def __init__(self, cfg: RunConfig, folder: Path, info: RunInfo) -> None:
        self.stack = ExitStack()
        self.info = info
        session = self.stack.enter_context(attach_session())
        self.sampler = self.stack.enter_context(PowerSampler(session=session, keep=False))
        info.gpus = [gpu.to_json() for gpu in self.sampler.gpus]
        self.writer = RecordWriter.create(folder, info.point_id, info.run_id)
        self.stack.callback(self.writer.close)
        self.writer.open_spool(self.sampler.gpu_uuids)
        self.reports: list[Progress] = []
        self.dies_in: Phase | None = None
        """The engine dies half a second after this phase is first told of, however late that is."""
        self.checkpoints = 0
        self.engine_stops_cleanly = True
        self.rehearsed = False
        """As if another run had been on this start of the engine."""
        self.cfg = cfg
        self.ctx: RunContext

    def _on_progress(self, progress: Progress) -> None:
        self.reports.append(progress)
        if self.dies_in is not None and progress.phase is self.dies_in:
            self.dies_in = None
            self.ctx.engine._die_at_ns = now_ns() + 500_000_000

    def _at_bound(self) -> Callable[[], None]:
        self.checkpoints += 1
        return self.writer.checkpoint(self.info)

    async def _execute(self, tick_s: float) -> None:
        engine = create_engine(self.cfg, [], self.writer.folder)
        journal = Journal(self.writer, self.sampler, self._on_progress, self._at_bound, tick_s=tick_s)
        engine.on_step = journal.on_step
        load = build_plan(self.cfg.scenario, self.cfg.seed, self.cfg.repeat)

        async def stop_engine() -> bool:
            await engine.stop()
            return self.engine_stops_cleanly

        self.ctx = RunContext(
            cfg=self.cfg,
            load=load,
            engine=engine,
            journal=journal,
            stop_engine=stop_engine,
            rehearsed=self.rehearsed,
        )
        ticking = asyncio.create_task(journal.run())
        try:
            await scenario.create(self.cfg).run(self.ctx)
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            journal.tick(final=True)
            await engine.stop()

    def run(self, tick_s: float = 0.1) -> None:
        virtual_time.run(self._execute(tick_s))

    def record(self) -> Record:
        self.sampler.stop()
        self.writer.append_power(self.sampler.drain())
        self.info.phases = self.ctx.phases.spans
        return Record.open(self.writer.finalise(self.info))


@pytest.fixture
def bench(emulated: Any, tmp_path: Path) -> Iterator[Callable[[RunConfig], Bench]]:
    from synthetic_record import SyntheticRun

    emulated()
    with ExitStack() as stack:

        def make(cfg: RunConfig) -> Bench:
            made = Bench(cfg, tmp_path / "records", SyntheticRun(complete=False).info())
            stack.enter_context(made.stack)
            return made

        yield make
