from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wattcount.config.schema import LengthConfig, LengthKind
from wattcount.errors import NotStartedError
from wattcount.load import lengths
from wattcount.load.arrivals import Trace, read_trace
from wattcount.load.lengths import Bounds, LognormalLengths, PromptLengths, TraceLengths, UniformLengths
from wattcount.load.prompts import PromptFile

WIDE = Bounds(1, 10_000_000)


def make_trace(rows: list[tuple[int, int]], path: str = "t.csv") -> Trace:
    tokens = np.array(rows, np.int32)
    return Trace(Path(path), np.arange(len(rows), dtype=np.int64), tokens[:, 0], tokens[:, 1])


def test_fixed() -> None:
    drawn = lengths.create(LengthConfig(input_tokens=512, output_tokens=128)).draw(3, 0)
    assert drawn.input_tokens.tolist() == [512] * 3
    assert drawn.output_tokens.tolist() == [128] * 3
    assert drawn.input_tokens.dtype == drawn.output_tokens.dtype == np.int32


def test_uniform_covers_its_bounds_evenly() -> None:
    drawn = UniformLengths(Bounds(10, 19), Bounds(1, 4)).draw(20_000, 5)
    for tokens, low, high in ((drawn.input_tokens, 10, 19), (drawn.output_tokens, 1, 4)):
        counts = np.bincount(tokens)[low:]
        assert len(counts) == high - low + 1
        assert tokens.min() == low
        assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(("mean", "cv"), [(512.0, 0.3), (512.0, 1.0), (2000.0, 1.5)])
def test_lognormal_has_the_mean_and_cv_asked_for(mean: float, cv: float) -> None:
    drawn = LognormalLengths(mean, cv, WIDE, 100.0, 0.5, WIDE).draw(40_000, 5)
    tokens = drawn.input_tokens.astype(float)
    sigma = np.sqrt(np.log(1 + cv**2))
    logs = np.log(tokens)
    assert tokens.mean() == pytest.approx(mean, rel=4 * cv / 200)
    assert logs.std() == pytest.approx(sigma, rel=0.03)
    assert logs.mean() == pytest.approx(np.log(mean) - sigma**2 / 2, abs=4 * sigma / 200 + 0.002)
    assert stats.skew(logs) == pytest.approx(0, abs=0.1)


def test_lognormal_without_spread_is_fixed() -> None:
    drawn = LognormalLengths(64, 0.0, WIDE, 16, 0.0, WIDE).draw(10, 0)
    assert set(drawn.input_tokens.tolist()) == {64}
    assert set(drawn.output_tokens.tolist()) == {16}


def test_bounds_hold() -> None:
    drawn = LognormalLengths(512, 2.0, Bounds(100, 900), 128, 2.0, Bounds(5, 6)).draw(5000, 0)
    assert (drawn.input_tokens.min(), drawn.input_tokens.max()) == (100, 900)
    assert (drawn.output_tokens.min(), drawn.output_tokens.max()) == (5, 6)


def test_output_lengths_do_not_shift_input_lengths() -> None:
    one = LognormalLengths(512, 1.0, WIDE, 128, 1.0, WIDE).draw(1000, 3)
    other = LognormalLengths(512, 1.0, WIDE, 64, 2.0, Bounds(1, 100)).draw(1000, 3)
    assert one.input_tokens.tolist() == other.input_tokens.tolist()
    assert one.output_tokens.tolist() != other.output_tokens.tolist()
    assert abs(np.corrcoef(np.log(one.input_tokens), np.log(one.output_tokens))[0, 1]) < 4 / np.sqrt(1000)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**63 - 1), short=st.integers(0, 40), more=st.integers(0, 60))
def test_more_requests_begin_with_the_same_ones(seed: int, short: int, more: int) -> None:
    prompts = PromptFile(Path("p"), tuple((i,) * (i + 1) for i in range(7)), (None,) * 7, tuple(range(7)))
    trace = make_trace([(i + 1, 2 * i + 1) for i in range(200)])
    for kind in (
        UniformLengths(Bounds(1, 100), Bounds(1, 100)),
        LognormalLengths(100, 1.0, WIDE, 100, 1.0, WIDE),
        TraceLengths(trace, WIDE, WIDE, in_order=False),
        TraceLengths(trace, WIDE, WIDE, in_order=True),
        PromptLengths(prompts, WIDE, 9, WIDE),
    ):
        few, many = kind.draw(short, seed), kind.draw(short + more, seed)
        assert len(many.input_tokens) == len(many.output_tokens) == short + more
        assert many.input_tokens[:short].tolist() == few.input_tokens.tolist()
        assert many.output_tokens[:short].tolist() == few.output_tokens.tolist()
        assert many.input_tokens.min(initial=1) >= 1


def test_trace_keeps_prompt_and_completion_together() -> None:
    trace = make_trace([(i + 1, 1000 + i) for i in range(500)])
    drawn = TraceLengths(trace, WIDE, WIDE, in_order=False).draw(5000, 1)
    assert (drawn.output_tokens - drawn.input_tokens == 999).all()
    assert len(set(drawn.input_tokens.tolist())) > 490


def test_trace_of_the_arrivals_is_taken_in_order(tmp_path: Path) -> None:
    trace = make_trace([(5, 0), (7, 3), (9000, 2)], str(tmp_path / "a.csv"))
    for path in (None, trace.path):
        config = LengthConfig(kind=LengthKind.trace, path=path and str(path), input_tokens_max=100)
        drawn = lengths.create(config, trace=trace).draw(3, 0)
        assert drawn.input_tokens.tolist() == [5, 7, 100]
        assert drawn.output_tokens.tolist() == [1, 3, 2]


def test_trace_in_order_needs_enough_rows() -> None:
    with pytest.raises(NotStartedError, match=r"t\.csv has 2 requests, the scenario needs 3"):
        TraceLengths(make_trace([(1, 1), (2, 2)]), WIDE, WIDE, in_order=True).draw(3, 0)


def test_azure_lengths_are_drawn_as_they_are_spread(azure: Path) -> None:
    path = azure / "AzureLLMInferenceTrace_code.csv"
    trace = read_trace(path)
    config = LengthConfig(kind=LengthKind.trace, path=str(path), input_tokens_max=100_000)
    drawn = lengths.create(config).draw(8000, 2)
    assert stats.ks_2samp(drawn.input_tokens, trace.input_tokens).pvalue > 0.01
    assert stats.ks_2samp(drawn.output_tokens, np.maximum(trace.output_tokens, 1)).pvalue > 0.01


def write_prompts(folder: Path, rows: list[dict[str, object]]) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_prompts_come_round_after_all_were_used(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt_token_ids": [i] * (i + 1), "output_tokens": i + 1} for i in range(5)
    ]
    config = LengthConfig(kind=LengthKind.prompts, path=write_prompts(tmp_path, rows))
    drawn = lengths.create(config).draw(12, 3)
    assert drawn.prompt_token_ids is not None
    used = [ids[0] for ids in drawn.prompt_token_ids]
    assert sorted(used[:5]) == sorted(used[5:10]) == [0, 1, 2, 3, 4]
    assert drawn.input_tokens.tolist() == [i + 1 for i in used]
    assert drawn.output_tokens.tolist() == [i + 1 for i in used]
    other = lengths.create(config).draw(12, 4)
    assert other.prompt_token_ids != drawn.prompt_token_ids


def test_prompts_are_cut_at_the_bound_and_take_the_default_output(tmp_path: Path) -> None:
    path = write_prompts(tmp_path, [{"prompt_token_ids": list(range(50))}])
    config = LengthConfig(kind=LengthKind.prompts, path=path, input_tokens_max=8, output_tokens=77)
    drawn = lengths.create(config).draw(1, 0)
    assert drawn.prompt_token_ids == (tuple(range(8)),)
    assert drawn.input_tokens.tolist() == [8]
    assert drawn.output_tokens.tolist() == [77]


def test_prompt_below_the_lower_bound_names_its_line(tmp_path: Path) -> None:
    path = write_prompts(tmp_path, [{"prompt_token_ids": [1] * 9}, {"prompt_token_ids": [1]}])
    with pytest.raises(
        NotStartedError, match=r"prompts\.jsonl, line 2: the prompt has 1 tokens, fewer than .*=4"
    ):
        lengths.create(LengthConfig(kind=LengthKind.prompts, path=path, input_tokens_min=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_tokens": 0}, r"lengths\.input_tokens: must be at least 1, not 0"),
        ({"output_tokens": -3}, r"lengths\.output_tokens: must be at least 1"),
        ({"kind": LengthKind.uniform, "input_tokens_min": 0}, r"input_tokens_min: must be at least 1"),
        (
            {"kind": LengthKind.uniform, "output_tokens_min": 9, "output_tokens_max": 8},
            r"output_tokens_max=8 is below scenario\.lengths\.output_tokens_min=9",
        ),
        ({"kind": LengthKind.lognormal, "input_cv": -1.0}, r"input_cv: must be at least 0"),
        ({"kind": LengthKind.lognormal, "output_cv": float("nan")}, r"output_cv: must be a finite number"),
        ({"kind": LengthKind.lognormal, "output_tokens": 0}, r"output_tokens: must be at least 1"),
        ({"kind": LengthKind.trace}, r"kind=trace needs scenario\.lengths\.path"),
        ({"kind": LengthKind.prompts}, r"kind=prompts needs scenario\.lengths\.path"),
        (
            {"kind": LengthKind.trace, "path": "/nonexistent.csv"},
            r"trace file /nonexistent\.csv does not exist",
        ),
    ],
)
def test_bad_config(changes: dict[str, object], message: str) -> None:
    with pytest.raises(NotStartedError, match=message):
        lengths.create(LengthConfig(**changes))  # type: ignore[arg-type]


def test_what_the_bounds_change_of_a_trace_is_counted() -> None:
    trace = make_trace([(100_000, 5_000), (0, 0), (512, 128), (4096, 1024)])
    drawn = TraceLengths(trace, Bounds(1, 4096), Bounds(1, 1024), in_order=True).draw(4, 0)
    changes = drawn.changes()
    assert changes == lengths.LengthChanges(
        requests=4,
        input_cut=1,
        input_raised=1,
        output_cut=1,
        output_raised=1,
        input_tokens_given=104_608,
        output_tokens_given=6_152,
        input_tokens=8_705,
        output_tokens=2_177,
    )


def test_what_the_bounds_change_of_prompts_is_counted() -> None:
    prompts = PromptFile(Path("p"), ((1,) * 10, (2,) * 3), (50, None), (1, 2))
    changes = PromptLengths(prompts, Bounds(1, 4), 8, Bounds(1, 20)).draw(2, 0).changes()
    assert changes is not None
    assert (changes.input_cut, changes.output_cut, changes.input_tokens_given, changes.input_tokens) == (
        1, 1, 13, 7,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [LengthKind.fixed, LengthKind.uniform, LengthKind.lognormal])
def test_lengths_that_come_from_no_file_lose_nothing(kind: LengthKind) -> None:
    config = LengthConfig(kind=kind, input_tokens=512, input_tokens_max=600)
    assert lengths.create(config).draw(100, 0).changes() is None
