from __future__ import annotations

import errno
import os

import pytest

from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED
from wattcount.records.writer import UNWRITABLE
from wattcount.run.orchestrate import NOT_LAUNCHED
from wattcount.sweep.local import Halt
from wattcount.sweep.point import NOT_STARTED, Outcome, State


def failed(reason: str, message: str = "it failed", code: int = EXIT_FAILED) -> Outcome:
    return Outcome(State.failed, exit_code=code, reason=reason, message=message)


DONE = Outcome(State.done, record="/records/x")
INVALID = Outcome(State.invalid, record="/records/x", message="unsteady", reason="unsteady")
BEFORE = Outcome(State.done, record="/records/x", before=True)
START = failed("engine_start_failed")


def why(*results: Outcome, limit: int | None = 3, here: bool = True) -> str | None:
    """After these results of one point each."""
    halt = Halt(limit, here=here)
    for number, result in enumerate(results):
        halt.note(f"point {number}", result)
    return halt.why


@pytest.mark.parametrize(
    "results",
    [
        (START, START, START),
        (failed("out_of_memory"), START, START, START),
        (START, START, failed("setup_failed"), START, START, START),
        (BEFORE, START, START, START),
        tuple(failed(NOT_STARTED, "vLLM is not installed", EXIT_NOT_STARTED) for _ in range(3)),
    ],
)
def test_points_that_all_fail_alike_end_the_sweep(results: tuple[Outcome, ...]) -> None:
    assert "none was measured" in (why(*results) or "")
    assert why(*results[:-1]) is None
    assert why(*results, limit=None) is None
    assert why(DONE, *results) is None
    assert why(INVALID, *results) is None


def test_points_that_fail_each_in_its_way_do_not() -> None:
    assert why(*[failed("out_of_memory")] * 9) is None
    assert why(START, START, failed("setup_failed"), START, START, failed("setup_failed")) is None
    apart = [failed(NOT_STARTED, f"no model m{number}", EXIT_NOT_STARTED) for number in range(9)]
    assert why(*apart) is None


def test_tries_of_one_point_count_once() -> None:
    halt = Halt(2, here=True)
    for _ in range(9):
        halt.note("one", START)
    assert halt.why is None
    halt.note("another", START)
    assert halt.why is not None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE])
def test_what_the_machine_lacks_ends_the_sweep_at_once(number: int) -> None:
    text = f"vLLM did not start: OSError: [Errno {number}] {os.strerror(number)}: '/tmp/x'"
    assert text in (why(failed("engine_start_failed", text)) or "")
    assert why(DONE, failed("engine_start_failed", text), limit=None) is not None
    assert why(failed("engine_start_failed", text), here=False) is None  # one node of many


def test_a_folder_that_cannot_be_written_to_ends_it_wherever_it_is_measured() -> None:
    for code in (EXIT_FAILED, EXIT_NOT_STARTED):
        for here in (True, False):
            assert why(DONE, failed(UNWRITABLE, "the disk is full", code), here=here) is not None
    assert why(failed(NOT_LAUNCHED)) is not None
    assert why(failed(NOT_LAUNCHED), here=False) is None


def test_the_first_reason_stays() -> None:
    first = why(failed(UNWRITABLE, "the disk is full"))
    assert why(failed(UNWRITABLE, "the disk is full"), failed(UNWRITABLE, "gone")) == first
