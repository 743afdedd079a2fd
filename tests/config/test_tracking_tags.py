"""A user's tags: which are refused, and which of a record's are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config import compose
from wattcount.config.tracking_tags import tag_problem, usable_tags
from wattcount.errors import NotStartedError


@pytest.mark.parametrize(
    "key", ["cluster", "a.b", "a/b", "my tag", "x:y", "evidence_of", "mlflow", "k" * 250]
)
def test_good_keys(key: str) -> None:
    assert tag_problem(key) is None


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("evidence", "is set by wattcount or MLflow itself"),
        ("valid", "is set by wattcount or MLflow itself"),
        ("wattcount.run_id", "is set by wattcount or MLflow itself"),
        ("mlflow.note.content", "is set by wattcount or MLflow itself"),
        ("version.vllm", "is set by wattcount or MLflow itself"),
        ("k" * 300, "has 300 characters, MLflow takes at most 250"),
        ("a=b", "MLflow takes no key 'a=b'"),
        ("a//b", "MLflow takes no key"),
        ("../a", "MLflow takes no key"),
        ("", "MLflow takes no key"),
    ],
)
def test_keys_that_are_refused(key: str, what: str) -> None:
    problem = tag_problem(key)
    assert problem is not None
    assert what in problem
    assert len(problem) < 200
    assert usable_tags({key: "x", "fine": 1, "empty": None}) == {"fine": "1"}


def test_a_run_with_such_a_tag_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"tracking\.tags\.evidence: is set by wattcount"):
        compose(["tracking.tags.evidence=measured"])
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own_tags.yaml").write_text(
        "# @package _global_\ntracking:\n  tags:\n    wattcount.run_id: x\n    mlflow.parentRunId: abc\n"
    )
    with pytest.raises(NotStartedError, match=r"tracking\.tags\.wattcount\.run_id: is set by wattcount"):
        compose(["experiment=own_tags"], str(tmp_path))
    assert compose(["tracking.tags.cluster=blue"]).tracking.tags == {"cluster": "blue"}
