"""A page with pictures that stands alone: it opens from disk, is zoomed with the mouse, and loads nothing."""

from __future__ import annotations

import html
import importlib.resources
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wattcount.figures import theme

if TYPE_CHECKING:
    from wattcount.figures.figure import Figure

HINT = "Drag to move along time, shift and wheel to zoom, double click to see all."
"""What is said of pictures that can be zoomed."""


def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets `vegaEmbed`; of the installed vl-convert.

    In a function of its own: its hundreds of short names would take the place of a page's.
    """
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub asks for a snippet, the function does not
    return f"(() => {{\n{bundle}\n}})();\n"


def drawing() -> str:
    """The script that draws a spec with data that is there: `WattcountFigures.draw`."""
    return importlib.resources.files("wattcount.figures").joinpath("draw.js").read_text(encoding="utf-8")


def in_script(data: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script or begins a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(title: str, figures: Sequence[Figure]) -> str:
    """The page: pictures below each other, light or dark as the reader's system is."""
    pictures = [
        {"spec": figure.labelled, "data": figure.data, "description": figure.description}
        for figure in figures
    ]
    told = {"pictures": pictures, "light": theme.config(), "dark": theme.config(dark=True)}
    return _PAGE.format(
        title=html.escape(title),
        hint=HINT,
        library=_script(library()),
        drawing=drawing(),
        told=in_script(told),
    )


def _script(text: str) -> str:
    """A script's text, for a page: what would end it stands in strings alone, where the backslash changes nothing."""
    return text.replace("</script", "<\\/script")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; padding: 0 1rem; max-width: 64rem; background: light-dark(#fff, #14181d); color: light-dark(#1d2530, #e8ecf1); }}
h1 {{ font-size: 1.2rem; overflow-wrap: anywhere; }}
.picture {{ margin: 1.5rem 0; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{hint}</p>
</main>
<script>{library}</script>
<script>{drawing}</script>
<script>
(() => {{
  const told = {told};
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const mounts = told.pictures.map(() => {{
    const mount = document.createElement("div");
    mount.className = "picture";
    document.querySelector("main").append(mount);
    return mount;
  }});
  const draw = () => told.pictures.forEach((picture, at) => WattcountFigures.draw(mounts[at], {{ ...picture, config: dark.matches ? told.dark : told.light, dark: dark.matches }}));
  dark.addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {{ if (innerWidth !== width) {{ width = innerWidth; draw(); }} }});
  draw();
}})();
</script>
</body>
</html>
"""
