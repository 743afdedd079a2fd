"""The tables of docs/keys.md, docs/commands.md and docs/record_format.md: keys, options, commands, exit codes and columns, as the
code declares them."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from schema_words import constant_words, field_words, first_sentence, member_words

from wattcount import errors
from wattcount.cli.main import COMMANDS
from wattcount.config import schema
from wattcount.config.fields import IDENTITY, MISSING, OneOf, Range
from wattcount.config.loader import SCENARIOS, Kind, kinds
from wattcount.config.paths import data_home
from wattcount.engines import registry
from wattcount.records import columns
from wattcount.records.schema import OPTIONAL_FILES, TABLES, RunInfo
from wattcount.report.units import markdown

CONF = Path(__file__).resolve().parent.parent / "conf"

UNITS = {
    "_s": "s", "_ms": "ms", "_w": "W", "_mhz": "MHz", "_gib": "GiB", "_gb_s": "GB/s", "_tflops": "TFLOPS", "_rps": "requests/s",
    "parameters_b": "billion", "mib_per_gpu": "MiB", "_tokens": "tokens", "_tokens_min": "tokens", "_tokens_max": "tokens",
    "max_model_len": "tokens", "max_num_batched_tokens": "tokens",
}  # fmt: skip
"""Units of keys whose range names none, by how the key ends."""
TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any value"}
"""Words for the types of keys."""


# -- keys


def keys() -> str:
    """A section for each group of keys, with a table of its keys."""
    parts = [_section("", schema.RunConfig, own=lambda kind: not kind.classes)]
    for name, kind in kinds(schema.RunConfig).items():
        if not kind.classes:
            continue
        if name == "scenario":
            parts.append(_section(name, schema.ScenarioConfig))
            parts += [
                _section(name, cls, only=_own(cls), title=f"`scenario`: {kind}")
                for kind, cls in SCENARIOS.items()
            ]
        else:
            parts.append(_section(name, kind.classes[0]))
    return "\n\n".join(parts)


def all_keys() -> list[str]:
    """Every dotted key of the configuration."""
    return sorted({key for cls, prefix in _classes() for key in _keys(prefix, cls)})


def _classes() -> Iterator[tuple[Any, str]]:
    yield schema.RunConfig, ""
    waiting: list[tuple[Kind, str]] = [(kind, name) for name, kind in kinds(schema.RunConfig).items()]
    while waiting:
        kind, prefix = waiting.pop()
        for cls in kind.classes:
            yield cls, prefix
            waiting += [(inner, f"{prefix}.{name}") for name, inner in kinds(cls).items()]


def _keys(prefix: str, cls: Any) -> list[str]:
    return [f"{prefix}.{name}" if prefix else name for name, kind in kinds(cls).items() if not kind.classes]


def _own(cls: Any) -> set[str]:
    """Fields that a scenario adds, and `kind` no more than once: the table of what all share has it."""
    return set(kinds(cls)) - set(kinds(schema.ScenarioConfig))


def _section(
    prefix: str,
    cls: Any,
    *,
    only: set[str] | None = None,
    own: Any = lambda _kind: True,
    title: str | None = None,
) -> str:
    words = field_words(cls)
    rows, nested, choices = [], [], []
    for field in dataclasses.fields(cls):
        kind = kinds(cls)[field.name]
        if (only is not None and field.name not in only) or not own(kind):
            continue
        key = f"{prefix}.{field.name}" if prefix else field.name
        if kind.classes:
            nested.append((key, kind.classes[0]))
            continue
        rows.append(
            [
                f"`{key}`",
                _value(kind, field.name),
                _default(prefix, field, cls),
                "yes" if field.metadata.get(IDENTITY) else "",
                _escaped(words[field.name]),
            ]
        )
        if isinstance(kind.of, type) and issubclass(kind.of, Enum):
            choices.append(_choices(key, kind.of))
    heading = title or (f"`{prefix}`" if prefix else "Keys of the run itself")
    text = [f"{'###' if '.' in prefix else '##'} {heading}", _summary(cls)]
    if rows:
        text.append(markdown(["key", "value", "default", "point", "what it is"], rows))
    text += choices
    text += [_section(key, inner) for key, inner in nested]
    return "\n\n".join(part for part in text if part)


def _summary(cls: Any) -> str:
    """What a class of the schema says of itself; dataclasses write their fields there where it says nothing."""
    said = " ".join((cls.__doc__ or "").split())
    return "" if said.startswith(f"{cls.__name__}(") else _escaped(said)


def _choices(key: str, enum: Any) -> str:
    words = member_words(enum)
    rows = [[f"`{key}={member.value}`", _escaped(words[member.name])] for member in enum]
    return markdown(["choice", "what it means"], rows)


def _value(kind: Kind, name: str) -> str:
    """`number, above 0 s; or null`."""
    if isinstance(kind.of, type) and issubclass(kind.of, Enum):
        text = ", ".join(f"`{member.value}`" for member in kind.of)
    elif kind.of is list:
        text = "list"
    elif kind.of is dict:
        text = "group of keys"
    else:
        text = _scalar(kind, name)
    return f"{text}; or null" if kind.optional else text


def _scalar(kind: Kind, name: str) -> str:
    for rule in kind.rules:
        if isinstance(rule, OneOf):
            return ", ".join(f"`{word}`" for word in rule.words)
        if isinstance(rule, Range):
            ends = [end for end in UNITS if name.endswith(end)]
            unit = rule.unit or (UNITS[max(ends, key=len)] if ends else "")
            return f"{TYPES[kind.of]}, {dataclasses.replace(rule, unit=unit)}"
    return TYPES.get(kind.of, "any value")


def _default(prefix: str, field: Any, cls: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "in the home"
    value = field.default
    if field.name == "seed" and not prefix:
        return "null"
    text = _shown(value)
    for option, values in _scenario_options().items():
        if prefix.partition(".")[0] != "scenario" or (
            issubclass(cls, schema.ScenarioConfig) and cls is not schema.ScenarioConfig
        ):
            continue
        other = values
        for part in [*prefix.split(".")[1:], field.name]:
            other = other.get(part, MISSING) if isinstance(other, dict) else MISSING
        if other not in (MISSING, value) and field.name not in ("name", "kind"):
            text += f"; {_shown(other)} with `scenario={option}`"
    return text


@cache
def _scenario_options() -> dict[str, Any]:
    return {
        name: OmegaConf.to_container(OmegaConf.load(CONF / "scenario" / f"{name}.yaml")) for name in SCENARIOS
    }


def _shown(value: Any) -> str:
    if value is MISSING or value is dataclasses.MISSING:
        return "by the option"
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return "empty" if not value else f"`{value}`"
    return (
        f"{value:g}" if isinstance(value, float) else f"`{value}`" if isinstance(value, str) else str(value)
    )


def _escaped(text: str) -> str:
    """Text in a cell of a table: names of the schema in words."""
    linked = re.sub(r"\bdocs/(\w+)\.md\b", r"[\1](\1.md)", re.sub(r"\bNone\b", "null", text))
    return linked.replace("|", "\\|")


# -- options


def options() -> str:
    """The options of the groups that no other page lists, with the comment that their file begins with."""
    rows = []
    for group in ("scenario", "power", "tracking", "experiment"):
        for file in sorted((CONF / group).glob("*.yaml")):
            choose = f"+experiment={file.stem}" if group == "experiment" else f"{group}={file.stem}"
            rows.append([f"`{choose}`", _escaped(_comment(file))])
    rows += [[f"`engine={name}`", _escaped(plugin_words(name))] for name in registry.PACKAGED]
    return markdown(["option", "what it is"], sorted(rows))


def plugin_words(name: str) -> str:
    """What the plug-in of an engine says that it is."""
    return first_sentence(type(registry.plugin(name)).__doc__ or "")


def _comment(file: Path) -> str:
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or "python -m" in line:
            break
        if not line.startswith("# @"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


# -- commands


def commands() -> str:
    """A section for each subcommand, with its arguments."""
    parts = []
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"wattcount {name}")
        module = importlib.import_module(f"wattcount.cli.{command.module}")
        getattr(module, command.add_arguments)(parser)
        parts += _command(f"wattcount {name}", command.what, parser, "##")
    return "\n\n".join(parts)


def _command(called: str, what: str, parser: argparse.ArgumentParser, mark: str) -> Iterator[str]:
    rows, inner = [], []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            inner = [(f"{called} {name}", helps.get(name, ""), sub) for name, sub in action.choices.items()]
            continue
        rows.append([f"`{_argument(action)}`", _help(action)])
    yield f"{mark} `{called}`"
    yield f"{what[:1].upper()}{what[1:]}."
    if rows:
        yield markdown(["argument", "what it is"], rows)
    for each in inner:
        yield from _command(*each, mark + "#")


def _argument(action: argparse.Action) -> str:
    shown = action.metavar if action.metavar is not None else None
    if shown is None and action.choices is not None:
        shown = ",".join(map(str, action.choices))
    if shown is None:
        shown = action.dest.upper()
    if isinstance(shown, tuple):
        shown = " ".join(shown)
    if not action.option_strings:
        return (
            f"[{shown}]" if action.nargs in ("*", "?") else f"{shown} ..." if action.nargs == "+" else shown
        )
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {shown}"


def _help(action: argparse.Action) -> str:
    text = " ".join(((action.help or "") % {**vars(action), "prog": "wattcount"}).split())
    text = text.replace(str(data_home()), "~/.local/share/wattcount")
    words = [_escaped(text)]
    if (
        action.choices is not None
        and action.metavar is not None
        and not all(str(c) in text for c in action.choices)
    ):
        words.append(f"one of {', '.join(map(str, action.choices))}")
    if action.required and action.option_strings:
        words.append("must be given")
    # A default that is no plain value is told by the help.
    if (
        action.option_strings
        and isinstance(action.default, str | int | float)
        and action.default is not False
    ):
        shown = str(action.default).replace(str(data_home()), "~/.local/share/wattcount")
        if shown not in text and "default" not in text:
            words.append(f"default: {shown}")
    return "; ".join(word for word in words if word)


def exit_codes() -> str:
    words = constant_words(errors)
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    return markdown(
        ["exit code", "what it means"], [[str(code), words[name]] for name, code in codes.items()]
    )


# -- records


def record_columns() -> str:
    """A section for each raw file of a record, with a table of its columns."""
    parts = []
    for file, table in TABLES.items():
        optional = " A record may lack it." if file in OPTIONAL_FILES else ""
        rows = [[f"`{item.name}`", _type(item.type), columns.COLUMNS[file][item.name]] for item in table]
        parts += [
            f"## `{file}`",
            columns.FILES[file] + optional,
            markdown(["column", "type", "what it holds"], rows),
        ]
    return "\n\n".join(parts)


def _type(kind: Any) -> str:
    return "text" if "string" in str(kind) else str(kind)


def run_json() -> str:
    words = field_words(RunInfo)
    names: Iterable[str] = (item.name for item in dataclasses.fields(RunInfo))
    return markdown(["key", "what it holds"], [[f"`{name}`", _escaped(words[name])] for name in names])


def tables() -> dict[str, dict[str, Any]]:
    """By page, the tables and what makes them."""
    return {
        "keys.md": {"keys": keys, "options": options},
        "commands.md": {"commands": commands, "exit-codes": exit_codes},
        "record_format.md": {"record-columns": record_columns, "run-json": run_json},
    }
