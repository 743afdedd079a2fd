from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.errors import NotStartedError
from wattcount.importers import read_nvidia_smi

HEADER = "timestamp, power.draw [W], utilization.gpu [%]"


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def at(ms: int) -> str:
    return f"2024/04/03 11:08:{ms // 1000:02d}.{ms % 1000:03d}"


def test_trapezoid(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", *(f"{at(100 * i)}, {100 + 10 * i}.00 W, 5 %" for i in range(11)))
    log = read_nvidia_smi(path)
    assert (len(log), log.missing, log.period_s) == (11, 0, 0.1)
    energy = log.energy()
    assert energy.value_j == pytest.approx(150.0)
    assert energy.u95_sampling_j == pytest.approx(0, abs=1e-9)  # a ramp leaves nothing to guess
    assert energy.gap_s == 0


def test_without_units_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        *(f"{at(100 * i)}, 50.0" for i in range(4)),
        header="\ufefftimestamp, power.draw",
    )
    assert read_nvidia_smi(path).energy().value_j == pytest.approx(15.0)


def test_readings_that_failed_are_a_gap(tmp_path: Path) -> None:
    lines = [f"{at(100 * i)}, {'[N/A]' if i in (4, 5) else '100.00 W'}, 5 %" for i in range(11)]
    log = read_nvidia_smi(write(tmp_path / "log.csv", *lines, f"{at(1100)}, 140.00 W, 5 %"))
    energy = log.energy()
    assert log.missing == 2
    assert energy.gap_s == pytest.approx(0.3)
    assert energy.u95_gaps_j == pytest.approx(20 * 0.3)


def test_several_gpus_need_a_choice(tmp_path: Path) -> None:
    lines = [f"{at(100 * i + j)}, {j}, {100 + j}.00 W" for i in range(3) for j in (0, 1)]
    path = write(tmp_path / "log.csv", *lines, header="timestamp, index, power.draw [W]")
    with pytest.raises(NotStartedError, match="holds 2 GPUs; give one of 0, 1"):
        read_nvidia_smi(path)
    assert set(read_nvidia_smi(path, gpu="1").power_w) == {101.0}
    with pytest.raises(NotStartedError, match="holds 0 power readings"):
        read_nvidia_smi(path, gpu="2")


def test_a_chosen_column(tmp_path: Path) -> None:
    lines = [f"{at(100 * i)}, 100 W, 120 W" for i in range(3)]
    path = write(
        tmp_path / "log.csv", *lines, header="timestamp, power.draw.average [W], power.draw.instant [W]"
    )
    assert set(read_nvidia_smi(path, power="power.draw.average").power_w) == {100.0}
    assert set(read_nvidia_smi(path).power_w) == {120.0}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{at(300)}, 29", "2 columns instead of 3: cut off; remove the line"),
        ("yesterday, 30.0 W, 5 %", "'yesterday' is no time like 2024/04/03"),
        (f"{at(300)}, 30.0 kW, 5 %", "'30.0 kW' is no power like"),
        (f"{at(300)}, nan W, 5 %", "'nan W' is no power like"),
        (f"{at(200)}, 30.0 W, 5 %", "several meters or GPUs"),
    ],
)
def test_damaged_logs_name_the_line(tmp_path: Path, line: str, says: str) -> None:
    lines = [f"{at(100 * i)}, 30.00 W, 5 %" for i in range(3)]
    with pytest.raises(NotStartedError, match=f"log.csv, line 5: .*{says}"):
        read_nvidia_smi(write(tmp_path / "log.csv", *lines, line))


@pytest.mark.parametrize("header", ["", "time;watts", "timestamp, utilization.gpu [%]"])
def test_another_format_says_how_to_log(tmp_path: Path, header: str) -> None:
    with pytest.raises(NotStartedError, match=r"--query-gpu=timestamp,power\.draw"):
        read_nvidia_smi(write(tmp_path / "log.csv", header=header))


def test_a_v100(outside_data: Path) -> None:
    log = read_nvidia_smi(outside_data / "wilkins" / "falcon-7b_v100_nvidia-smi.csv")
    assert len(log) == 14_906
    assert log.energy().value_j == pytest.approx(377_963, abs=0.5)
    assert log.energy().gap_s == pytest.approx(0.92, abs=0.01)
