"""What the dataclasses of the configuration are made of: nodes that never change, fields that are identity, ranges.

A range stands beside its field, in the annotation: `window_s: Annotated[float, Range(above=0, unit="s")]`. `loader` has
the checks of them all.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NoReturn, Protocol

MISSING = "???"
"""The value of a key that is still to be given, as OmegaConf has it."""

IDENTITY = "identity"
"""Key of a field's metadata: it is part of a point's identity."""
ALWAYS = "always"
"""Key of a field's metadata: it is in the hash even where it equals its default."""
LEFT_OUT = "left_out"
"""Key of a field's metadata: further values that are left out of the hash."""


def identity(default: Any = MISSING, *, always: bool = False, left_out: Any = MISSING) -> Any:
    """A dataclass field that is part of a point's identity.

    `always` keeps it in the hash even where it equals its default; needed where the default depends on
    the class (`kind`), so that two classes with all their defaults do not hash alike.
    `left_out` is a further value, besides the default, that is left out of the hash: the one that was the default when
    the first records were made.
    """
    metadata = {IDENTITY: True, ALWAYS: always, LEFT_OUT: () if left_out is MISSING else (left_out,)}
    return field(default=default, metadata=metadata)


class Node:
    """The base of the configuration's dataclasses, which are frozen: one that changes is another one.

    Lists and dicts become `FrozenList` and `FrozenDict`. So a node can be the key of a cache; its hash is computed once.
    """

    def __init_subclass__(cls) -> None:
        setattr(cls, "__hash__", Node._hash_once)  # noqa: B010 - dataclass() leaves alone what the class has itself

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list | tuple | dict):
                object.__setattr__(self, name, frozen(value))

    def _hash_once(self) -> int:
        known: int | None = vars(self).get("_hash")
        if known is None:
            values = [getattr(self, item.name) for item in dataclasses.fields(self)]  # type: ignore[arg-type]
            known = hash((type(self), *values))
            object.__setattr__(self, "_hash", known)
        return known

    def __getstate__(self) -> dict[str, Any]:
        # The hash of a text is another one in every process.
        return {name: value for name, value in vars(self).items() if name != "_hash"}


class FrozenList(list[Any]):
    """A list that cannot be changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenList, (list(self),))

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a configuration cannot be changed: make another one (config.changed)")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = append = clear = extend = insert = _refuse
    pop = remove = reverse = sort = _refuse


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed. Two are equal only if their JSON is: 1, 1.0 and true are three values."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self._text())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenDict):
            return super().__eq__(other)
        return self is other or (super().__eq__(other) and self._text() == other._text())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenDict, (dict(self),))

    def _text(self) -> str:
        return json.dumps(self, sort_keys=True, default=str)

    _refuse = FrozenList._refuse
    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


def frozen(value: Any) -> Any:
    """`value` with lists and dicts, at every depth, that cannot be changed."""
    if isinstance(value, FrozenList | FrozenDict):
        return value
    if isinstance(value, dict):
        return FrozenDict({str(key): frozen(inner) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return FrozenList(frozen(inner) for inner in value)
    return value


class Rule(Protocol):
    """What a value must be, beside its type."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, which is not null and of the field's type; None where nothing is."""


class Form(Enum):
    """How text looks that may be published; `dataset.public` has the patterns, and what becomes of text that looks otherwise."""

    code = auto()
    """A short word of a program: `rapl_not_present`."""
    word = auto()
    """A value of a setting: `FLASH_ATTN`, `fp8_e4m3`."""
    title = auto()
    """A product, a model or an option of a group, with blanks: `NVIDIA H100 80GB HBM3`."""
    cpu = auto()
    """A name of a processor, without the clock that Intel puts behind it."""
    hub_id = auto()
    """`organisation/name` of a hub, and branches of one."""
    version = auto()
    release = auto()
    """A version of which only the numbers at its begin are published: builds of a kernel are named by who builds them."""
    module = auto()
    """Part of a model's architecture: `model.layers.*.mlp.router`."""
    digest = auto()
    """A fingerprint."""
    time = auto()
    """ISO 8601."""
    run = auto()
    """A run id, which is made of time and chance."""
    board = auto()
    """UUID of a GPU: a pseudonym stands for it."""
    host = auto()
    """Name or address of a machine: a pseudonym stands for it."""
    kernel = auto()
    """Name of a kernel of an engine: that there is one is published, its name only where an engine ships it."""
    number = auto()
    """No text at all."""


@dataclass(frozen=True)
class Tree:
    """A group of keys that others choose. All its numbers may be published, at any depth; text only below some keys.

    texts   the form of text, by the key that it lies under
    other   the form of text below all other keys; None: it is left out
    """

    texts: Mapping[str, Form] = field(default_factory=dict)
    other: Form | None = None


@dataclass(frozen=True)
class Public:
    """May be published with a record (`dataset.public`). Text and groups without it never are; numbers, truth values and choices
    of the configuration always, for they hold no text.

    what       the form of a text, or of a group its tree, or its keys with what each may hold: others are left out
    required   a pseudonym stands for text of another form, as for all that is identity; else it is left out
    """

    what: Form | Tree | Mapping[str, Any]
    required: bool = False

    def problem(self, value: Any) -> None:
        """Nothing: it limits what is published, not what may be set."""


@dataclass(frozen=True)
class Range:
    """A number's bounds.

    unit  of the bounds and the value, for the message
    hint  what to do about it
    """

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    unit: str = ""
    hint: str = ""

    def problem(self, value: float) -> str | None:
        if (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
        ):
            return None
        unit = f" {self.unit}" if self.unit else ""
        return f"must be {self}, not {_number(value)}{unit}{f'; {self.hint}' if self.hint else ''}"

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.at_least is not None and self.at_most is not None:
            return f"between {_number(self.at_least)} and {_number(self.at_most)}{unit}"
        words = {"at least": self.at_least, "above": self.above, "at most": self.at_most}
        return " and ".join(f"{word} {_number(x)}{unit}" for word, x in words.items() if x is not None)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclass(frozen=True)
class OneOf:
    """Text that is one of a few words."""

    words: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        return None if value in self.words else f"'{value}' is not one of {', '.join(self.words)}"


@dataclass(frozen=True)
class NotBlank:
    """Text that has more than blanks."""

    hint: str = ""

    def problem(self, value: str) -> str | None:
        return None if value.strip() else f"must not be empty{f'; {self.hint}' if self.hint else ''}"


@dataclass(frozen=True)
class FolderName:
    """Text that becomes the name of a folder: file systems take 255 bytes, and files beside it add some."""

    most: int = 200

    def problem(self, value: str) -> str | None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
            return f"'{value}' becomes a folder; use letters, digits, '-', '_' and '.'"
        if len(value) > self.most:
            return f"has {len(value)} characters and becomes a folder; use at most {self.most}"
        return None


@dataclass(frozen=True)
class VariableName:
    """Text that names an environment variable. What is wrong is told without the text: it may be the secret itself."""

    def problem(self, value: str) -> str | None:
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", value):
            return None
        return "must be the name of an environment variable (a secret itself belongs into the variable)"


@dataclass(frozen=True)
class ComputeCapability:
    """Text that is a compute capability of CUDA."""

    def problem(self, value: str) -> str | None:
        good = re.fullmatch(r"[0-9]+(\.[0-9]+)?", value)
        return None if good else f"'{value}' is no CUDA compute capability, such as 9.0"


@dataclass(frozen=True)
class Pattern:
    """Text that is a regular expression."""

    def problem(self, value: str) -> str | None:
        try:
            re.compile(value)
        except re.error as error:
            return f"'{value}' is no regular expression: {error}"
        return None


@dataclass(frozen=True)
class HostPort:
    """Text that is `HOST:PORT` or `HOST`; an IPv6 address stands in brackets."""

    def problem(self, value: str) -> str | None:
        try:
            good = self.parts(value, 1)[1] > 0
        except ValueError:
            good = False
        if not good:
            return f"'{value}' is not HOST:PORT, such as gpu7:9470 or [::1]:9470"
        return None

    @staticmethod
    def parts(text: str, default_port: int) -> tuple[str, int]:
        """Host and port; port 0 is any free one, to listen at. Raises ValueError."""
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", text)
        port = int(found[3] or default_port) if found is not None else 0
        if found is None or port >= 65536:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return found[1] or found[2], port
