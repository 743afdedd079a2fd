"""Files of imported results: Parquet, a row a result, with what their sources are and which files they were read from.

The same input gives the same bytes. The sources' titles, addresses and licences are JSON in the file's metadata, under
METADATA_KEY: they hold for every row whose `origin` is that of the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.files import replacing
from wattcount.importers.source import Source
from wattcount.records.intake import opened, parse_json, sha256
from wattcount.result import Result
from wattcount.result.table import of_arrow, to_arrow

METADATA_KEY = b"wattcount.imported"
"""Key of the sources in the metadata of a file."""
FILE_VERSION = 1
"""Version of the file: raised whenever a reader of an earlier one would misread it."""


@dataclass(frozen=True)
class Origin:
    """Where the rows of one source in a file came from.

    source   what is known of the source
    commit   of its repository, where its files are of one that is known
    files    SHA-256 of each file that was read, by its name
    """

    source: Source
    files: Mapping[str, str]
    commit: str | None = None


def hashes(path: Path, name: str) -> dict[str, str]:
    """SHA-256 of a file, or of each file in a folder, by its name. Raises NotStartedError."""
    found = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
    try:
        return {f"{name}/{item.name}" if path.is_dir() else name: sha256(item.resolve()) for item in found}
    except (OSError, WattcountError) as error:
        raise NotStartedError(f"{path} cannot be read: {one_line(error)}") from None


def write(out: Path, results: Sequence[Result], origins: Iterable[Origin]) -> None:
    """Writes results in one step. Raises OSError; then a file that was there before is unchanged."""
    content = {"version": FILE_VERSION, "origins": [_plain(origin) for origin in origins]}
    table = to_arrow(results)
    # A column of a figure that no result has tells nothing.
    empty = [name for name in table.schema.names if "/" in name and table[name].null_count == len(table)]
    table = table.drop_columns(empty).replace_schema_metadata(
        {METADATA_KEY: json.dumps(content, sort_keys=True)}
    )
    with replacing(out) as file:
        pq.write_table(table, file, compression="zstd")


def load(path: Path) -> tuple[list[Result], list[Origin]]:
    """The results of a file, with the name of the file that each was read from, and their origins.

    Raises NotStartedError for a file that `write` cannot have written.
    """
    try:
        with opened(path) as file, pq.ParquetFile(file) as stored:
            text = (stored.schema_arrow.metadata or {}).get(METADATA_KEY)
            if text is None:
                raise NotStartedError(f"{path} holds no imported results; make it with `wattcount import`")
            content = parse_json(text, path)
            if content["version"] != FILE_VERSION:
                raise NotStartedError(
                    f"{path} is of version {content['version']}, this wattcount reads {FILE_VERSION}; import its sources again"
                )
            table = stored.read()
        sources = [None if name is None else Path(name) for name in table["source"].to_pylist()]
        origins = [
            Origin(Source(**item["source"]), item["files"], item["commit"]) for item in content["origins"]
        ]
        return of_arrow(table, sources), origins
    except FileNotFoundError:
        raise NotStartedError(f"{path} does not exist") from None
    except NotStartedError:
        raise
    except (OSError, WattcountError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise NotStartedError(
            f"{path} is damaged: {one_line(error)}; make it again with `wattcount import`"
        ) from None


def named(results: Iterable[Result], path: Path, name: str) -> list[Result]:
    """The results that were read from `path`, as read from `name`: a path of this machine says nothing elsewhere."""
    return [replace(item, source=Path(name)) if item.source == path else item for item in results]


def _plain(origin: Origin) -> dict[str, Any]:
    return {"source": asdict(origin.source), "files": dict(origin.files), "commit": origin.commit}
