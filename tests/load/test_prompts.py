from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config.loader import changed
from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError
from wattcount.load.prompts import read_prompts, tokenizer_for


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
        ('{"promt": "a"}', 1, "unknown key 'promt': did you mean 'prompt'"),
        ('{"prompt": "a", "output_token": 3}', 1, "unknown key 'output_token': did you mean 'output_tokens'"),
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
    with pytest.raises(NotStartedError, match="neither UTF-8 nor UTF-16"):
        read_prompts(path)


CASES = {
    "sharegpt.json": '[{"id": "a", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},\n'
    ' {"id": "b", "conversations": [{"from": "human", "value": "Bye"}]}]\n',
    "pretty.json": '[\n  {\n    "prompt": "Hello"\n  },\n  {\n    "prompt": "Bye"\n  }\n]\n',
    "blank_first.jsonl": '\n{"prompt_token_ids": [1, 2, 3], "output_tokens": 4}\n',
    "comment_first.jsonl": '# my prompts\n{"prompt_token_ids": [1, 2, 3], "output_tokens": 4}\n',
    "comment_first.txt": '# my prompts\n{"prompt_token_ids": [1, 2, 3], "output_tokens": 4}\n',
    "prompts.csv": 'prompt,output_tokens\n"Hello, world",5\n',
    "one.json": '{\n  "prompt": "Hello"\n}\n',
    "cut.json": '[{"prompt": "Hello"}, {"prom',
}


def case(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(CASES[name])
    return path


def test_sharegpt(tmp_path: Path) -> None:
    prompts = read_prompts(case(tmp_path, "sharegpt.json"), codepoints)
    assert prompts.token_ids == (tuple(codepoints("Hello")),)
    assert prompts.output_tokens == (2,)
    assert prompts.skipped == 1


def test_a_json_list_of_rows(tmp_path: Path) -> None:
    prompts = read_prompts(case(tmp_path, "pretty.json"), codepoints)
    assert prompts.token_ids == (tuple(codepoints("Hello")), tuple(codepoints("Bye")))
    assert prompts.lines == (1, 2)


def test_a_blank_line_before_the_first_object(tmp_path: Path) -> None:
    prompts = read_prompts(case(tmp_path, "blank_first.jsonl"))
    assert prompts.token_ids == ((1, 2, 3),)
    assert prompts.lines == (2,)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("comment_first.jsonl", "line 1 is no JSON object, and a .jsonl file is not read as text"),
        ("comment_first.txt", "line 2 is a JSON object, but line 1 is not: remove comments and headers"),
        ("prompts.csv", "line 1 is no JSON object, and a .csv file is not read as text"),
        ("one.json", "line 1: not JSON"),
        ("cut.json", r"it begins with '\[' and cannot be read as JSON"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_forms_that_are_read(
    tmp_path: Path, name: str, what: str
) -> None:
    with pytest.raises(NotStartedError, match=f"{what}.*expected JSON Lines .*ShareGPT"):
        read_prompts(case(tmp_path, name), codepoints)


def test_text_that_begins_with_a_bracket_is_text(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path, "[INST] hello [/INST]\n"), codepoints)
    assert prompts.token_ids == (tuple(codepoints("[INST] hello [/INST]")),)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"conversations": 3}]', "entry 1: conversations must be a list"),
        ('[{"conversations": [{"from": "human"}, {"value": "x"}]}]', "entry 1: conversations must be a list"),
        ('[{"prompt": "a"}, 3]', "entry 2: expected a JSON object"),
        ('[{"conversations": []}]', "holds no prompts"),
        ("{" * 2000, "line 1: not JSON"),
        ("[" * 200_000 + "]" * 200_000, None),
    ],
)
def test_broken_lists(tmp_path: Path, text: str, what: str | None) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(NotStartedError, match=what or "cannot be read as JSON"):
        read_prompts(path, codepoints)


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
    tokenize = tokenizer_for(model)
    assert tokenize is not None
    assert tokenize("joule per token, joule") == [0, 1, 2, 3, 4, 1]


def test_random_weights_have_none() -> None:
    assert tokenizer_for(ModelConfig(name="m", hf_id="a/b", weights=Weights.random)) is None


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    tokenize = tokenizer_for(ModelConfig(name="m", tokenizer=str(tmp_path)))
    assert tokenize is not None
    with pytest.raises(NotStartedError, match=r"holds no tokenizer\.json"):
        tokenize("a")


def test_broken_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenize = tokenizer_for(ModelConfig(name="m", tokenizer=str(tmp_path)))
    assert tokenize is not None
    with pytest.raises(NotStartedError, match="cannot be loaded"):
        tokenize("a")
