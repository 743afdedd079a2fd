"""`wattcount completion SHELL`: completion of commands, options, groups, keys, sweeps and runs, for bash, zsh and fish.

The scripts hold no names: on each tab they ask `wattcount completion --for=WORDS`, so they never grow old. Where nothing fits,
the shell completes file names.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from wattcount.cli.main import COMMANDS, parser_of
from wattcount.config.loader import GROUPS, SCENARIOS, Kind, kind_of, kinds
from wattcount.config.packaged import packaged_options
from wattcount.config.paths import default_records_dir
from wattcount.errors import EXIT_OK, NotStartedError, WattcountError
from wattcount.report.labels import short_id

SCRIPTS = {
    "bash": r"""
_wattcount() {
  local line=${COMP_LINE:0:COMP_POINT} word prefix
  local -a words
  IFS=$' \t' read -ra words <<< "$line"
  [[ $line == *[$' \t'] ]] && words+=("")
  mapfile -t COMPREPLY < <(IFS=$'\t'; "${words[0]}" completion --for="${words[*]}" 2>/dev/null)
  # bash replaces only what follows the last = or : of the word.
  word=${words[-1]}
  if [[ $word == *[=:]* ]]; then
    prefix=${word%"${word##*[=:]}"}
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
  fi
  [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
  return 0
}
complete -o default -F _wattcount wattcount
""",
    "zsh": r"""
#compdef wattcount
_wattcount() {
  local -a found open whole
  found=("${(@f)$("${words[1]}" completion --for="${(pj:\t:)words[1,CURRENT]}" 2>/dev/null)}")
  open=(${(M)found:#*[=.]}) whole=(${found:#*[=.]})
  if (( $#open + $#whole == 0 )); then
    compset -P '*='
    _files
    return
  fi
  (( $#open )) && compadd -S '' -a open
  (( $#whole )) && compadd -a whole
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
compdef _wattcount wattcount
""",
    "fish": r"""
function __wattcount_words
    set -l before (commandline -opc)
    set -l word (commandline -ct)
    set -l found ($before[1] completion --for=(string join \t -- $before "$word") 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path "$word"
    end
end
complete -c wattcount -f -a '(__wattcount_words)'
""",
}
"""What is to be evaluated, by the name of the shell. A word that ends with `=` or `.` goes on, so no blank follows it."""

SETUP = {
    "bash": "echo 'eval \"$(wattcount completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(wattcount completion zsh)\"' >> ~/.zshrc",
    "fish": "wattcount completion fish > ~/.config/fish/completions/wattcount.fish",
}
"""What makes completion stay, by the name of the shell."""

FLAGS = ("-m", "--multirun", "--config-dir", "--cfg", "--hydra-help", "--help", "--version")
"""Options of a measurement."""
LAUNCHER = "hydra/launcher"
"""The one group of Hydra's that a sweep is asked for by."""
RECORDS = "WHICH"
"""What arguments are called, in the help, that take records, sweeps and ids."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=list(SCRIPTS), help="whose script is to be printed")
    parser.add_argument("--for", dest="words", help=argparse.SUPPRESS)  # a tab between them
    parser.epilog = "To have it in every shell: " + "; ".join(
        f"{shell}: {how}" for shell, how in SETUP.items()
    )


def main(args: argparse.Namespace) -> int:
    if args.words is not None:
        for found in completions(args.words.split("\t")[1:]):
            print(found)
    elif args.shell is None:
        raise NotStartedError(f"completion: say for which shell: {', '.join(SCRIPTS)}")
    else:
        print(SCRIPTS[args.shell].strip())
    return EXIT_OK


def completions(words: Sequence[str]) -> list[str]:
    """What the last of the words after `wattcount` may become; none where it is no name of ours, as a path."""
    *before, word = words
    if before and before[0] in COMMANDS:
        found = _of_command(before[0], before[1:], word)
    elif before and before[-1] == "--config-dir":
        return []
    elif before and before[-1] == "--cfg":
        found = iter(("job", "hydra", "all"))
    else:
        found = _of_measurement(before, word)
    return sorted({name for name in found if name.startswith(word)})


def _of_measurement(before: Sequence[str], word: str) -> Iterator[str]:
    if word.startswith("-"):
        yield from FLAGS
        return
    if not before:
        yield from COMMANDS
    yield from _overrides(before, word)


def _overrides(before: Sequence[str], word: str) -> Iterator[str]:
    """Whole overrides that begin like `word`, as far as its next `.`, or its value."""
    sign = word[: len(word) - len(word.lstrip("+~"))]
    key, given, value = word[len(sign) :].partition("=")
    if given:
        head = value[: value.rfind(",") + 1]  # in a sweep, the values before the last one
        yield from (f"{sign}{key}={head}{name}" for name in _values(before, key))
        return
    parent = key.rpartition(".")[0]
    names = {f"{name}=" for name in (*GROUPS, LAUNCHER)} if not parent else set()
    node = kind_of(parent)
    for name, kind in _children(node):
        full = f"{parent}.{name}" if parent else name
        names.add(f"{full}{'.' if kind.classes or kind.of is dict else '='}")
    yield from (f"{sign}{name}" for name in names)


def _children(node: Kind | None) -> Iterator[tuple[str, Kind]]:
    for cls in node.classes if node is not None else ():
        yield from kinds(cls).items()


def _values(before: Sequence[str], key: str) -> Iterable[str]:
    """What a key may be set to, where that can be listed."""
    if key in GROUPS:
        return {*packaged_options(key), *_own_options(before, key)}
    if key == LAUNCHER:
        from wattcount.sweep.cluster import LAUNCHERS

        return LAUNCHERS.values()
    kind = kind_of(key)
    if kind is None:
        return ()
    found: list[str] = ["null"] if kind.optional else []
    if kind.of is bool:
        found += ["true", "false"]
    elif isinstance(kind.of, type) and issubclass(kind.of, Enum):
        found += [str(member.value) for member in kind.of]
    elif key == "scenario.kind":
        found += SCENARIOS
    return found


def _own_options(before: Sequence[str], group: str) -> Iterator[str]:
    """Options of the user's own folder, where the line names one."""
    for flag, folder in itertools.pairwise(before):
        if flag == "--config-dir":
            yield from (file.stem for file in (Path(folder).expanduser() / group).glob("*.yaml"))


def _of_command(name: str, before: Sequence[str], word: str) -> Iterator[str]:
    """Words of a subcommand: its options, what they may be, its own subcommands, and names of records and sweeps."""
    parser = parser_of(name)
    rest = list(before)
    while (inner := _subparsers(parser)) is not None:
        chosen = next((given for given in rest if given in inner), None)
        if chosen is None:
            yield from inner
            break
        parser, rest = inner[chosen], rest[rest.index(chosen) + 1 :]
    options = {flag: action for action in parser._actions for flag in action.option_strings}
    if rest and (asked := options.get(rest[-1])) is not None and asked.nargs != 0:
        head = word[: word.rfind(",") + 1]
        yield from (f"{head}{name}" for name in _argument(asked, before))
        return
    if word.startswith("-"):
        yield from options
        return
    for action in parser._actions:
        if not action.option_strings:
            yield from _argument(action, before)
            if action.metavar is not None and "KEY=VALUE" in action.metavar:
                yield from _overrides(before, word)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser] | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return None


def _argument(action: argparse.Action, before: Sequence[str]) -> Iterator[str]:
    """What an argument may be, by its choices or by what its help calls it."""
    if isinstance(action, argparse._SubParsersAction):
        return
    if action.choices is not None:
        yield from map(str, action.choices)
    named = {"GPU": "gpu", "MODEL": "model"}
    if isinstance(action.metavar, str) and (called := action.metavar.partition("[")[0]) in named:
        yield from packaged_options(named[called])
    if action.metavar == RECORDS or action.dest in ("sweep", "name"):
        yield from _of_records(before, ids=action.metavar == RECORDS)


def _of_records(before: Sequence[str], *, ids: bool) -> Iterator[str]:
    """Names of sweeps, and (`ids`) short ids of runs."""
    from wattcount.result import record_folders
    from wattcount.sweep.ledger import sweeps

    folder = default_records_dir()
    for flag, given in itertools.pairwise(before):
        if flag == "--records-dir":
            folder = given
    records_dir = Path(folder).expanduser()
    try:
        yield from sweeps(records_dir)
        if ids and records_dir.is_dir():
            yield from (short_id(record) for record in record_folders(records_dir))
    except (OSError, WattcountError):
        return
