"""Emulated machines: GPUs whose true power is known, seen through NVML's own interface.

The library (`wattcount/emulator/libnvidia-ml.so.1`) turns a true power curve into what the sensors of a GPU model would
show. This is never a measurement: the library exports a symbol that marks every record made with it as `emulated`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from wattcount import ownership
from wattcount.clock import now_ns
from wattcount.config.catalogue import catalogued_model, gpu_catalogue
from wattcount.config.fit import DTYPE_BYTES
from wattcount.config.schema import GpuConfig, ModelConfig
from wattcount.energy.curve import S_NS
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.energy.trace import PowerTrace
from wattcount.engines.base import EngineStep
from wattcount.errors import NotStartedError
from wattcount.gpu import _native
from wattcount.prediction.learned import coefficients
from wattcount.prediction.physics import loaded_idle_w
from wattcount.prediction.physics import step as computed
from wattcount.prediction.setting import CAPTURED_TOKENS
from wattcount.prediction.work import Facts, gpu_facts, model_facts, step_work

CONFIG_ENV = "WATTCOUNT_NVML_EMULATOR"
"""Environment variable with the configuration of the emulated machine; the emulated library reads it."""
LIBRARY_ENV = "WATTCOUNT_NVML_PATH"
"""Environment variable with the path of the NVML library that is loaded instead of the driver's."""
DEFAULT_PROFILE = "h200"
"""Sensor profile of an emulated GPU that was not named: the one that was measured."""
VIRTUAL_REALTIME_OFFSET_NS = 1_700_000_000 * S_NS
"""CLOCK_REALTIME less CLOCK_MONOTONIC in virtual traces [ns]."""
LIVE_CAPACITY = 65536
"""Points in the ring of a live truth: minutes of engine steps, and no reader is so late."""
STALL_NS = 2_000_000_000
"""Time without a step after which an engine with requests draws idle power [ns]: far above any step of the tiny engine."""
STAND_IN = "llama3_1_8b"
"""Model whose power an emulated GPU shows where that of the run's own would show nothing."""
LEAST_WEIGHTS_BYTES = 5e8
"""Weights of a model below which STAND_IN is taken [bytes]: an H200 reads them in a tenth of a millisecond, and idles for most of a step."""
CONTEXT_TOKENS = 576.0
"""What a sequence that decodes looks back on [tokens], which steps do not tell: the mean of a server's usual requests, 512 in and 128 out."""
SHEET = ("tdp_w", "idle_w", "memory_bandwidth_gb_s", "fp16_dense_tflops", "memory_gib", "architecture")
"""Figures of a GPU's data sheet that its power follows from."""


def library_path() -> Path:
    """The emulated NVML library of this installation."""
    path = Path(str(files("wattcount") / "emulator" / "libnvidia-ml.so.1"))
    if not path.is_file():
        # An editable install keeps built files beside the native module, in site-packages.
        path = Path(_native.__file__).parent.parent / "emulator" / "libnvidia-ml.so.1"
    if not path.is_file():
        raise NotStartedError(f"the emulated NVML library is missing ({path}); reinstall wattcount")
    return path


def profiles() -> list[dict[str, Any]]:
    """The sensor profiles: name, evidence (measured, published, guessed), source, and their figures."""
    return _native.emulator_profiles()


@dataclass(frozen=True)
class EmulatedGpu:
    """One GPU of an emulated machine. Optional keys are those of csrc/emulator/machine.h."""

    profile: str = DEFAULT_PROFILE
    truth: str = ""
    """`curve.csv`, `live:FILE`; empty: a live truth beside the configuration."""
    name: str | None = None
    uuid: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class EmulatedMachine:
    """Writes the configuration of an emulated machine and points the environment at it.

    ::

        with EmulatedMachine([EmulatedGpu("a100", truth="curve.csv")], folder):
            ...   # NVML in this process, and in those it starts, is the emulated one

    `faults`, `epoch_ns`: see csrc/emulator/machine.h. `missing_symbols`: NVML functions that this machine's
    library does not export, as an older driver's would not. A live truth is made for each GPU that names no curve;
    the machine holds its writing end in `live`, until another process takes it over with `LiveTruth.attach`.
    """

    def __init__(
        self,
        gpus: Sequence[EmulatedGpu],
        folder: Path,
        *,
        faults: Sequence[Mapping[str, Any]] = (),
        epoch_ns: int | None = None,
        missing_symbols: Sequence[str] = (),
        remove_folder: bool = False,
    ) -> None:
        self.folder = folder.absolute()
        self.config_path = self.folder / "machine.json"
        self.library_path = str(library_path())
        self.live: dict[str, LiveTruth] = {}
        self._remove_folder = remove_folder
        self._saved: dict[str, str | None] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        # So that the folder can be told for left behind when whoever was to remove it was killed.
        self.claim = ownership.claim(self.folder / ownership.CLAIM_NAME) if remove_folder else None
        if missing_symbols:
            self.library_path = str(_without_symbols(missing_symbols, self.folder / "libnvidia-ml.so.1"))
        described = []
        for index, gpu in enumerate(gpus):
            uuid = gpu.uuid or emulated_uuid(gpu.profile, index)
            truth = gpu.truth
            if not truth:
                truth = f"live:truth-{index}.live"
                try:
                    self.live[uuid] = LiveTruth(self.folder / f"truth-{index}.live")
                except RuntimeError as error:  # no room on the disk
                    raise NotStartedError(f"power=emulated: no machine can be made: {error}") from error
                # A first point in the file: every process that reads it counts energy from the same moment.
                idle_w = next(known["idle_w"] for known in profiles() if known["name"] == gpu.profile)
                self.live[uuid].append(now_ns() - 20_000_000_000, round(idle_w * 1e3))
            entry: dict[str, Any] = {"uuid": uuid, "profile": gpu.profile, "truth": truth, **gpu.options}
            if gpu.name is not None:
                entry["name"] = gpu.name
            described.append(entry)
        config: dict[str, Any] = {"gpus": described, "faults": [dict(fault) for fault in faults]}
        if epoch_ns is not None:
            config["epoch_ns"] = epoch_ns
        # A new machine: what was set on one before it in this folder is gone.
        self.config_path.with_name(f"{self.config_path.name}.settings").unlink(missing_ok=True)
        self.config_path.write_text(json.dumps(config, indent=1))

    @classmethod
    def for_config(cls, gpu: GpuConfig, folder: Path) -> EmulatedMachine:
        """The machine that `power=emulated` with this `gpu` stands for; `auto` is an H200."""
        profile = gpu.emulator_profile or (DEFAULT_PROFILE if gpu.name == "auto" else gpu.name)
        if profile not in {known["name"] for known in profiles()}:
            names = ", ".join(known["name"] for known in profiles())
            raise NotStartedError(
                f"no sensor profile {profile!r} to emulate gpu={gpu.name} with; there are {names}"
            )
        options: dict[str, Any] = {}
        if profile != gpu.name:
            # A variant with another's sensors keeps its own board.
            options = {"memory_gib": gpu.memory_gib, "power_limit_w": gpu.tdp_w}
        described = {key: value for key, value in options.items() if value is not None}
        one = EmulatedGpu(profile, name=gpu.emulated_name, options=described)
        return cls([one] * max(gpu.count, 1), folder, remove_folder=True)

    def open(self) -> EmulatedMachine:
        """Points the environment at this machine."""
        if self._saved is None:
            self._saved = {name: os.environ.get(name) for name in (CONFIG_ENV, LIBRARY_ENV)}
            os.environ[CONFIG_ENV] = str(self.config_path)
            os.environ[LIBRARY_ENV] = self.library_path
        return self

    def close(self) -> None:
        """Restores the environment; may be called twice."""
        if self._saved is not None:
            for name, value in self._saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self._saved = None
        if self._remove_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.claim is not None:
            self.claim.release()

    def __enter__(self) -> EmulatedMachine:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()


def _without_symbols(names: Sequence[str], path: Path) -> Path:
    """A copy of the library in which these symbols have other names, so that they are not found."""
    binary = library_path().read_bytes()
    for name in names:
        entry = b"\0" + name.encode() + b"\0"
        if entry not in binary:
            raise ValueError(f"the emulated library has no symbol {name} that could be missing")
        binary = binary.replace(entry, b"\0" + b"-" * len(name) + b"\0")
    path.write_bytes(binary)
    return path


class LiveTruth:
    """The writing end of a true power curve that grows while it is read (csrc/emulator/live_truth.h)."""

    def __init__(self, path: Path, capacity: int = LIVE_CAPACITY, *, attach: bool = False) -> None:
        """A new curve in a new file; `attach`: the end of a curve that another writer has begun and left."""
        self.path = path
        if attach:
            self._writer = _native.LiveTruthWriter.attach(str(path))
        else:
            self._writer = _native.LiveTruthWriter(str(path), capacity)

    @classmethod
    def attach(cls, config_path: Path, gpu_uuids: Sequence[str] = ()) -> dict[str, LiveTruth]:
        """Writers of the live truths of a machine's configuration, by GPU UUID. They go on where these are.

        gpu_uuids  these GPUs only; empty: all

        Who wrote them before can write no more.
        """
        config = json.loads(config_path.read_text())
        live = {}
        for gpu in config["gpus"]:
            kind, _, name = gpu["truth"].partition(":")
            if kind == "live" and (not gpu_uuids or gpu["uuid"] in gpu_uuids):
                live[gpu["uuid"]] = cls(config_path.parent / name, attach=True)
        return live

    def append(self, t_ns: int, power_mw: int) -> None:
        """Makes the GPU draw `power_mw` from `t_ns` (CLOCK_MONOTONIC) on. A moment before what was read is moved."""
        self._writer.append(t_ns, power_mw)

    def append_now(self, power_w: float) -> None:
        self.append(now_ns(), round(power_w * 1e3))

    @property
    def clamped(self) -> int:
        """Appends that came too late and were moved."""
        return self._writer.clamped

    def history(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(t_ns, power_mw) as it was in effect."""
        points = np.array(self._writer.history(), np.int64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def save(self, path: Path) -> None:
        """Writes the curve as it was in effect: `t_ns,power_mw`."""
        t_ns, power_mw = self.history()
        lines = [f"{t},{p}\n" for t, p in zip(t_ns.tolist(), power_mw.tolist(), strict=True)]
        path.write_text("t_ns,power_mw\n" + "".join(lines))


class ActivityPower:
    """A plausible true power for an emulated GPU, from what an engine does. A stimulus, never evidence.

    It is what `wattcount.prediction` expects of the run's model on such a GPU: idle power without an engine and with one, and in a step
    what its prompts and its decoding sequences take. Figures that the GPU lacks are those of its option, else of DEFAULT_PROFILE.
    """

    def __init__(self, gpu: GpuConfig, model: ModelConfig | None = None) -> None:
        """`model`: None, or one too small or not known to the prediction: STAND_IN is taken."""
        options = gpu_catalogue()
        like = options.get(gpu.name, options[DEFAULT_PROFILE])
        lacking = [name for name in SHEET if getattr(gpu, name) is None]
        sheet = gpu_facts(replace(gpu, **{name: getattr(like, name) for name in lacking}))
        assert sheet is not None
        self._gpu, self._coefficients = sheet, coefficients(gpu)
        self._facts = _facts_of(model) or _facts_of(catalogued_model(STAND_IN))
        self._known: dict[tuple[int, int], float] = {}
        self.idle_bare_w = float(sheet.idle_w)
        self.idle_loaded_w = float(loaded_idle_w(sheet, self._coefficients))

    def step_power_w(self, step: EngineStep) -> float:
        """Watts while a step like this one runs."""
        if step.running == 0 and not step.prefill_tokens and not step.decode_tokens:
            return self.idle_loaded_w
        return self._power_w(step.prefill_tokens or 0, step.decode_tokens or step.running)

    def _power_w(self, prefill: int, decode: int) -> float:
        key = prefill, decode
        if key not in self._known:
            assert self._facts is not None
            work = step_work(
                self._facts,
                float(prefill),
                prefill * prefill / 2,
                float(decode),
                decode * CONTEXT_TOKENS,
                1.0 if prefill else 0.0,
            )
            made = computed(work, self._facts, self._gpu, self._coefficients, 1.0, 1.0, CAPTURED_TOKENS)
            self._known[key] = float(made.power_w)
        return self._known[key]


def _facts_of(model: ModelConfig | None) -> Facts | None:
    """None: nothing is known of it, or it has so few weights that a GPU would be as good as idle."""
    facts = None if model is None else model_facts(model, 1, DTYPE_BYTES.get(model.dtype, 2.0))
    if facts is None or facts.dense_bytes + facts.expert_bytes < LEAST_WEIGHTS_BYTES:
        return None
    return facts


def simulate(
    profile: str,
    t_ns: NDArray[np.int64],
    power_w: NDArray[np.float64],
    *,
    seed: int = 1,
    gain: float = 1.0,
    offset_w: float = 0.0,
    counter_phase: float | None = None,
    power_phase: float | None = None,
    ring_phase: float | None = None,
) -> _native.VirtualSensors:
    """The sensors of a profile over a true curve, in virtual time: no library, no waiting.

    t_ns, power_w   int64[n] increasing, float64[n]: piecewise constant
    Phases are shares (0..1) of each grid's period; drawn from the seed where None.
    """
    return _native.VirtualSensors(
        profile,
        np.ascontiguousarray(t_ns, np.int64),
        np.ascontiguousarray(power_w, np.float64),
        seed, gain, offset_w, counter_phase, power_phase, ring_phase,
    )  # fmt: skip


def virtual_trace(
    profile_name: str,
    sensors: _native.VirtualSensors,
    start_ns: int,
    seconds: float,
    *,
    gpu_uuid: str = "GPU-virtual",
    seed: int = 1,
    counter_period_s: float = 1.009,
    power_period_s: float = 0.02,
    drain_period_s: float = 1.0,
    counter_call_s: float = 0.004,
    sources: Collection[Source] = frozenset(Source),
) -> PowerTrace:
    """What the sampler would keep of virtual sensors, from `start_ns` on, with its jitter and the counter's call time.

    Sources that the profile does not have, or that are not in `sources`, are left out.
    """
    rng = np.random.default_rng(seed)
    end_ns = start_ns + round(seconds * S_NS)
    profile = next(known for known in profiles() if known["name"] == profile_name)
    parts: list[NDArray[np.void]] = []

    def events(
        source: Source, t0_ns: NDArray[np.int64], t1_ns: NDArray[np.int64], value: NDArray[np.int64]
    ) -> None:
        made = np.zeros(len(t0_ns), EVENT_DTYPE)
        made["prev_t0_ns"], made["source_ts_us"] = -1, -1
        made["t0_ns"], made["t1_ns"], made["value"], made["source"] = t0_ns, t1_ns, value, source
        parts.append(made)

    def polled(
        source: Source,
        read: Callable[[NDArray[np.int64]], NDArray[np.float64]],
        period_s: float,
        call_s: float,
    ) -> None:
        steps_ns = rng.uniform(0.9, 1.1, int(seconds / period_s * 1.1) + 2) * period_s * S_NS
        t0_ns = start_ns + np.cumsum(steps_ns).astype(np.int64)
        t0_ns = t0_ns[t0_ns < end_ns]
        # The value is that of some moment within the call.
        call_ns = call_s * S_NS * np.exp(0.3 * rng.standard_normal(len(t0_ns)))
        at_ns = t0_ns + (call_ns * rng.uniform(0.0, 1.0, len(t0_ns))).astype(np.int64)
        value = np.round(read(at_ns) * 1e3).astype(np.int64)
        # Only changes are kept, and a heartbeat.
        last_kept = np.concatenate(([True], np.diff(value) != 0))
        last_kept |= np.concatenate(([True], np.diff((t0_ns - start_ns) // S_NS) > 0))
        events(source, t0_ns[last_kept], (t0_ns + call_ns.astype(np.int64))[last_kept], value[last_kept])

    if Source.ENERGY_COUNTER in sources and profile["counter"]:
        polled(Source.ENERGY_COUNTER, sensors.counter_j, counter_period_s, counter_call_s)
    for source, name, read in (
        (Source.POWER_AVERAGE, "average", sensors.average_w),
        (Source.POWER_INSTANT, "instant", sensors.instant_w),
        (Source.POWER_USAGE, "usage", sensors.usage_w),
    ):
        if source in sources and profile.get(name):
            slow = source == Source.POWER_USAGE and bool(profile.get("average"))
            polled(source, read, 1.0 if slow else power_period_s, 1e-6)
    if Source.POWER_SAMPLES in sources and profile["ring"]:
        _, stamps_ns, power_w = sensors.samples(start_ns - 2 * S_NS, end_ns - round(drain_period_s * S_NS))
        drains_ns = np.arange(start_ns, end_ns, round(drain_period_s * S_NS), dtype=np.int64)
        drained_ns = drains_ns[np.minimum(np.searchsorted(drains_ns, stamps_ns), len(drains_ns) - 1)]
        events(Source.POWER_SAMPLES, drained_ns, drained_ns, np.round(power_w * 1e3).astype(np.int64))
        parts[-1]["source_ts_us"] = (stamps_ns + VIRTUAL_REALTIME_OFFSET_NS) // 1000
        events(Source.REALTIME, drains_ns, drains_ns, drains_ns + VIRTUAL_REALTIME_OFFSET_NS)
    return PowerTrace((gpu_uuid,), np.concatenate(parts) if parts else np.empty(0, EVENT_DTYPE))


def emulated_uuid(profile: str, index: int) -> str:
    """A UUID that no real GPU has. An emulated GPU always has the same."""
    digest = f"wattcount-emulated-{profile}-{index}".encode().hex().ljust(32, "0")[-32:]
    return f"GPU-{UUID(hex=digest)}"


class EmulatedActivity:
    """The stimulus of an emulated run: true power that follows the steps of the engine. It is never evidence.

    A step is reported when it has ended, so its power holds until the next report.
    """

    def __init__(
        self,
        gpu: GpuConfig,
        truths: dict[str, LiveTruth],
        limit_w: float | None = None,
        model: ModelConfig | None = None,
    ) -> None:
        """`limit_w`: the power limit in force, which no step exceeds. `model`: as for `ActivityPower`."""
        self._limit_w = limit_w if limit_w is not None else float("inf")
        self._model = ActivityPower(gpu, model)
        self._truths = truths
        self._idle_w = self._model.idle_bare_w
        self._last_step_ns = 0
        self._busy = False
        self._set(self._idle_w)

    @classmethod
    def attach(
        cls, gpu: GpuConfig, limit_w: float | None = None, model: ModelConfig | None = None
    ) -> EmulatedActivity | None:
        """To the run's GPUs on the machine in the environment. None: these GPUs have curves of their own."""
        config = os.environ.get(CONFIG_ENV)
        if config is None:
            return None
        truths = LiveTruth.attach(Path(config), gpu.devices)
        return cls(gpu, truths, limit_w, model) if truths else None

    def engine_up(self) -> None:
        self._idle_w = self._model.idle_loaded_w
        self._set(self._idle_w)

    def engine_down(self) -> None:
        self._busy = False
        self._idle_w = self._model.idle_bare_w
        self._set(self._idle_w)

    def on_step(self, step: EngineStep) -> None:
        self._last_step_ns = step.logged_ns
        self._busy = step.running > 0 or step.waiting > 0
        self._set(self._model.step_power_w(step) if self._busy else self._idle_w)

    def check_stall(self) -> None:
        """Sets idle power where the engine has taken no step for STALL_NS. To be called now and then."""
        if self._busy and now_ns() - self._last_step_ns > STALL_NS:
            self._busy = False
            self._set(self._idle_w)

    @property
    def clamped(self) -> int:
        return sum(truth.clamped for truth in self._truths.values())

    def save(self, path: Path) -> None:
        """The curve as it was in effect; the same for all GPUs of the run."""
        next(iter(self._truths.values())).save(path)

    def _set(self, power_w: float) -> None:
        t_ns, power_mw = now_ns(), round(min(power_w, self._limit_w) * 1e3)
        for truth in self._truths.values():
            truth.append(t_ns, power_mw)
