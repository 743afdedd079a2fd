"""The ledger of a sweep: what was planned, tried, measured, and what runs now. Its records are the truth.

::

    records_dir/.sweeps/<name>/plan.parquet                             the latest plan
                               events/<host>-<pid>-<start ns>.jsonl      one file a process that writes

Every process has a file of its own, so nothing depends on appending atomically over a network. The file's
first line says whose it is, and it stays locked while its process lives: that is how whoever reads knows
what was killed. Locks of other hosts are not trusted; there the file's age tells (see `Ledger.beat`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount import ownership
from wattcount.errors import WattcountError, one_line
from wattcount.files import replacing
from wattcount.metrics.metrics_json import Verdict
from wattcount.result import ResultTable
from wattcount.sweep.point import Outcome, Plan, Point, State, decode, encode
from wattcount.sweep.state import SweepState, Tally, Writer, tally

SWEEPS_FOLDER = ".sweeps"
"""Folder with all sweeps, in the folder of records."""
FORMER_SWEEPS_FOLDER = ".studies"
"""Folder with the sweeps of earlier versions; sweeps that they began go on there."""
PLAN_FILE, EVENTS_FOLDER = "plan.parquet", "events"
"""Names in the folder of a sweep: its plan, and what its processes have written."""
PLAN_VERSION = 1
"""Version of the plan's file."""
BEAT_S = 20.0
"""Time between two signs of life of a process [s]."""
BEAT_LIMIT_S = 5.0
"""Most time that a sign of life may take [s], on a file system that does not answer."""
SILENT_S = 600.0
"""Time without a sign of life after which a process of another host is taken for dead [s]."""

_STATES = {"to_run": State.waiting, "done": State.done, "skipped": State.skipped}
"""States of planned points by their names in the plan's file."""
_NAME = re.compile(r"[A-Za-z0-9_][\w.+=@-]{0,199}")
"""A name of a sweep: it is the name of a folder, too."""
_PLAN_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("overrides", pa.list_(pa.string())),
        ("model", pa.string()),
        ("gpu", pa.string()),
        ("scenario", pa.string()),
        ("load", pa.string()),
        ("seed", pa.int64()),
        ("repeat", pa.int64()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("record", pa.string()),
        ("wall_s", pa.float64()),
        ("energy_j", pa.float64()),
        ("basis", pa.string()),
        ("point", pa.string()),
        ("session", pa.string()),
    ]
)
"""Columns of the plan's file."""


class Ledger:
    """Writes into a sweep's ledger; one a process, for all its threads.

    ::

        with Ledger.open(records_dir, name) as ledger:   # the sweep's own process
            ledger.write_plan(plan)
            ledger.append(Outcome(State.running))
            ...
            ledger.append(Outcome(State.done, reason="finished"))

    A process that measures points opens one of its own, appends that a point is running and what came of it, and is
    `beating` in between. What cannot be written is left out: a full disk must not end a sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """`records_dir/.sweeps/<name>`."""
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._whole = True
        self._beat_s = 0.0

    @classmethod
    def open(cls, records_dir: str | Path, name: str) -> Ledger:
        """Makes the sweep's folders; its own file of outcomes comes with the first one.

        Raises `WattcountError` for a name that is no folder's, or where the folders cannot be made.
        """
        folder = sweep_folder(records_dir, name)
        try:
            (folder / EVENTS_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WattcountError(
                f"cannot keep the sweep's ledger in {folder}: {error.strerror}; set records_dir"
            ) from error
        return cls(folder)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write_plan(self, plan: Plan) -> None:
        """Puts the plan in the place of the one before, in one step. Raises `WattcountError`."""
        try:
            with replacing(self.folder / PLAN_FILE) as file:
                pq.write_table(_plan_table(plan), file, compression="zstd")
        except OSError as error:
            raise WattcountError(
                f"cannot write {self.folder / PLAN_FILE}: {error.strerror or error}"
            ) from error

    def append(self, outcome: Outcome) -> bool:
        """Whether it was written. Never raises for what a disk does."""
        line = encode(outcome)
        with self._lock:
            try:
                if self._descriptor is None:
                    self._descriptor = self._new_file()
                if not self._whole:
                    line = b"\n" + line  # what a full disk left of the line before is passed over
                self._whole = os.write(self._descriptor, line) == len(line)
            except OSError:
                return False
            return self._whole

    def beat(self) -> None:
        """Shows other hosts that this process lives; to be called as often as one likes."""
        with self._lock:
            if self._descriptor is None or time.monotonic() - self._beat_s < BEAT_S:
                return
            self._beat_s = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Beats from a thread of its own, for a process that does nothing else for longer than `SILENT_S`."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_S):
                self.beat()

        thread = threading.Thread(target=beat, name="ledger", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(BEAT_LIMIT_S)

    def close(self) -> None:
        """What runs by this process's outcomes is dead from now on. May be called more than once."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _new_file(self) -> int:
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())
        path = self.folder / EVENTS_FOLDER / f"{host}-{os.getpid()}-{time.time_ns()}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Written only now: whoever reads it knows that the lock was taken.
            os.write(descriptor, json.dumps(ownership.mark()).encode() + b"\n")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def sweeps(records_dir: str | Path) -> list[str]:
    """Names of the sweeps that have a plan, the one that was started last first."""
    names = {
        plan.parent.name
        for kept in (SWEEPS_FOLDER, FORMER_SWEEPS_FOLDER)
        for plan in Path(records_dir).expanduser().glob(f"{kept}/*/{PLAN_FILE}")
    }
    found = []
    for name in names:
        with contextlib.suppress(OSError, WattcountError):
            found.append(((sweep_folder(records_dir, name) / PLAN_FILE).stat().st_mtime_ns, name))
    return [name for _, name in sorted(found, reverse=True)]


def read_plan(records_dir: str | Path, name: str) -> Plan:
    """The latest plan. Raises `WattcountError` where there is none, or it is damaged."""
    file = sweep_folder(records_dir, name) / PLAN_FILE
    try:
        # Not `read_table`, which imports pandas.
        with pq.ParquetFile(file) as stored:
            return _plan(stored.read())
    except FileNotFoundError:
        raise WattcountError(f"no sweep {name!r} in {Path(records_dir).expanduser()}") from None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise WattcountError(
            f"{file} cannot be read ({one_line(error)}): starting the sweep again writes it afresh"
        ) from error


def read_state(records_dir: str | Path, name: str) -> SweepState:
    """How the sweep stands now, from its plan, its outcomes, and which records are there.

    A record that was damaged since, or that today's checks find invalid, makes its point not done.
    Raises `WattcountError` where there is no such sweep, or its plan is damaged.
    """
    found = ResultTable(sweep_folder(records_dir, name).parent.parent)

    def spoilt(record: str) -> Verdict | None:
        result = found.glance("/".join(record.rsplit("/", 2)[1:]))
        return None if result is None or result.valid else result.verdict

    state = _read_tally(records_dir, name, spoilt).state(time.time_ns())
    found.save()
    return state


def read_tally(records_dir: str | Path, name: str, told: Sequence[Outcome] = ()) -> Tally:
    """The same, to be added to as further outcomes come. Looks at no record, only whether it is there.

    told   outcomes that may not be seen in the ledger yet: a network file system shows late what other hosts wrote
    """
    return _read_tally(records_dir, name, lambda _record: None, told)


def _read_tally(
    records_dir: str | Path,
    name: str,
    spoilt: Callable[[str], Verdict | None],
    told: Sequence[Outcome] = (),
) -> Tally:
    plan = read_plan(records_dir, name)
    folder = sweep_folder(records_dir, name)
    here = str(folder.parent.parent)
    points = tuple(replace(p, record=_below(here, p.record)) if p.record else p for p in plan.points)
    writers = [*_writers(folder / EVENTS_FOLDER, here), Writer(told, alive=True)]
    return tally(replace(plan, points=points), writers, _is_there, spoilt)


def _below(records_dir: str, record: str) -> str:
    """Where a record lies that was told of when the folder was elsewhere: on another host, or before it was moved."""
    point, run = os.path.split(record)
    return f"{records_dir}/{os.path.basename(point)}/{run}"  # noqa: PTH119 (called some thousand times)


def _is_there(record: str) -> bool:
    return os.path.exists(f"{record}/run.json")  # noqa: PTH110 (called some thousand times)


def _writers(folder: Path, records_dir: str) -> Iterator[Writer]:
    for file in sorted(folder.glob("*.jsonl")):
        try:
            # Before its content is read: what a process wrote before it died must not seem to go on.
            alive = _is_alive(file)
            lines = file.read_bytes().split(b"\n")
        except OSError:
            continue
        outcomes = []
        for line in lines[1:]:
            with contextlib.suppress(ValueError):  # torn
                outcome = decode(line)
                if outcome.record is not None:
                    outcome = replace(outcome, record=_below(records_dir, outcome.record))
                if outcome.records:
                    here = tuple(_below(records_dir, record) for record in outcome.records)
                    outcome = replace(outcome, records=here)
                outcomes.append(outcome)
        yield Writer(outcomes, alive)


def _is_alive(file: Path) -> bool:
    with file.open("rb") as stream:
        try:
            here = ownership.is_here(json.loads(stream.readline()))
        except ValueError:
            here = False  # it is being made, or the disk was full
        if here and (held := ownership.is_held(file)) is not None:
            return held
        return time.time() - os.fstat(stream.fileno()).st_mtime < SILENT_S


def sweep_folder(records_dir: str | Path, name: str) -> Path:
    """`records_dir/.sweeps/<name>`; `.studies/<name>` where an earlier version started the sweep.

    Raises `WattcountError` for a name that is no folder's.
    """
    if not _NAME.fullmatch(name):
        raise WattcountError(
            f"{name!r} is no name of a sweep: letters, digits and . _ + = @ - only, and no . or - first"
        )
    top = Path(records_dir).expanduser().absolute()
    here, former = top / SWEEPS_FOLDER / name, top / FORMER_SWEEPS_FOLDER / name
    return former if (former / PLAN_FILE).exists() and not here.exists() else here


def _plan_table(plan: Plan) -> pa.Table:
    names = {state: name for name, state in _STATES.items()}
    rows = [asdict(point) | {"state": names[point.state]} for point in plan.points]
    about = {
        "version": str(PLAN_VERSION),
        "name": plan.name,
        "created_utc": plan.created_utc,
        "arguments": json.dumps(plan.arguments),
    }
    return pa.Table.from_pylist(rows, schema=_PLAN_SCHEMA.with_metadata(about))


def _plan(table: pa.Table) -> Plan:
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if int(about["version"]) != PLAN_VERSION:
        raise ValueError(f"it is of version {about['version']}, this wattcount reads {PLAN_VERSION}")
    names = [name for name in _PLAN_SCHEMA.names if name in table.column_names]  # earlier plans lack some
    points = []
    for values in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        row["overrides"], row["state"] = tuple(row["overrides"]), _STATES[row["state"]]
        points.append(Point(**row))
    return Plan(about["name"], tuple(points), about["created_utc"], tuple(json.loads(about["arguments"])))
