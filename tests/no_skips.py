"""Skips as failures, where `WATTCOUNT_NO_SKIPS` is set (`make test-all`, CI): a suite that nobody runs protects nothing.

A skip whose reason begins with one of `ALLOWED`'s stays a skip. conftest.py takes the hooks in.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

ENV = "WATTCOUNT_NO_SKIPS"
_DATA = "outside data is not part of the repository; it is tested where it lies beside the clone, or in $WATTCOUNT_SHARED_DATA"
ALLOWED = {
    "the Azure traces are not in": _DATA,
    "the H200 recordings are not at": _DATA,
    "the recording of a real H200 is not at": _DATA,
    "the logs of others are not at": _DATA,
    "no Watt Counts data set at": _DATA,
    "the config class of": "some models bring their own code with their weights, which no test downloads",
    "no network namespace can be made here": "a container may forbid it; elsewhere this test runs",
    "no time namespace can be made here": "a container may forbid it; clocks that differ are in tests/gpu/remote/test_clock.py, too",
    "cannot become another user here": "a container may forbid it; as a user other than root, these tests run",
    "no node here": "the browser tests run the same script; where there is node, this test is the quicker one",
}
"""The beginning of a skip's reason, and why it may be one."""


def _as_failure(report: Any) -> None:
    if not (report.skipped and os.environ.get(ENV)) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(tuple(ALLOWED)):
        report.outcome = "failed"
        report.longrepr = f"{reason} (with {ENV} a skip is a failure, unless tests/no_skips.py lists it)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _as_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    _as_failure(report)
    return report
