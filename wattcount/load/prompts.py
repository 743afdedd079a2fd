"""Prompt files, with real prompts as text or as token ids, and the tokenizer that turns their texts into token ids.

A file holds one object a line (JSON Lines), one list of objects (JSON), or one prompt a line (text). Forms of objects:

    own           `prompt` (or `text`, as AIPerf calls it) or `prompt_token_ids`, optional `output_tokens`; or `turns`, a list of such, each
                  with its `answer` or `answer_token_ids` as the later turns are to have it
    conversation  `conversations`, `conversation` or `messages`: a list of `{from, value}` (ShareGPT) or `{role, content}` (OpenAI, LMSYS-Chat,
                  UltraChat 200k, WildChat); `data`: a list of texts, question and answer in turn (UltraChat)
    instruction   `instruction` with `input` or `context`, and `output` or `response` (Alpaca, Dolly); `question` or `problem`, after a
                  `system_prompt` where there is one, with `answer`, `output`, `response` or `solution` (GSM8K, OpenOrca, MLPerf, NuminaMath)
    turns         `turns` or `prompt` as a list of texts, without answers (MT-Bench)

An answer tells how many output tokens there are to be. As prompts, the first turn of each conversation is taken; as conversations, all
turns: each prompt is what was said before, the recorded answers included, and what is said now.

The form follows from the content: JSON if the first line that is not blank begins with `{` or `[` and can be read so, else
text. A file that looks like a form that is not read (a table, a damaged JSON file) is refused: served as text, it would be
another load than the one that was meant.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError, one_line
from wattcount.files import read_text

Tokenize = Callable[[str], list[int]]
"""Turns a prompt into token ids."""

_KEYS = (
    "prompt",
    "text",
    "prompt_token_ids",
    "output_tokens",
    "answer",
    "completion",
    "response",
    "answer_token_ids",
)
"""Keys that are read of an object of our own form. Others are passed over, but not one that is nearly one of these."""
_MISTYPED = 0.85
"""Likeness (difflib) from which an unknown key is taken for a mistyped one of _KEYS: `output_token`, `promt`; not `prompt_id`."""
_CONVERSATIONS = ("conversations", "conversation", "messages", "data")
"""Keys of data sets that hold a list of messages."""
_ASKED = ("question", "problem")
"""Keys of data sets that hold what is asked."""
_ANSWERED = ("answer", "output", "response", "solution")
"""Keys of data sets that hold the answer to that."""
_ANSWERING = ("gpt", "assistant", "chatgpt", "bard", "bing", "model", "bot")
"""Who answers, in data sets; all others ask."""
_TEXT_SUFFIXES = {"", ".txt", ".text", ".md", ".prompts"}
"""Endings of names of files whose lines may be prompts as they are."""
FORMS = (
    "JSON Lines (one object a line with `prompt` or `prompt_token_ids`, optional `output_tokens`), a JSON list of such objects, objects "
    "with `conversations` or `messages` (ShareGPT and the like), with `instruction` or `question`, or plain text in a .txt file, one prompt a line"
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
    """What was answered; its number of tokens is that of the output."""
    answer_ids: list[int] | None = None


@dataclass(frozen=True)
class Turn:
    """One request of a conversation: the whole prompt as token ids, and how many output tokens the recorded answer has; None: unknown."""

    token_ids: tuple[int, ...]
    output_tokens: int | None


@dataclass(frozen=True)
class ConversationFile:
    """Conversations in file order, each with at least one turn. `skipped`: entries without anything said."""

    path: Path
    conversations: tuple[tuple[Turn, ...], ...]
    skipped: int = 0


def read_conversations(path: str | Path, tokenize: Tokenize | None = None) -> ConversationFile:
    """Reads a file of conversations. Raises `NotStartedError` as `read_prompts`."""
    path = Path(path).expanduser()
    found: list[tuple[Turn, ...]] = []
    skipped = 0
    for rows in _rows(path, read_text(path, "file of conversations")):
        history: list[int] = []
        turns: list[Turn] = []
        for row in rows:
            history += _ids(path, row, row.prompt, row.token_ids, tokenize)
            answer = []
            if row.answer is not None or row.answer_ids is not None:
                answer = _ids(path, row, row.answer, row.answer_ids, tokenize)
            turns.append(Turn(tuple(history), row.output_tokens or (max(1, len(answer)) if answer else None)))
            history += answer
        if turns:
            found.append(tuple(turns))
        else:
            skipped += 1
    if not found:
        raise NotStartedError(f"file of conversations {path} holds none")
    return ConversationFile(path, tuple(found), skipped)


def _ids(
    path: Path, row: _Row, text: str | None, ids: list[int] | None, tokenize: Tokenize | None
) -> list[int]:
    """Token ids of a text, or those that the file gives."""
    if ids is None:
        if tokenize is None:
            raise NotStartedError(
                f"prompt file {path}, {row.where}: a text prompt needs a tokenizer: set model.tokenizer, or give"
                " prompt_token_ids"
            )
        assert text is not None
        ids = tokenize(text)
    if not ids:
        raise _broken(path, row.where, "the prompt is empty")
    return ids


def read_prompts(path: str | Path, tokenize: Tokenize | None = None) -> PromptFile:
    """Reads a prompt file. Raises `NotStartedError` that names the file, the line and what is wrong."""
    path = Path(path).expanduser()
    text = read_text(path, "prompt file")
    token_ids: list[tuple[int, ...]] = []
    output_tokens: list[int | None] = []
    numbers: list[int] = []
    skipped = 0
    for rows in _rows(path, text):
        if not rows:
            skipped += 1
            continue
        row = rows[0]
        ids = _ids(path, row, row.prompt, row.token_ids, tokenize)
        output = row.output_tokens
        if output is None and (row.answer is not None or row.answer_ids is not None):
            output = len(_ids(path, row, row.answer, row.answer_ids, tokenize))
        token_ids.append(tuple(ids))
        output_tokens.append(output)
        numbers.append(row.number)
    if not token_ids:
        raise NotStartedError(f"prompt file {path} holds no prompts")
    return PromptFile(path, tuple(token_ids), tuple(output_tokens), tuple(numbers), skipped)


def _rows(path: Path, text: str) -> Iterator[list[_Row]]:
    """The entries of a file of any form, each with its turns; none: an entry in which nothing was said and answered."""
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
            yield _entry(path, f"line {number}", number, _decoded(path, number, line))
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
        yield [_Row(f"line {number}", number, line, None)]


def _entries(path: Path, entries: Any) -> Iterator[list[_Row]]:
    for number, entry in enumerate(entries, start=1):
        yield _entry(path, f"entry {number}", number, entry)


def _entry(path: Path, where: str, number: int, entry: Any) -> list[_Row]:
    """The turns of one entry; none where it holds nothing that was said and answered."""
    if not isinstance(entry, dict):
        raise _broken(path, where, "expected a JSON object")
    for key in _CONVERSATIONS:
        if key in entry:
            return _conversation(path, where, number, key, entry[key])
    if "instruction" in entry:
        further = _first(entry, "input", "context")
        return _answered(
            path, where, number, (entry["instruction"], further), _first(entry, "output", "response")
        )
    asked = _first(entry, *_ASKED)
    if asked is not None and "prompt" not in entry:
        return _answered(
            path, where, number, (_first(entry, "system_prompt"), asked), _first(entry, *_ANSWERED)
        )
    turns = entry.get("turns", entry.get("prompt"))
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        return [_Row(where, number, turn, None) for turn in turns]
    if "turns" in entry:
        if not isinstance(turns, list) or not turns:
            raise _broken(
                path, where, "turns must be a list of texts, or of objects with prompt or prompt_token_ids"
            )
        return [_json_row(path, where, number, turn) for turn in turns]
    return [_json_row(path, where, number, entry)]


def _conversation(path: Path, where: str, number: int, key: str, messages: Any) -> list[_Row]:
    """The turns of a conversation as data sets have it; a turn that was not answered is none."""
    texts: list[tuple[bool, str]] = []
    for message in messages if isinstance(messages, list) else [None]:
        if isinstance(message, str):
            texts.append((len(texts) % 2 == 1, message))
            continue
        if not isinstance(message, dict):
            raise _broken(path, where, f"{key} must be a list of objects with `value` or `content`")
        text = _said(message)
        if not isinstance(text, str):
            raise _broken(path, where, f"{key} must be a list of objects with the text `value` or `content`")
        role = str(message.get("from", message.get("role", ""))).lower()
        texts.append((role in _ANSWERING if role else len(texts) % 2 == 1, text))
    rows: list[_Row] = []
    said = ""
    for answers, text in texts:
        if not answers:
            said = f"{said}\n\n{text}" if said else text  # a system's message comes before the first one
        elif said and text:
            rows.append(_Row(where, number, said, None, answer=text))
            said = ""
        elif text == "":
            return rows
    return rows


def _said(message: dict[str, Any]) -> Any:
    """The text of a message: of OpenAI's list of parts those that are text; empty where there is none but calls of tools."""
    content = message.get("value", message.get("content"))
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n\n".join(part for part in parts if isinstance(part, str))
    return "" if content is None and ("content" in message or "tool_calls" in message) else content


def _answered(path: Path, where: str, number: int, parts: Sequence[Any], answer: Any) -> list[_Row]:
    """`parts` of the prompt, one below the other; None: there is no such part."""
    if not all(isinstance(text, str | None) for text in (*parts, answer)):
        raise _broken(path, where, "its prompt and its answer must be texts")
    prompt = "\n\n".join(part for part in parts if part)
    return [_Row(where, number, prompt, None, answer=answer or None)] if prompt else []


def _first(entry: dict[str, Any], *keys: str) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


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
    for key in sorted(set(row) - set(_KEYS)):
        if meant := difflib.get_close_matches(key, _KEYS, 1, _MISTYPED):
            raise _broken(path, where, f"unknown key {key[:60]!r}: did you mean {meant[0]!r}?")
    prompt = _first(row, "prompt", "text")
    if (prompt is None) == ("prompt_token_ids" not in row):
        raise _broken(
            path,
            where,
            f"exactly one of prompt and prompt_token_ids is needed; expected {FORMS}",
        )
    if prompt is not None and not isinstance(prompt, str):
        raise _broken(path, where, "prompt must be text")
    ids = row.get("prompt_token_ids")
    if "prompt_token_ids" in row and not _is_ids(ids):
        raise _broken(path, where, "prompt_token_ids must be a list of whole numbers, none negative")
    output = row.get("output_tokens")
    if output is not None and (type(output) is not int or output < 1):
        raise _broken(path, where, f"output_tokens must be a whole number of at least 1, got {output!r}")
    answer, answer_ids = _first(row, "answer", "completion", "response"), row.get("answer_token_ids")
    if answer is not None and not isinstance(answer, str):
        raise _broken(path, where, "answer must be text")
    if answer_ids is not None and not _is_ids(answer_ids):
        raise _broken(path, where, "answer_token_ids must be a list of whole numbers, none negative")
    return _Row(where, number, prompt, ids, output, answer, answer_ids)


def _is_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids)


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
