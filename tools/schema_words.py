"""The words that stand below the fields of a dataclass in its source: what `make docs` says of keys."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from functools import cache
from typing import Any


@cache
def field_words(cls: Any) -> dict[str, str]:
    """What the text below each field of `cls` says, those of its bases included; as one line. A field without one is not in it."""
    words: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):
            continue
        (tree,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(tree, ast.ClassDef)
        words |= _below(tree.body)
    return words


def constant_words(module: Any) -> dict[str, str]:
    """What the text below each assignment of a module says, by the names that it assigns to."""
    return _below(ast.parse(inspect.getsource(module)).body)


@cache
def member_words(enum: Any) -> dict[str, str]:
    """What the text below each member of an enum says, by the member's name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(enum))).body
    assert isinstance(tree, ast.ClassDef)
    return _below(tree.body)


def _below(body: list[ast.stmt]) -> dict[str, str]:
    """The text below each assignment, by the names that it assigns to."""
    words: dict[str, str] = {}
    for statement, after in itertools.pairwise(body):
        if not (text := _text(after)):
            continue
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            words |= {
                node.id: text for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
            }
    return words


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, as one line."""
    line = " ".join(text.split())
    return re.split(r"(?<=\.)\s", line, maxsplit=1)[0]


def _text(statement: ast.stmt) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    text = value.value if isinstance(value, ast.Constant) else None
    return " ".join(text.split()) if isinstance(text, str) else ""
