from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount import importers
from wattcount.errors import NotStartedError
from wattcount.importers import PowerLog, read_nvidia_smi
from wattcount.importers.nvidia_smi import _lines_at_once

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


# --- other forms of the same columns --------------------------------------------------------------


def raw(path: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    path.write_bytes(("\n".join(lines) + end).encode(encoding))
    return path


def smi_at(ms: int) -> str:
    return f"2026/10/25 01:00:{ms // 1000:02d}.{ms % 1000:03d}"


@pytest.mark.parametrize(
    ("header", "power"),
    [
        ("timestamp, power.draw [W]", "100.50 W"),
        ("timestamp, power.draw [W]", "100,50 W"),
        ("timestamp; power.draw [W]", "100,50 W"),
        ("timestamp, power.draw [mW]", "100500"),
        ("timestamp, power.draw", "100500 mW"),
        ("timestamp, power.draw [W]", "100.50"),
        (None, "100.50 W"),
        (None, "100.50"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_units_and_separators(tmp_path: Path, header: str | None, power: str, encoding: str) -> None:
    between = "; " if header and ";" in header else ", "
    lines = [f"{smi_at(100 * i)}{between}{power}" for i in range(11)]
    path = raw(tmp_path / "log.csv", *([header] if header else []), *lines, encoding=encoding)
    assert read_nvidia_smi(path).energy().value_j == pytest.approx(100.5)


@pytest.mark.parametrize(
    "stamp",
    [
        lambda i: f"2026-10-25T01:00:{i:02d}.000",
        lambda i: f"2026-10-25 01:00:{i:02d}.000000",
        lambda i: f"2026-10-25T01:00:{i:02d}+02:00",
        lambda i: f"2026-10-25T01:00:{i:02d}Z",
        lambda i: f"{1_761_354_000 + i}",
        lambda i: f"{1_761_354_000 + i}.000",
        lambda i: f"{1_761_354_000_000 + 1000 * i}",
        lambda i: f"{(1_761_354_000 + i) * 10**9}",
    ],
)
def test_stamps_of_other_forms(tmp_path: Path, stamp: Callable[[int], str]) -> None:
    lines = [f"{stamp(i)}, 100.00 W" for i in range(5)]
    log = read_nvidia_smi(raw(tmp_path / "log.csv", "timestamp, power.draw [W]", *lines))
    assert log.period_s == 1.0
    assert log.energy().value_j == 400.0


@pytest.mark.parametrize("nothing", ["[N/A]", "N/A", "ERR!", "[Not Supported]", "[Unknown Error]"])
def test_what_stands_for_no_reading(tmp_path: Path, nothing: str) -> None:
    lines = [f"{smi_at(100 * i)}, {nothing if i == 5 else '100.00 W'}" for i in range(11)]
    log = read_nvidia_smi(raw(tmp_path / "log.csv", "timestamp, power.draw [W]", *lines))
    assert (log.missing, len(log)) == (1, 10)


def test_a_header_that_comes_again(tmp_path: Path) -> None:
    lines = [f"{smi_at(100 * i)}, 100.00 W" for i in range(6)]
    header = "timestamp, power.draw [W]"
    log = read_nvidia_smi(raw(tmp_path / "log.csv", header, *lines[:3], header, *lines[3:]))
    assert (len(log), log.missing) == (6, 0)


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_several_gpus_without_a_column_that_tells_which_are_refused(tmp_path: Path, gpus: int) -> None:
    lines = [f"{smi_at(100 * i + 3 * gpu)}, {100 + 200 * gpu}.00 W" for i in range(9) for gpu in range(gpus)]
    path = raw(tmp_path / "log.csv", "timestamp, power.draw [W]", *lines)
    with pytest.raises(
        NotStartedError, match=rf"in groups of {gpus}: they are of {gpus} GPUs, and no column"
    ):
        read_nvidia_smi(path)


@given(seed=st.integers(0, 2**32), late=st.floats(0, 0.3))
@settings(max_examples=50)
def test_one_gpu_whose_loop_is_late_now_and_then_is_one_gpu(seed: int, late: float) -> None:
    random = np.random.default_rng(seed)
    t_ms = np.arange(200) * 100 + random.normal(0, 3, 200) + 90 * (random.random(200) < late)
    t_ms = np.maximum.accumulate(np.round(t_ms)) + np.arange(200) / 1000  # increasing
    log = PowerLog(Path("log"), (t_ms * 1e6).astype(np.int64), np.full(200, 100.0))
    assert _lines_at_once(log) == 1


@pytest.mark.parametrize("cut", ["100.0", "100.", "100", "1", "100.00"])
def test_a_last_value_that_was_cut_short_is_refused(tmp_path: Path, cut: str) -> None:
    lines = [f"{smi_at(100 * i)}, 100.00 W" for i in range(5)]
    path = raw(tmp_path / "log.csv", "timestamp, power.draw [W]", *lines, f"{smi_at(500)}, {cut}", end="")
    with pytest.raises(
        NotStartedError, match=r"line 7: cut off: .* has not the form of the values before it"
    ):
        read_nvidia_smi(path)


def test_a_log_without_a_header_and_two_columns_in_watts_is_refused(tmp_path: Path) -> None:
    path = raw(tmp_path / "log.csv", *(f"{smi_at(100 * i)}, 100.00 W, 700.00 W" for i in range(5)))
    with pytest.raises(NotStartedError, match="no header, and 2 of its 3 columns are in watts"):
        read_nvidia_smi(path)


def test_milliwatts_that_pass_for_watts_are_refused(tmp_path: Path) -> None:
    path = raw(
        tmp_path / "log.csv", "timestamp, power.draw", *(f"{smi_at(100 * i)}, 100000" for i in range(5))
    )
    with pytest.raises(NotStartedError, match="'100000' is no power like"):
        read_nvidia_smi(path)


DMON = [
    "#Date       Time        gpu    pwr  gtemp  mtemp",
    "#YYYYMMDD   HH:MM:SS    Idx      W      C      C",
]


def test_dmon(tmp_path: Path) -> None:
    lines = [
        f" 20261025   01:00:{i:02d}      {gpu}    {100 + gpu}     35     -"
        for i in range(5)
        for gpu in (0, 1)
    ]
    path = raw(tmp_path / "dmon.txt", *DMON, *lines[:4], *DMON, *lines[4:])
    with pytest.raises(NotStartedError, match="holds 2 GPUs; give one of 0, 1"):
        read_nvidia_smi(path)
    assert read_nvidia_smi(path, gpu="1").energy().value_j == pytest.approx(404.0)


def test_dmon_without_readings_or_stamps(tmp_path: Path) -> None:
    lines = [f" 20261025   01:00:{i:02d}      0    {'-' if i == 2 else 100}     35     -" for i in range(5)]
    log = read_nvidia_smi(raw(tmp_path / "dmon.txt", *DMON, *lines))
    assert (len(log), log.missing) == (4, 1)
    path = raw(tmp_path / "plain.txt", "# gpu    pwr  gtemp", "# Idx      W      C", "    0    100     35")
    with pytest.raises(NotStartedError, match="dmon -s p -o DT"):
        read_nvidia_smi(path)


def test_a_gpu_is_asked_for_of_a_log_that_tells_none(tmp_path: Path) -> None:
    path = raw(
        tmp_path / "log.csv", "timestamp, power.draw [W]", *(f"{smi_at(100 * i)}, 1.00 W" for i in range(5))
    )
    with pytest.raises(NotStartedError, match="no column that tells GPUs apart"):
        read_nvidia_smi(path, gpu="1")


def test_columns_that_another_program_names(tmp_path: Path) -> None:
    """`power_mw` says its unit; `power` alone does not."""
    lines = [
        f"{1_784_445_422_000_000_000 + second * 10**9},{gpu},{100_000 * (gpu + 1)}"
        for second in range(5)
        for gpu in (0, 1)
    ]
    path = write(tmp_path / "log.csv", *lines, header="epoch_ns,gpu,power_mw")
    assert importers.recognises(path)
    first, second = importers.read(path)
    assert (first.value("energy/gpu_j"), second.value("energy/gpu_j")) == (
        pytest.approx(400),
        pytest.approx(800),
    )
    path = write(tmp_path / "log.csv", *lines, header="epoch_ns,gpu,power")
    assert not importers.recognises(path)
    with pytest.raises(NotStartedError, match=r"line 1: expected the columns"):
        read_nvidia_smi(path)


def test_the_name_of_the_gpu_is_kept_where_the_log_has_it(tmp_path: Path) -> None:
    lines = [
        f"{at(100 * i + j)}, {j}, {name}, 100.00 W"
        for i in range(3)
        for j, name in enumerate(("NVIDIA L4", "Mystery"))
    ]
    first, second = importers.read(
        write(tmp_path / "log.csv", *lines, header="timestamp, index, name, power.draw [W]")
    )
    assert (first.gpu, first.gpus, second.gpu, second.gpus) == ("l4", ("NVIDIA L4",), None, ("Mystery",))


def test_raw_nvml_of_others(outside_data: Path, tmp_path: Path) -> None:
    """Two RTX 5090 at 20 Hz: the files are packed, which no importer unpacks by itself."""
    path = tmp_path / "raw.csv"
    path.write_bytes(
        gzip.decompress((outside_data / "outside/fytap/case_a_raw_nvml_50ms.csv.gz").read_bytes())
    )
    first, second = importers.read(path)
    assert first.boards == ("0",)
    for run in (first, second):
        assert 30 < (run.value("power/gpu_mean_w") or 0) < 600
