"""Builds the pages of a source: `build(source, out)`."""

from __future__ import annotations

import base64
import gzip
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from wattcount import __version__
from wattcount.dataset.rows import column_of
from wattcount.dataset.tiers import MARGIN, MIN_STARTS
from wattcount.errors import NotStartedError
from wattcount.files import replacing
from wattcount.metrics.metrics_json import FINDINGS, IMPORTED, METRICS, NULL_REASONS
from wattcount.metrics.sheet import MetricSpec
from wattcount.records.schema import Evidence
from wattcount.report.labels import EMULATED, PREDICTED
from wattcount.report.units import count, quantity, significant
from wattcount.result.result import OWN
from wattcount.site import advice, answers, api, facts, pictures, submissions
from wattcount.site.columns import FIGURES
from wattcount.site.pages import PAGES, Page
from wattcount.site.shown import in_script, plain, shown, to_json
from wattcount.site.source import Source
from wattcount.site.tables import PLAIN, Setting, run_table, setting_table, settings_of
from wattcount.site.ties import MOST_RANKED
from wattcount.study.advice import MOST_REGRET
from wattcount.study.answers import NOTHING
from wattcount.study.curves import KNEE_SHARE
from wattcount.study.questions import USUAL_SLO, slo_words
from wattcount.study.service import KEPT_SHARE

STATIC, DATA, API = "static", "data", "api"
"""Folders of a site: styles and scripts, tables as scripts, and the same as JSON."""
GLOBAL = "WATTCOUNT"
"""The object that the scripts in `data/` add their table to."""
PACKAGE = "wattcount.site"

MOST_ROWS = 60
"""Rows of an answer on the page of findings: three screens. The API has them all."""

Say = Callable[[str], None]


def build(source: Source, out: Path, say: Say = lambda _: None) -> None:
    """Writes all pages below `out`. The same source gives the same bytes. Files of other names in `out` stay.

    Raises NotStartedError where `out` cannot be written.
    """
    settings = settings_of(source)
    say(f"{count(len(settings), 'setting')} of {count(len(source.entries), 'result')}")
    answered = answers.groups(source)
    advised = advice.advised(source)
    submitted = submissions.submissions(source)
    ids = {setting.cell.key: setting.id for setting in settings if setting.cell is not None}
    contents = {
        "settings.json": setting_table(settings, PLAIN).to_json(),
        "results.json": run_table(settings, PLAIN).to_json(),
        "answers.json": [answer for group in answered for answer in group.to_json()],
        "advice.json": [one.to_json() for one in advised],
        "submissions.json": [one.to_json() for one in submitted],
        "metrics.json": api.metrics(),
        "findings.json": api.findings(),
    }
    context = _context(source, settings) | {
        "groups": answered,
        "advised": advised,
        "submissions": submitted,
        "api_version": api.version_name(source),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / DATA / "meta.js", _script("meta", meta(source, settings)))
        _write(out / DATA / "settings.js", _packed("settings", setting_table(settings).coded()))
        _write(out / DATA / "rows.js", _packed("rows", run_table(settings).coded()))
        _write(out / DATA / "advice.js", _packed("advice", [one.for_page(ids) for one in advised]))
        for file, content in _static_files().items():
            _write(out / STATIC / file, content)
        pictures.remove_old(out)
        pictures.write(source, settings, _packed, lambda path, content: _write(out / path, content), say)
        for file, text in api.files(source, contents, out / API).items():
            _write(out / API / file, text)
        for page in PAGES:
            _write(out / page.file, _rendered(page, context))
    except OSError as error:
        raise NotStartedError(f"{out} cannot be written ({error}); give a folder that can") from error


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _script(name: str, data: Any) -> str:
    return f"(window.{GLOBAL} ??= {{}}).{name} = {in_script(data)};\n"


def _packed(name: str, data: Any) -> str:
    """As `_script`, a fifth as long: as gzip in base64, which `data.js` unpacks."""
    text = base64.b64encode(gzip.compress(to_json(data).encode(), mtime=0)).decode()
    return f'((window.{GLOBAL} ??= {{}}).packed ??= {{}}).{name} = "{text}";\n'


def _static_files() -> dict[str, bytes]:
    folder = importlib.resources.files(PACKAGE) / STATIC
    return {
        item.name: item.read_bytes()
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.is_file()
    }


def meta(source: Source, settings: Sequence[Setting]) -> dict[str, Any]:
    """What the scripts of all pages know: the pages, the figures of tables, and facts on models and GPUs."""
    return {
        "name": shown(source.name),
        "version": None if source.version is None else source.version.number,
        "date": source.date,
        "pages": [page.name for page in PAGES],
        "figures": [
            {"key": f.column, "heading": f.heading, "unit": f.unit, "factor": f.factor} for f in FIGURES
        ],
        "models": facts.models(settings),
        "gpus": facts.gpus(settings),
        "caveats": {Evidence.EMULATED.value: EMULATED, Evidence.PREDICTED.value: PREDICTED},
    }


# -- templates


@cache
def environment() -> Environment:
    """All text that comes in is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "shown": shown,
        "significant": significant,
        "quantity": quantity,
        "count": count,
        "plain": plain,
    }
    return made


def _rendered(page: Page, context: Mapping[str, Any]) -> str:
    return environment().get_template(page.template).render(page=page, **context)


def _context(source: Source, settings: Sequence[Setting]) -> dict[str, Any]:
    """What every template may use."""
    results = source.results
    valid = [result for result in results if result.valid]
    return {
        "pages": PAGES,
        "page_of": {page.name: page for page in PAGES},
        "source": source,
        "figures": FIGURES,
        "made_by": __version__,
        "counts": {
            "results": len(results),
            "invalid": len(results) - len(valid),
            "settings": len(settings),
            "repeated": sum(setting.cell is not None and len(setting.cell.runs) > 1 for setting in settings),
            "told": sum(
                setting.estimate is not None and setting.estimate.low is not None for setting in settings
            ),
            "models": len({result.model for result in results}),
            "gpus": len({name for result in results for name in result.gpus}),
            "boards": len({board for result in results for board in result.boards}),
            "submitters": len({result.by or result.origin for result in results}),
            "own": sum(result.origin == OWN for result in results),
            **{
                evidence.value: sum(result.evidence is evidence for result in results)
                for evidence in Evidence
            },
            "random": sum(result.weights_kind == "random" for result in results),
        },
        "told": answers.told,
        "numbers": answers.numbers,
        "nothing": NOTHING,
        "metrics": _by_group(),
        "findings": FINDINGS,
        "null_reasons": NULL_REASONS,
        "column_of": column_of,
        "slo": slo_words(USUAL_SLO),
        "kept_share": KEPT_SHARE,
        "knee_share": KNEE_SHARE,
        "most_regret": MOST_REGRET,
        "margin": MARGIN,
        "min_starts": MIN_STARTS,
        "most_ranked": MOST_RANKED,
        "most_rows": MOST_ROWS,
    }


def _by_group() -> dict[str, list[tuple[str, MetricSpec]]]:
    """The registry of figures, by the first word of their keys; what only imported results have stands last."""
    found: dict[str, list[tuple[str, MetricSpec]]] = {}
    for key, spec in METRICS.items():
        found.setdefault(key.partition("/")[0].replace("_", " "), []).append((key, spec))
    found["of imported results only"] = [(key, spec) for key, spec in IMPORTED.items() if key not in METRICS]
    return found
