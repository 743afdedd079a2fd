"""The emulated libnvidia-ml.so.1 as its clients see it: pynvml, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest

from wattcount.emulation import machine as emulation
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine, LiveTruth

PRELUDE = """
import json, os, sys, time
import pynvml as n
def code(call, *arguments):
    try:
        call(*arguments)
    except n.NVMLError as error:
        return error.value
    return 0
def field(gpu, number, scope=0):
    (value,) = n.nvmlDeviceGetFieldValues(gpu, [(number, scope)])
    return [value.nvmlReturn, value.value.ullVal if value.valueType == 3 else value.value.uiVal]
def gpu(index=0):
    return n.nvmlDeviceGetHandleByIndex(index)
def show(value):
    print(json.dumps(value))
def until(look, true):
    # No limit: the test has one.
    while not true(value := look()):
        time.sleep(0.01)
    return value
def timed(call, *arguments):
    # [time before, value, time after], ns, of a call that nothing held up.
    while True:
        before = time.monotonic_ns()
        value = call(*arguments)
        after = time.monotonic_ns()
        if after - before < 20_000_000:
            return [before, value, after]
"""

Client = Callable[..., Any]


def run_client(
    machine: EmulatedMachine | None, code: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process that finds the emulated library as it would find NVIDIA's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WATTCOUNT_NVML")}
    library = Path(machine.library_path) if machine else emulation.library_path()
    environment["LD_LIBRARY_PATH"] = str(library.parent)
    if machine is not None:
        environment[emulation.CONFIG_ENV] = str(machine.config_path)
    environment.update(variables)
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def ask(machine: EmulatedMachine, code: str) -> Any:
    done = run_client(machine, "n.nvmlInit()\n" + textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., EmulatedMachine]:
    """Makes a machine of the given profiles; 100 W, then 500 W from 0.3 s on (or `curve`)."""

    def made(
        *profiles: str, curve: str = "t_s,power_w\n-100,100\n0.3,500\n", **options: Any
    ) -> EmulatedMachine:
        (tmp_path / "curve.csv").write_text(curve)
        gpus = [EmulatedGpu(profile, truth="curve.csv") for profile in profiles or ("h200",)]
        return EmulatedMachine(gpus, tmp_path, **options)

    return made


def steady(power_w: float) -> str:
    return f"t_s,power_w\n-100,{power_w}\n"


# ---- what it is ----------------------------------------------------------------------------------


def test_pynvml_takes_it_for_nvml(make: Callable[..., EmulatedMachine]) -> None:
    names = [profile["name"] for profile in emulation.profiles()]
    found = ask(
        make(*names),
        """
        found = []
        for i in range(n.nvmlDeviceGetCount()):
            g = gpu(i)
            found.append({
                "name": n.nvmlDeviceGetName(g), "uuid": n.nvmlDeviceGetUUID(g),
                "by_uuid": n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(g))),
                "by_bus": n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(n.nvmlDeviceGetPciInfo(g).busId)),
                "memory": n.nvmlDeviceGetMemoryInfo(g).total,
                "memory_v2": n.nvmlDeviceGetMemoryInfo(g, version=n.nvmlMemory_v2).total,
                "limit": n.nvmlDeviceGetEnforcedPowerLimit(g),
                "limits": n.nvmlDeviceGetPowerManagementLimitConstraints(g),
                "capability": n.nvmlDeviceGetCudaComputeCapability(g),
                "architecture": n.nvmlDeviceGetArchitecture(g),
                "sm": n.nvmlDeviceGetMaxClockInfo(g, n.NVML_CLOCK_SM),
                "power": n.nvmlDeviceGetPowerUsage(g), "energy": n.nvmlDeviceGetTotalEnergyConsumption(g),
                "temperature": n.nvmlDeviceGetTemperature(g, n.NVML_TEMPERATURE_GPU),
                "processes": n.nvmlDeviceGetComputeRunningProcesses(g),
            })
        show([n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetCudaDriverVersion(), found])
        """,
    )
    driver, cuda, gpus = found
    assert re.fullmatch(r"\d+\.\d+\.\d+", driver)
    assert cuda >= 12000
    assert len({gpu["uuid"] for gpu in gpus}) == len(names) >= 13
    for index, (gpu, profile) in enumerate(zip(gpus, emulation.profiles(), strict=True)):
        assert gpu["name"] == profile["device_name"]
        assert gpu["by_uuid"] == gpu["by_bus"] == index
        assert gpu["memory"] == gpu["memory_v2"] == int(profile["memory_gib"] * 2**30)
        assert gpu["limit"] == round(profile["tdp_w"] * 1000)
        assert gpu["limits"][0] < gpu["limits"][1] == gpu["limit"]
        assert gpu["capability"][0] >= 7
        assert 5 <= gpu["architecture"] <= 10
        assert 1000 < gpu["sm"] < 4000
        assert gpu["power"] == pytest.approx(100_000, rel=0.05)
        assert gpu["energy"] > 0
        assert 20 < gpu["temperature"] < 90
        assert gpu["processes"] == []


def test_it_says_what_it_is_by_a_symbol_of_its_own() -> None:
    library = ctypes.CDLL(str(emulation.library_path()))
    library.wattcount_nvml_emulator_version.restype = ctypes.c_char_p
    assert library.wattcount_nvml_emulator_version()
    library.nvmlErrorString.restype = ctypes.c_char_p
    assert library.nvmlErrorString(15) == b"GPU is lost"
    assert library.nvmlErrorString(12345) == b"Unknown Error"


def test_every_symbol_wattcount_loads_is_exported() -> None:
    folder = Path(__file__).resolve().parents[2] / "csrc" / "nvml"
    library = ctypes.CDLL(str(emulation.library_path()))
    wanted = set(re.findall(r'"(nvml[A-Z]\w+)"', (folder / "library.cpp").read_text()))
    for name, endings in re.findall(
        r"^  X\((\w+), \(.*?\), (.*?)\)", (folder / "library.h").read_text(), re.M
    ):
        wanted |= {f"nvml{name}{ending}" for ending in re.findall(r'"(\w*)"', endings)}
    assert len(wanted) > 40
    assert {name for name in wanted if not hasattr(library, name)} == set()


def test_our_abi_is_that_of_nvidia_ml_py() -> None:
    """Sizes and offsets that csrc/nvml/abi.h asserts against the ctypes structures of nvidia-ml-py."""
    theirs: dict[str, type[ctypes.Structure]] = {
        "Value": pynvml.c_nvmlValue_t,
        "FieldValue": pynvml.c_nvmlFieldValue_t,
        "Sample": pynvml.c_nvmlSample_t,
        "Memory": pynvml.c_nvmlMemory_t,
        "MemoryV2": pynvml.c_nvmlMemory_v2_t,
        "Utilization": pynvml.c_nvmlUtilization_t,
        "PciInfo": pynvml.nvmlPciInfo_t,
        "ProcessInfo": pynvml.c_nvmlProcessInfo_v3_t,
    }
    header = (Path(__file__).resolve().parents[2] / "csrc" / "nvml" / "abi.h").read_text()
    sizes = dict(re.findall(r"sizeof\((\w+)\) == (\d+)", header))
    for name, structure in theirs.items():
        assert ctypes.sizeof(structure) == int(sizes[name]), name
    plain = {name.lower(): name for name in ("value", "busId", "total")}
    for name, member, offset in re.findall(r"offsetof\((\w+), (\w+)\) == (\d+)", header):
        field = plain[member.replace("_", "").lower()]
        assert getattr(theirs[name], field).offset == int(offset), (name, member)
    assert pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION == 83
    assert (pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_FI_DEV_POWER_INSTANT) == (185, 186)


# ---- what it answers -----------------------------------------------------------------------------


def test_fields_have_a_return_code_each(make: Callable[..., EmulatedMachine]) -> None:
    h200, v100 = ask(
        make("h200", "v100", curve=steady(200)),
        """
        show([[field(gpu(i), f, s) for f, s in ((185, 0), (186, 0), (83, 0), (82, 0), (190, 0), (185, 1), (9999, 0))]
              for i in (0, 1)])
        """,
    )
    assert [code for code, _ in h200] == [0, 0, 0, 0, 0, 3, 3]
    assert h200[0][1] == pytest.approx(200_000, rel=0.02)
    assert h200[4][1] == 700_000
    assert [code for code, _ in v100[:3]] == [3, 3, 0]


def test_samples_are_given_once(make: Callable[..., EmulatedMachine]) -> None:
    """As NVML: no buffer asks for the size; a last stamp asks for newer ones; none are 'not found'."""
    count, stamps, values, again, later, behind_s = ask(
        make(curve=steady(250)),
        """
        asked = time.time()
        kind, samples = n.nvmlDeviceGetSamples(gpu(), n.NVML_TOTAL_POWER_SAMPLES, 0)
        newest = samples[-1].timeStamp
        now = time.time()
        again = code(n.nvmlDeviceGetSamples, gpu(), n.NVML_TOTAL_POWER_SAMPLES, newest + 3_600_000_000)
        time.sleep(0.3)
        later = n.nvmlDeviceGetSamples(gpu(), n.NVML_TOTAL_POWER_SAMPLES, newest)[1]
        show([len(samples), [s.timeStamp for s in samples], [s.sampleValue.uiVal for s in samples], again,
              [s.timeStamp - newest for s in later], [asked - newest / 1e6, now - newest / 1e6]])
        """,
    )
    assert count == 120
    assert np.median(np.diff(stamps)) == pytest.approx(20_000, abs=300)
    assert min(np.diff(stamps)) > 0
    assert values == pytest.approx([250_000] * 120, rel=0.01)
    assert again == pynvml.NVML_ERROR_NOT_FOUND
    assert len(later) >= 13
    assert min(later) > 0
    assert behind_s[0] < 0.2
    assert behind_s[1] >= 0


def seconds_in(seconds: float) -> dict[str, int]:
    """For a machine whose curve and faults began so long ago; below 0: begin in so long."""
    return {"epoch_ns": time.monotonic_ns() - round(seconds * 1e9)}


def test_clocks_and_utilisation_follow_the_load(make: Callable[..., EmulatedMachine]) -> None:
    state = """
    g = gpu()
    show([n.nvmlDeviceGetUtilizationRates(g).gpu, n.nvmlDeviceGetClockInfo(g, n.NVML_CLOCK_SM),
          n.nvmlDeviceGetCurrentClocksEventReasons(g), n.nvmlDeviceGetPerformanceState(g)])
    """
    before, after = (ask(make(**seconds_in(seconds)), state) for seconds in (-90, 90))
    assert before[0] == 0
    assert before[2] == 1
    assert after[0] > 50
    assert after[1] > before[1]
    assert after[2] == 0


def test_what_a_client_sets_is_seen_by_the_next_one(make: Callable[..., EmulatedMachine]) -> None:
    machine = make("h200", "v100", curve="t_s,power_w\n-100,500\n")
    ask(
        machine,
        "n.nvmlDeviceSetPowerManagementLimit(gpu(), 400_000); n.nvmlDeviceSetGpuLockedClocks(gpu(), 1410, 1410); show(1)",
    )
    look = "show([n.nvmlDeviceGetEnforcedPowerLimit(gpu(i)) for i in (0, 1)] + [n.nvmlDeviceGetClockInfo(gpu(i), 1) for i in (0, 1)] + field(gpu(), 190))"
    assert ask(machine, look) == [400_000, 300_000, 1410, 1530, 0, 400_000]
    ask(machine, "n.nvmlDeviceResetGpuLockedClocks(gpu()); show(1)")
    assert ask(machine, look)[2] == 1980
    # A machine made anew in the same place is another one.
    assert ask(make("h200", "v100", curve="t_s,power_w\n-100,500\n"), look)[0] == 700_000


def test_settings_out_of_range(make: Callable[..., EmulatedMachine]) -> None:
    invalid, not_found = 2, 6
    found = ask(
        make(),
        """
        show([
            n.nvmlDeviceGetPowerManagementLimitConstraints(gpu()),
            code(n.nvmlDeviceSetPowerManagementLimit, gpu(), 209_999),
            code(n.nvmlDeviceSetPowerManagementLimit, gpu(), 700_001),
            code(n.nvmlDeviceSetGpuLockedClocks, gpu(), 1500, 1400),
            code(n.nvmlDeviceGetSupportedGraphicsClocks, gpu(), 1),
        ])
    """,
    )
    assert found == [[210_000, 700_000], invalid, invalid, invalid, not_found]
    clocks = ask(
        make(),
        "show(n.nvmlDeviceGetSupportedGraphicsClocks(gpu(), n.nvmlDeviceGetSupportedMemoryClocks(gpu())[0]))",
    )
    assert (clocks[0], clocks[-1], len(clocks)) == (1980, 345, 110)


def test_calls_cost_what_they_cost_on_the_gpu(make: Callable[..., EmulatedMachine]) -> None:
    """A counter read blocks for milliseconds, more so under load, and takes the fields beside it along."""
    code = """
    def least_ms(call, *arguments):
        # The machine adds to most calls, but not to all of them.
        times = []
        for _ in range(15):
            start = time.perf_counter()
            call(*arguments)
            times.append(time.perf_counter() - start)
        return min(times) * 1e3
    g = gpu()
    show([least_ms(n.nvmlDeviceGetTotalEnergyConsumption, g), least_ms(n.nvmlDeviceGetPowerUsage, g),
          least_ms(n.nvmlDeviceGetFieldValues, g, [186]), least_ms(n.nvmlDeviceGetFieldValues, g, [186, 83])])
    """
    idle, power, _, _ = ask(make(curve="t_s,power_w\n-100,80\n0,600\n", **seconds_in(-90)), code)
    busy, _, field, with_counter = ask(make(curve="t_s,power_w\n-100,80\n0,600\n", **seconds_in(90)), code)
    assert 2.0 < idle < 8
    assert power < 1.5
    assert busy > 2.5
    assert field < 1.5
    assert with_counter > 2.5


def test_real_time_shows_what_virtual_time_says(make: Callable[..., EmulatedMachine]) -> None:
    epoch_ns = time.monotonic_ns()
    rows = [(-100.0, 100.0), *((0.05 * i, 150.0 + 400.0 * (i % 2)) for i in range(100))]
    curve = "t_s,power_w\n" + "".join(f"{t},{p}\n" for t, p in rows)
    reads = ask(
        make(curve=curve, epoch_ns=epoch_ns),
        """
        reads = []
        end = time.monotonic() + 0.8
        while time.monotonic() < end or len(reads) < 25:
            row = []
            for call in (lambda: n.nvmlDeviceGetTotalEnergyConsumption(gpu()),
                         lambda: field(gpu(), 186)[1], lambda: field(gpu(), 185)[1]):
                before = time.monotonic_ns()
                value = call()
                row.append([before, value, time.monotonic_ns()])
            reads.append(row)
        show(reads)
        """,
    )
    sensors = emulation.simulate(
        "h200",
        np.array([epoch_ns + round(t * 1e9) for t, _ in rows], np.int64),
        np.array([p for _, p in rows]),
        seed=1,
    )
    assert len(reads) > 20
    for number, (kind, unit) in enumerate(
        ((sensors.counter_j, 1e3), (sensors.instant_w, 1e3), (sensors.average_w, 1e3))
    ):
        seen = np.array([row[number] for row in reads], np.int64)
        offset = 1e6 * 1e3 if number == 0 else 0  # a board has counted before anyone looked
        least, most = (np.asarray(kind(np.ascontiguousarray(seen[:, i]))) * unit + offset for i in (0, 2))
        fits = (np.abs(seen[:, 1] - least) <= 1) | (np.abs(seen[:, 1] - most) <= 1)
        assert fits.all()
        assert len(np.unique(seen[:, 1])) > 3


def test_calls_before_init_and_after_shutdown(make: Callable[..., EmulatedMachine]) -> None:
    done = run_client(
        make(),
        """
        n._LoadNvmlLibrary()
        before = code(n.nvmlDeviceGetCount)
        n.nvmlInit(); n.nvmlInit()
        g = gpu()
        n.nvmlShutdown()
        between = code(n.nvmlDeviceGetPowerUsage, g)
        n.nvmlShutdown()
        after = [code(n.nvmlDeviceGetPowerUsage, g), code(n.nvmlDeviceGetCount), code(n.nvmlShutdown)]
        n.nvmlInit()
        show([before, between, after, n.nvmlDeviceGetCount()])
        """,
    )
    assert json.loads(done.stdout) == [1, 0, [1, 1, 1], 1], done.stderr


def test_bad_arguments(make: Callable[..., EmulatedMachine]) -> None:
    codes = ask(
        make(),
        """
        import ctypes
        stray = ctypes.cast(ctypes.c_void_p(4096), ctypes.POINTER(n.struct_c_nvmlDevice_t))
        short = ctypes.create_string_buffer(3)
        name = n._nvmlGetFunctionPointer("nvmlDeviceGetName")
        show([code(gpu, 7), code(n.nvmlDeviceGetHandleByUUID, b"GPU-none"), code(n.nvmlDeviceGetPowerUsage, stray),
              name(gpu(), short, 3), n._nvmlGetFunctionPointer("nvmlDeviceGetPowerUsage")(gpu(), None)])
        """,
    )
    assert codes == [2, 6, 2, 7, 2]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_errors_by_call_number(make: Callable[..., EmulatedMachine]) -> None:
    fault = {
        "kind": "error",
        "function": "nvmlDeviceGetPowerUsage",
        "code": 4,
        "from_call": 3,
        "until_call": 4,
    }
    codes = ask(make(faults=[fault]), "show([code(n.nvmlDeviceGetPowerUsage, gpu()) for _ in range(6)])")
    assert codes == [0, 0, 4, 4, 0, 0]


def test_errors_by_time_on_one_gpu(make: Callable[..., EmulatedMachine]) -> None:
    fault = {"kind": "error", "gpu": 1, "code": 999, "from_s": 0.0, "until_s": 100.0}
    found = [
        ask(
            make("h200", "h200", faults=[fault], **seconds_in(seconds)),
            "show([code(n.nvmlDeviceGetPowerUsage, gpu(i)) for i in (0, 1)])",
        )
        for seconds in (-90, 10, 200)
    ]
    assert found == [[0, 0], [0, 999], [0, 0]]


def test_a_gpu_that_gets_lost(make: Callable[..., EmulatedMachine]) -> None:
    first, rest = ask(
        make(faults=[{"kind": "gpu_lost", "from_s": 1.0}]),
        """
        g = gpu()
        first = code(n.nvmlDeviceGetPowerUsage, g)
        until(lambda: code(n.nvmlDeviceGetPowerUsage, g), lambda found: found != 0)
        calls = (n.nvmlDeviceGetPowerUsage, n.nvmlDeviceGetTotalEnergyConsumption, n.nvmlDeviceGetUUID,
                 n.nvmlDeviceGetUtilizationRates)
        show([first, [code(call, g) for call in calls] + [code(n.nvmlDeviceGetFieldValues, g, [186])]])
        """,
    )
    assert first == 0
    assert rest == [pynvml.NVML_ERROR_GPU_IS_LOST] * 5


def test_zero_power_from_every_source(make: Callable[..., EmulatedMachine]) -> None:
    shown = ask(
        make(faults=[{"kind": "zero_power", "from_s": 1.0, "until_s": 600}]),
        """
        g = gpu()
        before = n.nvmlDeviceGetPowerUsage(g)
        samples = until(lambda: n.nvmlDeviceGetSamples(g, 0, 0)[1], lambda found: found[-1].sampleValue.uiVal == 0)
        show([before, n.nvmlDeviceGetPowerUsage(g), field(g, 185)[1], field(g, 186)[1],
              max(sample.sampleValue.uiVal for sample in samples)])
        """,
    )
    assert shown[0] > 0
    assert shown[1:4] == [0, 0, 0]
    assert shown[4] > 0  # taken before the fault


def test_a_counter_that_starts_anew(make: Callable[..., EmulatedMachine]) -> None:
    before, after = ask(
        make(faults=[{"kind": "counter_reset", "from_s": 1.0}]),
        """
        before = n.nvmlDeviceGetTotalEnergyConsumption(gpu())
        show([before, until(lambda: n.nvmlDeviceGetTotalEnergyConsumption(gpu()), lambda now: now < before)])
        """,
    )
    assert after < 1_000_000 < before


def test_a_counter_that_stands_still_and_goes_on(make: Callable[..., EmulatedMachine]) -> None:
    """Still for a second, and then it has counted on."""
    changes = ask(
        make(curve=steady(300), faults=[{"kind": "counter_freeze", "from_s": 0.5, "until_s": 1.5}]),
        """
        changes = [timed(n.nvmlDeviceGetTotalEnergyConsumption, gpu())]
        begin = time.monotonic()
        while time.monotonic() < begin + 2.0:
            read = timed(n.nvmlDeviceGetTotalEnergyConsumption, gpu())
            if read[1] != changes[-1][1]:
                changes.append(read)
        show([[read[0], read[1]] for read in changes])
        """,
    )
    t_ns, energy_mj = np.array(changes, np.int64).T
    longest = int(np.diff(t_ns).argmax())
    assert np.diff(t_ns)[longest] > 0.8e9
    assert np.diff(energy_mj)[longest] > 150_000
    assert len(changes) > longest + 2
    assert (np.diff(energy_mj) > 0).all()


def test_slow_calls(make: Callable[..., EmulatedMachine]) -> None:
    fault = {
        "kind": "slow",
        "function": "nvmlDeviceGetPowerUsage",
        "ms": 150,
        "from_call": 2,
        "until_call": 2,
    }
    times = ask(
        make(faults=[fault]),
        """
        times = []
        for _ in range(10):
            start = time.perf_counter()
            n.nvmlDeviceGetPowerUsage(gpu())
            times.append(time.perf_counter() - start)
        show(times)
        """,
    )
    assert times[1] > 0.15
    assert min(times[2:]) < 0.1


def test_functions_that_say_they_are_not_there(make: Callable[..., EmulatedMachine]) -> None:
    fault = {"kind": "missing", "function": "nvmlDeviceGetSamples"}
    codes = ask(
        make(faults=[fault]),
        "show([code(n.nvmlDeviceGetSamples, gpu(), 0, 0), code(n.nvmlDeviceGetPowerUsage, gpu())])",
    )
    assert codes == [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, 0]


def test_symbols_that_are_missing_indeed(make: Callable[..., EmulatedMachine]) -> None:
    missing = ["nvmlDeviceGetFieldValues", "nvmlDeviceGetTotalEnergyConsumption"]
    machine = make(missing_symbols=missing)
    codes = ask(
        machine,
        """
        show([code(n.nvmlDeviceGetFieldValues, gpu(), [186]), code(n.nvmlDeviceGetTotalEnergyConsumption, gpu()),
              code(n.nvmlDeviceGetPowerUsage, gpu())])
        """,
    )
    assert codes == [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, 0]
    library = ctypes.CDLL(machine.library_path)
    assert not any(hasattr(library, name) for name in missing)
    assert hasattr(library, "nvmlDeviceGetPowerUsage")


def test_a_symbol_that_was_never_there_cannot_be_missing(make: Callable[..., EmulatedMachine]) -> None:
    with pytest.raises(ValueError, match="nvmlNoSuchThing"):
        make(missing_symbols=["nvmlNoSuchThing"])


CURVES = {
    "bad.csv": "t_s,power_w\n0,100\n0,200\n",
    "good.csv": "t_s,power_w\n0,100\n",
    "watts.csv": "t,p\n1,2\n",
}
GOOD_GPU = {"uuid": "GPU-1", "profile": "h200", "truth": "good.csv"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "machine.json"),
        ('{"gpus": [}', "line 1"),
        ('{"gpus": 3}', "gpus"),
        ('{"gpu": []}', "'gpu'"),
        (json.dumps({"gpus": [{**GOOD_GPU, "profile": "h300"}]}), "h300"),
        (json.dumps({"gpus": [{**GOOD_GPU, "truth": "nowhere.csv"}]}), "nowhere.csv"),
        (json.dumps({"gpus": [{**GOOD_GPU, "truth": "bad.csv"}]}), "line 3"),
        (json.dumps({"gpus": [{**GOOD_GPU, "truth": "watts.csv"}]}), "t_s,power_w"),
        (json.dumps({"gpus": [{**GOOD_GPU, "truth": "live:nowhere"}]}), "nowhere"),
        (json.dumps({"gpus": [{**GOOD_GPU, "truth": "live:good.csv"}]}), "no live truth"),
        (json.dumps({"gpus": [{**GOOD_GPU, "colour": "red"}]}), "colour"),
        (json.dumps({"gpus": [GOOD_GPU], "faults": [{"kind": "fire"}]}), "fire"),
        (json.dumps({"gpus": [GOOD_GPU], "faults": [{"kind": "error"}]}), "code"),
        (json.dumps({"gpus": [GOOD_GPU], "faults": [{"kind": "gpu_lost", "gpu": 4}]}), "gpu"),
    ],
)
def test_a_bad_configuration_ends_nvmlinit_with_one_clear_line(
    make: Callable[..., EmulatedMachine], text: str, words: str
) -> None:
    machine = make()
    for name, curve in CURVES.items():
        (machine.folder / name).write_text(curve)
    machine.config_path.write_text(text)
    done = run_client(machine, "show(code(n.nvmlInit))")
    assert json.loads(done.stdout) == pynvml.NVML_ERROR_UNKNOWN
    (line,) = done.stderr.splitlines()
    assert str(machine.folder) in line
    assert words in line


def test_no_configuration_is_no_driver() -> None:
    done = run_client(None, "show(code(n.nvmlInit))")
    assert json.loads(done.stdout) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert emulation.CONFIG_ENV in done.stderr
    done = run_client(None, "show(code(n.nvmlInit))", **{emulation.CONFIG_ENV: "/nonexistent.json"})
    assert "/nonexistent.json" in done.stderr


# ---- live truth ----------------------------------------------------------------------------------


def test_a_live_truth_is_seen_by_every_process_alike(tmp_path: Path) -> None:
    machine = EmulatedMachine([EmulatedGpu("h200")], tmp_path)
    (truth,) = machine.live.values()
    start_ns = time.monotonic_ns()
    truth.append(start_ns, 300_000)
    read = """
    time.sleep(0.2)
    first = timed(n.nvmlDeviceGetTotalEnergyConsumption, gpu())[1:]
    time.sleep(0.6)
    show([first, timed(n.nvmlDeviceGetTotalEnergyConsumption, gpu())[1:], field(gpu(), 186)[1]])
    """
    for _ in range(2):  # a process that comes later counts the same energy
        (first_mj, first_ns), (last_mj, last_ns), instant_mw = ask(machine, read)
        assert instant_mw == pytest.approx(300_000, rel=0.02)
        expected_mj = 300 * (last_ns - first_ns) * 1e-6
        assert last_mj - first_mj == pytest.approx(expected_mj, abs=130 * 300)
        idle_w = next(p["idle_w"] for p in emulation.profiles() if p["name"] == "h200")
        before_mj = 1e9 + idle_w * 20e3
        assert last_mj == pytest.approx(before_mj + 300 * (last_ns - start_ns) * 1e-6, abs=130 * 300 + 2000)


def test_what_a_client_has_read_is_not_changed_afterwards(tmp_path: Path) -> None:
    machine = EmulatedMachine([EmulatedGpu("h200")], tmp_path)
    (truth,) = machine.live.values()
    truth.append(time.monotonic_ns(), 100_000)
    before_ns, _, read_ns = ask(machine, "show(timed(n.nvmlDeviceGetPowerUsage, gpu()))")
    assert truth.clamped == 0
    truth.append(read_ns - 500_000_000, 600_000)
    assert truth.clamped == 1
    t_ns, power_mw = truth.history()
    assert power_mw[-1] == 600_000
    assert before_ns - 100_000_000 < t_ns[-1] <= read_ns


def test_another_process_takes_a_live_truth_over(tmp_path: Path) -> None:
    machine = EmulatedMachine([EmulatedGpu("h200")], tmp_path)
    code = f"""
    from pathlib import Path
    from wattcount.emulation.machine import LiveTruth
    (truth,) = LiveTruth.attach(Path({str(machine.config_path)!r})).values()
    truth.append(time.monotonic_ns(), 450_000)
    time.sleep(0.4)
    show([field(gpu(), 186)[1], len(truth.history()[0])])
    """
    instant_mw, points = ask(machine, code)
    assert instant_mw == pytest.approx(450_000, rel=0.05)
    assert points == 2
    (truth,) = machine.live.values()
    with pytest.raises(RuntimeError, match="another writer"):
        truth.append(time.monotonic_ns(), 1)


def test_a_live_truth_needs_its_file() -> None:
    with pytest.raises(RuntimeError, match="/nonexistent/truth"):
        LiveTruth(Path("/nonexistent/truth"))
