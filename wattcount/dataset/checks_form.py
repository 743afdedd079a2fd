"""Rules of form: a record is one, is whole, is of its time, was measured, and may be published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, pairwise

from wattcount.config.identity import setting_key
from wattcount.config.schema import Device
from wattcount.dataset.public import not_public
from wattcount.dataset.rules import Breach, Severity, Submission, Submitted, rule, trait
from wattcount.engines import registry
from wattcount.errors import NotStartedError, WattcountError
from wattcount.metrics.metrics_json import METRICS_VERSION
from wattcount.records import schema
from wattcount.records.schema import Evidence
from wattcount.result.result import OWN
from wattcount.text import printable

MAY_HAVE = frozenset(
    {schema.RUN_JSON, schema.METRICS_JSON, schema.ENGINE_LOG, schema.TRUTH_CSV, *schema.TABLES}
)
"""Files that wattcount writes into the folder of a record."""
INSTRUMENTS = ("nvml",)
"""What our own records can have been read from."""

MEASURED_SINCE = "2026-11-23"
"""First day (UTC) on which a record can have been measured: that of the oldest schema version. The version that a record has now says
no more: `wattcount upgrade` writes old ones anew."""
RELEASED = {"wattcount": {"0.1.0": MEASURED_SINCE}}
"""By program and version the first day (UTC) on which it is known to have been there; an engine's stand in its plug-in. What was there
before says nothing, for no record is older."""
AHEAD_S = 86_400.0
"""Most by which a run may have begun after its validation [s]: clocks of machines are set wrong by time zones, not by more."""
CLOCKS_APART_S = 300.0
"""Most between a run's begin as text and as its first pair of clocks [s]: between the two lie the checks before a run, of some
seconds; a network file system can take a minute."""
CLOCK_DRIFT = 1e-3
"""Most by which the wall clock may run faster or slower than the monotonic one between a run's pairs [share]: an NTP client slews by
5e-4 at most."""
CLOCK_SET_S = 2.0
"""Step of the wall clock within a run that is let pass [s]: a clock that was just set, a leap second."""

NAMED = 5
"""So many private fields of a record are named: one is enough to reject it, and a few help to find what wrote them."""


@rule(
    "form/readable",
    severity=Severity.reject,
    clause="A record can be read: its `run.json` is of a known schema version and has the keys and types of it, every raw file is there "
    "with the columns of its table, and nothing in it is larger than such a file can be.",
    last=True,
)
def readable(record: Submitted) -> Iterator[Breach]:
    try:
        record.record.verify()
    except WattcountError as error:
        yield Breach(without_place(str(error), record))


@rule(
    "form/files",
    severity=Severity.reject,
    clause="A record has the files of a record and no others.",
)
def files(record: Submitted) -> Iterator[Breach]:
    for file in record.record.files():
        if file.name not in MAY_HAVE:
            yield Breach(f"no record has a file {file.name}")


@rule(
    "form/hashes",
    severity=Severity.reject,
    clause="`run.json` names the size, rows and SHA-256 of every raw file, and each is as it says.",
)
def hashes(record: Submitted) -> Iterator[Breach]:
    # That they are as it says, `form/readable` has found already.
    for name in record.record.raw_files:
        if name not in record.record.info.files:
            yield Breach(f"run.json says nothing of {name}")


@rule(
    "form/date",
    severity=Severity.reject,
    clause="A run began when it can have begun: not before there were such records, not in the future, and when its clocks say.",
    limit=CLOCKS_APART_S,
    unit="s",
)
def date(record: Submitted) -> Iterator[Breach]:
    info = record.record.info
    began = _moment(info.started_utc)
    if began is None:
        yield Breach(f"started_utc is no time: {info.started_utc}")
        return
    if (day := began.date().isoformat()) < MEASURED_SINCE:
        yield Breach(f"it began on {day}, and the first record was measured on {MEASURED_SINCE}")
    if (ahead_s := (began - now()).total_seconds()) > AHEAD_S:
        yield Breach(f"it begins {ahead_s / 86_400:.1f} days from now", ahead_s, AHEAD_S)
    pairs = [(pair["monotonic_ns"], pair["utc_ns"]) for pair in info.clock_pairs]
    if not pairs:
        yield Breach("it has no pair of clocks")
        return
    apart_s = abs(pairs[0][1] / 1e9 - began.timestamp())
    if apart_s > CLOCKS_APART_S:
        yield Breach(
            f"its first pair of clocks is {apart_s:,.0f} s from started_utc", apart_s, CLOCKS_APART_S
        )


@rule(
    "form/versions",
    severity=Severity.reject,
    clause="What a run was made with was released by then, and the parts of a record agree on it.",
)
def versions(record: Submitted) -> Iterator[Breach]:
    info = record.record.info
    engine, told = info.resolved.engine.name, info.engine.get("version")
    if told and told != info.versions.get(engine, told):
        yield Breach(f"its engine says that it is {engine} {told}, its packages {info.versions[engine]}")
    day = info.started_utc[:10]
    known_here = registry.plugin(engine).released if engine in registry.names() else {}
    for program, releases in {**RELEASED, **known_here}.items():
        if (version := info.versions.get(program)) is None:
            continue
        number = _release(version)
        known = {_release(text): since for text, since in releases.items()}
        if (since := known.get(number)) is not None and day < since:
            yield Breach(f"{program} {version} was released on {since}, and the run began on {day}")
        elif number > max(known):
            newest = max(releases, key=_release)
            yield Breach(
                f"whether there was a {program} {version} on {day} is not known here, where {newest} is the newest",
                severity=Severity.warn,
            )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: 0.26.0 of `0.26.0+cu129`; without any of them it is the oldest."""
    found = re.match(r"\d{1,6}(?:\.\d{1,6}){0,3}", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@rule(
    "form/clocks",
    severity=Severity.flag,
    clause="Wall clock and monotonic clock run alike between the pairs of a run, and the pairs span its phases.",
    limit=CLOCK_DRIFT,
    unit="share",
)
def clocks(record: Submitted) -> Iterator[Breach]:
    info = record.record.info
    pairs = [(pair["monotonic_ns"], pair["utc_ns"]) for pair in info.clock_pairs]
    for (t0_ns, utc0_ns), (t1_ns, utc1_ns) in pairwise(pairs):
        passed_s, by_wall_s = (t1_ns - t0_ns) / 1e9, (utc1_ns - utc0_ns) / 1e9
        if passed_s < 0:
            yield Breach("its pairs of clocks are not in order", passed_s)
        elif abs(by_wall_s - passed_s) > CLOCK_SET_S + CLOCK_DRIFT * passed_s:
            yield Breach(
                f"the wall clock went {by_wall_s:.3f} s while the monotonic one went {passed_s:.3f} s",
                abs(by_wall_s - passed_s) / max(passed_s, 1e-9),
                CLOCK_DRIFT,
            )


@rule(
    "form/measured",
    severity=Severity.reject,
    clause="A record was measured: the data set takes no emulated and no predicted one, and everything in a record agrees on it.",
)
def measured(record: Submitted) -> Iterator[Breach]:
    info = record.record.info
    evidence = info.evidence
    if evidence is not Evidence.MEASURED:
        yield Breach(f"it is {evidence}, and the data set takes measured records only")
        return
    asked = info.resolved.evidence
    if asked is not None and asked != evidence.value:
        yield Breach(f"it says that it is {evidence}, and its config says {asked}")
    if schema.TRUTH_CSV in (file.name for file in record.record.files()):
        yield Breach(f"it has a {schema.TRUTH_CSV}, which only emulated runs have")
    if info.origin != OWN:
        yield Breach(f"its origin is {info.origin}; records are of {OWN}, others' figures are imported")
    if info.instrument not in INSTRUMENTS:
        yield Breach(f"its instrument is {info.instrument}, not {' or '.join(INSTRUMENTS)}")
    if info.resolved.engine.device is not Device.cuda:
        yield Breach(f"its engine ran on {info.resolved.engine.device.value}, which is no GPU")
    try:
        registry.plugin(info.resolved.engine.name)
    except NotStartedError:
        yield Breach(f"no engine is called {info.resolved.engine.name}")


@rule(
    "form/valid",
    severity=Severity.reject,
    clause="A record is valid: its run went to its end, and no check of its figures, computed again, says that it cannot be believed.",
)
def valid(record: Submitted) -> Iterator[Breach]:
    found = record.result.verdict
    if not found.valid:
        yield Breach(
            f"it is {found.status.value} ({', '.join(found.reasons)}): {found.message or 'no message was left'}"
        )


@rule(
    "form/metrics",
    severity=Severity.reject,
    clause="A record of a bundle has a `metrics.json`.",
)
def has_metrics(record: Submitted) -> Iterator[Breach]:
    if record.in_bundle and record.stored is None:
        yield Breach("its metrics.json is missing or damaged")


@rule(
    "form/cohort",
    severity=Severity.reject,
    clause="A run of a cohort began in that cohort's quarter and used its seed.",
)
def cohort(record: Submitted) -> Iterator[Breach]:
    from wattcount.config import cohorts

    info = record.record.info
    named = {name for name in (record.cohort, info.resolved.cohort) if name is not None}
    began = _moment(info.started_utc)
    for name in sorted(named):
        if began is not None and (why := cohorts.breach(name, info.seed, began)) is not None:
            yield Breach(why)


@rule(
    "form/manifest",
    severity=Severity.reject,
    clause="The manifest of a bundle names each record as it is: folder, run, point, setting, repeat and seed.",
    scope="bundle",
)
def manifest(submission: Submission) -> Iterator[Breach]:
    if submission.bundle is None:
        return
    told = {entry.folder: entry for entry in submission.bundle.manifest.records}
    for record in submission.records:
        entry, found = told.get(record.folder), record.trait("identity")
        for name in found:
            if entry is not None and getattr(entry, name) != found[name]:
                yield Breach(
                    f"the manifest says {name} {getattr(entry, name)}, the record {found[name]}",
                    record=record.folder,
                )


@rule(
    "form/newer",
    severity=Severity.warn,
    clause="A bundle was written by a wattcount that this one knows.",
    scope="bundle",
    limit=METRICS_VERSION,
    unit="metrics version",
)
def newer(submission: Submission) -> Iterator[Breach]:
    if submission.bundle is None:
        return
    version = submission.bundle.manifest.metrics_version
    if version > METRICS_VERSION:
        yield Breach(
            f"its figures are of metrics version {version}, this wattcount computes version {METRICS_VERSION}: pip install -U wattcount",
            version,
            METRICS_VERSION,
        )


@rule(
    "form/once",
    severity=Severity.reject,
    clause="A run is in a bundle once.",
    scope="bundle",
)
def once(submission: Submission) -> Iterator[Breach]:
    first: dict[str, str] = {}
    for record in submission.records:
        run_id = record.trait("identity")["run_id"]
        if run_id in first:
            yield Breach(f"its run is in {first[run_id]} too", record=record.folder)
        first.setdefault(run_id, record.folder)


@trait("identity")
def identity(record: Submitted) -> dict[str, str | int]:
    """What a bundle's manifest says of a record, as the record has it."""
    info = record.record.info
    return {
        "run_id": info.run_id,
        "point_id": info.point_id,
        "setting_key": setting_key(info.resolved),
        "repeat": info.repeat,
        "seed": info.seed,
    }


def without_place(message: str, record: Submitted) -> str:
    """An error's text without the folder that the record lies in here."""
    return message.replace(f"{record.path}/", "").replace(str(record.path), record.folder)


def now() -> datetime:
    """Tests replace it."""
    return datetime.now(UTC)


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


@rule(
    "form/limits",
    severity=Severity.reject,
    clause="A record is read and computed within bounds of memory and time, and by every rule without an error.",
)
def limits(record: Submitted) -> Iterator[Breach]:  # noqa: ARG001
    # `validate` finds it: whoever breaks this rule does not come to the end of it.
    return iter(())


@rule(
    "form/public",
    severity=Severity.reject,
    clause="A bundle has nothing that is not on the list of what may be published: no name of a host, user or board, path, address, command line or "
    "log. Pseudonyms stand for hosts and boards.",
)
def public(record: Submitted) -> Iterator[Breach]:
    if not record.in_bundle:
        return  # a folder of the submitter's own has them still, and `wattcount submit` hides them
    for where in islice(not_public(record.record), NAMED):
        # What stands there is not told: verdicts are published.
        shown = printable(where[:200], lines=False)
        yield Breach(
            f"{shown} is not in the form that may be published: make the bundle with wattcount submit"
        )
