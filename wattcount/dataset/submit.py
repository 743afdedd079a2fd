"""From records to a bundle: which records are submitted, by whom, and what of them is published, in words."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wattcount.config.paths import data_home
from wattcount.dataset.bundle import DEFAULT_LICENCE, BundleError
from wattcount.dataset.public import Pseudonyms, public_run
from wattcount.errors import WattcountError, one_line
from wattcount.files import write_atomically
from wattcount.records import Record, intake
from wattcount.records.schema import Evidence
from wattcount.report.labels import load_label
from wattcount.result import Result

KEY_BYTES = 32
"""Length of a submitter's key [bytes]: that of a SHA-256, beyond which HMAC gains nothing."""
KEY_FILE = "submitter.key"
"""In wattcount's own folder; only its owner may read it."""
SUBMITTER_FILE = "submitter.json"
"""Beside KEY_FILE: the handle, contact and licence of the last submission."""
REMEMBERED = ("handle", "contact", "licence")
EXAMPLES = 4
"""So many names of a kind are shown [1], so that who submits sees that his are among them; the rest is counted."""

PUBLISHED = (
    ("power", "every reading of every sensor, with the time that the call took"),
    ("load", "when each request was sent and answered, its number of tokens, when each token came"),
    ("steps", "what each step of the engine computed, where the engine tells"),
    ("host", "how fast and how busy the CPUs were; energy of CPU and memory, where they tell"),
    ("setting", "model, GPU, driver, engine and its settings, versions, seed, time of the run"),
    ("figures", "everything computed from these, with its uncertainty, and the verdict"),
    ("you", "handle, contact, licence"),
)
"""What of a record is published, for people: subject and what there is of it. `dataset.public` has the rule for each field."""
HIDDEN = (
    ("pseudonyms", "hosts and boards: the same within your submissions; nobody can go back without your key"),
    ("left out", "paths, URIs, addresses, users, serial numbers, bus ids, command lines, environment, logs, notes, file names"),
    ("never there", "prompts and answers: a record has their lengths only"),
)  # fmt: skip
"""What of a record is not published, for people."""


@dataclass(frozen=True)
class Selection:
    """Which records go into a bundle.

    records    their folders
    results    their rows, in the same order
    left_out   by folder, why it is not submitted
    cohorts    the cohorts that they were measured for; None among them: some were for none
    """

    records: tuple[Path, ...] = ()
    results: tuple[Result, ...] = ()
    left_out: dict[Path, str] = field(default_factory=dict)
    cohorts: frozenset[str | None] = frozenset()

    @property
    def emulated(self) -> int:
        """How many were measured on an emulated GPU, which the open data set does not take."""
        return sum(result.evidence is not Evidence.MEASURED for result in self.results)

    def cohort(self, asked: str | None = None) -> str | None:
        """The cohort of the bundle: the one that was asked for, else the one that all of them share; None: none, or several.

        Raises `BundleError` for a cohort that some of them were not measured for.
        """
        if asked is None:
            return next(iter(self.cohorts)) if len(self.cohorts) == 1 else None
        if others := sorted(name or "no cohort" for name in self.cohorts if name != asked):
            raise BundleError(
                f"not all records were measured for the cohort {asked!r}, but for {', '.join(others)}: "
                "a cohort is chosen before measuring (cohort=NAME), for its seed makes the load"
            )
        return asked


def select(paths: Sequence[Path], invalid: bool = False) -> Selection:
    """The records that may be submitted: whole, and valid by their own checks.

    invalid   take those that their own checks call invalid, too
    """
    chosen: dict[tuple[str, str | None], tuple[Path, Result]] = {}
    left_out: dict[Path, str] = {}
    cohorts: set[str | None] = set()
    for path in paths:
        try:
            record = Record.open(path)
            result = Result.of(record)
        except (WattcountError, OSError) as error:
            left_out[path] = one_line(error)
            continue
        info = record.info
        if not info.complete:
            left_out[path] = f"it broke off: {', '.join(result.reasons) or 'not all phases ran'}"
        elif not result.valid and not invalid:
            left_out[path] = f"it is invalid: {', '.join(result.reasons)}"
        elif (twin := chosen.get((info.point_id, result.run_id))) is not None:
            left_out[path] = f"it is the same run as {twin[0]}"
        else:
            chosen[(info.point_id, result.run_id)] = path, result
            cohorts.add(info.resolved.cohort)
    return Selection(
        tuple(path for path, _ in chosen.values()),
        tuple(result for _, result in chosen.values()),
        left_out,
        frozenset(cohorts),
    )


# -- what becomes of them


@dataclass(frozen=True)
class Told:
    """What records tell when they are published, gathered over all of them.

    names        what is published as it is, by subject: each name once
    pseudonyms   by kind, each name of the records and what stands for it
    left_out     dotted keys of `run.json` that are left out, and in how many records
    """

    names: dict[str, dict[str, None]] = field(default_factory=dict)
    pseudonyms: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def told(chosen: Selection, key: bytes) -> Told:
    """Raises `WattcountError` for a record that is gone or changed meanwhile."""
    found, names = Told(), Pseudonyms(key)
    for path, result in zip(chosen.records, chosen.results, strict=True):
        info = Record.open(path).info
        public = public_run(info, names)
        said = {
            "models": [result.model],
            "GPUs": result.gpus,
            "engines": [f"{result.engine} {result.engine_version or ''}".strip()],
            "loads": [load_label(result.kind, result.num_requests, result.rate_rps)],
            "days": [(result.started_utc or "")[:10]],
        }
        for what, texts in said.items():
            found.names.setdefault(what, {}).update(dict.fromkeys(text for text in texts if text))
        kinds = {
            "hosts": {result.host: names.host(result.host)} if result.host else {},
            "boards": {board: names.board(board) for board in result.boards},
            "settings": _replaced(info.config, public["config"]),
        }
        for kind, pairs in kinds.items():
            found.pseudonyms.setdefault(kind, {}).update(pairs)
        found.left_out.update(set(_left_out(info.to_json(), public, "")))
    # A model whose name looks private has a pseudonym.
    models = found.names.get("models", {})
    shown = {found.pseudonyms.get("settings", {}).get(name, name): None for name in models}
    return Told({**found.names, "models": shown}, found.pseudonyms, found.left_out)


def _replaced(private: Any, public: Any) -> dict[str, str]:
    """Texts of a configuration for which a pseudonym stands in the public one, but for boards."""
    found: dict[str, str] = {}
    if isinstance(private, Mapping) and isinstance(public, Mapping):
        for name in sorted(private.keys() & public.keys() - {"devices"}):
            found |= _replaced(private[name], public[name])
    elif isinstance(private, list | tuple) and isinstance(public, list) and len(private) == len(public):
        for one, other in zip(private, public, strict=True):
            found |= _replaced(one, other)
    elif isinstance(public, str) and private != public:
        found[str(private)] = public
    return found


def _left_out(private: Any, public: Any, where: str) -> Iterator[str]:
    """Dotted keys that a record has and its public form has not. What is empty counts for nothing, and boards for one another."""
    if isinstance(private, Mapping) and isinstance(public, Mapping):
        for name, value in private.items():
            below = f"{where}.{name}" if where else str(name)
            if name in public:
                yield from _left_out(value, public[name], below)
            elif (
                value not in (None, "", [], {}) and not name.startswith(("GPU-", "MIG-")) and below != "files"
            ):
                yield below
    elif isinstance(private, list | tuple) and isinstance(public, list) and len(private) == len(public):
        for one, other in zip(private, public, strict=True):
            yield from _left_out(one, other, where)


# -- who submits


def submitter_key(home: Path | None = None) -> bytes:
    """The submitter's own key, made by chance when it is first asked for.

    home   where it is kept; None: wattcount's own folder

    Who loses it gets another one, and his boards other pseudonyms. Raises `BundleError` where it cannot be kept or is damaged.
    """
    path = (home or data_home()) / KEY_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{KEY_FILE}-{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # the first of two at once wins
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        mode, text = path.stat().st_mode, path.read_text().strip()
    except OSError as error:
        raise BundleError(
            f"the key of your pseudonyms cannot be kept in {path}: {error.strerror or one_line(error)}; "
            "set WATTCOUNT_HOME to a folder that you may write to"
        ) from error
    except ValueError as error:
        raise BundleError(_damaged(path)) from error
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise BundleError(_damaged(path)) from error
    if len(key) != KEY_BYTES:
        raise BundleError(_damaged(path))
    if stat.S_IMODE(mode) & 0o077:
        raise BundleError(f"others can read the key of your pseudonyms: chmod 600 {path}")
    return key


def _damaged(path: Path) -> str:
    return (
        f"the key of your pseudonyms in {path} is damaged: restore it, or remove the file to get another; "
        "your boards get other pseudonyms then"
    )


def remembered(home: Path | None = None) -> dict[str, str]:
    """Handle, contact and licence of the last submission, as far as there are any."""
    try:
        path = (home or data_home()) / SUBMITTER_FILE
        found = intake.parse_json(intake.read_bytes(path), path)
    except (WattcountError, OSError, ValueError):
        return {"licence": DEFAULT_LICENCE}
    known = {
        name: found[name]
        for name in REMEMBERED
        if isinstance(found, dict) and isinstance(found.get(name), str)
    }
    return {"licence": DEFAULT_LICENCE} | known


def remember(values: dict[str, str], home: Path | None = None) -> None:
    """Keeps them for the next submission. Raises OSError."""
    folder = home or data_home()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(
        folder / SUBMITTER_FILE, json.dumps({name: values[name] for name in REMEMBERED}, indent=1) + "\n"
    )
