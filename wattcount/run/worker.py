"""The process of an engine's runs: `python -m wattcount.run.worker START`.

Engines give GPU memory back reliably only by exiting, and a crash must cost one point, not the sweep, so
each start of an engine has a process, in a session of its own, whose standard output and error go to the log. It gets its runs
from its parent, one after the other, mostly one, tells how it stands on a pipe, and ends when the parent does.

    job --> setup ---- Scenario.run() ------------------------ clean up ------------------- exit, or the next job:
            NVML,      all phases; a tick a second spools      sampler off, Parquet         the engine stays up for it
            sampler    what was measured                       written, record in place     where it is well

Whatever goes wrong, what was measured until then becomes a record, marked invalid with the reason. What
even that cannot be done for (a kill, a crash of native code) the parent does from the spool.

Exit codes: those of `wattcount.errors`; the reason is in the record and in the last message.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattcount import ownership
from wattcount.clock import now_ns
from wattcount.config.loader import asked_otherwise, from_json, to_json
from wattcount.config.schema import RunConfig, Weights
from wattcount.energy.rapl import RaplHost, RaplSampler, find_rapl
from wattcount.engines import defaults, registry
from wattcount.engines.base import Engine, EngineInfo
from wattcount.errors import (
    ERROR_CHARACTERS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    RunFailedError,
    WattcountError,
    one_line,
)
from wattcount.gpu.characterise import common_plan
from wattcount.gpu.nvml import NvmlSession, attach_session
from wattcount.gpu.sampler import STOP_LIMIT_S, PowerSampler
from wattcount.gpu.settings import UndoError
from wattcount.load.build import build_plan
from wattcount.load.prompts import tokenizer_for
from wattcount.records.schema import TRUTH_CSV, Phase, RunInfo, Validity
from wattcount.records.writer import RecordWriter
from wattcount.run import engine_cpus
from wattcount.run.gpu_settings import restore_recorded
from wattcount.run.host_recorder import HostRecorder, ProcessTree, versions
from wattcount.run.messages import ENGINE_STOP_LIMIT_S, Ended, Job, Jobs, Pipe, Start
from wattcount.run.process import TIMEOUT_SIGNAL
from wattcount.run.sensors import characterised
from wattcount.scenario import Journal, Progress, RunContext
from wattcount.scenario import create as create_scenario

if TYPE_CHECKING:
    from wattcount.emulation.machine import EmulatedActivity

INTERRUPTED = "interrupted"
"""Reason of a run that Ctrl-C or SIGTERM ended."""
_PR_SET_PDEATHSIG = 1
"""`PR_SET_PDEATHSIG` of linux/prctl.h: the kernel sends this process a signal when its parent dies."""


CLEAR_LIMIT_S = 30.0
"""The longest that an engine may take to be ready for another run [s]."""
OF_THE_RUN = ("requests_failed", "setup_failed", "timeout")
"""Reasons for which a run goes wrong on an engine that may be well."""


class _Failed(Exception):  # noqa: N818 - a verdict, not an error of its own
    """How a run ended that did not end well."""

    def __init__(self, reason: str, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code

    @classmethod
    def of(cls, error: BaseException) -> _Failed:
        if isinstance(error, _Failed):
            return error
        if isinstance(error, RunFailedError):
            return cls(error.reason, str(error))
        if isinstance(error, WattcountError):
            return cls("setup_failed", str(error))
        traceback.print_exception(error)
        what = one_line(f"{type(error).__name__}: {error}", ERROR_CHARACTERS)
        return cls("internal_error", f"{what} (traceback: engine.log in the record)")


@dataclass
class Shared:
    """What one run leaves to the next on the same start of the engine."""

    nvml: NvmlSession | None = None
    engine: Engine | None = None
    engine_info: EngineInfo | None = None
    """None: the engine was not up yet."""
    engine_ended: bool | None = None
    """Whether it ended cleanly; None: it was not told to end yet."""
    rehearsed: bool = False
    """A whole run with a rehearsal was on this start."""
    placed: dict[str, Any] | None = None
    """CPUs and priority of its processes, for `RunInfo.host`."""
    activity: EmulatedActivity | None = None

    async def stop_engine(self) -> str | None:
        """Ends the engine, once; why it did not end cleanly, as far as this call saw it."""
        if self.engine is None or self.engine_ended is not None:
            return None
        self.engine_ended, problem = False, None
        limit = asyncio.timeout(ENGINE_STOP_LIMIT_S)
        try:
            async with limit:
                await self.engine.stop()
            self.engine_ended = True
        except Exception as error:
            # Its processes end with this one's session.
            traceback.print_exception(error)
            problem = one_line(f"{type(error).__name__} {error}", ERROR_CHARACTERS)
            if limit.expired():
                problem = f"it took longer than {ENGINE_STOP_LIMIT_S:g} s"
        if self.activity is not None:
            self.activity.engine_down()
        return problem

    async def clear_engine(self) -> bool:
        """Whether the engine is up, well, and has nothing of the run before; `engine_info` is the next run's then."""
        if self.engine is None or self.engine_info is None or self.engine_ended is not None:
            return False
        self.engine.on_step = None
        try:
            async with asyncio.timeout(CLEAR_LIMIT_S):
                cleared = await self.engine.clear()
        except Exception as error:
            traceback.print_exception(error)
            return False
        self.engine_info = cleared or self.engine_info
        return cleared is not None


class Run:
    """One run from setup to the record in its place."""

    def __init__(self, job: Job, pipe: Pipe, shared: Shared) -> None:
        self._job = job
        self._pipe = pipe
        self._shared = shared
        self.goes_on = False
        """The engine is up and well, for another run."""
        self._main_ns = now_ns()
        self._cfg: RunConfig = from_json(job.config)
        self._writer = RecordWriter(Path(job.folder))
        self._info: RunInfo = self._writer.draft()
        self._sampler: PowerSampler | None = None
        self._host_power: RaplSampler | None = None
        self._host = HostRecorder(os.getpid())
        self._journal: Journal | None = None
        self._engine_info: EngineInfo | None = None
        self._engine_stop_s = 0.0
        self._first_phase_ns = 0
        self._stop_signal: signal.Signals | None = None

    async def execute(self) -> int:
        """Runs, writes the record, tells the parent; returns the exit code."""
        failure: _Failed | None = None
        with self._signals():
            try:
                await self._measure()
            except asyncio.CancelledError:
                failure = self._interruption()
            except Exception as error:
                failure = _Failed.of(error)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(
                0
            )  # a signal that came too late to break anything off must not break off the closing
        # From here on a signal changes nothing any more; the parent kills what takes too long.
        return await self._close(failure)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: signal.Signals) -> None:
            if self._stop_signal is None:
                self._stop_signal = number
                task.cancel()

        watched = (signal.SIGINT, signal.SIGTERM, TIMEOUT_SIGNAL)
        for number in watched:
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            # Blocked meanwhile: without a handler, they would end the process.
            signal.pthread_sigmask(signal.SIG_BLOCK, watched)
            for number in watched:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)

    def _interruption(self) -> _Failed:
        by = self._stop_signal or signal.SIGTERM
        if by is TIMEOUT_SIGNAL:
            limit_s = self._cfg.sweep.time_limit_s
            if limit_s is not None and now_ns() > self._job.launched_ns + limit_s * 1e9:
                return _Failed("timeout", f"the run took longer than sweep.time_limit_s={limit_s:g} s")
            current = self._journal.phases.current if self._journal is not None else None
            where = f"the phase {current.phase}" if current is not None else "the time between phases"
            return _Failed("timeout", f"{where} took longer than it may")
        code = EXIT_INTERRUPTED if by is signal.SIGINT else EXIT_TERMINATED
        return _Failed(INTERRUPTED, f"interrupted by {by.name}", code)

    # --- measuring ------------------------------------------------------------------------------

    async def _measure(self) -> None:
        cfg, info = self._cfg, self._info
        load = build_plan(cfg.scenario, cfg.seed, cfg.repeat, tokenize=tokenizer_for(cfg.model))
        info.notes += load.notes
        if load.length_changes is not None:
            info.length_changes = dataclasses.asdict(load.length_changes)
        shared = self._shared
        shared.nvml = session = shared.nvml or attach_session(cfg.power.remote)
        if session.evidence != cfg.evidence:
            raise RunFailedError(
                "setup_failed",
                f"the NVML library in use ({session.native.path}) makes the evidence {session.evidence}, it was "
                f"{cfg.evidence} when the run was prepared: leave $WATTCOUNT_NVML_PATH alone meanwhile",
            )
        gpus = session.select(cfg.gpu)
        uuids = [gpu.uuid for gpu in gpus]
        info.gpus = [gpu.to_json() for gpu in gpus]
        info.nvml = session.library
        shared.engine = engine = shared.engine or registry.create(cfg, uuids, Path(self._job.log).parent)
        info.characterisation = characterised(session, uuids, cfg.power)
        asked = cfg.power
        self._cfg = cfg = dataclasses.replace(cfg, power=common_plan(info.characterisation.values(), asked))
        info.asked |= asked_otherwise(asked, cfg.power, "power")
        info.config = to_json(cfg)
        self._sampler = sampler = PowerSampler(uuids, session, cfg.power, keep=False)
        rapl = find_rapl() if session.remote is None else RaplHost.elsewhere()
        info.host["rapl"] = rapl.to_json()
        self._host_power = host_power = RaplSampler(rapl)
        self._writer.open_spool(sampler.gpu_uuids)
        self._journal = journal = Journal(
            self._writer, sampler, self._progress, self._checkpoint, host_power=host_power, host=self._host
        )
        self._follow_steps(engine, journal)
        sampler.start()
        host_power.start()
        self._host.start()
        if shared.placed is not None:
            info.host["engine"] = shared.placed
        if shared.engine_info is not None:
            self._record_server(shared.engine_info)
        scenario = create_scenario(cfg)
        self._first_phase_ns = now_ns()
        ctx = RunContext(
            cfg=cfg,
            load=load,
            engine=engine,
            journal=journal,
            stop_engine=self._stop_engine,
            engine_up=lambda told: self._engine_up(
                told, cfg, [gpu.index or 0 for gpu in gpus], len(session.gpus())
            ),
            engine_info=shared.engine_info,
            last=self._job.last,
            rehearsed=shared.rehearsed,
        )
        try:
            await _first_of(scenario.run(ctx), journal.run())
            info.complete = True
            shared.rehearsed = shared.rehearsed or bool(ctx.rehearsal)
        finally:
            info.warmup = ctx.warmup
            info.rehearsal = ctx.rehearsal
            shared.engine_info = ctx.engine_info
            self._engine_info = ctx.engine_info
            if ctx.engine_info is not None:
                info.engine = dataclasses.asdict(ctx.engine_info)

    def _engine_up(self, told: EngineInfo, cfg: RunConfig, gpus: list[int], all_gpus: int) -> None:
        self._record_server(told)
        self._place_engine(cfg, gpus, all_gpus)

    def _record_server(self, told: EngineInfo) -> None:
        """Has what the processes of a server that the run did not start get of this host recorded, too."""
        server = told.details.get("server")
        if isinstance(server, Mapping) and server.get("local"):
            for pid in server.get("pids") or ():
                self._host.follow(pid)

    def _place_engine(self, cfg: RunConfig, gpus: list[int], all_gpus: int) -> None:
        engine, own = cfg.engine, os.getpid()
        if engine.pinned_cpus is None and engine.nice is None:
            return
        cpus = None
        if engine.pinned_cpus is not None:
            cpus = engine_cpus.cpus_of(os.sched_getaffinity(0), engine.pinned_cpus, gpus, all_gpus)
        assert self._shared.engine is not None
        others = {own, *self._shared.engine.client_pids}
        pids = [pid for pid in ProcessTree(Path("/proc"), own).pids() if pid not in others]
        self._info.host["engine"] = self._shared.placed = engine_cpus.place(engine, pids, cpus)

    def _follow_steps(self, engine: Engine, journal: Journal) -> None:
        shared = self._shared
        assert shared.nvml is not None
        if shared.nvml.evidence == "emulated" and shared.nvml.remote is None and shared.activity is None:
            from wattcount.emulation.machine import EmulatedActivity

            shared.activity = EmulatedActivity.attach(
                self._cfg.gpu, self._cfg.gpu.power_limit_w, self._cfg.model
            )
        activity = shared.activity
        if activity is None:
            engine.on_step = journal.on_step
            return

        def both(step: Any) -> None:
            journal.on_step(step)
            activity.on_step(step)

        engine.on_step = both

    def _progress(self, progress: Progress) -> None:
        """Once a second and at each bound."""
        if self._shared.activity is not None:
            self._shared.activity.check_stall()
        self._pipe.send(progress)

    def _checkpoint(self) -> Callable[[], None]:
        """What is called at each bound of a phase."""
        assert self._journal is not None
        if self._sampler is not None and (clock := self._sampler.clock) is not None:
            self._info.nvml["remote"]["clock"] = clock
        self._info.phases = [dataclasses.replace(span) for span in self._journal.phases.spans]
        self._info.clock_pairs = [vars(pair) for pair in self._journal.clock_pairs]
        started = any(
            span.phase is Phase.ENGINE_START and span.end_ns is not None for span in self._info.phases
        )
        shared = self._shared
        if shared.activity is not None and started and shared.engine_ended is None:
            shared.activity.engine_up()
        return self._writer.checkpoint(self._info)

    # --- closing --------------------------------------------------------------------------------

    async def _close(self, failure: _Failed | None) -> int:
        """Lets go of everything and puts the record in place."""
        try:
            failure = self._stop_sampling(failure)
            self.goes_on = await self._can_go_on(failure)
            path = await self._write()
        except Exception as error:
            lost = _Failed.of(error)
            message = str(lost) if failure is None else f"{failure}; then {lost}"
            self.goes_on = False
            self._pipe.send(Ended(None, (failure or lost).reason, message))
            return EXIT_FAILED
        if failure is None:
            self._pipe.send(Ended(str(path), None, None, self.goes_on))
            return EXIT_OK
        self._pipe.send(Ended(str(path), failure.reason, str(failure), self.goes_on))
        return failure.exit_code

    async def _can_go_on(self, failure: _Failed | None) -> bool:
        """Whether the engine is left up for another run: what went wrong was this run's own, if anything did."""
        if self._job.last or self._stop_signal is not None:
            return False
        if failure is not None and failure.reason not in OF_THE_RUN:
            return False
        if any(gpu.get("stuck") for gpu in self._info.sampler.values()):
            return False
        return await self._shared.clear_engine()

    def _stop_sampling(self, failure: _Failed | None) -> _Failed | None:
        """The last reads, into the spool; what cannot be spooled any more is a failure of its own."""
        if self._sampler is not None and self._journal is not None:
            self._sampler.stop()
            self._info.sensors = self._sampler.sensors()
            self._info.sampler = {gpu["uuid"]: gpu for gpu in self._sampler.health()}
            if self._host_power is not None:
                self._host_power.stop()
                self._info.host["rapl"]["sampler"] = self._host_power.health()
            self._host.stop()
            self._info.host["recorder"] = self._host.health()
            try:
                self._journal.tick(final=True)
            except RunFailedError as error:
                failure = failure or _Failed.of(error)
            if (lost := self._sampler.failure) is not None:
                failure = failure or _Failed.of(lost)
        if failure is not None:
            self._info.complete = False
            self._info.validity = Validity(False, [failure.reason], [str(failure)])
        if self._journal is not None:
            try:
                self._checkpoint()()
            except RunFailedError as error:
                failure = failure or _Failed.of(error)
        return failure

    async def _write(self) -> Path:
        info, writer = self._info, self._writer
        info.versions |= versions(registry.plugin(self._cfg.engine.name).packages)
        self._note_what_is_odd()
        closing_ns = now_ns()
        # Parquet is written while an engine that is still up takes its seconds to end.
        files = asyncio.get_running_loop().run_in_executor(None, writer.write_tables)
        shared = self._shared
        if not self.goes_on:
            await self._stop_engine()
        if self._engine_info is not None:  # to which the engine has added what it found until now
            info.engine = dataclasses.asdict(self._engine_info)
        info.files = await files
        if shared.activity is not None:
            shared.activity.save(writer.folder / TRUTH_CSV)
        if shared.nvml is not None and not self.goes_on:
            self._restore_settings(shared.nvml)
            shared.nvml.close()
        info.timing = self._timing(closing_ns)
        return writer.place(info)

    def _restore_settings(self, session: NvmlSession) -> None:
        try:
            restore_recorded(session, self._info.gpu_settings)
        except UndoError as error:  # the parent tries again
            self._info.notes.append(f"the GPU's settings were not restored by the run's process: {error}")

    async def _stop_engine(self) -> bool:
        """Ends the engine, once; whether it ended cleanly."""
        stopping_ns = now_ns()
        if (problem := await self._shared.stop_engine()) is not None:
            self._info.notes.append(f"the engine did not stop cleanly: {problem}")
        # Asked twice, at the end of the phases and of the record: the second time takes none.
        self._engine_stop_s += (now_ns() - stopping_ns) / 1e9
        return self._shared.engine_ended is not False

    def _note_what_is_odd(self) -> None:
        for gpu in self._info.sampler.values():
            if gpu.get("stuck"):
                self._info.notes.append(
                    f"{gpu['uuid']}: NVML did not return from a call within {STOP_LIMIT_S:g} s when the run ended; its "
                    "last readings are missing (see dmesg; the driver may need a reset)"
                )
            if gpu.get("dropped_events"):
                self._info.notes.append(
                    f"{gpu['uuid']}: {gpu['dropped_events']} observations were lost to a full buffer;"
                    " raise power.buffer_mib_per_gpu"
                )
        if (
            self._shared.activity is not None
            and not registry.plugin(self._cfg.engine.name).capabilities.reports_steps
        ):
            self._info.notes.append(
                "the engine reports no steps, so the emulated GPU's power did not follow its load: it is that of an idle engine"
            )
        if (remote := self._info.nvml.get("remote")) is not None:
            self._info.notes.append(
                f"power was read on {remote['hostname']} ({remote['address']}); its clock is known to "
                f"{remote['clock']['bound_ns'] / 1e6:.2g} ms"
            )
            if self._cfg.evidence == "emulated":
                self._info.notes.append("the GPU that is emulated there does not follow this run's load")
        details = self._info.engine.get("details") or {}
        self._info.notes += defaults.notes(details.get("unexpected_defaults") or {})
        spec = self._cfg.engine.speculative.method
        if spec is not None and self._cfg.model.weights is Weights.random:
            self._info.notes.append(
                f"speculative decoding ({spec.value}) with random weights: how much is accepted, and so what it saves, "
                "means nothing"
            )
        cancelled = self._journal.unfinished() if self._journal is not None else 0
        if cancelled and self._info.complete:
            self._info.notes.append(
                f"{cancelled} requests were still running at the drain's limit and were cancelled"
            )

    def _timing(self, closing_ns: int) -> dict[str, float]:
        """Where the time went, seconds. `overhead_s` is what wattcount adds to the phases and the engine's start.

        launch_s   from the parent's first step to this process' first line: preflight, interpreter, imports
        setup_s    to the first phase: NVML, sampler, load
        between_s  between phases: prompts; the engine's stop, where bare idle follows it
        close_s    after the last phase: files; the engine's stop, where nothing follows it
        engine_stop_s  of one of the two
        """
        end_ns = now_ns()
        spans = [span for span in self._info.phases if span.end_ns is not None]
        phases_ns = sum(int(span.end_ns or 0) - span.start_ns for span in spans)
        start_ns = sum(
            int(span.end_ns or 0) - span.start_ns for span in spans if span.phase is Phase.ENGINE_START
        )
        last_ns = max((int(span.end_ns or 0) for span in spans), default=closing_ns)
        first_ns = spans[0].start_ns if spans else self._first_phase_ns or closing_ns
        parts = {
            "wall_s": end_ns - self._job.started_ns,
            "phases_s": phases_ns - start_ns,
            "engine_start_s": start_ns,
            "launch_s": self._main_ns - self._job.started_ns,
            "launch_worker_s": self._main_ns - self._job.launched_ns,
            "setup_s": first_ns - self._main_ns,
            "between_s": last_ns - first_ns - phases_ns,
            "close_s": end_ns - last_ns,
            "overhead_s": end_ns - self._job.started_ns - phases_ns,
        }
        seconds = {name: round(value / 1e9, 4) for name, value in parts.items()}
        return seconds | {"engine_stop_s": round(self._engine_stop_s, 4)}


async def _first_of(work: Any, background: Any) -> None:
    """Runs `work` to its end, with `background` beside it; what fails first ends both."""
    main, beside = asyncio.ensure_future(work), asyncio.ensure_future(background)
    try:
        await asyncio.wait({main, beside}, return_when=asyncio.FIRST_COMPLETED)
        if beside.done() and not main.done():
            beside.result()
        await main
    finally:
        for task in (main, beside):
            task.cancel()
        results = await asyncio.gather(main, beside, return_exceptions=True)
    failed = results[1]
    if isinstance(failed, Exception):
        raise failed


def _end_with_parent(parent_pid: int) -> None:
    """SIGTERM when the parent dies, however it dies: the record is then closed as interrupted."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent_pid:
        # It died before this was asked for.
        os.kill(os.getpid(), signal.SIGTERM)


class _NoPandas:
    """An import hook that knows no pandas."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ImportError("not here")


def _keep_pandas_out_of_arrow() -> None:
    """PyArrow imports pandas, where it is installed, the first time it makes an array: half a second and
    some 50 MB. It asks only once, so it is told once that there is none; others may import it later."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    hook = _NoPandas()
    sys.meta_path.insert(0, hook)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hook)


async def serve(jobs: Jobs, pipe: Pipe) -> int:
    """Runs what is asked for, as long as the engine is up for it; returns the exit code of the last run."""
    shared, code = Shared(), EXIT_OK
    while (job := await jobs.next()) is not None:
        run = Run(job, pipe, shared)
        code = await run.execute()
        if not run.goes_on:
            return code
    await shared.stop_engine()
    return code


def main(argv: list[str]) -> int:
    start = Start(**json.loads(argv[0]))
    pipe = Pipe(start.progress_fd)
    for file in start.claims:
        ownership.join(Path(file))  # until the end of the process
    for descriptor in (*start.locks, start.jobs_fd):
        os.set_inheritable(descriptor, False)
    _end_with_parent(start.parent_pid)
    _keep_pandas_out_of_arrow()
    return asyncio.run(serve(Jobs(start.jobs_fd), pipe))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The record is in place and the engine is gone; tearing down an interpreter with torch in it takes seconds.
    os._exit(code)
