"""The model's tokenizer, for prompt files that hold text. Loaded only when the first text comes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError, one_line
from wattcount.load.prompts import Tokenize


def for_model(model: ModelConfig) -> Tokenize | None:
    """Tokenizes as `model.tokenizer` does, else as the tokenizer that comes with the weights.

    Special tokens (beginning of sequence, ...) are added as the tokenizer's file says. None where there is
    no tokenizer: random weights without `model.tokenizer`. The returned function raises `NotStartedError`
    if the tokenizer cannot be had.
    """
    where = model.tokenizer
    if where is None and model.weights is Weights.path:
        where = model.path
    if where is None and model.weights is Weights.hub:
        where = model.hf_id
    if where is None:
        return None
    revision = model.revision if where == model.hf_id else None

    def tokenize(text: str) -> list[int]:
        ids: list[int] = _load(where, revision).encode(text).ids
        return ids

    return tokenize


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
            file = folder / "tokenizer.json"
            if not file.is_file():
                raise NotStartedError(f"model.tokenizer {folder} holds no tokenizer.json")
            return Tokenizer.from_file(str(file))
        return Tokenizer.from_pretrained(where, revision=revision or "main")
    except NotStartedError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise NotStartedError(f"the tokenizer {where} cannot be loaded: {one_line(error)}") from None
