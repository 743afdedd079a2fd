from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wattcount.errors import NotStartedError
from wattcount.importers import read_loadgen, read_run, read_spl

Folder = Callable[..., Path]


def test_joules_per_token_of_the_right_window(mlperf_folder: Folder) -> None:
    run = read_run(mlperf_folder())
    assert run.loadgen.valid
    assert run.loadgen.tokens == 500
    assert run.loadgen.duration_s == 10
    assert run.mean_w() == 500
    assert run.j_per_token_published() == 10
    # Half a second from 300 W to 500 W before the first reading, half a second from 500 W to 300 W after the last.
    assert run.energy().value_j == pytest.approx(9 * 500 + 2 * 0.5 * 400)
    assert run.j_per_token() == pytest.approx(run.energy().value_j / 500)
    assert run.energy().readings == 10


def test_server_counts_all_tokens_but_its_rate_ends_before_they_do(mlperf_folder: Folder) -> None:
    """99 of 100 samples at 11 a second: the rate was reckoned over 9 s, power over 10 s."""
    run = read_run(
        mlperf_folder(
            effective_scenario="Server",
            result_tokens_per_second=None,
            result_completed_tokens_per_second=50.0,
            result_completed_samples_per_sec=11.0,
            result_query_count=100,
        )
    )
    assert run.loadgen.rate_s == 9
    assert run.loadgen.tokens == 450
    assert run.j_per_token_published() == 10
    assert run.j_per_token() == pytest.approx(4900 / 450)


def test_offline_tokens_that_were_inferred(mlperf_folder: Folder) -> None:
    log = read_loadgen(
        mlperf_folder(result_tokens_per_second=None, result_inferred_tokens_per_second=50.0)
        / "mlperf_log_detail.txt"
    )
    assert (log.counted, log.tokens) == (False, 500)


def test_a_rate_that_was_counted_comes_before_an_inferred_one(mlperf_folder: Folder) -> None:
    log = read_loadgen(mlperf_folder(result_inferred_tokens_per_second=1.0) / "mlperf_log_detail.txt")
    assert (log.counted, log.tokens) == (True, 500)


def test_server_tokens_that_were_inferred_leave_out_one_sample(mlperf_folder: Folder) -> None:
    """99 samples of 69 tokens in 9 s: the run had 100."""
    log = read_loadgen(
        mlperf_folder(
            effective_scenario="Server",
            result_tokens_per_second=None,
            result_inferred_completed_tokens_per_second=99 * 69 / 9,
            result_completed_samples_per_sec=11.0,
            result_query_count=100,
        )
        / "mlperf_log_detail.txt"
    )
    assert not log.counted
    assert log.tokens == pytest.approx(6900)


def test_a_server_run_of_one_query(mlperf_folder: Folder) -> None:
    folder = mlperf_folder(
        effective_scenario="Server",
        result_completed_tokens_per_second=50.0,
        result_completed_samples_per_sec=11.0,
        result_query_count=1,
    )
    with pytest.raises(NotStartedError, match="a Server run of 1 query has no rate"):
        read_loadgen(folder / "mlperf_log_detail.txt")


def test_test_datetime_is_not_taken_at_its_word(mlperf_folder: Folder) -> None:
    """It says 02:52 `Z`; power_begin, in the meter's zone, says 09:52."""
    folder = mlperf_folder()
    assert read_run(folder).window_ns == read_run(mlperf_folder(test_datetime=None)).window_ns


def test_a_meter_in_another_time_zone_is_refused_with_the_difference(mlperf_folder: Folder) -> None:
    folder = mlperf_folder(hour=2)
    with pytest.raises(NotStartedError, match=r"-7 h .* meter_ahead_s=-25200"):
        read_run(folder)
    assert read_run(folder, meter_ahead_s=-7 * 3600).mean_w() == 500


def test_logs_of_two_runs_are_refused(mlperf_folder: Folder) -> None:
    folder = mlperf_folder(first_s=0, last_s=20)
    with pytest.raises(NotStartedError, match="are the two files of one run"):
        read_run(folder)


def test_clock_that_is_off_by_a_second(mlperf_folder: Folder) -> None:
    run = read_run(mlperf_folder())
    assert run.u95_placement_j(0.0) == 0
    late = read_run(mlperf_folder(), meter_ahead_s=1.0)
    assert run.u95_placement_j(1.0) >= run.energy().value_j - late.energy().value_j > 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Time,07-17-2024 09:52:00.000,Wat", "expected 'Time,<time>,Watts,<power>,...'"),
        ("Time,2024-07-17 09:52:00,Watts,5", "no time like 07-17-2024"),
        ("Time,07-17-2024 09:52:00.000,Watts,Inf", "the meter had an error"),
        ("Time,07-17-2024 09:52:00.000,Watts,-1.0", "the meter had an error"),
        ("{last}", "not later than that of the reading before"),
        ("Time,07-17-2024 09:52:09.000,Watts,5", "columns instead of .*: cut off; remove the line"),
    ],
)
def test_damaged_meter_logs_name_the_line(mlperf_folder: Folder, line: str, says: str) -> None:
    path = mlperf_folder(first_s=0, last_s=2) / "spl.txt"
    before = path.read_text().rstrip()
    path.write_text(before + "\n" + line.format(last=before.splitlines()[-1]) + "\n")
    with pytest.raises(NotStartedError, match=f"spl.txt, line 4: .*{says}"):
        read_spl(path)


def test_empty_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "spl.txt").write_text("")
    with pytest.raises(NotStartedError, match="holds 0 power readings"):
        read_spl(tmp_path / "spl.txt")
    with pytest.raises(NotStartedError, match="does not exist"):
        read_loadgen(tmp_path / "mlperf_log_detail.txt")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(NotStartedError, match="neither UTF-8 nor UTF-16"):
        read_spl(tmp_path / "binary")
    with pytest.raises(NotStartedError, match="cannot be read"):
        read_spl(tmp_path)


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ({"power_begin": None}, "no event 'power_begin'"),
        ({"result_tokens_per_second": None}, "no event 'result_tokens_per_second'"),
        ({"result_tokens_per_second": 0}, "not a positive number"),
        ({"effective_scenario": "SingleStream"}, "only Offline and Server"),
        ({"power_end": "07-17-2024 09:52:20.000"}, "power_end is not after power_begin"),
        ({"power_end": "soon"}, "not a time like"),
    ],
)
def test_loadgen_logs_without_what_it_takes(
    mlperf_folder: Folder, events: dict[str, object], says: str
) -> None:
    with pytest.raises(NotStartedError, match=says):
        read_run(mlperf_folder(**events))


def test_a_loadgen_log_that_was_cut_off(mlperf_folder: Folder) -> None:
    path = mlperf_folder() / "mlperf_log_detail.txt"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(NotStartedError, match="line 10: damaged or cut off"):
        read_loadgen(path)


def test_an_invalid_run_says_so(mlperf_folder: Folder) -> None:
    assert not read_run(mlperf_folder(result_validity="INVALID")).loadgen.valid


@pytest.mark.parametrize(("scenario", "j_per_token"), [("Offline", 0.2436), ("Server", 0.2717)])
def test_published_h200_runs(outside_data: Path, scenario: str, j_per_token: float) -> None:
    run = read_run(outside_data / "mlperf_v4.1" / "llama2-70b-99" / scenario)
    assert run.j_per_token_published() == pytest.approx(j_per_token, abs=5e-5)
    assert run.energy().value_j / run.loadgen.duration_s == pytest.approx(run.mean_w(), rel=1e-4)
    # The rate of the Server run leaves out its last 22.5 s, in which 0.9 % of the tokens' energy was spent.
    share = run.j_per_token() / run.j_per_token_published()
    assert share == pytest.approx({"Offline": 0.9999, "Server": 1.0091}[scenario], abs=1e-4)
