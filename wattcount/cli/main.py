"""The one program. A first word that names a subcommand runs it; anything else is a run."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from wattcount.config.loader import did_you_mean
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_STARTED,
    EXIT_OK,
    NotStartedError,
    WattcountError,
)
from wattcount.masking import concealed_arguments, masked
from wattcount.run.waiting import leave_if_stuck
from wattcount.text import degrade, printable


@dataclass(frozen=True)
class Command:
    """A subcommand. Its module `wattcount.cli.MODULE` is imported only when the subcommand is called.

    what           what it does, for the help
    add_arguments  name of the module's function that adds the arguments to a parser
    main           name of the module's function that runs it
    """

    what: str
    module: str
    add_arguments: str = "add_arguments"
    main: str = "main"


COMMANDS = {
    "show": Command("print a record; --json: its metrics", "show"),
    "metrics": Command(
        "compute metrics.json of a record afresh from its raw files", "rewrite", main="rewrite_metrics"
    ),
    "upgrade": Command(
        "write records of earlier versions anew, as small as those of today",
        "rewrite",
        main="upgrade_records",
    ),
    "list": Command(
        "list runs, with the short ids that commands take", "results", "add_list_arguments", "list_runs"
    ),
    "results": Command("results of a sweep or folder, repeats pooled: table, CSV, JSON", "results"),
    "compare": Command("set records side by side", "compare"),
    "study": Command("say which GPU and settings save energy, how much, how sure", "study"),
    "recommend": Command("say what should serve a model at a load, and how sure that is", "recommend"),
    "predict": Command("say what settings take that nobody measured, and how sure that is", "predict"),
    "simulate": Command("play a load without a GPU: latencies and energy at any rate", "simulate"),
    "fleet": Command("say which boards should be on over a day of traffic", "fleet"),
    "report": Command("make pages of a data set or of records, which open from disk", "report"),
    "import": Command("make results of what others measured", "import_"),
    "log": Command("log a record to MLflow", "log"),
    "status": Command("say how a sweep stands: done, failed, running, time left, energy", "status"),
    "models": Command(
        "list the models, and with --fits GPU which of them a GPU holds",
        "catalogue",
        "add_model_arguments",
        "list_models",
    ),
    "gpus": Command(
        "list the GPUs, and with --fits MODEL which of them hold a model",
        "catalogue",
        "add_gpu_arguments",
        "list_gpus",
    ),
    "dataset": Command("make a data set, add to it, read it, check it", "dataset"),
    "submit": Command("put records into a bundle for the open data set, names hidden", "submit"),
    "validate": Command("say whether the data set would take a bundle, and why not", "validate"),
    "sampler": Command("let a wattcount on another machine measure the GPUs of this one", "sampler"),
    "doctor": Command("say what this machine has, what is missing, and how to get it", "doctor"),
    "completion": Command("print what makes bash, zsh or fish complete words", "completion"),
}
"""The subcommands, in the order of the help."""
HELP_WIDTH = 78
"""Width of the list of groups in the help [characters]: a terminal of 80 does not wrap it."""

# The text of `wattcount --help`; `commands` and `groups` are filled in.
USAGE = """\
usage: wattcount [KEY=VALUE ...] [-m] [--config-dir DIR] [--cfg job]
       wattcount COMMAND ...

Without a command: measure. Each KEY=VALUE chooses an option of a group or sets
one key.

  wattcount model=llama3_8b gpu=a100 scenario=server
  wattcount -m model=llama3_8b,qwen2_5_7b gpu=a100,l4 scenario=batch,server
  wattcount model=qwen2_5_7b scenario.rate_rps=4 scenario.slo.ttft_ms=500
  wattcount model=Qwen/Qwen2.5-0.5B-Instruct   (or a folder: /models/mine)

commands (wattcount COMMAND --help tells more):
{commands}

groups and their options:
{groups}

options:
  -m, --multirun     run every combination of the comma-separated values
  --config-dir DIR   a folder with groups of your own, e.g. DIR/model/mine.yaml
  --cfg job          print the configuration instead of running it
  --hydra-help       Hydra's own flags
  --version          print the version

Keys that scripts rely on: records_dir, seed, repeat, model.path, model.weights
(hub, path, random), scenario.rate_rps, scenario.num_requests,
scenario.slo.{{ttft_ms,tpot_ms,e2e_ms}}.

exit codes: 0 done, 1 something failed while running, 2 nothing was started,
            130 / 143 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code. `argv`: the arguments; None: this process's own."""
    typed = list(sys.argv[1:] if argv is None else argv)
    args = concealed_arguments(typed)
    if argv is None and args != typed:
        _begin_again(args)
    degrade(sys.stdout, sys.stderr)
    try:
        return _dispatch(args)
    except WattcountError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"wattcount: {printable(masked(str(error)))}", file=sys.stderr)
        return EXIT_NOT_STARTED if isinstance(error, NotStartedError) else EXIT_FAILED
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        # Of a path that begins with ~: a user may have no home, as in many containers.
        print(
            "wattcount: a path begins with ~, but this user has no home: write it out, or set HOME",
            file=sys.stderr,
        )
        return EXIT_NOT_STARTED
    except KeyboardInterrupt:
        leave_if_stuck(EXIT_INTERRUPTED)
        print("wattcount: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _begin_again(args: Sequence[str]) -> None:
    """Replaces this process by itself without the password in its command line, which all users of the host can read."""
    print(
        "wattcount: a password on the command line: other users of this host could read it for a moment, and it stays in "
        "the shell's history; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD keep it out of both",
        file=sys.stderr,
        flush=True,
    )
    # What comes before the arguments: the interpreter, its own flags, and the module or script.
    before = sys.orig_argv[: len(sys.orig_argv) - len(args)]
    with contextlib.suppress(OSError):  # then it goes on as it is
        os.execv(sys.executable, [*before, *args])


def _dispatch(args: list[str]) -> int:
    first = args[0] if args else ""
    if first in COMMANDS:
        return _command(first, args[1:])
    if "--version" in args or first == "-V":
        from wattcount import __version__  # finding it takes as long as printing the help

        print(f"wattcount {__version__}")
        return EXIT_OK
    if "--help" in args or "-h" in args or first == "help":
        print(help_text(), end="")
        return EXIT_OK
    if first and first[0].isalpha() and "=" not in first:
        raise NotStartedError(
            f"{first!r} is neither a command nor KEY=VALUE (see wattcount --help){did_you_mean(first, COMMANDS)}"
        )
    from wattcount.cli import run

    return run.main(args)


def _command(name: str, args: list[str]) -> int:
    parser, command = parser_of(name), COMMANDS[name]
    try:
        parsed = parser.parse_args(args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_NOT_STARTED
    module = importlib.import_module(f"wattcount.cli.{command.module}")
    result: int = getattr(module, command.main)(parsed)
    return result


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a subcommand's arguments. Imports its module."""
    command = COMMANDS[name]
    module = importlib.import_module(f"wattcount.cli.{command.module}")
    parser = argparse.ArgumentParser(prog=f"wattcount {name}", description=command.what)
    getattr(module, command.add_arguments)(parser)
    return parser


def help_text() -> str:
    from wattcount.config.loader import GROUPS
    from wattcount.config.packaged import packaged_options

    commands = "\n".join(f"  {name:<10} {command.what}" for name, command in COMMANDS.items())
    groups = "\n".join(_wrapped(group, packaged_options(group)) for group in GROUPS)
    return USAGE.format(commands=commands, groups=groups)


def _wrapped(group: str, names: list[str]) -> str:
    lines, line = [], f"  {group:<10}"
    for name in names:
        if len(line) + 1 + len(name) > HELP_WIDTH:
            lines.append(line)
            line = " " * 12
        line += f" {name}"
    return "\n".join([*lines, line])
