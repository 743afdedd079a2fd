from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wattcount.config.schema import ArrivalConfig, ArrivalKind
from wattcount.errors import NotStartedError
from wattcount.load import arrivals
from wattcount.load.arrivals import (
    HEADER,
    ConstantArrivals,
    RenewalArrivals,
    Trace,
    TraceArrivals,
    read_trace,
)


def gaps_s(process: arrivals.Arrivals, duration_s: float) -> np.ndarray:
    return np.diff(process.offsets_ns(duration_s)) / 1e9


def test_poisson_gaps_are_exponential() -> None:
    gaps = gaps_s(RenewalArrivals(50.0, 1.0, seed=3), 400.0)
    assert len(gaps) > 19_000
    assert stats.kstest(gaps, "expon", args=(0, 1 / 50)).pvalue > 0.01
    # The test can fail: it tells 3 % of mean and a little burstiness apart at this size.
    assert stats.kstest(gaps, "expon", args=(0, 1.03 / 50)).pvalue < 0.01
    bursty = gaps_s(RenewalArrivals(50.0, 1.1, seed=3), 400.0)
    assert stats.kstest(bursty, "expon", args=(0, 1 / 50)).pvalue < 0.01


def test_poisson_counts_have_poisson_spread() -> None:
    """Index of dispersion of the counts per second is 1, within 4 standard errors."""
    offsets = RenewalArrivals(20.0, 1.0, seed=4).offsets_ns(2000.0)
    counts = np.bincount(offsets // 1_000_000_000, minlength=2000)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 2000))
    assert counts.mean() == pytest.approx(20.0, abs=4 * np.sqrt(20 / 2000))


def test_poisson_gaps_are_not_correlated() -> None:
    gaps = gaps_s(RenewalArrivals(50.0, 1.0, seed=5), 400.0)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / np.sqrt(len(gaps))


@pytest.mark.parametrize("cv", [0.3, 0.7, 2.0, 4.0])
def test_gamma_gaps_have_the_mean_and_cv_asked_for(cv: float) -> None:
    gaps = gaps_s(RenewalArrivals(100.0, cv, seed=6), 400.0)
    shape = 1 / cv**2
    expected = stats.gamma(shape, scale=0.01 / shape)
    # Gaps are whole nanoseconds, and a very bursty process has many below that.
    shortest = 1e-6
    below = expected.cdf(shortest)
    assert (gaps < shortest).mean() == pytest.approx(below, abs=4 * np.sqrt(below / len(gaps)) + 1e-9)
    levels = (expected.cdf(gaps[gaps >= shortest]) - below) / (1 - below)
    assert stats.kstest(levels, "uniform").pvalue > 0.01
    assert gaps.mean() == pytest.approx(0.01, rel=4 * cv / np.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_constant_arrivals() -> None:
    assert ConstantArrivals(4.0).offsets_ns(1.0).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]
    assert len(ConstantArrivals(3.0).offsets_ns(100.0)) == 300
    assert ConstantArrivals(0.017).offsets_ns(300.0).tolist() == pytest.approx(np.arange(6) / 0.017 * 1e9)


@pytest.mark.parametrize("cv", [1.0, 0.5, 3.0])
def test_another_rate_is_the_same_workload_stretched(cv: float) -> None:
    slow = RenewalArrivals(2.0, cv, seed=9).offsets_ns(100.0)
    fast = RenewalArrivals(64.0, cv, seed=9).offsets_ns(100.0)
    assert len(fast) > len(slow) > 50
    assert np.abs(fast[: len(slow)] * 32 - slow).max() <= 17


@pytest.mark.parametrize("cv", [1.0, 0.5, 3.0])
def test_a_longer_load_begins_with_the_shorter_one(cv: float) -> None:
    short = RenewalArrivals(10.0, cv, seed=9).offsets_ns(20.0)
    long = RenewalArrivals(10.0, cv, seed=9).offsets_ns(2000.0)
    assert long[: len(short)].tolist() == short.tolist()
    assert long[len(short)] >= 20_000_000_000


@given(
    rate=st.floats(0.05, 500),
    cv=st.floats(0.05, 8),
    seed=st.integers(0, 2**63 - 1),
    duration=st.floats(0.01, 20),
)
def test_arrivals_are_ordered_and_inside(rate: float, cv: float, seed: int, duration: float) -> None:
    for process in (RenewalArrivals(rate, cv, seed), ConstantArrivals(rate)):
        offsets = process.offsets_ns(duration)
        assert offsets.dtype == np.int64
        assert (np.diff(offsets) >= 0).all()
        if len(offsets):
            assert offsets[0] >= 0
            assert offsets[-1] < round(duration * 1e9)


def test_seeds_give_different_arrivals() -> None:
    assert (
        RenewalArrivals(5, 1.0, 1).offsets_ns(10).tolist()
        != RenewalArrivals(5, 1.0, 2).offsets_ns(10).tolist()
    )


@pytest.fixture
def trace() -> Trace:
    tokens = np.ones(5, np.int32)
    return Trace(Path("t.csv"), np.array([0, 1, 2, 6, 8], np.int64) * 1_000_000_000, tokens, tokens)


def test_trace_as_recorded(trace: Trace) -> None:
    assert TraceArrivals(trace, None).offsets_ns(7.0).tolist() == [
        0,
        1_000_000_000,
        2_000_000_000,
        6_000_000_000,
    ]


def test_trace_rescaled(trace: Trace) -> None:
    """0.5 requests/s recorded, 2 asked for: four times as fast."""
    assert TraceArrivals(trace, 2.0).offsets_ns(2.0).tolist() == [0, 250_000_000, 500_000_000, 1_500_000_000]


def test_trace_too_short(trace: Trace) -> None:
    with pytest.raises(
        NotStartedError, match=r"t\.csv lasts 8\.0 s at this rate, shorter than warm-up and window \(9 s\)"
    ):
        TraceArrivals(trace, None).offsets_ns(9.0)


def test_trace_without_extent_has_no_rate() -> None:
    one = np.ones(1, np.int32)
    trace = Trace(Path("t.csv"), np.zeros(1, np.int64), one, one)
    with pytest.raises(NotStartedError, match=r"t\.csv spans no time"):
        TraceArrivals(trace, 1.0)


@pytest.mark.parametrize("rate", [None, 3.0])
def test_azure_rescaled_keeps_its_burstiness(azure: Path, rate: float | None) -> None:
    recorded = read_trace(azure / "AzureLLMInferenceTrace_conv.csv")
    process = TraceArrivals(recorded, rate)
    duration_s = recorded.duration_s * process.stretch
    offsets = process.offsets_ns(duration_s)
    gaps = np.diff(offsets)
    assert len(offsets) / duration_s == pytest.approx(rate or 5.53, abs=0.005)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, rel=0.005)


@pytest.mark.parametrize(
    ("kind", "rate", "cv", "message"),
    [
        (ArrivalKind.poisson, None, 1.0, r"rate_rps is needed for poisson arrivals"),
        (ArrivalKind.trace, 1.0, 1.0, r"kind=trace needs scenario\.arrivals\.path"),
    ],
)
def test_bad_config(kind: ArrivalKind, rate: float | None, cv: float, message: str) -> None:
    with pytest.raises(NotStartedError, match=message):
        arrivals.create(ArrivalConfig(kind=kind, cv=cv), rate, 0)


def test_absurd_rate() -> None:
    for process in (RenewalArrivals(1e9, 1.0, 0), ConstantArrivals(1e9)):
        with pytest.raises(NotStartedError, match="lower the rate"):
            process.offsets_ns(60.0)


def test_create_picks_the_process(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}\n2023-11-16 18:17:03.0,1,1\n2023-11-16 18:17:05.0,1,1")
    poisson = arrivals.create(ArrivalConfig(kind=ArrivalKind.poisson, cv=7.0), 1.0, 0)
    assert isinstance(poisson, RenewalArrivals)
    assert poisson.cv == 1.0
    gamma = arrivals.create(ArrivalConfig(kind=ArrivalKind.gamma, cv=7.0), 1.0, 0)
    assert isinstance(gamma, RenewalArrivals)
    assert gamma.cv == 7.0
    assert isinstance(arrivals.create(ArrivalConfig(kind=ArrivalKind.constant), 1.0, 0), ConstantArrivals)
    assert isinstance(
        arrivals.create(ArrivalConfig(kind=ArrivalKind.trace, path=str(path)), None, 0), TraceArrivals
    )


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
    with pytest.raises(NotStartedError, match=r"neither UTF-8 nor UTF-16 text \(byte 4\)"):
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


def test_rate_of_a_single_request_is_0() -> None:
    one = np.array([5], dtype=np.int32)
    trace = Trace(Path("x"), np.zeros(1, np.int64), one, one)
    assert (trace.duration_s, trace.rate_rps) == (0.0, 0.0)


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
    gaps = np.diff(trace.offset_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(gap_cv, rel=0.005)
    assert trace.output_tokens.min() >= 0
