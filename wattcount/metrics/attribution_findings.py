"""What a record says against applying its attribution elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wattcount.metrics.clocks import load_clocks
from wattcount.metrics.findings import Finding
from wattcount.metrics.transfer import CLOCK_TOLERANCE_SHARE

if TYPE_CHECKING:
    from wattcount.metrics.window import Window
    from wattcount.records import Record


def slowed(record: Record, window: Window) -> Iterator[Finding]:
    """Prices of prefill and decode that were fitted at slowed clocks, whatever slowed them."""
    clocks = load_clocks(record, window)
    if clocks.slowdown is None or clocks.slowdown <= CLOCK_TOLERANCE_SHARE:
        return
    why = " and ".join(clocks.slowed_by) or "something that NVML does not name"
    yield Finding(
        "attribution_at_slowed_clocks",
        clocks.slowdown,
        CLOCK_TOLERANCE_SHARE,
        "1",
        f"{why} slowed the SM clock to {clocks.mean_mhz:.0f} MHz on average, {clocks.slowdown:.1%} below its highest: the energy of "
        "prefill and decode is that of this load at these clocks, and says nothing of a lighter load or of one token or step elsewhere",
        False,
    )
