"""Who submitted what, when, and what the validator said, from a data set's history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wattcount.dataset.tiers import Tier, tiers
from wattcount.dataset.version import ADD, Change
from wattcount.site.source import Source


@dataclass(frozen=True)
class Submission:
    """One that was added.

    rules      how many records broke each rule that did not make it be rejected
    tier       how many of its results have each tier
    withdrawn  what was taken back of it, and why
    """

    change: Change
    document: Mapping[str, Any]
    rules: Mapping[str, int]
    tier: Mapping[str, int]
    withdrawn: list[Change] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.change.submission)

    @property
    def origin(self) -> str:
        return self.change.origin or "wattcount"

    @property
    def counts(self) -> Mapping[str, int]:
        """Records by the validator's decision; empty: nothing was validated."""
        verdict = self.document.get("verdict")
        counts = verdict.get("counts") if isinstance(verdict, dict) else None
        return (
            {str(k): v for k, v in counts.items() if isinstance(v, int)} if isinstance(counts, dict) else {}
        )

    def said(self, *keys: str) -> str | None:
        """What the document has at these keys; None: nothing."""
        found: Any = self.document
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else str(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "submission": self.id,
            "handle": self.change.handle,
            "date": self.change.date,
            "dataset_version": self.change.version,
            "decision": self.change.decision,
            "origin": self.origin,
            "num_results": self.change.num_results,
            "licence": self.document.get("licence"),
            "cohort": self.document.get("cohort"),
            "records_by_decision": dict(self.counts),
            "rules_broken": dict(self.rules),
            "tiers": dict(self.tier),
            "withdrawn": [
                {"date": c.date, "results": list(c.results), "reason": c.reason} for c in self.withdrawn
            ],
        }


def submissions(source: Source) -> list[Submission]:
    """The newest first; none where the results are in no data set."""
    if source.version is None:
        return []
    tier_of = tiers(source.results)
    found = []
    for change in reversed(source.version.changes):
        if change.what != ADD or change.submission is None:
            continue
        document = source.documents.get(change.submission, {})
        mine = [entry.result for entry in source.entries if entry.submission == change.submission]
        known = [tier_of.get((str(r.setting_key), str(r.by))) for r in mine]
        counted = {tier.value: known.count(tier) for tier in Tier if tier in known}
        found.append(
            Submission(
                change, document, _rules(document), counted, source.version.withdrawals(change.submission)
            )
        )
    return found


def _rules(document: Mapping[str, Any]) -> dict[str, int]:
    verdict = document.get("verdict")
    breaches = verdict.get("breaches") if isinstance(verdict, dict) else None
    named = [str(item.get("rule")) for item in breaches or () if isinstance(item, dict)]
    return dict(sorted(Counter(named).items()))
