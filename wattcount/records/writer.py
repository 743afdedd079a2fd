"""Writes a record: where it is made, spooling while the run goes on, putting the whole in place in one step, and closing the
records of runs that were killed."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wattcount import ownership
from wattcount.clock import ClockPair
from wattcount.energy.rapl import HostReading
from wattcount.energy.trace import PowerTrace
from wattcount.errors import RecordsUnwritableError, RunFailedError
from wattcount.files import TEMPORARY_SUFFIX, sync_folder, write_atomically
from wattcount.records import packing, schema
from wattcount.records.schema import FileFacts, RunInfo
from wattcount.records.spool import (
    HOST,
    HOST_POWER,
    HostRow,
    RequestRow,
    Spool,
    StepRow,
    optional_table,
    power_events,
    requests_table,
    steps_table,
)

if TYPE_CHECKING:
    from wattcount.records.reader import Record

TEMPORARY_PREFIX = ".tmp-"
"""Begins the name of a folder in which a record is made."""
CLAIMS_FOLDER = ".running"
"""In records_dir: a claim (`wattcount.ownership`) for each record that is being made, and for its point."""
POINT_LOCK_SUFFIX = ".point"
"""Ends the name of the lock file of a point, in CLAIMS_FOLDER."""

UNWRITABLE = "record_unwritable"
"""Reason of a run whose record could not be written."""
WORKER_DIED = "worker_died"
"""Reason of a run that was killed together with whoever watched it."""
LOG_TAIL_LINES = 20
"""Lines of a failed run's `engine.log` that its `run.json` keeps: an error with the end of its traceback."""
LOG_LINE_LENGTH = 300
"""Longest of those lines [characters]."""

_SPOOL = "spool"
"""Folder of the streams, in the folder of a record that is still being made."""
_DRAFT = "run.json"
"""Name of the draft in the same folder: `run.json` as far as it is known. With it a killed run's record can be put together."""
_LOG_FROM = "log_from"
"""Name of the file in the spool that says where the run's part of a linked log begins [bytes]."""


def new_run_id(at: datetime | None = None) -> str:
    """`YYYYMMDD-HHMMSS-mmm-xxxxxx` (UTC, milliseconds, random): sorts by time, and two are never the same."""
    at = (at or datetime.now(UTC)).astimezone(UTC)
    return f"{at:%Y%m%d-%H%M%S}-{at.microsecond // 1000:03d}-{secrets.token_hex(3)}"


def temporary_folder(records_dir: Path, point_id: str, run_id: str) -> Path:
    """The folder beside the final place: a rename puts it there in one step."""
    return records_dir / point_id[:12] / f"{TEMPORARY_PREFIX}{run_id}"


def claim_file(records_dir: Path, run_id: str) -> Path:
    return records_dir / CLAIMS_FOLDER / f"{run_id}.lock"


def point_lock_file(records_dir: Path, point_id: str, seed: int, repeat: int) -> Path:
    """Held by whoever measures this repeat of the point."""
    return records_dir / CLAIMS_FOLDER / f"{point_id}-s{seed}-r{repeat}{POINT_LOCK_SUFFIX}"


def final_folder(records_dir: Path, point_id: str, repeat: int, run_id: str) -> Path:
    return records_dir / point_id[:12] / f"r{repeat}-{run_id}"


class RecordWriter:
    """A record in the making.

    ::

        create() -- save_draft()  -- open_spool() -- append_*()* -- checkpoint()* -- finalise()
        (parent)    (RunInfo so far)  (run's process)                                (rename)
                                                     ... killed ...                  recover()
                                                                                     (parent)

    All of it lies in `.tmp-<run id>` beside the final place, so a record either exists or does not. Whoever
    has a writer holds a claim to the folder; once nobody does, a later run closes it (`close_orphans`). Every
    method raises `RunFailedError` (`record_unwritable`) where the disk is full or gone; what was spooled
    until then stays.
    """

    def __init__(self, folder: Path, claim: ownership.Claim | None = None) -> None:
        """`folder`: a `.tmp-...` made by `create`, in this process or in another, whose claim is joined."""
        self.folder = folder
        self._spool: Spool | None = None
        self._claim = claim or ownership.join(self._claim_file)

    @classmethod
    def create(cls, records_dir: Path, point_id: str, run_id: str) -> RecordWriter:
        """Makes the folder. Raises `RecordsUnwritableError` where that is not possible."""
        folder = temporary_folder(records_dir, point_id, run_id)
        claim: ownership.Claim | None = None
        try:
            file = claim_file(records_dir, run_id)
            file.parent.mkdir(parents=True, exist_ok=True)
            claim = ownership.claim(file)
            folder.mkdir(parents=True)
            (folder / _SPOOL).mkdir()
        except OSError as error:
            if claim is not None:
                claim.release(remove=True)
            raise RecordsUnwritableError(
                f"records_dir: cannot write to {folder.parent}: {error.strerror}; set records_dir=FOLDER"
            ) from error
        return cls(folder, claim)

    @property
    def _claim_file(self) -> Path:
        return claim_file(self.folder.parent.parent, self.folder.name.removeprefix(TEMPORARY_PREFIX))

    def let_go(self) -> None:
        """Gives up the claim to the folder: this process will not come back to it."""
        if self._claim is not None:
            self._claim.release()

    def has_draft(self) -> bool:
        return (self.folder / _SPOOL / _DRAFT).exists() or (self.folder / schema.RUN_JSON).exists()

    def save_draft(self, info: RunInfo) -> None:
        """Keeps what is known of the run so far; replaces the draft before it in one step."""
        self.checkpoint(info)()

    def checkpoint(self, info: RunInfo) -> Callable[[], None]:
        """What, once called, has the draft and everything appended so far reach the disk.

        `info` is taken as it is now; the call may be made in another thread.
        """
        target = self.folder / _SPOOL / _DRAFT
        content = _to_bytes(info.to_json())

        def save() -> None:
            with _clear_errors(self.folder):
                write_atomically(target, content)
                if self._spool is not None:
                    self._spool.sync()

        return save

    def draft(self) -> RunInfo:
        """The draft saved last, by whichever process."""
        return RunInfo.from_json(json.loads((self.folder / _SPOOL / _DRAFT).read_bytes()))

    def link_log(self, log: Path) -> None:
        """Has `log`, which further runs write to as well, as `engine.log` until `place` puts what is added from now on there."""
        with _clear_errors(self.folder):
            begin = log.stat().st_size if log.exists() else 0
            (self.folder / _SPOOL / _LOG_FROM).write_text(str(begin), encoding="ascii")
            (self.folder / schema.ENGINE_LOG).symlink_to(log.absolute())

    def _take_log(self) -> None:
        log = self.folder / schema.ENGINE_LOG
        if not log.is_symlink():
            return
        content = b""
        with contextlib.suppress(OSError, ValueError):  # the log may be gone together with the process
            begin = int((self.folder / _SPOOL / _LOG_FROM).read_text(encoding="ascii"))
            with log.open("rb") as stream:
                stream.seek(begin)
                content = stream.read()
        write_atomically(log, content)

    def open_spool(self, gpu_uuids: Sequence[str]) -> None:
        """`gpu_uuids`: what the `gpu` of the events to come indexes."""
        with _clear_errors(self.folder):
            self._spool = Spool(self.folder / _SPOOL, gpu_uuids)

    def append_power(self, events: NDArray[np.void]) -> None:
        """`events`: EVENT_DTYPE[n]."""
        with _clear_errors(self.folder):
            self._open().append_power(events)

    def append_requests(self, rows: Sequence[RequestRow], first_chunks: Sequence[int]) -> None:
        """Requests as they stand, see `Spool.append_requests`."""
        with _clear_errors(self.folder):
            self._open().append_requests(rows, first_chunks)

    def append_steps(self, steps: Sequence[StepRow]) -> None:
        with _clear_errors(self.folder):
            self._open().append_steps(steps)

    def append_host_power(self, readings: Sequence[HostReading]) -> None:
        with _clear_errors(self.folder):
            self._open().append_host_power(readings)

    def append_host(self, samples: Sequence[HostRow]) -> None:
        with _clear_errors(self.folder):
            self._open().append_host(samples)

    def write_tables(self) -> dict[str, FileFacts]:
        """Ends the spool and turns it into the record's Parquet files; returns `RunInfo.files`."""
        spool = self.folder / _SPOOL
        with _clear_errors(self.folder):
            self.close()
            uuids, batches = power_events(spool)
            others = {
                schema.STEPS_PARQUET: _sorted(steps_table(spool), "logged_ns"),
                schema.HOST_POWER_PARQUET: _sorted(optional_table(spool, HOST_POWER), "t0_ns"),
                schema.HOST_PARQUET: _sorted(optional_table(spool, HOST), "t_ns"),
            }
            requests = _sorted(requests_table(spool), "planned_send_ns")
            return write_tables(self.folder, _power_tables(uuids, batches), requests, others)

    def place(self, info: RunInfo) -> Path:
        """Writes `run.json` and renames the folder; returns the final path. `info.files` is `write_tables`'s."""
        target = final_folder(self.folder.parent.parent, info.point_id, info.repeat, info.run_id)
        claimed = self._claim_file
        with _clear_errors(self.folder):
            self._take_log()
        if not info.validity.valid:
            info.log_tail = last_lines(self.folder / schema.ENGINE_LOG, LOG_TAIL_LINES)
        with _clear_errors(self.folder):
            write_atomically(self.folder / schema.RUN_JSON, _to_bytes(_final(info.to_json())))
            # Before this, an interrupted `place` begins anew from the spool; after it, from run.json.
            if (self.folder / _SPOOL).exists():
                shutil.rmtree(self.folder / _SPOOL)
            for left in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):  # of an earlier try that was killed
                left.unlink()
            sync_folder(self.folder)
            self.folder.rename(target)
            sync_folder(target.parent)
            claimed.unlink(missing_ok=True)
        self.let_go()
        self.folder = target
        return target

    def finalise(self, info: RunInfo) -> Path:
        """`write_tables` and `place` in one."""
        info.files = self.write_tables()
        return self.place(info)

    def close(self) -> None:
        """Closes the files; what was appended stays. May be called more than once."""
        if self._spool is not None:
            closing, self._spool = self._spool, None
            with contextlib.suppress(OSError):  # what came before the end mark can be read without it
                closing.close()

    def discard(self) -> None:
        """Removes the folder of a run that measured nothing."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._claim_file.unlink()
        self.let_go()

    @classmethod
    def recover(cls, folder: Path, reason: str, message: str, *, late: bool = False) -> Path:
        """Closes the folder of a run whose process is gone and returns the record's path.

        A run that had `complete` in its draft had measured everything and died while cleaning up: it stays
        valid, with a note. Any other is marked invalid with `reason` and `message`. `late`: long after the
        run, perhaps after a restart of the machine: what its clock says now is no part of the record.
        """
        writer = cls(folder)
        if (whole := writer._whole()) is not None:
            return writer.place(whole)
        try:
            info = writer.draft()
        except (OSError, ValueError, KeyError) as error:
            raise RunFailedError(
                UNWRITABLE, f"{folder} holds no draft of a record ({error}): nothing can be recovered from it"
            ) from error
        if info.complete:
            info.notes.append(f"the run's process died after all phases were measured: {message}")
        elif info.validity.valid:
            info.validity = schema.Validity(False, [reason], [message])
        elif reason not in info.validity.reasons:
            info.validity.reasons.append(reason)
            info.validity.messages.append(message)
        if not late:
            info.clock_pairs.append(vars(ClockPair.read()))
        return writer.finalise(info)

    def _whole(self) -> RunInfo | None:
        """`run.json` of a folder that lacks nothing but its final name: it is written last."""
        try:
            return RunInfo.from_json(json.loads((self.folder / schema.RUN_JSON).read_bytes()))
        except (OSError, ValueError, KeyError):
            return None

    def _open(self) -> Spool:
        if self._spool is None:
            raise RuntimeError("the spool is not open")
        return self._spool


@dataclass(frozen=True)
class Closed:
    """A record that was left open. `path` None: it could not be closed, and `message` says why."""

    path: Path | None
    message: str


def close_orphans(records_dir: Path) -> list[Closed]:
    """Closes what runs of this host left behind when they and their parents were killed.

    A folder is touched only if the claim to it was made on this host and nobody holds it any more
    (`wattcount.ownership`), so runs that go on, and those of other hosts, are left alone. What was
    measured becomes a record with the reason `worker_died`; folders in which nothing was measured go.
    """
    closed = []
    for file in sorted((records_dir / CLAIMS_FOLDER).glob("*.lock")):
        claim = ownership.take_over(file)
        if claim is None:
            continue
        run_id = file.stem
        folder = next(records_dir.glob(f"*/{TEMPORARY_PREFIX}{run_id}"), None)
        # Whatever ends this, a signal too: as long as it is not done, the next start finds the claim and does it.
        done = False
        try:
            if folder is not None and RecordWriter(folder).has_draft():
                path = RecordWriter.recover(
                    folder, WORKER_DIED, "the run and the process that watched it were killed", late=True
                )
                closed.append(Closed(path, f"closed the record of a run that was killed: {path}"))
            elif folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            done = True
        except RunFailedError as error:
            closed.append(
                Closed(None, f"a run that was killed left {folder}, which cannot be closed: {error}")
            )
        finally:
            claim.release(remove=done)
    return closed


def open_folders(records_dir: Path) -> dict[Path, str]:
    """Folders of records that are not closed, and whose they are: `running` (on this host), `dead` (the next
    run closes it), `elsewhere` (another host's) or `unclaimed` (nobody can tell)."""
    return {folder: _whose(records_dir, folder) for folder in records_dir.glob(f"*/{TEMPORARY_PREFIX}*")}


def _whose(records_dir: Path, folder: Path) -> str:
    file = claim_file(records_dir, folder.name.removeprefix(TEMPORARY_PREFIX))
    if not file.exists():
        return "unclaimed"
    if not ownership.is_of_this_host(file):
        return "elsewhere"
    claim = ownership.take_over(file)
    if claim is None:
        return "running"
    claim.release()
    return "dead"


def last_lines(log: Path, count: int) -> list[str]:
    """The last `count` lines of a log that are not empty, at most LOG_LINE_LENGTH characters of each."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4 * count * LOG_LINE_LENGTH))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line.rstrip()[:LOG_LINE_LENGTH] for line in lines if line.strip()][-count:]


def write_tables(
    folder: Path, power: Iterable[pa.Table], requests: pa.Table, others: Mapping[str, pa.Table]
) -> dict[str, FileFacts]:
    """The tables as raw files in `folder`; returns `RunInfo.files`. Raises OSError.

    power     in parts, so that memory does not grow with the run
    others    by the name of the file; one that a record may lack has none where it has no row
    """
    rows, tokens = packing.split(requests)
    tables = {schema.REQUESTS_PARQUET: rows, schema.TOKENS_PARQUET: tokens, **others}
    parts: dict[str, Iterable[pa.Table]] = {schema.POWER_PARQUET: power}
    parts |= {
        name: [table] for name, table in tables.items() if len(table) or name not in schema.OPTIONAL_FILES
    }
    return {name: packing.write(folder / name, schema.TABLES[name], each) for name, each in parts.items()}


def rewrite(record: Record) -> None:
    """Writes a record of an earlier version anew, in the form of today; without `metrics.json`, which was made of other files.

    The new folder is whole before it takes the place of the old one, which is `.tmp-old-...` for the moment between.
    Raises `WattcountError` for a record that is damaged, OSError where nothing can be written; then it is as it was.
    """
    record.verify()
    place = record.path
    new, old = (place.with_name(f"{TEMPORARY_PREFIX}{what}-{place.name}") for what in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        others = {
            schema.STEPS_PARQUET: record.steps,
            schema.HOST_POWER_PARQUET: record.host_power_table,
            schema.HOST_PARQUET: record.host,
        }
        files = write_tables(new, [record.power_table], record.requests, others)
        for file in record.files():
            if file.name not in (*record.raw_files, schema.RUN_JSON, schema.METRICS_JSON):
                shutil.copy2(file, new)
        content = json.loads((place / schema.RUN_JSON).read_bytes())
        content |= {"files": {name: asdict(facts) for name, facts in files.items()}}
        write_atomically(new / schema.RUN_JSON, _to_bytes(_final(content)))
        sync_folder(new)
        place.rename(old)
        new.rename(place)
        sync_folder(place.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old)


class _clear_errors:  # noqa: N801 - reads as a statement
    """Turns a failed write into one line that says what to do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            what = "the disk is full" if full else error.strerror or str(error)
            raise RunFailedError(
                UNWRITABLE,
                f"cannot write the record at {self._folder}: {what}; free some space or set records_dir=FOLDER",
            ) from error


def _final(info: dict[str, Any]) -> dict[str, Any]:
    """`run.json` beside tables of this version; unchanged beside those of an earlier one, whose run was killed meanwhile."""
    if schema.TOKENS_PARQUET not in info["files"]:
        return info
    phases = [
        {**span, **{key: packing.whole_us(span[key]) for key in ("start_ns", "end_ns")}}
        for span in info["phases"]
    ]
    return {**info, "schema_version": schema.RECORD_SCHEMA_VERSION, "phases": phases}


def _to_bytes(info: Mapping[str, Any]) -> bytes:
    return (json.dumps(info, indent=1, allow_nan=False) + "\n").encode()


def _power_tables(uuids: tuple[str, ...], batches: Iterator[NDArray[np.void]]) -> Iterator[pa.Table]:
    """Row groups of power events, each in the order of GPU, source and time."""
    waiting: list[NDArray[np.void]] = []
    rows = 0
    for events in batches:
        waiting.append(events)
        rows += len(events)
        if rows >= packing.ROW_GROUP:
            yield _power_table(uuids, waiting)
            waiting, rows = [], 0
    if waiting:
        yield _power_table(uuids, waiting)


def _power_table(uuids: tuple[str, ...], parts: list[NDArray[np.void]]) -> pa.Table:
    events = np.concatenate(parts)
    order = np.lexsort((events["source_ts_us"], events["t0_ns"], events["source"], events["gpu"]))
    return PowerTrace(uuids, events[order]).to_arrow()


def _sorted(table: pa.Table, by: str) -> pa.Table:
    """Stable, and with null last."""
    keys = table[by].to_numpy() if len(table) else np.empty(0)
    return table.take(np.argsort(keys, kind="stable"))
