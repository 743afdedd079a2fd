"""Commands of the documents are ones that the program takes; those that need no GPU are tried."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import doc_commands  # noqa: E402

from wattcount.cli.main import COMMANDS  # noqa: E402
from wattcount.config.composition import compose  # noqa: E402

PAGES = doc_commands.pages()
OF_THE_PAGES = [
    (page, words) for page in PAGES for words in doc_commands.commands(page.read_text()) if "..." not in words
]
NOT_COMPOSED = re.compile(
    r"^(hydra[./]|\+?hydra\.|-|sweep\.placement|model=(custom|[./~]|[\w.-]+/)|engine.ca_file=|model\.(path|hf_id)=|.*(\.\.\.|[A-Z]{3,}))"
)
"""Words that stand for something, or need a plug-in, a folder or a network."""


def first_values(words: list[str]) -> list[str]:
    """Of a sweep's lists the first value, as far as plain commas part them."""
    return [
        re.sub(r"^([\w.+]+=[^\[{(,]*),[^\[{(]*$", r"\1", word)
        for word in words
        if not word.startswith("repeat=")
    ]


@pytest.mark.parametrize(
    ("page", "words"), OF_THE_PAGES, ids=[f"{page.stem}: {' '.join(words)}" for page, words in OF_THE_PAGES]
)
def test_the_program_takes_the_command(page: Path, words: list[str]) -> None:
    del page
    if words[0] in COMMANDS:
        command = COMMANDS[words[0]]
        parser = argparse.ArgumentParser()
        getattr(importlib.import_module(f"wattcount.cli.{command.module}"), command.add_arguments)(parser)
        named = [word for word in words[1:] if word.startswith("--")]
        known = {flag for action in parser._actions for flag in action.option_strings}
        inner = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if inner is not None and words[1] in inner.choices:
            known |= {flag for action in inner.choices[words[1]]._actions for flag in action.option_strings}
        assert [flag for flag in named if flag.partition("=")[0] not in known] == []
        return
    if "--config-dir" in words:
        return
    overrides = [
        word.removeprefix("+") if word.startswith("+experiment") else word for word in first_values(words)
    ]
    if any(re.match(r"model=(custom|[./~]|[\w.-]+/)", word) for word in overrides):
        overrides = [word for word in overrides if not word.startswith("model")]
    compose([word for word in overrides if not NOT_COMPOSED.match(word)])


def test_each_block_of_commands_says_how_it_is_tried() -> None:
    silent = [
        (block.page, block.text) for page in PAGES for block in doc_commands.blocks(page) if not block.how
    ]
    assert silent == []
    assert sum(block.tried for page in PAGES for block in doc_commands.blocks(page)) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.tried for b in doc_commands.blocks(page))],
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_do_what_they_should(page: Path) -> None:
    assert doc_commands.try_page(page) == []


def test_keys_for_trying_replace_those_of_the_command() -> None:
    line = doc_commands.changed(
        "wattcount -m model=tiny scenario=server repeat=0,1", ["engine=tiny", "scenario=server_short"]
    )
    assert line.startswith("wattcount -m model=tiny repeat=0,1 ")
    assert line.endswith("engine=tiny scenario=server_short")
    assert doc_commands.changed("wattcount list", ["engine=tiny"]) == "wattcount list"


def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- tried -->\n```sh\nwattcount show nowhere-at-all\n```\n")
    (wrong,) = doc_commands.try_page(page)
    assert "exit code 2" in wrong
    assert "nowhere-at-all" in wrong


@pytest.mark.parametrize(
    ("said", "code", "fine"),
    [
        ("VALID", 0, True),
        ("INVALID: do not use these numbers (generator_lagging); emulated", 1, True),
        ("INVALID: client_limited", 1, True),
        ("INVALID: do not use these numbers (gpu_lost)", 1, False),
        ("INVALID: do not use these numbers (generator_lagging)", 2, False),
        ("generator_lagging", 1, False),
        ("", 1, False),
    ],
)
def test_a_busy_machine_is_no_fault_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int, fine: bool
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    block = doc_commands.Block("page.md", "tried", "wattcount gpu=a100\n")
    assert (doc_commands.attempt(block, tmp_path).returncode == 0) is fine


def test_commands_are_found_in_both_kinds_of_code() -> None:
    text = "    python -m wattcount -m a=1 \\\n      b=2   # why\n```sh\nwattcount list | head\n```\nwattcount is a program\n"
    assert list(doc_commands.commands(text)) == [["-m", "a=1", "b=2"], ["list"]]
