"""The commands that stand in the documents, and trying them: `python tools/doc_commands.py [PAGE ...]`.

A block of commands that a reader is to paste begins with ```sh. The comment before it says how it is tried:

    <!-- tried -->                  as it stands; every command ends with exit code 0
    <!-- tried with: KEY=VALUE -->  measuring commands get these keys, in place of their own, so that they need no GPU; a run may be
                                    invalid (exit code 1), for this machine may be busy
    <!-- tried: exit code 0 or 1 -->
    <!-- not tried: WHY -->

The blocks of a page are tried in order, in one folder with nothing but `data` and `examples` of the repository, with a home of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wattcount.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- ((?:not )?tried[^>]*?) -->\n)?```sh\n(.*?)```", re.S)
"""A block with the comment before it, if there is one."""
SHORT = (
    "scenario.window_s=3", "scenario.warmup_s=0", "scenario.warmup_limit_s=0", "scenario.bare_idle_s=0.5", "scenario.loaded_idle_s=0.5",
    "scenario.bare_idle_after_s=0", "scenario.rehearsal_requests=0", "cooldown_limit_s=0",
)  # fmt: skip
"""Keys that make a server's run as short as it can be, for trying."""
SHARED = ("data", "examples")
"""Folders of the repository that the commands may read."""
BUSY = "generator_lagging|client_limited|users_idle|engine_stalled"
"""Codes of findings that come from a machine too busy to offer the load in time, whatever the command is."""
LIMIT_S = 300.0
"""The longest that a block may take [s]."""


@dataclass(frozen=True)
class Block:
    """A block of commands of a page. `how`: what the comment before it says; empty where there is none."""

    page: str
    how: str
    text: str

    @property
    def tried(self) -> bool:
        return self.how.startswith("tried")

    @property
    def extra(self) -> list[str]:
        """Keys that measuring commands get."""
        return self.how.removeprefix("tried with:").split() if self.how.startswith("tried with:") else []

    @property
    def most(self) -> int:
        """The highest exit code that is fine."""
        return 1 if self.extra or "exit code 0 or 1" in self.how else 0


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of commands of a page, in order."""
    return [
        Block(page.name, found[1] or "", found[2])
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each line that calls wattcount, in blocks and in indented code; without comments and pipes."""
    fenced = False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.startswith("```"):
            fenced = line == "```sh"
        code = line if fenced else line[4:] if line.startswith("    ") else ""
        found = re.match(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python -m )?wattcount (.+)$", code)
        if found is None:
            continue
        lexer = shlex.shlex(found[1], posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = []
        for word in lexer:
            if word[0] in "|;&<>":
                break
            words.append(word)
        yield words


def measures(arguments: Sequence[str]) -> bool:
    """Whether these arguments ask for a run or a sweep."""
    return not arguments or (
        arguments[0] not in COMMANDS and "--help" not in arguments and "--cfg" not in arguments
    )


def changed(line: str, extra: Sequence[str]) -> str:
    """A line of a block with the keys `extra`; as it is where it does not measure."""
    if not extra or not line.startswith("wattcount ") or not measures(shlex.split(line)[1:]):
        return line
    words = shlex.split(line, posix=False)[1:]  # with their quotes and variables
    added = [*SHORT, *extra]
    named = {word.partition("=")[0] for word in added}
    kept = [word for word in words if word.partition("=")[0] not in named]
    return " ".join(["wattcount", *kept, *map(shlex.quote, added)])


def script(block: Block) -> str:
    """The block as a script of bash that ends at the first command that fails.

    A run that is invalid because the machine was too busy is no failure.
    """
    call = f"""
wattcount() {{
  local code=0
  "{sys.executable}" -m wattcount "$@" | tee "$WATTCOUNT_HOME.told" || code=${{PIPESTATUS[0]}}
  [ $code -le {block.most} ] && return
  [ $code -eq 1 ] && grep -Eq 'INVALID: (do not use these numbers \\()?({BUSY})\\b' "$WATTCOUNT_HOME.told" && return
  exit $code
}}"""
    lines = (changed(line, block.extra) for line in block.text.splitlines())
    return "\n".join(["set -eu -o pipefail", call, *lines, ""])


def attempt(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a block in `folder`."""
    environment = {
        **os.environ,
        "WATTCOUNT_HOME": str(folder / "home"),
        "WATTCOUNT_LOCK_DIR": str(folder / "locks"),
    }
    return subprocess.run(
        ["bash", "-c", script(block)],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def try_page(page: Path) -> list[str]:
    """What went wrong on a page, a text for each block that failed."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix="wc-") as name:
        folder = Path(name)
        for shared in SHARED:
            (folder / shared).symlink_to(ROOT / shared)
        for block in blocks(page):
            if not block.tried:
                continue
            done = attempt(block, folder)
            if done.returncode != 0:
                wrong.append(
                    f"{block.page}: exit code {done.returncode}\n{block.text}\n{done.stdout[-3000:]}"
                )
    return wrong


def main() -> None:
    chosen = [Path(name) for name in sys.argv[1:]] or pages()
    wrong = [text for page in chosen for text in try_page(page)]
    print("\n\n".join(wrong) or "all commands did what they should")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
