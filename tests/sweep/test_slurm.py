from __future__ import annotations

import os
from pathlib import Path

import pytest

from wattcount.sweep import slurm


def test_jobs_are_in_the_order_of_their_points(tmp_path: Path) -> None:
    assert slurm.job_ids(tmp_path / "nowhere") == []
    for index in (10, 2, 0):
        folder = tmp_path / f"7_{index}"
        folder.mkdir()
        (folder / f"7_{index}_submitted.pkl").write_bytes(b"")
        (folder / f"7_{index}_0_result.pkl").write_bytes(b"")
    (tmp_path / "7").mkdir()
    assert slurm.job_ids(tmp_path) == ["7_0", "7_2", "7_10"]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("TIMEOUT", "SLURM job 7_2 ended: TIMEOUT; raise hydra.launcher.timeout_min"),
        ("OUT_OF_MEMORY", "SLURM job 7_2 ended: OUT_OF_MEMORY; raise hydra.launcher.mem_gb"),
        ("NODE_FAIL", "SLURM job 7_2 ended: NODE_FAIL"),
        (None, "SLURM job 7_2 ended without a result; see its log in the sweep's folder"),
    ],
)
def test_what_became_of_a_job_is_one_line(state: str | None, line: str) -> None:
    assert slurm.died("7_2", state) == line


def test_a_slurm_that_does_not_answer_says_nothing_of_its_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.queued() is None
    assert slurm.last_state("7_2") is None
    slurm.cancel(["7_2"])


def test_the_queue_is_asked_for_the_users_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As a user id without a name, which containers have, would: nothing here may look for the name.
    monkeypatch.setattr("getpass.getuser", lambda: pytest.fail("the name was asked for"))
    asked = tmp_path / "asked"
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\necho "$@" > {asked}\necho 7_0\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.queued() == {"7_0"}
    assert f"--user={os.getuid()} " in asked.read_text()
