"""The data card: what a data set holds, how it came about and what it is not, with figures from its rows. As Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wattcount.dataset.croissant import COLLECTED, CROISSANT, DESCRIPTION, LIMITS, croissant
from wattcount.dataset.query import answer, connected
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD, Version, plain
from wattcount.report.units import markdown, significant

if TYPE_CHECKING:
    import duckdb

CARD = "README.md"
"""Name of the card: what hubs and Git hosts show of a folder."""
HERE = "./"
"""Address of a data set that does not say where it is published: beside the file. A path of the machine would tell its user's name."""
_DASH = "-"


def write_card(dataset: Dataset) -> list[str]:
    """Writes card and Croissant file of the latest version into the data set. Returns their names."""
    version = dataset.latest()
    with connected(dataset, version) as connection:
        licences = [
            str(row[0]) for row in _rows(connection, "SELECT DISTINCT licence FROM results ORDER BY 1")
        ]
        dataset.put(CARD, card(version, connection).encode())
    dataset.put(CROISSANT, croissant(version, version.url or HERE, licences or ["CC-BY-4.0"]))
    return [CARD, CROISSANT]


def card(version: Version, connection: duckdb.DuckDBPyConnection) -> str:
    """The text of the card. `connection`: to the version's rows."""
    total, valid, boards, settings, first, last = _rows(
        connection,
        "SELECT count(*), count(*) FILTER (status = 'valid'), "
        "(SELECT count(DISTINCT board) FROM (SELECT unnest(boards) AS board FROM results)), "
        "count(DISTINCT setting_key), min(started_utc), max(started_utc) FROM results",
    )[0]
    published = f", {plain(version.url)}" if version.url else ""
    additions = [change for change in version.changes if change.what == ADD]
    withdrawn = sum(len(change.results) for change in version.changes)
    parts = [
        f"# {plain(version.name)}",
        DESCRIPTION,
        markdown(
            ["what", "is"],
            [
                ["version", f"{version.number}, {version.changes[-1].date}"],
                ["published at", plain(version.url or "not said")],
                ["evidence", f"{version.evidence.value}, all of it"],
                ["results", f"{total}, of which {valid} valid"],
                ["settings", f"{settings}"],
                ["boards", f"{boards}, as pseudonyms"],
                ["measured from, to", f"{_day(first)} to {_day(last)}"],
                ["submissions", f"{len(additions)}, of {len({c.handle for c in additions})} submitters"],
                ["withdrawn", f"{withdrawn} results (CHANGELOG.md says which and why)"],
            ],
        ),
        "## What is in it",
        *(_table(connection, head, sql) for head, sql in TABLES),
        "## How sure the figures are",
        _sure(connection),
        "## How it came about",
        COLLECTED,
        "A submission is accepted, flagged (a person has looked at it) or rejected by the rules of wattcount's validator; `submissions/` has each verdict with its figures. "
        "Board and host are pseudonyms made with the submitter's own key: the same board is recognised within his submissions, and nobody can go back from it. A row is never changed; it can "
        "be withdrawn with a reason.",
        "## What it is not",
        LIMITS,
        "Who measures and what is measured is no sample of anything: count by setting before you average over rows. Runs with `status` other than `valid` are here so that nobody "
        "measures them again in vain; leave them out of every mean. Weights that are `random` are not pooled with real ones, for power depends on the values. Results of another `origin` "
        "than `wattcount` are a source's own figures (`decision` is `imported`): no record that could be computed again; their definitions and windows differ, as `notes` say, and `instrument` says what their energy is of.",
        "## Reading it",
        "```sql\nSELECT model, gpus[1] AS gpu, kind, rate_rps, median(energy_gpu_j_per_output_token) AS j_per_token\n"
        "FROM read_parquet('results/*.parquet', union_by_name = true) WHERE status = 'valid' GROUP BY ALL\n```",
        '`pandas.read_parquet("results")` and `polars.read_parquet("results/*.parquet")` read the same rows. `wattcount dataset query` does it from anywhere, and compares the files with their hashes.',
        "## Licence and citation",
        _table(
            connection,
            ["licence", "results", "of"],
            "SELECT licence, count(*), array_to_string(list_sort(list_distinct(list(coalesce(measured_by, origin)))), ', ') FROM results GROUP BY 1 ORDER BY 1",
        ),
        f"Cite as: {plain(version.name)}, version {version.number}, {version.changes[-1].date}{published}. Name the submitters of the rows that you use (`measured_by`).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_PER_TOKEN = "median(energy_gpu_j_per_output_token) FILTER (status = 'valid')"
TABLES: tuple[tuple[list[str], str], ...] = (
    (
        ["origin", "instrument", "results", "valid", "with J per output token"],
        "SELECT origin, instrument, count(*), count(*) FILTER (status = 'valid'), count(coalesce(energy_gpu_j_per_output_token, energy_wall_j_per_output_token)) "
        "FROM results GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
    ),
    (
        ["GPU", "GPUs", "results", "valid", "models", "median J per output token"],
        f"SELECT coalesce(gpus[1], gpu), len(gpus), count(*), count(*) FILTER (status = 'valid'), count(DISTINCT model), {_PER_TOKEN} "
        "FROM results GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
    ),
    (
        ["load", "requests/s", "results", "valid"],
        "SELECT kind, rate_rps, count(*), count(*) FILTER (status = 'valid') FROM results GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    (
        ["model", "weights", "results", "valid", "GPU models"],
        "SELECT model, weights, count(*), count(*) FILTER (status = 'valid'), count(DISTINCT coalesce(gpus[1], gpu)) FROM results GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
    ),
    (
        ["engine", "version", "results"],
        "SELECT engine, engine_version, count(*) FROM results GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
    ),
)
"""Head and query of each table of what is in a data set."""


def _sure(connection: duckdb.DuckDBPyConnection) -> str:
    count, low, middle, high = _rows(
        connection,
        "SELECT count(share), quantile_cont(share, 0.05), median(share), quantile_cont(share, 0.95) FROM "
        "(SELECT 100 * energy_gpu_j_u95 / energy_gpu_j AS share FROM results WHERE status = 'valid' AND energy_gpu_j > 0)",
    )[0]
    if not count:
        return "No valid result has the energy of its GPUs with an uncertainty."
    lacking = _rows(
        connection,
        "SELECT count(*) FROM results WHERE status = 'valid' AND (energy_gpu_j_u95 IS NULL OR energy_gpu_j IS NULL)",
    )[0][0]
    return (
        f"Of the {count} valid results whose energy has a 95 % uncertainty (by method and sensor), it is {significant(low, 2)} to {significant(high, 2)} % of the energy (5th to 95th "
        f"percentile; median {significant(middle, 2)} %). {lacking} valid results have none."
    )


def _table(connection: duckdb.DuckDBPyConnection, head: list[str], sql: str) -> str:
    return markdown(head, [[_cell(value) for value in row] for row in _rows(connection, sql)])


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    table = answer(connection, sql)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return _DASH
    if isinstance(value, float):
        return significant(value, 3)
    return plain(str(value))


def _day(stamp: str | None) -> str:
    return _DASH if stamp is None else plain(stamp[:10])
