"""What of a record is published: nothing private, and all that its figures need."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.dataset.edited_record import BATCH, copied, edit_run
from tests.synthetic_record import hash_files
from wattcount.config.fields import IDENTITY, OneOf, Public
from wattcount.config.identity import setting_key
from wattcount.config.loader import kinds
from wattcount.config.schema import RunConfig
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
from wattcount.metrics import compute
from wattcount.metrics.metrics_json import stored_metrics
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
    mine, theirs = compute(public), compute(record)
    for part in ("metrics", "null_reasons", "window", "window_steady"):
        assert mine[part] == theirs[part]  # to the last digit: both are of this machine
    assert mine["validity"]["valid"] == theirs["validity"]["valid"]
    assert list(mine["energy"].values()) == list(theirs["energy"].values())
    assert stored_metrics(public) is not None
    assert setting_key(info.resolved) == setting_key(record.info.resolved)
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


def put_in_files(folder: Path) -> None:
    """Something in each place that readers pass over."""

    def change(info: dict[str, Any]) -> None:
        info["jdoe"] = 1
        info["host"]["owner"] = "jdoe"
        info["config"]["jdoe"] = "jdoe"
        info["gpus"][0]["serial"] = "jdoe"
        info["files"]["power.parquet"]["by"] = "jdoe"

    table = pq.read_table(folder / "steps.parquet")
    where = "steps.parquet"
    pq.write_table(
        table.append_column("jdoe", [["jdoe"] * len(table)]).replace_schema_metadata({"by": "jdoe"}),
        folder / where,
    )
    hash_files(folder)
    edit_run(folder, change)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "jdoe": 1}))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"seed"', '"seed": 1, "seed"', 1))


def test_what_readers_pass_over_is_found_too(tmp_path: Path) -> None:
    write_public(Record.open(BATCH), tmp_path / "public", KEY)
    put_in_files(tmp_path / "public")
    assert set(not_public(Record.open(tmp_path / "public"))) == {
        "jdoe",
        "host.owner",
        "config.jdoe",
        "gpus[0].serial",
        "files.power.parquet.by",
        "column jdoe of steps.parquet",
        "metadata in steps.parquet",
        "jdoe of metrics.json",
        "seed of run.json, which is there twice,",
    }


def test_all_text_that_is_identity_has_a_form() -> None:
    """Else a pseudonym stands for every value of it, and nobody's results are repeats of another's."""

    def unmarked(cls: Any, where: str) -> Iterator[str]:
        for item in dataclasses.fields(cls):
            kind = kinds(cls)[item.name]
            for inner in kind.classes:
                yield from unmarked(inner, f"{where}{item.name}.")
            is_text = kind.of in (str, list, dict) and not any(
                isinstance(r, Public | OneOf) for r in kind.rules
            )
            if item.metadata.get(IDENTITY) and is_text:
                yield f"{where}{item.name}"

    assert list(unmarked(RunConfig, "")) == []


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
    assert looks_private(f"{text} at Node7", frozenset({"node7"}))
