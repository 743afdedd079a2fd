"""An open-loop client of an OpenAI-compatible server, in processes of its own: `sender` is one of them, this is their parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from wattcount.engines.http.request import RECEIVE_BYTES, Probed, Server, probe
from wattcount.engines.http.wire import Ended, Frames, Health, Load, News, Order, Ready, Told, send
from wattcount.errors import ERROR_CHARACTERS, RunFailedError, one_line
from wattcount.load.generator import ENGINE_DIED, Generator, GeneratorOptions
from wattcount.load.plan import LoadPlan
from wattcount.load.request import GenerationRequest
from wattcount.masking import MASK, is_secret_name, masked

COMPLETIONS, CHAT = "completions", "chat"
APIS = (COMPLETIONS, CHAT)
"""Both interfaces, in the order of `config.schema.APIS`."""
CLIENT_DIED = "client_died"
"""Reason of a run whose client process ended, or did not obey, before its load was over."""

MOST_PROCESSES = 4
"""Client processes where nobody says how many, at most: one sends 50,000 streamed events a second to a core."""
CORES_A_PROCESS = 4
"""Cores of the host for each of them: the server, on the same host, needs most of them."""
START_LIMIT_S = 60.0
"""The longest that a client process may take to be there [s]: it imports Python's packages, and connects once."""
ORDER_LIMIT_S = 30.0
"""The longest that one may take to obey or to take an order [s]."""
END_LIMIT_S = 5.0
"""The longest that one may take to end [s]; then it is killed."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests are sent, and how. Holds no secret but `headers`, which neither its text nor its JSON shows."""

    base_url: str
    """`http://HOST:PORT` or `https://...`, with the path before `/v1` where there is one."""
    model: str
    """The name that the server serves it by."""
    api: str = COMPLETIONS
    """`completions` or `chat`."""
    token_ids: bool = True
    """Prompts are sent as token ids (`completions` only). False: as text, which needs `tokenizer`."""
    tokenizer: str | None = None
    """Hub id or folder of the model's tokenizer; None: there is none, and nothing is counted anew."""
    tokenizer_revision: str | None = None
    continuous_usage: bool = True
    """Each chunk is asked to tell `usage` (`stream_options.continuous_usage_stats`), as vLLM does."""
    ignore_eos: bool = True
    """The server knows `ignore_eos` and `min_tokens`, by which outputs are made exactly as long as asked."""
    api_key_variable: str | None = None
    """Name of the environment variable that holds the API key; None: none is sent."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each request."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request's JSON."""
    ca_file: Path | None = None
    """Certificates (PEM) that the server's is checked against; None: those of the system."""
    verify_tls: bool = True
    connect_limit_s: float = 10.0
    """The longest that connecting may take [s]."""

    @property
    def chat(self) -> bool:
        return self.api == CHAT

    def api_key(self) -> str | None:
        """The API key out of the environment; None: none is asked for, or the variable is not set."""
        return os.environ.get(self.api_key_variable) if self.api_key_variable is not None else None

    def clean(self, text: str) -> str:
        """`text` on one line, without the secrets of this endpoint: a server may repeat them."""
        for secret in (self.api_key(), *self.headers.values()):
            if secret:
                text = text.replace(secret, MASK)
        return one_line(text, ERROR_CHARACTERS)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for a record: without a secret."""
        return {
            "base_url": masked(self.base_url),
            "model": self.model,
            "api": self.api,
            "token_ids": self.token_ids,
            "tokenizer": self.tokenizer,
            "tokenizer_revision": self.tokenizer_revision,
            "continuous_usage": self.continuous_usage,
            "ignore_eos": self.ignore_eos,
            "api_key_variable": self.api_key_variable,
            "headers": dict.fromkeys(self.headers, MASK),
            "body": {key: MASK if is_secret_name(key) else value for key, value in self.body.items()},
            "ca_file": str(self.ca_file) if self.ca_file is not None else None,
            "verify_tls": self.verify_tls,
        }


@dataclass
class _Process:
    """One client process."""

    popen: subprocess.Popen[bytes]
    sock: socket.socket
    frames: Frames = field(default_factory=Frames)
    alive: bool = True
    ready: dict[int | None, str | None] = field(default_factory=dict)
    """By number of the load (None: of the process) what went wrong; None: nothing."""
    cpu: list[tuple[int, int]] = field(default_factory=list)
    stalls: list[tuple[int, int]] = field(default_factory=list)
    health: Health | None = None


class HttpClients:
    """The processes that send to one server.

    ::

        construct -- start() -- probe(), generator()*, health() -- stop()

    processes  how many; None: as many as the host's cores suggest

    `details` tells what they did and is kept up to date: for `EngineInfo.details["client"]`.
    """

    def __init__(self, endpoint: Endpoint, processes: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0))
        self.endpoint = endpoint
        self.processes = processes or max(1, min(MOST_PROCESSES, cores // CORES_A_PROCESS))
        self._processes: list[_Process] = []
        self._generators: list[HttpGenerator] = []
        self._failure: RunFailedError | None = None
        self.server_gone: Callable[[], bool] = lambda: False
        """Whether the server has ended, as who started it sees; then he calls `failed` with the reason, which may take a moment."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counted: Counter[str] = Counter()
        self._delays_ns = array("q")
        """Of the window's requests that no slot held back: actual less planned send."""
        self.details: dict[str, Any] = {
            "processes": self.processes,
            "endpoint": endpoint.to_json(),
            "cpu": [],
            "stalls": [],
            "connections": 0,
            "held_back": 0,
            "dispatch_delay_ms": {"p50": None, "p99": None, "max": None},
            "tokens_counted": {},
            "usage_missing": 0,
            "usage_wrong": 0,
            "recounted": 0,
            "recounted_wrong": 0,
        }

    # -- life

    async def start(self) -> None:
        """Starts the processes. Raises `RunFailedError` (`engine_start_failed`)."""
        self._loop = loop = asyncio.get_running_loop()
        try:
            for _ in range(self.processes):
                self._processes.append(_started(self.endpoint))
        except OSError as error:
            raise RunFailedError(
                "engine_start_failed", f"a client process cannot be started: {error}"
            ) from error
        problem = await asyncio.to_thread(self._until_ready, None)
        if problem is not None:
            await self.stop()
            raise RunFailedError("engine_start_failed", problem)
        for process in self._processes:
            loop.add_reader(process.sock.fileno(), self._read, process)

    async def stop(self) -> None:
        """Ends the processes. May be called at any time and more than once."""
        loop = asyncio.get_running_loop()
        processes, self._processes = self._processes, []
        for process in processes:
            process.alive = False
            loop.remove_reader(process.sock.fileno())
            process.sock.close()
        for process in processes:
            await asyncio.to_thread(_ended, process.popen)

    async def probe(self, request: GenerationRequest) -> Probed:
        """Sends one request alone and tells what became of it. Raises as `client.probe`."""
        return await asyncio.to_thread(probe, self.endpoint, request)

    async def health(self) -> str | None:
        """What is wrong with the processes or the server, one line; None: both live."""
        if self._failure is not None:
            return str(self._failure)
        try:
            (await asyncio.to_thread(Server(self.endpoint).connected)).close()
        except RunFailedError as error:
            return str(error)
        return None

    def generator(self, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> Generator:
        """What sends `plan` through the processes. Returns when they have made its requests.

        Raises `RunFailedError` (`bad_prompt`, `client_died`).
        """
        made = HttpGenerator(self, len(self._generators), plan, **options)
        self._generators.append(made)
        problem = self._until_ready(made.number)
        if self._failure is not None:
            raise self._failure
        if problem is not None:
            raise RunFailedError("bad_prompt", problem)
        return made

    # -- what the processes say

    def order(self, message: Load | Order, descriptor: int | None = None) -> None:
        """Sends a message to all of them; a load with each one's share."""
        for number, process in enumerate(self._processes):
            if not process.alive:
                continue
            told: Load | Order = message
            if isinstance(message, Load):
                told = Load(**(vars(message) | {"share": (number, len(self._processes))}))
            try:
                send(process.sock, told, descriptor)
            except OSError:
                self._lost(process)

    def _until_ready(self, number: int | None) -> str | None:
        """Waits, blocking, until each process has made a load, or itself, ready; what went wrong."""
        waiting = [process for process in self._processes if number not in process.ready]
        while waiting := [one for one in waiting if one.alive and number not in one.ready]:
            ready, _, _ = select.select([one.sock for one in waiting], [], [], START_LIMIT_S)
            if not ready:
                return f"a client process was not ready after {START_LIMIT_S:g} s"
            for process in waiting:
                if process.sock in ready:
                    self._read(process)
        if self._failure is not None:
            return str(self._failure)
        return next((problem for one in self._processes if (problem := one.ready.get(number))), None)

    def _read(self, process: _Process) -> None:
        try:
            data = process.sock.recv(RECEIVE_BYTES * 4, socket.MSG_DONTWAIT)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            data = b""
        if not data:
            self._lost(process)
            return
        for message in process.frames.feed(data):
            if isinstance(message, News):
                self._generators[message.number].take(message)
            elif isinstance(message, Health):
                self._keep(process, message)
            elif isinstance(message, Ready):
                process.ready[message.number] = message.error
            elif isinstance(message, Told):
                self._generators[message.number].told(process.popen.pid, message)

    def _keep(self, process: _Process, health: Health) -> None:
        process.cpu.append(health.cpu)
        process.stalls += health.stalls
        process.health = health
        told = [one.health for one in self._processes if one.health is not None]
        self.details |= {
            "cpu": [one.cpu for one in self._processes],
            "stalls": [one.stalls for one in self._processes],
            "connections": sum(one.connections for one in told),
            "recounted": sum(one.recounted for one in told),
            "recounted_wrong": sum(one.recounted_wrong for one in told),
        }

    def sent(self, delays_ns: np.ndarray[Any, np.dtype[np.int64]], held: int) -> None:
        """Takes note of how late the requests of the window were sent, and how many others waited for a slot."""
        self._delays_ns.extend(delays_ns.tolist())
        self.details["held_back"] += held

    def ended(self, ended: Ended) -> None:
        """Takes note of how the tokens of a request were counted."""
        self._counted[ended.counted] += 1
        self.details["usage_missing"] += ended.usage_missing
        self.details["usage_wrong"] += ended.usage_wrong

    def sum_up(self) -> None:
        """Brings what is computed of `details` up to date."""
        self.details["tokens_counted"] = dict(self._counted)
        if self._delays_ns:
            late_ms = np.array(self._delays_ns) / 1e6
            p50, p99, most = np.percentile(late_ms, [50, 99, 100], method="inverted_cdf").tolist()
            self.details["dispatch_delay_ms"] = {"p50": p50, "p99": p99, "max": most}

    def _lost(self, process: _Process) -> None:
        """A process has gone, though nobody told it to."""
        if not process.alive:
            return
        process.alive = False
        assert self._loop is not None
        self._loop.remove_reader(process.sock.fileno())
        code = _ended(process.popen)
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self.failed(
            RunFailedError(
                CLIENT_DIED,
                f"a client process (pid {process.popen.pid}) ended, {how}: what it sent and got is not known any more",
            )
        )

    def failed(self, error: RunFailedError) -> None:
        """Nothing more can be sent."""
        self._failure = self._failure or error
        for generator in self._generators:
            generator.fail(self._failure)

    @property
    def alive(self) -> set[int]:
        """Ids of the processes that live."""
        return {process.popen.pid for process in self._processes if process.alive}

    @property
    def failure(self) -> RunFailedError | None:
        """What the processes, or the server, died of."""
        return self._failure


class HttpGenerator(Generator):
    """Hands a plan to the client processes and keeps what they tell, some five times a second."""

    def __init__(
        self, clients: HttpClients, number: int, plan: LoadPlan, **options: Unpack[GeneratorOptions]
    ) -> None:
        super().__init__(plan, **options)
        max_in_flight, share_slots = options.get("max_in_flight"), options.get("share_slots")
        self._clients = clients
        self.number = number
        self._cancelled = 0
        self._answers: dict[str, set[int]] = {"all_sent": set(), "drained": set(), "cancelled": set()}
        """Which processes have said so."""
        self._news = asyncio.Event()
        self._limited = max_in_flight is not None
        slots_of: int | None = None
        if share_slots is not None:
            assert isinstance(share_slots, HttpGenerator)
            self._limited = share_slots._limited
            slots_of = share_slots.number if share_slots._limited else None
        slots = os.eventfd(max_in_flight, os.EFD_SEMAPHORE | os.EFD_NONBLOCK) if max_in_flight else None
        load = Load(
            number=number,
            plan=plan,
            window=np.array([record.phase == "window" for record in self.records], np.bool_),
            share=(0, 1),
            vocab_size=options["vocab_size"],
            hold_window=options.get("hold_window", False),
            slots_of=-1 if slots is not None else slots_of,
            users=self.users or 0,
        )
        clients.order(load, slots)
        if slots is not None:
            os.close(slots)

    @property
    def in_flight(self) -> int:
        return self.sent - self.completed - self.failed - self._cancelled

    async def run(self, start_ns: int) -> None:
        if self.users is None:
            self._plan_sends(start_ns)
        self._order("run", start_ns)
        try:
            await self._answered("all_sent")
        except asyncio.CancelledError:
            self._order("halt")
            raise
        if self._failure is not None:
            self._order("halt")
            raise self._failure

    def release_window(self, later_ns: int = 0) -> None:
        self._plan_window_later(later_ns)
        self._order("release", later_ns)

    def stop_at(self, t_ns: int, phase: str | None = None) -> None:
        self._order("stop", t_ns, None if phase is None else phase == "window")
        if phase is None:
            self._plan_none_from(t_ns)

    async def drain(self, limit_s: float) -> int:
        self._order("drain")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(limit_s, 0.0)):
                await self._answered("drained")
        before = self._cancelled
        await self.cancel()
        # Its connections end before it is known what a server died of.
        while self._failure is None and self.failed and self._clients.server_gone():
            self._news.clear()
            await self._news.wait()
        if self._failure is not None:
            raise self._failure
        return self._cancelled - before

    async def cancel(self) -> None:
        self._answers["cancelled"].clear()
        self._order("cancel")
        try:
            async with asyncio.timeout(ORDER_LIMIT_S):
                await self._answered("cancelled", whatever_failed=True)
        except TimeoutError:
            self._clients.failed(
                RunFailedError(
                    CLIENT_DIED, f"a client process did not obey for {ORDER_LIMIT_S:g} s: is it stopped?"
                )
            )
        self._clients.sum_up()

    def _order(self, what: str, t_ns: int = 0, window: bool | None = None) -> None:
        self._clients.order(Order(what, self.number, t_ns, window))

    async def _answered(self, what: str, *, whatever_failed: bool = False) -> None:
        """Until all processes that live have said so; or until something failed."""
        while self._clients.alive - self._answers[what]:
            if self._failure is not None and not whatever_failed:
                return
            self._news.clear()
            await self._news.wait()

    # -- what the processes say

    def told(self, process: int, message: Told) -> None:
        if message.what == "died":
            self._clients.failed(
                RunFailedError(
                    ENGINE_DIED,
                    f"nothing answers at {self._clients.endpoint.to_json()['base_url']} any more: {message.text}",
                )
            )
        else:
            self._answers[message.what].add(process)
            self._news.set()

    def fail(self, error: RunFailedError) -> None:
        self._failure = self._failure or error
        self._news.set()

    def take(self, news: News) -> None:
        """Takes in what happened to requests."""
        records = self.records
        delays = news.sent[:, 2] - news.sent[:, 1]
        in_window = np.zeros(len(delays), np.bool_)
        for row, (index, planned_ns, sent_ns, _) in enumerate(news.sent.tolist()):
            record = records[index]
            record.actual_send_ns, record.status = sent_ns, "cancelled"
            if self.users is None:
                record.planned_send_ns = planned_ns
            else:
                record.phase = self._phase_at(sent_ns)
            in_window[row] = record.phase == "window"
        held = news.sent[:, 3] != 0
        self._clients.sent(delays[in_window & ~held], int(held.sum()))
        self.sent += len(delays)
        for index in news.never:
            records[index].planned_send_ns = None
        at = 0
        for index, arrivals in news.tokens_of.tolist():
            record = records[index]
            stamps = news.t_ns[at : at + arrivals].tolist()
            counts = news.count[at : at + arrivals].tolist()
            at += arrivals
            if record.first_token_ns is None:
                record.first_token_ns = stamps[0]
            record.last_token_ns = stamps[-1]
            record.token_ts_ns += stamps
            record.token_count += counts
            tokens = sum(counts)
            record.output_tokens += tokens
            self.output_tokens += tokens
        for ended in news.ended:
            record = records[ended.index]
            self._clients.ended(ended)
            record.cached_tokens = ended.cached_tokens
            if ended.prompt_tokens is not None:
                record.input_tokens = ended.prompt_tokens
            if ended.cancelled:
                self._cancelled += 1
            elif ended.error is not None:
                record.status, record.error = "failed", ended.error
                self.failed += 1
            else:
                record.status = "completed"
                self.completed += 1


def _started(endpoint: Endpoint) -> _Process:
    ours, theirs = socket.socketpair()
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-m", "wattcount.engines.http.sender", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    ours.settimeout(ORDER_LIMIT_S)
    send(ours, endpoint)
    return _Process(popen, ours)


def _ended(popen: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process, and kills it if it takes too long; its exit code."""
    try:
        return popen.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        return popen.wait()
