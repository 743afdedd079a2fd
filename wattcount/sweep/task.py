"""What one point is on whatever machine it is measured: run, record, tracking, and the sweep's ledger.

Needs nothing of the process that planned it, and returns something plain, so that a lane of this machine, a batch
job and a worker of a cluster all do the same.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Unpack

from wattcount.config.schema import CapacityConfig, RunConfig
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_OK,
    MeasuredElsewhereError,
    NotStartedError,
    RecordsUnwritableError,
    WattcountError,
    one_line,
)
from wattcount.records.writer import UNWRITABLE
from wattcount.run.orchestrate import Display, RunOptions
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.mlflow_log import LaneLog
from wattcount.sweep.point import MEASURED_ELSEWHERE, Outcome, State, failed, refused
from wattcount.sweep.status import figures_of


def measure_planned(
    cfg: RunConfig,
    *,
    key: str,
    ledger: Ledger | None,
    attempt: int = 1,
    display: Display | None = None,
    **options: Unpack[RunOptions],
) -> Outcome:
    """Measures a point on this machine and tells the ledger.

    Never raises an `Exception`: one bad point must not end a sweep.
    """

    def tell(outcome: Outcome) -> Outcome:
        told = dataclasses.replace(outcome, key=key, attempt=attempt)
        if ledger is not None:
            ledger.append(told)
        return told

    tell(Outcome(State.running, gpu_uuid=",".join(options.get("gpus") or cfg.gpu.devices) or None))
    sweep = None if ledger is None else ledger.folder.name
    with nullcontext() if ledger is None else ledger.beating():  # whoever reads it may be on another host
        outcome = measure(cfg, display, sweep, **options)
    return tell(outcome)


def measure(
    cfg: RunConfig,
    display: Display | None = None,
    sweep: str | None = None,
    **options: Unpack[RunOptions],
) -> Outcome:
    """Runs one point, or searches for a capacity by several; what goes wrong is in the outcome. An interruption is an exit code too."""
    if isinstance(cfg.scenario, CapacityConfig):
        from wattcount.run import display as displays
        from wattcount.sweep import capacity

        shown = display or displays.InBackground(displays.create(cfg.display))
        try:
            return capacity.find(cfg, functools.partial(measure, sweep=sweep), shown, **options)
        finally:
            if display is None:
                shown.ended(None)
    try:
        return _measure(cfg, display, sweep, options)
    except MeasuredElsewhereError as error:
        return refused(str(error), MEASURED_ELSEWHERE)
    except RecordsUnwritableError as error:
        return refused(str(error), UNWRITABLE)
    except NotStartedError as error:
        return refused(str(error))
    except BrokenPipeError:
        raise
    except (
        OSError
    ) as error:  # a full disk, too many open files: it must end neither the sweep nor in a traceback
        message = f"the run could not be prepared or closed: {one_line(error)}"
        return failed("setup_failed", message)
    except WattcountError as error:
        reason = getattr(error, "reason", "internal_error")
        return failed(reason, str(error))


def _measure(run: RunConfig, display: Display | None, sweep: str | None, options: RunOptions) -> Outcome:
    from wattcount.run import display as displays
    from wattcount.run import orchestrate

    # Importing MLflow and making its database takes seconds, which there is time for meanwhile.
    meanwhile = functools.partial(_prepare_tracking, run) if run.tracking.enabled else None
    run_outcome = orchestrate.run_point(
        run,
        display or displays.InBackground(displays.create(run.display)),
        meanwhile=meanwhile,
        **options,
    )
    path = run_outcome.record_path
    state = State.done if run_outcome.exit_code == EXIT_OK else State.failed
    outcome = Outcome(
        state,
        exit_code=run_outcome.exit_code,
        before=run_outcome.measured_before,
        reason=run_outcome.reason,
        message=run_outcome.message or None,
        record=None if path is None else str(path),
    )
    if path is None or run_outcome.measured_before:
        return outcome
    if run.tracking.enabled:
        _track(path, run, display, sweep)
    return _with_figures(outcome, path)


def _with_figures(outcome: Outcome, path: Path) -> Outcome:
    """What the sweep wants to know of the record; one that cannot be read has said so."""
    from wattcount.metrics.metrics_json import Status
    from wattcount.result import judge

    found = judge(path)
    if found.status is Status.damaged:
        return outcome
    invalid = outcome.state is State.done and found.status is Status.invalid
    return dataclasses.replace(
        outcome,
        state=State.invalid if invalid else outcome.state,
        exit_code=EXIT_FAILED if invalid else outcome.exit_code,
        reason=found.verdict.reason if invalid else outcome.reason,
        message=found.verdict.message if invalid else outcome.message,
        wall_s=found.wall_s,
        energy_j=found.run_energy_j,
        figures=figures_of(found),
        gpu_uuid=",".join(found.boards) or None,
        session=found.session,
        log_line=found.log_line,
    )


def _prepare_tracking(run: RunConfig) -> None:
    from wattcount.tracking import prepare

    prepare(run.tracking)


_LANE_LOG = LaneLog()
"""Kept from point to point: it knows how the store does."""


def _track(path: Path, run: RunConfig, display: Display | None, sweep: str | None) -> None:
    """Logs a record; whatever goes wrong there, the record is safe and can be logged later."""
    if sweep is not None:
        notice = _complain if display is None else display.notice
        _LANE_LOG.record(path, run.tracking, run.records_dir, sweep, notice)
        return
    try:
        from wattcount.tracking import log_record, resolve_uri, ways_to_see

        log_record(path, run.tracking)
        if display is None:
            print("\n".join(ways_to_see(resolve_uri(run.tracking), run.tracking.experiment)), flush=True)
        return
    except WattcountError as error:
        problem = str(error)
    except Exception as error:  # the run must not be lost to its logging
        problem = f"could not log to MLflow: {one_line(error)}; the record is kept, log it later with: wattcount log {path}"
    if display is None:
        _complain(problem)
    else:
        display.notice(problem)


def _complain(problem: str) -> None:
    print(f"wattcount: {problem}", file=sys.stderr)
