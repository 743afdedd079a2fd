"""One client process: `python -m wattcount.engines.http.sender DESCRIPTOR`.

One thread, one epoll, no event loop of a library: what costs time on a stream of 50,000 events a second is left out. Arrivals are
stamped and laid aside; they are taken apart (`sse`) in slices of half a millisecond, between sends::

    epoll --> recv, stamp, lay aside --> sends that are due --> a slice of taking apart --> news for the parent, 5 a second

The process ends when its parent does: the other end of the descriptor closes then.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import select
import signal
import socket
import ssl
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from wattcount.engines.http.client import Endpoint
from wattcount.engines.http.request import RECEIVE_BYTES, Requests, Server, error_text
from wattcount.engines.http.sse import BadAnswerError, Counted, CountTokens, Reply
from wattcount.engines.http.wire import Ended, Frames, Health, Load, News, Order, Ready, Told, pack
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.generator import prompt

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
CONNECT_AHEAD_NS = 250_000_000
"""How long before a send its connection is made [ns]."""
KEEP_IDLE_NS = 2_000_000_000
"""A connection that was idle for longer is not used again [ns]: servers close them after 5 s (uvicorn), just when a request comes."""
BURST = 16
"""After so many sends in a row, answers are read before the next ones."""
EVENTS = 128
"""So many connections with news are looked after in a row, half a millisecond's work, before it is seen whether a send is due."""
RENDERED_BYTES = 64 << 20
"""So much of a load's requests is written down before it runs [bytes]; the rest is, each before it is due."""
RECOUNTED = 128
"""Answers of a load that are kept to be counted anew with the tokenizer, once nothing is in flight."""
RECOUNT_TOLERANCE = 0.05
"""Share by which a count by the tokenizer may differ from `usage`: a text can be cut into tokens in more than one way."""
RECOUNT_TOKENS = 2
"""The same in tokens, for short texts."""
_SPIN_S = 0.002
"""epoll counts milliseconds: the last ones before a send are waited for by `select`, which does not."""
_LAST = (b"\r\n\r\n", b"0\r\n")


class _Connection:
    """One connection, and the request on it."""

    __slots__ = (
        "dirty", "fd", "idle_ns", "index", "load", "open", "out", "pieces", "reply", "sock", "stage", "times",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.open = False
        """Connected, with TLS where it is asked for, and nothing left to send: what comes is an answer."""
        self.stage = "connect"
        self.load: _Load | None = None
        self.index = -1
        self.reply: Reply | None = None
        self.times: list[int] = []
        self.pieces: list[bytes] = []
        self.dirty = False
        self.out: memoryview | None = None
        self.idle_ns = 0


class _Load:
    """This process's share of a plan."""

    def __init__(self, asked: Load, slots: int | None, render: Callable[[Load, int], bytes]) -> None:
        self.asked = asked
        self.number = asked.number
        self.slots = slots
        self.indices = list(range(asked.share[0], len(asked.plan), asked.share[1]))
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
        self.flying: set[_Connection] = set()
        self.render = render
        self.bodies: dict[int, bytes] = {}
        total = 0
        for index in self.indices:
            body = render(asked, index)
            total += len(body)
            if total > RENDERED_BYTES:
                break
            self.bodies[index] = body
        self.clear_news()

    def clear_news(self) -> None:
        self.sent = array("q")
        self.never: list[int] = []
        self.tokens_of = array("i")
        self.t_ns = array("q")
        self.count = array("i")
        self.ended: list[Ended] = []

    def planned_ns(self, at: int) -> int:
        assert self.start_ns is not None
        later_ns = self.later_ns if self.window[at] else 0
        return int(self.start_ns + self.offsets[at] + later_ns)

    @property
    def waiting(self) -> bool:
        """Whether the next request waits for the window to be released, or the load for its start."""
        if self.start_ns is None or self.halted or self.cursor >= len(self.indices):
            return True
        return self.window[self.cursor] and not self.released

    @property
    def done(self) -> bool:
        return self.cursor >= len(self.indices) or self.halted


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
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._ahead: set[_Connection] = set()
        """On their way, and no request waits for them."""
        self._ahead_ns = 0
        """When it is looked next which connections will be needed."""
        self._dirty: deque[_Connection] = deque()
        self._dirty_since: deque[int] = deque()
        self._loads: dict[int, _Load] = {}
        self._slots: dict[int, int] = {}
        """By number of the load."""
        self._slot_waits: set[int] = set()
        self._made = 0
        self._stalls: list[tuple[int, int]] = []
        self._news_ns = self._health_ns = 0
        self._kept: list[tuple[Reply, int]] = []
        self._kept_of: dict[int, int] = {}
        self._recounted = self._recounted_wrong = 0
        self._server = Server(endpoint)
        self._tls = self._server.tls
        with self._server.connected() as sock:
            self._family, self._address = sock.family, sock.getpeername()
        self._requests = Requests(endpoint)
        self._tokenizer = self._requests.tokenizer
        self._count: CountTokens | None = None if self._tokenizer is None else self._tokens_by_piece

    # -- the loop

    def loop(self) -> None:
        """Until the parent is gone."""
        monotonic_ns, connections = time.monotonic_ns, self._connections
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
                if not connection.open or event != select.EPOLLIN or self._tls is not None:
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
            self._loads[asked.number] = _Load(asked, slots, self._render)
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
            load.start_ns = order.t_ns
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
                load.never += load.indices[load.cursor :]
                load.cursor = len(load.indices)
            burst = BURST
            while not load.waiting and burst:
                at = load.cursor
                planned_ns = load.planned_ns(at)
                if planned_ns > now_ns:
                    self._connect_ahead(load, now_ns)
                    break
                index = load.indices[at]
                late = self._too_late(load, at, planned_ns, now_ns)
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

    def _too_late(self, load: _Load, at: int, planned_ns: int, now_ns: int) -> bool | None:
        """Whether an order to stop forbids this request: True, and it was never planned; False; None: it may be sent."""
        if load.stop_ns is not None and (planned_ns >= load.stop_ns or now_ns >= load.stop_ns):
            return True
        stop_ns = load.stops_ns.get(load.window[at])
        return False if stop_ns is not None and now_ns >= stop_ns else None

    def _slot(self, load: _Load) -> bool:
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

    def _connect_ahead(self, load: _Load, now_ns: int) -> None:
        """Makes the connections that the next sends will need."""
        if now_ns < self._ahead_ns:
            return
        self._ahead_ns = now_ns + CONNECT_AHEAD_NS // 10
        need = 0
        for at in range(load.cursor, len(load.indices)):
            if load.planned_ns(at) > now_ns + CONNECT_AHEAD_NS or (load.window[at] and not load.released):
                break
            need += 1
        for _ in range(need - len(self._idle) - len(self._ahead)):
            try:
                self._ahead.add(self._connect())
            except OSError:
                return  # the request itself will say

    def _send(self, load: _Load, index: int, planned_ns: int) -> None:
        body = load.bodies.pop(index, None) or load.render(load.asked, index)
        sent_ns = time.monotonic_ns()
        load.sent.extend((index, planned_ns, sent_ns, load.held))
        connection = self._idle_connection(sent_ns)
        try:
            if connection is None:
                connection = self._connect()
            connection.load, connection.index = load, index
            keep = self._keeps(load)
            connection.reply = Reply(keep=keep, count=self._count)
            load.flying.add(connection)
            connection.out = memoryview(body)
            if connection.stage == "idle":
                self._write(connection)
        except OSError as error:
            if connection is None:  # no descriptor is left, say
                self._free_slot(load)
                self._ended(load, index, None, self._endpoint.clean(f"cannot connect: {error_text(error)}"))
            else:
                self._broken(connection, error)

    def _keeps(self, load: _Load) -> bool:
        """Whether an answer is kept to be counted anew. A model that must go on after its end writes tokens that have no text."""
        if self._count is None or load.asked.plan.force_output_length:
            return False
        kept = self._kept_of.get(load.number, 0)
        self._kept_of[load.number] = kept + 1
        return kept < RECOUNTED

    def _idle_connection(self, now_ns: int) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if now_ns - connection.idle_ns <= KEEP_IDLE_NS:
                return connection
            self._close(connection)
        return self._ahead.pop() if self._ahead else None

    def _connect(self) -> _Connection:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = sock.connect_ex(self._address)
        if problem not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(problem, os.strerror(problem))
        connection = _Connection(sock)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLOUT)
        self._made += 1
        return connection

    # -- connections

    def _attend(self, connection: _Connection, event: int) -> None:
        """Anything but an arrival on an open connection without TLS."""
        try:
            if connection.stage == "connect":
                problem = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if problem:
                    raise OSError(problem, os.strerror(problem))
                if self._tls is not None:
                    connection.sock = self._tls.wrap_socket(
                        connection.sock, server_hostname=self._server.host, do_handshake_on_connect=False
                    )
                connection.stage = "handshake"
            if connection.stage == "handshake":
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                connection.stage = "idle"
                if connection.load is None:
                    self._ahead.discard(connection)
                    self._rest(connection)
                else:
                    self._write(connection)
                return
            if connection.out is not None and event & select.EPOLLOUT:
                self._write(connection)
            if event & ~select.EPOLLOUT:
                self._receive(connection)
        except ssl.SSLWantReadError:
            self._epoll.modify(connection.fd, select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._epoll.modify(connection.fd, select.EPOLLOUT)
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken(connection, error)

    def _receive(self, connection: _Connection) -> None:
        while True:
            data = connection.sock.recv(RECEIVE_BYTES)
            self._arrived(connection, time.monotonic_ns(), data)
            # TLS keeps what it has decrypted out of epoll's sight.
            if not data or not isinstance(connection.sock, ssl.SSLSocket) or connection.sock.fileno() < 0:
                return

    def _write(self, connection: _Connection) -> None:
        connection.open = False
        assert connection.out is not None
        while connection.out:
            try:
                connection.out = connection.out[connection.sock.send(connection.out) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)
                return
        connection.out = None
        connection.open = True
        self._epoll.modify(connection.fd, select.EPOLLIN)

    def _rest(self, connection: _Connection) -> None:
        """Keeps a connection for the next request."""
        connection.idle_ns = time.monotonic_ns()
        connection.load = connection.reply = None
        connection.open = True
        self._epoll.modify(connection.fd, select.EPOLLIN)
        self._idle.append(connection)

    def _close(self, connection: _Connection) -> None:
        self._connections.pop(connection.fd, None)
        self._ahead.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        with contextlib.suppress(OSError):
            self._epoll.unregister(connection.fd)
        with contextlib.suppress(OSError):
            connection.sock.close()
        connection.pieces.clear()
        connection.times.clear()

    def _arrived(self, connection: _Connection, t_ns: int, data: bytes) -> None:
        """Something that cannot be laid aside: a begin, an end, or what is no stream."""
        reply = connection.reply
        if reply is None:  # idle: the server closes it, or talks without being asked
            self._close(connection)
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

    def _broken(self, connection: _Connection, error: OSError) -> None:
        load = connection.load
        if load is None:
            self._close(connection)
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

    def _apart(self, connection: _Connection) -> None:
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

    def _spool(self, connection: _Connection) -> None:
        load, reply = connection.load, connection.reply
        assert load is not None
        assert reply is not None
        if reply.stamps:
            load.tokens_of.extend((connection.index, len(reply.stamps)))
            load.t_ns.extend(reply.stamps)
            load.count.extend(reply.counts)
            reply.stamps.clear()
            reply.counts.clear()

    def _end(self, connection: _Connection, error: str | None, *, cancelled: bool = False) -> None:
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
            self._rest(connection)
        else:
            self._close(connection)
            connection.load = connection.reply = None
        self._ended(
            load, index, reply, None if error is None else self._endpoint.clean(error), cancelled=cancelled
        )
        if reply.kept and error is None and not cancelled:
            self._kept.append((reply, reply.tokens))

    def _ended(
        self, load: _Load, index: int, reply: Reply | None, error: str | None, *, cancelled: bool = False
    ) -> None:
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

    def _free_slot(self, load: _Load) -> None:
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
            if not (load.sent or load.never or load.tokens_of or load.ended):
                continue
            news = News(
                load.number,
                np.array(load.sent, np.int64).reshape(-1, 4),
                load.never,
                np.array(load.tokens_of, np.int32).reshape(-1, 2),
                np.array(load.t_ns, np.int64),
                np.array(load.count, np.int32),
                load.ended,
            )
            load.clear_news()
            self._tell(pack(news))
        if now_ns - self._health_ns >= HEALTH_NS:
            self._health_ns = now_ns
            stalls, self._stalls = self._stalls, []
            self._tell(
                pack(
                    Health(
                        (now_ns, time.process_time_ns()),
                        stalls,
                        self._made,
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
