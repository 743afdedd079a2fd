"""One client process: `python -m wattcount.engines.http.sender DESCRIPTOR`.

One thread, one epoll, no event loop of a library: what costs time on a stream of 50,000 events a second is left out. Arrivals are
stamped and laid aside; they are taken apart (`sse`) in slices of half a millisecond, between sends::

    epoll --> recv, stamp, lay aside --> sends that are due --> a slice of taking apart --> news for the parent, 5 a second

The process ends when its parent does: the other end of the descriptor closes then.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from wattcount.engines.http.client import Endpoint
from wattcount.engines.http.connections import Connection, Connections
from wattcount.engines.http.fetch import error_text
from wattcount.engines.http.request import RECEIVE_BYTES, Requests
from wattcount.engines.http.share import Share
from wattcount.engines.http.sse import BadAnswerError, Counted, CountTokens, Reply
from wattcount.engines.http.wire import Ended, Frames, Health, Load, Order, Ready, Told, pack
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.generator import prompt

CONNECT_AHEAD_NS = 250_000_000
"""How long before a send its connection is made [ns]."""
NEWS_NS = 200_000_000
"""How often the parent is told what happened [ns]: seldom enough to cost nothing, often enough for a display."""
HEALTH_NS = 1_000_000_000
"""How often it is told how the process does [ns]."""
LAY_ASIDE_NS = 100_000_000
"""How long arrivals lie before they are taken apart [ns]: some 10 of a stream at once cost less than one by one."""
SLICE_NS = 500_000
"""Longest time at a stretch for which they are taken apart [ns]: no send is later by it, and no arrival is stamped later."""
STALL_NS = 10_000_000
"""A round of the loop that takes longer is a stall [ns]: sends and stamps were late by as much."""
STALLS = 100
"""Most stalls that are told each second."""
BURST = 16
"""After so many sends in a row, answers are read before the next ones."""
EVENTS = 128
"""So many connections with news are looked after in a row, half a millisecond's work, before it is seen whether a send is due."""
RECOUNTED = 128
"""Answers of a load that are kept to be counted anew with the tokenizer, once nothing is in flight."""
RECOUNT_TOLERANCE = 0.05
"""Share by which a count by the tokenizer may differ from `usage`: a text can be cut into tokens in more than one way."""
RECOUNT_TOKENS = 2
"""The same in tokens, for short texts."""
_SPIN_S = 0.002
"""epoll counts milliseconds: the last ones before a send are waited for by `select`, which does not."""
_LAST = (b"\r\n\r\n", b"0\r\n")
"""Ends of a piece that may be the last of a chunked answer, whole or cut: such a piece is looked at as soon as it comes."""


class Sender:
    """The loop of a client process."""

    def __init__(self, control: socket.socket, endpoint: Endpoint) -> None:
        self._control = control
        self._endpoint = endpoint
        self._frames = Frames()
        self._descriptors: deque[int] = deque()
        self._to_parent = bytearray()
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._connections = Connections(endpoint, self._epoll)
        self._ahead_ns = 0
        """When it is looked next which connections will be needed."""
        self._dirty: deque[Connection] = deque()
        self._dirty_since: deque[int] = deque()
        self._loads: dict[int, Share] = {}
        self._slots: dict[int, int] = {}
        """By number of the load."""
        self._slot_waits: set[int] = set()
        self._stalls: list[tuple[int, int]] = []
        self._news_ns = self._health_ns = 0
        self._kept: list[tuple[Reply, int]] = []
        self._kept_of: dict[int, int] = {}
        self._recounted = self._recounted_wrong = 0
        self._requests = Requests(endpoint)
        self._tokenizer = self._requests.tokenizer
        self._count: CountTokens | None = None if self._tokenizer is None else self._tokens_by_piece

    # -- the loop

    def loop(self) -> None:
        """Until the parent is gone."""
        monotonic_ns, connections = time.monotonic_ns, self._connections.by_descriptor
        tls = self._connections.tls
        control_fd = self._control.fileno()
        dirty, dirty_since = self._dirty, self._dirty_since
        while True:
            events = self._wait()
            begun_ns = t_ns = monotonic_ns()
            for fd, event in events:
                connection = connections.get(fd)
                if connection is None:
                    if fd == control_fd and not self._hear(event):
                        return
                    continue
                if not connection.open or event != select.EPOLLIN or tls:
                    self._attend(connection, event)
                    continue
                try:
                    data = connection.sock.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._broken(connection, error)
                    continue
                t_ns = monotonic_ns()
                reply = connection.reply
                if reply is None or not reply.chunked or not data or len(data) < 8 or data.endswith(_LAST):
                    self._arrived(connection, t_ns, data)
                    continue
                connection.times.append(t_ns)
                connection.pieces.append(data)
                if not connection.dirty:
                    connection.dirty = True
                    dirty.append(connection)
                    dirty_since.append(t_ns)
            if self._loads:
                self._send_due()
                self._take_apart()
                if t_ns - self._news_ns >= NEWS_NS:
                    self._tell_news()
            took_ns = monotonic_ns() - begun_ns
            if took_ns > STALL_NS and len(self._stalls) < STALLS:
                self._stalls.append((begun_ns, took_ns))

    def _wait(self) -> list[tuple[int, int]]:
        """Waits for the next thing to do."""
        if not self._loads:
            return self._epoll.poll()
        now_ns = time.monotonic_ns()
        next_ns = self._news_ns + NEWS_NS
        if self._dirty_since:
            next_ns = min(next_ns, self._dirty_since[0] + LAY_ASIDE_NS)
        for load in self._loads.values():
            if not load.waiting and not load.held:
                next_ns = min(next_ns, load.planned_ns(load.cursor))
            if load.stop_ns is not None and not load.done:
                next_ns = min(next_ns, load.stop_ns)
        left_s = (next_ns - now_ns) / 1e9
        if left_s > _SPIN_S:
            return self._epoll.poll(left_s - _SPIN_S, EVENTS)
        if left_s > 0:
            select.select((self._epoll,), (), (), left_s)
        return self._epoll.poll(0, EVENTS)

    # -- orders

    def _hear(self, event: int) -> bool:
        """Whether the parent is still there."""
        if event & select.EPOLLOUT:
            self._tell(b"")
        if not event & ~select.EPOLLOUT:
            return True
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, RECEIVE_BYTES, 4)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        self._descriptors.extend(descriptors)
        for message in self._frames.feed(data):
            if isinstance(message, Load):
                self._prepare(message)
            elif message.what == "cancel" or message.number in self._loads:
                self._obey(message)
            else:
                self._answer(message)
        return True

    def _prepare(self, asked: Load) -> None:
        slots = None
        try:
            if asked.slots_of == -1:
                slots = self._slots[asked.number] = self._descriptors.popleft()
            elif asked.slots_of is not None:
                slots = self._slots.get(asked.slots_of)
            self._loads[asked.number] = Share(asked, slots, self._render)
        except (RunFailedError, NotStartedError) as error:
            self._tell(pack(Ready(asked.number, str(error))))
            return
        gc.collect()
        gc.freeze()
        self._tell(pack(Ready(asked.number)))

    def _render(self, asked: Load, index: int) -> bytes:
        plan = asked.plan
        return self._requests.render(
            prompt(plan, index, asked.vocab_size).tolist(),
            int(plan.output_tokens[index]),
            plan.force_output_length,
            plan.sampling,
        )

    def _obey(self, order: Order) -> None:
        load = self._loads.get(order.number)
        if load is None:  # cancelled before
            self._answer(order)
            return
        if order.what == "run":
            load.begin(order.t_ns)
            self._stalls.clear()  # making requests is none
        elif order.what == "release":
            load.later_ns += order.t_ns
            load.released = True
        elif order.what == "stop":
            if order.window is None:
                load.stop_ns = order.t_ns
            else:
                load.stops_ns[order.window] = order.t_ns
        elif order.what == "halt":
            load.halted, load.held = True, False
        elif order.what == "drain":
            load.draining = True
        elif order.what == "cancel":
            load.halted, load.held = True, False
            for connection in list(load.flying):
                self._end(connection, None, cancelled=True)
            self._recount()
            self._health_ns = 0
            self._tell_news()
            del self._loads[order.number]
            self._answer(order)

    def _answer(self, order: Order) -> None:
        what = {"drain": "drained", "cancel": "cancelled", "run": "all_sent"}.get(order.what)
        if what is not None:
            self._tell(pack(Told(what, order.number)))

    # -- sending

    def _send_due(self) -> None:
        now_ns = time.monotonic_ns()
        for load in self._loads.values():
            if load.stop_ns is not None and now_ns >= load.stop_ns and not load.done:
                if load.asked.users:
                    load.halted = True
                else:
                    load.never += load.indices[load.cursor :]
                    load.cursor = len(load.indices)
            burst = BURST
            if load.asked.users:
                now_ns = self._send_turns(load, now_ns)
                burst = 0
            while not load.waiting and burst:
                at = load.cursor
                planned_ns = load.planned_ns(at)
                if planned_ns > now_ns:
                    self._connect_ahead(load, now_ns)
                    break
                index = load.indices[at]
                late = load.too_late(at, planned_ns, now_ns)
                if late is not None:
                    if late:
                        load.never.append(index)
                    load.cursor += 1
                    load.held = False
                    continue
                if load.slots is not None and not self._slot(load):
                    break
                load.cursor += 1
                burst -= 1
                self._send(load, index, planned_ns)
                load.held = False
                now_ns = time.monotonic_ns()
            if load.done and not load.all_sent_told and load.start_ns is not None:
                load.all_sent_told = True
                self._tell_news()
                self._tell(pack(Told("all_sent", load.number)))
            if load.draining and (load.done or load.start_ns is None) and not load.flying:
                load.draining = False
                self._tell_news()
                self._tell(pack(Told("drained", load.number)))
        for slots in self._slot_waits - {load.slots for load in self._loads.values() if load.held}:
            self._slot_waits.discard(slots)
            self._epoll.unregister(slots)

    def _send_turns(self, load: Share, now_ns: int) -> int:
        """The next requests of the users of a closed loop who are free; the time after that [ns]."""
        if load.start_ns is None or now_ns < load.start_ns:
            return now_ns
        for _ in range(BURST):
            if (turn := load.take_turn(now_ns)) is None:
                break
            index, since_ns = turn
            self._send(load, index, since_ns)
            now_ns = time.monotonic_ns()
        return now_ns

    def _slot(self, load: Share) -> bool:
        """Takes a slot of those that all processes share; without one, waits for it."""
        assert load.slots is not None
        try:
            os.eventfd_read(load.slots)
        except BlockingIOError:
            load.held = True
            if load.slots not in self._slot_waits:
                self._slot_waits.add(load.slots)
                self._epoll.register(load.slots, select.EPOLLIN)
            return False
        return True

    def _connect_ahead(self, load: Share, now_ns: int) -> None:
        """Makes the connections that the next sends will need."""
        if now_ns < self._ahead_ns:
            return
        self._ahead_ns = now_ns + CONNECT_AHEAD_NS // 10
        need = load.due_until(now_ns + CONNECT_AHEAD_NS)
        self._connections.connect_ahead(need - self._connections.free())

    def _send(self, load: Share, index: int, planned_ns: int) -> None:
        body = load.bodies.pop(index, None) or load.render(load.asked, index)
        sent_ns = time.monotonic_ns()
        load.sent.extend((index, planned_ns, sent_ns, load.held))
        connection: Connection | None = None
        try:
            connection = self._connections.take(sent_ns)
            connection.load, connection.index = load, index
            keep = self._keeps(load)
            connection.reply = Reply(keep=keep, count=self._count)
            load.flying.add(connection)
            connection.out = memoryview(body)
            if connection.stage == "idle":
                self._connections.write(connection)
        except OSError as error:
            if connection is None:  # no descriptor is left, say
                self._free_slot(load)
                self._ended(load, index, None, self._endpoint.clean(f"cannot connect: {error_text(error)}"))
            else:
                self._broken(connection, error)

    def _keeps(self, load: Share) -> bool:
        """Whether an answer is kept to be counted anew. A model that must go on after its end writes tokens that have no text."""
        if self._count is None or load.asked.plan.force_output_length:
            return False
        kept = self._kept_of.get(load.number, 0)
        self._kept_of[load.number] = kept + 1
        return kept < RECOUNTED

    # -- connections

    def _attend(self, connection: Connection, event: int) -> None:
        """Anything but an arrival on an open connection without TLS."""
        try:
            if connection.stage != "idle":
                self._connections.establish(connection)
                return
            if connection.out is not None and event & select.EPOLLOUT:
                self._connections.write(connection)
            if event & ~select.EPOLLOUT:
                self._receive(connection)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._broken(connection, error)

    def _receive(self, connection: Connection) -> None:
        while True:
            data = connection.sock.recv(RECEIVE_BYTES)
            self._arrived(connection, time.monotonic_ns(), data)
            # TLS keeps what it has decrypted out of epoll's sight.
            if not data or not isinstance(connection.sock, ssl.SSLSocket) or connection.sock.fileno() < 0:
                return

    def _arrived(self, connection: Connection, t_ns: int, data: bytes) -> None:
        """Something that cannot be laid aside: a begin, an end, or what is no stream."""
        reply = connection.reply
        if reply is None:  # idle: the server closes it, or talks without being asked
            self._connections.closed_by_server(connection)
            return
        if data:
            connection.times.append(t_ns)
            connection.pieces.append(data)
            self._apart(connection)
        else:
            self._apart(connection)
            if connection.load is not None:
                reply.closed()
                self._end(connection, None)

    def _broken(self, connection: Connection, error: OSError) -> None:
        load = connection.load
        if load is None:
            self._connections.closed_by_server(connection)
            return
        refused = connection.stage == "connect" and isinstance(error, ConnectionRefusedError)
        self._apart(connection)
        if connection.load is None:
            return
        what = "cannot connect" if connection.stage in ("connect", "handshake") else "the connection broke"
        text = self._endpoint.clean(f"{what}: {error_text(error)}")
        self._end(connection, text)
        if refused:
            self._tell_news()
            self._tell(pack(Told("died", load.number, text)))

    # -- answers

    def _take_apart(self) -> None:
        """Half a millisecond of what was laid aside, the oldest first."""
        if not self._dirty:
            return
        now_ns = time.monotonic_ns()
        until_ns, old_ns = now_ns + SLICE_NS, now_ns - LAY_ASIDE_NS
        while self._dirty and self._dirty_since[0] <= old_ns:
            connection = self._dirty.popleft()
            self._dirty_since.popleft()
            connection.dirty = False
            self._apart(connection)
            if time.monotonic_ns() > until_ns:
                return

    def _apart(self, connection: Connection) -> None:
        """Takes apart what was laid aside of one connection, and ends its request where that is its end."""
        reply = connection.reply
        if reply is None or not connection.pieces:
            return
        try:
            reply.take_all(connection.times, connection.pieces)
        except BadAnswerError as error:
            reply.keep_alive = False
            self._end(connection, str(error))
            return
        finally:
            connection.times.clear()
            connection.pieces.clear()
        if reply.complete:
            self._end(connection, None)
        else:
            self._spool(connection)

    def _spool(self, connection: Connection) -> None:
        load, reply = connection.load, connection.reply
        assert load is not None
        assert reply is not None
        if reply.stamps:
            load.tokens_of.extend((connection.index, len(reply.stamps)))
            load.t_ns.extend(reply.stamps)
            load.count.extend(reply.counts)
            reply.stamps.clear()
            reply.counts.clear()

    def _end(self, connection: Connection, error: str | None, *, cancelled: bool = False) -> None:
        """The request on a connection has ended: of itself, by an error, or because it was cancelled."""
        load, reply = connection.load, connection.reply
        assert load is not None
        assert reply is not None
        if cancelled and connection.pieces:
            with contextlib.suppress(BadAnswerError):
                reply.take_all(connection.times, connection.pieces)
        reply.finish()
        self._spool(connection)
        load.flying.discard(connection)
        self._free_slot(load)
        index = connection.index
        if not cancelled and error is None:
            error = reply.error(load.max_tokens[index], exact=load.asked.plan.force_output_length)
        if reply.complete and reply.keep_alive and not cancelled and connection.stage == "idle":
            self._connections.rest(connection)
        else:
            self._connections.close(connection)
            connection.load = connection.reply = None
        self._ended(
            load, index, reply, None if error is None else self._endpoint.clean(error), cancelled=cancelled
        )
        if reply.kept and error is None and not cancelled:
            self._kept.append((reply, reply.tokens))

    def _ended(
        self, load: Share, index: int, reply: Reply | None, error: str | None, *, cancelled: bool = False
    ) -> None:
        load.answered(index, time.monotonic_ns(), failed=error is not None)
        load.ended.append(
            Ended(
                index,
                error,
                cancelled,
                reply.prompt_tokens if reply is not None else None,
                reply.cached_tokens if reply is not None else None,
                (reply.counted if reply is not None else Counted.none).value,
                usage_missing=error is None
                and not cancelled
                and reply is not None
                and reply.usage_tokens is None,
                usage_wrong=reply is not None and reply.usage_wrong,
            )
        )

    def _free_slot(self, load: Share) -> None:
        if load.slots is not None:
            os.eventfd_write(load.slots, 1)

    # -- counting anew

    def _tokens_by_piece(self, pieces: Sequence[str]) -> list[int]:
        """How many tokens of the whole text had ended by the end of each piece."""
        assert self._tokenizer is not None
        ends = [end for _, end in self._tokenizer.encode("".join(pieces), add_special_tokens=False).offsets]
        lengths = np.cumsum([len(piece) for piece in pieces])
        return [int(count) for count in np.searchsorted(np.array(ends), lengths, side="right")]

    def _recount(self) -> None:
        """Counts the answers that were kept with the tokenizer."""
        for reply, tokens in self._kept:
            counted = self._tokens_by_piece([reply.text()])[-1]
            self._recounted += 1
            if abs(counted - tokens) > max(RECOUNT_TOKENS, RECOUNT_TOLERANCE * tokens):
                self._recounted_wrong += 1
        self._kept.clear()

    # -- news

    def _tell_news(self) -> None:
        now_ns = self._news_ns = time.monotonic_ns()
        for load in self._loads.values():
            news = load.take_news()
            if news is not None:
                self._tell(pack(news))
        if now_ns - self._health_ns >= HEALTH_NS:
            self._health_ns = now_ns
            stalls, self._stalls = self._stalls, []
            self._tell(
                pack(
                    Health(
                        (now_ns, time.process_time_ns()),
                        stalls,
                        self._connections.made,
                        self._recounted,
                        self._recounted_wrong,
                    )
                )
            )

    def _tell(self, data: bytes) -> None:
        """To the parent, which may take its time."""
        self._to_parent += data
        try:
            while self._to_parent:
                del self._to_parent[: self._control.send(self._to_parent)]
            wanted = select.EPOLLIN
        except BlockingIOError:
            wanted = select.EPOLLIN | select.EPOLLOUT
        except OSError:
            self._to_parent.clear()  # it is gone, as the next event will say
            return
        self._epoll.modify(self._control.fileno(), wanted)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent ends it
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    control = socket.socket(fileno=int(sys.argv[1]))
    frames = Frames()
    endpoint: Endpoint | None = None
    while endpoint is None:
        data = control.recv(RECEIVE_BYTES)
        if not data:
            return
        endpoint = next(iter(frames.feed(data)), None)
    try:
        sender = Sender(control, endpoint)
    except (NotStartedError, RunFailedError) as error:
        control.sendall(pack(Ready(None, str(error))))
        return
    control.sendall(pack(Ready(None)))
    control.setblocking(False)
    gc.collect()
    gc.freeze()
    gc.disable()  # a full collection stops it for tens of milliseconds; nothing here is a cycle
    sender.loop()


if __name__ == "__main__":
    main()
