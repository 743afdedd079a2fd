"""Makes data/imported/ of what others measured: `python tools/import_outside.py FOLDER [--check]`.

FOLDER holds the files of SETS, below the names that stand there. Only sources whose licence allows it are in SETS. The same
files give the same bytes. --check writes nothing, and fails where a file of data/imported/ is not what FOLDER gives.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wattcount import importers
from wattcount.errors import WattcountError
from wattcount.importers import file
from wattcount.importers.file import Origin
from wattcount.importers.source import Setting
from wattcount.result import Result

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "imported"
LICENCES = ("Apache-2.0", "BSD-3-Clause", "MIT")
"""Licences under which rows are passed on here."""


@dataclass(frozen=True)
class Set:
    """One file of data/imported/.

    source   name of the importer
    paths    below FOLDER
    facts    that stand elsewhere than in the files, for each result: where, in words, is `stands_in`
    """

    source: str
    paths: tuple[str, ...]
    setting: Setting | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    stands_in: str = ""


H200 = "NVIDIA H200"
SETS = (
    Set(
        "mlenergy",
        (
            "outside/mlenergy_v1_v2/v1_flat.csv",
            "outside/mlenergy_v1_v2/v2_flat.csv",
            "mlenergy_v3/llm_h100.csv",
        ),
    ),
    Set(
        "mlperf",
        ("mlperf_v4.1/llama2-70b-99/Offline", "mlperf_v4.1/llama2-70b-99/Server"),
        setting=Setting(model="llama2-70b-99", gpu=H200, num_gpus=8, kind=None),
        fields={"model": "llama2-70b-99", "gpu": "h200", "gpus": (H200,) * 8},
        stands_in="model and 8 GPUs (SXM, MaxQ) are those of the submission's folder; the logs do not name them",
    ),
    Set("llm-inference-bench", ("outside/llm-inference-bench/power_results.csv",)),
    Set(
        "joulebench",
        (
            "outside/joulebench/combined_results.csv",
            "outside/joulebench/energy_bench_pythia_combined.csv",
        ),
    ),
    Set("tokenpowerbench", ("outside/tokenpowerbench/results_flat.csv",)),
    Set("splitwise", ("outside/splitwise/perf_model.csv",)),
)

README = """\
# Results of others

What others measured, as results: other GPUs than ours. Made by `python tools/import_outside.py FOLDER` of the files that the
sources publish; the same files give the same bytes. `wattcount.importers.file.load` reads them, as does any reader of Parquet;
title, address, licence and the SHA-256 of each file that was read are in the metadata of each. The commit that a file was taken from
is not known.

Nothing is pooled with our own: `origin` is `imported:<source>`, `setting_key` is null, and what the source does not tell is null. What the
window was, which tokens count and what was derived stands in `notes` of each row; docs/importing.md says how each source is read.

| file | of | licence | rows | with J per output token | GPUs |
| --- | --- | --- | --- | --- | --- |
{rows}

By their licences: the copyright of the rows is that of the authors named above. Apache-2.0, BSD-3-Clause and MIT ask that their names and
notices stay with the data; the values were converted to other units and names, and nothing else.
"""


def made(folder: Path, item: Set) -> tuple[list[Result], Origin]:
    """The results of a set, and their origin."""
    importer = importers.named(item.source)
    assert importer.SOURCE.licence in LICENCES
    results: list[Result] = []
    hashes: dict[str, str] = {}
    for name in item.paths:
        found = importer.results(folder / name)
        results += [_with_facts(result, item) for result in file.named(found, folder / name, name)]
        hashes |= file.hashes(folder / name, name)
    return results, Origin(importer.SOURCE, hashes)


def _with_facts(result: Result, item: Set) -> Result:
    if item.setting is None:
        return result
    return replace(
        result, **item.fields, setting=item.setting.content(), notes=(*result.notes, item.stands_in)
    )


def write_all(folder: Path, out: Path) -> None:
    rows = []
    for item in SETS:
        results, origin = made(folder, item)
        name = f"{item.source}.parquet"
        file.write(out / name, results, [origin])
        rows.append(_row(name, origin, results))
    (out / "README.md").write_text(README.format(rows="\n".join(rows)))


def _row(name: str, origin: Origin, results: Sequence[Result]) -> str:
    source = origin.source
    gpus = sorted({result.gpu or next(iter(result.gpus), "?") for result in results})
    per_token = (
        result.value("energy/gpu_j_per_output_token") or result.value("energy/wall_j_per_output_token")
        for result in results
    )
    title = f"[{source.title}]({source.url})" if source.url else source.title
    cells = (
        f"`{name}`",
        title,
        str(source.licence),
        f"{len(results):,}",
        f"{sum(value is not None for value in per_token):,}",
        ", ".join(gpus),
    )
    return f"| {' | '.join(cells)} |"


def different(folder: Path, out: Path) -> list[str]:
    """Names of the files of `out` that are not what `folder` gives."""
    with tempfile.TemporaryDirectory() as place:
        fresh = Path(place)
        write_all(folder, fresh)
        return [
            item.name
            for item in sorted(fresh.iterdir())
            if not (out / item.name).is_file() or (out / item.name).read_bytes() != item.read_bytes()
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    try:
        if args.check:
            wrong = different(args.folder, OUT)
            print(f"not as {args.folder} gives it: {', '.join(wrong)}" if wrong else "as it should be")
            return 1 if wrong else 0
        OUT.mkdir(parents=True, exist_ok=True)
        write_all(args.folder, OUT)
    except WattcountError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
