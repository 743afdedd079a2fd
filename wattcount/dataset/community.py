"""A repository on GitHub, or anywhere, through which strangers add to a data set.

`write_template` makes the repository: its README, CONTRIBUTING with the rules, the workflows, the published cohorts. `check` is what its
workflow runs on a pull request, and what maintainers run on their own machines. It takes nothing of a pull request but the content
of the bundles that it adds: git reads them as data, so nothing of it is checked out or executed. `comment` makes the text of the
comment from the verdict, in which everything that others wrote is shown as text.

`python -m wattcount.dataset.community check BASE HEAD FOLDER` and `... comment VERDICT.json` are called by `tools/check` and by the workflow.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from wattcount.config.cohorts import FOLDER as COHORTS
from wattcount.config.packaged import packaged
from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED, EXIT_OK, NotStartedError, WattcountError
from wattcount.files import write_atomically
from wattcount.records.intake import parse_json, read_bytes
from wattcount.text import printable

INCOMING = "incoming"
"""Folder of the repository in which pull requests add bundles."""
DATASET = "dataset"
"""Folder of the repository that is the data set."""
BUNDLE_NAME = re.compile(INCOMING + r"/[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.wattcount")
"""What a bundle of a pull request may be called: nothing that a shell, a browser or a file system minds."""
MAX_BUNDLES = 5
"""Most bundles of one pull request [1]: a person reads each verdict."""
MAX_BUNDLE_BYTES = 100_000_000
"""Largest bundle of a pull request [bytes]: GitHub takes no larger file."""
VALIDATE_LIMIT_S = 900
"""How long the validation of one bundle may take [s]: half of what the workflow has for all. The validator has limits of its own."""
MAX_ROWS = 60
"""Most lines of a bundle in a comment [1]: a page that a person reads."""
MAX_TEXT = 300
"""Most characters of a text of others in a comment."""
COMMENT_LIMIT = 60_000
"""Most characters of a comment: GitHub takes 65,536."""
VERDICT_JSON, VERDICT_MD = "verdict.json", "verdict.md"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HIDDEN = {"github": ".github", "gitattributes": ".gitattributes", "gitignore": ".gitignore"}
"""Names in the package, which has no hidden files, and in the repository."""


# -- the repository


def write_template(folder: Path) -> list[Path]:
    """Makes the repository's files in a folder that is empty or not there, and returns their paths in it.

    Raises NotStartedError where something is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if foreign := sorted(entry.name for entry in folder.iterdir() if entry.name != ".git"):
            raise NotStartedError(
                f"{folder} is not empty ({foreign[0]}): the template needs a folder of its own"
            )
        written = list(_copied(resources.files("wattcount.dataset") / "template", folder))
        cohorts = folder / COHORTS
        cohorts.mkdir()
        for file in sorted(packaged(COHORTS).glob("*.yaml")):
            shutil.copyfile(file, cohorts / file.name)
            written.append(cohorts / file.name)
    except OSError as error:
        raise NotStartedError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return sorted(path.relative_to(folder) for path in written)


def _copied(source: Traversable, target: Path) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    for entry in sorted(source.iterdir(), key=lambda item: item.name):
        place = target / _HIDDEN.get(entry.name, entry.name)
        if entry.is_dir():
            yield from _copied(entry, place)
            continue
        place.write_bytes(entry.read_bytes())
        if target.name == "tools":
            place.chmod(0o755)
        yield place


# -- a pull request


@dataclass(frozen=True)
class Added:
    """A bundle that a pull request adds: its path in the repository, git's name of its content, its size."""

    name: str
    blob: str
    num_bytes: int


@dataclass(frozen=True)
class PullRequest:
    """What a pull request adds, and what is wrong with it as a whole, a line each."""

    base: str
    head: str
    added: tuple[Added, ...]
    problems: tuple[str, ...]


def read_pull_request(repository: Path, base: str, head: str) -> PullRequest:
    """What HEAD has that its common ancestor with BASE has not. Raises NotStartedError where git does not know them."""
    base_commit, head_commit = (_commit(repository, name) for name in (base, head))
    changes = _git(
        repository,
        "diff",
        "--raw",
        "-z",
        "--no-renames",
        "--no-abbrev",
        "--no-ext-diff",
        f"{base_commit}...{head_commit}",
    )
    fields = changes.decode("utf-8", "surrogateescape").split("\0")
    added, problems = [], []
    for facts, name in zip(fields[0::2], fields[1::2], strict=False):
        _, mode, _, blob, status = facts.split(" ")
        shown = printable(name.encode("utf-8", "replace").decode(), lines=False)[:MAX_TEXT]
        if status != "A" or not name.startswith(f"{INCOMING}/"):
            problems.append(
                f"{shown}: is changed; a pull request adds bundles in {INCOMING}/ and touches nothing else"
            )
        elif mode != "100644":
            problems.append(f"{shown}: is no plain file")
        elif not BUNDLE_NAME.fullmatch(name):
            problems.append(
                f"{shown}: call it {INCOMING}/HANDLE-COHORT.wattcount, of letters, digits, '-' and '_'"
            )
        else:
            size = int(_git(repository, "cat-file", "-s", blob))
            if size > MAX_BUNDLE_BYTES:
                problems.append(
                    f"{shown}: has {size:,} bytes; at most {MAX_BUNDLE_BYTES:,} are taken: split it"
                )
            else:
                added.append(Added(name, blob, size))
    if not added and not problems:
        problems.append("it adds no bundle")
    if len(added) > MAX_BUNDLES:
        problems.append(f"it adds {len(added)} bundles; at most {MAX_BUNDLES} are taken at once")
        added = added[:MAX_BUNDLES]
    return PullRequest(base_commit, head_commit, tuple(added), tuple(problems))


def _commit(repository: Path, name: str) -> str:
    try:
        found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise NotStartedError(
            f"{printable(name, lines=False)}: is no commit that git knows in {repository}"
        ) from None
    return found.decode().strip()


def _git(repository: Path, *arguments: str) -> bytes:
    """What git says. No option of the repository makes it run a program."""
    command = [
        "git",
        "-C",
        str(repository),
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        *arguments,
    ]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NotStartedError("git is not installed") from None


# -- the check

Validate = Callable[[Path, Path | None], Mapping[str, Any]]
"""From a bundle and the data set to the validator's verdict as JSON."""


def validated(bundle: Path, dataset: Path | None) -> Mapping[str, Any]:
    """The verdict of `wattcount validate --json`, in a process of its own. Where there is none, a rejection that says why."""
    command = [sys.executable, "-m", "wattcount", "validate", str(bundle), "--json"]
    if dataset is not None:
        command += ["--dataset", str(dataset)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=VALIDATE_LIMIT_S)
        found = parse_json(done.stdout, bundle)
        if isinstance(found, dict) and isinstance(found.get("decision"), str):
            return found
        why = "the validator gave no verdict"
    except subprocess.TimeoutExpired:
        why = f"the validator took longer than {VALIDATE_LIMIT_S} s"
    except WattcountError:
        why = (
            done.stderr.decode("utf-8", "replace").strip().splitlines() or ["the validator gave no verdict"]
        )[-1]
    return {
        "decision": REJECTED,
        "breaches": [{"rule": "form/readable", "severity": "reject", "message": why}],
    }


REJECTED = "rejected"
"""Decision on what is no bundle, in the word of `validate.Decision`."""


def check(repository: Path, base: str, head: str, validate: Validate = validated) -> dict[str, Any]:
    """The verdict on a pull request, as plain JSON. Writes nothing in the repository."""
    asked = read_pull_request(repository, base, head)
    dataset = repository / DATASET
    bundles = []
    with tempfile.TemporaryDirectory(prefix="wattcount-pull-request-") as temporary:
        for added in asked.added:
            file = Path(temporary, Path(added.name).name)
            file.write_bytes(_git(repository, "cat-file", "blob", added.blob))
            verdict = validate(file, dataset if dataset.is_dir() else None)
            bundles.append({"name": added.name, "num_bytes": added.num_bytes, "verdict": dict(verdict)})
            file.unlink()
    return {"base": asked.base, "head": asked.head, "problems": list(asked.problems), "bundles": bundles}


def passed(verdict: Mapping[str, Any]) -> bool:
    """Whether maintainers may merge: nothing is wrong with the whole, and no bundle is rejected. A flag is theirs to decide."""
    bundles = verdict["bundles"]
    return (
        not verdict["problems"]
        and bool(bundles)
        and all(b["verdict"]["decision"] != REJECTED for b in bundles)
    )


# -- the comment


def as_text(text: object) -> str:
    """What others wrote as a piece of code in Markdown: no markup, no link, no mention, no HTML, no end of a table's cell."""
    # A bar would end the cell, whatever stands before it; within a piece of code nothing else is markup but its end.
    plain = printable(str(text), lines=False).replace("`", "'").replace("|", "\u00a6")
    if len(plain) > MAX_TEXT:
        plain = plain[:MAX_TEXT] + "..."
    return f"`{plain}`" if plain.strip() else "-"


_WORST_FIRST = {"reject": 0, "flag": 1, "warn": 2}


def markdown(verdict: Mapping[str, Any]) -> str:
    """The verdict as a comment: what is wrong with the whole, then a table of each bundle."""
    lines = ["### What the validator says", ""]
    lines += [f"- **not taken**: {as_text(problem)}" for problem in verdict["problems"]]
    for bundle in verdict["bundles"]:
        lines += ["", *bundle_lines(bundle["name"], bundle["verdict"])]
    end = "Maintainers run `tools/check` again on their own machine before they merge."
    lines += ["", f"Checked: {as_text(verdict['head'])}. {end}", ""]
    text = "\n".join(lines)
    if len(text) > COMMENT_LIMIT:
        return text[: text.rindex("\n", 0, COMMENT_LIMIT)] + "\n\nThe rest is in the log of the workflow.\n"
    return text


def bundle_lines(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Markdown of one verdict of the validator, as `Verdict.to_json` has it: the decision, and a table of the rules that are broken."""
    yield f"**{as_text(name)}: {as_text(found['decision'])}**"
    breaches = sorted(
        found.get("breaches", ()), key=lambda breach: _WORST_FIRST.get(str(breach.get("severity")), 0)
    )
    if not breaches:
        yield ""
        yield "No rule is broken."
        return
    yield ""
    yield "| severity | rule | record | what was found |"
    yield "| --- | --- | --- | --- |"
    for breach in breaches[:MAX_ROWS]:
        cells = (breach.get(key) for key in ("severity", "rule", "record", "message"))
        yield "| " + " | ".join("-" if cell is None else as_text(cell) for cell in cells) + " |"
    if len(breaches) > MAX_ROWS:
        yield f"| | | | {len(breaches) - MAX_ROWS} more: `wattcount validate` shows them |"


def read_verdict(file: Path, head: str) -> dict[str, Any]:
    """A verdict that anybody may have written, of the commit `head`. Raises WattcountError for what is none."""
    found = parse_json(read_bytes(file), file)
    try:
        bundles = [
            {
                "name": str(bundle["name"]),
                "verdict": {
                    "decision": str(bundle["verdict"]["decision"]),
                    "breaches": [dict(breach) for breach in bundle["verdict"].get("breaches", ())],
                },
            }
            for bundle in list(found["bundles"])[:MAX_BUNDLES]
        ]
        read = {
            "head": str(found["head"]),
            "problems": [str(text) for text in list(found["problems"])[:MAX_ROWS]],
            "bundles": bundles,
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise WattcountError(f"{file} is no verdict on a pull request") from None
    if read["head"] != head:
        raise WattcountError(f"{file} is the verdict on another commit")
    return read


# -- called by tools/check and by the workflow


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wattcount.dataset.community", description="checks a pull request to a data set"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="validate the bundles that a pull request adds")
    checking.add_argument("base", help="commit or branch that it is to be merged into")
    checking.add_argument("head", help="its last commit")
    checking.add_argument("folder", type=Path, help=f"gets {VERDICT_JSON} and {VERDICT_MD}")
    checking.add_argument("--repository", type=Path, default=Path(), help="default: this folder")
    commenting = commands.add_parser("comment", help="print a verdict as the text of a comment")
    commenting.add_argument("verdict", type=Path)
    commenting.add_argument("--head", required=True, help="the commit that it must speak of")
    args = parser.parse_args(arguments)
    try:
        if args.command == "comment":
            print(markdown(read_verdict(args.verdict, args.head)), end="")
            return EXIT_OK
        verdict = check(args.repository, args.base, args.head)
        args.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(args.folder / VERDICT_JSON, json.dumps(verdict, indent=1) + "\n")
        text = markdown(verdict)
        write_atomically(args.folder / VERDICT_MD, text)
        print(text, end="")
        return EXIT_OK if passed(verdict) else EXIT_FAILED
    except NotStartedError as error:
        print(f"wattcount: {printable(str(error))}", file=sys.stderr)
        return EXIT_NOT_STARTED
    except (WattcountError, OSError, subprocess.CalledProcessError) as error:
        print(f"wattcount: {printable(str(error))}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
