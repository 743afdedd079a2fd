"""What one point is on whatever machine it is measured: run, record, tracking, and the sweep's ledger.

Needs nothing of the process that planned it, and returns something plain, so that a lane of this machine, a batch
job and a worker of a cluster all do the same.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from wattcount.config.schema import RunConfig
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_NOT_STARTED,
    EXIT_OK,
    MeasuredElsewhereError,
    NotStartedError,
    RecordsUnwritableError,
    WattcountError,
    one_line,
)
from wattcount.records.writer import UNWRITABLE
from wattcount.run.cooldown import Rest
from wattcount.run.orchestrate import Display
from wattcount.sweep.index import run_energy_j, run_wall_s
from wattcount.sweep.keys import plan_key
from wattcount.sweep.ledger import MEASURED_ELSEWHERE, Event, EventKind, Ledger
from wattcount.sweep.mlflow_log import LaneLog

NOT_STARTED = "not_started"


@dataclass(frozen=True)
class PointResult:
    """What became of one point; plain, so that a launcher can send it from another machine."""

    exit_code: int
    overrides: tuple[str, ...]
    record_path: str | None
    message: str | None
    measured_before: bool = False
    """The record was there already; nothing was started."""
    key: str | None = None
    reason: str | None = None
    """Stable code of what went wrong; None: nothing."""
    invalid: bool = False
    """It came to its end, but its checks of validity say that it cannot be believed."""
    attempt: int = 1
    """Tries so far, in this start of the sweep."""
    wall_s: float | None = None
    energy_j: float | None = None
    """Of the run's GPUs from start to end, joule; see `index.run_energy_j`."""
    j_per_output_token: float | None = None
    gpu_uuid: str | None = None
    """Several joined by commas."""
    log_line: str | None = None
    """The last line of the engine's log, of a failed run."""

    @property
    def done(self) -> bool:
        return self.exit_code == EXIT_OK and not self.invalid

    @property
    def elsewhere(self) -> bool:
        """Another run measures it right now: to be looked at again."""
        return self.reason == MEASURED_ELSEWHERE


def run_planned(
    overrides: Sequence[str],
    *,
    sweep: str | None = None,
    key: str | None = None,
    attempt: int = 1,
    records_dir: str | None = None,
    config_dir: str | None = None,
    wait_for_others: bool = False,
) -> PointResult:
    """Composes a point and measures it on this machine.

    overrides        what Hydra makes its configuration from
    sweep, key       of the ledger to tell of it; None: none, and the key that the configuration has by itself
    attempt          tries of it so far in this start of the sweep, with this one
    records_dir      in place of the configuration's, which may depend on the machine
    wait_for_others  for a run that measures the same point right now; else `PointResult.elsewhere` says so

    Never raises an `Exception`: one bad point must not end a sweep.
    """
    from wattcount.config.composition import compose

    try:
        cfg = compose(overrides, config_dir)
    except NotStartedError as error:
        return PointResult(
            EXIT_NOT_STARTED, tuple(overrides), None, str(error), key=key, reason=NOT_STARTED, attempt=attempt
        )
    if records_dir is not None:
        cfg.records_dir = records_dir
    if cfg.resume is None:
        cfg.resume = True
    key = key or plan_key(cfg)
    opened = nullcontext() if sweep is None else Ledger.open(cfg.records_dir, sweep)
    with opened as ledger:
        return measure_planned(
            cfg, tuple(overrides), key=key, ledger=ledger, attempt=attempt, wait_for_others=wait_for_others
        )


def measure_planned(
    cfg: RunConfig,
    overrides: tuple[str, ...],
    *,
    key: str,
    ledger: Ledger | None,
    attempt: int = 1,
    wait_for_others: bool = False,
    rest: Rest | None = None,
    display: Display | None = None,
) -> PointResult:
    """As `run_planned`, of a configuration that is there already. `rest` is the sweep's, between runs on a GPU."""

    def tell(event: Event) -> None:
        if ledger is not None:
            ledger.append(dataclasses.replace(event, key=key, attempt=attempt))

    tell(Event(EventKind.started, gpu_uuid=",".join(cfg.gpu.devices) or None))
    sweep = None if ledger is None else ledger.folder.name
    with nullcontext() if ledger is None else ledger.beating():  # whoever reads it may be on another host
        result = measure(
            cfg, overrides, wait_for_others=wait_for_others, rest=rest, display=display, sweep=sweep
        )
    result = dataclasses.replace(result, key=key, attempt=attempt)
    tell(event_of(result))
    return result


def measure(
    cfg: RunConfig,
    overrides: tuple[str, ...],
    *,
    wait_for_others: bool = True,
    rest: Rest | None = None,
    display: Display | None = None,
    sweep: str | None = None,
) -> PointResult:
    """Runs one point; what goes wrong is in the result. An interruption is an exit code too."""
    try:
        return _measure(
            cfg, overrides, wait_for_others=wait_for_others, rest=rest, display=display, sweep=sweep
        )
    except MeasuredElsewhereError as error:
        return PointResult(EXIT_NOT_STARTED, overrides, None, str(error), reason=MEASURED_ELSEWHERE)
    except RecordsUnwritableError as error:
        return PointResult(EXIT_NOT_STARTED, overrides, None, str(error), reason=UNWRITABLE)
    except NotStartedError as error:
        return PointResult(EXIT_NOT_STARTED, overrides, None, str(error), reason=NOT_STARTED)
    except BrokenPipeError:
        raise
    except (
        OSError
    ) as error:  # a full disk, too many open files: it must end neither the sweep nor in a traceback
        message = f"the run could not be prepared or closed: {one_line(error)}"
        return PointResult(EXIT_FAILED, overrides, None, message, reason="setup_failed")
    except WattcountError as error:
        reason = getattr(error, "reason", "internal_error")
        return PointResult(EXIT_FAILED, overrides, None, str(error), reason=reason)


def _measure(
    run: RunConfig,
    overrides: tuple[str, ...],
    *,
    wait_for_others: bool,
    rest: Rest | None,
    display: Display | None,
    sweep: str | None,
) -> PointResult:
    from wattcount.run import display as displays
    from wattcount.run import orchestrate

    # Importing MLflow and making its database takes seconds, which there is time for meanwhile.
    meanwhile = functools.partial(_prepare_tracking, run) if run.tracking.enabled else None
    outcome = orchestrate.run_point(
        run,
        display or displays.InBackground(displays.create(run.display)),
        meanwhile=meanwhile,
        wait_for_others=wait_for_others,
        rest=rest,
    )
    path = outcome.record_path
    result = PointResult(
        outcome.exit_code,
        overrides,
        None if path is None else str(path),
        outcome.message or None,
        outcome.measured_before,
        reason=outcome.reason,
    )
    if path is None or outcome.measured_before:
        return result
    if run.tracking.enabled:
        _track(path, run, display, sweep)
    return _with_figures(result, path)


def _with_figures(result: PointResult, path: Path) -> PointResult:
    """What the sweep wants to know of the record; one that cannot be read has said so."""
    from wattcount.metrics.verdict import Status, judge

    judged = judge(path)
    if judged.record is None or judged.metrics is None:
        return result
    found, info, metrics = judged.verdict, judged.record.info, judged.metrics["metrics"]
    invalid = result.exit_code == EXIT_OK and found.status is Status.invalid
    return dataclasses.replace(
        result,
        invalid=invalid,
        reason=found.reason if invalid else result.reason,
        message=found.message if invalid else result.message,
        wall_s=run_wall_s(info),
        energy_j=run_energy_j(info, metrics),
        j_per_output_token=metrics.get("energy/gpu_j_per_output_token"),
        gpu_uuid=",".join(str(gpu["uuid"]) for gpu in info.gpus) or None,
        log_line=info.log_tail[-1] if info.log_tail else None,
    )


def event_of(result: PointResult) -> Event:
    """What the ledger is told of it, but for the point's key and the attempt."""
    if result.measured_before:
        kind = EventKind.measured_before
    elif result.exit_code == EXIT_NOT_STARTED:
        kind = EventKind.not_started
    elif result.exit_code != EXIT_OK:
        kind = EventKind.failed
    else:
        kind = EventKind.invalid if result.invalid else EventKind.done
    return Event(
        kind,
        reason=result.reason,
        message=result.message,
        record=result.record_path,
        gpu_uuid=result.gpu_uuid,
        wall_s=result.wall_s,
        energy_j=result.energy_j,
        j_per_output_token=result.j_per_output_token,
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
        from wattcount.tracking import log_record, resolve_uri, ui_command

        log_record(path, run.tracking)
        if display is None:
            print(f"see it with: {ui_command(resolve_uri(run.tracking))}", flush=True)
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
