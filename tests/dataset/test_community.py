"""The repository through which strangers add: git is driven for real, in a folder of the test."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf._utils import get_yaml_loader

from wattcount.config.cohorts import Cohort
from wattcount.dataset import community
from wattcount.dataset.community import (
    MAX_BUNDLES,
    as_text,
    check,
    markdown,
    passed,
    read_pull_request,
    read_verdict,
    write_template,
)
from wattcount.errors import NotStartedError, WattcountError

HOSTILE = "| x | ![a](http://evil.example/p.png) <script>alert(1)</script> @everyone `code` \x1b[2J \u202e \n# head \\| \\\\|"


def read_yaml(text: str) -> Any:
    return get_yaml_loader()(text).get_single_data()


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template as a repository with one commit on `main`."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "repository"
    write_template(folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Add the template")
    git(folder, "checkout", "-q", "-b", "theirs")
    return folder


def add(repository: Path, name: str, content: bytes = b"bundle") -> None:
    file = repository / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "Add")


def accepting(bundle: Path, dataset: Path | None) -> Mapping[str, Any]:
    """Stands in for the validator, which tests of its own run."""
    assert dataset is None
    return {"decision": "accepted", "breaches": [], "read": bundle.read_bytes().decode()}


def test_the_template_is_whole(repository: Path) -> None:
    names = git(repository, "ls-files").splitlines()
    assert {
        ".github/workflows/validate.yml",
        ".github/workflows/comment.yml",
        "CONTRIBUTING.md",
        "tools/check",
    } <= set(names)
    assert os.access(repository / "tools" / "check", os.X_OK)
    assert Cohort.read(repository / "cohorts" / "2026_q4.yaml").seed > 0


def test_the_template_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(NotStartedError, match="is not empty"):
        write_template(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_what_contributing_says_is_what_is_checked(repository: Path) -> None:
    from wattcount.dataset.tiers import MARGIN, MIN_STARTS

    text = (repository / "CONTRIBUTING.md").read_text()
    assert f"less than {100 * MARGIN:.0f} %" in text
    assert MIN_STARTS == 3
    assert "at least three starts" in text
    assert MAX_BUNDLES == 5
    assert "up to five bundles of up to 100 MB" in text
    assert community.MAX_BUNDLE_BYTES == 100 * 10**6


def test_the_workflow_of_strangers_may_only_read(repository: Path) -> None:
    workflow: Any = read_yaml((repository / ".github/workflows/validate.yml").read_text())
    assert list(workflow[True]) == ["pull_request"]  # YAML 1.1 reads `on` as a boolean
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job
    checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert checkout["with"]["persist-credentials"] is False
    assert "secrets." not in (repository / ".github/workflows/validate.yml").read_text()


@pytest.mark.parametrize("name", ["validate", "comment"])
def test_no_text_of_a_pull_request_gets_into_a_command(repository: Path, name: str) -> None:
    workflow: Any = read_yaml((repository / f".github/workflows/{name}.yml").read_text())
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), step


def test_who_may_write_runs_nothing_of_the_pull_request(repository: Path) -> None:
    workflow: Any = read_yaml((repository / ".github/workflows/comment.yml").read_text())
    assert list(workflow[True]) == ["workflow_run"]
    assert workflow["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    (job,) = workflow["jobs"].values()
    (checkout,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout"))
    assert "ref" not in checkout["with"]  # the default branch


def test_a_bundle_is_read_as_data(repository: Path) -> None:
    add(repository, "incoming/ann-2026_q4.wattcount", b"its bytes")
    verdict = check(repository, "main", "theirs", accepting)
    (bundle,) = verdict["bundles"]
    assert bundle["name"] == "incoming/ann-2026_q4.wattcount"
    assert bundle["verdict"]["read"] == "its bytes"
    assert passed(verdict)
    assert "accepted" in markdown(verdict)


def test_what_main_got_meanwhile_is_not_held_against_it(repository: Path) -> None:
    add(repository, "incoming/ann-2026_q4.wattcount")
    git(repository, "checkout", "-q", "main")
    add(repository, "README.md", b"changed on main")
    assert read_pull_request(repository, "main", "theirs").problems == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tools/check", "touches nothing else"),
        (".github/workflows/validate.yml", "touches nothing else"),
        ("dataset/results/part.parquet", "touches nothing else"),
        ("incoming/README.md", "touches nothing else"),
        ("incoming/a b.wattcount", "call it incoming/HANDLE-COHORT.wattcount"),
        ("incoming/$(id).wattcount", "call it incoming/HANDLE-COHORT.wattcount"),
        ("incoming/below/x.wattcount", "call it incoming/HANDLE-COHORT.wattcount"),
        ("incoming/x.zip", "call it incoming/HANDLE-COHORT.wattcount"),
        ("incoming/\x1b[2J.wattcount", "call it incoming/HANDLE-COHORT.wattcount"),
    ],
)
def test_what_else_a_pull_request_touches_is_refused(repository: Path, name: str, said: str) -> None:
    add(repository, name)
    verdict = check(repository, "main", "theirs", accepting)
    assert not passed(verdict)
    assert len(verdict["problems"]) == 1
    assert said in verdict["problems"][0]
    assert "\x1b" not in markdown(verdict)
    assert verdict["bundles"] == []


def test_a_link_an_executable_and_a_submodule_are_no_bundles(repository: Path) -> None:
    (repository / "incoming" / "link.wattcount").symlink_to("/etc/passwd")
    (repository / "incoming" / "run.wattcount").write_text("#!/bin/sh")
    (repository / "incoming" / "run.wattcount").chmod(0o755)
    git(
        repository,
        "update-index",
        "--add",
        "--cacheinfo",
        f"160000,{git(repository, 'rev-parse', 'HEAD')},incoming/sub.wattcount",
    )
    git(repository, "add", "incoming/link.wattcount", "incoming/run.wattcount")
    git(repository, "commit", "-q", "-m", "Add")
    found = read_pull_request(repository, "main", "theirs")
    assert len(found.problems) == 3
    assert all("is no plain file" in problem for problem in found.problems)


def test_nothing_and_too_much(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_pull_request(repository, "main", "theirs").problems == ("it adds no bundle",)
    for number in range(MAX_BUNDLES + 1):
        add(repository, f"incoming/x{number}.wattcount", b"x" * 20)
    found = read_pull_request(repository, "main", "theirs")
    assert len(found.added) == MAX_BUNDLES
    assert "at most 5 are taken at once" in found.problems[0]
    monkeypatch.setattr(community, "MAX_BUNDLE_BYTES", 10)
    assert all(
        "at most 10 are taken" in problem
        for problem in read_pull_request(repository, "main", "theirs").problems
    )


@pytest.mark.parametrize("name", ["nowhere", "--output=/tmp/x", "-h", "main..theirs"])
def test_a_commit_that_is_none_is_refused(repository: Path, name: str) -> None:
    with pytest.raises(NotStartedError, match="is no commit"):
        read_pull_request(repository, "main", name)


def rejected(*messages: str) -> dict[str, Any]:
    breaches = [
        {"severity": "reject", "rule": "form/hash", "record": None, "message": message}
        for message in messages
    ]
    bundle = {"name": "incoming/x.wattcount", "verdict": {"decision": "rejected", "breaches": breaches}}
    return {"head": "0" * 40, "problems": [], "bundles": [bundle]}


def test_text_of_others_is_text_in_the_comment() -> None:
    text = markdown(rejected(HOSTILE))
    (row,) = (line for line in text.splitlines() if "form/hash" in line)
    assert row.count("|") == 5
    assert row.count("`") == 6  # severity, rule, message: each one piece of code
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not any(line.startswith("# head") for line in text.splitlines())


@pytest.mark.parametrize(
    "text", ["`", "``` x", "a`b", "x" * 5000, "\\", "|", "\\|", "", "   ", "\n\n", "é ± 日本"]
)
def test_a_text_is_one_piece_of_code(text: str) -> None:
    shown = as_text(text)
    assert shown == "-" or (shown[0] == shown[-1] == "`" and shown.count("`") == 2)
    assert "|" not in shown
    assert "\n" not in shown
    assert len(shown) < 320


def test_a_comment_has_an_end() -> None:
    text = markdown(rejected(*["x" * 250] * 10_000))
    assert len(text) < 65_536
    assert "9940 more" in text


def test_a_verdict_is_taken_as_data(tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    file.write_text(json.dumps(rejected("why")))
    assert "why" in markdown(read_verdict(file, "0" * 40))
    with pytest.raises(WattcountError, match="another commit"):
        read_verdict(file, "1" * 40)
    for content in (
        "[]",
        "{}",
        '{"head": 1, "problems": 3, "bundles": []}',
        '{"bundles": [1], "problems": [], "head": ""}',
        "x",
        "[" * 9999,
    ):
        file.write_text(content)
        with pytest.raises(WattcountError):
            read_verdict(file, "0" * 40)
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(WattcountError, match="is a link"):
        read_verdict(file, "0" * 40)
