"""What of a record is published: nothing private, and all that its figures need."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.dataset.edited_record import copied
from wattcount.dataset.public import (
    AsTheyAre,
    Pseudonyms,
    looks_private,
    not_public,
    public_run,
    public_table,
    write_public,
)
from wattcount.errors import WattcountError
from wattcount.records import Record
from wattcount.records.schema import RunInfo

DATA = Path(__file__).resolve().parents[2] / "data"
RECORDS = sorted(DATA.glob("*/records/*/r*"))
KEY = b"a key of a test"
SECRETS = (
    "/home/jdoe/models/mine",
    "node-17.cluster.example",
    "https://user:pa55word@tracking.example/api",
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
    "10.20.30.40",
    "fe80::1ff:fe23:4567:890a",
    "jdoe@example.org",
    "1650924012345",
    "vllm serve --api-key sk-abcdefghijklmnopqrstuv",
    "C:\\Users\\jdoe",
)


def stays_the_same(record: Record, folder: Path) -> None:
    info = write_public(record, folder, KEY)
    public = Record.open(folder)
    public.verify()
    stored, again = (json.loads((path / "metrics.json").read_text()) for path in (record.path, folder))
    for key, value in stored["metrics"].items():
        # Sums differ in their last digits between processors; the stored ones may be of another machine.
        assert again["metrics"][key] == (
            value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
        ), key
    assert again["validity"]["valid"] == stored["validity"]["valid"]
    assert info.point_id == record.info.point_id
    assert list(not_public(public)) == []
    text = (folder / "run.json").read_text()
    for gpu in record.info.gpus:
        assert gpu["uuid"] not in text
    assert '"hostname": "host-' in text or record.info.host.get("hostname") is None


@pytest.mark.parametrize("path", random.Random(1).sample(RECORDS, 6), ids=lambda path: path.name)
def test_a_public_record_gives_the_same_figures(path: Path, tmp_path: Path) -> None:
    stays_the_same(Record.open(path), tmp_path / "public")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_of_our_records_gives_the_same_figures(tmp_path: Path) -> None:
    for number, path in enumerate(RECORDS):
        stays_the_same(Record.open(path), tmp_path / f"{number}")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all text in plain JSON."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


def put(data: Any, path: tuple[Any, ...], text: str) -> Any:
    changed = copy.deepcopy(data)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = text
    return changed


@pytest.mark.parametrize("secret", SECRETS)
def test_no_text_of_run_json_gets_out(secret: str) -> None:
    data = json.loads((RECORDS[-1] / "run.json").read_text())
    places, tried = list(leaves(data)), 0
    names = Pseudonyms(KEY)
    for path in places:
        if path[0] in ("files", "schema_version"):
            continue
        try:
            info = RunInfo.from_json(put(data, path, secret))
            public = public_run(info, names)
        except (WattcountError, ValueError):
            continue  # no text is taken there
        tried += 1
        assert secret not in json.dumps(public, ensure_ascii=False), path
    assert tried > 50


def test_no_text_of_a_table_gets_out() -> None:
    table = pa.table(
        {
            "error": pa.array([None, *SECRETS]),
            "what": pa.array(["", *SECRETS]),
            "t_ns": range(len(SECRETS) + 1),
        }
    )
    shown = public_table(table, Pseudonyms(KEY))
    assert shown["t_ns"] == table["t_ns"]
    assert shown["error"][0].as_py() is None
    assert not {text for name in ("error", "what") for text in shown[name].to_pylist()} & set(SECRETS)


def test_pseudonyms_are_the_same_for_one_key_only() -> None:
    uuid = "GPU-c91d4a17-e440-f82d-430b-21f18d84b380"
    mine, others = Pseudonyms(b"mine"), Pseudonyms(b"other")
    assert mine.board(uuid) == Pseudonyms(b"mine").board(uuid) != others.board(uuid)
    assert mine.host("a") != mine.host("b")
    assert mine.board(uuid) != uuid
    assert AsTheyAre().board(mine.board(uuid)) == mine.board(uuid)


def test_a_private_field_is_found_again(tmp_path: Path) -> None:
    folder = copied(RECORDS[0], tmp_path / "record")
    assert "host.hostname" in set(not_public(Record.open(folder)))


@pytest.mark.parametrize("text", SECRETS)
def test_what_looks_private(text: str) -> None:
    assert looks_private(text)


@pytest.mark.parametrize(
    "text",
    [
        "NVIDIA H100 80GB HBM3",
        "0.26.0",
        "fp8_e4m3",
        "Llama-3.1-8B",
        "580.159.03",
        "AMD EPYC 9654 96-Core Processor",
    ],
)
def test_what_does_not(text: str) -> None:
    assert not looks_private(text)
    assert looks_private(f"{text} at Node7", {"node7"})
