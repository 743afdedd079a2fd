"""From records to a bundle: which records are submitted, by whom, and what of them is published, in words."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wattcount.config.paths import data_home
from wattcount.dataset.bundle import DEFAULT_LICENCE, BundleError
from wattcount.errors import WattcountError, one_line
from wattcount.files import write_atomically
from wattcount.records import Record, intake
from wattcount.records.schema import Evidence
from wattcount.result import Result

KEY_BYTES = 32
"""Length of a submitter's key [bytes]: that of a SHA-256, beyond which HMAC gains nothing."""
KEY_FILE = "submitter.key"
"""In wattcount's own folder; only its owner may read it."""
SUBMITTER_FILE = "submitter.json"
"""Beside KEY_FILE: the handle, contact and licence of the last submission."""
REMEMBERED = ("handle", "contact", "licence")
EXAMPLES = 3
"""So many hidden names are shown, so that who submits sees that his are among them."""

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


@dataclass(frozen=True)
class Selection:
    """Which records go into a bundle.

    records    their folders
    left_out   by folder, why it is not submitted
    cohort     the cohort that all of them share; None: none, or several
    emulated   how many were measured on an emulated GPU, which the open data set does not take
    boards, hosts   their names, which are hidden
    """

    records: tuple[Path, ...] = ()
    left_out: dict[Path, str] = field(default_factory=dict)
    cohort: str | None = None
    emulated: int = 0
    boards: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def select(paths: Sequence[Path], invalid: bool = False) -> Selection:
    """The records that may be submitted: whole, and valid by their own checks.

    invalid   take those that their own checks call invalid, too
    """
    chosen: dict[tuple[str, str | None], Path] = {}
    left_out: dict[Path, str] = {}
    cohorts: set[str | None] = set()
    boards: dict[str, None] = {}
    hosts: dict[str, None] = {}
    emulated = 0
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
            continue
        if not result.valid and not invalid:
            left_out[path] = f"it is invalid: {', '.join(result.reasons)}"
            continue
        if (twin := chosen.setdefault((info.point_id, result.run_id), path)) != path:
            left_out[path] = f"it is the same run as {twin}"
            continue
        cohorts.add(info.resolved.cohort)
        emulated += result.evidence is not Evidence.MEASURED
        boards |= dict.fromkeys(result.boards)
        hosts |= dict.fromkeys(name for name in [result.host] if name)
    return Selection(
        tuple(chosen.values()),
        left_out,
        cohorts.pop() if len(cohorts) == 1 else None,
        emulated,
        tuple(boards),
        tuple(hosts),
    )


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
        text = path.read_text().strip()
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
