"""From records to a bundle, into a data set, out of it again: the figures are the same at each end."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from tests.dataset.conftest import CAMPAIGN, DAY
from wattcount.dataset import export, rows
from wattcount.dataset.adding import Judged, Place, add_file
from wattcount.dataset.bundle import Submitter, write_bundle
from wattcount.dataset.check import check, differences
from wattcount.dataset.references import fetched, files_of, find, references
from wattcount.dataset.store import Dataset
from wattcount.errors import NotStartedError
from wattcount.importers import file, watt_counts
from wattcount.records import Record
from wattcount.records.schema import Evidence
from wattcount.result import judge

SUBMITTER = Submitter("someone", "someone@example.org", "CC-BY-4.0", b"k" * 32)


def accepting(bundle: Path, dataset: Dataset) -> Judged:  # noqa: ARG001
    return Judged({"decision": "accepted", "breaches": []}, {"records/a": {"print": 1}})


@pytest.fixture(scope="module")
def records() -> list[Path]:
    """A batch and two servers, small ones."""
    found = sorted(CAMPAIGN.glob("*/r*"), key=lambda run: sum(f.stat().st_size for f in run.iterdir()))
    valid = [run for run in found if judge(run).valid]
    batch = next(run for run in valid if judge(run).kind == "batch")
    return [batch, *[run for run in valid if judge(run).kind == "server"][:2]]


@pytest.fixture(scope="module")
def bundle(records: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "mine.wattcount"
    write_bundle(records, path, SUBMITTER)
    return path


@pytest.fixture
def filled(dataset: Dataset, bundle: Path) -> Dataset:
    add_file(dataset, bundle, DAY, validate=accepting)
    return dataset


def test_figures_are_the_same_at_each_end(filled: Dataset, records: list[Path], tmp_path: Path) -> None:
    expected = {r.run_id: r.value("energy/gpu_j_per_output_token") for r in map(judge, records)}
    export.to_parquet(filled, filled.latest(), tmp_path / "out.parquet")
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert dict(zip(frame["run_id"], frame["energy_gpu_j_per_output_token"], strict=True)) == expected
    sql = f"SELECT run_id, energy_gpu_j_per_output_token FROM '{tmp_path}/out.parquet'"
    assert dict(duckdb.sql(sql).fetchall()) == expected
    export.to_json(filled, filled.latest(), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert {row["run_id"]: row["energy_gpu_j_per_output_token"] for row in found} == expected
    assert found[0]["setting"]["model"]
    assert {r.run_id: r.value("energy/gpu_j_per_output_token") for r in filled.results()} == expected


def test_the_csv_has_the_columns_of_watt_counts(filled: Dataset, records: list[Path], tmp_path: Path) -> None:
    assert export.to_csv(filled, filled.latest(), tmp_path / "out.csv", pytest.fail) == 3
    with (tmp_path / "out.csv").open() as file:
        head, *lines = csv.reader(file)
    assert head == list(export.CSV_COLUMNS)
    assert head[1:] == list(watt_counts.COLUMNS)
    by_tokens = {line[4]: line for line in lines}
    for path in records:
        result = judge(path)
        line = by_tokens[str(result.value("tokens/output"))]
        assert float(line[6]) == result.value("energy/gpu_j")
        lists = [json.loads(cell) for cell in line[11:]]
        if result.kind == "batch":
            assert line[3] == ""
            assert [len(found) for found in lists[:2]] == [0, 1]
            assert sum(lists[2]) == result.value("tokens/output")
        else:
            assert len(lists[0]) == len(lists[1]) == result.value("requests/completed")
        assert float(line[8]) <= float(line[7]) <= float(line[9])
    imported = watt_counts.results(tmp_path / "out.csv")
    energies = [[r.value("energy/gpu_j") or 0.0 for r in found] for found in (imported, map(judge, records))]
    assert sorted(energies[0]) == sorted(energies[1])


def test_a_record_is_fetched_as_it_was_submitted(filled: Dataset, records: list[Path]) -> None:
    version = filled.latest()
    wanted = references(filled, version)
    with fetched(filled, version, wanted) as found:
        for reference, path in found:
            assert isinstance(path, Path)
            again = Record.open(path)
            assert again.info.run_id in {judge(record).run_id for record in records}
            row = next(r for r in filled.table(version).to_pylist() if r[rows.ID] == reference.result_id)
            assert differences(row, path) == []
            assert differences(row | {"energy_gpu_j": 1.0}, path)[0].startswith("energy_gpu_j is 1.0, and")
    assert find(wanted, wanted[0].result_id[:8]) == wanted[0]
    with pytest.raises(NotStartedError, match="no results"):
        find(wanted, "zzz")


def test_a_data_set_that_is_whole(filled: Dataset) -> None:
    said: list[str] = []
    assert check(filled, say=said.append) == []
    assert said[-1] == "computing record 3 of 3 again"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("bundle", "SHA-256 differs"),
        ("submission", "SHA-256 differs"),
        ("manifest", "its SHA-256 differs"),
        ("stray", "belongs to no version"),
        ("pointer", r"latest\.json is not of version 2"),
    ],
)
def test_damage_is_found(filled: Dataset, damage: str, match: str) -> None:
    folder = Path(filled.where)
    if damage == "manifest":
        file = folder / "versions" / "00000001.json"
        file.write_text(file.read_text().replace(DAY, "2026-11-27"))
    elif damage == "stray":
        shutil.copy(next((folder / "results").iterdir()), folder / "results" / "mine.parquet")
    elif damage == "pointer":
        shutil.copy(folder / "versions" / "00000001.json", folder / "latest.json")
    else:
        file = next((folder / f"{damage}s").iterdir())
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    wrong = check(filled, records=False)
    assert any(re.search(match, line) for line in wrong), wrong
    if damage in ("stray", "pointer"):
        filled.settle(remove_strays=True)
        assert check(filled, records=False) == []


def test_a_record_by_reference_that_changed_or_is_gone(
    dataset: Dataset, bundle: Path, records: list[Path], tmp_path: Path
) -> None:
    """As records that lie beside the data set, and are not kept in it."""
    where = {}
    for record in records:
        copied = tmp_path / "records" / record.name
        shutil.copytree(record, copied)
        where[str(judge(record).run_id)] = copied
    add_file(
        dataset,
        bundle,
        DAY,
        places=lambda run: Place(f"../records/{where[run].name}", files_of(where[run])),
        validate=accepting,
    )
    assert not (Path(dataset.where) / "bundles").exists()
    assert check(dataset) == []
    first, second, _ = where.values()
    shutil.rmtree(first)
    (second / "run.json").write_text("{}")
    wrong = check(dataset)
    assert len(wrong) == 2
    assert any("cannot be had: No such file" in line for line in wrong)
    assert any("is not the record that was submitted" in line for line in wrong)


def test_the_same_bundle_twice_is_one_and_not_judged_again(filled: Dataset, bundle: Path) -> None:
    def judged(path: Path, dataset: Dataset) -> Judged:
        pytest.fail(f"{path} was judged again for {dataset}")

    assert not add_file(filled, bundle, DAY, validate=judged).changed
    assert filled.known() == {f"{filled.latest().changes[-1].submission}/records/a": {"print": 1}}


def test_a_data_set_elsewhere_is_copied_for_the_validator(bundle: Path) -> None:
    dataset = Dataset.init("memory://for-the-validator", "test", DAY)
    add_file(dataset, bundle, DAY, validate=accepting)
    with dataset.on_this_machine("fingerprints") as folder:
        assert Dataset.open(folder).known() == dataset.known()
        assert not (folder / "results").exists()
    assert not folder.exists()


@pytest.mark.timeout(600)
def test_the_validator_itself(dataset: Dataset, records: list[Path], tmp_path: Path) -> None:
    """A record of ours through the whole of it: no rule is broken, and nothing of this machine is told."""
    write_bundle(records[1:2], tmp_path / "one.wattcount", SUBMITTER)
    add_file(dataset, tmp_path / "one.wattcount", DAY, accept_flagged=True)
    version = dataset.latest()
    document = dataset.document(version, str(version.changes[-1].submission))
    assert document["verdict"]["counts"]["rejected"] == 0
    assert str(tmp_path) not in json.dumps(document)
    assert len(dataset.known()) == 1
    assert check(dataset) == []


def test_emulated_records_are_refused_before_they_are_judged(
    dataset: Dataset, records: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(records[0], tmp_path / "record")
    file = tmp_path / "record" / "run.json"
    file.write_text(file.read_text().replace('"evidence": "measured"', '"evidence": "emulated"'))
    write_bundle([tmp_path / "record"], tmp_path / "a.wattcount", SUBMITTER)
    with pytest.raises(
        NotStartedError, match="emulated: 1 of 1 records are emulated, and test takes only measured"
    ):
        add_file(dataset, tmp_path / "a.wattcount", DAY, validate=lambda *_: pytest.fail("judged"))
    other = Dataset.init(tmp_path / "other", "other", DAY, Evidence.EMULATED)

    def judged(*rules: str) -> Judged:
        breaches = [{"rule": rule, "severity": "reject", "message": "so"} for rule in rules]
        return Judged({"decision": "rejected", "breaches": breaches}, {})

    with pytest.raises(NotStartedError, match="rejected: load/arrivals: so"):
        add_file(
            other, tmp_path / "a.wattcount", DAY, validate=lambda *_: judged("form/measured", "load/arrivals")
        )
    # What only a measurement can be is not asked of an emulation.
    outcome = add_file(
        other, tmp_path / "a.wattcount", DAY, validate=lambda *_: judged("form/measured", "physics/ring")
    )
    assert outcome.version.changes[-1].decision == "accepted"


@pytest.mark.parametrize(
    ("decision", "severity", "match"),
    [
        ("rejected", "reject", "rejected: a/b: too much power; a/b: 2; a/b: 3 and 1 more"),
        ("flagged", "flag", "flagged .--accept-flagged once a person has looked at it.: a/b: too much power"),
    ],
)
def test_what_the_validator_does_not_accept(
    dataset: Dataset, bundle: Path, decision: str, severity: str, match: str
) -> None:
    messages = ["too much power", "2", "3", "4"]
    breaches = [{"rule": "a/b", "severity": severity, "message": text} for text in messages]

    def judged(*_: object) -> Judged:
        return Judged({"decision": decision, "breaches": breaches}, {})

    with pytest.raises(NotStartedError, match=match):
        add_file(dataset, bundle, DAY, validate=judged)
    assert dataset.latest().number == 1
    if decision == "flagged":
        add_file(dataset, bundle, DAY, validate=judged, accept_flagged=True)
        assert dataset.latest().changes[-1].decision == "flagged"


@pytest.mark.parametrize("damage", ["cut", "missing", "text"])
def test_what_is_no_bundle(dataset: Dataset, bundle: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "b.wattcount"
    if damage != "missing":
        path.write_bytes(bundle.read_bytes()[:-100] if damage == "cut" else b"hello")
    with pytest.raises(NotStartedError) as caught:
        add_file(dataset, path, DAY, validate=accepting)
    assert "\n" not in str(caught.value)
    assert dataset.latest().number == 1


IMPORTED = Path(__file__).resolve().parents[2] / "data" / "imported"


def test_imported_results_come_with_their_source(dataset: Dataset) -> None:
    path = IMPORTED / "llm-inference-bench.parquet"
    results, (origin,) = file.load(path)
    outcome = add_file(dataset, path, DAY)
    assert outcome.num_results == len(results)
    assert not add_file(dataset, path, DAY).changed
    found = dataset.results()
    assert {r.origin for r in found} == {"imported:llm-inference-bench"}
    assert [r.metrics for r in found] == [
        {key: value for key, value in r.metrics.items() if value is not None} for r in results
    ]
    change = dataset.latest().changes[-1]
    assert (change.decision, change.handle) == ("imported", "llm-inference-bench")
    document = dataset.document(dataset.latest(), str(change.submission))
    assert document["source"]["url"] == origin.source.url
    assert document["licence"] == "BSD-3-Clause"
    assert check(dataset) == []


def test_a_source_without_a_licence_is_not_published(dataset: Dataset, tmp_path: Path) -> None:
    results, (origin,) = file.load(IMPORTED / "llm-inference-bench.parquet")
    secret = replace(origin, source=replace(origin.source, licence=None))
    file.write(tmp_path / "a.parquet", results, [secret])
    with pytest.raises(NotStartedError, match="state no licence"):
        add_file(dataset, tmp_path / "a.parquet", DAY)
    file.write(tmp_path / "b.parquet", results, [])
    with pytest.raises(NotStartedError, match="does not say where its results"):
        add_file(dataset, tmp_path / "b.parquet", DAY)
    assert dataset.latest().number == 1
