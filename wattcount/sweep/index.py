"""What is in a folder of records, by planned point: the truth about what is measured.

What a record is worth tells `metrics.verdict`, which reads all of it; for some thousand records that takes minutes. So
what was found is kept in `records_dir/.sweeps/index.json`, with the size and the time of change of each file of the
record: a record whose files are as they were is not read again. The file may be removed at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wattcount import __version__
from wattcount.config.identity import PLANNED
from wattcount.config.plain import from_json
from wattcount.config.schema import RunConfig
from wattcount.errors import WattcountError, one_line
from wattcount.files import write_atomically
from wattcount.metrics.registry import METRICS_VERSION
from wattcount.metrics.verdict import DAMAGED, Judged, Status, Verdict, glance, judge
from wattcount.records.reader import RAW_FILES
from wattcount.records.schema import METRICS_JSON, RECORD_SCHEMA_VERSION, RUN_JSON, RunInfo
from wattcount.sweep.keys import Keys

__all__ = [
    "INDEX_FILE",
    "Entry",
    "RecordIndex",
    "Status",
    "Verdicts",
    "facts_of",
    "read_index",
    "run_energy_j",
    "run_wall_s",
]

INDEX_FILE = Path(".sweeps") / "index.json"
INDEX_VERSION = f"3 {__version__} {RECORD_SCHEMA_VERSION} {METRICS_VERSION}"
"""A new check of validity raises METRICS_VERSION, and all records are judged anew."""
MOST_LOOKS = 500
"""Records that `Verdicts.at_a_glance` reads for the first time; each takes about a millisecond."""
FACTS = ("evidence", "device", "version_minor", "found_name", "fingerprints")
"""What a planned key leaves out, because the machine that measures finds it."""


Files = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and time of change in nanoseconds of each file that a record's verdict rests on."""


@dataclass(frozen=True)
class Entry:
    """What planning needs to know of a record."""

    folder: str
    """In records_dir: `<point>/r<repeat>-<run id>`."""
    point: str
    """The planned point without seed and repeat, see `Keys.point`; empty of a damaged record."""
    seed: int
    repeat: int
    status: Status
    reason: str | None
    message: str | None
    """Why it is not valid."""
    facts: Mapping[str, str | None]
    """FACTS of the machine that measured it."""
    wall_s: float | None
    energy_j: float | None
    """See `run_energy_j`."""
    files: Files
    """As they were when the record was read."""

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.status, tuple(filter(None, (self.reason,))), tuple(filter(None, (self.message,))))


class RecordIndex:
    """The records of a folder by planned point, seed and repeat; in each the oldest first.

    set_aside   records that are damaged, which stand for nothing
    """

    def __init__(self, records_dir: Path, entries: Iterable[Entry]) -> None:
        self.records_dir = records_dir
        self._by_run: dict[tuple[str, int, int], list[Entry]] = {}
        self._by_point: dict[str, list[Entry]] = {}
        self.set_aside: list[Entry] = []
        for entry in sorted(entries, key=lambda entry: entry.folder.rpartition("/r")[2].partition("-")[2]):
            if entry.status is Status.damaged:
                self.set_aside.append(entry)
                continue
            self._by_run.setdefault((entry.point, entry.seed, entry.repeat), []).append(entry)
            self._by_point.setdefault(entry.point, []).append(entry)

    def __len__(self) -> int:
        return sum(map(len, self._by_point.values()))

    def runs(self, point: str, seed: int, repeat: int, facts: Mapping[str, str | None]) -> list[Entry]:
        """Records of one repeat, of machines of which all that is known in `facts` holds too."""
        return [entry for entry in self._by_run.get((point, seed, repeat), ()) if _agree(entry.facts, facts)]

    def valid(self, point: str, facts: Mapping[str, str | None]) -> list[Entry]:
        """Valid records of a point, whatever their seed and repeat."""
        return [
            entry
            for entry in self._by_point.get(point, ())
            if entry.status is Status.valid and _agree(entry.facts, facts)
        ]


def read_index(records_dir: Path, *, keep: bool = True) -> RecordIndex:
    """All records of a folder. Raises nothing: damaged ones are set aside, with what is wrong with them.

    keep   what was found for the next time, in INDEX_FILE; without it nothing on the disk changes
    """
    verdicts = Verdicts(records_dir)
    entries = [entry for folder in _record_folders(records_dir) if (entry := verdicts.of(folder)) is not None]
    if keep:
        verdicts.save(only={entry.folder for entry in entries})
    return RecordIndex(records_dir, entries)


class Verdicts:
    """What the records of a folder are worth, each read once for as long as its files do not change."""

    def __init__(self, records_dir: Path) -> None:
        self._records_dir = records_dir
        self._known, self._whole = _load(records_dir / INDEX_FILE)
        self._on_disk = set(self._known)
        self._keys = _JsonKeys()
        self._changed = False
        self._looks = 0

    def of(self, folder: str) -> Entry | None:
        """`folder`: in records_dir. None where there is no record."""
        files = _files(f"{self._records_dir}/{folder}")
        if files is None:
            return None
        entry = self._known.get(folder)
        if entry is None or entry.files != files:
            entry = _entry_of(judge(self._records_dir / folder), folder, files, self._keys)
            self._keep(folder, entry)
        return entry

    def at_a_glance(self, folder: str) -> Entry | None:
        """The same without computing metrics, for any number of records: None too where they would have to be.

        Of records that were not looked at before, MOST_LOOKS are read; of all further ones nothing is told.
        """
        files = _files(f"{self._records_dir}/{folder}")
        entry = self._known.get(folder)
        if files is None or (entry is not None and entry.files == files):
            return None if files is None else entry
        if self._whole.get(folder) == files or self._looks >= MOST_LOOKS:
            return None
        self._looks += 1
        judged = glance(self._records_dir / folder)
        if judged is None:
            self._whole[folder] = files
            self._changed = True
            return None
        entry = _entry_of(judged, folder, files, self._keys)
        self._keep(folder, entry)
        return entry

    def save(self, only: set[str] | None = None) -> None:
        """Keeps what was found; `only`: folders, all others are forgotten. What cannot be written is left out."""
        kept = {folder: entry for folder, entry in self._known.items() if only is None or folder in only}
        if not self._changed and kept.keys() == self._on_disk:
            return
        content = {
            "version": INDEX_VERSION,
            "entries": [asdict(entry) | {"status": entry.status.value} for entry in kept.values()],
            "whole": {folder: files for folder, files in self._whole.items() if folder not in kept},
        }
        file = self._records_dir / INDEX_FILE
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(content))

    def _keep(self, folder: str, entry: Entry) -> None:
        self._known[folder] = entry
        self._whole.pop(folder, None)
        self._changed = True


def run_energy_j(info: RunInfo, metrics: Mapping[str, float | None]) -> float | None:
    """About what a run's GPUs took from its first phase to its last, joule; None where it has no energy.

    The window as measured, the bare phases at bare idle power, and everything else at loaded idle power.
    """
    window_j, loaded_w = metrics.get("energy/gpu_j"), metrics.get("power/idle_loaded_w")
    bare_w = metrics.get("power/idle_bare_w")
    if window_j is None:
        return None
    total = window_j
    for span in info.phases:
        if span.phase == "window" or span.end_ns is None:
            continue
        watts = bare_w if span.phase.startswith("bare_idle") else loaded_w
        total += (watts or 0.0) * (span.end_ns - span.start_ns) / 1e9
    return float(total)


def run_wall_s(info: RunInfo) -> float | None:
    """Seconds from the parent's first step to the record in place; of a run that broke off, of its phases."""
    if (whole := info.timing.get("wall_s")) is not None:
        return float(whole)
    ends = [span.end_ns for span in info.phases if span.end_ns is not None]
    return (max(ends) - info.phases[0].start_ns) / 1e9 if ends else None


def facts_of(config: Mapping[str, Any], evidence: str | None) -> dict[str, str | None]:
    """FACTS as a resolved configuration has them."""
    scenario = config["scenario"]
    prints = [
        config["model"].get("path_fingerprint"),
        (scenario.get("arrivals") or {}).get("fingerprint"),
        scenario["lengths"].get("fingerprint"),
    ]
    return {
        "evidence": evidence,
        "device": config["engine"].get("device"),
        "version_minor": config["engine"].get("version_minor"),
        "found_name": config["gpu"].get("found_name"),
        "fingerprints": " ".join(text or "-" for text in prints),
    }


def _agree(found: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> bool:
    return all(found.get(name) == value for name, value in wanted.items())


class _JsonKeys:
    """Keys of records' configurations; nodes with the same content are parsed once."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._nodes: dict[str, Any] = {}

    def point(self, config: Mapping[str, Any]) -> str:
        return self._keys.point(RunConfig(**{name: self._node(name, config[name]) for name in PLANNED}))

    def _node(self, name: str, data: Any) -> Any:
        text = name + json.dumps(data, sort_keys=True)
        if text not in self._nodes:
            self._nodes[text] = getattr(from_json({name: data}), name)
        return self._nodes[text]


def _record_folders(records_dir: Path) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(records_dir) as points:
        for point in points:
            if point.name.startswith(".") or not point.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), os.scandir(point.path) as runs:
                yield from (f"{point.name}/{run.name}" for run in runs if run.name.startswith("r"))


def _files(path: str) -> Files | None:
    """None where there is no `run.json`, of whatever kind."""
    found = []
    for name in (RUN_JSON, METRICS_JSON, *RAW_FILES):
        try:
            facts = os.lstat(f"{path}/{name}")
        except OSError:
            if name == RUN_JSON:
                return None
            continue
        size = facts.st_size if stat.S_ISREG(facts.st_mode) else -1
        found.append((name, size, facts.st_mtime_ns))
    return tuple(found)


def _entry_of(judged: Judged, folder: str, files: Files, keys: _JsonKeys) -> Entry:
    found = judged.verdict
    if judged.record is None or judged.metrics is None:
        return _damaged(folder, files, found.message or "")
    info = judged.record.info
    try:
        point, facts = keys.point(info.config), facts_of(info.config, info.evidence)
    except (WattcountError, KeyError, TypeError, AttributeError) as error:
        # Of a version whose configuration has other keys: it is no point that can be asked for here.
        what = f"{judged.record.path}: its configuration is of another version ({one_line(error)})"
        return _damaged(folder, files, what)
    return Entry(
        folder=folder,
        point=point,
        seed=info.seed,
        repeat=info.repeat,
        status=found.status,
        reason=found.reason,
        message=found.message,
        facts=facts,
        wall_s=run_wall_s(info),
        energy_j=run_energy_j(info, judged.metrics["metrics"]),
        files=files,
    )


def _damaged(folder: str, files: Files, message: str) -> Entry:
    return Entry(folder, "", 0, 0, Status.damaged, DAMAGED, message, {}, None, None, files)


def _load(file: Path) -> tuple[dict[str, Entry], dict[str, Files]]:
    """What was found, and the files of records that are whole and were not judged. Nothing of a file that is damaged."""
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != INDEX_VERSION:
            return {}, {}
        entries = {data["folder"]: _entry(data) for data in content["entries"]}
        return entries, {folder: _as_files(files) for folder, files in content["whole"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, {}


def _entry(data: Mapping[str, Any]) -> Entry:
    return Entry(**{**data, "status": Status(data["status"]), "files": _as_files(data["files"])})


def _as_files(files: Any) -> Files:
    return tuple((str(name), int(size), int(ns)) for name, size, ns in files)
