"""A stranger's pull request from the template to the data set: git, the validator and the data set are all real."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mutated import bench

pytestmark = pytest.mark.timeout(280)


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    env = {**os.environ, "PYTHON": sys.executable, "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(cwd)}
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wattcount(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    return run(sys.executable, "-m", "wattcount", *arguments, cwd=cwd, code=code)


def git(repository: Path, *arguments: str) -> str:
    return run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments, cwd=repository)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bench.source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    wattcount("dataset", "template", folder, cwd=tmp_path)
    git(folder, "init", "-q", "-b", "main")
    wattcount("dataset", "init", "dataset", "--name", "test", cwd=folder)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Begin")
    return folder


def propose(repository: Path, branch: str, name: str, content: bytes) -> None:
    git(repository, "checkout", "-q", "-b", branch, "main")
    (repository / name).write_bytes(content)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "Add a bundle")
    git(repository, "checkout", "-q", "main")


def test_from_a_pull_request_to_a_row_and_back(repository: Path, source: Any) -> None:
    name = "incoming/ann-2026_q4.wattcount"
    propose(repository, "ann", name, source.bundle)
    said = run(repository / "tools" / "check", "main", "ann", cwd=repository)
    verdict = json.loads((repository / "verdict" / "verdict.json").read_text())
    assert verdict["bundles"][0]["verdict"]["decision"] in ("accepted", "flagged")
    assert (repository / "verdict" / "verdict.md").read_text() == said
    assert not (repository / name).exists(), "the branch was checked out"
    assert git(repository, "status", "--porcelain") == ""
    # What the second workflow makes of it.
    commented = run(
        sys.executable, "-m", "wattcount.dataset.community", "comment", "verdict/verdict.json", "--head", verdict["head"], cwd=repository
    )  # fmt: skip
    assert commented == said

    git(repository, "merge", "-q", "--no-ff", "-m", "Merge ann", "ann")
    added = wattcount("dataset", "add", "dataset", name, "--accept-flagged", cwd=repository)
    assert "added 2 results as version 2" in added
    git(repository, "rm", "-q", name)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "Add ann's results")
    listed = json.loads(wattcount("dataset", "list", "dataset", "--json", cwd=repository))
    assert [(item["handle"], item["results"]) for item in listed] == [("ann", 2)]
    assert wattcount("dataset", "tiers", "dataset", cwd=repository).count("validated") == 2

    wattcount(
        "dataset",
        "remove",
        "dataset",
        listed[0]["submission"],
        "--reason",
        "the fan was broken",
        cwd=repository,
    )
    assert json.loads(wattcount("dataset", "list", "dataset", "--json", cwd=repository))[0]["results"] == 0
    assert "the fan was broken" in (repository / "dataset" / "CHANGELOG.md").read_text()


def test_a_forged_bundle_is_rejected_in_the_comment(repository: Path, source: Any) -> None:
    forged = bench.KINDS["an edited figure of metrics.json, hashes refreshed"](source, random.Random(1))
    propose(repository, "eve", "incoming/eve.wattcount", forged)
    said = run(repository / "tools" / "check", "main", "eve", cwd=repository, code=1)
    assert "rejected" in said
    assert "recompute/figures" in said
    git(repository, "merge", "-q", "--no-ff", "-m", "Merge eve all the same", "eve")
    refused = wattcount("dataset", "add", "dataset", "incoming/eve.wattcount", cwd=repository, code=2)
    assert "rejected" in refused
    assert json.loads(wattcount("dataset", "list", "dataset", "--json", cwd=repository)) == []


def test_what_is_no_bundle_gets_a_verdict_too(repository: Path) -> None:
    propose(repository, "bob", "incoming/bob.wattcount", b"PK\x03\x04 a zip")
    said = run(repository / "tools" / "check", "main", "bob", cwd=repository, code=1)
    assert "rejected" in said
    assert "no bundle that can be taken" in said


def test_the_verdict_as_markdown(source: Any, tmp_path: Path) -> None:
    (tmp_path / "x.wattcount").write_bytes(
        bench.KINDS["evidence, GPU or model relabelled, hashes refreshed"](source, random.Random(3))
    )
    said = wattcount("validate", "x.wattcount", "--markdown", cwd=tmp_path, code=1)
    assert said.startswith("**`x.wattcount`: `rejected`**")
    assert "| severity | rule | record | what was found |" in said
