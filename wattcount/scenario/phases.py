"""The phases of a run and their bounds."""

from __future__ import annotations

from collections.abc import Callable

from wattcount.clock import now_ns
from wattcount.records.schema import Phase, PhaseSpan


class PhaseRunner:
    """Keeps the books on phases; the only place that makes a `PhaseSpan`.

    ::

        bare_idle | engine_start |   | loaded_idle | warmup |   window   | drain | loaded_idle_after |   | bare_idle_after
        ----------+--------------+---+-------------+--------+------------+-------+-------------------+---+----------------> t
        no engine   loading        ^   up, no load   load     what counts  no new   up, no load        ^   no engine
                                   |                                       sends                       |
                          prompts are made                                                     the engine ends

        server   warmup and window begin and end at *planned* times: load start + scenario.warmup_s, + window_s
        batch    the window is from the first actual send to the last token; the drain is empty

    At each bound `mark` is called (the sampler reads every source at once, so that interpolation has a
    point there), then `on_bound`. A phase that was not ended when the run broke off has `end_ns` None.
    """

    def __init__(self, mark: Callable[[], None], on_bound: Callable[[], None]) -> None:
        self._mark = mark
        self._on_bound = on_bound
        self.spans: list[PhaseSpan] = []
        self.planned_s: float | None = None
        """How long the current phase is going to be, where that is known."""
        self.limit_s: float | None = None
        """How long it may be at most, where that is known."""

    @property
    def current(self) -> PhaseSpan | None:
        """The phase that goes on; None between phases."""
        return self.spans[-1] if self.spans and self.spans[-1].end_ns is None else None

    def begin(
        self,
        phase: Phase,
        planned_s: float | None = None,
        *,
        limit_s: float | None = None,
        at_ns: int | None = None,
    ) -> None:
        """Begins a phase, by default now; the one before, if it goes on, ends at the same moment."""
        at_ns = now_ns() if at_ns is None else at_ns
        self._close(at_ns)
        self.spans.append(PhaseSpan(phase, at_ns, None))
        self.planned_s = planned_s
        self.limit_s = limit_s
        self._bound()

    def end(self, at_ns: int | None = None, *, start_ns: int | None = None) -> None:
        """Ends the current phase, by default now. `start_ns` corrects its beginning, known only afterwards."""
        current = self.current
        assert current is not None, "no phase goes on"
        if start_ns is not None:
            current.start_ns = start_ns
        self._close(now_ns() if at_ns is None else at_ns)
        self.planned_s = self.limit_s = None
        self._bound()

    def _close(self, at_ns: int) -> None:
        current = self.current
        if current is not None:
            if at_ns < current.start_ns:
                raise ValueError(f"{current.phase} cannot end before it began")
            current.end_ns = at_ns

    def _bound(self) -> None:
        self._mark()
        self._on_bound()
