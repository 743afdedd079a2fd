import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun, observation, steady_requests

from wattcount.cli.main import main
from wattcount.config.schema import Weights
from wattcount.records.schema import Evidence, Validity
from wattcount.result.host_part import PER_TOKEN, START_SCATTER


def records(folder: Path, *runs: dict[str, Any]) -> list[str]:
    return [
        str(SyntheticRun(**{"run_id": f"run{i}"} | run).write(folder / f"r{i}")) for i, run in enumerate(runs)
    ]


PAIR: tuple[dict[str, Any], ...] = ({}, {"power_w": 450.0, "requests": steady_requests(16), "rate_rps": 16.0})


def test_side_by_side_with_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = records(tmp_path, *PAIR)
    assert main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("  per output token")]
    assert row == ["per", "output", "token", "6.818", "J", "2.557", "J", "x0.375"]
    assert "    unlike [1]: scenario.rate_rps=16\n" in out
    assert max(map(len, out.splitlines())) <= 80 or str(tmp_path) in out
    for path in paths:
        assert path in out


def test_what_a_difference_must_exceed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = records(tmp_path, *PAIR)
    assert main(["compare", *paths]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "hides" in line]
    assert line.startswith("One board: the method's own error hides differences of energy under ")


def test_by_how_much_single_runs_differ_by_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = records(tmp_path, *PAIR)
    assert main(["compare", *paths]) == 0
    said = " ".join(capsys.readouterr().out.split())
    percent = float(said.partition("by chance by up to ")[2].partition(" %")[0])
    assert percent == pytest.approx(100 * 2**0.5 * START_SCATTER["server"][PER_TOKEN].u95_share, rel=0.06)
    paths = records(tmp_path / "emulated", *({"evidence": Evidence.EMULATED} | run for run in PAIR))
    assert main(["compare", *paths]) == 0
    assert "by chance" not in capsys.readouterr().out


def test_repeats_of_one_point_have_a_mean_and_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = records(tmp_path, *({"power_w": watts} for watts in (300.0, 303.0, 306.0)))
    assert main(["compare", *paths]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "runs of" in line]
    # Mean 303 W, sd 3 W: 1 %, and t(2) x sd / sqrt(3) = 2.48 %.
    assert "3 runs of " in line
    assert "6.886 ± 0.17 J per output token (95 %), sd 0.99 %." in line
    assert len(line) <= 80
    # Runs of one setting are pooled whatever the id of their point, which other versions made otherwise.
    info = json.loads((Path(paths[0]) / "run.json").read_text())
    (Path(paths[0]) / "run.json").write_text(json.dumps(info | {"point_id": "0" * 64}))
    assert main(["compare", *paths]) == 0
    assert "3 runs of " in capsys.readouterr().out
    paths = records(tmp_path / "other", {}, {"rate_rps": 16.0, "requests": steady_requests(16)})
    assert main(["compare", *paths]) == 0
    assert "runs of" not in capsys.readouterr().out


def test_many_records_fit_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records(tmp_path, *({"power_w": 100.0 * i} for i in range(1, 7)))
    assert main(["compare", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    # One table with a row a run.
    ratios = [
        line.split()[1] for line in lines if line.startswith("[") and " x" in line and "llama" not in line
    ]
    assert ratios == ["x2.00", "x3.00", "x4.00", "x5.00", "x6.00"]
    assert len([line for line in lines if "x: to [1]" in line]) == 1


def test_each_cell_is_in_the_unit_that_suits_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = records(tmp_path, {}, {"power_w": 0.3})
    assert main(["compare", *paths, "--allow-mixed"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Power, mean")]
    assert row == ["Power,", "mean", "300.0", "W", "300.0", "mW", "x0.00100"]


def test_what_is_invalid_is_left_out_and_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted = {"validity": Validity(False, ["interrupted"], ["Ctrl-C"])}
    paths = records(tmp_path, {}, interrupted, {"power_w": 450.0})
    assert main(["compare", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"wattcount: left out: {paths[1]}: interrupted\n"
    assert paths[1] not in captured.out
    assert "x1.50" in captured.out
    assert main(["compare", *paths[:2]]) == 2
    assert "compare needs at least two valid runs" in capsys.readouterr().err


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *records(tmp_path, *PAIR), "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["metrics"]["energy/gpu_j"] == pytest.approx(18000)
    assert second["ratio_to_first"]["energy/gpu_j"] == pytest.approx(1.5)
    assert second["metrics"]["energy/batch_gpu_j"] is None
    assert second["ratio_to_first"]["energy/batch_gpu_j"] is None


def test_csv_has_plain_numbers_and_empty_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *records(tmp_path, *PAIR), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["energy/gpu_j"]) for row in rows] == pytest.approx([18000, 27000])
    assert rows[0]["energy/batch_gpu_j"] == ""
    assert rows[1]["load"] == "server 16 requests/s"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"evidence": Evidence.EMULATED}, "different evidence: measured"),
        ({"weights": Weights.random}, "different weights: real"),
        ({"validity": Validity(False, ["engine_died"], ["died"])}, "left out: "),
        ({"gpu_facts": {"mig_mode": 1}}, "left out: "),
        ({"observations": [observation("clock_event_reasons", 50, 0x40)]}, "left out: "),
    ],
)
def test_will_not_mix_unless_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], said: str
) -> None:
    paths = records(tmp_path, {}, other)
    assert main(["compare", *paths]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"wattcount: {said}")
    assert captured.err.count("\n") == (2 if said == "left out: " else 1)
    assert paths[1] in captured.err
    assert main(["compare", *paths, "--allow-mixed"]) == 0
    assert "Energy of the window" in capsys.readouterr().out


def test_real_weights_from_hub_and_from_a_folder_may_be_compared(tmp_path: Path) -> None:
    assert main(["compare", *records(tmp_path, {"weights": Weights.hub}, {"weights": Weights.path})]) == 0


def test_one_record_is_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *records(tmp_path, {})]) == 2
    assert "at least two" in capsys.readouterr().err


def test_records_without_any_number_in_common(tmp_path: Path) -> None:
    nothing = {"phases": [], "requests": [], "validity": Validity(False, ["timeout"], ["late"])}
    assert main(["compare", *records(tmp_path, nothing, nothing), "--allow-mixed"]) == 0
