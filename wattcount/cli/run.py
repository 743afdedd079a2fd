"""`python -m wattcount KEY=VALUE ...`: composes one point or a sweep with Hydra and runs it.

Hydra's own entry point prints tracebacks and ends every error with exit code 1. This one has the exit codes of
`wattcount.errors` and tells in one line what is wrong. A sweep goes through Hydra's sweeper and launcher.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hydra import version as hydra_version
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from wattcount.config import RunConfig, hub
from wattcount.config.composition import CONFIG_NAME, VERSION_BASE, from_hydra, keep_text, plain_errors
from wattcount.config.packaged import conf_path
from wattcount.config.schema import CapacityConfig
from wattcount.errors import (
    EXIT_INTERRUPTED,
    EXIT_NOT_STARTED,
    EXIT_OK,
    EXIT_TERMINATED,
    NotStartedError,
)
from wattcount.files import write_atomically
from wattcount.masking import has_secret, masked
from wattcount.run.waiting import leave_if_stuck
from wattcount.sweep import report, sweeper, task
from wattcount.sweep.point import Outcome, State, refused
from wattcount.sweep.report import SweepResult
from wattcount.sweep.sweeper import exit_code

sweeper.register()


class Interrupted(BaseException):
    """Ends a sweep, because a person or the scheduler wants no further point. Hydra would keep an `Exception`."""

    def __init__(self, exit_code: int, *, reported: bool) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.reported = reported
        """The person has been told."""


def main(args: Sequence[str]) -> int:
    """Runs what `args` asks for and returns the exit code."""
    parser = get_args_parser()
    parser.prog = "wattcount"
    parser.error = _refuse  # type: ignore[method-assign] # Hydra's own prints its usage
    try:
        parsed = parser.parse_intermixed_args(list(args))
    except SystemExit as stop:
        return EXIT_OK if stop.code in (None, 0) else EXIT_NOT_STARTED
    try:
        with _terminable():
            return _run(parsed, parser)
    except Interrupted as stop:
        leave_if_stuck(stop.exit_code)
        if not stop.reported:
            print("wattcount: terminated", file=sys.stderr)
        return stop.exit_code


def _refuse(message: str) -> NoReturn:
    raise NotStartedError(
        f"{message}; keys are written KEY=VALUE, without dashes (wattcount --help has the options)"
    )


def run_task(cfg: DictConfig) -> Outcome | None:
    """Hydra's task for a single run: measures it, or with `dry_run` says what would be measured. None: it is a sweep, of one search."""
    _mask_hydra_files()
    try:
        run = from_hydra(cfg)
        if isinstance(run.scenario, CapacityConfig):
            return None
        if run.dry_run:
            return _dry(run)
    except NotStartedError as error:
        return _told(refused(str(error)))
    return _told(task.measure(dataclasses.replace(run, resume=bool(run.resume))))


def _mask_hydra_files() -> None:
    """Masks passwords and tokens in the files that Hydra has written of the configuration (`hydra.output_subdir`)."""
    hydra = HydraConfig.get()
    if hydra.output_subdir is None:
        return
    for file in Path(hydra.runtime.output_dir, hydra.output_subdir).glob("*.yaml"):
        if has_secret(text := file.read_text(encoding="utf-8")):
            write_atomically(file, masked(text))


def _dry(run: RunConfig) -> Outcome:
    from wattcount.gpu.nvml import open_session
    from wattcount.report.labels import headline
    from wattcount.run.preflight import fetches_model, preflight

    with open_session(run.power, run.gpu) as session:
        resolved = preflight(run, session)
        weights = f" ({_weights_in_words(resolved)})" if fetches_model(resolved) else ""
    print(f"{headline(resolved)}: nothing speaks against it here")
    print(
        f"  looked at  configuration, GPU, engine's installation, fit, load, model{weights}, room for the record"
    )
    print("  not tried  starting the engine")
    print("dry run: nothing was started")
    return Outcome(State.done)


def _weights_in_words(run: RunConfig) -> str:
    """Where a model of the hub is; one that cannot be had was refused before."""
    return {
        hub.Place.here: "in the local cache",
        hub.Place.hub: "on the hub, which answers: to be downloaded",
        hub.Place.nowhere: "not to be had",
        hub.Place.unknown: "on the hub, which was not asked: the package huggingface_hub is missing",
    }[hub.look(run.model).place]


def _told(outcome: Outcome) -> Outcome:
    """Prints what became of a run. Raises `Interrupted` where the run was interrupted."""
    if outcome.message:
        invalid = "the run is INVALID: " if outcome.state is State.invalid else ""
        print(f"wattcount: {invalid}{outcome.message}", file=sys.stderr)
    if outcome.before:
        print("already measured (resume=false measures again):")
    if outcome.record:
        print(f"record: {outcome.record}", flush=True)
    if outcome.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        raise Interrupted(outcome.exit_code, reported=True)
    return outcome


def _run(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if parsed.config_path is not None or parsed.experimental_rerun is not None:
        raise NotStartedError("--config-path and --experimental-rerun do not work here; use --config-dir DIR")
    hydra_version.setbase(VERSION_BASE)
    config_name = parsed.config_name or CONFIG_NAME
    # Both ways of choosing an experiment: Hydra takes `+` only for groups that have no choice yet.
    overrides = [keep_text(re.sub(r"^\+(?=experiment=)", "", override)) for override in parsed.overrides]
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
                with _masked_output():
                    hydra.show_cfg(
                        config_name=config_name,
                        overrides=overrides,
                        cfg_type=parsed.cfg,
                        package=parsed.package,
                        resolve=parsed.resolve,
                    )
                return EXIT_OK
            if parsed.info:
                with _masked_output():
                    hydra.show_info(parsed.info, config_name=config_name, overrides=overrides)
                return EXIT_OK
            if parsed.shell_completion:
                raise NotStartedError("completion comes from: wattcount completion bash (or zsh, fish)")
            sweep = parsed.multirun or hydra.get_mode(config_name, overrides) is RunMode.MULTIRUN
        if sweep:
            return _sweep(hydra, config_name, overrides)
        return _single(hydra, config_name, overrides)
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _masked_output() -> Iterator[None]:
    """Masks passwords and tokens in what Hydra prints of a configuration. The user's own files may hold them."""
    with redirect_stdout(io.StringIO()) as shown:
        yield
    print(masked(shown.getvalue()), end="")


def _single(hydra: Hydra, config_name: str, overrides: list[str]) -> int:
    with plain_errors():
        job = hydra.run(
            config_name=config_name, task_function=run_task, overrides=[*overrides, "hydra.mode=RUN"]
        )
    outcome: Outcome | None = job.return_value
    return _sweep(hydra, config_name, overrides) if outcome is None else outcome.exit_code


def _sweep(hydra: Hydra, config_name: str, overrides: list[str]) -> int:
    with plain_errors():
        sweep: SweepResult = hydra.multirun(
            config_name=config_name, task_function=run_task, overrides=[*overrides, "hydra.mode=MULTIRUN"]
        )
    for line in report.result_lines(sweep):
        print(line, flush=True)
    for line in report.end_lines(sweep):
        print(line, file=sys.stderr)
    return exit_code(sweep)


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
    """Turns SIGTERM into an exception, so that a run releases what it holds."""
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
