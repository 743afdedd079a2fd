import io
import math

import pytest
from rich.console import Console
from synthetic_record import SyntheticRun, observation, request, steady_requests

from wattcount.config.schema import SloConfig, Weights
from wattcount.metrics import FINDINGS
from wattcount.records import Record
from wattcount.records.schema import Evidence, Validity
from wattcount.report.summary import print_summary
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, START_SCATTER


def text_of(run: SyntheticRun, folder) -> str:
    record = Record.open(run.write(folder))
    out = io.StringIO()
    print_summary(Result.of(record), Console(file=out, width=80, color_system=None))
    return out.getvalue()


def test_every_number_has_a_unit_and_the_head_says_what_they_rest_on(tmp_path):
    text = text_of(SyntheticRun(slo=SloConfig(ttft_ms=100)), tmp_path)
    rows = text.splitlines()
    assert rows[1] == "VALID; measured"
    assert text.count("measured") == 1
    for expected in (
        "18.00 kJ", "6.818 J", "75.00 J", "300.0 W", "300.0 / 300.0 W", "44.00 tokens/s", "4.000 requests/s",
        "50.00 / 50.00 / 50.00 ms", "10.00 / 10.00 / 10.00 ms", "150.0 / 150.0 / 150.0 ms",
    ):  # fmt: skip
        assert any(expected in row for row in rows), expected
    assert "llama3_8b on NVIDIA H200, server 4 requests/s" in text
    assert "Energy from energy_counter." in text


def test_what_an_interval_is_made_of(tmp_path):
    text = text_of(SyntheticRun(), tmp_path)
    rows = {line.split("  ")[0].strip() or line.strip(): line for line in text.splitlines()}
    said = " ".join(text.split())
    host = START_SCATTER["server"][PER_TOKEN]
    assert "18.00 kJ ± 5" in rows["Energy of the window"]
    # Energy per token is what settings are compared by: how far another start would lie is in it.
    share = float(
        next(line for line in text.splitlines() if "per output token" in line).split("±")[1].split("%")[0]
    )
    assert share == pytest.approx(100 * math.hypot(0.05, host.u95_share), rel=0.05)
    assert f"per token also {100 * host.u95_share:.2g} % host: starts of an engine scatter by" in said
    assert f"(sd, server, {host.freedom} degrees of freedom)" in said


def test_an_emulated_run_has_no_hosts_part(tmp_path):
    text = text_of(SyntheticRun(evidence=Evidence.EMULATED), tmp_path)
    assert "the board's sensor" in text
    assert "host:" not in text


def test_fits_80_columns_and_is_plain(tmp_path):
    text = text_of(SyntheticRun(weights=Weights.random, evidence=Evidence.EMULATED), tmp_path)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_random_weights_and_emulation_are_marked(tmp_path):
    text = text_of(SyntheticRun(weights=Weights.random, evidence=Evidence.EMULATED), tmp_path)
    assert text.count("emulated, random weights") == 1
    assert "EMULATED: power comes from a model of a GPU" in text


def test_rows_that_do_not_apply_are_left_out_and_missing_ones_explained(tmp_path):
    text = text_of(SyntheticRun(requests=steady_requests(0.5)), tmp_path)
    assert "goodput" not in text
    assert "Energy of the batch" not in text
    assert "50.00 / 50.00 / - ms" in text
    assert "fewer than 100 / (100 - p) values" in text


def test_what_spoils_a_run_is_said(tmp_path):
    run = SyntheticRun(
        observations=[observation("compute_processes", 1, 2)],
        validity=Validity(False, ["engine_died"], ["the engine died: out of memory"]),
    )
    text = text_of(run, tmp_path)
    assert "\nINVALID: do not use these numbers (engine_died, foreign_process); measured\n" in text
    assert "- the engine died: out of memory" in text
    assert "other process(es)" in text
    assert f"To do: {FINDINGS['foreign_process'].to_do}." in " ".join(text.split())


def test_remarks_are_counted_in_the_head_and_say_what_to_do(tmp_path):
    text = text_of(SyntheticRun(observations=[observation("clock_event_reasons", 50, 0x4)]), tmp_path)
    assert "\nVALID, 1 remark; measured\n" in text
    assert f"To do: {FINDINGS['power_capped'].to_do}." in " ".join(text.split())


def test_a_run_that_broke_off_has_no_table_of_dashes(tmp_path):
    text = text_of(
        SyntheticRun(phases=[], requests=[], validity=Validity(False, ["interrupted"], ["Ctrl-C"])), tmp_path
    )
    assert "INVALID: do not use these numbers (interrupted)" in text
    assert "- Ctrl-C" in text
    assert "Energy of the window" not in text


def test_a_batch(tmp_path):
    text = text_of(SyntheticRun(scenario="batch", requests=[request(i, 40.0) for i in range(64)]), tmp_path)
    assert "batch of 64" in text
    assert "Energy of the batch" in text
    assert "offered" not in text
