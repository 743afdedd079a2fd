"""The parent's side of a run: starts the run's process, waits for it, and leaves nothing behind.

resolve -- finished before?
check ---- lock point and GPUs -- draft record -- start ------ wait ------------------- kill what is left -- metrics
                                                  own session  on its pipe and its end, of the session;
                                                               without spinning         recover the record
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from wattcount.clock import ClockPair, now_ns
from wattcount.config.identity import point_id
from wattcount.config.loader import to_json
from wattcount.config.schema import GpuConfig, RunConfig
from wattcount.engines import registry
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_OK,
    RunFailedError,
    WattcountError,
)
from wattcount.gpu.nvml import NvmlSession, matches
from wattcount.gpu.settings import UndoError
from wattcount.records.schema import ENGINE_LOG, RECORD_SCHEMA_VERSION, Evidence, Phase, RunInfo, Validity
from wattcount.records.writer import WORKER_DIED, RecordWriter, final_folder, last_lines, new_run_id
from wattcount.run.claims import OwnWindow, Wanted, clear_up, is_free
from wattcount.run.host_recorder import host_facts, versions
from wattcount.run.messages import Ended, Job, Notice, decode
from wattcount.run.preflight import check, check_again, resolved
from wattcount.run.process import TIMEOUT_SIGNAL, SessionProcess
from wattcount.run.session import Rest, Session
from wattcount.run.waiting import Signals, waking
from wattcount.scenario.journal import Progress

NOT_LAUNCHED, INTERRUPTED, TIMEOUT = "worker_not_started", "interrupted", "timeout"
"""Reasons of records that their parent closes."""

TICK_S = 1.0
"""Time between two steps of the display while no message comes [s]."""
AWAY_S = 5.0
"""Delay of a look from which on this process was stopped [s]: by Ctrl-Z, by a debugger."""
PHASE_GRACE_S = 90.0
"""Time above the planned length of a phase after which it is broken off [s]; the run's own limits come first."""
SETUP_LIMIT_S = 180.0
"""Most time from the start of the process to its first phase, and between phases [s]."""
SILENCE_LIMIT_S = 180.0
"""Most time without a message of the run's process [s]. It reports once a second, but to import an engine takes a while."""
CLOSE_LIMIT_S = 90.0
"""Most time from an interruption, or the end of the last phase, until the record is in its place [s]."""
PATIENCE = 2
"""Signals that a run takes: the first asks it to close its record, the second kills it. A third one ends this process, for
instance where a disk does not answer."""
EXIT_LIMIT_S = 10.0
"""Longest wait from the last message to the end of the process [s]."""


class Display(Protocol):
    """Shows a person how a run stands.

    Calls come from the thread that listens to the run and judges its limits, so they must not block:
    `display.InBackground` makes them in another thread.
    """

    def started(self, cfg: RunConfig) -> None:
        """`cfg` is resolved: it says what is measured."""

    def progress(self, progress: Progress) -> None: ...
    def notice(self, text: str) -> None: ...
    def tick(self) -> None:
        """Time has passed and nothing was heard."""

    def ended(self, record_path: Path | None) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    exit_code: int
    record_path: Path | None
    reason: str | None
    """Stable code; None: the run is valid."""
    message: str | None
    measured_before: bool = False
    """The record was there already; nothing was started."""


class RunOptions(TypedDict, total=False):
    """What a sweep says of a run besides its point."""

    gpus: Sequence[str]
    """UUIDs of those that it chose; none: the run's own choice."""
    wait_for_others: bool
    """Whether a point that another run measures right now is waited for, as by default; else `MeasuredElsewhereError` is raised."""
    rest: Rest | None
    """Its engines begin with GPUs that have cooled down."""
    session: Session | None
    """Runs of it differ only in scenario and load: this one goes on with the engine of the one before, if that is well."""
    last: bool
    """No other run of the session follows, as by default."""


def run_point(
    cfg: RunConfig,
    display: Display,
    *,
    meanwhile: Callable[[], object] | None = None,
    **options: Unpack[RunOptions],
) -> Outcome:
    """Measures one point and returns when nothing of the run is left but its record and, with a session, what that keeps.

    `meanwhile` is called once, in a thread, while the run's process measures its first phase: time for slow
    imports. With `cfg.resume` a point that is finished is left as it is.

    Raises `NotStartedError` for what preflight finds; everything later is in the outcome.
    """
    with contextlib.ExitStack() as stack:
        session = options.get("session") or stack.enter_context(Session())
        if not session.is_up:
            session.close()  # of a process that has died
        try:
            return _run_point(cfg, display, session, meanwhile, options)
        finally:
            if not session.is_up:
                session.close()


def _run_point(
    asked: RunConfig,
    display: Display,
    session: Session,
    meanwhile: Callable[[], object] | None,
    options: RunOptions,
) -> Outcome:
    gpus = options.get("gpus", ())
    started_ns = now_ns()
    # Where somebody else has started the engine, its GPUs are chosen.
    chosen = not registry.plugin(asked.engine.name).capabilities.owns_process
    nvml, follows = session.nvml(asked), session.is_up
    becomes = resolved(asked, nvml, session.devices or gpus or _free_gpus(asked.gpu, nvml))
    cfg = becomes.config
    records_dir = Path(cfg.records_dir).expanduser().absolute()
    if not follows:
        clear_up(records_dir, display.notice)  # of what a killed run left, something may be a finished record
    wanted = Wanted(records_dir, point_id(cfg), cfg.seed, cfg.repeat)
    if cfg.resume and (found := wanted.finished()) is not None:
        return Outcome(EXIT_OK, found, None, None, measured_before=True)
    if follows:
        check_again(cfg)
    else:
        check(cfg, nvml)
    waiting_ns = now_ns()
    purpose = f"{cfg.model.name}, {cfg.scenario.name}"
    alone = bool(cfg.resume)
    with wanted.claimed(
        purpose, display.notice, alone=alone, wait=options.get("wait_for_others", True)
    ) as claims:
        if cfg.resume and (found := wanted.finished()) is not None:  # meanwhile
            return Outcome(EXIT_OK, found, None, None, measured_before=True)
        if not follows:
            # Others may have taken them while this run was prepared.
            free = [] if chosen else gpus or _free_gpus(asked.gpu, nvml, cfg.gpu.found_name)
            devices = free or cfg.gpu.devices
            becomes = becomes.with_devices(devices)
            cfg = becomes.config
            session.take_gpus(cfg, purpose, options.get("rest"), display.notice)
        started_ns += now_ns() - waiting_ns  # waiting is no part of the run
        info = _draft(cfg, nvml)
        info.asked = becomes.asked_otherwise()
        info.attempt = wanted.attempts() + 1
        info.cooldown = {} if follows else session.cooldown
        info.gpu_settings = session.settings()
        info.session = session.number(info.run_id)
        return _measure(cfg, info, session, display, started_ns, meanwhile, claims, options.get("last", True))


def _free_gpus(asked: GpuConfig, session: NvmlSession, found_name: str | None = None) -> list[str]:
    """UUIDs of the first GPUs that match and that no run holds; none where there are not enough of them, or where `asked` names
    some.

    All are of one model: that of the first one that is free, or `found_name`.
    """
    if asked.devices or session.machine is not None:
        return []
    free = [gpu for gpu in session.usable() if matches(asked, gpu) and is_free(gpu.uuid, session.remote)]
    name = found_name or next((gpu.name for gpu in free), None)
    chosen = [gpu.uuid for gpu in free if gpu.name == name][: asked.count]
    return chosen if len(chosen) == asked.count else []


def _measure(
    cfg: RunConfig,
    info: RunInfo,
    session: Session,
    display: Display,
    started_ns: int,
    meanwhile: Callable[[], object] | None,
    locks: Sequence[int],
    last: bool,
) -> Outcome:
    """`cfg` is resolved; `locks` are descriptors of its point's, for the run's process to hold."""
    signals = Signals()
    path: Path | None = None
    try:
        # From the first file of the record to the last: a signal changes what becomes of it, but never tears it.
        with signals.watching(patience=PATIENCE):
            writer = RecordWriter.create(
                Path(cfg.records_dir).expanduser().absolute(), info.point_id, info.run_id
            )
            try:
                writer.save_draft(info)
            except RunFailedError:
                writer.discard()
                raise
            display.started(cfg)
            try:
                watch = _Watch(writer, info, display, session, signals, started_ns, meanwhile)
                outcome = watch.run(locks, last)
                path = outcome.record_path
            finally:
                writer.let_go()
                _compute_metrics(path, display)
        if session.is_up and path is not None:
            _keep_measured_once(session, path)
    finally:
        display.ended(path)
    return outcome


def _keep_measured_once(session: Session, path: Path) -> None:
    """What this run has measured for the further ones of its session."""
    from wattcount.metrics.window import measured_once
    from wattcount.records.reader import Record

    if not session.measured_once:
        with contextlib.suppress(WattcountError, OSError, ValueError):
            session.measured_once = measured_once(Record.open(path))


def _draft(cfg: RunConfig, session: NvmlSession) -> RunInfo:
    pair = ClockPair.read()
    return RunInfo(
        schema_version=RECORD_SCHEMA_VERSION,
        run_id=new_run_id(),
        point_id=point_id(cfg),
        evidence=Evidence(session.evidence),
        origin="wattcount",
        instrument="nvml",
        seed=cfg.seed,
        repeat=cfg.repeat,
        config=to_json(cfg),
        started_utc=datetime.fromtimestamp(pair.utc_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        clock_pairs=[asdict(pair)],
        host=host_facts(),
        gpus=[gpu.to_json() for gpu in session.select(cfg.gpu)],
        nvml=session.library,
        versions=versions(registry.plugin(cfg.engine.name).packages),
        engine={},
        sensors={},
        sampler={},
        phases=[],
        validity=Validity(True),
        notes=["measured although other processes may compute on the GPU (allow_busy_gpu)"]
        if cfg.allow_busy_gpu
        else [],
    )


def _compute_metrics(path: Path | None, display: Display) -> None:
    """`metrics.json`; the record is good without it."""
    if path is None:
        return
    from wattcount import metrics

    try:
        metrics.write(path)
    except (WattcountError, OSError, ValueError) as error:
        display.notice(f"no metrics ({error}); try again with: wattcount metrics {path}")


class _Watch:
    """One run's process, from its start to the record in its place."""

    def __init__(
        self,
        writer: RecordWriter,
        info: RunInfo,
        display: Display,
        session: Session,
        signals: Signals,
        started_ns: int,
        meanwhile: Callable[[], object] | None,
    ) -> None:
        self._writer = writer
        self._session = session
        self._info = info
        self._display = display
        self._started_ns = started_ns
        self._meanwhile = meanwhile
        self._log = writer.folder / ENGINE_LOG
        self._ended: Ended | None = None
        self._gave_up: tuple[str, str] | None = None
        """Why the process was told to end, or killed, before it came to its own end."""
        self._signals = signals
        self._signals_handled = 0
        self._heard_ns = now_ns()
        self._deadline_ns = self._heard_ns + _ns(SETUP_LIMIT_S)
        self._deadline_what = f"was not ready to measure after {SETUP_LIMIT_S:g} s"
        limit_s = info.config["sweep"]["time_limit_s"]
        self._limit_ns = None if limit_s is None else self._heard_ns + _ns(limit_s)
        self._limit_what = f"took longer than sweep.time_limit_s={limit_s} s"
        self._phase: Phase | None = None
        self._asked_to_end = False
        self._window = OwnWindow()

    def run(self, locks: Sequence[int], last: bool) -> Outcome:
        session = self._session
        try:
            session.make_scratch()
        except OSError as error:
            return self._recover(NOT_LAUNCHED, f"cannot make a folder for temporary files: {error}")
        try:
            process = session.launch(self._writer, alone=last and not session.is_up)
            session.give(self._job(last), locks)
        except OSError as error:
            session.end_process()
            return self._recover(NOT_LAUNCHED, f"cannot start the run's process: {error}")
        if session.log is not None and session.log != self._log:
            with contextlib.suppress(RunFailedError):  # the run itself will meet a disk that is full
                self._writer.link_log(session.log)
        try:
            with waking(process.wakeup_fd):
                self._listen(process)
        finally:
            self._window.release()
        if self._ended is not None and self._ended.goes_on and session.is_up:
            return self._outcome(None)
        status, left = session.end_process()
        if left:
            self._display.notice(f"processes {left} of the run could not be killed")
        return self._outcome(status)

    def _job(self, last: bool) -> Job:
        return Job(
            config=self._info.config,
            folder=str(self._writer.folder),
            log=str(self._session.log),
            last=last,
            started_ns=self._started_ns,
            launched_ns=now_ns(),
        )

    # --- listening ------------------------------------------------------------------------------

    def _listen(self, process: SessionProcess) -> None:
        looked_ns = now_ns()
        for chunk in process.listen(TICK_S):
            before_ns, looked_ns = looked_ns, now_ns()
            self._excuse(looked_ns - before_ns)
            for line in self._session.lines.feed(chunk):
                self._heard(line)
            self._pass_signals_on(process)
            if self._ended is not None and self._ended.goes_on:
                return
            if not chunk:  # nothing more waits in the pipe: only now can silence and lateness be judged
                self._display.tick()
                self._enforce_limits(process)

    def _excuse(self, passed_ns: int) -> None:
        """`passed_ns`: since the last look. While this process was stopped, the run could not be heard: its limits
        stand still. `sweep.time_limit_s` does not, for the run went on."""
        away_ns = passed_ns - _ns(TICK_S)
        if away_ns > _ns(AWAY_S):
            self._deadline_ns += away_ns
            self._heard_ns += away_ns

    def _heard(self, line: bytes) -> None:
        try:
            message = decode(line)
        except ValueError as error:
            self._display.notice(str(error))
            return
        self._heard_ns = now_ns()
        if isinstance(message, Notice):
            self._display.notice(message.text)
        elif isinstance(message, Ended):
            self._ended = message
            self._set_deadline(EXIT_LIMIT_S, "did not end after its record was written")
        else:
            self._follow(message)
            self._display.progress(message)

    def _follow(self, progress: Progress) -> None:
        self._window.follow(progress.phase)
        if self._meanwhile is not None and progress.phase is not None:
            work, self._meanwhile = self._meanwhile, None
            threading.Thread(target=_quietly, args=(work,), name="wattcount-meanwhile", daemon=True).start()
        if progress.phase is self._phase:
            return
        before, self._phase = self._phase, progress.phase
        if self._asked_to_end:
            return
        length_s = progress.planned_s if progress.planned_s is not None else progress.limit_s
        if progress.phase is None:
            self._set_deadline(SETUP_LIMIT_S, f"was not done {SETUP_LIMIT_S:g} s after {before}")
        elif length_s is not None:
            self._set_deadline(
                length_s + PHASE_GRACE_S, f"was not done with {progress.phase} after {length_s:g} s"
            )

    def _set_deadline(self, seconds: float, what: str) -> None:
        self._deadline_ns = now_ns() + _ns(seconds)
        self._deadline_what = what

    def _enforce_limits(self, process: SessionProcess) -> None:
        at_ns = now_ns()
        late = at_ns > self._deadline_ns
        over = self._limit_ns is not None and at_ns > self._limit_ns and self._ended is None
        silent = self._ended is None and at_ns > self._heard_ns + _ns(SILENCE_LIMIT_S)
        if not late and not ((silent or over) and not self._asked_to_end):
            return
        if self._asked_to_end or self._ended is not None:
            process.kill()
            return
        silence = f"was silent for {SILENCE_LIMIT_S:g} s"
        what = self._limit_what if over else self._deadline_what if late else silence
        self._give_up(TIMEOUT, f"the run's process {what}")
        self._ask_to_end(process, TIMEOUT_SIGNAL)

    # --- ending ---------------------------------------------------------------------------------

    def _pass_signals_on(self, process: SessionProcess) -> None:
        """The first one asks for an orderly end, the second one kills."""
        while self._signals_handled < len(self._signals):
            number = signal.Signals(self._signals[self._signals_handled])
            self._signals_handled += 1
            if self._signals_handled == 1:
                self._display.notice("interrupted: closing the record (once more to kill the run)")
                self._give_up(INTERRUPTED, f"interrupted by {number.name}")
                self._ask_to_end(process, number)
            else:
                process.kill()

    def _give_up(self, reason: str, message: str) -> None:
        if self._gave_up is None:
            self._gave_up = (reason, message)

    def _ask_to_end(self, process: SessionProcess, number: signal.Signals) -> None:
        if self._ended is None:
            self._asked_to_end = True
            self._set_deadline(CLOSE_LIMIT_S, "did not close its record")
        process.signal(number)

    def _outcome(self, status: int | None) -> Outcome:
        ended = self._ended
        if ended is not None and ended.record is not None:
            path = Path(ended.record)
            if ended.reason is None:
                return Outcome(EXIT_OK, path, None, None)
            return Outcome(self._exit_code(ended.reason), path, ended.reason, ended.message)
        # It may have died between putting the record in place and saying so.
        info = self._info
        placed = final_folder(self._writer.folder.parent.parent, info.point_id, info.repeat, info.run_id)
        reason, message = self._cause(status)
        if not self._writer.folder.exists() and placed.exists():
            from wattcount.records.reader import Record

            validity = Record.open(placed).info.validity
            if validity.valid:
                return Outcome(EXIT_OK, placed, None, None)
            reason, message = validity.reasons[0], validity.messages[0]
            return Outcome(self._exit_code(reason), placed, reason, message)
        return self._recover(reason, message)

    def _cause(self, status: int | None) -> tuple[str, str]:
        """Why the run's process left no record."""
        if self._ended is not None:
            return self._ended.reason or WORKER_DIED, self._ended.message or "the record was not written"
        if self._gave_up is not None:
            return self._gave_up
        if status is None:
            what = "the run's process could not be killed (it waits for a device or a disk; see dmesg)"
        elif status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            hint = " (out of memory? see dmesg)" if -status == signal.SIGKILL else ""
            what = f"the run's process was killed by {name}{hint}"
        else:
            what = f"the run's process ended with exit code {status}"
        return WORKER_DIED, f"{what}{self._last_log_line()}"

    def _last_log_line(self) -> str:
        last = last_lines(self._log, 1)
        return f"; {ENGINE_LOG} ends: {' '.join(last[0].split())}" if last else ""

    def _restore_settings(self) -> None:
        """What the run's process would have done at its end, for the record."""
        if self._info.gpu_settings:
            with contextlib.suppress(UndoError, OSError, ValueError, TypeError, KeyError, RunFailedError):
                self._session.restore(self._info.gpu_settings)
                draft = self._writer.draft()
                draft.gpu_settings = self._info.gpu_settings
                self._writer.save_draft(draft)

    def _recover(self, reason: str, message: str) -> Outcome:
        code = self._exit_code(reason)
        self._restore_settings()
        try:
            path = RecordWriter.recover(self._writer.folder, reason, message)
        except RunFailedError as error:
            disk = reason != INTERRUPTED and isinstance(error.__cause__, OSError)
            return Outcome(
                code,
                None,
                error.reason if disk else reason,
                f"{message}; {error}; what was measured is in {self._writer.folder}",
            )
        from wattcount.records.reader import Record

        if Record.open(path).info.validity.valid:
            self._display.notice(f"recovered the record: {message}")
            return Outcome(EXIT_OK, path, None, None)
        return Outcome(code, path, reason, message)

    def _exit_code(self, reason: str) -> int:
        code = self._signals.exit_code
        return code if reason == INTERRUPTED and code is not None else EXIT_FAILED


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _quietly(work: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        work()
