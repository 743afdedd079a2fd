"""Rules of novelty: no trace, and no stretch of one, that is there already, in the data set or in the submission itself.

What is compared, and how alike two honest runs get, `fingerprint` and docs/forgeries.md say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from wattcount.dataset import fingerprint, signs
from wattcount.dataset.fingerprint import Index, Match, Shape
from wattcount.dataset.rules import Breach, Severity, Submission, Submitted, rule, trait
from wattcount.dataset.version import FINGERPRINTS
from wattcount.records import intake
from wattcount.records.schema import Evidence

TRAIT = "power_fingerprints"
"""Name of the trait. What a data set knows by it: lists of fingerprints, one a GPU, by the name of the record."""
SAME = 0.985
"""Correlation from which on two stretches of 5 s are the same ones, two of them in a record. Chosen: of 1,566 pairs of ours the most was
0.958, and that for one stretch only."""
ALIKE_SHORT = 0.97
"""The same from which on a person should look. Chosen: between the two."""
ALIKE_LONG = 0.9
"""Correlation of stretches of 20 s from which on a person should look. Chosen: of those pairs the most was 0.87."""


@trait(TRAIT)
def power_fingerprints(submitted: Submitted) -> list[str]:
    """One text for each GPU; none for what was not measured."""
    record = submitted.record
    return fingerprint.fingerprints(record) if record.info.evidence == Evidence.MEASURED else []


def _shapes(texts: list[str]) -> Iterator[Shape]:
    for text in texts:
        if text:
            yield fingerprint.of_text(text)


def _known(submission: Submission) -> Mapping[str, list[str]]:
    """Fingerprints of the data set, by the name of their record: as they were handed over, or as they lie in its folder.

    A file there has of each record of a submission what its traits found.
    """
    if submission.dataset is not None:
        return submission.dataset.get(TRAIT) or {}
    found: dict[str, list[str]] = {}
    if submission.where is not None:
        for file in sorted((Path(submission.where) / FINGERPRINTS).glob("*.json")):
            content = intake.parse_json(intake.read_bytes(file), file)
            for folder, traits in content.items():
                if texts := traits.get(TRAIT):
                    found[f"{folder} of {file.stem[:12]}"] = [str(text) for text in texts]
    return found


def _found(submission: Submission) -> Iterator[tuple[str, Match, bool]]:
    """(folder of a record, where its power was found again, whether that is in the data set): the most alike of each GPU."""
    index, owners = Index(), dict[str, str]()

    def put(prefix: str, owner: str, texts: list[str]) -> None:
        for gpu, shape in enumerate(_shapes(texts)):
            name = f"{prefix}:{owner}:{gpu}"
            owners[name] = owner
            index.add(name, shape)

    for owner, texts in _known(submission).items():
        put("data set", owner, texts)
    for submitted in submission.records:
        own = list(_shapes(submitted.trait(TRAIT)))
        for shape in own:
            matches = index.matches(shape)
            if matches:
                yield submitted.folder, matches[0], matches[0].name.startswith("data set:")
        # Only now: the GPUs of a run that share a model do the same at the same time.
        put("submission", submitted.folder, submitted.trait(TRAIT))


def _where(match: Match) -> str:
    kind, _, rest = match.name.partition(":")
    other, _, gpu = rest.rpartition(":")
    place = f"{other} in the data set" if kind == "data set" else f"{other} in this submission"
    speed = "" if abs(match.speed - 1.0) < 1e-3 else f", at {match.speed:.3f} of its speed"
    return f"{place} (GPU {gpu}, from {match.other_at_s:.1f} s on; here from {match.at_s:.1f} s on{speed})"


@rule(
    "novelty/power",
    severity=Severity.reject,
    clause="The power of a record, or a stretch of it, is not that of another, also not moved, scaled or resampled.",
    limit=SAME,
    unit="correlation of two stretches of 5 s",
    scope="bundle",
)
def power(submission: Submission) -> Iterator[Breach]:
    for folder, match, _ in _found(submission):
        if match.short >= SAME:
            yield Breach(f"its power is that of {_where(match)}", match.short, SAME, folder)
        elif match.short >= ALIKE_SHORT:
            yield Breach(
                f"its power is much like that of {_where(match)}",
                match.short,
                ALIKE_SHORT,
                folder,
                Severity.flag,
            )
        elif match.long >= ALIKE_LONG:
            yield Breach(
                f"20 s of its power are much like those of {_where(match)}",
                match.long,
                ALIKE_LONG,
                folder,
                Severity.flag,
            )


@rule(
    "novelty/stretch_twice",
    severity=Severity.reject,
    clause="No second of a trace is there twice.",
)
def stretch_twice(submitted: Submitted) -> Iterator[Breach]:
    if submitted.record.info.evidence != Evidence.MEASURED:
        return
    for trace in signs.traces(submitted.record):
        found = fingerprint.repeated(trace.samples[1])
        if found is not None:
            first, second = (place * signs.RING_PERIOD_NS / 1e9 for place in found)
            yield Breach(
                f"GPU {trace.number}: a second of power comes again, at {first:.1f} s and at {second:.1f} s"
            )


@rule(
    "novelty/requests_twice",
    severity=Severity.reject,
    clause="No two requests have their tokens at the same distances, to the microsecond.",
    limit=0,
    unit="requests",
)
def requests_twice(submitted: Submitted) -> Iterator[Breach]:
    if submitted.record.info.evidence != Evidence.MEASURED:
        return
    repeated = signs.repeated_requests(submitted.record)
    if repeated:
        yield Breach(f"{repeated} requests have tokens at the distances of another's", repeated, 0)
