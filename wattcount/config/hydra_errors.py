"""Hydra's and OmegaConf's errors as one line that names the key and says what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from wattcount.config.loader import GROUPS, did_you_mean
from wattcount.errors import NotStartedError

LAUNCHERS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Options that a package of their own brings, by the extra of ours that asks for it."""

LISTED = {"model": "wattcount models"}
"""Groups of more options than a line can name, by the command that lists them."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises what Hydra raises inside as `NotStartedError`, with the original as its cause."""
    try:
        yield
    except NotStartedError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise NotStartedError(explain(error)) from error
    except Exception as error:
        # The basic YAML mistakes of users' own groups, and Hydra's few plain ValueErrors.
        if type(error).__module__.startswith("yaml") or isinstance(error, ValueError):
            raise NotStartedError(_one_line(str(error))) from error
        raise


def explain(error: BaseException) -> str:
    """One line for a person, without the name of an exception class."""
    if isinstance(error, OverrideParseException):
        return _override_syntax(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    inner = _omegaconf_cause(error)
    file = re.match(r"In '(?P<file>[^']+)': \w+ raised while composing config", str(error))
    if inner is not None:
        if file and file["file"].startswith("experiment/") and _key(inner).split(".")[0] == "experiment":
            return f"{file['file']}.yaml: its first line must be: # @package _global_"
        line = _omegaconf(inner)
        if line is not None:
            return f"{file['file']}.yaml: {line}" if file else line
    text = _one_line(str(error)) or (_one_line(str(inner)) if inner is not None else "")
    match = re.match(r"Ambiguous value for argument '(?P<override>.*?)'; 1\.", text)
    if match:
        return f"'{match['override']}': several values; add -m to run each of them, or write KEY=[A,B] for a list"
    match = re.match(r"Could not override '(?P<group>[^']+)'\.;? ?No match in the defaults list", text)
    if match:
        return f"{match['group']}: no such group; there are: {', '.join(GROUPS)}"
    match = re.match(r"Could not override '(?P<key>[^']+)'", text)
    if match:
        return f"{match['key']}: no such key"
    return text


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", "; ", text.strip())


def _omegaconf_cause(error: BaseException) -> OmegaConfBaseException | None:
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OmegaConfBaseException):
            return current
        current = current.__cause__ or current.__context__
    return None


def _override_syntax(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override!r}: not an override; write KEY=VALUE (see wattcount --help)"
    return f"{error.override!r}: cannot be read as KEY=VALUE; quote special characters, as in 'KEY=\"a,b\"'"


def _missing_option(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    options = list(error.options or ())
    if not group:
        return f"{missing}: no such configuration file"
    if group == "hydra/launcher" and option in LAUNCHERS:
        return f"{group}={option}: it is not installed: pip install 'wattcount[{LAUNCHERS[option]}]'"
    known = f"; there are: {', '.join(sorted(options))}" if options else ""
    if group in LISTED:
        known = f"; {LISTED[group]} lists them"
    named = re.match(r"In '(?P<file>[^']+/[^']+)'", str(error))
    where = f"{named['file']}.yaml: " if named else ""
    return f"{where}{group}={option}: no such option{did_you_mean(option, options) or known}"


def _key(error: OmegaConfBaseException) -> str:
    return error.full_key or (str(error.key) if error.key is not None else "")


def _of_groups(key: str, configuration: object) -> str:
    """`; did you mean 'scenario.window_s'?` where groups have a key that was given without its group; or nothing."""
    if not isinstance(configuration, DictConfig):
        return ""
    found: list[str] = []
    with contextlib.suppress(Exception):
        groups = {str(name): configuration._get_node(name) for name in configuration if name != "hydra"}
        found = [
            f"{name}.{key}"
            for name, group in groups.items()
            if isinstance(group, DictConfig) and key in group
        ]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _omegaconf(error: OmegaConfBaseException) -> str | None:
    key = _key(error)
    first = (error.msg or str(error)).strip().splitlines()[0] if (error.msg or str(error)) else ""
    if re.search(r"is not in struct|not in '\w+'", first):
        known: list[str] = []
        parent = error.parent_node
        if parent is not None:
            with contextlib.suppress(Exception):
                known = [str(name) for name in parent if name != "hydra"]
        prefix, _, last = key.rpartition(".")
        hint = (_of_groups(last, parent) if not prefix else "") or did_you_mean(last, known)
        if not hint and known:
            hint = f"; {prefix or 'the configuration'} has: {', '.join(sorted(known))}"
        return f"{key}: no such key{hint}"
    match = re.match(r"Value '(?P<value>.*)' of type '\w+' could not be converted to (?P<kind>\w+)", first)
    if match:
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(
            match["kind"], match["kind"]
        )
        return f"{key}: must be {kind}, not '{match['value']}'"
    match = re.match(r"Value '(?P<value>.*)' is not a valid bool", first)
    if match:
        return f"{key}: must be true or false, not '{match['value']}'"
    match = re.match(r"Invalid value '(?P<value>.*)', expected one of \[(?P<allowed>.*)\]", first)
    if match:
        allowed = [name.strip() for name in match["allowed"].split(",")]
        return (
            f"{key}: '{match['value']}' is not one of {', '.join(allowed)}"
            f"{did_you_mean(match['value'], allowed)}"
        )
    if re.match(r"field '\w+' is not Optional", first):
        return f"{key}: must not be null"
    if first:
        return f"{key}: {first}" if key else first
    return None
