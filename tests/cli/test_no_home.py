"""A user without a home, or with one that cannot be written to, as in many containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRY = (
    "engine=tiny", "model=tiny", "power=emulated", "gpu=l4", "tracking=none", "display.live=false", "scenario=batch",
    "scenario.num_requests=4", "scenario.warmup_requests=1", "scenario.lengths.input_tokens=8",
    "scenario.lengths.output_tokens=4", "scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2",
    "scenario.bare_idle_after_s=0.1",
)  # fmt: skip

NOBODY = "import pwd\ndef none(uid):\n    raise KeyError(uid)\npwd.getpwuid = none\n"
"""Of every Python process: no user has an entry in passwd."""


@pytest.fixture(params=[None, "/proc"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """No HOME and no entry in passwd, or a HOME that cannot be written to."""
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    without = ("HOME", "USER", "LOGNAME", "WATTCOUNT_HOME", "XDG_DATA_HOME", "HF_HOME", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in without}
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | ({"HOME": request.param} if request.param else {})


def wattcount(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wattcount", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m", "repeat=0,1")])
def test_a_run_needs_no_home_where_its_records_have_a_place(
    environment: dict[str, str], sweep: tuple[str, ...], tmp_path: Path
) -> None:
    done = wattcount(environment, *TRY, *sweep, f"records_dir={tmp_path / 'records'}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("record: ") == (2 if sweep else 1)


@pytest.mark.parametrize("arguments", [(), ("-m", "repeat=0,1"), ("records_dir='~/x'",)])
def test_without_a_place_for_records_one_line_says_so(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    done = wattcount(environment, *TRY, *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    problem = done.stderr.strip().splitlines()[-1]
    assert "records_dir" in problem or "no home" in problem


@pytest.mark.parametrize("arguments", [("--help",), ("models",), ("gpus",), ("--cfg", "job"), ("status",)])
def test_the_other_commands_end_without_a_traceback(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    done = wattcount(environment, *arguments)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if arguments == ("status",) else 0)
