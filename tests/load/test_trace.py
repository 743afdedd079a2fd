from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.errors import NotStartedError
from wattcount.load.trace import HEADER, Trace, read_trace

ROW = "2023-11-16 18:17:03.9799600,4808,10"


def write(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text.encode())
    return path


def test_fractional_seconds_are_exact(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, f"{HEADER}\n{ROW}\n2023-11-16 18:17:04.0319601,3180,8"))
    assert trace.offset_ns.tolist() == [0, 52_000_100]
    assert trace.offset_ns.dtype == np.int64
    assert trace.input_tokens.tolist() == [4808, 3180]
    assert trace.output_tokens.tolist() == [10, 8]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_line_ends(tmp_path: Path, newline: str, end: str) -> None:
    text = newline.join([HEADER, ROW, ROW]) + end.replace("\n", newline)
    assert len(read_trace(write(tmp_path, text))) == 2


def test_byte_order_mark_and_other_stamps(tmp_path: Path) -> None:
    rows = [
        "2023-11-16T18:17:03,1,1",
        "2023-11-16 18:17:03.5Z,1,1",
        "2023-11-16 18:17:04.123456789+00:00,1,1",
    ]
    trace = read_trace(write(tmp_path, "\ufeff" + "\n".join([HEADER, *rows])))
    assert trace.offset_ns.tolist() == [0, 500_000_000, 1_123_456_789]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "expected the header"),
        ("a,b,c\n1,2,3", 1, "expected the header .* found 'a,b,c'"),
        (HEADER, 2, "no requests"),
        (f"{HEADER}\n{ROW}\n1,2", 3, "expected 3 columns, found 2"),
        (f"{HEADER}\n{ROW},7", 2, "expected 3 columns, found 4"),
        (f"{HEADER}\n{ROW}\nyesterday,1,2", 3, "'yesterday' is no time"),
        (f"{HEADER}\n2023-02-30 00:00:00.0,1,2", 2, "is no time"),
        (f"{HEADER}\n2023-11-16 18:17:03.1234567890,1,2", 2, "is no time"),
        (f"{HEADER}\n{ROW}\n2023-11-16 18:17:03.9799599,1,2", 3, "earlier than the line before"),
        (f"{HEADER}\n2023-11-16 18:17:03.0,1.5,2", 2, "ContextTokens '1.5' is not a whole number"),
        (f"{HEADER}\n2023-11-16 18:17:03.0,1,-2", 2, "GeneratedTokens '-2' is not a whole number"),
        (f"{HEADER}\n2023-11-16 18:17:03.0,,2", 2, "ContextTokens '' is not a whole number"),
        (f"{HEADER}\n{ROW}\n\n{ROW}", 3, "empty line"),
    ],
)
def test_broken_file_names_file_line_and_what(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(NotStartedError, match=rf"trace file {path}, line {line}: .*{what}"):
        read_trace(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"missing\.csv does not exist"):
        read_trace(tmp_path / "missing.csv")
    with pytest.raises(NotStartedError, match="cannot be read"):
        read_trace(tmp_path)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"TIME\xff\xfe")
    with pytest.raises(NotStartedError, match=r"not UTF-8 text \(byte 4\)"):
        read_trace(path)


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 99_999), st.integers(0, 99_999)), min_size=1)
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
) -> None:
    rows = sorted(rows)
    lines = [HEADER]
    for hundred_ns, tokens_in, tokens_out in rows:
        seconds, fraction = divmod(hundred_ns, 10**7)
        stamp = np.datetime64("2023-11-16T00:00:00") + np.timedelta64(seconds, "s")
        lines.append(f"{str(stamp).replace('T', ' ')}.{fraction:07d},{tokens_in},{tokens_out}")
    trace = read_trace(write(tmp_path_factory.mktemp("trace"), "\n".join(lines)))
    assert trace.offset_ns.tolist() == [(row[0] - rows[0][0]) * 100 for row in rows]
    assert trace.input_tokens.tolist() == [row[1] for row in rows]
    assert trace.output_tokens.tolist() == [row[2] for row in rows]


def test_rate_and_cv_of_a_single_request_are_0() -> None:
    one = np.array([5], dtype=np.int32)
    trace = Trace(Path("x"), np.zeros(1, np.int64), one, one)
    assert (trace.duration_s, trace.rate_rps, trace.gap_cv) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "requests", "rate_rps", "gap_cv"),
    [("code", 8_819, 2.57, 13.2), ("conv", 19_366, 5.53, 1.09)],
)
def test_azure_traces_as_they_are(
    azure: Path, name: str, requests: int, rate_rps: float, gap_cv: float
) -> None:
    trace = read_trace(azure / f"AzureLLMInferenceTrace_{name}.csv")
    assert len(trace) == requests
    assert trace.rate_rps == pytest.approx(rate_rps, abs=0.005)
    assert trace.gap_cv == pytest.approx(gap_cv, rel=0.005)
    assert trace.output_tokens.min() >= 0
