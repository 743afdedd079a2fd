"""The data card and the Croissant file: made from the rows, with nothing of others taken for markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.dataset.conftest import DAY
from wattcount.dataset.card import write_card
from wattcount.dataset.croissant import croissant
from wattcount.dataset.store import Dataset, Submission
from wattcount.result import Result

Make = Callable[..., Submission]


def test_the_card_counts_what_is_there(dataset: Dataset, submission: Make, measured: list[Result]) -> None:
    dataset.add(submission(0, 10), DAY)
    dataset.add(submission(20, 5, handle="another"), DAY)
    assert write_card(dataset) == ["README.md", "croissant.json"]
    text = (Path(dataset.where) / "README.md").read_text()
    chosen = (*measured[:10], *measured[20:25])
    valid = [result for result in chosen if result.valid]
    assert f"| results | 15, of which {len(valid)} valid |" in text
    assert f"| settings | {len({r.setting_key for r in chosen})} |" in text
    assert f"| boards | {len({board for r in chosen for board in r.boards})}, as pseudonyms |" in text
    assert "| submissions | 2, of 2 submitters |" in text
    assert f"Of the {len(valid)} valid results" in text
    assert "| CC-BY-4.0 | 15 | another, someone |" in text
    before = text
    write_card(dataset)
    assert (Path(dataset.where) / "README.md").read_text() == before


def test_an_empty_data_set_has_a_card(dataset: Dataset) -> None:
    write_card(dataset)
    assert "| results | 0, of which 0 valid |" in (Path(dataset.where) / "README.md").read_text()


def test_text_of_others_is_text(dataset: Dataset, submission: Make) -> None:
    made = submission(0, 1)
    hostile = replace(made.results[0], model="<script>alert(1)</script>|[x](http://y)\n# head\x1b[2J")
    dataset.add(replace(made, results=[hostile]), DAY)
    write_card(dataset)
    text = (Path(dataset.where) / "README.md").read_text()
    assert r"\<script\>alert(1)\</script\>\|\[x\](http://y) \# head?\[2J" in text


def test_the_croissant_file_lists_the_files_with_their_hashes(dataset: Dataset, submission: Make) -> None:
    version = dataset.add(submission(), DAY).version
    content = json.loads(croissant(version, "https://example.org/ds", ["CC-BY-4.0"]))
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    files = {item["@id"]: item for item in content["distribution"] if item["@type"] == "cr:FileObject"}
    assert {name: item["sha256"] for name, item in files.items()} == {
        name: facts.sha256 for name, facts in version.of("results").items()
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_finds_nothing_wrong_and_reads_the_rows(
    dataset: Dataset, submission: Make, measured: list[Result]
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: make setup-all")
    dataset.add(submission(0, 3), DAY)
    dataset.add(submission(10, 2), DAY)
    write_card(dataset)
    found = mlcroissant.Dataset(str(Path(dataset.where) / "croissant.json"))
    assert found.metadata.ctx.issues.errors == set()
    assert found.metadata.ctx.issues.warnings == set()
    read = {record["results/run_id"].decode(): record for record in found.records("results")}
    for result in (*measured[:3], *measured[10:12]):
        record = read[str(result.run_id)]
        assert record["results/energy_gpu_j"] == result.value("energy/gpu_j")
        assert [name.decode() for name in record["results/gpus"]] == list(result.gpus)
