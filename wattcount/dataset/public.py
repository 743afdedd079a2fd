"""A record as it may be published: what names a person, a machine or a place is left out, or a pseudonym stands for it.

It is an allow-list. The schemas mark what may be published, and in which form (`config.fields.Public`, `records.schema`); all else
stays at home. A public record is a record: the same files, the same tables, the same `metrics.json` to the last digit.

    numbers, choices      as they are
    text with a form      as it is where it has that form and tells nothing private; else left out
    identity              a pseudonym instead of leaving out: other text is another point
    boards, hosts         pseudonyms
    other text            left out: paths, URIs, command lines, environment, notes, logs, serial numbers, bus ids
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import ipaddress
import json
import re
import typing
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.config.fields import IDENTITY, Form, OneOf, Public, Tree
from wattcount.config.identity import identity_fields, point_id
from wattcount.config.loader import SCENARIOS, Kind, kinds
from wattcount.config.schema import RunConfig
from wattcount.files import write_atomically
from wattcount.masking import has_secret, is_secret_name
from wattcount.metrics import write as write_metrics
from wattcount.metrics.metrics_json import KEYS as METRICS_KEYS
from wattcount.records import Record, intake, packing, schema
from wattcount.records.reader import upgraded
from wattcount.records.schema import RECORD_SCHEMA_VERSION, RunInfo
from wattcount.records.writer import write_tables

HIDDEN = "private"
"""Begin of the pseudonym of a text, and what stands for an error's text in a table."""

_FORMS = {
    Form.code: re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*"),
    Form.word: re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.*+:-]{0,99}"),
    Form.title: re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()'-]{0,79}"),
    Form.hub_id: re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}){0,2}"),
    Form.version: re.compile(
        r"\d[0-9a-zA-Z]{0,15}(?:[.]?[0-9a-zA-Z]{1,12}){0,8}(?:[+-](?:cu|cpu|rocm|post|rc)[0-9.]*)?"
    ),
    Form.module: re.compile(
        r"(?:re:|model|lm_head|transformer|language_model|vision|visual)[A-Za-z0-9_.*]{0,100}"
    ),
    Form.digest: re.compile(r"(?:\d{1,2}:)?[0-9a-f]{64}"),
    Form.time: re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"),
    Form.run: re.compile(r"\d{8}-\d{6}-\d{3}-[0-9a-f]{6}"),
}
"""What text of each form looks like as a whole; the rest have code of their own."""
_LONGEST_CODE = 64
_NEEDS_NO_LOOK = (Form.digest, Form.time, Form.run, Form.module)
"""Forms that are so narrow that nothing private has them."""
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""A key of a group that others made: the name of an argument or of a sensor."""
_NUMBER_AS_TEXT = re.compile(r"-?\d{1,9}(?:\.\d{1,9})?|[Tt]rue|[Ff]alse|null|None")
"""Values of a server's options, which are text whatever they mean."""
_INDEX = re.compile(r"\d{1,3}")
_BOARD = re.compile(r"(GPU|MIG)-.+", re.DOTALL)
_PRIVATE_NUMBERS = frozenset({"serial", "uid", "gid", "port", "mac", "ip"})
"""Keys of groups that others made whose numbers name a thing or a person."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_ADDRESS = re.compile(r"(?:[0-9a-fA-F]{0,4}:){2,}[0-9a-fA-F]{0,4}|[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")
"""IPv6 and MAC addresses, and bus ids of PCI."""
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_MACHINE = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z][a-z-]+", re.IGNORECASE)
"""`gpu7.cluster.example`: a name with dots whose last part is letters. `3.1-8B` and `0.26.0` are none."""
_LONG_DIGITS = re.compile(r"\d{10,}")
"""A serial number of a board has 13 digits."""
_LONG_WORD = re.compile(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{24,}")
"""A key or token without a form of its own: 24 characters, letters and digits mixed."""
_HOME = re.compile(r"/(?:home|Users|u|users)/([A-Za-z0-9._-]{3,})")
_COMMON_NAMES = frozenset({"root", "localhost", "user", "ubuntu", "runner", "admin"})
"""Names of users and hosts that tell nobody."""
SHORTEST_NAME = 4
"""Shortest name of a user or host that is looked for in other text [characters]: `vm` is in too many words."""


class _Omitted:
    """Stands for what is left out."""


_OMITTED = _Omitted()


class Pseudonyms:
    """Pseudonyms by HMAC-SHA256 with a submitter's own key: the same for the same name in all that he submits, and without the key
    nobody can tell whether a name is behind one."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _digest(self, kind: str, text: str) -> str:
        return hmac.new(
            self._key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256
        ).hexdigest()

    def board(self, uuid: str) -> str:
        found = self._digest("board", uuid)
        prefix = "MIG" if uuid.startswith("MIG") else "GPU"
        return f"{prefix}-{found[:8]}-{found[8:12]}-{found[12:16]}-{found[16:20]}-{found[20:32]}"

    def host(self, name: str) -> str:
        return f"host-{self._digest('host', name)[:12]}"

    def text(self, text: str) -> str:
        return f"{HIDDEN}-{self._digest('text', text)[:16]}"

    def run(self, text: str) -> str:
        return f"run-{self._digest('run', text)[:16]}"


class AsTheyAre(Pseudonyms):
    """Leaves what looks like a pseudonym, so that a public record is its own public form."""

    def __init__(self) -> None:
        super().__init__(b"")

    def board(self, uuid: str) -> str:
        return uuid if _PSEUDONYM_OF_BOARD.fullmatch(uuid) else super().board(uuid)

    def host(self, name: str) -> str:
        return name if _PSEUDONYM_OF_HOST.fullmatch(name) else super().host(name)

    def text(self, text: str) -> str:
        return text if _PSEUDONYM_OF_TEXT.fullmatch(text) else super().text(text)

    def run(self, text: str) -> str:
        return text if _PSEUDONYM_OF_RUN.fullmatch(text) else super().run(text)


_PSEUDONYM_OF_BOARD = re.compile(r"(?:GPU|MIG)-[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_PSEUDONYM_OF_HOST = re.compile(r"host-[0-9a-f]{12}")
_PSEUDONYM_OF_TEXT = re.compile(rf"{HIDDEN}(?:-[0-9a-f]{{16}})?")
_PSEUDONYM_OF_RUN = re.compile(r"run-[0-9a-f]{16}")


def write_public(record: Record, folder: Path, key: bytes) -> RunInfo:
    """Writes the public form of a record into `folder`, which must not be there, and returns its `run.json`.

    key   the submitter's, see `Pseudonyms`

    The record itself is left as it is. Raises `WattcountError` for a damaged record, OSError where nothing can be written.
    """
    record.check_files()
    names = Pseudonyms(key)
    folder.mkdir()
    tables = {
        schema.STEPS_PARQUET: record.steps,
        schema.HOST_POWER_PARQUET: public_table(record.host_power_table, names),
        schema.HOST_PARQUET: public_table(record.host, names),
    }
    power, requests = (public_table(table, names) for table in (record.power_table, record.requests))
    files = write_tables(folder, [power], requests, tables)
    content = public_run(record.info, names)
    content["files"] = {name: dataclasses.asdict(facts) for name, facts in files.items()}
    write_atomically(folder / schema.RUN_JSON, json.dumps(content, indent=1) + "\n")
    write_metrics(folder)
    return Record.open(folder).info


# -- run.json


def public_run(info: RunInfo, names: Pseudonyms) -> dict[str, Any]:
    """The public content of `run.json`, without `files`. It is of today's schema version, as `write_tables` writes."""
    data = info.to_json()
    walk = _Walk(names, _private_names(info, data))
    found = {
        name: value
        for name, what in _run_fields().items()
        if not isinstance(value := walk.shaped(data[name], what), _Omitted)
    }
    found["schema_version"] = RECORD_SCHEMA_VERSION
    found["config"] = public_config(info.config, names)
    found["point_id"] = _point(info, schema.typed_config(found["config"]), names)
    again: dict[str, Any] = upgraded(found)
    return again


@functools.cache
def _run_fields() -> Mapping[str, Any]:
    """What each field of `run.json` may hold that may be published."""
    hints = typing.get_type_hints(RunInfo, include_extras=True)
    marks = {
        name: mark
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Public)
    }
    return {name: mark.what for name, mark in marks.items()}


def _point(info: RunInfo, public: RunConfig, names: Pseudonyms) -> str:
    """The point's id: as it was where nothing of the identity is hidden, else that of the public configuration."""
    if identity_fields(public) == identity_fields(info.resolved):
        if _FORMS[Form.digest].fullmatch(info.point_id):
            return info.point_id
        return hashlib.sha256(names.text(info.point_id).encode()).hexdigest()
    return point_id(public)


def private_names(info: RunInfo) -> frozenset[str]:
    """Names of hosts, users, boards and the like that a record tells, in lower case: no public text may have one in it."""
    return _private_names(info, info.to_json())


def _private_names(info: RunInfo, data: Mapping[str, Any]) -> frozenset[str]:
    remote = info.nvml.get("remote") or {}
    hosts = [info.host.get("hostname"), remote.get("hostname"), remote.get("address")]
    found = [part for host in hosts if isinstance(host, str) for part in (host, host.partition(".")[0])]
    for gpu in info.gpus:
        found += [str(gpu[name]) for name in ("serial", "uuid", "pci_bus_id") if gpu.get(name)]
    for text in _texts(data):
        found += _HOME.findall(text)
    lower = {name.lower() for name in found}
    return frozenset(name for name in lower - _COMMON_NAMES if len(name) >= SHORTEST_NAME)


def _texts(value: Any) -> Iterator[str]:
    """All text in plain JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(name)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


# -- the configuration


def public_config(config: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    """A configuration's public part, as plain values. Keys that are left out take their defaults when it is read."""
    found: dict[str, Any] = _group(RunConfig, config, names)
    return found


def _group(cls: Any, values: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    known, found = kinds(cls), {}
    for item in dataclasses.fields(cls):
        if item.name not in values:
            continue
        value = _key_value(known[item.name], values[item.name], bool(item.metadata.get(IDENTITY)), names)
        if not isinstance(value, _Omitted):
            found[item.name] = value
    return found


def _key_value(kind: Kind, value: Any, is_identity: bool, names: Pseudonyms) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if kind.classes:
        cls = kind.classes[0] if len(kind.classes) == 1 else SCENARIOS[value["kind"]]
        return _group(cls, value, names)
    words = _choices(kind)
    if words is not None:
        return value if value in words else names.text(str(value)) if is_identity else _OMITTED
    mark = next((rule for rule in kind.rules if isinstance(rule, Public)), None)
    if mark is None:
        return names.text(json.dumps(value, sort_keys=True)) if is_identity else _OMITTED
    return _Walk(names, keep_place=is_identity or mark.required).shaped(value, mark.what)


def _choices(kind: Kind) -> Collection[str] | None:
    """The words that a key's text may be; None: it may be any."""
    for rule in kind.rules:
        if isinstance(rule, OneOf):
            return rule.words
    members = getattr(kind.of, "__members__", None)
    return None if members is None else {member.value for member in members.values()}


# -- what is public, by its shape


@dataclasses.dataclass(frozen=True)
class _Walk:
    """Goes through a value and leaves what may be published.

    private      names that no text may have in it
    keep_place   a pseudonym stands for what would be left out
    """

    names: Pseudonyms
    private: frozenset[str] = frozenset()
    keep_place: bool = False

    def shaped(self, value: Any, what: Any) -> Any:
        """The public part of `value`, or `_OMITTED`. Lists have the shape of what is in them."""
        if isinstance(value, list | tuple):
            parts = [self.shaped(inner, what) for inner in value]
            return [part for part in parts if not isinstance(part, _Omitted)]
        if isinstance(what, Tree):
            return self._tree(value, what, None)
        if isinstance(what, Mapping):
            if not isinstance(value, Mapping):
                return None if value is None else _OMITTED
            kept = {name: self.shaped(value[name], inner) for name, inner in what.items() if name in value}
            return {name: part for name, part in kept.items() if not isinstance(part, _Omitted)}
        if isinstance(value, str):
            return self._text(value, what)
        return value if value is None or isinstance(value, bool | int | float) else _OMITTED

    def _tree(self, value: Any, tree: Tree, below: str | None) -> Any:
        """below   the key that the value lies under; None: the tree itself"""
        if isinstance(value, Mapping):
            found = {}
            for name, inner in value.items():
                key, part = self._key(str(name)), self._tree(inner, tree, str(name).replace("-", "_"))
                if not isinstance(key, _Omitted) and not isinstance(part, _Omitted):
                    found[key] = part
            return found
        if isinstance(value, list | tuple):
            parts = [self._tree(inner, tree, below) for inner in value]
            return [part for part in parts if not isinstance(part, _Omitted)]
        if value is None or isinstance(value, bool):
            return value
        secret = below is not None and (is_secret_name(below) or below in _PRIVATE_NUMBERS)
        if isinstance(value, int | float):
            return self._hidden(str(value)) if secret else value
        if secret or not isinstance(value, str):
            return self._hidden(str(value))
        if _NUMBER_AS_TEXT.fullmatch(value):
            return value
        form = tree.texts.get(below or "", tree.other)
        return self._hidden(value) if form is None else self._text(value, form)

    def _key(self, key: str) -> Any:
        if _BOARD.fullmatch(key):
            return self.names.board(key)
        if _KEY.fullmatch(key) and not looks_private(key.replace("_", "-"), self.private):
            return key
        return self._hidden(key)

    def _text(self, text: str, form: Form) -> Any:
        if form is Form.board:
            return text if _INDEX.fullmatch(text) else self.names.board(text)
        if form is Form.host:
            return self.names.host(text)
        if form is Form.run:
            return text if _FORMS[form].fullmatch(text) else self.names.run(text)
        if form is Form.kernel:
            return "kernel"
        if form is Form.number:
            return self._hidden(text)
        if form is Form.release:
            found = re.match(r"\d+(?:\.\d+){1,3}(?![\d.])", text)
            return found[0] if found and not looks_private(found[0]) else self._hidden(text)
        if form is Form.cpu:
            text, form = text.partition("@")[0].strip(), Form.title
        if not _FORMS[form].fullmatch(text) or (form is Form.code and len(text) > _LONGEST_CODE):
            return self._hidden(text)
        if form in _NEEDS_NO_LOOK:
            return text
        shown = text.replace("/", " ") if form is Form.hub_id else text
        return self._hidden(text) if looks_private(shown, self.private) else text

    def _hidden(self, text: str) -> Any:
        return self.names.text(text) if self.keep_place else _OMITTED


def looks_private(text: str, private: frozenset[str] = frozenset()) -> bool:
    """Whether text has the look of a path, an address, a machine's name, a serial number or a secret, or has a private name in it.

    private   names in lower case
    """
    # The records of a bundle have the same texts.
    return (_looked_at if len(text) <= _USUAL_TEXT else _looked_at.__wrapped__)(text, private)


_USUAL_TEXT = 200
"""Length up to which what was found of a text is kept [characters]. Chosen: all of ours are shorter; long ones are somebody's bomb."""


@functools.lru_cache(maxsize=4096)
def _looked_at(text: str, private: frozenset[str]) -> bool:
    if any(mark in text for mark in ("/", "\\", "@", "~")) or has_secret(text):
        return True
    if any(pattern.search(text) for pattern in (_UUID, _LONG_DIGITS, _LONG_WORD)) or _ADDRESS.fullmatch(text):
        return True
    if any(_is_address(found) for found in _IPV4.findall(text)):
        return True
    if any(_MACHINE.fullmatch(word) for word in text.split()):
        return True
    lower = text.lower()
    return any(
        re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", lower) for name in private if name in lower
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


# -- tables


def public_table(table: pa.Table, names: Pseudonyms) -> pa.Table:
    """A table of a record with its text as `schema.PUBLIC_TEXTS` lets it be published; numbers as they are."""
    walk = _Walk(names, keep_place=True)
    for where, item in enumerate(table.schema):
        kind = item.type.value_type if pa.types.is_dictionary(item.type) else item.type
        if not pa.types.is_string(kind):
            continue
        form = schema.PUBLIC_TEXTS.get(item.name)
        column = table[item.name].combine_chunks().dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        texts = column.dictionary.to_pylist()
        shown = [HIDDEN if form is None and text else walk.shaped(text, form or Form.code) for text in texts]
        changed = pa.array(shown, pa.string()).take(column.indices).cast(item.type)
        table = table.set_column(where, item, changed)
    return table


# -- is a record public already?


def not_public(record: Record) -> Iterator[str]:
    """What of a record that was handed in is not in its public form: keys of its JSON files, columns of tables, what else is in its files.

    It looks at the files, not at what a reader takes from them: a key that every reader passes over is published, too. Raises
    `WattcountError`.
    """
    names = AsTheyAre()
    public = public_run(record.info, names)
    given, twice = _content(record, schema.RUN_JSON)
    metrics, twice_there = _content(record, schema.METRICS_JSON)
    for name, keys in ((schema.RUN_JSON, twice), (schema.METRICS_JSON, twice_there)):
        yield from (f"{key} of {name}, which is there twice," for key in keys)
    yield from _beyond({**given, "files": None}, {**public, "files": None}, "")
    for name, facts in given.get("files", {}).items():
        yield from (f"files.{name}.{key}" for key in facts if key not in _FILE_FACTS)
    yield from (f"{key} of {schema.METRICS_JSON}" for key in metrics if key not in METRICS_KEYS)
    for name in record.raw_files:
        yield from _beside_columns(record.path / name, name)
    for table in (record.power_table, record.requests, record.host_power_table, record.host):
        shown = public_table(table, names)
        yield from (name for name in table.column_names if shown[name] != table[name])


_FILE_FACTS = frozenset(item.name for item in dataclasses.fields(schema.FileFacts))


def _content(record: Record, name: str) -> tuple[dict[str, Any], list[str]]:
    """What a JSON file of a record holds, nothing where there is none, and the keys that stand twice in one of its groups: readers see
    one of the two."""
    twice: list[str] = []

    def group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return found

    file = record.path / name
    try:
        content = intake.read_bytes(file)
    except FileNotFoundError:
        return {}, []
    found: dict[str, Any] = intake.parse_json(content, file, group)
    return found, twice


def _beyond(given: Any, public: Any, where: str) -> Iterator[str]:
    """Dotted keys of plain JSON that are not as in its public form."""
    if isinstance(given, Mapping) and isinstance(public, Mapping):
        for name, value in given.items():
            below = f"{where}.{name}" if where else str(name)
            if name in public:
                yield from _beyond(value, public[name], below)
            else:
                yield below
    elif isinstance(given, list) and isinstance(public, list) and len(given) == len(public):
        for number, (value, shown) in enumerate(zip(given, public, strict=True)):
            yield from _beyond(value, shown, f"{where}[{number}]")
    elif given != public:
        yield where


def _beside_columns(path: Path, name: str) -> Iterator[str]:
    """Columns of a raw file that its table does not have, and what its footer has beside columns."""
    with intake.opened(path) as file:
        footer = pq.ParquetFile(file)
        known = packing.stored_schema(schema.TABLES[name]).names
        yield from (
            f"column {column} of {name}" for column in footer.schema_arrow.names if column not in known
        )
        beside = set(footer.metadata.metadata or {}) - {b"ARROW:schema"}
        if beside or footer.schema_arrow.metadata:
            yield f"metadata in {name}"
