from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.errors import NotStartedError
from wattcount.load.prompts import read_prompts


def write(folder: Path, text: str) -> Path:
    path = folder / "prompts"
    path.write_bytes(text.encode())
    return path


def codepoints(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_json_lines(tmp_path: Path) -> None:
    text = '{"prompt": "ab"}\n\n{"prompt_token_ids": [7, 8, 9], "output_tokens": 4}\n'
    prompts = read_prompts(write(tmp_path, text), codepoints)
    assert prompts.token_ids == ((97, 98), (7, 8, 9))
    assert prompts.output_tokens == (None, 4)
    assert prompts.lines == (1, 3)


def test_plain_text_keeps_characters_that_only_look_like_line_ends(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path, "\ufeffa\u2028b\x0bc\r\n\nd"), codepoints)
    assert prompts.token_ids == ((97, 0x2028, 98, 0x0B, 99), (100,))
    assert prompts.lines == (1, 3)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(
        NotStartedError, match=r"line 1: a text prompt needs a tokenizer: set model\.tokenizer"
    ):
        read_prompts(write(tmp_path, "hello"))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('{"prompt": "a"}\n{"prompt": ', 2, "not JSON: .* at column"),
        ('{"prompt": "a"}\n[1]', 2, "expected a JSON object"),
        ('{"promt": "a"}', 1, "unknown key 'promt'"),
        ('{"output_tokens": 3}', 1, "exactly one of prompt and prompt_token_ids"),
        ('{"prompt": "a", "prompt_token_ids": [1]}', 1, "exactly one of"),
        ('{"prompt": 3}', 1, "prompt must be text"),
        ('{"prompt_token_ids": [1, -1]}', 1, "must be a list of whole numbers"),
        ('{"prompt_token_ids": [1.0]}', 1, "must be a list of whole numbers"),
        ('{"prompt_token_ids": [true]}', 1, "must be a list of whole numbers"),
        ('{"prompt_token_ids": "ab"}', 1, "must be a list of whole numbers"),
        ('{"prompt_token_ids": []}', 1, "the prompt is empty"),
        ('{"prompt": ""}', 1, "the prompt is empty"),
        (
            '{"prompt": "a", "output_tokens": 0}',
            1,
            "output_tokens must be a whole number of at least 1, got 0",
        ),
        ('{"prompt": "a", "output_tokens": 1.5}', 1, "output_tokens must be"),
    ],
)
def test_broken_file_names_file_line_and_what(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(NotStartedError, match=rf"prompt file {path}, line {line}: .*{what}"):
        read_prompts(path, codepoints)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotStartedError, match="holds no prompts"):
        read_prompts(write(tmp_path, text), codepoints)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match="does not exist"):
        read_prompts(tmp_path / "missing")
    with pytest.raises(NotStartedError, match="cannot be read"):
        read_prompts(tmp_path)
    path = tmp_path / "binary"
    path.write_bytes(b"\xff")
    with pytest.raises(NotStartedError, match="not UTF-8"):
        read_prompts(path)
