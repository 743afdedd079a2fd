"""The public Python API, against an emulated GPU whose true energy is known."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wattcount
from wattcount import api
from wattcount.errors import NotStartedError
from wattcount.gpu.sampler import EVENT_BYTES, PowerSampler
from wattcount.report.units import quantity

pytest.importorskip("wattcount.emulation.machine", reason="needs the native module")

LEAD_S = 0.3
"""Sampling before and after in these tests [s]: three ticks of the emulated H200's counter."""
CURVE_W = ((-100.0, 100.0), (0.8, 400.0), (1.8, 200.0))
"""When each power begins [s] from the epoch, and how much [W]: steps within the measured stretch."""


def true_j(epoch_ns: int, m: wattcount.Measurement) -> float:
    """Integral of CURVE_W from the begin to the end of a measurement [J]."""
    span_s = [(t_ns - epoch_ns) / 1e9 for t_ns in (m.start_ns, m.end_ns)]
    bounds_s = np.clip([*(t_s for t_s, _ in CURVE_W[1:])], *span_s)
    return float(np.diff([span_s[0], *bounds_s, span_s[1]]) @ [power_w for _, power_w in CURVE_W])


@pytest.fixture
def known(machine: Callable[..., Any]) -> Callable[..., int]:
    """Makes emulated GPUs that follow CURVE_W from now on; returns their epoch [ns]."""

    def make(*profiles: str) -> int:
        epoch_ns = time.monotonic_ns()
        rows = "\n".join(f"{t_s},{power_w}" for t_s, power_w in CURVE_W)
        machine(*(profiles or ("h200",)), curve=f"t_s,power_w\n{rows}\n", epoch_ns=epoch_ns)
        return epoch_ns

    return make


def test_a_block_gives_its_energy_with_an_interval_that_holds_the_truth(known: Callable[..., int]) -> None:
    epoch_ns = known()
    with wattcount.measure(lead_s=LEAD_S) as m:
        time.sleep(2.0)
    assert m.energy_j is not None
    assert m.u95_j is not None
    assert m.u95_method_j is not None
    assert m.u95_sensor_j is not None
    assert m.energy_j == pytest.approx(true_j(epoch_ns, m), abs=1.5 * m.u95_j)
    assert 0.0 < m.u95_method_j < m.u95_j < 0.5 * m.energy_j
    assert m.power_w == pytest.approx(m.energy_j / m.duration_s)
    assert m.duration_s == (m.end_ns - m.start_ns) / 1e9 >= 2.0
    assert m.evidence == "emulated"
    (gpu,) = m.per_gpu
    assert (gpu.energy_j, gpu.u95_j, gpu.basis) == (m.energy_j, m.u95_j, "energy_counter+power_samples")
    assert str(m).startswith(f"{quantity(m.energy_j, 'J')} ± ")
    assert str(m).endswith("1 GPU, emulated")


def test_several_gpus_are_added_up_and_told_apart(known: Callable[..., int]) -> None:
    known("h200", "a100", "h100")
    with wattcount.measure(gpus=[2, 0], lead_s=LEAD_S) as m:
        time.sleep(1.0)
    assert [gpu.name for gpu in m.per_gpu] == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    values, methods, sensors = zip(
        *((gpu.energy_j, gpu.u95_method_j, gpu.u95_sensor_j) for gpu in m.per_gpu), strict=True
    )
    assert m.energy_j == pytest.approx(sum(values))
    assert m.u95_method_j == pytest.approx(np.hypot(*methods))
    assert m.u95_sensor_j == pytest.approx(sum(sensors))
    table = m.to_pandas()
    assert list(table["energy_j"]) == list(values)
    assert list(table.columns[:3]) == ["uuid", "name", "energy_j"]


def test_gpus_that_the_process_may_not_use_are_left_out(
    known: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    known("h200", "h200")
    with wattcount.measure(lead_s=0.0) as both:
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with wattcount.measure(lead_s=0.0) as m:
        pass
    assert [gpu.uuid for gpu in m.per_gpu] == [both.per_gpu[1].uuid]


def test_figures_wait_for_the_end(known: Callable[..., int]) -> None:
    known()
    with wattcount.measure(lead_s=0.0) as m:
        for figure in ("energy_j", "u95_j", "power_w", "per_gpu", "duration_s", "trace", "end_ns"):
            with pytest.raises(RuntimeError, match="after the `with` block"):
                getattr(m, figure)
        assert str(m) == "a measurement that has not ended"
    with pytest.raises(RuntimeError, match="make one for each stretch"), m:
        pass


def test_an_error_in_the_block_is_passed_on_and_the_block_is_measured(known: Callable[..., int]) -> None:
    known()
    seen: list[wattcount.Measurement] = []
    with pytest.raises(ZeroDivisionError), wattcount.measure(lead_s=0.0, report=seen.append):
        raise ZeroDivisionError
    assert seen[0].duration_s > 0.0


def test_a_decorator_measures_each_call(known: Callable[..., int]) -> None:
    known()
    seen: list[wattcount.Measurement] = []

    @wattcount.measure(lead_s=0.0, report=seen.append)
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double.measurement is None  # type: ignore[attr-defined]
    assert [double(1), double(x=2)] == [2, 4]
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice."
    assert seen[1] is double.measurement  # type: ignore[attr-defined]
    assert seen[0].end_ns <= seen[1].start_ns


def test_a_decorator_measures_what_is_awaited(known: Callable[..., int]) -> None:
    known()

    @wattcount.measure(lead_s=0.0)
    async def wait() -> str:
        await asyncio.sleep(0.2)
        return "done"

    assert asyncio.run(wait()) == "done"
    assert wait.measurement.duration_s >= 0.2  # type: ignore[attr-defined]


def test_a_function_whose_work_is_done_while_it_is_iterated_is_refused() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def numbers_later() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, numbers_later):
        with pytest.raises(TypeError, match="measure the loop"):
            wattcount.measure()(function)


class Watched(PowerSampler):
    """A sampler that is known from outside."""

    made: list[Watched]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.options = options
        self.made.append(self)


@pytest.fixture
def samplers(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """Those that measurements make."""
    Watched.made = []
    monkeypatch.setattr(api, "PowerSampler", Watched)
    return Watched.made


def test_an_interruption_before_the_block_ends_the_sampling(
    known: Callable[..., int], samplers: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    known()
    monkeypatch.setattr(api.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), wattcount.measure():
        pass
    events = [sum(source["calls"] for source in samplers[0].health()[0]["sources"].values())]
    monkeypatch.undo()
    time.sleep(0.2)
    events.append(sum(source["calls"] for source in samplers[0].health()[0]["sources"].values()))
    assert events[0] == events[1] > 0


def test_an_interruption_while_a_driver_hangs_leaves_what_was_seen(
    known: Callable[..., int], samplers: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_sampler: Watched) -> bool:
        raise KeyboardInterrupt

    known()
    monkeypatch.setattr(Watched, "stop", interrupted)
    m = wattcount.measure(lead_s=0.0)
    with pytest.raises(KeyboardInterrupt), m:
        pass
    monkeypatch.undo()
    assert samplers[0].stop()
    assert m.duration_s > 0.0
    assert len(m.trace) > 0


def test_a_block_of_a_week_is_kept_whole(known: Callable[..., int], samplers: list[Watched]) -> None:
    known()
    with wattcount.measure(lead_s=0.0):
        pass
    kept = samplers[0].options["config"].buffer_mib_per_gpu * 2**20 // EVENT_BYTES
    assert kept > 7 * 24 * 3600 * 500  # observations a second: more than any GPU's sources give by default


def test_measurements_may_lie_within_each_other(known: Callable[..., int]) -> None:
    epoch_ns = known()
    with wattcount.measure(lead_s=LEAD_S) as outer, wattcount.measure(lead_s=LEAD_S) as inner:
        time.sleep(0.5)
    assert outer.start_ns < inner.start_ns < inner.end_ns < outer.end_ns
    for m in (outer, inner):
        assert m.u95_j is not None
        assert m.energy_j == pytest.approx(true_j(epoch_ns, m), abs=1.5 * m.u95_j)


SOURCES = tuple(
    f"nvmlDeviceGet{name}" for name in ("TotalEnergyConsumption", "Samples", "PowerUsage", "FieldValues")
)
"""Functions of NVML that tell power or energy."""


def test_energy_that_cannot_be_told_is_none_with_a_reason(machine: Callable[..., Any]) -> None:
    machine(faults=[{"kind": "missing", "function": name} for name in SOURCES])
    with wattcount.measure(lead_s=0.0) as m:
        pass
    assert (m.energy_j, m.u95_j, m.u95_method_j, m.u95_sensor_j, m.power_w) == (None,) * 5
    assert m.reasons
    assert str(m).startswith("energy unknown (")


def test_a_gpu_that_is_not_there_is_refused(known: Callable[..., int]) -> None:
    known()
    with pytest.raises(NotStartedError, match="no GPU 7"), wattcount.measure(gpus=[7]):
        pass


@pytest.mark.parametrize("lead_s", [-1.0, float("nan"), float("inf")])
def test_a_lead_that_is_no_time_is_refused(lead_s: float) -> None:
    with pytest.raises(ValueError, match="lead_s"):
        wattcount.measure(lead_s=lead_s)


def test_a_plot_shows_each_gpu_and_the_stretch(known: Callable[..., int]) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    known("h200", "a100")
    with wattcount.measure(lead_s=LEAD_S) as m:
        time.sleep(0.5)
    axes = m.plot()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == 3
    assert str(m) in labels
    for line in axes.get_lines():
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) > 0.0
    assert m.plot(axes) is axes


def test_results_are_a_table_of_a_folders_runs() -> None:
    records = Path(__file__).resolve().parents[1] / "data" / "campaign" / "records"
    before = sorted(path.name for path in records.iterdir())
    table = wattcount.results(records)
    assert len(table) == len(list(records.glob("*/r*")))
    assert {"model", "setting_key", "energy/gpu_j", "energy/gpu_j_u95", "evidence"} <= set(table.columns)
    host = table["energy/gpu_j_per_output_token_u95_host"] / table["energy/gpu_j_per_output_token"]
    assert 0.01 < host.min() < host.max() < 0.2
    valid = wattcount.results(records, valid_only=True)
    assert 0 < len(valid) < len(table)
    assert sorted(path.name for path in records.iterdir()) == before
    record = wattcount.Record.open(Path(table["source"].iloc[0]))
    assert record.info.run_id == table["run_id"].iloc[0]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        wattcount.results(tmp_path / "nowhere")


def test_public_names_are_all_there_and_nothing_else_is() -> None:
    for name in wattcount.__all__:
        assert getattr(wattcount, name) is not None
    assert set(wattcount.__all__) <= set(dir(wattcount))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wattcount.nothing  # noqa: B018


@pytest.mark.parametrize("use", ["import wattcount", "import wattcount; wattcount.measure; wattcount.Record"])
def test_importing_brings_neither_hydra_nor_mlflow_nor_an_engine(use: str) -> None:
    heavy = "{'hydra', 'mlflow', 'vllm', 'torch', 'pandas', 'matplotlib', 'scipy.stats'}"
    code = f"{use}; import sys; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
