from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config.loader import changed
from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError
from wattcount.load import tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers, which comes with vLLM")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A word-level tokenizer that begins every text with a special token."""
    vocabulary = {"[BOS]": 0, "joule": 1, "per": 2, "token": 3, "[UNK]": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 0)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("key", ["tokenizer", "path"])
def test_tokenizer_of_a_folder(folder: Path, key: str) -> None:
    model = changed(ModelConfig(name="m", weights=Weights.path), {key: str(folder)})
    tokenize = tokenizer.for_model(model)
    assert tokenize is not None
    assert tokenize("joule per token, joule") == [0, 1, 2, 3, 4, 1]


def test_random_weights_have_none() -> None:
    assert tokenizer.for_model(ModelConfig(name="m", hf_id="a/b", weights=Weights.random)) is None


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    tokenize = tokenizer.for_model(ModelConfig(name="m", tokenizer=str(tmp_path)))
    assert tokenize is not None
    with pytest.raises(NotStartedError, match=r"holds no tokenizer\.json"):
        tokenize("a")


def test_broken_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenize = tokenizer.for_model(ModelConfig(name="m", tokenizer=str(tmp_path)))
    assert tokenize is not None
    with pytest.raises(NotStartedError, match="cannot be loaded"):
        tokenize("a")
