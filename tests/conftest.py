"""Puts `tests/` on the path, so that tests of any package can build synthetic records; shared fixtures."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from wattcount.config.loader import changed
from wattcount.config.schema import (
    BatchConfig,
    Device,
    EngineConfig,
    GpuConfig,
    LengthConfig,
    ModelConfig,
    RunConfig,
    ServerConfig,
    TrackingConfig,
    Weights,
)

if TYPE_CHECKING:
    from wattcount.emulation.machine import EmulatedMachine

sys.path.insert(0, str(Path(__file__).parent))
from no_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

# How fast an example runs depends on the machine, and says nothing about the code.
hypothesis.settings.register_profile(
    "any_speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_speed")

SCENARIO_S = 0.3
"""Length of the warm-up of the short runs below, and half of their window's."""
IDLE_S = 0.1
"""Length of each of their idle phases, of which a run has four."""


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heard() -> Iterator[None]:
    """Processes that tests start inherit ignored signals; a shell that starts the tests in the background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_rapl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every machine: CPU counters are those a test makes."""
    monkeypatch.setenv("WATTCOUNT_POWERCAP", "/nowhere/powercap")


@pytest.fixture(autouse=True)
def _locks_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Emulated GPUs have the same UUIDs in every test, and tests run side by side."""
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "gpu-locks"))


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes the config of a run of about a second: tiny engine, emulated H200. `batch=True` for a batch.

    Keyword arguments set attributes of the scenario; `engine` is `engine.args`.
    """

    def make(
        *, batch: bool = False, engine: dict[str, object] | None = None, **scenario: object
    ) -> RunConfig:
        lengths = LengthConfig(input_tokens=16, output_tokens=8)
        cfg = RunConfig(
            model=ModelConfig(name="tiny", weights=Weights.random, hf_config={"model_type": "llama"}),
            gpu=GpuConfig(name="auto"),
            engine=EngineConfig(name="tiny", device=Device.cpu, args=copy.deepcopy(engine or {})),
            tracking=TrackingConfig(enabled=False),
            records_dir=str(tmp_path / "records"),
        )
        short: ServerConfig | BatchConfig
        if batch:
            short = BatchConfig(name="batch", lengths=lengths, num_requests=8, warmup_requests=2)
        else:
            short = ServerConfig(
                name="server",
                lengths=lengths,
                rate_rps=40.0,
                warmup_s=SCENARIO_S,
                warmup_limit_s=SCENARIO_S,
                window_s=2 * SCENARIO_S,
            )
        idle = dict.fromkeys(("bare_idle_s", "loaded_idle_s", "bare_idle_after_s"), IDLE_S)
        short = changed(short, {**idle, "drain_limit_s": 5.0, **scenario})
        return changed(cfg, {"scenario": short})

    return make


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[Callable[..., object]]:
    """Opens an emulated machine, for this process and its children; keyword arguments as `EmulatedMachine`."""
    from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

    opened: list[EmulatedMachine] = []

    def open_machine(**options: object) -> EmulatedMachine:
        machine = EmulatedMachine([EmulatedGpu("h200")], tmp_path / f"machine-{len(opened)}", **options)  # type: ignore[arg-type]
        opened.append(machine.open())
        return machine

    yield open_machine
    for machine in reversed(opened):
        machine.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts servers of fixed pages, each a process of its own (`pages_server`)."""
    from pages_server import serving

    with serving(tmp_path) as start:
        yield start


CURVE = "t_s,power_w\n-10,100\n0.5,400\n1.5,200\n"
Machines = Callable[..., "EmulatedMachine"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machines]:
    """Makes an emulated machine and points the environment at it; by default one H200 that steps 100, 400, 200 W.

    Seconds of `curve` and `faults` count from `epoch_ns`, the moment at which the first process reads it unless told.
    """
    from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

    opened: list[EmulatedMachine] = []

    def make(
        *profiles: str, curve: str = CURVE, faults: Any = (), options: Any = None, epoch_ns: int | None = None
    ) -> EmulatedMachine:
        # The library reads a machine again only from another path.
        folder = tmp_path / f"machine-{len(opened)}" if opened else tmp_path
        folder.mkdir(exist_ok=True)
        (folder / "curve.csv").write_text(curve)
        gpus = [EmulatedGpu(p, truth="curve.csv", options=options or {}) for p in profiles or ("h200",)]
        made = EmulatedMachine(gpus, folder, faults=faults, epoch_ns=epoch_ns).open()
        opened.append(made)
        return made

    yield make
    for made in reversed(opened):
        made.close()


@pytest.fixture
def outside_data() -> Path:
    """What others measured, which is not part of the project."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("WATTCOUNT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"the logs of others are not at {folder}")
    return folder


@pytest.fixture
def h200_data() -> Path:
    """Recordings of a real H200, which are not part of the project."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("WATTCOUNT_SHARED_DATA", default)) / "h200"
    if not folder.is_dir():
        pytest.skip(f"the H200 recordings are not at {folder}")
    return folder
