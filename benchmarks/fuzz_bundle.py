"""Looks for bundles that break the reader of bundles, guided by which code they reach: atheris (`pip install 'wattcount[fuzz]'`).

    python benchmarks/fuzz_bundle.py [--seconds 60] [CORPUS_FOLDER]

Each input is a bundle, or what a bundle is made of: values of its manifest, names, kinds and contents of the archive's entries. The reader
may take it or say in one line what is wrong with it (`WattcountError`). Anything else that it raises, and a file outside of its folder,
ends the search with the input in `crash-...`. Exit code 0: nothing was found.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_mutated_bundles import Member, compressed, tar, with_manifest

with atheris.instrument_imports(include=["wattcount.dataset.bundle", "wattcount.records.intake"]):
    from wattcount.dataset import bundle as reader
    from wattcount.errors import WattcountError

KINDS = (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.GNUTYPE_SPARSE,
)
POINT = "0123456789ab" + "0" * 52
FOLDER = reader.record_folder(POINT, 0, "run")
NAMES = (
    f"{FOLDER}/run.json",
    f"{FOLDER}/power.parquet",
    f"{FOLDER}/extra",
    "manifest.json",
    "../x",
    "/tmp/x",
    "records",
    "",
)


def made(data: bytes) -> bytes:
    """A file from what the fuzzer gives."""
    source = atheris.FuzzedDataProvider(data)
    how = source.ConsumeIntInRange(0, 3)
    if how == 0:
        return bytes(source.ConsumeBytes(len(data)))
    files = [
        Member(NAMES[number], source.ConsumeBytes(source.ConsumeIntInRange(0, 60)))
        for number in range(source.ConsumeIntInRange(1, 2))
    ]
    members = with_manifest([Member("manifest.json"), *files], manifest(source, files))
    for _ in range(source.ConsumeIntInRange(0, 2) if how > 1 else 0):
        name = (
            source.PickValueInList(list(NAMES))
            if source.ConsumeBool()
            else source.ConsumeUnicodeNoSurrogates(40)
        )
        kind = source.PickValueInList(list(KINDS)) if source.ConsumeBool() else tarfile.REGTYPE
        odd = Member(
            name.replace("\0", "0"),
            b"x" * source.ConsumeIntInRange(0, 600),
            kind,
            source.ConsumeUnicodeNoSurrogates(20).replace("\0", "0"),
        )
        members.insert(source.ConsumeIntInRange(0, len(members)), odd)
    plain = bytearray(tar(members))
    for _ in range(source.ConsumeIntInRange(1, 4) if how == 3 else 0):
        plain[source.ConsumeIntInRange(0, len(plain) - 1)] = source.ConsumeIntInRange(0, 255)
    return compressed(bytes(plain))


def manifest(source: atheris.FuzzedDataProvider, files: list[Member]) -> Any:
    """A whole manifest in which some values are others."""
    found: dict[str, Any] = {
        "schema_version": 1, "handle": "ann", "contact": "ann@example.org", "licence": "CC-BY-4.0", "cohort": None,
        "wattcount_version": "0.1.0", "metrics_version": 1,
        "records": [{"folder": FOLDER, "run_id": "run", "point_id": POINT, "setting_key": "0" * 64, "repeat": 0, "seed": 0}],
        "files": {f.name: {"sha256": hashlib.sha256(f.data).hexdigest(), "num_bytes": len(f.data)} for f in sorted(files, key=lambda f: f.name)},
    }  # fmt: skip
    for _ in range(source.ConsumeIntInRange(0, 2)):
        node = source.PickValueInList(
            [
                found,
                found["records"][0] if isinstance(found.get("records"), list) and found["records"] else found,
            ]
        )
        if not isinstance(node, dict):
            continue
        key = (
            source.PickValueInList(list(node))
            if source.ConsumeIntInRange(0, 4) and node
            else source.ConsumeUnicodeNoSurrogates(8)
        )
        node[key] = value(source, 3)
    return found


def value(source: atheris.FuzzedDataProvider, depth: int) -> Any:
    kind = source.ConsumeIntInRange(0, 8 if depth else 6)
    if kind == 7:
        return [value(source, depth - 1) for _ in range(source.ConsumeIntInRange(0, 3))]
    if kind == 8:
        return {
            source.ConsumeUnicodeNoSurrogates(8): value(source, depth - 1)
            for _ in range(source.ConsumeIntInRange(0, 3))
        }
    return (
        None,
        True,
        source.ConsumeInt(9),
        source.ConsumeFloat(),
        source.ConsumeUnicodeNoSurrogates(20),
        1,
        "../../x",
    )[kind]


def test_one(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-bundle-") as temporary:
        file, folder = Path(temporary, "x.wattcount"), Path(temporary, "folder")
        file.write_bytes(made(data))
        try:
            reader.opened_bundle(file, folder)
        except WattcountError as error:
            if "\n" in str(error) or "\x1b" in str(error):
                raise RuntimeError(f"not one line of plain text: {error!r}") from error
            if folder.exists():
                raise RuntimeError("something was left of what was refused") from error
        if not {path.name for path in Path(temporary).iterdir()} <= {"folder", "x.wattcount"}:
            raise RuntimeError("something was written outside of the folder")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "corpus", metavar="CORPUS_FOLDER", nargs="?", help="folder of inputs, to which new ones are added"
    )
    args = parser.parse_args()
    if args.corpus:
        Path(args.corpus).mkdir(parents=True, exist_ok=True)
    options = [
        sys.argv[0],
        f"-max_total_time={args.seconds}",
        "-max_len=4096",
        "-timeout=30",
        "-rss_limit_mb=1500",
    ]
    atheris.Setup([*options, *([args.corpus] if args.corpus else [])], test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
