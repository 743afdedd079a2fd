"""Thousands of bundles, each mutated in one way: what becomes of a validator that anybody may feed.

    python benchmarks/bench_mutated_bundles.py [--number 1000] [--seconds S] [--seed 1] [--kinds a,b] [--keep FOLDER]

One bundle is made of two small records in data/. Each mutant of it is validated as `wattcount validate` does, in its confined processes,
which here are used for many mutants. The table says, by kind of mutation, how many were rejected, flagged and accepted, and what must
not be: accepted with another figure or setting than the original has, a validator that crashed or took too long, something written
outside of its folder; and the largest memory of any confined process. Exit code 1 where one of those was seen.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.dataset import validate as validator
from wattcount.dataset.bundle import Submitter, opened_bundle, write_bundle
from wattcount.dataset.checks_recompute import SAME_SHARE
from wattcount.dataset.validate import LIMITS, Confined, DiedError, Limits, validate
from wattcount.errors import WattcountError
from wattcount.result import judge

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT_S = 120.0
"""What takes longer hangs [s]: the whole bundle takes a second on an idle machine, and this one may be busy."""
MEMORY_LIMIT_BYTES = 1_000_000_000
"""Most memory that a validation may take [bytes]."""
HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred", "<script>alert(1)</script><img src=x onerror=alert(1)>", "\u202egnp.exe", "a\r\nb\0c",
    "![x](http://evil.example)", "{{7*7}}${jndi:ldap://x}", "[bold red]markup[/]", "=cmd|' /C calc'!A0", "'; DROP TABLE results; --", "\ud800",
    "A" * 100_000,
)  # fmt: skip
"""Texts that a terminal, a page, a sheet or a data base would obey."""
HUGE = (10**400, -(2**63) - 1, 2**64, 1e308, -1e308, 10**18, 5e-324)
"""Numbers that overflow something."""


# -- a bundle as its parts


@dataclass(frozen=True)
class Member:
    """One entry of the archive."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    mode: int = 0o644


Members = list[Member]


def unpacked(bundle: bytes) -> Members:
    """The entries of a bundle of our own making."""
    with pa.CompressedInputStream(pa.BufferReader(bundle), "zstd") as stream:
        plain = stream.read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        found = []
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            found.append(Member(entry.name, file.read()))
    return found


def tar(members: Sequence[Member]) -> bytes:
    """The archive, not compressed, in the one form that a bundle has; what that form cannot hold goes into other headers."""
    target = io.BytesIO()
    for member in members:
        target.write(header(member))
        target.write(member.data)
        target.write(b"\0" * (-len(member.data) % 512))
    target.write(b"\0" * 1024)
    return target.getvalue()


def header(member: Member) -> bytes:
    entry = tarfile.TarInfo(member.name)
    entry.type, entry.linkname, entry.mode, entry.size = (
        member.kind,
        member.link,
        member.mode,
        len(member.data),
    )
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError:
        return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def compressed(plain: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(plain)
    return bytes(sink.getvalue().to_pybytes())


def packed(members: Sequence[Member]) -> bytes:
    return compressed(tar(members))


def manifest_of(members: Sequence[Member]) -> dict[str, Any]:
    found = json.loads(members[0].data)
    assert isinstance(found, dict)
    return found


def with_manifest(members: Members, manifest: Any) -> Members:
    """`manifest`: text, or what JSON can hold."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest, indent=1) + "\n"
    return [replace(members[0], data=text.encode("utf-8", "surrogatepass")), *members[1:]]


def with_file(members: Members, name: str, data: bytes) -> Members:
    return [replace(member, data=data) if member.name == name else member for member in members]


def refreshed(members: Members) -> Members:
    """With hashes and sizes as the files are: in each `run.json` of its tables, in the manifest of all files."""
    by_name = {member.name: member for member in members}
    for member in members[1:]:
        folder, _, name = member.name.rpartition("/")
        if name != "run.json":
            continue
        try:
            run = json.loads(member.data)
            for file, facts in run["files"].items():
                content = by_name[f"{folder}/{file}"].data
                facts |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            members = with_file(members, member.name, json.dumps(run).encode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # that file is what was mutated
    manifest = manifest_of(members)
    manifest["files"] = {
        member.name: {"sha256": hashlib.sha256(member.data).hexdigest(), "num_bytes": len(member.data)}
        for member in sorted(members[1:], key=lambda member: member.name)
    }
    return with_manifest(members, manifest)


def pick(members: Members, rng: random.Random, ending: str = "") -> Member:
    return rng.choice([member for member in members[1:] if member.name.endswith(ending)])


# -- kinds of mutation


@dataclass(frozen=True)
class Source:
    """The bundle that is mutated."""

    bundle: bytes
    members: Members


def smallest_records(number: int = 2) -> list[Path]:
    """Of the records in data/ that are valid measurements, those with the fewest bytes: a batch and a server."""
    found: dict[str, tuple[int, Path]] = {}
    for run in sorted((ROOT / "data" / "h100" / "records").glob("*/r*/run.json")):
        facts = json.loads(run.read_text())
        if facts["evidence"] != "measured" or not facts["validity"]["valid"]:
            continue
        size = sum(file.stat().st_size for file in run.parent.iterdir())
        kind = facts["config"]["scenario"]["kind"]
        found[kind] = min(found.get(kind, (size, run.parent)), (size, run.parent))
    return [path for _, path in found.values()][:number]


def source(folder: Path) -> Source:
    """The bundle that is mutated, made in `folder`."""
    file = folder / "source.wattcount"
    write_bundle(smallest_records(), file, Submitter("ann", "ann@example.org", "CC-BY-4.0", b"k" * 32))
    bundle = file.read_bytes()
    return Source(bundle, unpacked(bundle))


Mutate = Callable[[Source, random.Random], bytes]
KINDS: dict[str, Mutate] = {}


def kind(name: str) -> Callable[[Mutate], Mutate]:
    def declare(mutate: Mutate) -> Mutate:
        KINDS[name] = mutate
        return mutate

    return declare


def flipped(data: bytes, rng: random.Random, most: int = 8) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@kind("bits of the compressed file")
def _(source: Source, rng: random.Random) -> bytes:
    return flipped(source.bundle, rng)


@kind("bits of the archive, compressed anew")
def _(source: Source, rng: random.Random) -> bytes:
    return compressed(flipped(tar(source.members), rng))


@kind("a header of the archive made up")
def _(source: Source, rng: random.Random) -> bytes:
    plain = bytearray(tar(source.members))
    starts = [at for at in range(0, len(plain), 512) if plain[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(starts)
    where, length = rng.choice([(0, 100), (100, 8), (124, 12), (124, 12), (156, 1), (157, 100), (345, 155)])
    plain[at + where : at + where + length] = rng.choice(
        [
            rng.randbytes(length),
            b"\xff" * length,
            b"\0" * length,
            b"7" * length,
            b"\x80" + b"\xff" * (length - 1),
        ]
    )
    if rng.random() < 0.8:
        plain[at + 148 : at + 156] = b" " * 8
        plain[at + 148 : at + 156] = b"%06o\0 " % sum(plain[at : at + 512])
    return compressed(bytes(plain))


@kind("cut short")
def _(source: Source, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return source.bundle[: rng.randrange(len(source.bundle))]
    plain = tar(source.members)
    return compressed(plain[: rng.randrange(len(plain))])


@kind("something behind the end")
def _(source: Source, rng: random.Random) -> bytes:
    return rng.choice(
        [
            source.bundle + rng.randbytes(rng.randint(1, 2000)),
            source.bundle + source.bundle,
            compressed(tar(source.members) + rng.randbytes(700)),
            compressed(tar(source.members) + tar(source.members)),
        ]
    )


@kind("a wrong hash or size")
def _(source: Source, rng: random.Random) -> bytes:
    manifest = manifest_of(source.members)
    facts = manifest["files"][rng.choice(list(manifest["files"]))]
    if rng.random() < 0.5:
        facts["sha256"] = rng.choice(
            [rng.randbytes(32).hex(), "", facts["sha256"].upper(), facts["sha256"][:-1], "0" * 64]
        )
    else:
        facts["num_bytes"] += rng.choice([-1, 1, 10**12, -facts["num_bytes"] - 1])
    return packed(with_manifest(source.members, manifest))


@kind("two files swapped")
def _(source: Source, rng: random.Random) -> bytes:
    first = pick(source.members, rng)
    same = first.name.rpartition("/")[2] if rng.random() < 0.5 else ""
    others = [member for member in source.members[1:] if member.name != first.name]
    second = rng.choice([member for member in others if member.name.endswith(same)] or others)
    members = with_file(with_file(source.members, first.name, second.data), second.name, first.data)
    return packed(refreshed(members) if rng.random() < 0.5 else members)


@kind("a file renamed, left out or moved")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng)
    how = rng.randrange(4)
    if how == 0:
        members = [m for m in source.members if m.name != victim.name]
    elif how == 1:
        new = rng.choice(
            [
                victim.name + "x",
                victim.name.upper(),
                victim.name.replace("/", "//"),
                "./" + victim.name,
                victim.name + "/",
            ]
        )
        members = [replace(m, name=new) if m.name == victim.name else m for m in source.members]
    elif how == 2:
        members = [*source.members[1:], source.members[0]]
    else:
        members = [source.members[0], *rng.sample(source.members[1:], len(source.members) - 1)]
    return packed(refreshed(members) if rng.random() < 0.5 and how != 2 else members)


@kind("a file or field too many")
def _(source: Source, rng: random.Random) -> bytes:
    how = rng.randrange(3)
    if how == 0:
        folder = pick(source.members, rng).name.rpartition("/")[0]
        name = rng.choice(
            [
                f"{folder}/extra.txt",
                f"{folder}/.hidden",
                "extra",
                f"{folder}/__init__.py",
                f"{folder}/below/x",
                "records/x",
            ]
        )
        members = [*source.members, Member(name, b"import os")]
        return packed(refreshed(members) if rng.random() < 0.5 else members)
    if how == 1:
        manifest = manifest_of(source.members)
        where = rng.choice([manifest, manifest["records"][0], next(iter(manifest["files"].values()))])
        where[rng.choice(["extra", "__class__", "host", ""])] = rng.choice([1, "x", None, {}])
        return packed(with_manifest(source.members, manifest))
    victim = pick(source.members, rng, ".json")
    data = json.loads(victim.data)
    node: Any = rng.choice([data, *(v for v in data.values() if isinstance(v, dict))])
    node["extra_field"] = rng.choice(["someone@host", 1, {"a": [1]}, None])
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


@kind("a link, a device, a pipe, a folder")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng)
    kinds = [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.DIRTYPE,
        tarfile.CONTTYPE,
    ]
    target = rng.choice(
        ["/etc/passwd", "../../../../etc/passwd", "../../outside", victim.name, "manifest.json"]
    )
    odd = Member(victim.name, b"", rng.choice(kinds), target)
    if rng.random() < 0.5:
        return packed([odd if m.name == victim.name else m for m in source.members])
    # A link first, then a file through it.
    link = Member(
        victim.name.rpartition("/")[0], b"", tarfile.SYMTYPE, rng.choice(["/tmp", "..", "../outside"])
    )
    return packed([source.members[0], link, *source.members[1:]])


@kind("a path that leads out")
def _(source: Source, rng: random.Random) -> bytes:
    name = rng.choice(
        ["../outside", "../../outside", "/tmp/outside", "records/../../outside", "records/x/../../../outside", "..", ".", "",
         "records\\..\\..\\outside", "C:outside", "//outside", "records/\0outside", "~/outside", "records/" + "d/" * 2000 + "x", "x" * 5000]
    )  # fmt: skip
    members = [*source.members, Member(name.replace("\0", "_0"), b"outside")]
    if rng.random() < 0.3:
        victim = pick(source.members, rng)
        members = [
            replace(m, name=name.replace("\0", "_0")) if m.name == victim.name else m for m in source.members
        ]
    return packed(refreshed(members) if rng.random() < 0.7 else members)


@kind("a name twice")
def _(source: Source, rng: random.Random) -> bytes:
    victim = rng.choice(source.members)
    twin = replace(victim, data=rng.choice([victim.data, b"{}", flipped(victim.data, rng)]))
    members = (
        [*source.members, twin] if rng.random() < 0.5 else [source.members[0], twin, *source.members[1:]]
    )
    if rng.random() < 0.5:
        return packed(members)
    text = source.members[0].data.decode()
    return packed(with_manifest(source.members, text.replace("{", '{"schema_version": 99, ', 1)))


@kind("a bomb")
def _(source: Source, rng: random.Random) -> bytes:
    how = rng.randrange(6)
    victim = pick(source.members, rng)
    if how == 0:  # a gigabyte of zeros in some 30 kB
        return compressed_zeros(source, victim.name, 1 << 30)
    if how == 1:  # very many files
        return packed([*source.members, *(Member(f"records/x/{number}") for number in range(20_000))])
    if how == 2:  # a JSON of 50 MB
        return packed(
            refreshed(
                with_file(
                    source.members, pick(source.members, rng, ".json").name, b"[" + b"0," * 25_000_000 + b"0]"
                )
            )
        )
    if how == 3:  # a table of very many equal values
        table = pa.table({"time_ns": pa.array(np.zeros(20_000_000, np.int64))})
        return packed(
            refreshed(with_file(source.members, pick(source.members, rng, ".parquet").name, parquet(table)))
        )
    if how == 4:  # very many columns
        table = pa.table({f"c{number}": [0] for number in range(5_000)})
        return packed(
            refreshed(with_file(source.members, pick(source.members, rng, ".parquet").name, parquet(table)))
        )
    # a declared size beyond all bounds
    entry = tarfile.TarInfo("records/x/huge")
    entry.size = rng.choice([1 << 40, 1 << 62, 8**11 - 1])
    return compressed(entry.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)


def compressed_zeros(source: Source, name: str, num_bytes: int) -> bytes:
    """A bundle in which one file is nothing but zeros, made without having them all in memory."""
    entry = tarfile.TarInfo(name)
    entry.size = num_bytes
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(_head(source.members[:1]))
        stream.write(entry.tobuf(tarfile.GNU_FORMAT))
        block = b"\0" * (1 << 20)
        for _ in range(num_bytes >> 20):
            stream.write(block)
        stream.write(b"\0" * 1024)
    return bytes(sink.getvalue().to_pybytes())


def _head(members: Sequence[Member]) -> bytes:
    """The entries without the archive's end."""
    return tar(members)[:-1024]


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def places(data: Any, wanted: Callable[[Any], bool]) -> list[tuple[Any, Any]]:
    """(container, key) of each value in a JSON that is wanted."""
    found: list[tuple[Any, Any]] = []
    stack = [data]
    while stack:
        node = stack.pop()
        pairs = (
            list(node.items())
            if isinstance(node, dict)
            else list(enumerate(node))
            if isinstance(node, list)
            else []
        )
        for key, value in pairs:
            if wanted(value):
                found.append((node, key))
            if isinstance(value, dict | list):
                stack.append(value)
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_json(
    source: Source,
    rng: random.Random,
    wanted: Callable[[Any], bool],
    new: Callable[[Any], Any],
    *,
    fresh: bool = True,
) -> bytes:
    """One value of a JSON file of the bundle, or of its manifest, replaced."""
    victim = rng.choice([m for m in source.members if m.name.endswith(".json")])
    data = json.loads(victim.data)
    node, key = rng.choice(places(data, wanted))
    node[key] = new(node[key])
    if victim.name == source.members[0].name:
        return packed(with_manifest(source.members, data))
    members = with_file(source.members, victim.name, json.dumps(data).encode("utf-8", "surrogatepass"))
    return packed(refreshed(members) if fresh else members)


@kind("a huge number")
def _(source: Source, rng: random.Random) -> bytes:
    return in_json(source, rng, is_number, lambda _: rng.choice(HUGE))


@kind("NaN and infinities")
def _(source: Source, rng: random.Random) -> bytes:
    return in_json(source, rng, is_number, lambda _: rng.choice([float("nan"), float("inf"), float("-inf")]))


@kind("deep JSON, or none")
def _(source: Source, rng: random.Random) -> bytes:
    victim = rng.choice([m for m in source.members if m.name.endswith(".json")])
    text = rng.choice(
        ["[" * 100_000 + "]" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "[" * 200_000, "", "null", "[]", "{}", "\ufeff{}", '"x"', "{'a': 1}",
         victim.data.decode()[:-3], victim.data.decode().replace(":", ": ", 1) + "x", "1" * 1_000_000]
    )  # fmt: skip
    if victim.name == source.members[0].name:
        return packed(with_manifest(source.members, text))
    return packed(refreshed(with_file(source.members, victim.name, text.encode())))


@kind("markup and escapes in texts")
def _(source: Source, rng: random.Random) -> bytes:
    return in_json(source, rng, lambda value: isinstance(value, str), lambda _: rng.choice(HOSTILE))


@kind("a key that is markup")
def _(source: Source, rng: random.Random) -> bytes:
    victim = rng.choice([m for m in source.members if m.name.endswith(".json")])
    data = json.loads(victim.data)
    node = rng.choice(
        [data, *(node[key] for node, key in places(data, lambda value: isinstance(value, dict)))]
    )
    if node and rng.random() < 0.5:
        node[rng.choice(HOSTILE)] = node.pop(rng.choice(list(node)))
    else:
        node[rng.choice(HOSTILE)] = 1
    if victim.name == source.members[0].name:
        return packed(with_manifest(source.members, data))
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


@kind("a wrong type")
def _(source: Source, rng: random.Random) -> bytes:
    others: list[Any] = [None, True, "x", 1, 1.5, [], {}, [1], {"a": 1}, "", "1", -1]
    return in_json(
        source, rng, lambda _: True, lambda old: rng.choice([o for o in others if type(o) is not type(old)])
    )


@kind("an edited figure, hashes as they were")
def _(source: Source, rng: random.Random) -> bytes:
    return in_json(source, rng, is_number, lambda old: _edited(old, rng), fresh=False)


@kind("an edited figure of metrics.json, hashes refreshed")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng, "metrics.json")
    data = json.loads(victim.data)
    node, key = rng.choice(places(data["metrics"], is_number))
    node[key] = _edited(node[key], rng)
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


@kind("an edited number of run.json, hashes refreshed")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng, "run.json")
    data = json.loads(victim.data)
    node, key = rng.choice(places(data, is_number))
    node[key] = _edited(node[key], rng)
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


def _edited(old: float, rng: random.Random) -> float:
    if isinstance(old, int):
        return rng.choice([old + 1, old - 1, old * 2, -old - 1, 0 if old else 1])
    return float(rng.choice([np.nextafter(old, 1e300), old * 0.97, old * 1.0001, -old - 1, old + 1e-6]))


@kind("an edited table, hashes refreshed")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng, ".parquet")
    table = pq.read_table(io.BytesIO(victim.data))
    if not len(table):
        return packed(
            refreshed(
                with_file(
                    source.members, victim.name, parquet(table.slice(0, 0).select(table.column_names[:1]))
                )
            )
        )
    how = rng.randrange(6)
    if how == 0:
        at = rng.randrange(len(table))
        table = pa.concat_tables([table.slice(0, at), table.slice(at + 1)])
    elif how == 1:
        at = rng.randrange(len(table))
        table = pa.concat_tables([table, table.slice(at, 1)])
    elif how == 2:
        table = table.take(pa.array(rng.sample(range(len(table)), len(table))))
    elif how == 3:
        table = table.drop_columns([rng.choice(table.column_names)])
    else:
        table = _with_cell(table, rng)
    return packed(refreshed(with_file(source.members, victim.name, parquet(table))))


def _with_cell(table: pa.Table, rng: random.Random) -> pa.Table:
    """One cell of a column of numbers changed."""
    numbers = [f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    if not numbers:
        return table.slice(1)
    name = rng.choice(numbers)
    values = table[name].to_pylist()
    at = rng.randrange(len(values))
    values[at] = 1 if values[at] is None else max(0, int(values[at]) + rng.choice([-1, 1, 1000]))
    try:
        column = pa.array(values, table.schema.field(name).type)
    except (pa.ArrowInvalid, OverflowError):
        return table.slice(1)
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


@kind("bits of a table, hashes refreshed")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng, ".parquet")
    data = victim.data
    if rng.random() < 0.5:
        # The footer: its length stands before the last four bytes.
        (length,) = struct.unpack("<I", data[-8:-4])
        cut = len(data) - 8 - length
        data = data[:cut] + flipped(data[cut:], rng)
    else:
        data = flipped(data, rng)
    return packed(refreshed(with_file(source.members, victim.name, data)))


class _Owned:
    """Would make a folder if somebody unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("outside-by-pickle",)


@kind("a pickle in place of a file")
def _(source: Source, rng: random.Random) -> bytes:
    victim = rng.choice(source.members)
    data = pickle.dumps(_Owned(), protocol=rng.choice([0, 2, 5]))
    if victim.name == source.members[0].name:
        return packed([replace(victim, data=data), *source.members[1:]])
    return packed(refreshed(with_file(source.members, victim.name, data)))


@kind("another schema or metrics version")
def _(source: Source, rng: random.Random) -> bytes:
    victim = rng.choice([m for m in source.members if m.name.endswith(".json")])
    data = json.loads(victim.data)
    key = rng.choice([key for key in data if key.endswith("version")] or list(data))
    data[key] = rng.choice([0, -1, 99, 10**9, "1", None, 1.5, [1]])
    if victim.name == source.members[0].name:
        return packed(with_manifest(source.members, data))
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


@kind("dates and clocks")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng, "run.json")
    data = json.loads(victim.data)
    if rng.random() < 0.5:
        data["started_utc"] = rng.choice(
            [
                "2031-01-01T00:00:00.000+00:00",
                "1970-01-01T00:00:00+00:00",
                "yesterday",
                "",
                "2026-02-30T00:00:00Z",
            ]
        )
    else:
        pair = rng.choice(data["clock_pairs"])
        pair[rng.choice(["utc_ns", "monotonic_ns"])] += rng.choice([-1, 1]) * rng.choice(
            [10**9, 10**12, 10**17]
        )
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


@kind("who, what and which point it claims to be")
def _(source: Source, rng: random.Random) -> bytes:
    manifest = manifest_of(source.members)
    entry = rng.choice(manifest["records"])
    key = rng.choice([*entry, "handle", "licence", "cohort", "contact", "wattcount_version"])
    where = entry if key in entry else manifest
    old = where.get(key)
    where[key] = (
        old + 1 if isinstance(old, int) else rng.choice([f"{old}x", "0" * 64, "GPL-3.0", "2019_q1", "", None])
    )
    return packed(with_manifest(source.members, manifest))


@kind("evidence, GPU or model relabelled, hashes refreshed")
def _(source: Source, rng: random.Random) -> bytes:
    victim = pick(source.members, rng, "run.json")
    data = json.loads(victim.data)
    how = rng.randrange(5)
    if how == 0:
        data["evidence"] = rng.choice(["emulated", "predicted", "MEASURED", "certain"])
        data["config"]["evidence"] = data["evidence"]
    elif how == 1:
        data["gpus"][0]["name"] = data["config"]["gpu"]["found_name"] = "NVIDIA B200"
    elif how == 2:
        data["config"]["model"]["name"] = "llama3_3_70b"
    elif how == 3:
        data["seed"] = data["config"]["seed"] = 1 + data["seed"]
    else:
        data["repeat"] = data["config"]["repeat"] = 1 + data["repeat"]
    return packed(refreshed(with_file(source.members, victim.name, json.dumps(data).encode())))


@kind("nothing of a bundle")
def _(source: Source, rng: random.Random) -> bytes:
    return rng.choice(
        [b"", b"\0" * rng.randint(1, 5000), rng.randbytes(rng.randint(1, 20_000)), b"(\xb5/\xfd" + rng.randbytes(200), tar(source.members),
         compressed(b""), compressed(b"\0" * 10240), compressed(rng.randbytes(5000)), compressed(source.bundle), pickle.dumps(_Owned())]
    )  # fmt: skip


# -- a mutant, validated


class Kept(Confined):
    """A confined process that is used again while it lives: to start one takes longer than a mutant."""

    free: ClassVar[dict[int, list[Kept]]] = {}
    peak_bytes = 0
    """Most memory that any has had."""
    died = 0
    """How many ended before they answered."""

    def __new__(cls, limits: Limits, file_bytes: int = 0) -> Kept:  # noqa: ARG004 - as Confined
        waiting = cls.free.setdefault(file_bytes, [])
        return waiting.pop() if waiting else super().__new__(cls)

    def __init__(self, limits: Limits, file_bytes: int = 0) -> None:
        if not hasattr(self, "kind"):
            self.kind = file_bytes
            super().__init__(limits, file_bytes)

    def ask(self, task: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return super().ask(task)
        except DiedError:
            Kept.died += 1
            raise
        finally:
            Kept.peak_bytes = max(Kept.peak_bytes, peak_bytes(self._process.pid))

    def __exit__(self, *error: object) -> None:
        if self.alive and self not in Kept.free[self.kind]:
            Kept.free[self.kind].append(self)
        elif not self.alive:
            super().__exit__(*error)

    @classmethod
    def end(cls) -> None:
        for process in [one for waiting in cls.free.values() for one in waiting]:
            Confined.__exit__(process)
        cls.free.clear()


def peak_bytes(pid: int | str) -> int:
    """The most memory that a process has had in use [bytes]; 0: it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


@dataclass
class Trial:
    """What became of one mutant.

    decision   `accepted`, `flagged`, `rejected`
    why        rules that are broken, or what the reader says
    wrong      what differs from the original in a mutant that was not rejected
    crash      what the validator raised, other than one line for people
    outside    what was left outside of its folder
    died       confined processes that ended before they answered; the validator tells, and rejects
    """

    decision: str = "rejected"
    why: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    crash: str | None = None
    outside: tuple[str, ...] = ()
    died: int = 0
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return bool(self.wrong or self.crash or self.outside) or self.seconds > TIME_LIMIT_S


def figures(paths: Sequence[Path]) -> dict[str, Any]:
    """What `wattcount dataset add` would publish of records: by run, every figure, and what was measured on what."""
    found = {}
    for path in paths:
        result = judge(path)
        setting = {
            name: getattr(result, name)
            for name in ("setting_key", "model", "weights", "gpus", "evidence", "seed", "repeat", "valid")
        }
        found[str(result.run_id)] = {**setting, **result.metrics}
    return found


def trial(bundle: bytes, truth: Mapping[str, Any], folder: Path) -> Trial:
    """Validates a mutant as `wattcount validate` does, in `folder`, and looks at what it did.

    truth   `figures` of the original
    """
    where = Path(tempfile.mkdtemp(dir=folder))
    file, own = where / "mutant.wattcount", where / "tmp"
    own.mkdir()
    file.write_bytes(bundle)
    before, died = _outside(where), Kept.died
    found = Trial()
    started = time.monotonic()
    tempfile.tempdir = str(own)
    try:
        verdict = validate(file, workers=1, limits=replace(LIMITS, task_s=TIME_LIMIT_S))
        found.decision = verdict.decision.value
        found.why = tuple(sorted({item.rule for item in verdict.broken}))
        found.seconds = time.monotonic() - started
        if found.decision != "rejected":
            found.wrong = tuple(_differences(file, where / "opened", truth))
    except WattcountError as error:
        found.why = ("no bundle",)
        if not str(error).isprintable():
            found.crash = f"not a line of text: {error!r}"
    except Exception as error:
        found.crash = f"{type(error).__name__}: {error}"
    finally:
        tempfile.tempdir = None
        found.seconds = found.seconds or time.monotonic() - started
    found.died = Kept.died - died
    shutil.rmtree(where / "opened", ignore_errors=True)
    found.outside = tuple(sorted(_outside(where) - before))
    shutil.rmtree(where, ignore_errors=True)
    return found


def _outside(where: Path) -> set[str]:
    """Names where a mutant could have written: around its folder, and where the confined processes are."""
    return {
        str(path)
        for place in (where, where / "tmp", where.parent, Path("/"), Path("/tmp"))
        for path in place.iterdir()
        if "outside" in path.name or place in (where, where / "tmp")
    }


def _differences(file: Path, folder: Path, truth: Mapping[str, Any]) -> Iterator[str]:
    found = figures(opened_bundle(file, folder).record_paths)
    for run in truth.keys() | found.keys():
        if run not in truth or run not in found:
            yield f"{run}: {'made up' if run in found else 'gone'}"
            continue
        keys = truth[run].keys() | found[run].keys()
        yield from (
            f"{run}: {key}" for key in sorted(keys) if not _same(truth[run].get(key), found[run].get(key))
        )


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same, figures to the digit that all machines compute alike (the rule `recompute/figures`)."""
    if is_number(one) and is_number(other):
        return math.isclose(one, other, rel_tol=SAME_SHARE, abs_tol=0.0)
    return bool(one == other)


# -- all of them


@dataclass
class Tally:
    """Of one kind."""

    decisions: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    crashed: int = 0
    hung: int = 0
    outside: int = 0
    died: int = 0
    slowest_s: float = 0.0

    def add(self, found: Trial) -> None:
        self.decisions[found.decision] += 1
        self.rules.update(found.why)
        self.wrong += bool(found.wrong)
        self.crashed += found.crash is not None
        self.hung += found.seconds > TIME_LIMIT_S
        self.outside += bool(found.outside)
        self.died += found.died
        self.slowest_s = max(self.slowest_s, found.seconds)


def mutants(source: Source, number: int, seed: int, kinds: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """So many mutants, the kinds in turn: (kind, its seed, bundle)."""
    for count in range(number):
        name = kinds[count % len(kinds)]
        own = seed * 1_000_003 + count
        yield name, own, KINDS[name](source, random.Random(own))


def table(tallies: Mapping[str, Tally]) -> list[str]:
    head = (
        "mutation",
        "mutants",
        "rejected",
        "flagged",
        "accepted",
        "wrong figure",
        "crash",
        "hang",
        "outside",
        "processes ended",
        "slowest [s]",
        "first rule",
    )
    rows: list[tuple[Any, ...]] = []
    for name, tally in tallies.items():
        most = tally.rules.most_common(1)
        decided = (tally.decisions[word] for word in ("rejected", "flagged", "accepted"))
        rows.append(
            (
                name,
                tally.decisions.total(),
                *decided,
                tally.wrong,
                tally.crashed,
                tally.hung,
                tally.outside,
                tally.died,
                f"{tally.slowest_s:.1f}",
                most[0][0] if most else "-",
            )
        )
    total = [
        "all",
        *(sum(int(row[at]) for row in rows) for at in range(1, 10)),
        f"{max((t.slowest_s for t in tallies.values()), default=0):.1f}",
        "",
    ]
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows, total)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--number", type=int, default=1_000, help="of mutants; 10,000 take an hour of one core"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--kinds", help="only these, with commas between")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keeps the mutants that did what must not be"
    )
    args = parser.parse_args()
    kinds = [
        name for name in KINDS if args.kinds is None or any(part in name for part in args.kinds.split(","))
    ]
    validator.Confined = Kept  # type: ignore[misc]
    tallies = {name: Tally() for name in kinds}
    started, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="mutated-bundles-") as temporary:
        folder = Path(temporary)
        original = source(folder)
        (folder / "opened").mkdir()
        truth = figures(opened_bundle(folder / "source.wattcount", folder / "opened").record_paths)
        if (found := trial(original.bundle, truth, folder)).decision == "rejected" or found.bad:
            print(f"the bundle itself: {found}", file=sys.stderr)
            return 1
        for name, seed, bundle in mutants(original, args.number, args.seed, kinds):
            found = trial(bundle, truth, folder)
            tallies[name].add(found)
            if found.bad:
                bad += 1
                print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
                if args.keep is not None:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{seed}.wattcount").write_bytes(bundle)
            if args.seconds is not None and time.monotonic() - started > args.seconds:
                break
    Kept.end()
    print("\n".join(table({name: tally for name, tally in tallies.items() if tally.decisions.total()})))
    seen = sum(tally.decisions.total() for tally in tallies.values())
    peak = Kept.peak_bytes
    print(f"\n{seen} mutants of {len(kinds)} kinds in {time.monotonic() - started:.0f} s; {bad} did what must not be; "
          f"largest process {peak / 1e6:.0f} MB of {MEMORY_LIMIT_BYTES / 1e6:.0f} MB")  # fmt: skip
    return 1 if bad or peak > MEMORY_LIMIT_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
