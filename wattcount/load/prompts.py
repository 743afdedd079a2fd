"""Prompt files: real prompts as text or as token ids.

JSON Lines (one object a line: `prompt` or `prompt_token_ids`, optional `output_tokens`) or plain text,
one prompt a line. A file is JSON Lines if its first line opens an object.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.errors import NotStartedError

Tokenize = Callable[[str], list[int]]
"""Turns a prompt into token ids."""

_KEYS = {"prompt", "prompt_token_ids", "output_tokens"}


@dataclass(frozen=True)
class PromptFile:
    """Prompts as token ids, in file order; `output_tokens` is None where the file does not say.

    `lines` are the line numbers (from 1) the prompts stand on.
    """

    path: Path
    token_ids: tuple[tuple[int, ...], ...]
    output_tokens: tuple[int | None, ...]
    lines: tuple[int, ...]


def read_prompts(path: str | Path, tokenize: Tokenize | None = None) -> PromptFile:
    """Reads a prompt file. Raises `NotStartedError` that names the file, the line and what is wrong."""
    path = Path(path).expanduser()
    try:
        # Not splitlines(): it breaks lines at characters that are legal inside a prompt (U+2028, \x0b, ...).
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotStartedError(f"prompt file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise NotStartedError(f"prompt file {path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise NotStartedError(f"prompt file {path} cannot be read: {error.strerror}") from None
    lines = text.removeprefix("\ufeff").split("\n")
    is_json = lines[0].lstrip().startswith("{")

    token_ids: list[tuple[int, ...]] = []
    output_tokens: list[int | None] = []
    numbers: list[int] = []
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix("\r")
        if not line.strip():
            continue
        row: dict[str, Any] = _json_row(path, number, line) if is_json else {"prompt": line}
        ids = row.get("prompt_token_ids")
        if ids is None:
            if tokenize is None:
                raise NotStartedError(
                    f"prompt file {path}, line {number}: a text prompt needs a tokenizer: set model.tokenizer, or give"
                    " prompt_token_ids"
                )
            ids = tokenize(row["prompt"])
        if not ids:
            raise _broken(path, number, "the prompt is empty")
        token_ids.append(tuple(ids))
        output_tokens.append(row.get("output_tokens"))
        numbers.append(number)
    if not token_ids:
        raise NotStartedError(f"prompt file {path} holds no prompts")
    return PromptFile(path, tuple(token_ids), tuple(output_tokens), tuple(numbers))


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _broken(path, number, f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise _broken(path, number, "expected a JSON object")
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise _broken(path, number, f"unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS))}")
    if ("prompt" in row) == ("prompt_token_ids" in row):
        raise _broken(path, number, "exactly one of prompt and prompt_token_ids is needed")
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise _broken(path, number, "prompt must be text")
    ids = row.get("prompt_token_ids", [])
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise _broken(path, number, "prompt_token_ids must be a list of whole numbers, none negative")
    output = row.get("output_tokens")
    if output is not None and (type(output) is not int or output < 1):
        raise _broken(path, number, f"output_tokens must be a whole number of at least 1, got {output!r}")
    return row


def _broken(path: Path, line: int, what: str) -> NotStartedError:
    return NotStartedError(f"prompt file {path}, line {line}: {what}")
