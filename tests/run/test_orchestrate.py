"""Whole runs with the tiny engine and an emulated GPU, and everything that can end one early."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from echo_server import Behaviour, EchoServer
from powercap_tree import zone
from waiting import commands
from witness import Program, Witness, kill, worker_pid

from wattcount.clock import now_ns
from wattcount.config.identity import point_id
from wattcount.config.loader import changed, from_json, to_json
from wattcount.config.schema import (
    EngineConfig,
    LengthConfig,
    LengthKind,
    ModelConfig,
    PowerBackend,
    RunConfig,
    Weights,
)
from wattcount.errors import NotStartedError
from wattcount.records import Record
from wattcount.records.schema import Phase, Validity
from wattcount.run import orchestrate, session
from wattcount.run.claims import TEMPORARY_PREFIX
from wattcount.run.display import InBackground, PlainDisplay
from wattcount.run.messages import encode
from wattcount.run.orchestrate import Outcome, run_point
from wattcount.run.process import TIMEOUT_SIGNAL
from wattcount.run.resolve import Resolved
from wattcount.run.session import Session
from wattcount.run.waiting import Signals
from wattcount.scenario.journal import Progress

pytestmark = pytest.mark.timeout(120)

SLOW_TOKENS = {"step_base_ms": 60.0, "slow_start_s": 0.5}
"""Eight tokens take half a second, so that there is a drain; and so does the start."""


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, emulated: Any) -> Iterator[None]:
    emulated()
    before = set(psutil.pids())
    yield
    new = commands(process for process in psutil.process_iter() if process.pid not in before)
    assert [command for command in new.values() if any(str(tmp_path) in part for part in command)] == []


def records(cfg: RunConfig) -> list[Path]:
    """Every folder below the records' folder, temporary ones too."""
    return sorted(Path(cfg.records_dir).glob("*/*"))


def checked(outcome: Outcome, cfg: RunConfig) -> Record:
    """The one record of a run, whole and in its place, with nothing temporary beside it."""
    assert outcome.record_path is not None
    assert records(cfg) == [outcome.record_path]
    assert outcome.record_path.name.startswith("r0-")
    record = Record.open(outcome.record_path)
    record.verify()
    assert record.metrics is not None
    assert record.metrics["evidence"] == "emulated"
    return record


# --- a run that goes well ------------------------------------------------------------------------


def test_a_run_and_its_record(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run(window_s=1.0, rehearsal_requests=2)
    began_utc_ns = time.time_ns()
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason, outcome.message) == (0, None, None)
    record = checked(outcome, cfg)
    info = record.info
    assert info.validity == Validity(True)
    assert info.complete
    assert [span.phase for span in info.phases] == list(Phase)
    assert all(
        a.end_ns is not None and a.end_ns <= b.start_ns
        for a, b in zip(info.phases, info.phases[1:], strict=False)
    )
    assert info.evidence == "emulated"
    assert info.gpus[0]["name"] == "NVIDIA H200"
    assert info.nvml["sha256"]
    assert info.engine["name"] == "tiny"
    assert info.host["memory_bytes"] > 0
    assert {"wattcount", "python", "numpy"} <= info.versions.keys()
    assert info.config["gpu"]["found_name"] == "NVIDIA H200"
    uuid = info.gpus[0]["uuid"]
    assert info.sensors[uuid]["energy_counter"]["state"] == "ok"
    assert info.sampler[uuid]["dropped_events"] == 0
    assert len(info.clock_pairs) >= 2
    assert began_utc_ns < info.clock_pairs[-1]["utc_ns"] < time.time_ns()
    assert set(record.requests["status"].to_pylist()) == {"completed"}
    assert record.metrics["metrics"]["energy/gpu_j"] > 50
    assert sorted(p.name for p in record.path.iterdir()) == [
        "engine.log", "host.parquet", "metrics.json", "power.parquet", "requests.parquet", "run.json", "steps.parquet", "tokens.parquet",
        "truth.csv",
    ]  # fmt: skip
    assert witness.record == record.path
    assert witness.ended_calls == 1
    assert list(dict.fromkeys(witness.phases)) == list(Phase)


def test_a_record_says_what_was_asked_for(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    asked = tiny_run()
    before = to_json(asked)
    outcome = run_point(asked, witness)
    assert outcome.record_path is not None
    assert to_json(asked) == before
    info = Record.open(outcome.record_path).info
    assert info.asked["gpu.devices"] == []
    assert info.asked["gpu.found_name"] is None
    for key, value in info.asked.items():
        resolved: Any = info.config
        was: Any = before
        for name in key.split("."):
            resolved, was = resolved[name], was[name]
        assert was == value != resolved
    assert info.point_id == point_id(from_json(info.config))


def test_lengths_of_a_trace_that_the_bounds_change_are_in_the_record(
    tiny_run: Callable[..., RunConfig], witness: Any, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.0000000,100000,500\n")
    cfg = tiny_run(batch=True)
    cfg = changed(
        cfg,
        {
            "scenario.lengths": LengthConfig(
                kind=LengthKind.trace, path=str(trace), input_tokens_max=16, output_tokens_max=8
            )
        },
    )
    record = checked(run_point(cfg, witness), cfg)
    count = cfg.scenario.num_requests
    assert record.info.length_changes["requests"] == count
    assert record.info.length_changes["input_cut"] == record.info.length_changes["output_cut"] == count
    assert record.metrics is not None
    assert "lengths_changed" in {item["code"] for item in record.metrics["validity"]["findings"]}


def test_cpu_and_dram_energy_of_a_run(
    tiny_run: Callable[..., RunConfig], witness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counters move by 200 J and 40 J in the window; what becomes of them goes through the run's own process."""
    package = zone(tmp_path / "powercap", "intel-rapl:0", "package-0")
    dram = zone(tmp_path / "powercap", "intel-rapl:0:0", "dram")
    monkeypatch.setenv("WATTCOUNT_POWERCAP", str(tmp_path / "powercap"))

    def move(_: int) -> None:
        for counter, energy_uj in ((package, 200_000_000), (dram, 40_000_000)):
            beside = counter.with_suffix(".new")
            beside.write_text(f"{int(counter.read_text()) + energy_uj}\n")
            beside.replace(counter)

    witness.when(Phase.WINDOW, move)
    cfg = tiny_run(window_s=2.0)
    record = checked(run_point(cfg, witness), cfg)
    assert record.metrics is not None
    metrics = record.metrics["metrics"]
    assert metrics["power/cpu_package_mean_w"] == pytest.approx(100.0)
    assert metrics["energy/cpu_package_j"] == pytest.approx(200.0)
    assert metrics["energy/dram_j"] == pytest.approx(40.0)
    found = record.info.host["rapl"]
    assert (found["state"], found["sampler"]["errors"]) == ("ok", 0)
    # Two domains: at the start and the end, at each bound of a phase, and once a second.
    assert found["sampler"]["reads"] == record.info.files["host_power.parquet"].rows >= 2 * (2 + 8 + 3)
    assert found["sampler"]["cpu_ns"] < found["sampler"]["wall_ns"]


def test_what_the_host_did_in_a_run(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    """Of the run's own process, which here is the engine's, too."""
    cfg = tiny_run()
    record = checked(run_point(cfg, witness), cfg)
    table = record.host.to_pylist()
    of_host = [row for row in table if row["pid"] is None]
    found = record.info.host["recorder"]
    assert (found["error"], found["samples"]) == (None, len(of_host))
    assert of_host  # at the start, then once a second: how many depends on how long the run took
    assert all(row["spin_ns"] > 0 for row in of_host)
    pid = next(row["pid"] for row in table if row["pid"] is not None)
    own = [row["cpu_ns"] for row in table if row["pid"] == pid]
    assert own[-1] >= own[0] > 0


def test_what_a_server_gets_of_the_host_that_the_run_did_not_start(
    tiny_run: Callable[..., RunConfig], witness: Any
) -> None:
    with EchoServer(Behaviour(between_s=0.005)) as server:  # in this process
        engine = EngineConfig(name="openai", base_url=server.url, client_processes=1)
        model = ModelConfig(name="auto", weights=Weights.random)
        cfg = changed(tiny_run(), {"engine": engine, "model": model})
        record = Record.open(run_point(cfg, witness).record_path)
    assert record.info.complete
    assert os.getpid() in record.host["pid"].to_pylist()


def test_what_wattcount_adds_is_accounted_for(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run()
    before = time.monotonic()
    outcome = run_point(cfg, witness)
    wall_s = time.monotonic() - before
    timing = checked(outcome, cfg).info.timing
    parts = ("phases_s", "engine_start_s", "launch_s", "setup_s", "between_s", "close_s")
    assert sum(timing[part] for part in parts) == pytest.approx(timing["wall_s"], abs=0.01)
    assert timing["overhead_s"] == pytest.approx(
        timing["wall_s"] - timing["phases_s"] - timing["engine_start_s"], abs=0.01
    )
    assert timing["wall_s"] <= wall_s


def test_the_runs_process_imports_neither_mlflow_nor_pandas(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # every import, on standard error: the engine's log
    cfg = tiny_run(batch=True)
    record = checked(run_point(cfg, witness), cfg)
    lines = (record.path / "engine.log").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {"wattcount.scenario.journal", "pyarrow.lib", "numpy"} <= imported
    # A package that was imported brought modules of its own; a name alone is an attempt that was refused.
    unwanted = ("mlflow.", "pandas.", "hydra.", "torch.", "rich.")
    assert [name for name in sorted(imported) if name.startswith(unwanted)] == []


def test_meanwhile_runs_once_during_bare_idle(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run()
    calls: list[tuple[str, int]] = []

    def work() -> None:
        calls.append((threading.current_thread().name, now_ns()))
        raise RuntimeError("of no consequence")

    outcome = run_point(cfg, witness, meanwhile=work)
    phases = {span.phase: span for span in checked(outcome, cfg).info.phases}
    ((thread, at_ns),) = calls
    assert thread != threading.main_thread().name
    assert phases[Phase.BARE_IDLE].start_ns <= at_ns


def test_temporary_files_of_the_run_go_with_it(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as short:  # a socket's path is at most 107 long
        monkeypatch.setattr(tempfile, "tempdir", short)
        # torch, once imported into this process, sets it; one that is set is respected.
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

        def leave_something(pid: int) -> None:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            values = dict(entry.split(b"=", 1) for entry in environment if b"=" in entry)
            folder = Path(values[b"TMPDIR"].decode())
            assert folder.parent == Path(short)
            assert values[b"TORCHINDUCTOR_CACHE_DIR"].startswith(short.encode() + b"/torchinductor_")
            (folder / "socket").write_text("")
            kill(pid)

        witness.when(Phase.WINDOW, leave_something)
        cfg = tiny_run()
        checked(run_point(cfg, witness), cfg)
        assert list(Path(short).iterdir()) == []


def test_repeats_lie_beside_each_other(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run(batch=True)
    first = run_point(cfg, witness)
    cfg = changed(cfg, {"repeat": 1})
    second = run_point(cfg, witness)
    assert first.record_path is not None
    assert second.record_path is not None
    assert first.record_path.parent == second.record_path.parent
    assert second.record_path.name.startswith("r1-")


def test_the_truth_of_an_emulated_run_follows_its_phases(
    tiny_run: Callable[..., RunConfig], witness: Any
) -> None:
    cfg = tiny_run()
    record = checked(run_point(cfg, witness), cfg)
    rows = [line.split(",") for line in (record.path / "truth.csv").read_text().splitlines()[1:]]
    truth = [(int(t), int(p) / 1e3) for t, p in rows]
    phases = {span.phase: span for span in record.info.phases}

    def at_the_middle(phase: Phase) -> float:
        middle_ns = (phases[phase].start_ns + (phases[phase].end_ns or 0)) // 2
        return [power_w for t_ns, power_w in truth if t_ns <= middle_ns][-1]

    window = phases[Phase.WINDOW]
    busiest = max(power_w for t_ns, power_w in truth if window.start_ns < t_ns < (window.end_ns or 0))
    assert at_the_middle(Phase.BARE_IDLE) < at_the_middle(Phase.LOADED_IDLE) < busiest
    assert at_the_middle(Phase.IDLE_AFTER) == at_the_middle(Phase.LOADED_IDLE)
    assert at_the_middle(Phase.BARE_IDLE_AFTER) == at_the_middle(Phase.BARE_IDLE)


# --- not started ---------------------------------------------------------------------------------


def test_what_preflight_finds_leaves_nothing_behind(
    tiny_run: Callable[..., RunConfig], witness: Any, tmp_path: Path
) -> None:
    cfg = tiny_run(engine={"no_such_thing": 1})
    with pytest.raises(NotStartedError, match="no_such_thing"):
        run_point(cfg, witness)
    cfg = tiny_run()
    (tmp_path / "file").write_text("")
    cfg = changed(cfg, {"records_dir": str(tmp_path / "file" / "records")})
    with pytest.raises(NotStartedError, match="records_dir"):
        run_point(cfg, witness)
    assert not (tmp_path / "records").exists() or records(tiny_run()) == []
    assert witness.ended_calls == 0


# --- what the engine does wrong ------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["engine_start_failed", "out_of_memory", "unsupported_model"])
def test_an_engine_that_does_not_start(tiny_run: Callable[..., RunConfig], witness: Any, reason: str) -> None:
    cfg = tiny_run(engine={"fail_at_start": reason})
    outcome = run_point(cfg, witness)
    record = checked(outcome, cfg)
    assert (outcome.exit_code, outcome.reason) == (1, reason)
    assert record.info.validity.reasons == [reason]
    assert outcome.message == record.info.validity.messages[0]
    assert [(span.phase, span.end_ns is None) for span in record.info.phases] == [
        (Phase.BARE_IDLE, False), (Phase.ENGINE_START, True),
    ]  # fmt: skip
    assert len(record.power.events) > 50


def test_an_engine_that_hangs_at_its_start(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run(engine={"hang_at_start": True})
    cfg = changed(cfg, {"engine.start_timeout_s": 0.5})
    outcome = run_point(cfg, witness)
    assert outcome.reason == "engine_start_failed"
    assert "start_timeout_s" in (outcome.message or "")
    checked(outcome, cfg)


def test_an_engine_that_dies_in_the_window(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run(engine={"die_after_s": 3.0}, window_s=30.0)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "engine_died")
    record = checked(outcome, cfg)
    assert record.info.phases[-1].phase is Phase.WINDOW
    assert record.info.phases[-1].end_ns is None
    assert record.metrics is not None
    assert not record.metrics["validity"]["valid"]
    assert record.metrics["metrics"]["tokens/output"] > 0


def test_an_engine_that_takes_the_process_with_it(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run(engine={"exit_after_s": 3.0}, window_s=30.0)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "worker_died")
    assert "exit code 86" in (outcome.message or "")
    record = checked(outcome, cfg)
    statuses = record.requests["status"].to_pylist()
    assert "completed" in statuses
    assert "not_sent" in statuses


# --- what happens to the run's process -----------------------------------------------------------


@pytest.mark.parametrize("phase", list(Phase))
def test_a_killed_process_leaves_what_it_measured(
    tiny_run: Callable[..., RunConfig], witness: Any, phase: Phase
) -> None:
    # Long enough that the process is still in the phase when its parent hears of it.
    length = {
        Phase.BARE_IDLE: {"bare_idle_s": 30.0},
        Phase.LOADED_IDLE: {"loaded_idle_s": 30.0},
        Phase.REHEARSAL: {"rehearsal_requests": 256},
        Phase.WARMUP: {"warmup_s": 30.0, "warmup_limit_s": 30.0},
        Phase.WINDOW: {"window_s": 30.0},
        Phase.IDLE_AFTER: {"loaded_idle_s": 1.0},
    }
    # Where the parent hears of a short phase too late, the last one is long enough.
    longer = {"rehearsal_requests": 1, "bare_idle_after_s": 60.0} | length.get(phase, {})
    cfg = tiny_run(engine=SLOW_TOKENS, **longer)
    witness.when(phase, kill)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "worker_died")
    assert "SIGKILL" in (outcome.message or "")
    record = checked(outcome, cfg)
    assert record.info.validity.reasons == ["worker_died"]
    assert len(record.power.events) > 0
    reached = [span.phase for span in record.info.phases]
    # The draft of the bound itself may not have reached the disk yet.
    assert reached == list(Phase)[: len(reached)]
    assert len(reached) >= list(Phase).index(phase)


def test_the_log_is_quoted_where_the_process_says_nothing(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "print('the library is broken', flush=True); import os; os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    cfg = tiny_run()
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "worker_died")
    assert "exit code 9; engine.log ends: the library is broken" in (outcome.message or "")
    record = checked(outcome, cfg)
    assert record.info.phases == []
    assert record.info.gpus[0]["name"] == "NVIDIA H200"


def test_a_process_that_cannot_be_started(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    cfg = tiny_run()
    outcome = run_point(cfg, witness)
    assert outcome.reason == "worker_not_started"
    assert checked(outcome, cfg).info.phases == []


def test_a_process_that_stops_answering_is_killed(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrate, "CLOSE_LIMIT_S", 0.5)
    cfg = tiny_run(window_s=60.0)

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(orchestrate, "SILENCE_LIMIT_S", 2.0)

    witness.when(Phase.WINDOW, stop)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "timeout")
    assert "was silent for 2 s" in (outcome.message or "")
    assert witness.ticks >= 2
    checked(outcome, cfg)


def test_a_phase_that_takes_too_long_is_ended_in_order(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_run(window_s=60.0)
    witness.when(Phase.WARMUP, lambda _: monkeypatch.setattr(orchestrate, "PHASE_GRACE_S", -59.0))
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "timeout")
    assert outcome.message == "the phase window took longer than it may"
    checked(outcome, cfg)


def test_a_gpu_that_is_lost_ends_the_run(
    tiny_run: Callable[..., RunConfig], witness: Any, emulated: Callable[..., Any], tmp_path: Path
) -> None:
    # On a slow machine the GPU may be lost before the run samples it: then the next one is lost later.
    for tries in range(20):
        emulated(epoch_ns=now_ns(), faults=[{"kind": "gpu_lost", "from_s": 6.0 * 2**tries}])
        cfg = changed(
            tiny_run(window_s=100.0 * 2**tries), {"records_dir": str(tmp_path / f"records-{tries}")}
        )
        outcome = run_point(cfg, witness)
        if any(report.phase is Phase.WINDOW for report in witness.reports):
            break
    assert (outcome.exit_code, outcome.reason) == (1, "gpu_lost")
    record = checked(outcome, cfg)
    assert record.info.phases[-1].end_ns is None
    assert (record.power.events["nvml_return"] == 15).any()


def test_another_nvml_library_than_the_one_prepared_for(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = orchestrate.resolved

    def turned(*arguments: Any) -> Resolved:
        found = real(*arguments)
        return dataclasses.replace(found, config=changed(found.config, {"evidence": "measured"}))

    monkeypatch.setattr(orchestrate, "resolved", turned)
    cfg = tiny_run()
    outcome = run_point(cfg, witness)
    assert outcome.reason == "setup_failed"
    assert "WATTCOUNT_NVML_PATH" in (outcome.message or "")


# --- the disk ------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_ends_the_run(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cfg = tiny_run(window_s=30.0, rate_rps=100.0)
    # For the process to come; it holds no file that large otherwise.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        outcome = run_point(cfg, witness)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (outcome.exit_code, outcome.reason) == (1, "record_unwritable")
    assert "the disk is full" in (outcome.message or "")
    record = checked(outcome, cfg)
    assert record.info.validity.reasons == ["record_unwritable"]
    assert len(record.power.events) > 100


def test_a_folder_that_disappears_leaves_no_half_record(
    tiny_run: Callable[..., RunConfig], witness: Any, tmp_path: Path
) -> None:
    cfg = tiny_run(window_s=2.0)

    def take_away(_: int) -> None:
        (tmp_path / "records").rename(tmp_path / "elsewhere")

    witness.when(Phase.WINDOW, take_away)
    outcome = run_point(cfg, witness)
    assert outcome.exit_code == 1
    assert outcome.record_path is None
    assert outcome.reason == "record_unwritable"
    assert not list(tmp_path.glob("*/*/r0-*"))


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("phase", ["engine start", "window"])
def test_an_interruption_closes_the_record(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, number: signal.Signals, code: int, phase: str
) -> None:
    cfg = tiny_run(engine={"slow_start_s": 1.0}, window_s=30.0)
    program = Program(cfg, tmp_path)
    program.read_until(phase)
    program.process.send_signal(number)
    assert program.end() == code
    (path,) = records(cfg)
    record = Record.open(path)
    assert program.lines[-1].split() == ["outcome", "interrupted", str(path)]
    assert record.info.validity == Validity(False, ["interrupted"], [f"interrupted by {number.name}"])
    assert record.info.phases[-1].end_ns is None
    record.verify()


def test_interrupted_twice_it_does_not_wait(tiny_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    cfg = tiny_run(window_s=30.0)
    program = Program(cfg, tmp_path, "import wattcount.run.orchestrate as o; o.CLOSE_LIMIT_S = 3600.0")
    program.read_until("window")
    os.kill(worker_pid(program.process.pid), signal.SIGSTOP)  # it will not listen
    program.process.send_signal(signal.SIGINT)
    program.read_until("once more to kill")
    program.process.send_signal(signal.SIGINT)
    assert program.end() == 130
    (path,) = records(cfg)
    assert Record.open(path).info.validity.reasons == ["interrupted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_record_is_closed_does_not_tear_it(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """In each step from the end of the run's process to the metrics."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for name in ("_recover", "_outcome"):
        monkeypatch.setattr(orchestrate._Watch, name, interrupted(getattr(orchestrate._Watch, name), number))
    cfg = tiny_run(window_s=30.0)
    witness.when(Phase.WINDOW, kill)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "worker_died")
    checked(outcome, cfg)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def interrupted(work: Callable[..., Any], number: signal.Signals) -> Callable[..., Any]:
    """`work`, at the beginning of which this process gets a signal."""

    def body(*args: Any) -> Any:
        signal.raise_signal(number)
        return work(*args)

    return body


def test_a_signal_before_the_process_is_up_closes_the_record(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SessionProcess", interrupted(session.SessionProcess, signal.SIGTERM))
    cfg = tiny_run(window_s=30.0)
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (143, "interrupted")
    assert checked(outcome, cfg).info.validity.reasons == ["interrupted"]


def test_a_third_signal_leaves_the_record_to_the_next_run(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover_from_a_disk_that_hangs(*_: Any) -> Any:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("it is not held for ever")

    with monkeypatch.context() as patched:
        patched.setattr(orchestrate._Watch, "_recover", recover_from_a_disk_that_hangs)
        cfg = tiny_run(window_s=30.0)
        witness.when(Phase.WINDOW, kill)
        with pytest.raises(KeyboardInterrupt):
            run_point(cfg, witness)
    cfg = tiny_run(batch=True)
    assert run_point(cfg, Witness()).exit_code == 0
    left = [Record.open(folder).info.validity.reasons for folder in records(cfg)]
    assert sorted(left) == [[], ["worker_died"]]


def test_a_killed_parent_takes_its_run_with_it(tiny_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    cfg = tiny_run(window_s=30.0)
    program = Program(cfg, tmp_path)
    program.read_until("window")
    worker = psutil.Process(worker_pid(program.process.pid))
    program.process.kill()
    program.end()
    worker.wait()
    (path,) = Path(cfg.records_dir).glob("*/r0-*")
    record = Record.open(path)
    record.verify()
    assert record.info.validity.reasons == ["interrupted"]


def test_emulation_is_chosen_by_the_backend(tiny_run: Callable[..., RunConfig], witness: Any) -> None:
    cfg = tiny_run(batch=True)
    cfg = changed(cfg, {"power.backend": PowerBackend.emulated})
    before = dict(os.environ)
    checked(run_point(cfg, witness), cfg)
    assert dict(os.environ) == before


# --- a parent, or its terminal, that stands still --------------------------------------------------


def test_a_terminal_that_stands_still_does_not_disturb_the_run(
    tiny_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The display writes into a full pipe, which is read only once the record is there."""
    monkeypatch.setattr(orchestrate, "SILENCE_LIMIT_S", 10.0)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b" " * 1000)
    os.set_blocking(write_end, True)
    cfg = tiny_run()
    told: list[bytes] = []

    def let_go_once_it_is_measured() -> None:
        while not list(Path(cfg.records_dir).glob("*/r0-*/metrics.json")):
            time.sleep(0.05)
        while chunk := os.read(read_end, 1 << 16):
            told.append(chunk)

    reader = threading.Thread(target=let_go_once_it_is_measured, daemon=True)
    reader.start()
    with os.fdopen(write_end, "w") as stream:
        outcome = run_point(cfg, InBackground(PlainDisplay(stream, 0.0)))
    reader.join(60.0)
    os.close(read_end)
    assert (outcome.exit_code, outcome.reason) == (0, None)
    checked(outcome, cfg)
    assert b"window" in b"".join(told)


class Scripted:
    """A run's process as its parent hears it: what is in the pipe, and what the clock shows then [s]."""

    def __init__(self, clock: list[int], *heard: tuple[float, bytes]) -> None:
        self._clock, self._heard = clock, heard
        self.signals: list[signal.Signals] = []

    def listen(self, _: float) -> Iterator[bytes]:
        for at_s, chunk in self._heard:
            self._clock[0] = max(self._clock[0], round(at_s * 1e9))
            if chunk:
                yield chunk
            yield b""

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)


def listening(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, display: Any, *heard: tuple[float, bytes]
) -> list[signal.Signals]:
    """The signals that the run's process gets."""
    clock = [0]
    monkeypatch.setattr("witness.worker_pid", lambda: 1)
    monkeypatch.setattr(orchestrate, "now_ns", lambda: clock[0])
    display.clock = clock
    process: Any = Scripted(clock, *heard)
    writer: Any = SimpleNamespace(folder=tmp_path)
    info: Any = SimpleNamespace(config={"sweep": {"time_limit_s": None}})
    orchestrate._Watch(writer, info, display, Session(), Signals(), 0, None)._listen(process)
    return process.signals


def report(phase: Phase = Phase.WINDOW, planned_s: float = 100.0) -> bytes:
    return encode(Progress(phase, 1.0, planned_s, None, 0, 0, 0, None, None, None))


def test_a_parent_that_was_stopped_does_not_judge_its_own_sleep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, witness: Any
) -> None:
    """Stopped for an hour in a window of 100 s: the run's later reports found no room in the pipe."""
    heard = [(1.0, report()), (2.0, b""), (3600.0, report()), (3601.0, b""), (3700.0, report())]
    assert listening(monkeypatch, tmp_path, witness, *heard) == []
    # What it hears nothing of while it is awake, it does judge.
    awake = [(1.0, report()), *((float(s), report()) for s in range(2, 250))]
    assert listening(monkeypatch, tmp_path, witness, *awake) == [TIMEOUT_SIGNAL]
    silent = [(1.0, report(planned_s=1e6)), *((float(s), b"") for s in range(2, 250))]
    assert listening(monkeypatch, tmp_path, witness, *silent) == [TIMEOUT_SIGNAL]


def test_a_display_that_takes_minutes_is_not_the_silence_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, witness: Any
) -> None:
    real = witness.progress

    def slow(progress: Progress) -> None:
        real(progress)
        witness.clock[0] += 200 * 10**9

    monkeypatch.setattr(witness, "progress", slow)
    heard = [(1.0, report(planned_s=5.0)), (1.0, report() + report()), (1.0, b"")]
    assert listening(monkeypatch, tmp_path, witness, *heard) == []


def test_a_full_folder_of_temporary_files_is_told_in_the_record(
    tiny_run: Callable[..., RunConfig], witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tempfile.mkdtemp

    def full(suffix: str | None = None, prefix: str | None = None, *where: Any, **named: Any) -> str:
        if prefix == TEMPORARY_PREFIX:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/wattcount-x")
        return real(suffix, prefix, *where, **named)

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    cfg = tiny_run()
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.reason) == (1, "worker_not_started")
    assert "No space left on device" in (outcome.message or "")
    checked(outcome, cfg)


def test_a_driver_that_hangs_costs_its_last_readings_and_not_the_record(
    tiny_run: Callable[..., RunConfig], witness: Any, emulated: Callable[..., Any]
) -> None:
    hangs = {"kind": "slow", "function": "nvmlDeviceGetTotalEnergyConsumption", "ms": 600_000, "from_call": 6}
    emulated(faults=[hangs])
    cfg = tiny_run()
    cfg = changed(cfg, {"power.probe": False})
    outcome = run_point(cfg, witness)
    assert outcome.exit_code == 0
    info = checked(outcome, cfg).info
    assert info.complete
    (uuid,) = info.sampler
    assert info.sampler[uuid]["stuck"]
    assert [note for note in info.notes if "did not return from a call within 5 s" in note]
    metrics = Record.open(outcome.record_path or Path()).metrics
    assert metrics is not None
    assert metrics["metrics"]["energy/gpu_j"] is None  # nothing was read in the window: no joules are made up
    assert not metrics["validity"]["valid"], metrics["validity"]
