"""The data set: whole versions, whatever happens to who writes them."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.dataset.conftest import DAY
from tests.dataset.faulty_storage import FaultyStorage, Killed
from wattcount.dataset.storage import Folder, Storage, open_storage
from wattcount.dataset.store import Dataset, Submission
from wattcount.dataset.version import DatasetError, manifest_name
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.records.schema import Evidence
from wattcount.result import Result

Make = Callable[..., Submission]


def ids(dataset: Dataset, version: int | None = None) -> list[str]:
    found = dataset.latest() if version is None else dataset.version(version)
    return sorted(dataset.table(found, ["result_id"])["result_id"].to_pylist())


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def test_a_data_set_gives_back_the_results_that_were_added(
    dataset: Dataset, submission: Make, measured: list[Result]
) -> None:
    outcome = dataset.add(submission(0, 3), DAY)
    assert outcome.changed
    assert outcome.num_results == 3
    found = dataset.results()
    assert [result.metrics for result in found] == [result.metrics for result in measured[:3]]
    assert [result.by for result in found] == ["someone"] * 3
    for result, before in zip(found, measured, strict=False):
        gone = {"source": None, "log_line": None, "planned_point": None, "by": "someone"}
        assert result == replace(before, **gone)


def test_others_read_it_without_wattcount(
    dataset: Dataset, submission: Make, measured: list[Result], tmp_path: Path
) -> None:
    dataset.add(submission(0, 3), DAY)
    dataset.add(submission(10, 2), DAY)
    expected = [r.value("energy/gpu_j_per_output_token") for r in (*measured[:3], *measured[10:12])]
    folder = tmp_path / "ds" / "results"
    column = "energy_gpu_j_per_output_token"
    assert sorted(pd.read_parquet(folder)[column]) == sorted(expected)
    found = duckdb.sql(f"SELECT {column} FROM '{folder}/*.parquet'").fetchall()
    assert sorted(value for (value,) in found) == sorted(expected)


def test_the_same_submission_twice_is_one(dataset: Dataset, submission: Make) -> None:
    first = dataset.add(submission(), DAY)
    before = tree(Path(dataset.where))
    again = dataset.add(submission(), "2026-12-01")
    assert not again.changed
    assert again.version == first.version
    assert tree(Path(dataset.where)) == before


def test_what_is_withdrawn_is_gone_from_the_latest_and_stays_in_history(
    dataset: Dataset, submission: Make
) -> None:
    dataset.add(submission(0, 3), DAY)
    dataset.add(submission(10, 2), DAY)
    all_ids = ids(dataset)
    gone = ids(dataset, 2)[0]
    outcome = dataset.remove(gone, "the fan was\nbroken", "2026-11-29")
    assert outcome.num_results == 1
    assert ids(dataset) == [item for item in all_ids if item != gone]
    assert ids(dataset, 3) == all_ids
    change = dataset.latest().changes[-1]
    assert (change.results, change.reason) == ((gone,), "the fan was broken")
    assert "the fan was broken" in (Path(dataset.where) / "CHANGELOG.md").read_text()
    assert gone not in pd.read_parquet(Path(dataset.where) / "results")["result_id"].tolist()
    # Once more changes nothing, and neither does the whole submission's return.
    assert not dataset.remove(gone, "again", DAY).changed
    assert not dataset.add(submission(0, 3), DAY).changed
    dataset.remove("0" * 16, "all of it", DAY)
    assert len(ids(dataset)) == 2
    with pytest.raises(NotStartedError, match="was withdrawn in version 5: all of it"):
        dataset.add(submission(0, 3), DAY)


def test_evidence_is_never_mixed(tmp_path: Path, dataset: Dataset, submission: Make) -> None:
    made = submission()
    emulated = replace(made, results=[replace(r, evidence=Evidence.EMULATED) for r in made.results])
    with pytest.raises(NotStartedError, match="emulated: 3 of 3 results are not measured"):
        dataset.add(emulated, DAY)
    assert dataset.latest().number == 1
    other = Dataset.init(tmp_path / "emulated", "test", DAY, Evidence.EMULATED)
    assert other.add(emulated, DAY).changed
    with pytest.raises(NotStartedError, match="measured"):
        other.add(submission(5, 2), DAY)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"decision": "rejected"}, "rejected"),
        ({"handle": "\x1b[31mred"}, "handle"),
        ({"results": [], "records": []}, "without a result"),
        ({"records": [("a", "0" * 64)] * 3}, "one and the same record"),
    ],
)
def test_what_cannot_be_added(
    dataset: Dataset, submission: Make, changed: dict[str, object], match: str
) -> None:
    with pytest.raises(NotStartedError, match=match):
        dataset.add(submission(**changed), DAY)
    assert dataset.latest().number == 1


def test_a_check_that_refuses_sees_the_version_before(dataset: Dataset, submission: Make) -> None:
    def refuse(version: object) -> None:
        assert version == dataset.version(1)
        raise NotStartedError("a trace of it is there already")

    with pytest.raises(NotStartedError, match="there already"):
        dataset.add(submission(), DAY, refuse)
    assert tree(Path(dataset.where)).keys() == {"CHANGELOG.md", "latest.json", manifest_name(1)}


@pytest.mark.parametrize(
    ("what", "match"),
    [("12", "too short"), ("f" * 12, "neither a submission nor a result"), ("000000", "stands for 2 ids")],
)
def test_ids_that_name_nothing(dataset: Dataset, submission: Make, what: str, match: str) -> None:
    dataset.add(submission(0, 2), DAY)
    dataset.add(submission(10, 2), DAY)
    with pytest.raises(NotStartedError, match=match):
        dataset.remove(what, "why", DAY)
    with pytest.raises(NotStartedError, match="needs a reason"):
        dataset.remove("0" * 16, " ", DAY)


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(NotStartedError, match="not empty"):
        Dataset.init(tmp_path / "mine", "test", DAY)
    with pytest.raises(NotStartedError, match="already"):
        Dataset.init(tmp_path / "ds", "test", DAY)
    with pytest.raises(NotStartedError, match="is no data set"):
        Dataset.open(tmp_path / "mine")
    with pytest.raises(NotStartedError, match="has no version 7"):
        dataset.version(7)


@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("what", ["add", "remove"])
def test_whatever_fails_a_version_is_whole(
    tmp_path: Path, submission: Make, kill: bool, after: bool, what: str
) -> None:
    """Fails at each change of the disk in turn. Then readers see the version before or the new one, and the next writer tidies up."""

    def prepared(folder: Path) -> Dataset:
        made = Dataset.init(folder, "test", DAY)
        made.add(submission(0, 3), DAY)
        return made

    def change(dataset: Dataset) -> None:
        if what == "add":
            dataset.add(submission(10, 2, bundle=bundle, fingerprints=b"prints"), DAY)
        else:
            dataset.remove(gone, "why", DAY)

    bundle = tmp_path / "a.wattcount"
    bundle.write_bytes(b"bundle" * 1000)
    whole = prepared(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "before")
    gone = ids(whole)[0]
    before = ids(whole)
    change(whole)
    expected, then = tree(tmp_path / "whole"), ids(whole)
    seen = set()
    for fails_at in count():
        folder = tmp_path / f"{fails_at}"
        shutil.copytree(tmp_path / "before", folder)
        storage = FaultyStorage(Folder(folder), fails_at, kill=kill, after=after)
        try:
            change(Dataset(storage))  # type: ignore[arg-type]
        except Killed:
            assert kill
        except NotStartedError:
            assert not kill
            assert ids(Dataset.open(folder)) == before
        except RunFailedError:
            assert not kill
            # What was done is whole.
            assert ids(Dataset.open(folder)) == then
        found = Dataset.open(folder)
        now = ids(found)
        assert now in (before, then)
        assert len(found.results()) == len(now)
        seen.add(tuple(now))
        for name in found.latest().files:
            found.read(found.latest(), name)
        # What others see, who know no manifest: rows of a version as well, but for a withdrawal that is under way.
        glob = (
            sorted(pd.read_parquet(folder / "results")["result_id"])
            if any((folder / "results").iterdir())
            else []
        )
        assert glob in (before, then, [])
        change(found)
        assert ids(found) == then
        assert tree(folder) == expected
        if not storage.failed:
            break
    assert seen == {tuple(before), tuple(then)}
    assert fails_at > 5


def _add_slowly(folder: Path, made: Submission, ready: object) -> None:
    class Slow(Folder):
        def write(self, name: str, content: bytes | Path) -> None:
            super().write(name, content)
            if name.startswith("staged/"):
                ready.set()  # type: ignore[attr-defined]
                time.sleep(60)

    Dataset(Slow(folder)).add(made, DAY)


def test_a_killed_process_leaves_a_whole_version_and_no_lock(dataset: Dataset, submission: Make) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_add_slowly, args=(Path(dataset.where), submission(), ready))
    process.start()
    assert ready.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert dataset.latest().number == 1
    assert (Path(dataset.where) / "staged").is_dir()
    assert dataset.add(submission(), DAY).changed
    assert not any((Path(dataset.where) / "staged").iterdir())


def _add(folder: Path, made: Submission) -> None:
    Dataset.open(folder).add(made, DAY)


def test_adds_at_once_all_arrive(dataset: Dataset, submission: Make) -> None:
    context = multiprocessing.get_context("spawn")
    several = [submission(first, 2) for first in (0, 4, 8)]
    processes = [context.Process(target=_add, args=(Path(dataset.where), made)) for made in several]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    latest = dataset.latest()
    assert latest.number == 4
    assert latest.num_results == 6
    assert {change.submission for change in latest.changes[1:]} == {made.id for made in several}


class _Overtaken:
    """As `storage`, but another writer makes the next version just before this one would, some times."""

    def __init__(self, storage: Storage, meanwhile: list[Submission]) -> None:
        self._storage = storage
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def create(self, name: str, content: bytes) -> None:
        if self._meanwhile:
            Dataset(self._storage).add(self._meanwhile.pop(), DAY)
        self._storage.create(name, content)


def test_who_is_overtaken_on_an_object_store_comes_next(submission: Make) -> None:
    storage = open_storage("memory://overtaken")
    dataset = Dataset.init("memory://overtaken", "test", DAY)
    slow = Dataset(_Overtaken(storage, [submission(4, 2), submission(8, 2)]))  # type: ignore[arg-type]
    assert slow.add(submission(0, 3), DAY).version.number == 4
    assert dataset.latest().num_results == 7
    assert json.loads(storage.read("latest.json"))["version"] == 4
    # The same bundle from two sides is one, too.
    again = Dataset(_Overtaken(storage, [submission(20, 2)]))  # type: ignore[arg-type]
    again.add(submission(20, 2), DAY)
    assert dataset.latest().num_results == 9
    assert dataset.latest().number == 5


def test_a_changed_file_is_found(dataset: Dataset, submission: Make) -> None:
    dataset.add(submission(), DAY)
    file = next((Path(dataset.where) / "results").iterdir())
    table = pq.read_table(file)
    at = table.schema.get_field_index("energy_gpu_j")
    pq.write_table(table.set_column(at, "energy_gpu_j", [[1.0, 2.0, 3.0]]), file)
    with pytest.raises(DatasetError, match="SHA-256 differs"):
        dataset.results()


def test_who_waits_too_long_is_told_who_works(
    dataset: Dataset, submission: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.dataset.storage.LOCK_WAIT_S", 0.0)
    with (
        Folder(Path(dataset.where)).writing("a long addition"),
        pytest.raises(NotStartedError, match=f"pid {os.getpid()} .*a long addition: try again"),
    ):
        dataset.add(submission(), DAY)
