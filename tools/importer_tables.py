"""The tables of docs/importing.md: the sources, and the figures that only imported results have, as the code declares them."""

from __future__ import annotations

from wattcount.importers import IMPORTERS
from wattcount.metrics.metrics_json import IMPORTED
from wattcount.report.units import markdown


def sources() -> str:
    rows = []
    for importer in IMPORTERS:
        source = importer.SOURCE
        title = f"[{source.title}]({source.url})" if source.url else source.title
        rows.append([f"`{source.name}`", title, source.licence or "none stated", source.gives])
    return markdown(["source", "what", "licence", "gives"], rows)


def figures() -> str:
    return markdown(
        ["key", "unit", "definition"],
        [[f"`{key}`", spec.unit, spec.description] for key, spec in IMPORTED.items()],
    )
