"""The rules that a submission must keep: one registry, from which the validator, its tables and docs/rules.md are made.

A rule is a function of one record (`Submitted`) or of a whole submission (`Submission`) that yields a `Breach` for each way in
which it is broken. `wattcount.dataset.checks` imports every module that declares rules; `wattcount.dataset.validate` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from wattcount.errors import WattcountError
from wattcount.metrics.metrics_json import computed
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.records.schema import check_metrics
from wattcount.result import Result

if TYPE_CHECKING:
    from wattcount.dataset.bundle import Bundle

Made = TypeVar("Made")


class Severity(StrEnum):
    """What a broken rule means for the record, from the worst to the mildest."""

    reject = "reject"
    """The data set does not take the record."""
    flag = "flag"
    """A person decides, who reads the message."""
    warn = "warn"
    """It is said, and changes nothing."""


@dataclass(frozen=True)
class Breach:
    """One way in which a rule is broken.

    message        for people: what was found and what it should be; text of a record in it is shown as text by whoever prints it
    figure, limit  what was found and how far it may go, in the rule's unit; None: the rule is not about a number
    record         folder in the bundle; None: the record that was checked, or the bundle as a whole
    severity       where this breach is milder than the rule's own; None: the rule's
    """

    message: str
    figure: float | None = None
    limit: float | None = None
    record: str | None = None
    severity: Severity | None = None


class Submitted:
    """One record of a submission. Everything is read or computed once, when it is first asked for.

    path     its folder on this machine
    folder   its name in the bundle, `records/<point>/<run>`; the folder's own name where there is no bundle
    traits     what `trait`s found, where that was told by whoever read the record before
    in_bundle  False: it is a folder of the submitter's own, which has private fields still
    cohort     that the bundle was submitted for; None: none
    """

    def __init__(
        self,
        path: Path,
        folder: str | None = None,
        *,
        traits: Mapping[str, Any] | None = None,
        in_bundle: bool = False,
        cohort: str | None = None,
    ) -> None:
        self.path = path
        self.folder = path.name if folder is None else folder
        self.in_bundle = in_bundle
        self.cohort = cohort
        self.traits: dict[str, Any] = dict(traits or {})
        self._made: dict[Callable[..., Any], Any] = {}

    @cached_property
    def record(self) -> Record:
        """Raises `WattcountError` where it cannot be read."""
        return Record.open(self.path)

    @cached_property
    def seen(self) -> Observed:
        """Its raw columns as arrays, ready for counting."""
        return Observed(self.record)

    @cached_property
    def stored(self) -> dict[str, Any] | None:
        """The record's own `metrics.json`, as somebody wrote it; None: there is none, or it is none."""
        try:
            found = self.record.metrics
            check_metrics(found)
        except (KeyError, ValueError, WattcountError):
            return None
        return found

    @cached_property
    def content(self) -> dict[str, Any]:
        """`metrics.json` as it follows from the raw files; what the record's own says is not looked at. Raises `WattcountError`."""
        return computed(self.record, self.seen)

    @cached_property
    def result(self) -> Result:
        """The row of the record, of `content`."""
        return Result.of(self.record, self.content)

    def once(self, make: Callable[[Submitted], Made]) -> Made:
        """What `make` finds in this record: for what several rules look at."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(Made, self._made[make])

    def trait(self, name: str) -> Any:
        """What the trait of this name finds in the record."""
        if name not in self.traits:
            self.traits[name] = TRAITS[name](self)
        return self.traits[name]


@dataclass(frozen=True)
class Submission:
    """A whole submission, as rules of scope `bundle` see it.

    bundle    None: plain record folders
    records   those that can be read. Of each only `trait`s are at hand at once; the rest is read again
    dataset   what the data set knows already, by trait; None: there is none to compare with
    where     folder or URL of the data set; None: there is none
    """

    bundle: Bundle | None
    records: Sequence[Submitted]
    dataset: Mapping[str, Any] | None = None
    where: str | None = None


Scope = Literal["record", "bundle"]
Check = Callable[[Any], Iterable[Breach]]


@dataclass(frozen=True)
class Rule:
    """A rule.

    code      `family/name`
    severity  of its breaches, at worst
    clause    one sentence: what must hold
    limit     how far the figure may go, in `unit`; None: it is not about a number, or each breach has its own
    scope     whether it is about each record alone or about all of a bundle
    last      nothing else is looked at in a record that breaks it
    """

    code: str
    severity: Severity
    clause: str
    check: Check = field(compare=False)
    limit: float | None = None
    unit: str | None = None
    scope: Scope = "record"
    last: bool = False

    @property
    def family(self) -> str:
        return self.code.partition("/")[0]


RULES: dict[str, Rule] = {}
"""Every rule by its code, in the order in which they are checked."""
TRAITS: dict[str, Callable[[Submitted], Any]] = {}
"""What is taken from each record for the rules about a bundle, by name. Values are plain JSON: they pass between processes."""

Function = TypeVar("Function", bound=Callable[..., Iterable[Breach]])
Trait = TypeVar("Trait", bound=Callable[[Submitted], Any])


def rule(
    code: str,
    *,
    severity: Severity,
    clause: str,
    limit: float | None = None,
    unit: str | None = None,
    scope: Scope = "record",
    last: bool = False,
) -> Callable[[Function], Function]:
    """Declares a function as a rule, see `Rule`. ValueError for a code that is taken or has no family."""

    def declare(check: Function) -> Function:
        if code in RULES or "/" not in code:
            raise ValueError(f"{code!r} is no code for a rule, or there is one of that name")
        RULES[code] = Rule(code, severity, clause, check, limit, unit, scope, last)
        return check

    return declare


def trait(name: str) -> Callable[[Trait], Trait]:
    """Declares a function as a trait, see `TRAITS`."""

    def declare(make: Trait) -> Trait:
        if name in TRAITS:
            raise ValueError(f"there is a trait {name!r} already")
        TRAITS[name] = make
        return make

    return declare
