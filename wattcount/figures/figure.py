"""A picture: a Vega-Lite spec that names its data, and the data. Notebooks show it; PNG, SVG and HTML are made offline.

A spec has no data, colours or fonts in it, so that the pages draw the same pictures from data of their own, light or dark
(`wattcount.figures.gallery`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.errors import NotStartedError
from wattcount.figures import theme
from wattcount.figures.page import page
from wattcount.files import write_atomically

Row = Mapping[str, Any]
Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""Names the language of a spec; nothing is fetched from there."""
VEGA_LITE = "6.4"
"""Vega-Lite that pictures are drawn with: the latest that vl-convert 1.9 has."""
MIME = "application/vnd.vegalite.v6+json"
"""What JupyterLab, VS Code and others draw themselves."""
SCALE = 2.0
"""Pixels of a PNG to a pixel of the spec: sharp on screens of today."""
FORMATS = ("png", "svg", "html", "json")
"""What a picture can be saved as."""


@dataclass(frozen=True)
class Figure:
    """A picture.

    name         of its spec, the same for all pictures of this kind
    spec         Vega-Lite without data; each of its parts names one of `data`
    data         rows by name
    description  what a reader is told who does not see it
    caveats      sentences that belong to all of its figures, and stand on it: `report.labels.caveats`
    """

    name: str
    spec: Mapping[str, Any]
    data: Mapping[str, Sequence[Row]]
    description: str
    caveats: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(self.data.values())

    @property
    def labelled(self) -> Mapping[str, Any]:
        """The spec with the caveats in its title."""
        if not self.caveats:
            return self.spec
        title = self.spec.get("title")
        whole = (
            {"text": list(self.caveats)} if title is None else {"text": title, "subtitle": list(self.caveats)}
        )
        return {**self.spec, "title": whole}

    def to_spec(self, dark: bool = False, still: bool = False) -> Spec:
        """The whole spec, with data and colours: for any Vega-Lite of version 6. `still`: without what only a pointer shows."""
        whole = without_empty(self.labelled, self.data, still)
        return {
            "$schema": SCHEMA,
            "description": self.description,
            **whole,
            "datasets": {name: [dict(row) for row in rows] for name, rows in self.data.items()},
            "config": theme.config(dark),
        }

    def to_png(self, dark: bool = False, scale: float = SCALE) -> bytes:
        import vl_convert

        return bytes(
            vl_convert.vegalite_to_png(self.to_spec(dark, still=True), vl_version=VEGA_LITE, scale=scale)
        )

    def to_svg(self, dark: bool = False) -> str:
        import vl_convert

        return str(vl_convert.vegalite_to_svg(self.to_spec(dark, still=True), vl_version=VEGA_LITE))

    def to_html(self) -> str:
        """A page of its own that can be zoomed and needs no network."""
        return page(self.description, [self])

    def save(self, path: str | Path) -> Path:
        """Writes the picture in the format of the name's ending (FORMATS), in one step; returns the path.

        Raises `NotStartedError` for another ending; OSError where it cannot be written.
        """
        target = Path(path)
        match target.suffix.removeprefix(".").lower():
            case "png":
                content = self.to_png()
            case "svg":
                content = self.to_svg().encode()
            case "html":
                content = self.to_html().encode()
            case "json":
                content = json.dumps(self.to_spec(), allow_nan=False).encode()
            case _:
                raise NotStartedError(
                    f"{target}: a picture is one of .{', .'.join(FORMATS)}; give one of these endings"
                )
        write_atomically(target, content)
        return target

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        """What notebooks show: the spec where they can draw it, else the PNG."""
        import base64

        return {
            MIME: self.to_spec(),
            "image/png": base64.b64encode(self.to_png()).decode(),
            "text/plain": f"<{self.name}: {self.description}>",
        }


POINTER = "_pointer"
"""Ending of the names of layers that show what is under the pointer, and nothing without one."""


def without_empty(spec: Mapping[str, Any], data: Mapping[str, Sequence[Row]], still: bool = False) -> Spec:
    """The spec without the panels and layers whose data has no row, and without the legends of one line. `still`: without layers of
    the pointer."""
    kept: Spec = {}
    for key, part in spec.items():
        if key in ("vconcat", "hconcat", "layer"):
            kept[key] = [
                without_empty(child, data, still)
                for child in part
                if not _is_empty(child, data) and not (still and child.get("name", "").endswith(POINTER))
            ]
        else:
            kept[key] = copy.deepcopy(part)
    if (name := spec.get("data", {}).get("name")) and len(
        {row.get("what") for row in data.get(name, ())}
    ) == 1:
        _drop_legends(kept)
    names = _names(kept)
    for param in kept.get("params", ()):
        if "views" in param:
            param["views"] = [view for view in param["views"] if view in names]
    return kept


def _drop_legends(spec: Spec) -> None:
    """One line needs no legend."""
    for part in (spec, *spec.get("layer", ())):
        if "legend" in part.get("encoding", {}).get("color", {}):
            part["encoding"]["color"]["legend"] = None


def _names(spec: Mapping[str, Any]) -> set[Any]:
    """Of the parts of a spec."""
    children = [child for key in ("vconcat", "hconcat", "layer") for child in spec.get(key, ())]
    return {spec.get("name")}.union(*map(_names, children))


def _is_empty(spec: Mapping[str, Any], data: Mapping[str, Sequence[Row]]) -> bool:
    """Whether the part has data by name, and that is empty."""
    name = spec.get("data", {}).get("name")
    return name is not None and not data.get(name)
