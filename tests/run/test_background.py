from __future__ import annotations

import threading

import pytest

from wattcount.run.background import Background

LIMIT_S = 60.0


def test_calls_are_made_in_their_order() -> None:
    background, made = Background("test"), list[int]()
    for number in range(100):
        background.post(lambda number=number: made.append(number))
    assert background.flush(LIMIT_S)
    assert made == list(range(100))


def test_while_a_call_stands_still_only_the_latest_of_a_kind_waits() -> None:
    background, made, go, held = Background("test"), list[str](), threading.Event(), threading.Event()

    def stand_still() -> None:
        held.set()
        go.wait(LIMIT_S)

    background.post(stand_still)
    assert held.wait(LIMIT_S)
    for number in range(1000):
        background.post(lambda number=number: made.append(f"progress {number}"), replaces="progress")
        if number == 500:
            background.post(lambda: made.append("notice"))
    assert not background.flush(0.0)
    assert made == []
    go.set()
    assert background.flush(LIMIT_S)
    assert made == ["notice", "progress 999"]


def test_an_output_that_is_gone_is_left_alone() -> None:
    background, made = Background("test"), list[str]()

    def gone() -> None:
        made.append("tried")
        raise BrokenPipeError

    background.post(gone)
    background.post(lambda: made.append("after"))
    assert background.flush(LIMIT_S)
    assert made == ["tried"]


def test_a_display_with_a_fault_does_not_end_what_it_shows(capfd: pytest.CaptureFixture[str]) -> None:
    background, made = Background("test"), list[str]()
    for _ in range(2):
        background.post(lambda: 1 / 0)
    background.post(lambda: made.append("after"))
    assert background.flush(LIMIT_S)
    assert made == ["after"]
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1
