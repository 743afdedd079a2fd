"""Any launcher, whatever it does: plugins of Hydra that break (launchers/), chosen on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_run import SHORT_RUN

from wattcount.sweep.job import JOB_LOST
from wattcount.sweep.ledger import read_state
from wattcount.sweep.outcome import Outcome, State

pytestmark = pytest.mark.timeout(200)

LAUNCHERS = Path(__file__).parent / "launchers"
Sweep = Callable[..., tuple[int, str]]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Runs a sweep with a launcher. Returns the exit code and what it said on standard error."""
    monkeypatch.setenv("PYTHONPATH", str(LAUNCHERS))
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(launcher: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "wattcount", "-m", *SHORT_RUN, "power=emulated", "sweep.name=s"]
        done = subprocess.run(
            [*command, f"hydra/launcher={launcher}", *arguments],
            cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    return run


def outcomes(home: Path) -> list[Outcome]:
    return list(read_state(home / "records", "s").outcomes.values())


def test_what_was_measured_before_a_launcher_broke_counts_and_the_rest_is_tried_again(
    sweep: Sweep, tmp_path: Path
) -> None:
    code, err = sweep("breaks_after_one", "gpu=l4", "repeat=0,1,2")
    assert code == 1
    # A call for three, which breaks at the second, and one for the two others.
    assert [outcome.state for outcome in outcomes(tmp_path)] == [State.done, State.done, State.lost]
    assert outcomes(tmp_path)[2].reason == JOB_LOST
    assert "the launcher failed: RuntimeError: a worker died" in err
    assert len(list((tmp_path / "records").glob("*/r*/run.json"))) == 2
    assert not list((tmp_path / "records").glob(".sweeps/s/jobs/*"))


def test_groups_do_not_cost_each_other_anything(sweep: Sweep, tmp_path: Path) -> None:
    code, err = sweep("breaks_after_one", "gpu=l4,a100")
    assert (code, err) == (0, ""), err
    assert [outcome.state for outcome in outcomes(tmp_path)] == [State.done] * 2


def test_a_launcher_that_refuses_everything_loses_every_point_with_its_reason(
    sweep: Sweep, tmp_path: Path
) -> None:
    code, err = sweep("refuses", "gpu=l4,a100", "sweep.attempts=1")
    assert code == 1
    assert err.count("the launcher failed: RuntimeError: no such queue") >= 1
    assert [outcome.state for outcome in outcomes(tmp_path)] == [State.lost] * 2
    found = {outcome.message for outcome in outcomes(tmp_path)}
    assert found == {"the launcher failed: RuntimeError: no such queue"}


def test_a_placement_that_the_launcher_does_not_know_is_found_before_anything_starts(
    sweep: Sweep, tmp_path: Path
) -> None:
    code, err = sweep("refuses", "gpu=l4", "sweep.placement.l4.partition=gpu")
    assert code == 2
    assert "partition: no such key" in err
    assert not (tmp_path / "records").exists()
