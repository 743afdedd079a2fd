"""Rules of novelty: copies are found whatever was done to them, and honest repeats are not taken for copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wattcount.dataset import fingerprint
from wattcount.dataset.checks_novelty import TRAIT, power
from wattcount.dataset.fingerprint import Index
from wattcount.dataset.rules import Breach, Severity, Submission, Submitted
from wattcount.dataset.signs import traces
from wattcount.energy.curve import Ints
from wattcount.records import Record

ROOT = Path(__file__).resolve().parents[2]
REPEATS = sorted(file.parent for file in ROOT.glob("data/servers/records/0d5deaf15619/*/run.json"))
"""Runs of one setting on the same arrivals: the two that are most alike of all of ours are among them."""
OTHERS = sorted(file.parent for file in ROOT.glob("data/*/records/*/*/run.json"))[::40]


def ring(folder: Path) -> Ints:
    return traces(Record.open(folder))[0].samples[1]


def breaches(*folders: Path, dataset: dict[str, list[str]] | None = None) -> list[Breach]:
    records = [Submitted(folder, folder=f"records/{folder.name}") for folder in folders]
    return list(power(Submission(None, records, None if dataset is None else {TRAIT: dataset})))


CHANGES = {
    "the same": lambda v: v,
    "half of it": lambda v: v[len(v) // 3 : 5 * len(v) // 6],
    "scaled": lambda v: np.round(v * 0.83),
    "moved and scaled": lambda v: np.round(20_000 + v * 0.7),
    "with noise": lambda v: v + np.random.default_rng(1).normal(0, 500, len(v)).round(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_trace_is_found_again(change) -> None:  # type: ignore[no-untyped-def]
    known = Index({str(folder): fingerprint.shape_of(ring(folder)) for folder in OTHERS})
    for folder in OTHERS[:2]:
        best = known.matches(fingerprint.shape_of(change(ring(folder)).astype(np.int64)))[0]
        assert best.name == str(folder)
        assert best.short >= 0.985
        assert best.speed == 1.0


def test_a_resampled_trace_is_found_again_with_its_speed() -> None:
    known = Index({str(folder): fingerprint.shape_of(ring(folder)) for folder in OTHERS})
    value = ring(OTHERS[1])
    slower = np.interp(np.arange(len(value)) / 1.05, np.arange(len(value)), value).round().astype(np.int64)
    best = known.matches(fingerprint.shape_of(slower))[0]
    assert best.name == str(OTHERS[1])
    assert best.speed == pytest.approx(1.05, abs=0.003)
    assert best.long > 0.85


def test_honest_repeats_are_taken() -> None:
    assert len(REPEATS) >= 2
    assert breaches(*REPEATS) == []


def test_a_record_that_is_twice_in_a_submission_is_rejected_once() -> None:
    (breach,) = breaches(REPEATS[0], REPEATS[0])
    assert breach.record == f"records/{REPEATS[0].name}"
    assert breach.severity is None
    assert "in this submission" in breach.message


def test_a_record_that_is_in_the_data_set_is_rejected() -> None:
    known = {"abc": fingerprint.fingerprints(Record.open(REPEATS[0]))}
    (breach,) = breaches(REPEATS[0], REPEATS[1], dataset=known)
    assert "abc in the data set" in breach.message
    assert breach.severity in (None, Severity.reject)


def test_the_gpus_of_one_run_are_not_held_against_each_other() -> None:
    two = [folder for folder in ROOT.glob("data/h100/records/*/*") if (folder / "run.json").exists()]
    pair = next(folder for folder in two if len(Record.open(folder).info.gpus) == 2)
    assert breaches(pair) == []


def test_what_a_data_set_keeps_of_its_submissions_is_known(tmp_path: Path) -> None:
    (tmp_path / "fingerprints").mkdir()
    texts = fingerprint.fingerprints(Record.open(REPEATS[0]))
    content = {"records/x/r0": {TRAIT: texts, "identity": {"run_id": "x"}}, "records/x/r1": {TRAIT: []}}
    (tmp_path / "fingerprints" / "0123456789abcdef.json").write_text(json.dumps(content))
    records = [Submitted(folder, folder=f"records/{folder.name}") for folder in REPEATS[:2]]
    (breach,) = power(Submission(None, records, where=str(tmp_path)))
    assert breach.record == f"records/{REPEATS[0].name}"
    assert "records/x/r0 of 0123456789ab in the data set" in breach.message
    assert list(power(Submission(None, records, where=str(tmp_path / "empty")))) == []


@pytest.mark.parametrize(
    "text", ["", "~~~", "no fingerprint at all", fingerprint.to_text(np.zeros(1 << 21, np.int8))]
)
def test_a_text_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no fingerprint"):
        fingerprint.of_text(text)


def test_a_second_that_comes_again_is_found() -> None:
    value = ring(OTHERS[0]).copy()
    assert fingerprint.repeated(value) is None
    begin = max(range(0, len(value) - 600, 60), key=lambda place: len(np.unique(value[place : place + 60])))
    value[begin + 500 : begin + 560] = value[begin : begin + 60]
    found = fingerprint.repeated(value)
    assert found is not None
    assert found[1] - found[0] == 500


def test_a_sensor_that_stands_still_is_no_copy_of_itself() -> None:
    assert fingerprint.repeated(np.full(5000, 70_000)) is None
