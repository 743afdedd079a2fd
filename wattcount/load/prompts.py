"""Prompt files, with real prompts as text or as token ids, and the tokenizer that turns their texts into token ids.

Four forms are read:

    JSON Lines   one object a line: `prompt` or `prompt_token_ids`, optional `output_tokens`
    JSON         one list of such objects
    ShareGPT     one JSON list of objects with `conversations`: the first message is the prompt, the answer after it
                 tells how many output tokens
    text         one prompt a line

The form follows from the content: JSON if the first line that is not blank begins with `{` or `[` and can be read so, else
text. A file that looks like a form that is not read (a table, a damaged JSON file) is refused: served as text, it would be
another load than the one that was meant.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError, one_line
from wattcount.files import read_text

Tokenize = Callable[[str], list[int]]
"""Turns a prompt into token ids."""

_KEYS = {"prompt", "prompt_token_ids", "output_tokens"}
"""Keys that an object of a prompt file may have."""
_TEXT_SUFFIXES = {"", ".txt", ".text", ".md", ".prompts"}
"""Endings of names of files whose lines may be prompts as they are."""
FORMS = (
    "JSON Lines (one object a line with `prompt` or `prompt_token_ids`, optional `output_tokens`), a JSON list of such "
    "objects, a ShareGPT file (a JSON list of objects with `conversations`), or plain text in a .txt file, one prompt a line"
)
"""The forms of prompt files, for error messages."""


@dataclass(frozen=True)
class PromptFile:
    """Prompts as token ids, in file order. `output_tokens` None: the file does not tell.

    lines     place of each prompt, from 1: its line, or its entry in a JSON list
    skipped   entries without a prompt and an answer (ShareGPT: conversations of fewer than two messages)
    """

    path: Path
    token_ids: tuple[tuple[int, ...], ...]
    output_tokens: tuple[int | None, ...]
    lines: tuple[int, ...]
    skipped: int = 0


@dataclass(frozen=True)
class _Row:
    """One prompt as the file has it."""

    where: str
    """`line 3` or `entry 3`."""
    number: int
    prompt: str | None
    token_ids: list[int] | None
    output_tokens: int | None = None
    answer: str | None = None
    """Text whose number of tokens is that of the output."""


def read_prompts(path: str | Path, tokenize: Tokenize | None = None) -> PromptFile:
    """Reads a prompt file. Raises `NotStartedError` that names the file, the line and what is wrong."""
    path = Path(path).expanduser()
    text = read_text(path, "prompt file")
    token_ids: list[tuple[int, ...]] = []
    output_tokens: list[int | None] = []
    numbers: list[int] = []
    skipped = 0
    for row in _rows(path, text):
        if row is None:
            skipped += 1
            continue
        ids = row.token_ids
        if tokenize is None and (ids is None or row.answer is not None):
            raise NotStartedError(
                f"prompt file {path}, {row.where}: a text prompt needs a tokenizer: set model.tokenizer, or give"
                " prompt_token_ids"
            )
        if ids is None:
            assert tokenize is not None
            assert row.prompt is not None
            ids = tokenize(row.prompt)
        if not ids:
            raise _broken(path, row.where, "the prompt is empty")
        output = row.output_tokens
        if row.answer is not None:
            assert tokenize is not None
            output = max(1, len(tokenize(row.answer)))
        token_ids.append(tuple(ids))
        output_tokens.append(output)
        numbers.append(row.number)
    if not token_ids:
        raise NotStartedError(f"prompt file {path} holds no prompts")
    return PromptFile(path, tuple(token_ids), tuple(output_tokens), tuple(numbers), skipped)


def _rows(path: Path, text: str) -> Iterator[_Row | None]:
    """The prompts of a file of any form. None: an entry without a prompt."""
    # Not splitlines(): it breaks lines at characters that are legal inside a prompt (U+2028, \x0b, ...).
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line.strip()]
    if not lines:
        return
    begin = lines[0][1].lstrip()[0]
    if begin == "[":
        try:
            entries = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            if path.suffix.lower() not in _TEXT_SUFFIXES:
                raise _wrong_form(path, "it begins with '[' and cannot be read as JSON", error) from None
        else:
            yield from _entries(path, entries)
            return
    if begin == "{":
        for number, line in lines:
            yield _json_row(path, f"line {number}", number, _decoded(path, number, line))
        return
    if path.suffix.lower() not in _TEXT_SUFFIXES:
        raise _wrong_form(
            path, f"line {lines[0][0]} is no JSON object, and a {path.suffix} file is not read as text"
        )
    if any(_is_object(line) for _, line in lines):
        number = next(number for number, line in lines if _is_object(line))
        raise _wrong_form(
            path,
            f"line {number} is a JSON object, but line {lines[0][0]} is not: remove comments and headers",
        )
    for number, line in lines:
        yield _Row(f"line {number}", number, line, None)


def _entries(path: Path, entries: Any) -> Iterator[_Row | None]:
    for number, entry in enumerate(entries, start=1):
        where = f"entry {number}"
        if isinstance(entry, dict) and "conversations" in entry:
            yield _conversation(path, where, number, entry["conversations"])
        else:
            yield _json_row(path, where, number, entry)


def _conversation(path: Path, where: str, number: int, turns: Any) -> _Row | None:
    """The first message of a ShareGPT conversation and the answer to it. None: it does not have both."""
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns
    ):
        raise _broken(path, where, "conversations must be a list of objects with the text `value`")
    if len(turns) < 2 or not turns[0]["value"] or not turns[1]["value"]:
        return None
    return _Row(where, number, turns[0]["value"], None, answer=turns[1]["value"])


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _decoded(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _broken(
            path, f"line {number}", f"not JSON: {error.msg} at column {error.colno}; expected {FORMS}"
        ) from None
    except RecursionError:
        raise _broken(path, f"line {number}", "not JSON: nested too deep") from None


def _json_row(path: Path, where: str, number: int, row: Any) -> _Row:
    if not isinstance(row, dict):
        raise _broken(path, where, "expected a JSON object")
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise _broken(
            path,
            where,
            f"unknown key {unknown[0][:60]!r}; known: {', '.join(sorted(_KEYS))}; expected {FORMS}",
        )
    if ("prompt" in row) == ("prompt_token_ids" in row):
        raise _broken(path, where, "exactly one of prompt and prompt_token_ids is needed")
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise _broken(path, where, "prompt must be text")
    ids = row.get("prompt_token_ids")
    if "prompt_token_ids" in row and (
        not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids)
    ):
        raise _broken(path, where, "prompt_token_ids must be a list of whole numbers, none negative")
    output = row.get("output_tokens")
    if output is not None and (type(output) is not int or output < 1):
        raise _broken(path, where, f"output_tokens must be a whole number of at least 1, got {output!r}")
    return _Row(where, number, row.get("prompt"), ids, output)


def _broken(path: Path, where: str, what: str) -> NotStartedError:
    return NotStartedError(f"prompt file {path}, {where}: {what}")


def _wrong_form(path: Path, what: str, error: Exception | None = None) -> NotStartedError:
    why = f" ({error})" if error is not None else ""
    return NotStartedError(f"prompt file {path}: {what}{why}; expected {FORMS}")


def tokenizer_source(model: ModelConfig) -> str | None:
    """The hub id or folder of the tokenizer that text prompts get: `model.tokenizer`, else the one of the weights.

    None where there is none: random or unknown weights without `model.tokenizer`.
    """
    if model.tokenizer is not None:
        return model.tokenizer
    return {Weights.path: model.path, Weights.hub: model.hf_id}.get(model.weights)


def tokenizer_for(model: ModelConfig) -> Tokenize | None:
    """Tokenizes with the tokenizer of `tokenizer_source`; None where there is none.

    Special tokens (beginning of sequence, ...) are added as the tokenizer's file says. The returned function raises
    `NotStartedError` if the tokenizer cannot be had.
    """
    where = tokenizer_source(model)
    if where is None:
        return None
    revision = model.revision if where == model.hf_id else None

    def tokenize(text: str) -> list[int]:
        ids: list[int] = loaded_tokenizer(where, revision).encode(text).ids
        return ids

    return tokenize


def check_tokenizer(model: ModelConfig) -> None:
    """What can be known of the tokenizer without loading it, which may take a download.

    Raises `NotStartedError` where the package or the folder's `tokenizer.json` is missing.
    """
    where = tokenizer_source(model)
    if where is None:
        return
    if importlib.util.find_spec("tokenizers") is None:
        raise _no_package()
    folder = Path(where).expanduser()
    if folder.is_dir():
        _tokenizer_file(folder)


def _tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise NotStartedError(
            f"text prompts need a tokenizer, and {folder} holds no tokenizer.json: set model.tokenizer"
        )
    return file


def _no_package() -> NotStartedError:
    return NotStartedError("text prompts need the package tokenizers: pip install tokenizers")


@cache
def loaded_tokenizer(where: str, revision: str | None) -> Any:
    """The tokenizer of a hub id or folder. Raises `NotStartedError`."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise NotStartedError(
            f"text prompts need the package tokenizers ({error}): pip install tokenizers"
        ) from error
    folder = Path(where).expanduser()
    try:
        if folder.is_dir():
            return Tokenizer.from_file(str(_tokenizer_file(folder)))
        return Tokenizer.from_pretrained(where, revision=revision or "main")
    except NotStartedError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise NotStartedError(f"the tokenizer {where} cannot be loaded: {one_line(error)}") from None
