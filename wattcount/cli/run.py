"""`python -m wattcount KEY=VALUE ...`: composes one point or a sweep with Hydra and runs it.

Hydra's own entry point prints tracebacks and ends every error with exit code 1; this one keeps to the
exit codes of `wattcount.errors` and says what is wrong in one line. A sweep goes through Hydra's
sweeper and launcher, whatever they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra import version as hydra_version
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import DictConfig

from wattcount.config import RunConfig
from wattcount.config.composition import CONFIG_NAME, VERSION_BASE, conf_path, from_hydra
from wattcount.config.hydra_errors import plain_errors
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_STARTED,
    EXIT_OK,
    EXIT_TERMINATED,
    MeasuredElsewhereError,
    NotStartedError,
    WattcountError,
)

if TYPE_CHECKING:
    from wattcount.run.cooldown import Rest


@dataclasses.dataclass(frozen=True)
class PointResult:
    """What became of one point; plain, so that a launcher can send it from another machine."""

    exit_code: int
    overrides: tuple[str, ...]
    record_path: str | None
    message: str | None
    measured_before: bool = False
    """The record was there already; nothing was started."""


Later = list[tuple[RunConfig, tuple[str, ...]]]
"""Points that another run measures right now, with their overrides, to be looked at again."""


class Interrupted(BaseException):
    """Ends a sweep: the person or the scheduler wants no further point. Not an `Exception`, or Hydra keeps it."""

    def __init__(self, exit_code: int, *, reported: bool) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.reported = reported
        """The person has been told."""


def main(args: Sequence[str]) -> int:
    """Runs what `args` asks for and returns the exit code."""
    parser = get_args_parser()
    parser.prog = "wattcount"
    try:
        parsed = parser.parse_intermixed_args(list(args))
    except SystemExit as stop:
        return EXIT_OK if stop.code in (None, 0) else EXIT_NOT_STARTED
    try:
        with _terminable():
            return _run(parsed, parser)
    except Interrupted as stop:
        if not stop.reported:
            print("wattcount: terminated", file=sys.stderr)
        return stop.exit_code


def run_task(cfg: DictConfig, later: Later | None = None, rest: Rest | None = None) -> PointResult:
    """Hydra's task: runs one point. Never raises an `Exception`: one bad point must not end a sweep.

    A point that another run measures right now is put into `later`; without it, it is waited for. `rest` is the
    sweep's: what the GPU is to be like before each run.
    """
    overrides = tuple(str(override) for override in HydraConfig.get().overrides.task)
    try:
        run = from_hydra(cfg)
    except NotStartedError as error:
        return _told(PointResult(EXIT_NOT_STARTED, overrides, None, str(error)))
    if run.resume is None:
        run.resume = HydraConfig.get().mode is RunMode.MULTIRUN
    return _run_one(run, overrides, later, rest)


def _run_one(
    run: RunConfig, overrides: tuple[str, ...], later: Later | None, rest: Rest | None
) -> PointResult:
    try:
        result = _measure(run, overrides, wait_for_others=later is None, rest=rest)
    except MeasuredElsewhereError as error:
        assert later is not None
        later.append((run, overrides))
        result = PointResult(EXIT_NOT_STARTED, overrides, None, str(error))
    except NotStartedError as error:
        result = PointResult(EXIT_NOT_STARTED, overrides, None, str(error))
    except WattcountError as error:
        result = PointResult(EXIT_FAILED, overrides, None, str(error))
    return _told(result)


def _told(result: PointResult) -> PointResult:
    """Says what became of a point; raises `Interrupted` where nothing more is wanted."""
    if result.message:
        print(f"wattcount: {result.message}", file=sys.stderr)
    if result.measured_before:
        print("already measured (resume=false measures again):")
    if result.record_path:
        print(f"record: {result.record_path}", flush=True)
    if result.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        raise Interrupted(result.exit_code, reported=True)
    return result


def _measure(
    run: RunConfig, overrides: tuple[str, ...], *, wait_for_others: bool, rest: Rest | None
) -> PointResult:
    from wattcount.run import display, orchestrate

    # Importing MLflow and making its database takes seconds, which there is time for meanwhile.
    meanwhile = functools.partial(_prepare_tracking, run) if run.tracking.enabled else None
    outcome = orchestrate.run_point(
        run, display.create(run.display), meanwhile=meanwhile, wait_for_others=wait_for_others, rest=rest
    )
    path = outcome.record_path
    if path is not None and run.tracking.enabled and not outcome.measured_before:
        _track(Path(path), run)
    return PointResult(
        outcome.exit_code,
        overrides,
        None if path is None else str(path),
        outcome.message or None,
        outcome.measured_before,
    )


def _prepare_tracking(run: RunConfig) -> None:
    from wattcount.tracking import prepare

    prepare(run.tracking)


def _track(path: Path, run: RunConfig) -> None:
    """Logs a record; whatever goes wrong there, the record is safe and can be logged later."""
    try:
        from wattcount.tracking import log_record, resolve_uri, ui_command

        log_record(path, run.tracking)
        print(f"see it with: {ui_command(resolve_uri(run.tracking))}", flush=True)
    except WattcountError as error:
        print(f"wattcount: {error}", file=sys.stderr)
    except Exception as error:  # the run must not be lost to its logging
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        print(
            f"wattcount: could not log to MLflow: {reason}; the record is kept, log it later with: "
            f"wattcount log {path}",
            file=sys.stderr,
        )


def exit_code(results: Iterable[PointResult]) -> int:
    """Of a sweep: 0 all points done, 2 none was started, 1 anything else (see `wattcount.errors`)."""
    codes = {result.exit_code for result in results}
    if codes <= {EXIT_OK}:
        return EXIT_OK
    return EXIT_NOT_STARTED if codes == {EXIT_NOT_STARTED} else EXIT_FAILED


def _run(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if parsed.config_path is not None or parsed.experimental_rerun is not None:
        raise NotStartedError("--config-path and --experimental-rerun do not work here; use --config-dir DIR")
    hydra_version.setbase(VERSION_BASE)
    config_name = parsed.config_name or CONFIG_NAME
    overrides = list(parsed.overrides)
    with plain_errors():
        hydra = Hydra.create_main_hydra2(
            task_name="wattcount", config_search_path=_search_path(parsed.config_dir)
        )
    try:
        with plain_errors():
            if parsed.hydra_help:
                hydra.hydra_help(config_name=config_name, args_parser=parser, args=parsed)
                return EXIT_OK
            if parsed.cfg:
                hydra.show_cfg(
                    config_name=config_name,
                    overrides=overrides,
                    cfg_type=parsed.cfg,
                    package=parsed.package,
                    resolve=parsed.resolve,
                )
                return EXIT_OK
            if parsed.info:
                hydra.show_info(parsed.info, config_name=config_name, overrides=overrides)
                return EXIT_OK
            if parsed.shell_completion:
                hydra.shell_completion(config_name=config_name, overrides=overrides)
                return EXIT_OK
            sweep = parsed.multirun or hydra.get_mode(config_name, overrides) is RunMode.MULTIRUN
        if sweep:
            return _sweep(hydra, config_name, overrides)
        return _single(hydra, config_name, overrides)
    finally:
        GlobalHydra.instance().clear()


def _single(hydra: Hydra, config_name: str, overrides: list[str]) -> int:
    with plain_errors():
        job = hydra.run(
            config_name=config_name, task_function=run_task, overrides=[*overrides, "hydra.mode=RUN"]
        )
    result: PointResult = job.return_value
    return result.exit_code


def _sweep(hydra: Hydra, config_name: str, overrides: list[str]) -> int:
    from wattcount.run.cooldown import Rest

    later: Later = []
    rest = Rest()
    with plain_errors():
        batches = hydra.multirun(
            config_name=config_name,
            task_function=functools.partial(run_task, later=later, rest=rest),
            overrides=[*overrides, "hydra.mode=MULTIRUN"],
        )
    results = [_result(job) for batch in batches or () for job in batch]
    # Only now: two sweeps over the same points share them, and wait for each other at the end.
    waited = {overrides: _run_one(run, overrides, None, rest) for run, overrides in later}
    results = [waited.get(result.overrides, result) for result in results]
    wrong = [result for result in results if result.exit_code != EXIT_OK]
    if wrong:
        print(f"wattcount: {len(wrong)} of {len(results)} points not done:", file=sys.stderr)
        for result in wrong:
            state = "not started" if result.exit_code == EXIT_NOT_STARTED else "failed"
            print(f"  {' '.join(result.overrides)}: {state}: {result.message}", file=sys.stderr)
    return exit_code(results)


def _result(job: JobReturn) -> PointResult:
    value: Any = job.return_value
    assert isinstance(value, PointResult)
    return value


def _search_path(config_dir: str | None) -> ConfigSearchPathImpl:
    search_path = create_config_search_path(conf_path())
    assert isinstance(search_path, ConfigSearchPathImpl)
    if config_dir is not None:
        folder = Path(config_dir).expanduser().absolute()
        if not folder.is_dir():
            raise NotStartedError(f"--config-dir: no folder at {folder}")
        search_path.prepend(
            provider="command-line", path=f"file://{folder}", anchor=SearchPathQuery(provider="schema")
        )
    return search_path


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as an exception, so that what a run holds is let go of on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted(EXIT_TERMINATED, reported=False)

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
