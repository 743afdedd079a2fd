"""Measuring the energy of any piece of Python: `with wattcount.measure() as m`, and the same as a decorator.

It samples as a run of wattcount does and estimates with the same code, so its joules can be compared with a record's.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from wattcount.clock import now_ns
from wattcount.config.schema import PowerConfig
from wattcount.energy.trace import PowerTrace
from wattcount.energy.uncertainty import EnergyEstimate, EnergySum, total
from wattcount.gpu.nvml import attach_session
from wattcount.gpu.sampler import PowerSampler
from wattcount.report.units import count, quantity, scale_for, significant

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["LEAD_S", "GpuMeasurement", "Measurement", "measure", "results"]

LEAD_S = 0.5
"""Sampling before and after the measured stretch [s]: five values of the slowest energy counter known (100 ms). The
stretch's bounds lie between values, and the estimator needs values on both sides of each."""
BUFFER_MIB = 16 * 1024
"""Most memory for the readings of each GPU [MiB]: enough for weeks at some 40 MiB an hour, and only what is used is taken. If it
were full, the end of the stretch would not be seen, and its energy would be unknown."""
MOST_PLOTTED = 2000
"""Points of a plotted curve: more than a screen has."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class GpuMeasurement:
    """What one GPU took. None: it is not known, and `reasons` has the cause.

    uuid, name     as NVML has them
    energy_j       energy [J]
    u95_j          95 % uncertainty [J]: u95_method_j and u95_sensor_j in quadrature
    u95_method_j   the estimator's part; smaller for longer stretches
    u95_sensor_j   gain and offset of the board's sensor, the same in all measurements on that board
    power_w        mean power [W]
    basis          NVML's sources that the energy rests on
    reasons        stable codes of what is wrong or worth knowing (docs/energy.md)
    """

    uuid: str
    name: str
    energy_j: float | None
    u95_j: float | None
    u95_method_j: float | None
    u95_sensor_j: float | None
    power_w: float | None
    basis: str | None
    reasons: tuple[str, ...]


class Measurement:
    """The energy of a stretch of code on some GPUs; a context manager and a decorator. `measure` makes it.

    Its figures exist when the stretch has ended; before that each raises RuntimeError. None: not known; `reasons` has the cause.
    """

    def __init__(
        self,
        gpus: Sequence[int | str] | None,
        lead_s: float,
        report: Callable[[Measurement], None] | None,
    ) -> None:
        if not 0.0 <= lead_s < float("inf"):
            raise ValueError(f"lead_s is {lead_s}: seconds of sampling before and after, 0 or more")
        self._gpus, self._lead_s, self._report = gpus, lead_s, report
        self._sampler: PowerSampler | None = None
        self._trace: PowerTrace | None = None
        self._start_ns = self._end_ns = 0

    def __enter__(self) -> Self:
        """Starts to sample. Returns `lead_s` later. Raises `NotStartedError` where there is no such GPU, or no NVML."""
        if self._sampler is not None:
            raise RuntimeError("this measurement was used before: make one for each stretch")
        session = attach_session()
        try:
            gpus = self._gpus if self._gpus is not None else [gpu.uuid for gpu in session.usable()]
            self._sampler = PowerSampler(gpus, session, config=PowerConfig(buffer_mib_per_gpu=BUFFER_MIB))
            self._evidence = session.evidence
            self._sampler.start()
            time.sleep(self._lead_s)
        except BaseException:
            if self._sampler is None or self._sampler.stop():
                session.close()
            raise
        self._session = session
        self._sampler.mark()
        self._start_ns = now_ns()
        return self

    def __exit__(self, *_: object) -> None:
        end_ns = now_ns()
        assert self._sampler is not None
        try:
            self._sampler.mark()
            time.sleep(self._lead_s)
        finally:
            try:
                ended = self._sampler.stop()
            finally:
                self._trace, self._end_ns = self._sampler.trace(), end_ns
            if ended:  # else a thread is still in a call of NVML
                self._session.close()
        if self._report is not None:
            self._report(self)

    def __call__(self, function: Function) -> Function:
        """Measures each call of a function, which may be `async def`; `function.measurement` is the last call's.

        Raises TypeError for a generator function: its call does nothing yet.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__name__} is a generator function, whose call does nothing yet: measure the loop over it"
            )

        def fresh() -> Measurement:
            wrapped.measurement = made = Measurement(self._gpus, self._lead_s, self._report)  # type: ignore[attr-defined]
            return made

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with fresh():
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with fresh():
                    return function(*args, **kwargs)

        wrapped.measurement = None  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    @property
    def trace(self) -> PowerTrace:
        """Everything that was read, from `lead_s` before the stretch to `lead_s` after it."""
        return self._ended()

    @property
    def start_ns(self) -> int:
        """When the stretch began, CLOCK_MONOTONIC [ns]."""
        return self._start_ns

    @property
    def end_ns(self) -> int:
        """When it ended, CLOCK_MONOTONIC [ns]."""
        self._ended()
        return self._end_ns

    @property
    def duration_s(self) -> float:
        """Length of the stretch [s]."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def evidence(self) -> str:
        """`measured`, or `emulated` where NVML was wattcount's own emulator."""
        return self._evidence

    @property
    def energy_j(self) -> float | None:
        """Energy of all GPUs together [J]."""
        return None if self._sum is None else self._sum.value_j

    @property
    def u95_j(self) -> float | None:
        """95 % uncertainty of `energy_j` [J]: `u95_method_j` and `u95_sensor_j` in quadrature."""
        return None if self._sum is None else self._sum.u95_j

    @property
    def u95_method_j(self) -> float | None:
        """What the estimator adds to `u95_j` [J]: by it compare measurements on the same boards."""
        return None if self._sum is None else self._sum.u95_method_j

    @property
    def u95_sensor_j(self) -> float | None:
        """What the boards' sensors add to `u95_j` [J]; GPUs added up."""
        return None if self._sum is None else self._sum.u95_sensor_j

    @property
    def power_w(self) -> float | None:
        """Mean power of all GPUs together [W]."""
        return None if self.energy_j is None else self.energy_j / self.duration_s

    @property
    def reasons(self) -> tuple[str, ...]:
        """Codes of what is wrong with the energy of any GPU, or worth knowing, each once."""
        return tuple(dict.fromkeys(code for gpu in self.per_gpu for code in gpu.reasons))

    @cached_property
    def per_gpu(self) -> tuple[GpuMeasurement, ...]:
        """The same for each GPU, in the order asked for."""
        self._ended()
        assert self._sampler is not None
        return tuple(
            GpuMeasurement(
                facts.uuid,
                facts.name,
                found.value_j,
                found.u95_j,
                found.u95_method_j,
                found.u95_sensor_j,
                None if found.value_j is None else found.value_j / self.duration_s,
                found.basis,
                found.reasons,
            )
            for facts, found in zip(self._sampler.gpus, self._estimates, strict=True)
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row a GPU: the columns of `GpuMeasurement`."""
        import pandas as pd

        return pd.DataFrame(self.per_gpu)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draws power over time, a line a GPU; the measured stretch is shaded. Needs matplotlib (`wattcount[plot]`).

        axes   to draw on; default a new figure's
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("plot() needs matplotlib: pip install 'wattcount[plot]'") from error
        if axes is None:
            _, axes = pyplot.subplots()
        for gpu in self.per_gpu:
            t_ns, power_w = self.trace.curve(gpu.uuid, MOST_PLOTTED)
            axes.plot((t_ns - self.start_ns) / 1e9, power_w, label=f"{gpu.name} {gpu.uuid[:12]}")
        axes.axvspan(0.0, self.duration_s, alpha=0.12, color="black", label=str(self))
        axes.set(xlabel="time since the begin [s]", ylabel="power [W]")
        axes.set_ylim(bottom=0.0)
        axes.legend(loc="best", fontsize="small")
        return axes

    def __str__(self) -> str:
        if self._trace is None:
            return "a measurement that has not ended"
        gpus, lasted = (
            f"{count(len(self.per_gpu), 'GPU')}, {self.evidence}",
            quantity(self.duration_s, "s", 3),
        )
        if self._sum is None or self.power_w is None:
            return f"energy unknown ({', '.join(self.reasons)}) over {lasted}; {gpus}"
        size, unit = scale_for([self._sum.value_j], "J")
        return (
            f"{quantity(self._sum.value_j, 'J')} ± {significant(self._sum.u95_j / size, 2)} {unit} (95 %), "
            f"mean {quantity(self.power_w, 'W')} over {lasted}; {gpus}"
        )

    def _ended(self) -> PowerTrace:
        if self._trace is None:
            raise RuntimeError("the measured stretch has not ended: ask after the `with` block")
        return self._trace

    @cached_property
    def _estimates(self) -> list[EnergyEstimate]:
        return [self.trace.energy(self.start_ns, self.end_ns, uuid) for uuid in self.trace.gpu_uuids]

    @cached_property
    def _sum(self) -> EnergySum | None:
        return total(self._estimates)


def measure(
    gpus: Sequence[int | str] | None = None,
    *,
    lead_s: float = LEAD_S,
    report: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """The energy of a stretch of code on GPUs, with its uncertainty.

    ::

        with wattcount.measure() as m:
            ...
        print(m.energy_j, m.u95_j, m.power_w)

        @wattcount.measure(report=print)
        def train(): ...

    gpus     indices or UUIDs of NVML; default the GPUs that CUDA_VISIBLE_DEVICES leaves to this process, or all
    lead_s   sampling before and after the stretch [s]: entering and leaving take that long. Below LEAD_S the interval is wider
    report   called with the measurement at its end, for example `print`

    GPU work is asynchronous: wait for it (`torch.cuda.synchronize()`) at the end of the stretch. Everything that the GPU did
    counts, other processes' work too. A stretch of some seconds or more is told best: of shorter ones the interval is wide.
    """
    return Measurement(gpus, lead_s, report)


def results(records_dir: str | Path, *, valid_only: bool = False) -> pd.DataFrame:
    """All runs of a folder of records as a table: one row a run, one column a field of `Result` and each figure by its key;
    `energy/gpu_j_per_output_token_u95_host` and `power/gpu_mean_w_u95_host` are the host's part of their 95 % uncertainty.

    records_dir  e.g. `~/.local/share/wattcount/records`, the default of runs
    valid_only   without runs that broke off or were found invalid
    Nothing is written. Raises FileNotFoundError where there is no such folder.
    """
    from wattcount.result.host_part import PER_TOKEN, WATTS
    from wattcount.result.table import results as read
    from wattcount.result.table import to_arrow

    folder = Path(records_dir).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of records at {folder}")
    rows = [row for row in read(folder, keep=False) if row.valid or not valid_only]
    frame: pd.DataFrame = to_arrow(rows).to_pandas()
    for key in (PER_TOKEN, WATTS):
        frame[f"{key}_u95_host"] = [row.u95_host(key) for row in rows]
    return frame
