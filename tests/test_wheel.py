"""The wheel as a stranger would use it: installed elsewhere, started from another folder, with an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = tmp_path_factory.mktemp("build")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
         "--config-settings", f"build-dir={build}", "--wheel-dir", str(out), str(PROJECT)],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("wattcount-*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel and sees this one's packages, but not the editable install."""
    root = tmp_path_factory.mktemp("elsewhere")
    venv.create(root, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A folder named in a .pth file is searched for packages, but its own .pth files are not run.
    (site / "base.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    return root / "bin" / "python"


def run(python: Path, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8"}
    return subprocess.run(
        [python, "-m", "wattcount", *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )


def test_wheel_holds_what_it_needs_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "wattcount/conf/config.yaml" in names
    assert "wattcount/emulator/libnvidia-ml.so.1" in names
    assert any(n.startswith("wattcount/gpu/_native.") and n.endswith(".so") for n in names)
    assert "wattcount/gpu/_native.pyi" in names
    assert "wattcount/py.typed" in names
    stray = [n for n in names if not n.startswith(("wattcount/", "wattcount-"))]
    assert not stray


def test_version_from_another_folder(elsewhere: Path, tmp_path: Path) -> None:
    done = run(elsewhere, tmp_path, "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wattcount ")


def test_main_job_from_another_folder(elsewhere: Path, tmp_path: Path) -> None:
    done = run(
        elsewhere, tmp_path, "model=tiny", "engine=tiny", "power=emulated", "gpu=h200", "scenario=batch",
        "scenario.num_requests=8", "scenario.lengths.output_tokens=16", "scenario.bare_idle_s=0.5",
        "scenario.loaded_idle_s=0.5", "scenario.warmup_requests=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("record: ")
    assert (Path(last.removeprefix("record: ")) / "metrics.json").is_file()
    assert "emulated" in done.stdout
    assert not (tmp_path / "outputs").exists(), "Hydra left a folder behind"


def test_typo_ends_with_one_line(elsewhere: Path, tmp_path: Path) -> None:
    done = run(elsewhere, tmp_path, "model=lama3_8b")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "llama3_8b" in done.stderr
