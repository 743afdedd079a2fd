"""What one client process has to send of a plan, how far it is, and what the parent does not know of it yet."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from wattcount.engines.http.wire import Ended, Load, News
from wattcount.load.generator import FAILED_PAUSE_NS

if TYPE_CHECKING:
    from wattcount.engines.http.connections import Connection

RENDERED_BYTES = 64 << 20
"""So much of a load's requests is written down before it runs [bytes]; the rest is, each before it is due."""


class Share:
    """This process's share of a plan."""

    def __init__(self, asked: Load, slots: int | None, render: Callable[[Load, int], bytes]) -> None:
        self.asked = asked
        self.number = asked.number
        self.slots = slots
        place, processes = asked.share
        if asked.users:
            processes = min(processes, asked.users)
            mine = asked.plan.conversations()[place::processes] if place < processes else []
            self.users = (asked.users + processes - 1 - place) // processes if mine else 0
            self.indices = [index for conversation in mine for index in conversation]
        else:
            mine, self.users = [], 0
            self.indices = list(range(place, len(asked.plan), processes))
        self.conversations = deque(mine)
        self.free: deque[tuple[int, Iterator[int]]] = deque()
        """Of a closed loop: users who have nothing in flight, each with when the last answer came [ns] and the rest of the conversation."""
        self.pausing: deque[tuple[int, Iterator[int]]] = deque()
        """The same of users whose request failed, each with when he goes on [ns]; looked at with each news."""
        self.turns: dict[int, Iterator[int]] = {}
        """Of a closed loop: what is left of a conversation, by the request of it that is in flight."""
        self.window = asked.window[self.indices].tolist()
        self.offsets = asked.plan.send_offset_ns[self.indices].tolist()
        self.max_tokens = asked.plan.output_tokens.tolist()
        self.released = not asked.hold_window
        self.start_ns: int | None = None
        self.later_ns = 0
        self.cursor = 0
        self.stops_ns: dict[bool, int] = {}
        self.stop_ns: int | None = None
        self.halted = False
        self.held = False
        """The request at the cursor waits for a slot."""
        self.draining = False
        self.all_sent_told = False
        self.flying: set[Connection] = set()
        self.render = render
        self.bodies: dict[int, bytes] = {}
        total = 0
        for index in self.indices:
            body = render(asked, index)
            total += len(body)
            if total > RENDERED_BYTES:
                break
            self.bodies[index] = body
        self._clear_news()

    def take_news(self) -> News | None:
        """What the parent does not know yet, and now will; None: nothing."""
        if not (self.sent or self.never or self.tokens_of or self.ended):
            return None
        news = News(
            self.number,
            np.array(self.sent, np.int64).reshape(-1, 4),
            self.never,
            np.array(self.tokens_of, np.int32).reshape(-1, 2),
            np.array(self.t_ns, np.int64),
            np.array(self.count, np.int32),
            self.ended,
        )
        self._clear_news()
        return news

    def _clear_news(self) -> None:
        self.sent = array("q")
        self.never: list[int] = []
        self.tokens_of = array("i")
        self.t_ns = array("q")
        self.count = array("i")
        self.ended: list[Ended] = []

    def begin(self, start_ns: int) -> None:
        """From then on requests are sent."""
        self.start_ns = start_ns
        self.free.extend((start_ns, iter(())) for _ in range(self.users))

    def take_turn(self, now_ns: int) -> tuple[int, int] | None:
        """The next request of a free user, and since when he is free [ns]; None: no user is free, or nothing is left to send."""
        while self.pausing and self.pausing[0][0] <= now_ns:
            self.free.append(self.pausing.popleft())
        while self.free and not self.halted:
            since_ns, turns = self.free.popleft()
            index = next(turns, None)
            if index is None and self.conversations:
                turns = iter(self.conversations.popleft())
                index = next(turns, None)
            if index is None:  # this user is done
                self.halted = not (self.free or self.pausing or self.turns)
                continue
            self.turns[index] = turns
            return index, since_ns
        return None

    def answered(self, index: int, t_ns: int, *, failed: bool) -> None:
        """The request has ended: its user is free, after a failure only some time later."""
        if (turns := self.turns.pop(index, None)) is None:
            return
        if failed:
            self.pausing.append((t_ns + FAILED_PAUSE_NS, turns))
        else:
            self.free.append((t_ns, turns))

    def planned_ns(self, at: int) -> int:
        assert self.start_ns is not None
        later_ns = self.later_ns if self.window[at] else 0
        return int(self.start_ns + self.offsets[at] + later_ns)

    @property
    def waiting(self) -> bool:
        """Whether the next request waits for the window to be released, the load for its start, or all users for an answer."""
        if self.asked.users:
            return self.start_ns is None or self.halted or not self.free
        if self.start_ns is None or self.halted or self.cursor >= len(self.indices):
            return True
        return self.window[self.cursor] and not self.released

    @property
    def done(self) -> bool:
        return self.halted or (not self.asked.users and self.cursor >= len(self.indices))

    def due_until(self, t_ns: int) -> int:
        """How many requests are still to be sent until then."""
        count = 0
        for at in range(self.cursor, len(self.indices)):
            if self.planned_ns(at) > t_ns or (self.window[at] and not self.released):
                break
            count += 1
        return count

    def too_late(self, at: int, planned_ns: int, now_ns: int) -> bool | None:
        """Whether an order to stop forbids this request: True, and it was never planned; False; None: it may be sent."""
        if self.stop_ns is not None and (planned_ns >= self.stop_ns or now_ns >= self.stop_ns):
            return True
        stop_ns = self.stops_ns.get(self.window[at])
        return False if stop_ns is not None and now_ns >= stop_ns else None
