"""What others measured, as results: they stand in `compare` beside each other, and beside ours where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun

from wattcount import importers
from wattcount.cli.main import main
from wattcount.metrics import spec
from wattcount.metrics.metrics_json import Status
from wattcount.result import Result

SMI = "timestamp, index, power.draw [W]\n" + "".join(
    f"2026/09/01 12:00:{second:02d}.{gpu}00, {gpu}, {100 * (gpu + 1)}.00 W\n"
    for second in range(11)
    for gpu in (0, 1)
)
DMON = "#Date       Time        gpu    pwr\n#YYYYMMDD   HH:MM:SS    Idx      W\n" + "".join(
    f" 20260901   12:00:{second:02d}      0    250\n" for second in range(5)
)


def test_a_run_of_mlperf_is_a_result_without_a_record(mlperf_folder: Callable[..., Path]) -> None:
    folder = mlperf_folder()
    assert importers.recognises(folder)
    (result,) = importers.read(folder)
    assert (result.origin, result.instrument, result.record, result.source) == (
        "imported:mlperf",
        "wall",
        None,
        folder,
    )
    assert result.valid
    assert (result.setting_key, result.point_id, result.started_utc) == (None, None, None)
    assert result.value("energy/wall_j") == pytest.approx(9 * 500 + 2 * 0.5 * 400)
    assert result.value("energy/wall_j_per_output_token") == pytest.approx(4_900 / 500)
    assert result.u95("energy/wall_j") is None  # the meter's gain is not told
    assert all(spec(key).unit for key in result.metrics)


def test_what_loadgen_calls_not_valid_is_not(mlperf_folder: Callable[..., Path]) -> None:
    (result,) = importers.read(mlperf_folder(result_validity="INVALID"))
    assert (result.status, result.codes) == (Status.invalid, ("loadgen_invalid",))


def test_each_gpu_of_a_log_of_nvidia_smi_is_a_result(tmp_path: Path) -> None:
    file = tmp_path / "power.csv"
    file.write_text(SMI)
    assert importers.recognises(file)
    first, second = importers.read(file)
    assert (first.boards, second.boards) == (("0",), ("1",))
    assert (first.origin, first.instrument, first.window_s) == ("imported:nvidia-smi", "nvml", 10.0)
    assert first.value("energy/gpu_j") == pytest.approx(1_000)
    assert second.value("power/gpu_mean_w") == pytest.approx(200)


def test_a_table_of_dmon_is_recognised(tmp_path: Path) -> None:
    file = tmp_path / "dmon.txt"
    file.write_text(DMON)
    assert importers.recognises(file)
    (result,) = importers.read(file)
    assert result.value("energy/gpu_j") == pytest.approx(4 * 250)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe\x00", b"timestamp,temperature\n"])
def test_another_file_is_none_of_them(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert not importers.recognises(file)
    assert not importers.recognises(tmp_path)
    assert not importers.recognises(tmp_path / "none")


def test_compare_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "power.csv"
    file.write_text(SMI)
    assert main(["compare", str(file), "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["record"], first["origin"], first["point_id"]) == (str(file), "imported:nvidia-smi", None)
    assert second["ratio_to_first"]["energy/gpu_j"] == pytest.approx(2)
    ours = SyntheticRun().write(tmp_path / "r0")
    assert main(["compare", str(ours), str(file)]) == 2
    assert "different origin: wattcount" in capsys.readouterr().err
    assert main(["compare", str(ours), str(file), "--allow-mixed"]) == 0
    out = capsys.readouterr().out
    assert "unknown model on no GPU, unknown load; measured, imported:nvidia-smi" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80


def test_a_source_that_says_next_to_nothing_can_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compare` asks a source for its two functions alone."""
    file = tmp_path / "runs.txt"
    file.write_text("100 300\n")

    class Source:
        @staticmethod
        def recognises(path: Path) -> bool:
            return path.suffix == ".txt"

        @staticmethod
        def results(path: Path) -> list[Result]:
            joules = map(float, path.read_text().split())
            return [Result(origin="text", source=path, metrics={"energy/gpu_j": j}) for j in joules]

    monkeypatch.setattr(importers, "IMPORTERS", (*importers.IMPORTERS, Source))
    assert main(["compare", str(file)]) == 0
    out = capsys.readouterr().out
    assert "[2] unknown model on no GPU, unknown load; unknown evidence, text" in out
    assert "x3.00" in out
