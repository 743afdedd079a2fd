"""The model's tokenizer, for prompt files that hold text. Loaded only when the first text comes."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError, one_line
from wattcount.load.prompts import Tokenize


def source(model: ModelConfig) -> str | None:
    """The hub id or folder of the tokenizer that text prompts get: `model.tokenizer`, else the one of the weights.

    None where there is none: random weights without `model.tokenizer`.
    """
    if model.tokenizer is not None:
        return model.tokenizer
    return {Weights.path: model.path, Weights.hub: model.hf_id, Weights.random: None}[model.weights]


def for_model(model: ModelConfig) -> Tokenize | None:
    """Tokenizes with the tokenizer of `source`; None where there is none.

    Special tokens (beginning of sequence, ...) are added as the tokenizer's file says. The returned function raises
    `NotStartedError` if the tokenizer cannot be had.
    """
    where = source(model)
    if where is None:
        return None
    revision = model.revision if where == model.hf_id else None

    def tokenize(text: str) -> list[int]:
        ids: list[int] = _load(where, revision).encode(text).ids
        return ids

    return tokenize


def check(model: ModelConfig) -> None:
    """What can be known of the tokenizer without loading it, which may take a download.

    Raises `NotStartedError` where the package or the folder's `tokenizer.json` is missing.
    """
    where = source(model)
    if where is None:
        return
    if importlib.util.find_spec("tokenizers") is None:
        raise _no_package()
    folder = Path(where).expanduser()
    if folder.is_dir():
        _file(folder)


def _file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise NotStartedError(
            f"text prompts need a tokenizer, and {folder} holds no tokenizer.json: set model.tokenizer"
        )
    return file


def _no_package() -> NotStartedError:
    return NotStartedError("text prompts need the package tokenizers: pip install tokenizers")


@cache
def _load(where: str, revision: str | None) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise NotStartedError(
            f"text prompts need the package tokenizers ({error}): pip install tokenizers"
        ) from error
    folder = Path(where).expanduser()
    try:
        if folder.is_dir():
            return Tokenizer.from_file(str(_file(folder)))
        return Tokenizer.from_pretrained(where, revision=revision or "main")
    except NotStartedError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise NotStartedError(f"the tokenizer {where} cannot be loaded: {one_line(error)}") from None
