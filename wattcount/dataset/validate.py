"""The validator: every rule on every record of a bundle, in processes that may not harm this one, and the verdict.

::

    this process --- bundle -------> unpacks it            \\  confined: bounds of memory, CPU time, files;
                 --- record -------> every rule about it    > its answer is JSON of bounded size, and nothing else of
                 --- record -------> (one process a core)   /  it is believed; one that dies is a breach of form/limits
                 --- all traits ---> rules about the bundle
    verdict <---
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from wattcount import __version__
from wattcount.dataset.bundle import MIB, SUFFIX, BundleError, Manifest
from wattcount.dataset.checks import RULES
from wattcount.dataset.confined import MESSAGE_CHARACTERS
from wattcount.dataset.rules import Severity
from wattcount.errors import NotStartedError, WattcountError
from wattcount.metrics.metrics_json import METRICS_VERSION
from wattcount.records import intake

LIMITS_RULE = "form/limits"
"""Rule that a record breaks whose process ended before it gave a verdict."""


@dataclass(frozen=True)
class Limits:
    """What a confined process may take.

    memory_bytes  private memory of each [bytes], for records that are small on the disk. The largest of our own, with 0.8 million
                  tokens in 0.5 MB, takes 0.6 GiB, libraries included
    memory_per_byte   of it, for each byte of the largest record [1]: eight bytes for each of `intake.VALUES_PER_BYTE`, and as much again
    cpu_s         CPU time for one record [s]. The same one takes 2 s
    task_s        time for one task by the clock [s], on a machine that is busy with other things
    file_bytes    largest file that unpacking writes [bytes], as `bundle.Limits.member_bytes`
    answer_bytes  longest answer [bytes]: a manifest of 10,000 records has some 12 MiB
    """

    memory_bytes: int = 768 * MIB
    memory_per_byte: int = 384
    cpu_s: int = 120
    task_s: float = 600.0
    file_bytes: int = 512 * MIB
    answer_bytes: int = 32 * MIB


LIMITS = Limits()
"""Of `wattcount validate`, unless it is told others."""


class Decision(StrEnum):
    """On a record, and on a bundle: the worst of its records'."""

    accepted = "accepted"
    flagged = "flagged"
    """A person decides."""
    rejected = "rejected"


_DECISIONS = {
    Severity.reject: Decision.rejected,
    Severity.flag: Decision.flagged,
    Severity.warn: Decision.accepted,
}
_ORDER = list(Decision)


@dataclass(frozen=True)
class Broken:
    """A rule that is broken. `record`: folder in the bundle; None: the bundle as a whole."""

    rule: str
    severity: Severity
    message: str
    record: str | None = None
    figure: float | None = None
    limit: float | None = None

    @property
    def unit(self) -> str | None:
        return RULES[self.rule].unit

    def to_json(self) -> dict[str, Any]:
        return {
            "record": self.record,
            "rule": self.rule,
            "severity": self.severity.value,
            "message": self.message,
            "figure": self.figure,
            "limit": self.limit,
            "unit": self.unit,
        }


@dataclass(frozen=True)
class Verdict:
    """What the validator says.

    source     what was looked at, as it was given
    records    folder to what is known of the record: run_id, point_id, setting_key, repeat, seed; empty: it cannot be read
    broken     in the order of the rules, record after record
    manifest   None: plain record folders
    bundle_id  SHA-256 of the bundle
    traits     folder to what rules about bundles know of the record, by trait; for a data set that keeps it
    """

    source: str
    records: Mapping[str, Mapping[str, Any]]
    broken: Sequence[Broken]
    manifest: Manifest | None = None
    bundle_id: str | None = None
    traits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def decision(self) -> Decision:
        return _worst(self.broken)

    @property
    def decisions(self) -> dict[str, Decision]:
        """By record."""
        own: dict[str, list[Broken]] = {folder: [] for folder in self.records}
        for item in self.broken:
            if item.record in own:
                own[item.record].append(item)
        return {folder: _worst(items) for folder, items in own.items()}

    def to_json(self) -> dict[str, Any]:
        decisions = self.decisions
        counts = Counter(decisions.values())
        told = self.manifest
        return {
            "decision": self.decision.value,
            "source": self.source,
            "bundle": None
            if told is None
            else {
                "bundle_id": self.bundle_id,
                "handle": told.handle,
                "contact": told.contact,
                "licence": told.licence,
                "cohort": told.cohort,
                "wattcount_version": told.wattcount_version,
                "metrics_version": told.metrics_version,
            },
            "wattcount_version": __version__,
            "metrics_version": METRICS_VERSION,
            "rules": len(RULES),
            "counts": {decision.value: counts[decision] for decision in Decision},
            "records": [
                {"record": folder, "decision": decisions[folder].value, **known}
                for folder, known in self.records.items()
            ],
            "breaches": [item.to_json() for item in self.broken],
        }


def _worst(broken: Sequence[Broken]) -> Decision:
    return max((_DECISIONS[item.severity] for item in broken), key=_ORDER.index, default=Decision.accepted)


def validate(
    source: Path,
    *,
    dataset: str | None = None,
    workers: int | None = None,
    limits: Limits = LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """The verdict on a bundle, a record, or a folder with records below it.

    dataset   folder of this machine with the fingerprints of a data set to compare with; None: none
    workers   confined processes at once; None: one a core
    progress  is told how many of how many records are done

    Raises `BundleError` or `NotStartedError` for what cannot be read at all.
    """
    workers = workers or len(os.sched_getaffinity(0))
    if source.is_dir():
        folders = {
            str(path.relative_to(source.resolve())) if path != source.resolve() else path.name: path
            for path in _records(source)
        }
        return _judged(source, folders, None, None, Path(), dataset, workers, limits, progress)
    if not os.path.lexists(source):
        raise NotStartedError(
            f"{source} does not exist; give a bundle (*{SUFFIX}), a record, or a folder with records below it"
        )
    with tempfile.TemporaryDirectory(prefix="wattcount-validate-") as temporary:
        folder = Path(temporary, "bundle")
        with Confined(limits, limits.file_bytes) as process:
            try:
                found = process.ask(
                    {"task": "unpack", "bundle": str(source.absolute()), "folder": str(folder)}
                )
            except DiedError as error:
                raise BundleError(f"{source} cannot be unpacked: {error}") from error
        if "error" in found:
            raise BundleError(str(found["error"])[: 2 * MESSAGE_CHARACTERS])
        manifest = Manifest.of_json(found.get("manifest"))
        bundle_id = str(found.get("bundle_id"))[:64]
        folders = {entry.folder: folder / entry.folder for entry in manifest.records}
        return _judged(source, folders, manifest, bundle_id, folder, dataset, workers, limits, progress)


def _records(source: Path) -> list[Path]:
    """The folders of records in or below one. Raises `NotStartedError` where there are none."""
    top = source.resolve()
    if os.path.lexists(top / "run.json"):
        return [top]
    found = [
        Path(folder) for folder, below, files in os.walk(top) if "run.json" in files or "run.json" in below
    ]
    if not found:
        raise NotStartedError(f"no record (a folder with run.json) in or below {source}")
    return sorted(path for path in found if ".tmp-" not in path.name)


def _judged(
    source: Path,
    folders: Mapping[str, Path],
    manifest: Manifest | None,
    bundle_id: str | None,
    folder: Path,
    dataset: str | None,
    workers: int,
    limits: Limits,
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    limits = replace(
        limits,
        memory_bytes=limits.memory_bytes
        + limits.memory_per_byte * max(map(_disk_bytes, folders.values()), default=0),
    )
    tasks = [
        {
            "task": "record",
            "path": str(path),
            "folder": name,
            "in_bundle": manifest is not None,
            "cohort": None if manifest is None else manifest.cohort,
        }
        for name, path in folders.items()
    ]
    answers = _all_of(tasks, min(workers, len(tasks)), limits, progress)
    broken: dict[str, list[Broken]] = {}
    traits: dict[str, dict[str, Any]] = {}
    for name, found in zip(folders, answers, strict=True):
        broken[name], traits[name] = _understood(found, name, frozenset())
    whole = {
        "task": "bundle",
        "manifest": None if manifest is None else manifest.to_json(),
        "bundle_id": bundle_id,
        "folder": str(folder),
        "dataset": dataset,
        "records": [
            {"path": str(folders[name]), "folder": name, "traits": traits[name]}
            for name in folders
            if traits[name]
        ],
    }
    (found,) = _all_of([whole], 1, limits, None)
    of_all, _ = _understood(found, None, frozenset(folders))
    for item in of_all:
        broken.setdefault(item.record or "", []).append(item)
    order = ["", *folders]
    return Verdict(
        str(source),
        {name: _identity(traits[name]) for name in folders},
        [item for name in order for item in broken.get(name, ())],
        manifest,
        bundle_id,
        traits,
    )


def _disk_bytes(record: Path) -> int:
    """What the files of a record take of the disk: holes in them do not count."""
    try:
        with os.scandir(record) as files:
            return sum(512 * file.stat(follow_symlinks=False).st_blocks for file in files)
    except OSError:
        return 0


def _identity(traits: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a record, for the verdict."""
    told = traits.get("identity")
    names = ("run_id", "point_id", "setting_key", "repeat", "seed")
    if not isinstance(told, dict):
        return {}
    return {name: told[name] for name in names if isinstance(told.get(name), str | int)}


# -- what a confined process says, of which nothing is believed but its form


def _understood(
    found: Mapping[str, Any], record: str | None, records: frozenset[str]
) -> tuple[list[Broken], dict[str, Any]]:
    """The breaches and traits in an answer. One that is not in form is a breach itself."""
    if "error" in found:
        return [Broken(LIMITS_RULE, Severity.reject, _text(found["error"]), record)], {}
    try:
        breaches = [_broken(item, record, records) for item in found["breaches"]]
        traits = dict(found.get("traits") or {})
    except (KeyError, TypeError, ValueError) as error:
        message = f"its validation gave no answer that can be read ({type(error).__name__})"
        return [Broken(LIMITS_RULE, Severity.reject, message, record)], {}
    return breaches, traits


def _broken(item: Mapping[str, Any], record: str | None, records: frozenset[str]) -> Broken:
    rule = RULES[item["rule"]]
    severity = rule.severity
    if item["severity"] is not None:
        # A breach may be milder than its rule, never more serious.
        asked = Severity(item["severity"])
        severity = max(severity, asked, key=list(Severity).index)
    named = item["record"]
    return Broken(
        rule.code,
        severity,
        _text(item["message"]),
        named if named in records else record,
        _number(item["figure"]),
        _number(item["limit"]),
    )


def _text(value: Any) -> str:
    return str(value)[:MESSAGE_CHARACTERS]


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no number")
    return float(value)


# -- confined processes


class DiedError(WattcountError):
    """A confined process ended before it answered."""


class Confined:
    """A process for tasks that strangers' data are read in. It is started at once and killed at the end of the block.

    file_bytes  largest file that it may write; 0: none
    """

    def __init__(self, limits: Limits, file_bytes: int = 0) -> None:
        self._limits = limits
        self._late = False
        self._process = subprocess.Popen(
            # -P: nothing is imported from the folder that it is in.
            [sys.executable, "-P", "-m", "wattcount.dataset.confined"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
        first = {"memory_bytes": limits.memory_bytes, "file_bytes": file_bytes, "cpu_s": limits.cpu_s}
        self._first = json.dumps(first).encode() + b"\n"

    def ask(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a task. Raises `DiedError` where there is none, saying why."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(self._limits.task_s, self._too_late)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(self._first + json.dumps(task).encode() + b"\n")
            self._first = b""
            process.stdin.flush()
            line = process.stdout.readline(self._limits.answer_bytes + 1)
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            self._kill()
            raise DiedError(self._why(len(line) > self._limits.answer_bytes))
        try:
            found = intake.parse_json(line, Path("answer"))
        except intake.DamagedError as error:
            self._kill()
            raise DiedError("its validation gave no answer that can be read") from error
        if not isinstance(found, dict):
            raise DiedError("its validation gave no answer that can be read")
        return found

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _too_late(self) -> None:
        self._late = True
        self._kill()

    def _why(self, too_long: bool) -> str:
        code = self._process.wait()
        if self._late:
            return f"it took longer than {self._limits.task_s:g} s"
        if too_long:
            return f"its validation gave an answer of more than {self._limits.answer_bytes // MIB} MiB"
        if code == -signal.SIGXCPU:
            return f"it took more than {self._limits.cpu_s} s of CPU time"
        if code in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS):
            return f"its validation was ended by {signal.Signals(-code).name}: it needs more memory than there is, or a library broke on it"
        return f"its validation ended with exit code {code}"

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()

    def __enter__(self) -> Confined:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()


def _environment() -> dict[str, str]:
    """Nothing of the user's but what Python needs: no token, no key, no proxy. One thread a library, one core a process."""
    kept = {
        name: os.environ[name]
        for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
        if name in os.environ
    }
    return {
        **kept,
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "ARROW_IO_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def _all_of(
    tasks: Sequence[Mapping[str, Any]],
    workers: int,
    limits: Limits,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """The answers to all tasks, in their order. A process that dies is replaced; its task's answer is the error."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(tasks)):
        waiting.put(number)
    answers: list[dict[str, Any]] = [{"error": "it was not validated"} for _ in tasks]
    told = threading.Lock()
    done = 0
    failures: list[BaseException] = []

    def numbers() -> Iterator[int]:
        while not failures:
            try:
                yield waiting.get_nowait()
            except queue.Empty:
                return

    def work() -> None:
        nonlocal done
        process: Confined | None = None
        try:
            for number in numbers():
                process = process if process is not None and process.alive else Confined(limits)
                try:
                    answers[number] = process.ask(tasks[number])
                except DiedError as error:
                    answers[number] = {"error": str(error)}
                if "error" in answers[number]:
                    process.__exit__()
                    process = None
                with told:
                    done += 1
                    if progress is not None:
                        progress(done, len(tasks))
        except BaseException as error:
            failures.append(error)
        finally:
            if process is not None:
                process.__exit__()

    threads = [threading.Thread(target=work, name=f"validate-{number}") for number in range(max(workers, 1))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C
        failures.append(error)
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise failures[0]
    return answers
