"""What is in a folder of records, by planned point: the truth about what is measured.

Reading some thousand `run.json` takes seconds, so what was read is kept in `records_dir/.studies/index.json`. That
file may be removed at any time: a record never changes once it is in place, but for its `metrics.json`, whose time
of change is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from wattcount import __version__
from wattcount.config.plain import from_json
from wattcount.config.schema import RunConfig
from wattcount.errors import WattcountError
from wattcount.files import write_atomically
from wattcount.record.schema import METRICS_JSON, RUN_JSON
from wattcount.record.upgrade import upgraded
from wattcount.sweep.planning.keys import NODES, Keys

INDEX_FILE = Path(".studies") / "index.json"
INDEX_VERSION = f"2 {__version__}"
FACTS = ("evidence", "device", "version_minor", "found_name", "fingerprints")
"""What a planned key leaves out, because the machine that measures finds it."""


class Status(Enum):
    valid = "valid"
    invalid = "invalid"
    """Every phase was run, but its checks of validity say that it cannot be believed."""
    failed = "failed"


@dataclass(frozen=True)
class Entry:
    """What planning needs to know of a record."""

    folder: str
    """In records_dir: `<point>/r<repeat>-<run id>`."""
    point: str
    """The planned point without seed and repeat, see `Keys.point`."""
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
    metrics_ns: int
    """When metrics.json was written; 0: there is none."""


class RecordIndex:
    """The records of a folder by planned point, seed and repeat; in each the oldest first."""

    def __init__(self, records_dir: Path, entries: Iterable[Entry]) -> None:
        self.records_dir = records_dir
        self._by_run: dict[tuple[str, int, int], list[Entry]] = {}
        self._by_point: dict[str, list[Entry]] = {}
        for entry in sorted(entries, key=lambda entry: entry.folder.rpartition("/r")[2].partition("-")[2]):
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


def read_index(records_dir: Path) -> RecordIndex:
    """All records of a folder; damaged ones, and what is none, are left out. Raises nothing."""
    cached = _load(records_dir / INDEX_FILE)
    keys = _JsonKeys()
    entries: list[Entry] = []
    changed = False
    for folder in _record_folders(records_dir):
        path = records_dir / folder
        metrics_ns = _modified_ns(path / METRICS_JSON)
        entry = cached.get(folder)
        if entry is None or entry.metrics_ns != metrics_ns:
            changed = True
            entry = _read(path, folder, metrics_ns, keys)
        if entry is not None:
            entries.append(entry)
    if changed or len(entries) != len(cached):
        _save(records_dir / INDEX_FILE, entries)
    return RecordIndex(records_dir, entries)


def verdict(
    complete: bool, validity: Mapping[str, Any], metrics: Mapping[str, Any]
) -> tuple[Status, str | None, str | None]:
    """What a record is worth, and if not valid, a reason and a message.

    validity  of `run.json`
    metrics   content of `metrics.json`; looked at where the run came to its end
    """
    if not (complete and validity["valid"]):
        reasons, messages = validity["reasons"], validity["messages"]
        return Status.failed, *(reasons[:1] or ["incomplete"]), *(messages[:1] or ["it broke off"])
    found = metrics["validity"]
    if found["valid"]:
        return Status.valid, None, None
    wrong = [finding for finding in found["findings"] if finding["invalidates"]]
    return Status.invalid, *((wrong[0]["code"], wrong[0]["message"]) if wrong else (None, None))


def run_energy_j(info: Mapping[str, Any], metrics: Mapping[str, float | None]) -> float | None:
    """About what a run's GPUs took from its first phase to its last, joule; None where it has no energy.

    The window as measured, the bare phases at bare idle power, and everything else at loaded idle power.
    """
    window_j, loaded_w = metrics.get("energy/gpu_j"), metrics.get("power/idle_loaded_w")
    bare_w = metrics.get("power/idle_bare_w")
    if window_j is None:
        return None
    total = window_j
    for span in info["phases"]:
        if span["phase"] == "window" or span["end_ns"] is None:
            continue
        watts = bare_w if span["phase"].startswith("bare_idle") else loaded_w
        total += (watts or 0.0) * (span["end_ns"] - span["start_ns"]) / 1e9
    return float(total)


def run_wall_s(info: Mapping[str, Any]) -> float | None:
    """Seconds from the parent's first step to the record in place; of a run that broke off, of its phases."""
    if (whole := info.get("timing", {}).get("wall_s")) is not None:
        return float(whole)
    spans = info["phases"]
    ends = [span["end_ns"] for span in spans if span["end_ns"] is not None]
    return (max(ends) - spans[0]["start_ns"]) / 1e9 if ends else None


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
        return self._keys.point(RunConfig(**{name: self._node(name, config[name]) for name in NODES}))

    def _node(self, name: str, data: Any) -> Any:
        text = name + json.dumps(data, sort_keys=True)
        if text not in self._nodes:
            self._nodes[text] = getattr(from_json({name: data}), name)
        return self._nodes[text]


def _record_folders(records_dir: Path) -> list[str]:
    found = []
    with contextlib.suppress(OSError), os.scandir(records_dir) as points:
        for point in points:
            if point.name.startswith(".") or not point.is_dir():
                continue
            with contextlib.suppress(OSError), os.scandir(point.path) as runs:
                found += [f"{point.name}/{run.name}" for run in runs if run.name.startswith("r")]
    return found


def _read(path: Path, folder: str, metrics_ns: int, keys: _JsonKeys) -> Entry | None:
    try:
        info = upgraded(json.loads((path / RUN_JSON).read_bytes()))
        measured = info["complete"] and info["validity"]["valid"]
        content = _metrics(path, metrics_ns) if measured else {}
        status, reason, message = verdict(info["complete"], info["validity"], content)
        return Entry(
            folder=folder,
            point=keys.point(info["config"]),
            seed=info["seed"],
            repeat=info["repeat"],
            status=status,
            reason=reason,
            message=message,
            facts=facts_of(info["config"], info["evidence"]),
            wall_s=run_wall_s(info),
            energy_j=run_energy_j(info, content.get("metrics", {})),
            metrics_ns=metrics_ns or _modified_ns(path / METRICS_JSON),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    except WattcountError:
        return None  # of a later version, or damaged: it stands for nothing


def _metrics(path: Path, metrics_ns: int) -> dict[str, Any]:
    if metrics_ns:
        with contextlib.suppress(ValueError):
            content: dict[str, Any] = json.loads((path / METRICS_JSON).read_bytes())
            return content
    from wattcount import metrics

    metrics.write(path)
    return dict(json.loads((path / METRICS_JSON).read_bytes()))


def _modified_ns(file: Path) -> int:
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116 (called some thousand times)
    except OSError:
        return 0


def _load(file: Path) -> dict[str, Entry]:
    try:
        content = json.loads(file.read_bytes())
        if content["version"] != INDEX_VERSION:
            return {}
        return {
            data["folder"]: Entry(**(data | {"status": Status(data["status"])}))
            for data in content["entries"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _save(file: Path, entries: Iterable[Entry]) -> None:
    content = {"version": INDEX_VERSION, "entries": [asdict(e) | {"status": e.status.value} for e in entries]}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(content))
