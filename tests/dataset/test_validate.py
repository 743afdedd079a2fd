"""The validator's processes, and what it says."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.edited_record import BATCH, SERVER, copied, edit_run
from wattcount.cli.main import main
from wattcount.dataset import validate as validator
from wattcount.dataset.bundle import BundleError, Submitter, write_bundle
from wattcount.dataset.checks import RULES
from wattcount.dataset.rules import Severity
from wattcount.dataset.validate import LIMITS, Broken, Confined, Decision, DiedError, Verdict, validate
from wattcount.dataset.verdict_text import as_html, as_text
from wattcount.errors import NotStartedError

SUBMITTER = Submitter("alice", "alice@example.org", "CC-BY-4.0", b"k" * 32)
HOSTILE = "\x1b[31m<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "mine.wattcount"
    write_bundle([BATCH, SERVER], file, SUBMITTER)
    return file


def test_a_bundle_of_real_records_is_accepted(bundle: Path) -> None:
    told: list[tuple[int, int]] = []
    verdict = validate(bundle, workers=2, progress=lambda done, total: told.append((done, total)))
    assert verdict.decision is Decision.accepted
    assert told == [(1, 2), (2, 2)]
    said = verdict.to_json()
    assert said["counts"] == {"accepted": 2, "flagged": 0, "rejected": 0}
    assert said["bundle"]["handle"] == "alice"
    assert {item["run_id"] for item in said["records"]} == {
        BATCH.name.partition("-")[2],
        SERVER.name.partition("-")[2],
    }


def test_a_bundle_cut_short_is_refused_in_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.wattcount"
    cut.write_bytes(bundle.read_bytes()[:-100])
    assert main(["validate", str(cut)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match="does not exist"):
        validate(tmp_path / "none.wattcount")
    with pytest.raises(NotStartedError, match="no record"):
        validate(tmp_path)


def test_an_emulated_record_is_rejected_and_a_good_one_beside_it_accepted(tmp_path: Path) -> None:
    copied(BATCH, tmp_path)
    edit_run(copied(SERVER, tmp_path), lambda info: info.update(evidence="emulated"))
    verdict = validate(tmp_path, workers=1)
    assert verdict.decision is Decision.rejected
    assert verdict.decisions == {BATCH.name: Decision.accepted, SERVER.name: Decision.rejected}
    assert any("it is emulated" in item.message for item in verdict.broken)


def test_exit_codes_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = copied(BATCH, tmp_path)
    page = tmp_path / "verdict.html"
    assert main(["validate", str(record), "--json", "--html", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "accepted"
    assert "<script" not in page.read_text()
    edit_run(record, lambda info: info["clock_pairs"][-1].update(utc_ns=0))
    assert main(["validate", str(record)]) == 0
    assert "flagged" in capsys.readouterr().out
    assert main(["validate", str(record), "--strict"]) == 1
    capsys.readouterr()
    edit_run(record, lambda info: info.update(origin="elsewhere"))
    assert main(["validate", str(record)]) == 1
    capsys.readouterr()
    assert main(["validate", str(record), "--workers", "0"]) == 2


def test_a_data_set_that_is_none_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(BATCH), "--dataset", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- processes that end


def _answered(monkeypatch: pytest.MonkeyPatch, code: str, **limits: Any) -> dict[str, Any]:
    """What comes of a confined process that runs `code` once it is confined and asked."""
    first = (
        "import json,sys;from wattcount.dataset import confined as c;"
        "f=json.loads(sys.stdin.buffer.readline());c.confine(f['memory_bytes'],f['file_bytes']);"
        "t=json.loads(sys.stdin.buffer.readline());c.allow_cpu(f['cpu_s'])\n"
    )
    real = subprocess.Popen

    def other(_: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", first + code], **options)

    monkeypatch.setattr(validator.subprocess, "Popen", other)
    with Confined(dataclasses.replace(LIMITS, **limits)) as process:
        return process.ask({"task": "record"})


@pytest.mark.parametrize(
    ("code", "limits", "why"),
    [
        ("import os; os.kill(os.getpid(), 9)", {}, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", {}, "SIGSEGV"),
        ("sys.exit(3)", {}, "exit code 3"),
        ("x = b'x' * (2 << 30)", {}, "exit code 1"),
        ("while True: pass", {"cpu_s": 1}, "1 s of CPU time"),
        ("import time; time.sleep(3600)", {"task_s": 1.0}, "longer than 1 s"),
        ("print('x' * 10_000_000)", {"answer_bytes": 1 << 20}, "more than 1 MiB"),
        ("print('no JSON')", {}, "no answer that can be read"),
        ("print('[1]')", {}, "no answer that can be read"),
        ("open('/tmp/wattcount-none', 'wb').write(b'x' * 100)", {}, "exit code"),
    ],
)
def test_a_process_that_ends_says_why(
    monkeypatch: pytest.MonkeyPatch, code: str, limits: Mapping[str, Any], why: str
) -> None:
    with pytest.raises(DiedError, match=why):
        _answered(monkeypatch, code, **limits)


def test_a_confined_process_has_nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    found = _answered(monkeypatch, "import os; print(json.dumps({'environment': dict(os.environ)}))")
    assert "hidden" not in str(found)
    assert "proxy" not in str(found)


def test_a_record_whose_process_dies_is_rejected_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(BATCH, tmp_path)
    copied(SERVER, tmp_path)
    ask = Confined.ask

    def dies_once(self: Confined, task: Mapping[str, Any]) -> dict[str, Any]:
        if task.get("folder") == SERVER.name:
            os.kill(self._process.pid, 9)
        return ask(self, task)

    monkeypatch.setattr(Confined, "ask", dies_once)
    verdict = validate(tmp_path, workers=1)
    assert verdict.decisions == {BATCH.name: Decision.accepted, SERVER.name: Decision.rejected}
    assert any(item.rule == "form/limits" and "SIGKILL" in item.message for item in verdict.broken)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"breaches": 3},
        {"breaches": [{"rule": "no/such"}]},
        {"breaches": [{"rule": "form/date", "severity": "mild"}]},
        {"breaches": [], "traits": 3},
    ],
)
def test_an_answer_out_of_form_is_a_rejection(answer: dict[str, Any]) -> None:
    (found,), traits = validator._understood(answer, "r", frozenset())
    assert (found.rule, found.severity, found.record) == ("form/limits", Severity.reject, "r")
    assert traits == {}


def test_a_breach_may_be_milder_than_its_rule_and_never_worse() -> None:
    item = {"rule": "form/clocks", "message": "m" * 9999, "figure": 1, "limit": None, "record": "../x"}
    for said, severity in (("reject", Severity.flag), ("warn", Severity.warn), (None, Severity.flag)):
        found = validator._broken({**item, "severity": said}, "r", frozenset())
        assert (found.severity, found.record) == (severity, "r")
        assert len(found.message) == validator.MESSAGE_CHARACTERS


# -- what is printed

VERDICT = Verdict(
    "mine.wattcount",
    {"records/aa/r0-x": {"run_id": "x"}, "records/aa/r1-y": {"run_id": "y"}, HOSTILE: {}},
    [
        Broken("load/early", Severity.reject, "3 of 100 requests are sent early" + ", very" * 20, "records/aa/r0-x", 5.0, 1.0),
        Broken("form/clocks", Severity.flag, "the wall clock went " + HOSTILE, HOSTILE),
        Broken("recompute/version", Severity.warn, "older", "records/aa/r0-x", 11, 12),
        Broken("recompute/version", Severity.warn, "older", "records/aa/r1-y", 11, 12),
        Broken("form/manifest", Severity.reject, "it says otherwise"),
    ],
)  # fmt: skip
PRINTED = """\
rejected   records/aa/r0-x
           load/early: 3 of 100 requests are sent early, very, very, very, very,
           very, very, very, very, very, very, very, very, very, very, very,
           very, very, very, very, very [5 us, limit 1 us]
flagged    \\x1b[31m<script>alert(1)</script>\\u202e
           form/clocks: the wall clock went
           \\x1b[31m<script>alert(1)</script>\\u202e
rejected   the bundle as a whole
           form/manifest: it says otherwise
warning    2 records
           recompute/version: older [11 metrics version, limit 12 metrics
           version] (the first of them)

3 records: 1 accepted, 1 flagged, 1 rejected, by RULES rules (docs/rules.md)
rejected: the data set does not take it as it is
"""


def test_the_table_is_as_it_was() -> None:
    text = as_text(VERDICT)
    assert text == PRINTED.replace("RULES", str(len(RULES)))
    assert max(map(len, text.splitlines())) <= 80


def test_the_page_shows_markup_as_text() -> None:
    page = as_html(VERDICT)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<tr>") == 3 + 5 + 3 + len(RULES)


def test_a_bundle_that_kills_the_unpacking_process_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Confined, task: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
        raise DiedError("it took more than 1 s of CPU time")

    monkeypatch.setattr(Confined, "ask", dies)
    with pytest.raises(BundleError, match="cannot be unpacked: it took more"):
        validate(bundle)
