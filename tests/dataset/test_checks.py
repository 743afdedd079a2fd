"""Rules of form, load and recomputation: real records keep them, and each is broken by an edit that it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dataset.edited_record import (
    BATCH,
    SERVER,
    broken,
    copied,
    edit_requests,
    edit_run,
    figures_anew,
    keep_requests,
)
from wattcount.dataset import checks_form
from wattcount.dataset.checks import FAMILIES, RULES
from wattcount.dataset.rules import Severity, Submitted
from wattcount.engines.vllm.plugin import VllmPlugin
from wattcount.records import schema


def test_every_rule_is_of_a_family_and_says_what_must_hold() -> None:
    for rule in RULES.values():
        assert rule.family in FAMILIES
        assert rule.clause.endswith(".")
        # A unit without a limit: the limit depends on the board, and each breach says it.
        assert rule.limit is None or rule.unit


@pytest.mark.parametrize("record", [BATCH, SERVER], ids=["batch", "server"])
def test_real_records_keep_every_rule(record: Path, tmp_path: Path) -> None:
    assert broken(copied(record, tmp_path)) == {}


def _set(*keys: str | int, to: Any) -> Callable[[Any], None]:
    def change(info: Any) -> None:
        for key in keys[:-1]:
            info = info[key]
        info[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "rule", "words"),
    [
        (_set("evidence", to="emulated"), "form/measured", "it is emulated"),
        (_set("evidence", to="predicted"), "form/measured", "it is predicted"),
        (_set("config", "evidence", to="emulated"), "form/measured", "its config says emulated"),
        (_set("config", "engine", "device", to="cpu"), "form/measured", "ran on cpu"),
        (_set("origin", to="elsewhere"), "form/measured", "its origin is elsewhere"),
        (_set("instrument", to="guess"), "form/measured", "its instrument is guess"),
        (_set("started_utc", to="2019-01-01T00:00:00+00:00"), "form/date", "2019-01-01"),
        (_set("started_utc", to="2026-11-30"), "form/date", "no time"),
        (_set("clock_pairs", to=[]), "form/date", "no pair of clocks"),
        (_set("complete", to=False), "form/valid", "it is failed"),
        (_set("files", to={}), "form/hashes", "says nothing of power.parquet"),
        (_set("files", "power.parquet", "sha256", to="0" * 64), "form/readable", "power.parquet"),
        (_set("schema_version", to=99), "form/readable", "schema version 99"),
        (_set("seed", to=1), "load/requests", "requests"),
        (_set("repeat", to=7), "load/requests", "requests"),
        (_set("config", "scenario", "lengths", "output_tokens", to=1), "load/lengths", "another length"),
        (_set("config", "scenario", "window_s", to=3.0), "load/requests", "of no plan"),
        (_set("config", "scenario", "rate_rps", to=1e9), "load/requests", "it asks for some"),
    ],
)
def test_an_edited_run_json_breaks_its_rule(
    change: Callable[[Any], None], rule: str, words: str, tmp_path: Path
) -> None:
    record = copied(SERVER, tmp_path)
    edit_run(record, change)
    assert any(words in message for message in broken(record)[rule])


def test_a_run_of_the_future_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = copied(BATCH, tmp_path)
    monkeypatch.setattr(checks_form, "now", lambda: datetime(2026, 11, 1, tzinfo=UTC))
    assert "days from now" in broken(record)["form/date"][0]


def test_what_was_not_released_yet_was_not_measured_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = copied(BATCH, tmp_path)
    began = json.loads((record / schema.RUN_JSON).read_text())["started_utc"][:10]
    there = VllmPlugin.released["vllm"]
    monkeypatch.setattr(VllmPlugin, "released", {"vllm": {**there, "0.27.0": "2027-01-15"}})
    assert "form/versions" not in broken(record)

    def newer(version: str) -> Callable[[Any], None]:
        return lambda info: (info["versions"].update(vllm=version), info["engine"].update(version=version))

    edit_run(record, newer("0.27.0+cu130"))
    assert broken(record)["form/versions"] == [
        f"vllm 0.27.0+cu130 was released on 2027-01-15, and the run began on {began}"
    ]
    edit_run(record, newer("0.28.1"))
    (told,) = checks_form.versions(Submitted(record))
    assert told.severity is Severity.warn
    assert "is not known here, where 0.27.0 is the newest" in told.message
    edit_run(record, lambda info: info["versions"].update(vllm="0.26.0"))
    assert "its packages 0.26.0" in broken(record)["form/versions"][0]


def test_clocks_that_run_apart_are_flagged(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    edit_run(record, lambda info: info["clock_pairs"][-1].update(utc_ns=info["clock_pairs"][0]["utc_ns"]))
    assert list(broken(record)) == ["form/clocks"]


def test_a_truth_or_another_file_gives_an_emulated_record_away(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    (record / schema.TRUTH_CSV).write_text("t_ns,power_mw\n")
    (record / "setup.py").write_text("boom")
    found = broken(record)
    assert "which only emulated runs have" in found["form/measured"][0]
    assert found["form/files"] == ["no record has a file setup.py"]


def test_a_cohort_has_its_seed_and_its_days(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    assert "the run's seed is 0" in broken(record, cohort="2026_q4")["form/cohort"][0]
    assert "no cohort" in broken(record, cohort="1999_q1")["form/cohort"][0]


def test_a_bundle_needs_metrics(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    (record / schema.METRICS_JSON).unlink()
    assert broken(record) == {}
    # It has private fields, too, which `wattcount submit` would have hidden.
    assert list(broken(record, in_bundle=True)) == ["form/metrics", "form/public"]


# -- recomputation


@pytest.mark.parametrize(
    ("keys", "to", "rule"),
    [
        (("metrics", "energy/gpu_j"), 1.0, "recompute/figures"),
        (("metrics", "energy/gpu_j_u95"), None, "recompute/figures"),
        (("metrics", "made/up"), 1.0, "recompute/figures"),
        (("window", "end_ns"), 1, "recompute/figures"),
        (("evidence",), "predicted", "recompute/figures"),
        (("validity", "valid"), False, "recompute/verdict"),
    ],
)
def test_a_figure_of_ones_own_is_found(keys: tuple[str, ...], to: Any, rule: str, tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    file = record / schema.METRICS_JSON
    stored = json.loads(file.read_text())
    _set(*keys, to=to)(stored)
    file.write_text(json.dumps(stored))
    assert list(broken(record)) == [rule]


def test_the_last_digits_of_another_cpu_are_let_pass_and_no_more(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    file = record / schema.METRICS_JSON
    stored = json.loads(file.read_text())
    value = stored["metrics"]["energy/gpu_j"]
    for factor, found in ((1 + 5e-10, []), (1 + 2e-9, ["recompute/figures"])):
        stored["metrics"]["energy/gpu_j"] = value * factor
        file.write_text(json.dumps(stored))
        assert list(broken(record)) == found


def test_figures_of_an_older_version_are_computed_anew(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    file = record / schema.METRICS_JSON
    stored = json.loads(file.read_text())
    stored["metrics_version"], stored["metrics"]["energy/gpu_j"] = 1, 1.0
    file.write_text(json.dumps(stored))
    assert broken(record) == {}


def test_the_point_is_that_of_the_configuration(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)

    def later(info: dict[str, Any]) -> None:
        info["started_utc"] = "2026-11-28T06:54:08+00:00"
        for pair in info["clock_pairs"]:
            pair["utc_ns"] += 86_400 * 10**9

    edit_run(record, later)
    figures_anew(record)
    assert list(broken(record)) == ["recompute/point"]


@pytest.mark.parametrize("times", [2, 3])
def test_more_tokens_than_the_steps_made_are_found(times: int, tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    edit_requests(record, input_tokens=lambda tokens: tokens * times)
    figures_anew(record)
    assert {"recompute/steps", "load/lengths"} <= set(broken(record))


def test_output_tokens_that_never_arrived_are_found(tmp_path: Path) -> None:
    record = copied(BATCH, tmp_path)
    edit_requests(record, output_tokens=lambda tokens: tokens + 1)
    figures_anew(record)
    assert "arrived" in broken(record)["recompute/tokens"][0]


# -- load


def test_a_request_that_is_left_out_is_missed(tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)
    keep_requests(record, lambda ids: [name != "w100" for name in ids])
    figures_anew(record)
    assert "1 of" in broken(record)["load/requests"][0]


def _with_row(row: int, by: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[row] += by
        return values

    return change


@pytest.mark.parametrize(
    ("column", "by", "rule"),
    [
        ("planned_send_ns", 5_000_000, "load/arrivals"),
        ("planned_send_ns", -5_000_000, "load/arrivals"),
        ("actual_send_ns", -1_000_000_000, "load/early"),
        ("actual_send_ns", 60_000_000_000, "load/order"),
        ("input_tokens", 1, "load/lengths"),
        ("cached_tokens", 16, "load/prompts"),
        ("first_token_ns", -10_000_000_000, "load/order"),
        ("last_token_ns", 1_000_000, "recompute/tokens"),
        ("engine_scheduled_ns", -10_000_000_000, "load/order"),
    ],
)
def test_one_edited_stamp_or_count_is_found(column: str, by: int, rule: str, tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)
    edit_requests(record, **{column: _with_row(-10, by)})
    figures_anew(record)
    assert rule in broken(record)


def test_stretched_arrivals_are_found(tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)

    def stretched(t_ns: np.ndarray) -> np.ndarray:
        return (t_ns[0] + (t_ns - t_ns[0]) * 1.01).astype(np.int64)

    edit_requests(record, planned_send_ns=stretched, actual_send_ns=stretched)
    figures_anew(record)
    assert "load/arrivals" in broken(record)


def test_a_window_cut_to_its_best_part_is_found(tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)

    def cut(info: dict[str, Any]) -> None:
        window, drain = (
            next(span for span in info["phases"] if span["phase"] == name) for name in ("window", "drain")
        )
        window["end_ns"] -= 1_000_000_000
        drain["start_ns"] -= 1_000_000_000

    edit_run(record, cut)
    figures_anew(record)
    assert "its window ends -1,000.000 ms" in broken(record)["load/window"][0]


def test_phases_out_of_order_and_answers_outside_are_found(tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)

    def swap(info: dict[str, Any]) -> None:
        for span in info["phases"]:
            if span["phase"] == "drain":
                span["end_ns"] = span["start_ns"]
        info["phases"].append(info["phases"].pop(0))

    edit_run(record, swap)
    assert any("phase" in message for message in broken(record)["load/within"])
