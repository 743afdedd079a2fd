"""A bundle: the same records give the same bytes, nothing private is in them, and whatever is no bundle is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.dataset.edited_record import BATCH, SERVER, copied, edit_run
from tests.synthetic_record import hash_files
from wattcount.dataset.bundle import (
    LIMITS,
    MANIFEST_JSON,
    BundleError,
    Manifest,
    Submitter,
    opened_bundle,
    write_bundle,
)
from wattcount.metrics import compute
from wattcount.records import Record, packing, schema
from wattcount.result import Result

KEY = b"k" * 32
SUBMITTER = Submitter("ann", "ann@example.org", "CC-BY-4.0", KEY)
PRIVATE = b"jdoe"
"""Is in every private text of `full_of_secrets`."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "mine.wattcount"
    write_bundle([BATCH, SERVER], out, SUBMITTER, "2026_q4")
    return out


def plain(bundle: Path) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(bundle.read_bytes())) as stream:
        return bytes(stream.read())


def refused(content: bytes, tmp_path: Path, **limits: int) -> str:
    """What is said of a file that is no bundle. Nothing of it is left."""
    file, folder = tmp_path / "x.wattcount", tmp_path / "folder"
    file.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        opened_bundle(file, folder, dataclasses.replace(LIMITS, **limits))
    assert not folder.exists()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_what_goes_in_comes_out(bundle: Path, tmp_path: Path) -> None:
    found = opened_bundle(bundle, tmp_path / "folder")
    assert found.manifest.handle == "ann"
    assert found.manifest.cohort == "2026_q4"
    assert Manifest.of_json(json.loads(json.dumps(found.manifest.to_json()))) == found.manifest
    for path, original in zip(
        found.record_paths, sorted([BATCH, SERVER], key=lambda path: path.parent.name), strict=True
    ):
        mine, theirs = Record.open(path), Record.open(original)
        assert mine.info.run_id == theirs.info.run_id
        assert compute(mine)["metrics"] == compute(theirs)["metrics"]
        assert Result.of(mine).setting_key == Result.of(theirs).setting_key
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "folder").rglob("*.*")} == {0o600}


def test_the_bytes_depend_on_records_key_and_options_only(bundle: Path, tmp_path: Path) -> None:
    """Another process with another umask, time zone, locale, folder, hash seed and order; copies with other times."""
    elsewhere = [copied(SERVER, tmp_path / "b"), copied(BATCH, tmp_path / "a")]
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))
    program = (
        "import os, sys; from pathlib import Path; os.umask(0o077)\n"
        "from wattcount.dataset.bundle import Submitter, write_bundle\n"
        "write_bundle([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), "
        f"Submitter('ann', 'ann@example.org', 'CC-BY-4.0', {KEY!r}), '2026_q4')"
    )
    environment = {**os.environ, "TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    out = tmp_path / "other name.wattcount"
    subprocess.run(
        [sys.executable, "-c", program, str(out), *map(str, elsewhere)],
        env={**environment, "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        check=True,
    )
    assert out.read_bytes() == bundle.read_bytes()
    other_key = tmp_path / "key.wattcount"
    write_bundle([BATCH, SERVER], other_key, dataclasses.replace(SUBMITTER, key=b"j" * 32), "2026_q4")
    assert other_key.read_bytes() != bundle.read_bytes()


# -- nothing private


def full_of_secrets(tmp_path: Path) -> Path:
    """A record with a private text in every place where one can be: keys and values of `run.json`, tables, footers, further files."""
    record = copied(SERVER, tmp_path / "secret")
    requests = Record.open(record).requests
    told = {
        "error": pa.array(["cannot open /home/jdoe/x"] * len(requests), pa.string()),
        "request_id": pa.array([f"/jdoe/{i}" for i in range(len(requests))], pa.string()),
    }
    for name, column in told.items():
        where = requests.schema.get_field_index(name)
        requests = requests.set_column(where, requests.schema.field(where), column)
    rows, tokens = packing.split(requests)
    rows = rows.replace_schema_metadata({"written by": "jdoe"})
    packing.write(record / schema.REQUESTS_PARQUET, schema.REQUEST_ROWS_SCHEMA, [rows])
    packing.write(record / schema.TOKENS_PARQUET, schema.TOKENS_SCHEMA, [tokens])
    hash_files(record)

    def spoil(info: dict[str, Any]) -> None:
        info["host"].update(hostname="jdoe-laptop", owner="jdoe", serial=1650924012345)
        info["nvml"].update(path="/home/jdoe/libnvidia-ml.so")
        info["engine"]["details"].update(
            environment={"USER": "jdoe"}, command=["--api-key", "jdoe"], jdoe={"home": "jdoe"}
        )
        info["config"].update(records_dir="/home/jdoe/records", jdoe="jdoe")
        info["config"]["model"].update(path="/home/jdoe/model", tokenizer="/home/jdoe/tokenizer")
        info["config"]["engine"].update(
            args={"chat_template": "/home/jdoe/t", "/jdoe": 1, "load_format": "~jdoe/x"}
        )
        info["config"]["tracking"].update(uri="https://jdoe:secret@example.org", experiment="jdoe")
        info["config"]["sweep"].update(name="jdoe")
        for gpu in info["gpus"]:
            gpu.update(serial="jdoe", pci_bus_id="jdoe", owner="jdoe")
        for board in [gpu["uuid"] for gpu in info["gpus"]]:
            info["sensors"][board]["energy_counter"].update(last_error="/home/jdoe")
        info["notes"] = ["written by jdoe"]
        info["log_tail"] = ["jdoe@host: failed"]
        info["validity"]["messages"] = ["jdoe's disk"]
        info["versions"].update({"/jdoe": "1.0", "numpy": "1.0+jdoe"})
        info["asked"] = {"model": {"path": "/home/jdoe"}}
        info["jdoe"] = {"jdoe": "jdoe"}

    edit_run(record, spoil)
    (record / schema.ENGINE_LOG).write_text("jdoe\n")
    (record / "notes.txt").write_text("jdoe\n")
    (record / schema.METRICS_JSON).write_text('{"by": "jdoe"}')
    return record


def test_nothing_private_is_in_the_bytes(tmp_path: Path) -> None:
    record = full_of_secrets(tmp_path)
    boards = [gpu["uuid"].encode() for gpu in Record.open(record).info.gpus]
    out = tmp_path / "mine.wattcount"
    write_bundle([record], out, SUBMITTER)
    found = opened_bundle(out, tmp_path / "folder")
    content = plain(out)
    for file in (tmp_path / "folder").rglob("*.parquet"):
        table = pq.read_table(file)
        content += repr((table.schema, table.to_pydict() if table.num_rows < 100_000 else None)).encode()
    for private in (PRIVATE, b"1650924012345", *boards):
        assert private not in content
    Record.open(found.record_paths[0]).verify()
    names = {file.name for file in found.record_paths[0].iterdir()}
    assert names <= {schema.RUN_JSON, schema.METRICS_JSON, *schema.TABLES}


# -- what is no bundle


def test_every_kind_of_end_is_told(bundle: Path, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    for size in (0, 3, 100, len(content) // 2, len(content) - 5, len(content) - 1):
        refused(content[:size], tmp_path)
    for more in (
        b"\0",
        b"x" * 600,
        content,
        b"\x50\x2a\x4d\x18\x04\0\0\0jdoe",
    ):  # the last: a frame that readers skip
        assert "goes on behind its end" in refused(content + more, tmp_path)
    assert "cut short" in refused(zstandard.compress(plain(bundle)[:-512]), tmp_path)
    assert "goes on behind its end" in refused(zstandard.compress(plain(bundle) + bytes(512)), tmp_path)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        ({"file_bytes": 1000}, "MiB"),
        ({"manifest_bytes": 1000}, "more than 1,000"),
        ({"member_bytes": 1000}, "has more than"),
        ({"total_bytes": 10_000}, "together"),
        ({"records": 1}, "more than 1 records"),
        ({"window_bytes": 1024}, "cannot be decompressed"),
    ],
)
def test_limits(limits: dict[str, int], what: str, bundle: Path, tmp_path: Path) -> None:
    assert what in refused(bundle.read_bytes(), tmp_path, **limits)


def test_a_window_that_takes_memory_is_refused(bundle: Path, tmp_path: Path) -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide)
    stream = packer.compressobj()  # without its size, the frame asks for the whole window
    content = stream.compress(plain(bundle)) + stream.flush()
    assert "cannot be decompressed" in refused(content, tmp_path)


def edited(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The bundle with another manifest; what follows it is as it was."""
    content = plain(bundle)
    size = int(content[124:135], 8)
    manifest = json.loads(content[512 : 512 + size])
    change(manifest)
    text = (json.dumps(manifest, indent=1) + "\n").encode()
    header = bytearray(content[:512])
    header[124:136] = b"%011o\0" % len(text)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    rest = content[512 + size + -size % 512 :]
    return zstandard.compress(bytes(header) + text + bytes(-len(text) % 512) + rest)


def test_the_edited_bundle_is_one(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(edited(bundle, lambda _: None))
    assert len(opened_bundle(tmp_path / "x", tmp_path / "folder").record_paths) == 2


def first(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["records"][0]
    return found


def renamed(manifest: dict[str, Any], name: str) -> None:
    manifest["files"][name] = manifest["files"].pop(next(iter(manifest["files"])))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m.update(schema_version=2), "pip install -U wattcount"),
        (lambda m: m.update(schema_version=0), "submit the records again"),
        (lambda m: m.update(schema_version=True), "no schema_version"),
        (lambda m: m.update(schema_version="1"), "no schema_version"),
        (lambda m: m.pop("licence"), "licence is missing"),
        (lambda m: m.update(more=1), "more is no key"),
        (lambda m: m.update(licence="mine"), "must be one of CC-BY-4.0"),
        (lambda m: m.update(handle="../x"), "the handle"),
        (lambda m: m.update(contact="a\nb"), "the contact"),
        (lambda m: m.update(contact=7), "contact must be text"),
        (lambda m: m.update(cohort="../x"), "cohort"),
        (lambda m: m.update(metrics_version=-1), "is no version"),
        (lambda m: m.update(records=[]), "not empty"),
        (lambda m: m["records"].append(dict(first(m))), "named twice"),
        (lambda m: m["records"].reverse(), "not in order"),
        (lambda m: first(m).update(run_id="../../x"), "is not one"),
        (lambda m: first(m).update(folder="records/x"), "is not one"),
        (lambda m: first(m).update(repeat=-1), "another kind"),
        (lambda m: first(m).update(seed=1.5), "another kind"),
        (lambda m: first(m).update(point_id="x" * 64), "is not one"),
        (lambda m: first(m).update(more=1), "more is no key"),
        (lambda m: renamed(m, "/etc/passwd"), "a file that no record has"),
        (lambda m: renamed(m, "../x"), "a file that no record has"),
        (lambda m: renamed(m, first(m)["folder"] + "/../../run.json"), "a file that no record has"),
        (lambda m: renamed(m, first(m)["folder"] + "/engine.log"), "a file that no record has"),
        (lambda m: m["files"].pop(first(m)["folder"] + "/run.json"), "has no run.json"),
        (lambda m: next(iter(m["files"].values())).update(sha256="0" * 64), "its SHA-256 differs"),
        (lambda m: next(iter(m["files"].values())).update(sha256="0"), "has no SHA-256"),
        (lambda m: next(iter(m["files"].values())).update(num_bytes=1), "bytes, more than 1"),
        (lambda m: next(iter(m["files"].values())).update(num_bytes=1 << 40), "has more than 512 MiB"),
    ],
)
def test_what_a_manifest_must_be(
    change: Callable[[dict[str, Any]], Any], what: str, bundle: Path, tmp_path: Path
) -> None:
    assert what in refused(edited(bundle, change), tmp_path)


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (156, b"2"),  # a symbolic link
        (156, b"1"),
        (156, b"5"),
        (156, b"6"),
        (156, b"x"),  # a further header of PAX
        (156, b"L"),
        (156, b"S"),  # a file with holes
        (100, b"0000777"),
        (108, b"0000001"),
        (136, b"00000000001"),
        (265, b"jdoe"),  # the owner's name
        (500, b"hidden"),
    ],
)
def test_a_header_has_one_form(offset: int, content: bytes, bundle: Path, tmp_path: Path) -> None:
    changed = bytearray(plain(bundle))
    changed[offset : offset + len(content)] = content
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    refused(zstandard.compress(bytes(changed)), tmp_path)


def test_only_a_regular_file_is_read(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "none", "/dev/zero"):
        with pytest.raises(BundleError):
            opened_bundle(tmp_path / name, tmp_path / "unpacked")
        assert not (tmp_path / "unpacked").exists()


def test_a_folder_with_something_in_it_is_left_as_it_is(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(BundleError, match="is not empty"):
        opened_bundle(bundle, folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_no_bundle_can_be_made(tmp_path: Path) -> None:
    out = tmp_path / "x.wattcount"
    with pytest.raises(BundleError, match="no record"):
        write_bundle([], out, SUBMITTER)
    with pytest.raises(BundleError, match="is in the bundle already"):
        write_bundle([BATCH, BATCH], out, SUBMITTER)
    with pytest.raises(BundleError, match="does not exist"):
        write_bundle([tmp_path / "none"], out, SUBMITTER)
    with pytest.raises(BundleError, match="cannot write"):
        write_bundle([SERVER], tmp_path / "none" / "x.wattcount", SUBMITTER)
    with pytest.raises(BundleError, match="the licence"):
        write_bundle([SERVER], out, dataclasses.replace(SUBMITTER, licence="mine"))
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_not_shown() -> None:
    assert KEY.decode() not in repr(SUBMITTER)


def test_the_manifest_comes_first(bundle: Path) -> None:
    assert plain(bundle).startswith(MANIFEST_JSON.encode() + b"\0")
