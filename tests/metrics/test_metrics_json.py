"""Metrics of records whose energy, tokens and latencies are known exactly."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_record import (
    BOUNDS_S,
    SyntheticRun,
    as_version_1,
    at,
    findings_of,
    metrics_of,
    observation,
    rewrite_metrics,
    steady_requests,
    step,
    values_of,
)

from wattcount.cli.main import main
from wattcount.config.schema import SloConfig
from wattcount.errors import WattcountError
from wattcount.metrics import (
    FINDINGS,
    METRICS,
    METRICS_VERSION,
    NULL_REASONS,
    compute,
    load_metrics,
    spec,
    to_bytes,
    write,
)
from wattcount.metrics.energy import gpu_energy_key
from wattcount.metrics.metrics_json import PARTS, Status
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase, PhaseSpan, Validity
from wattcount.report.summary import print_summary
from wattcount.result import Result, glance, judge
from wattcount.run.claims import Wanted
from wattcount.sweep.planner import read_index
from wattcount.terminal import PlainConsole
from wattcount.tracking import content

PROJECT = Path(__file__).parents[2]


# -- what is known exactly -------------------------------------------------------------------------


def test_constant_power_gives_exact_energies(tmp_path):
    # 4 requests/s for 60 s, 11 tokens each, 300 W.
    found = values_of(SyntheticRun(power_w=300.0, slo=SloConfig(ttft_ms=100)), tmp_path)
    exact = {
        "energy/gpu_j": 18000.0,
        "energy/gpu_j_per_output_token": 18000.0 / (240 * 11),
        "energy/gpu_j_per_request": 75.0,
        "energy/gpu_j_per_good_request": 75.0,
        "energy/bare_idle_j": 18000.0,
        "energy/context_idle_j": 0.0,
        "energy/dynamic_j": 0.0,
        "energy_by_source/energy_counter_j": 18000.0,
        "energy_by_gpu/gpu0_j": 18000.0,
        "power/gpu_mean_w": 300.0,
        "power/idle_bare_w": 300.0,
        "power/idle_loaded_w": 300.0,
        "power/idle_loaded_after_w": 300.0,
        "throughput/output_tokens_per_s": 44.0,
        "throughput/input_tokens_per_s": 2048.0,
        "throughput/requests_per_s": 4.0,
        "throughput/goodput_rps": 4.0,
        "load/offered_rps": 4.0,
        "load/achieved_rps": 4.0,
        "latency/ttft_p99_ms": 50.0,
        "latency/tpot_p50_ms": 10.0,
        "latency/itl_p95_ms": 10.0,
        "latency/e2e_p99_ms": 150.0,
        "window/duration_s": 60.0,
    }
    for key, value in exact.items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-6), key


def test_every_key_is_there_and_every_null_has_a_known_reason(tmp_path):
    content = metrics_of(SyntheticRun(), tmp_path)
    assert set(METRICS) <= set(content["metrics"])
    nulls = {key for key, value in content["metrics"].items() if value is None}
    assert nulls == set(content["null_reasons"])
    assert set(content["null_reasons"].values()) <= set(NULL_REASONS)


def test_idle_powers_come_from_their_own_phases(tmp_path):
    def power_w(t: float) -> float:
        return 80.0 if t < 10 else 120.0 if t < 30 else 400.0 if t < 110 else 140.0

    found = values_of(SyntheticRun(power_w=power_w), tmp_path)
    # Half a second of the next phase's power can enter at a bound: the counter is read twice a second.
    assert found["power/idle_bare_w"] == pytest.approx(80, rel=0.03)
    assert found["power/idle_loaded_w"] == pytest.approx(120, rel=0.12)
    assert found["power/gpu_mean_w"] == pytest.approx(400, rel=1e-9)
    parts = ("bare_idle_j", "context_idle_j", "dynamic_j")
    assert sum(found[f"energy/{part}"] for part in parts) == pytest.approx(found["energy/gpu_j"], rel=1e-9)


# -- what counts in a window -----------------------------------------------------------------------


@settings(max_examples=20)
@given(cut_s=st.floats(41, 99))
def test_splitting_the_window_splits_tokens_completions_and_energy(tmp_path_factory, cut_s):
    requests = steady_requests(4.0, ttft_ms=700, itl_ms=130, tokens=12)
    parts = []
    for start, end in ((40.0, 100.0), (40.0, cut_s), (cut_s, 100.0)):
        run = SyntheticRun(requests=requests, phases=[PhaseSpan(Phase.WINDOW, at(start), at(end))])
        parts.append(values_of(run, tmp_path_factory.mktemp("split")))
    whole, left, right = parts
    for key in ("tokens/output", "tokens/input", "requests/sent", "requests/completed_in_window"):
        assert left[key] + right[key] == whole[key], key
    assert left["energy/gpu_j"] + right["energy/gpu_j"] == pytest.approx(whole["energy/gpu_j"], rel=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(tmp_path_factory, seed):
    run = SyntheticRun(
        requests=steady_requests(tokens=7, chunk=2),
        observations=[observation("temperature_gpu", t, 40 + t % 7) for t in range(0, 120, 5)],
        steps=[step(t, running=t % 5) for t in range(30, 110)],
    )
    folder = tmp_path_factory.mktemp("order")
    plain = to_bytes(metrics_of(run, folder / "a"))
    assert to_bytes(metrics_of(run, folder / "b", shuffle=seed)) == plain


# -- records that broke off ------------------------------------------------------------------------


def broken_run(**kwargs) -> SyntheticRun:
    phases = [PhaseSpan(p, at(a), at(b)) for p, (a, b) in BOUNDS_S.items() if b <= 40]
    phases.append(PhaseSpan(Phase.WINDOW, at(40), None))
    rows = [r for r in steady_requests() if r["last_token_ns"] <= at(70)]
    return SyntheticRun(
        phases=phases, requests=rows, validity=Validity(False, ["engine_died"], ["the engine died"]), **kwargs
    )


def test_a_run_that_broke_off_is_computed_as_far_as_it_goes(tmp_path):
    content = metrics_of(broken_run(last_read_s=70.5), tmp_path)
    found = content["metrics"]
    assert content["window"]["complete"] is False
    assert content["validity"]["valid"] is False
    assert content["validity"]["reasons"] == ["engine_died"]
    assert found["window/duration_s"] == pytest.approx(30.5, abs=0.2)
    assert found["power/gpu_mean_w"] == pytest.approx(300, rel=1e-6)
    assert found["power/idle_bare_w"] == pytest.approx(300, rel=1e-9)
    assert content["null_reasons"]["power/idle_loaded_after_w"] == "phase_missing"


def test_a_run_that_never_reached_its_window(tmp_path):
    phases = [PhaseSpan(Phase.BARE_IDLE, at(0), at(10)), PhaseSpan(Phase.ENGINE_START, at(10), None)]
    run = SyntheticRun(
        phases=phases,
        requests=[],
        last_read_s=12.0,
        validity=Validity(False, ["out_of_memory"], ["no memory"]),
    )
    content = metrics_of(run, tmp_path)
    assert content["window"] is None
    assert content["energy"] == {}
    assert content["metrics"]["power/idle_bare_w"] == pytest.approx(300, rel=1e-9)
    assert content["null_reasons"]["energy/gpu_j"] == "no_window"
    assert set(METRICS) <= set(content["metrics"])


def test_a_record_without_any_observation(tmp_path):
    run = SyntheticRun(requests=[])
    run.power_rows = list  # type: ignore[method-assign]
    content = metrics_of(run, tmp_path)
    assert content["metrics"]["energy/gpu_j"] is None
    assert content["null_reasons"]["energy/gpu_j_per_output_token"] == "no_power_data"
    assert content["metrics"]["requests/sent"] == 0


def test_a_run_without_a_gpu(tmp_path):
    run = SyntheticRun(gpus=0)
    content = metrics_of(run, tmp_path)
    assert content["null_reasons"]["energy/gpu_j"] == "no_power_data"
    assert content["metrics"]["latency/ttft_p50_ms"] == 50.0


# -- the file --------------------------------------------------------------------------------------


def test_write_is_idempotent_and_leaves_nothing_behind(tmp_path):
    SyntheticRun().write(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} - before == {"metrics.json"}
    content = json.loads(first)
    assert content["metrics_version"] == METRICS_VERSION
    assert content["evidence"] == "measured"


def test_evidence_is_carried(tmp_path):
    assert metrics_of(SyntheticRun(evidence=Evidence.EMULATED), tmp_path)["evidence"] == "emulated"


def test_numbers_are_finite(tmp_path):
    for value in values_of(SyntheticRun(), tmp_path).values():
        assert value is None or math.isfinite(value)


def test_needs_neither_native_code_nor_engines_nor_pandas(tmp_path):
    """The same bytes in a fresh interpreter in which those modules cannot be imported."""
    SyntheticRun().write(tmp_path)
    here = to_bytes(compute(Record.open(tmp_path)))
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlflow", "pandas", "vllm", "torch", "hydra", "pynvml") or name.endswith("._native"):
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
from wattcount.metrics import compute, to_bytes
from wattcount.records import Record
sys.stdout.buffer.write(to_bytes(compute(Record.open({str(tmp_path)!r}))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=PROJECT, timeout=60
    )
    assert done.stderr.decode() == ""
    assert done.stdout == here


def test_a_clean_run_has_none(tmp_path):
    processes = [observation("compute_processes", 1, 0), observation("compute_processes", 15, 1)]
    assert findings_of(SyntheticRun(observations=processes), tmp_path) == {}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = SyntheticRun().write(tmp_path / "r")
    write(folder)
    return folder


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_a_file_that_says_what_it_was_made_of_is_believed(path: Path) -> None:
    fresh = load_metrics(Record.open(path))
    assert fresh == compute(Record.open(path))
    rewrite_metrics(path, evidence="as stored")
    assert load_metrics(Record.open(path)) == fresh | {"evidence": "as stored"}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(metrics_version=METRICS_VERSION - 1),
        lambda m: m["metrics"].update({"energy/gpu_j": 1.0}),
        lambda m: m["validity"].update(valid=not m["validity"]["valid"]),
        lambda m: m.pop("checksum"),
        lambda m: m.pop("inputs"),
        lambda m: m["inputs"].update({"power.parquet": "0" * 64}),
    ],
)
def test_a_file_that_was_changed_is_not(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fresh = load_metrics(Record.open(path))
    edit(path / "metrics.json", change)
    before = (path / "metrics.json").read_bytes()
    assert load_metrics(Record.open(path)) == fresh
    assert (path / "metrics.json").read_bytes() == before  # and nothing was written


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a":' * 100_000, "[" * 200_000])
def test_a_file_that_is_damaged_is_not(path: Path, content: str) -> None:
    fresh = load_metrics(Record.open(path))
    (path / "metrics.json").write_text(content)
    assert load_metrics(Record.open(path)) == fresh


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"energy/gpu_j": "much"}},
        {"metrics": {"no/such_key": 1.0}},
        {"validity": {"valid": True, "reasons": [], "findings": ["x"]}},
        {"null_reasons": None},
    ],
)
def test_a_file_of_another_shape_is_not_whatever_it_says_it_was_made_of(
    path: Path, changes: dict[str, Any]
) -> None:
    fresh = load_metrics(Record.open(path))
    rewrite_metrics(path, **changes)
    assert load_metrics(Record.open(path)) == fresh


def test_it_is_not_believed_once_raw_files_differ(path: Path) -> None:
    """Of a record without hashes: another power trace is another record, and its figures are its own."""
    before = load_metrics(Record.open(path))["metrics"]["energy/gpu_j"]
    table = pq.read_table(path / "power.parquet", partitioning=None)
    halved = pa.array(table["value"].to_numpy() // 2)
    pq.write_table(
        table.set_column(table.column_names.index("value"), "value", halved), path / "power.parquet"
    )
    after = load_metrics(Record.open(path))["metrics"]["energy/gpu_j"]
    assert after == pytest.approx(before / 2, rel=1e-3)


def test_what_nothing_can_be_computed_from_is_damaged_in_one_line(path: Path) -> None:
    table = pq.read_table(as_version_1(path) / "requests.parquet", partitioning=None)
    short = pa.array([[1]] * len(table), table["token_count"].type)
    index = table.column_names.index("token_count")
    pq.write_table(table.set_column(index, "token_count", short), path / "requests.parquet")
    with pytest.raises(WattcountError, match="is damaged: nothing can be computed from it") as caught:
        load_metrics(Record.open(path))
    assert "\n" not in str(caught.value)
    assert "differ in length" in str(caught.value)


FINDING = {"code": "backlog", "figure": 1, "limit": 0, "unit": "1", "message": "late", "invalidates": True}
MILD = FINDING | {"code": "warm", "invalidates": False}


def judged_by_all(records: Path, path: Path) -> tuple[bool, bool, bool]:
    """Whether the record counts as measured for the planner, for a run, and for `compare`."""
    info = SyntheticRun().info()
    index = read_index(records, keep=False)
    planned = [e.status is Status.valid for entries in index._by_point.values() for e in entries]
    run = Wanted(records, info.point_id, info.seed, info.repeat).finished() == path
    return planned == [True], run, main(["compare", str(path), str(path.parents[2] / "good")]) == 0


def called_valid(found: Result) -> tuple[bool, bool, bool]:
    """Whether the tags in MLflow, the page there, and `show` call the record valid."""
    assert found.record is not None
    out = PlainConsole(file=io.StringIO(), width=200)
    with out.capture() as said:
        print_summary(found, out)
    return (
        content.tags(Record.open(found.record), found)["valid"] == "true",
        "INVALID" not in content.note(found),
        "INVALID" not in said.get(),
    )


def record(tmp_path: Path, run: SyntheticRun, **validity: Any) -> Path:
    good = SyntheticRun().write(tmp_path / "good")
    rewrite_metrics(good, validity={"valid": True, "reasons": [], "findings": []})
    point = SyntheticRun().info().point_id[:12]
    path = run.write(tmp_path / "records" / point / "r0-20260901-120000-000-aaaaaa")
    rewrite_metrics(path, validity={"valid": True, "reasons": [], "findings": []} | validity)
    return path


def test_a_valid_one(tmp_path: Path) -> None:
    path = record(tmp_path, SyntheticRun(), findings=[MILD])
    found = judge(path).verdict
    assert (found.status, found.reasons, found.reason, found.message) == (Status.valid, (), None, None)
    assert judged_by_all(tmp_path / "records", path) == (True, True, True)
    assert called_valid(judge(path)) == (True, True, True)


@pytest.mark.parametrize(
    ("run", "validity", "status", "reasons"),
    [
        (SyntheticRun(), {"valid": False, "findings": [MILD, FINDING]}, Status.invalid, ("backlog",)),
        (SyntheticRun(), {"valid": False}, Status.invalid, ("no reason was recorded",)),
        (
            SyntheticRun(validity=Validity(False, ["timeout"], ["too slow"]), complete=False),
            {"valid": False, "reasons": ["timeout"]},
            Status.failed,
            ("timeout",),
        ),
        (SyntheticRun(complete=False), {}, Status.failed, ("incomplete",)),
    ],
)
def test_one_that_is_not(
    tmp_path: Path, run: SyntheticRun, validity: dict[str, Any], status: Status, reasons: tuple[str, ...]
) -> None:
    path = record(tmp_path, run, **validity)
    found = judge(path).verdict
    assert (found.status, found.reasons) == (status, reasons)
    assert judged_by_all(tmp_path / "records", path) == (False, False, False)
    assert called_valid(judge(path)) == (False, False, False)


def test_metrics_of_an_older_version_are_believed_by_nobody(tmp_path: Path) -> None:
    """A check that came with a new version finds nothing in what an older one wrote."""
    path = record(tmp_path, SyntheticRun(), valid=False, findings=[FINDING])
    stored = json.loads((path / "metrics.json").read_text())
    stored |= {"metrics_version": stored["metrics_version"] - 1}
    (path / "metrics.json").write_text(json.dumps(stored))
    assert glance(path) is None
    assert len(set(judged_by_all(tmp_path / "records", path))) == 1


@pytest.mark.parametrize("damage", ["cut", "missing", "link", "fifo"])
def test_a_damaged_one_stands_for_nothing(tmp_path: Path, damage: str) -> None:

    path = record(tmp_path, SyntheticRun())
    file = path / "power.parquet"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:100])
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "fifo":
        os.mkfifo(file)
    found = judge(path)
    assert (found.status, found.verdict.reason, found.run_id) == (Status.damaged, "damaged", None)
    assert "power.parquet" in str(found.verdict.message)
    assert judged_by_all(tmp_path / "records", path) == (False, False, False)


PROMISED = [
    "energy/gpu_j", "energy/gpu_j_per_output_token", "energy/gpu_j_per_request",
    "energy/gpu_j_per_good_request", "energy/batch_gpu_j", "power/gpu_mean_w", "power/idle_bare_w",
    "power/idle_loaded_w", "throughput/output_tokens_per_s", "throughput/requests_per_s",
    "throughput/goodput_rps", *(f"latency/{n}_p{p}_ms" for n in ("ttft", "tpot", "e2e") for p in (50, 95, 99)),
    "load/offered_rps", "load/achieved_rps", "load/send_lag_p99_ms",
]  # fmt: skip


def test_the_keys_others_rely_on():
    assert set(PROMISED) <= set(METRICS)


def test_every_metric_reason_and_finding_is_declared_once_and_explained():
    for part in PARTS:
        assert part.METRICS or part.CHECKS.specs
    assert len(METRICS) == sum(len(part.METRICS) for part in PARTS)
    assert len(FINDINGS) == sum(len(part.CHECKS.specs) for part in PARTS) > 30
    assert all(len(entry.description) > 3 for entry in METRICS.values())
    assert all(entry.figure and entry.limit and entry.to_do for entry in FINDINGS.values())
    assert all(NULL_REASONS.values())


def test_units_are_in_the_names():
    suffixes = {
        "J": "_j",
        "W": "_w",
        "ms": "_ms",
        "s": "_s",
        "Hz": "_hz",
        "C": "_c",
        "MHz": "_mhz",
        "%": "_percent",
    }
    for key, entry in METRICS.items():
        if entry.unit in suffixes and "_per_" not in key:
            assert key.partition("_u95")[0].endswith(suffixes[entry.unit]), key


def test_spec_knows_per_gpu_keys_and_refuses_others():
    assert spec(gpu_energy_key(7)).unit == "J"
    with pytest.raises(KeyError):
        spec("energy/none")
