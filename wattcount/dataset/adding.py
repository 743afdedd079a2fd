"""From a bundle, or a file of imported results, to what a data set takes: opened, judged by the validator, and added as a whole."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wattcount.dataset.bundle import Bundle, opened_bundle
from wattcount.dataset.references import digest
from wattcount.dataset.storage import sha256
from wattcount.dataset.store import ACCEPTED, FLAGGED, IMPORTED, Dataset, Outcome, Submission, submission_id
from wattcount.dataset.version import FINGERPRINTS, Version
from wattcount.errors import NotStartedError
from wattcount.importers import file
from wattcount.importers.file import Origin
from wattcount.records import Record, intake
from wattcount.records.schema import Evidence
from wattcount.result import Result, glance, judge


@dataclass(frozen=True)
class Judged:
    """What the validator said of a bundle.

    verdict   as JSON: `decision`, `breaches`, ...
    traits    by folder of a record, what tells it when it comes again
    """

    verdict: Mapping[str, Any]
    traits: Mapping[str, Mapping[str, Any]]


Validate = Callable[[Path, Dataset], Judged]
"""From a bundle and the data set that it is for."""
MOST_SHOWN = 3
"""Breaches that a refusal names; the others are counted."""
REJECTED = "rejected"
KEPT = ("decision", "wattcount_version", "metrics_version", "counts", "breaches")
"""What a data set keeps of a verdict. The rest says where the bundle lay on this machine, or what the submission says beside it."""
OF_MEASURED = ("form/measured", "physics/")
"""Begins of the codes of rules that only what was measured can keep: a data set of emulated results does without them."""
PARQUET = ".parquet"
"""Ending of a file of imported results, which `wattcount import -o` writes."""


@dataclass(frozen=True)
class Place:
    """Where a record lies that is not kept in the data set: `record` and the SHA-256 of each of its files."""

    record: str
    files: Mapping[str, str]


def validated(bundle: Path, dataset: Dataset) -> Judged:
    """By the rules of `dataset.rules`, in confined processes, which read a data set on this machine only."""
    from wattcount.dataset.validate import validate

    with dataset.on_this_machine(FINGERPRINTS) as folder:
        found = validate(bundle, dataset=str(folder))
    told = found.to_json()
    return Judged({key: told[key] for key in KEPT}, found.traits)


def add_file(
    dataset: Dataset,
    path: Path,
    date: str,
    *,
    accept_flagged: bool = False,
    at: str | None = None,
    places: Callable[[str], Place] | None = None,
    validate: Validate = validated,
) -> Outcome:
    """Adds a bundle, or a file of imported results: a submission for each of its sources, which no validator can judge.

    accept_flagged   a person has looked at what the validator flagged
    at               URL of the bundle, which then is not copied
    places           from a run id to where its record lies; then the bundle is not kept
    Raises NotStartedError where nothing was added, and says why.
    """
    if path.suffix == PARQUET:
        return _add_imported(dataset, path, date)
    name = submission_id(intake.sha256(path)) if path.is_file() else ""
    version = dataset.latest()
    if name and version.addition(name) and not version.withdrawals(name):
        return Outcome(version, False)
    with tempfile.TemporaryDirectory(prefix="wattcount-add-") as temporary:
        bundle = opened_bundle(path, Path(temporary) / "bundle")
        # Nothing is computed here of what strangers wrote until the validator has.
        seen = [glance(record) for record in bundle.record_paths]
        told = [
            Record.open(record).info.evidence if found is None else found.evidence
            for found, record in zip(seen, bundle.record_paths, strict=True)
        ]
        _refuse_evidence([evidence for evidence in told if evidence is not None], version)
        judged = validate(path, dataset)
        verdict = judged.verdict
        if version.evidence is not Evidence.MEASURED:
            verdict = _without(verdict, OF_MEASURED)
        _refuse(verdict, accept_flagged)
        results = [found or judge(record) for found, record in zip(seen, bundle.record_paths, strict=True)]
        submission = _submission(bundle, results, verdict, path, at, places)
        return dataset.add(replace(submission, fingerprints=_fingerprints(judged.traits)), date)


def _fingerprints(traits: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    if not any(traits.values()):
        return None
    content = {folder: dict(found) for folder, found in traits.items()}
    return (json.dumps(content, sort_keys=True, allow_nan=False, indent=0) + "\n").encode()


def _add_imported(dataset: Dataset, path: Path, date: str) -> Outcome:
    """Sources that are in the data set already are left out."""
    found, origins = file.load(path)
    made = [
        _imported(path, origin, [r for r in found if r.origin == origin.source.origin]) for origin in origins
    ]
    if strangers := {r.origin for r in found} - {origin.source.origin for origin in origins}:
        raise NotStartedError(
            f"{path} does not say where its results of {', '.join(sorted(strangers))} are from"
        )
    outcome = Outcome(dataset.latest(), False)
    for submission in made:
        added = dataset.add(submission, date)
        outcome = Outcome(
            added.version, added.changed or outcome.changed, added.num_results + outcome.num_results
        )
    return outcome


def _imported(path: Path, origin: Origin, results: Sequence[Result]) -> Submission:
    """Raises NotStartedError for a source whose rows must not be published."""
    source = origin.source
    if source.licence is None:
        raise NotStartedError(
            f"{source.title}: its authors state no licence, so its rows must not be published; ask them, or keep the file to yourself"
        )
    name = submission_id(sha256(f"{intake.sha256(path)} {source.name}".encode()))
    document: dict[str, Any] = {
        "submission": name,
        "handle": source.name,
        "licence": source.licence,
        "source": {
            "title": source.title,
            "url": source.url,
            "commit": origin.commit,
            "files": dict(origin.files),
        },
        "verdict": None,
        "records": [],
    }
    return Submission(
        id=name,
        handle=source.name,
        licence=source.licence,
        decision=IMPORTED,
        results=results,
        records=[None] * len(results),
        document=document,
        origin=source.origin,
    )


def _refuse_evidence(known: Sequence[Evidence], version: Version) -> None:
    """Raises NotStartedError for records that a data set of this evidence does not take: before anything is computed."""
    for evidence in dict.fromkeys(known):
        if evidence is not version.evidence:
            raise NotStartedError(
                f"{evidence.value}: {known.count(evidence)} of {len(known)} records are {evidence.value}, and {version.name} takes only "
                f"{version.evidence.value} ones (`wattcount dataset init --evidence {evidence.value}` makes a data set for those)"
            )


def _without(verdict: Mapping[str, Any], families: tuple[str, ...]) -> dict[str, Any]:
    """The verdict without some rules: what the others say of the bundle."""
    left = [b for b in verdict.get("breaches", ()) if not str(b.get("rule")).startswith(families)]
    severities = {b.get("severity") for b in left}
    decision = REJECTED if "reject" in severities else FLAGGED if "flag" in severities else ACCEPTED
    return {**verdict, "decision": decision, "breaches": left, "without": list(families)}


def _refuse(verdict: Mapping[str, Any], accept_flagged: bool) -> None:
    decision = verdict["decision"]
    if decision == REJECTED or (decision == FLAGGED and not accept_flagged):
        severity = "reject" if decision == REJECTED else "flag"
        breaches = [b for b in verdict.get("breaches", ()) if b.get("severity") == severity]
        said = "; ".join(f"{b.get('rule')}: {b.get('message')}" for b in breaches[:MOST_SHOWN])
        more = f" and {len(breaches) - MOST_SHOWN} more" if len(breaches) > MOST_SHOWN else ""
        what = "" if decision == REJECTED else " (--accept-flagged once a person has looked at it)"
        raise NotStartedError(f"{decision}{what}: {said}{more}")


def _submission(
    bundle: Bundle,
    results: Sequence[Result],
    verdict: Mapping[str, Any],
    path: Path,
    at: str | None,
    places: Callable[[str], Place] | None,
) -> Submission:
    manifest, name = bundle.manifest, submission_id(bundle.bundle_id)
    kept = at is None and places is None
    found = []
    for entry, record in zip(manifest.records, bundle.record_paths, strict=True):
        if places is not None:
            place = places(entry.run_id)
        else:
            where = at or f"bundles/{name}.wattcount"
            # As the bundle's manifest has them, which it was unpacked by.
            files = {
                path.name: manifest.files[f"{entry.folder}/{path.name}"].sha256 for path in record.iterdir()
            }
            place = Place(f"{where}#{entry.folder}", files)
        found.append(
            {
                "record": place.record,
                "sha256": digest(place.files),
                "run_id": entry.run_id,
                "files": dict(place.files),
            }
        )
    document: dict[str, Any] = {
        "submission": name,
        "bundle_sha256": bundle.bundle_id,
        "handle": manifest.handle,
        "contact": manifest.contact,
        "licence": manifest.licence,
        "cohort": manifest.cohort,
        "wattcount_version": manifest.wattcount_version,
        "metrics_version": manifest.metrics_version,
        "verdict": dict(verdict),
        "records": found,
    }
    return Submission(
        id=name,
        handle=manifest.handle,
        licence=manifest.licence,
        decision=str(verdict["decision"]),
        results=results,
        records=[(str(item["record"]), str(item["sha256"])) for item in found],
        document=document,
        cohort=manifest.cohort,
        bundle=path if kept else None,
    )
