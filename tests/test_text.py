"""Texts of others on terminals: shown as text, in whatever characters the terminal has."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from wattcount.terminal import PlainConsole
from wattcount.text import degrade, printable

EVIL = {
    "title": "a\x1b]0;owned\x07b",
    "colour": "\x1b[31mred\x1b[2J",
    "c1": "x\x9b31mred",
    "bidi": "abc\u202edef",
    "surrogate": "\ud800x",
    "carriage return": "valid\rINVALID",
    "null": "a\x00b",
}


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_what_a_terminal_would_obey_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\\" in shown


def test_other_texts_stay_as_they_are() -> None:
    text = "Qwen3-8B ± 0.5 % µJ 日本語 [bold]"
    assert printable(text) is text
    assert printable("a\n\tb") == "a\n\tb"
    assert printable("a\n\tb", lines=False) == "a\\x0a\\x09b"


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_no_control_character_of_others(text: str, terminal: bool) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=80, force_terminal=terminal, color_system=None)
    table = Table(text)
    table.add_row(Text(text))
    table.add_row(text)
    for shown in (text, Text(text), table):
        console.print(shown)
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


def test_a_console_takes_no_markup_and_keeps_its_own_colours() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=80, force_terminal=True, color_system="standard")
    console.print("[bold]x[/bold] :smile: [/red] [link=http://evil.example/]y[/link]")
    assert out.getvalue() == "[bold]x[/bold] :smile: [/red] [link=http://evil.example/]y[/link]\n"
    out.truncate(0)
    console.print(Text("x", style="red"))
    assert "\x1b[31mx" in out.getvalue()


def test_a_terminal_without_the_characters_gets_others() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    degrade(stream, io.StringIO())  # and what is no stream of bytes is left as it is
    stream.write("1 ± 2 µJ \u00d7 3 日\ud800")
    stream.flush()
    assert raw.getvalue() == b"1 +- 2 uJ x 3 \\u65e5\\ud800"
