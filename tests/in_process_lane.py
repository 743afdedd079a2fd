"""A lane in the sweep's own process, so that a test can stand in for what it measures."""

from __future__ import annotations

from multiprocessing import Pipe

from wattcount.sweep.lane import Lane, LaneSignals, Task


class InProcessLane:
    """As `wattcount.sweep.local.ChildLane`; a task is done by the time it has been given."""

    pid = 0

    def __init__(self) -> None:
        self.connection, self._theirs = Pipe()
        self._lane = Lane(self._theirs, LaneSignals())

    def give(self, task: Task | None) -> None:
        if task is None:
            self._lane.end_session()
            return
        for message in self._lane.measure(task):
            self._theirs.send(message)

    def signal(self, number: int) -> None:
        raise AssertionError(f"nothing runs that could be sent signal {number}")

    def close(self) -> int:
        self._lane.end_session()
        self.connection.close()
        self._theirs.close()
        return 0
