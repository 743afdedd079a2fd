"""The table of docs/dataset_format.md: the columns of a data set that are no figures, as the code declares them."""

from __future__ import annotations

from wattcount.dataset import rows
from wattcount.report.units import markdown


def columns() -> str:
    """Each column but those of figures, which docs/metrics.md has."""
    described = rows.describe()
    shown = [name for name in rows.schema().names if name not in rows.columns()]
    return markdown(
        ["column", "type", "what"],
        [[f"`{n}`", str(rows.schema().field(n).type), described[n][1]] for n in shown],
    )
