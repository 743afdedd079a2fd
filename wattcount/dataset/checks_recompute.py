"""Rules of recomputation: every figure follows from the raw files, to the last digit, and the files agree with one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from wattcount.config.identity import point_id
from wattcount.dataset.rules import Breach, Severity, Submitted, rule
from wattcount.errors import WattcountError
from wattcount.metrics.metrics_json import METRICS_VERSION, is_of_today
from wattcount.metrics.observations import MISSING, Ints, int_column

SAME_SHARE = 1e-9
"""Most by which a figure may differ from the one computed here [share of it]. Figures are kept to 12 digits; what NumPy adds up in
another order on another CPU differs in the last three: on our own 209 records, computed on other machines, by up to 3e-10 in 22 of them.
Whole numbers must be the same."""
MOST_NAMED = 5
"""Figures of one record that differ and are named one by one: where more do, all do for one reason."""
OTHER_IDENTITY_UNTIL = "2026-11-28"
"""Records from before this day (UTC) may have another point id than their config gives: which fields belong to a point was still
changing. What counts is the one that is computed."""
LEAST_TOKENS_OF_STEPS = 0.995
"""Least share of the tokens of requests that the engine's steps have [1]. On our own 209 records they have all of them, to the token,
or more; half a per cent are steps of which an engine under load told nothing."""
MOST_TOKENS_OF_STEPS = 1.5
"""Most [1]. An engine that runs out of memory for its cache computes prompts again: 1.27 is the most of ours."""

_MISSING = object()


@rule(
    "recompute/version",
    severity=Severity.warn,
    clause="`metrics.json` is of the version that is computed here; where it is older or newer, the figures computed here are what counts.",
    limit=METRICS_VERSION,
    unit="metrics version",
)
def version(record: Submitted) -> Iterator[Breach]:
    if record.stored is not None and not is_of_today(record.stored):
        found = record.stored["metrics_version"]
        yield Breach(
            f"its figures are of metrics version {found}; those of version {METRICS_VERSION}, computed from its raw files, count",
            found,
            METRICS_VERSION,
        )


@rule(
    "recompute/figures",
    severity=Severity.reject,
    clause="Every figure and interval of `metrics.json`, every reason why one is null, its windows and energies are those that follow from "
    "the raw files, to the last digit that all machines compute alike.",
    limit=SAME_SHARE,
    unit="share",
)
def figures(record: Submitted) -> Iterator[Breach]:
    stored = _of_this_version(record)
    if stored is not None:
        for part in ("window", "window_steady", "energy", "metrics", "null_reasons", "evidence"):
            yield from _differences(part, stored.get(part), record.content[part])


@rule(
    "recompute/verdict",
    severity=Severity.reject,
    clause="The verdict and the findings in `metrics.json` are those that follow from the raw files.",
)
def verdict(record: Submitted) -> Iterator[Breach]:
    stored = _of_this_version(record)
    if stored is None:
        return
    told, found = stored["validity"], record.content["validity"]
    if told["valid"] != found["valid"]:
        yield Breach(f"metrics.json says {_word(told['valid'])}, its raw files {_word(found['valid'])}")
    yield from _differences(
        "finding", *({item["code"]: item for item in side["findings"]} for side in (told, found))
    )


@rule(
    "recompute/tokens",
    severity=Severity.reject,
    clause="The tokens of each request are those that arrived: their sum, the first and the last.",
)
def tokens(record: Submitted) -> Iterator[Breach]:
    table, requests = record.record.requests, record.seen.requests
    told = int_column(table, "output_tokens")
    if wrong := int((told != requests.output_tokens).sum()):
        row = int(np.flatnonzero(told != requests.output_tokens)[0])
        yield Breach(
            f"{wrong} of {len(told)} requests, first {table['request_id'][row].as_py()}: {told[row]} output tokens, "
            f"{requests.output_tokens[row]} arrived",
            wrong,
            0,
        )
    if len(requests.token_count) and requests.token_count.min() < 1:
        yield Breach("an arrival has no token", float(requests.token_count.min()), 1)
    first, last = _bounds(requests.token_request, requests.token_ts_ns, len(told))
    for name, seen in (("first_token_ns", first), ("last_token_ns", last)):
        if wrong := int((getattr(requests, name) != seen).sum()):
            yield Breach(f"{wrong} of {len(told)} requests have a {name} that is no arrival's", wrong, 0)


@rule(
    "recompute/steps",
    severity=Severity.reject,
    clause="The engine's steps made the tokens of the requests: not fewer, and not many more than prompts that were computed again explain.",
    limit=LEAST_TOKENS_OF_STEPS,
    unit="share",
)
def steps(record: Submitted) -> Iterator[Breach]:
    table, requests = record.record.steps, record.seen.requests
    if not len(table) or table["prefill_tokens"].null_count or table["decode_tokens"].null_count:
        return  # an engine that does not tell
    made = sum(int(int_column(table, name).sum()) for name in ("prefill_tokens", "decode_tokens"))
    prompts = requests.input_tokens - np.maximum(requests.cached_tokens, 0)
    begun = requests.first_token_ns != MISSING
    # The first token of a request comes out of the step of its prompt.
    decoded = int(requests.output_tokens.sum()) - int(begun.sum())
    least = int(prompts[begun].sum()) + decoded
    most = int(prompts[requests.actual_send_ns != MISSING].sum()) + decoded
    if made < LEAST_TOKENS_OF_STEPS * least:
        yield Breach(
            f"the engine's steps have {made:,} tokens, its requests {least:,}",
            made / least,
            LEAST_TOKENS_OF_STEPS,
        )
    if most and made > MOST_TOKENS_OF_STEPS * most:
        yield Breach(
            f"the engine's steps have {made:,} tokens, its requests {most:,}: it worked for others, too",
            made / most,
            MOST_TOKENS_OF_STEPS,
            severity=Severity.flag,
        )


@rule(
    "recompute/point",
    severity=Severity.reject,
    clause="`point_id` is that of the record's configuration.",
)
def point(record: Submitted) -> Iterator[Breach]:
    info = record.record.info
    try:
        found = point_id(info.resolved)
    except WattcountError as error:
        yield Breach(str(error))
        return
    if found != info.point_id:
        old = info.started_utc < OTHER_IDENTITY_UNTIL
        yield Breach(
            f"it says point {info.point_id[:12]}, its configuration is of point {found[:12]}"
            + (", which counts: what belongs to a point was settled later" if old else ""),
            severity=Severity.warn if old else None,
        )


def _of_this_version(record: Submitted) -> dict[str, Any] | None:
    stored = record.stored
    return stored if stored is not None and is_of_today(stored) else None


def _differences(where: str, told: Any, found: Any) -> Iterator[Breach]:
    """What two JSON values have that is not the same."""
    all_of_them = list(_walked(where, told, found))
    for path, one, other in all_of_them[:MOST_NAMED]:
        yield Breach(
            f"{path} is {_shown(one)} in metrics.json, {_shown(other)} by its raw files",
            _share(one, other),
            SAME_SHARE,
        )
    if (more := len(all_of_them) - MOST_NAMED) > 0:
        yield Breach(f"{more} more of {where} differ")


def _walked(path: str, told: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(told, Mapping) and isinstance(found, Mapping):
        for key in sorted({*told, *found}):
            yield from _walked(f"{path} {key[:100]}", told.get(key, _MISSING), found.get(key, _MISSING))
    elif not _same(told, found):
        yield path, told, found


def _same(told: Any, found: Any) -> bool:
    if isinstance(told, float) or isinstance(found, float):
        share = _share(told, found)
        return share is not None and share <= SAME_SHARE
    return type(told) is type(found) and bool(told == found)


def _share(told: Any, found: Any) -> float | None:
    """By how much a number differs from the one that was computed [share of it]; None: one is no number, or zero should be."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (told, found)):
        return None
    if told == found:
        return 0.0
    return abs(told - found) / abs(found) if found else None


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else "null" if value is None else str(value)[:100]


def _word(valid: bool) -> str:
    return "valid" if valid else "not valid"


def _bounds(owner: Ints, t_ns: Ints, rows: int) -> tuple[Ints, Ints]:
    """First and last arrival of each request; `MISSING` where it has none."""
    first = np.full(rows, np.iinfo(np.int64).max)
    last = np.full(rows, MISSING, np.int64)
    np.minimum.at(first, owner, t_ns)
    np.maximum.at(last, owner, t_ns)
    first[last == MISSING] = MISSING
    return first, last
