"""What the pages with pictures are made of: scripts of runs and curves, and what may be downloaded."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun

from tests.site.sample import result, source
from wattcount.errors import WattcountError
from wattcount.records import Record
from wattcount.result import Result
from wattcount.site import pictures
from wattcount.site.builder import build
from wattcount.site.source import Entry, Source
from wattcount.site.tables import settings_of


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return SyntheticRun().write(tmp_path / "records" / "point" / "r0-x")


def measured(record: Path) -> Result:
    return Result.of(Record.open(record))


class InDataset(Source):
    """A source whose records are public: as a data set's."""

    @contextmanager
    def records(self) -> Iterator[Iterator[tuple[Entry, Path | WattcountError]]]:
        yield ((entry, path) for entry in self.entries if (path := entry.result.record) is not None)


def files_of(source: Source, said: list[str] | None = None) -> dict[str, str | bytes]:
    def script(name: str, data: Any) -> str:
        return json.dumps({name: data})

    return dict(pictures.run_files(source, script, {}, (said if said is not None else []).append))


def test_each_run_with_a_record_has_a_script_of_its_own(record: Path) -> None:
    run = measured(record)
    files = files_of(source(run))
    (path,) = files
    assert path == f"runs/{run.run_id}.js"
    data = json.loads(files[path])["run"]
    assert data["id"] == run.run_id
    assert data["series"]["power"]


def test_a_private_record_cannot_be_downloaded(record: Path) -> None:
    files = files_of(source(measured(record)))
    assert not [path for path in files if path.endswith(".zip")]
    assert json.loads(next(iter(files.values())))["run"]["download"] is None


def test_a_data_sets_record_can_be_downloaded_whole(record: Path) -> None:
    run = measured(record)
    made = InDataset("set", [Entry("0123abcd", run)], dataset=object())  # type: ignore[arg-type]
    files = files_of(made)
    assert json.loads(files["runs/0123abcd.js"])["run"]["download"] == "runs/0123abcd.zip"
    content = files["runs/0123abcd.zip"]
    assert isinstance(content, bytes)
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            f"0123abcd/{file.name}": file.read_bytes() for file in record.iterdir()
        }
    assert files_of(made) == files  # the same bytes each time


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "a b", "x" * 200, "<b>", ""])
def test_an_id_that_is_no_name_of_a_file_gets_none(record: Path, name: str) -> None:
    assert files_of(Source("x", [Entry(name, measured(record))])) == {}


def test_a_record_that_cannot_be_read_is_left_out_and_told(record: Path) -> None:
    run = measured(record)
    (record / "power.parquet").write_bytes(b"PAR1")
    said: list[str] = []
    assert files_of(source(run), said) == {}
    assert said[0].startswith(f"no page for the run {run.run_id}:")


def test_points_of_curves_lead_to_their_settings() -> None:
    settings = settings_of(source())
    page = pictures.load_curves(settings, {})
    ids = {setting.id for setting in settings}
    assert page["slo"] == {"ttft": 500.0, "tpot": 50.0}
    assert {point["id"] for curve in page["curves"] for point in curve["points"]} <= ids
    assert len(page["curves"]) == 4  # two models on two GPUs, at three rates each


def test_runs_of_an_earlier_build_go_and_files_of_others_stay(record: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    build(source(measured(record)), out)
    (out / "runs" / "mine.txt").write_text("mine")
    assert list((out / "runs").glob("*.js"))
    build(Source.of_results("x", [result()]), out)
    assert [file.name for file in (out / "runs").iterdir()] == ["mine.txt"]


def test_the_library_that_draws_is_small_and_keeps_its_names_to_itself() -> None:
    library = pictures.static_files()["vega.js"]
    assert len(library) < 1_000_000
    assert library.startswith("(() => {")
    assert library.endswith("})();\n")
