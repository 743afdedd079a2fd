"""`api/`: the same rows as JSON, in folders of dated versions, with an OpenAPI description.

    api/index.json            the versions, the newest first
    api/openapi.json          what the files are
    api/<version>/*.json      one version; it never changes once it is published

A later schema may add files, keys and columns, and never changes what one means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wattcount import __version__
from wattcount.dataset.rows import column_of
from wattcount.metrics.metrics_json import FINDINGS, IMPORTED, METRICS
from wattcount.site.shown import to_json
from wattcount.site.source import Source

SCHEMA_VERSION = 1
"""Of the files: raised where a key changes its meaning, which none has so far."""
VERSION_JSON, INDEX_JSON, OPENAPI_JSON = "version.json", "index.json", "openapi.json"
NAME = re.compile(r"\d{4}-\d{2}-\d{2}(?:-v\d+)?|undated")
"""What the folder of a version is called: the day of its newest change, and the number in the data set."""

TABLE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["columns", "units", "rows"],
    "properties": {
        "columns": {"type": "array", "items": {"type": "string"}, "description": "names, in the order of the values of a row"},
        "units": {"type": "object", "additionalProperties": {"type": "string"}, "description": "by column"},
        "rows": {"type": "array", "items": {"type": "array"}, "description": "null: not measured"},
    },
}  # fmt: skip

FILES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "settings.json": ("Settings, each with its repeats pooled and the 95 % interval of its energy per output token", TABLE_SCHEMA),
    "results.json": ("Single results; `setting` is the id of a row of settings.json, `id` never changes", TABLE_SCHEMA),
    "answers.json": ("The standing questions of each origin: sentence, how sure, rows", {"type": "array", "items": {"type": "object", "required": ["of", "name", "question", "answer", "sure", "notes", "rows"]}}),
    "advice.json": ("What should serve each model at common loads", {"type": "array", "items": {"type": "object", "required": ["model", "load", "bounds", "refusal", "expected_regret", "options"]}}),
    "submissions.json": ("Who submitted what, and what the validator said", {"type": "array", "items": {"type": "object", "required": ["submission", "handle", "date", "decision", "num_results"]}}),
    "metrics.json": ("What each figure is, by the name of its column", {"type": "object", "additionalProperties": {"type": "object", "required": ["key", "unit", "definition", "better"]}}),
    "findings.json": ("What a run is held against, by the code of a finding", {"type": "object", "additionalProperties": {"type": "object"}}),
}  # fmt: skip
"""The files of a version: what each is, and its schema."""


def version_name(source: Source) -> str:
    """`2026-11-28-v11`; without a data set only the day of the newest run."""
    day = source.date if re.fullmatch(r"\d{4}-\d{2}-\d{2}", source.date) else ""
    number = f"-v{source.version.number}" if source.version is not None and day else ""
    return f"{day}{number}" or "undated"


def files(source: Source, contents: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The files of `folder`, by their paths in it, beside those of earlier versions that lie there.

    contents   what each of FILES holds
    """
    name = version_name(source)
    about = {
        "version": name,
        "name": source.name,
        "date": source.date or None,
        "dataset_version": None if source.version is None else source.version.number,
        "results": len(source.entries),
        "schema_version": SCHEMA_VERSION,
        "made_by": f"wattcount {__version__}",
        "files": list(FILES),
    }
    versions = {**_earlier(folder), name: about}
    made = {f"{name}/{file}": to_json(contents[file]) + "\n" for file in FILES}
    made[f"{name}/{VERSION_JSON}"] = _indented(about)
    made[INDEX_JSON] = _indented(
        {
            "name": source.name,
            "schema_version": SCHEMA_VERSION,
            "latest": name,
            "openapi": OPENAPI_JSON,
            "versions": [versions[one] for one in sorted(versions, key=_order, reverse=True)],
        }
    )
    made[OPENAPI_JSON] = _indented(openapi(sorted(versions, key=_order, reverse=True)))
    return made


def _order(name: str) -> tuple[str, int]:
    day, _, number = name.partition("-v")
    return day, int(number or 0)


def _indented(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _earlier(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What earlier versions say of themselves. Folders that are none of ours are passed over."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob(f"*/{VERSION_JSON}")):
        try:
            about = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if (
            NAME.fullmatch(path.parent.name)
            and isinstance(about, dict)
            and about.get("version") == path.parent.name
        ):
            found[path.parent.name] = about
    return found


def metrics() -> dict[str, Any]:
    """Every figure by the name of its column, from the registry."""
    return {
        column_of(key): {"key": key, "unit": spec.unit, "definition": spec.description, "better": spec.better}
        for key, spec in (METRICS | IMPORTED).items()
    }


def findings() -> dict[str, Any]:
    """Every kind of finding by its code, from the registry."""
    return {
        code: {"unit": spec.unit, "figure": spec.figure, "limit": spec.limit, "invalidates": spec.invalidates, "why": spec.why, "to_do": spec.to_do}
        for code, spec in FINDINGS.items()
    }  # fmt: skip


def openapi(versions: Sequence[str]) -> dict[str, Any]:
    """An OpenAPI 3.1 description of static files."""

    def get(what: str, schema: Mapping[str, Any], of_version: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "summary": what,
            "responses": {"200": {"description": what, "content": {"application/json": {"schema": schema}}}},
        }
        if of_version:
            found["parameters"] = [
                {
                    "name": "version",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "enum": list(versions)},
                }
            ]
        return {"get": found}

    paths = {
        f"/{INDEX_JSON}": get(
            "The versions, the newest first", {"type": "object", "required": ["latest", "versions"]}, False
        )
    }
    paths |= {f"/{{version}}/{file}": get(what, schema, True) for file, (what, schema) in FILES.items()}
    paths[f"/{{version}}/{VERSION_JSON}"] = get(
        "What a version is", {"type": "object", "required": ["version", "date", "results"]}, True
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Results of wattcount",
            "version": str(SCHEMA_VERSION),
            "description": "Static files: rows with ids that never change. A figure is in the unit at the end of its column's name.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
    }
