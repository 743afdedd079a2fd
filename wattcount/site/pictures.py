"""What the pages with pictures need beside the tables: the library that draws, specs, load curves, and a script for each run."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wattcount.dataset.rows import column_of
from wattcount.errors import WattcountError
from wattcount.figures import gallery
from wattcount.figures.comparing import FIGURES as COMPARED
from wattcount.figures.curve_data import Latencies, curves_page, latencies_of
from wattcount.figures.page import drawing, library
from wattcount.figures.run_data import definitions, run_page
from wattcount.records import Record
from wattcount.report.units import count
from wattcount.result.result import OWN
from wattcount.site.shown import shown
from wattcount.site.source import Source
from wattcount.site.tables import Setting
from wattcount.study.comparison import Scatters
from wattcount.study.curves import Curve, curves
from wattcount.study.questions import USUAL_SLO
from wattcount.study.service import bounds_of

RUNS = "runs"
"""Folder of what single runs are drawn from: a page loads one file of it when it is asked for that run."""
SAFE_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
"""Ids that are names of files: those of data sets and of our own runs are."""
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Time of the files in a download: the first that the format knows, so that the same record gives the same bytes."""

MOST_USUAL = 4
"""Curves that are shown to whoever did not choose: a picture of more takes a legend longer than itself on a phone."""

Say = Callable[[str], None]
Script = Callable[[str, Any], str]


def static_files() -> dict[str, str]:
    """Scripts of others and of `wattcount.figures`, by name."""
    return {"vega.js": library(), "draw.js": drawing()}


def pictures() -> dict[str, Any]:
    """Specs and looks for all pages."""
    return {
        "specs": gallery.specs(),
        "themes": gallery.themes(),
        "compared": [
            {"column": column_of(one.key), "title": one.title, "unit": one.unit, "factor": one.factor}
            for one in COMPARED
        ],
    }


def run_files(
    source: Source, script: Script, latencies: dict[str, Latencies], say: Say
) -> Iterator[tuple[str, str | bytes]]:
    """(path, content) of each run that has a record; of a data set's also the record itself. Adds what requests took to `latencies`.

    Records that are in no data set are private: their pages show them, but they cannot be downloaded.
    """
    number, lost = 0, 0
    with source.records() as records:
        for entry, place in records:
            if SAFE_ID.fullmatch(entry.id) is None:
                continue
            try:
                if isinstance(place, WattcountError):
                    raise place
                record = Record.open(place)
                data = run_page(record)
                found = latencies_of(record)
                packed = None if source.dataset is None else _packed(record, entry.id)
            except (WattcountError, OSError) as error:
                lost += 1
                say(f"no page for the run {shown(entry.id)}: {shown(error)}")
                continue
            if found is not None and entry.result.run_id is not None:
                latencies[entry.result.run_id] = found
            data["id"] = entry.id
            data["download"] = None if packed is None else f"{RUNS}/{entry.id}.zip"
            yield f"{RUNS}/{entry.id}.js", script("run", data)
            if packed is not None:
                yield f"{RUNS}/{entry.id}.zip", packed
            number += 1
    if number or lost:
        say(f"{count(number, 'run')} with a page of its own")


def _packed(record: Record, name: str) -> bytes:
    """The record's files as a ZIP. They are compressed themselves."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as file:
        for path in record.files():
            file.writestr(zipfile.ZipInfo(f"{name}/{path.name}", ZIP_DATE), path.read_bytes())
    return sink.getvalue()


def load_curves(settings: Sequence[Setting], latencies: Mapping[str, Latencies]) -> dict[str, Any]:
    """The curves of all settings that were measured at several rates, each with the ids of its settings."""
    cells = [setting.cell for setting in settings if setting.cell is not None]
    ids = {setting.cell.key: setting.id for setting in settings if setting.cell is not None}
    found = curves(cells, Scatters(cells), USUAL_SLO)
    page = curves_page(found, latencies)
    usual = _usual(found)
    for curve, told in zip(found, page["curves"], strict=True):
        for point, at in zip(curve.points, told["points"], strict=True):
            at["id"] = ids[point.cell.key]
        told["usual"] = curve in usual
    return page | {"slo": bounds_of(USUAL_SLO)}


def _usual(found: Sequence[Curve]) -> list[Curve]:
    """Curves that are shown to whoever did not choose: of different models, measured ones of ours with the most points first."""
    measured = [curve for curve in found if curve.first.first.is_measured]
    order = sorted(measured or found, key=lambda curve: (curve.first.first.origin != OWN, -len(curve.points)))
    chosen: dict[str | None, Curve] = {}
    for curve in order:
        chosen.setdefault(curve.first.first.model, curve)
    return list(chosen.values())[:MOST_USUAL]


def write(
    source: Source,
    settings: Sequence[Setting],
    script: Script,
    put: Callable[[str, str | bytes], None],
    say: Say,
) -> None:
    """Writes all of it by `put(path, content)`. `script`: data as a script of the site."""
    for name, text in static_files().items():
        put(f"static/{name}", text)
    put("data/pictures.js", script("pictures", pictures()))
    put("data/definitions.js", script("definitions", definitions()))
    latencies: dict[str, Latencies] = {}
    for path, content in run_files(source, script, latencies, say):
        put(path, content)
    put("data/curves.js", script("curves", load_curves(settings, latencies)))


def remove_old(out: Path) -> None:
    """Removes the scripts and records of runs that an earlier build left: nobody links to them any more."""
    folder = out / RUNS
    if folder.is_dir():
        for file in folder.iterdir():
            if file.suffix in (".js", ".zip") and SAFE_ID.fullmatch(file.stem) and file.is_file():
                file.unlink()
