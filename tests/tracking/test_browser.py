"""The addresses that are printed open what they promise, in a real browser with a profile that has never seen MLflow."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_ledger import make_sweep
from synthetic_record import SyntheticRun, observation

from wattcount.cli.main import main
from wattcount.metrics import write

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(900)]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
WAIT_MS = 300_000
"""How long a page is waited for [ms]: a machine may be slow, a page that is wrong never shows the text."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install '.[browser-tests]'"
    )
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    fresh = browser.new_context(viewport={"width": 1600, "height": 1000})
    opened = fresh.new_page()
    opened.set_default_timeout(WAIT_MS)
    yield opened
    fresh.close()


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The addresses in what was printed, by what stands before them."""
    return dict(re.findall(r"(?m)^([a-z ]+): (http://\S+)$", capsys.readouterr().out))


def test_the_list_of_runs_opens_with_energy_and_what_is_invalid(
    page: Any,
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    good = SyntheticRun(run_id="20260101-000000-000-aaaaaa").write(tmp_path / "good")
    shared = [observation("compute_processes", 1, 2)]
    bad = SyntheticRun(run_id="20260101-000000-000-bbbbbb", observations=shared).write(tmp_path / "bad")
    assert main(["log", str(good), str(bad)]) == 0
    page.goto(printed(capsys)["see it at"])
    page.get_by_text("energy/gpu_mj_per_output").first.wait_for()
    page.get_by_text(re.compile("^INVALID llama3_8b")).first.wait_for()
    shown = page.inner_text("body")
    assert "Traces 0" not in shown
    assert "Energy" in shown


def test_a_sweeps_page_shows_its_state_and_its_table(
    page: Any,
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    make_sweep(tmp_path).close()
    assert main(["log", "--sweep", "big", "--records-dir", str(tmp_path)]) == 0
    address = printed(capsys)["the sweep"]
    page.goto(address)
    page.get_by_text("6 points: 2 done").first.wait_for()
    page.goto(address.replace("?", "/artifacts/results.md?"))
    page.get_by_text("J per token").first.wait_for()


def test_a_run_has_system_metrics_and_a_page_of_its_result(
    page: Any,
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    record = SyntheticRun(run_id="20260101-000000-000-cccccc").write(tmp_path / "run")
    write(record)
    assert main(["log", str(record)]) == 0
    out = capsys.readouterr().out
    run_id = out.split()[0]
    base = re.search(r"(http://\S+/#/experiments/\d+)/runs", out)
    assert base is not None
    page.goto(f"{base[1]}/runs/{run_id}/system-metrics?workflowType=machine_learning")
    page.get_by_text("gpu_0_power_usage_watts").first.wait_for()
    page.goto(f"{base[1]}/runs/{run_id}/artifacts/summary.md?workflowType=machine_learning")
    page.get_by_text("Energy of the window").first.wait_for()
