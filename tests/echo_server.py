"""A server with OpenAI's streaming protocol that computes nothing: as many tokens as asked for, when and how a test wants them.

How it behaves is `EchoServer.behaviour`, or what `EchoServer.by_tokens` has for as many tokens as are asked for. Alone it is the
benchmarks' server: `python tests/echo_server.py --port 8000`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Behaviour:
    """How a request is answered. Numbers of tokens count from the first one."""

    first_s: float = 0.0
    """Until the first token."""
    between_s: float = 0.0
    """Between events."""
    tokens_an_event: int = 1
    usage: str = "each"
    """`each` event, `end`, `none`, or `wrong`: at the end, twice as many."""
    status: int = 200
    message: str = "no"
    """Of a status other than 200."""
    streams: bool = True
    tokens: int | None = None
    """So many, whatever was asked for."""
    text: str = "tok "
    """Of each token."""
    hangs_after: int | None = None
    """Nothing more comes after so many tokens."""
    drops_after: int | None = None
    """The connection is closed after so many tokens."""
    resets: bool = False
    """With a reset (RST) where it drops."""
    broken_after: int | None = None
    """After so many tokens comes an event that is no JSON."""
    error_after: int | None = None
    """After so many tokens comes an error."""
    done: bool = True
    """`[DONE]` comes."""
    finish: bool = True
    """A finish reason comes."""
    crlf: bool = False
    """Lines of events end in CR LF, and comments come between (sse-starlette does so)."""
    pieces: int | None = None
    """Everything is written in pieces of so many bytes."""
    length: bool = False
    """Content-Length in place of chunks (of what is not streamed)."""
    closes: bool = False
    """The connection is closed after the answer."""
    counted: bool = True
    """It counts in `/metrics`. False: as a cache in front of a server, which does not see it."""


class EchoServer:
    """In a thread of its own; `with EchoServer() as server: server.url`."""

    def __init__(
        self, behaviour: Behaviour = Behaviour(), *, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.behaviour = behaviour
        self.by_tokens: dict[int, Behaviour] = {}
        """By the `max_tokens` of a request."""
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        """Headers and JSON of each request, in the order of arrival."""
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.counts = {"request_success": 0, "prompt_tokens": 0, "generation_tokens": 0}
        """What `/metrics` tells, under vLLM's names."""
        self.models: tuple[str, ...] = ("echo",)
        """Of `/v1/models`; none: it has no such page."""
        self.key: str | None = None
        """The API key that each request must have."""
        self._tls = tls
        self._port = port
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None

    def __enter__(self) -> EchoServer:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://localhost:{self._port}"

    def stop(self) -> None:
        """Closes everything, as a server that dies."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._up.set()
        self._loop.run_forever()
        assert self._server is not None
        self._server.close()
        for connection in list(self._open):
            connection.abort()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _listen(self) -> None:
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        self._server = await self._loop.create_server(
            lambda: _Connection(self), sock=listening, ssl=self._tls, backlog=4096
        )


class _Connection(asyncio.Protocol):
    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._buffer = b""
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.connections += 1
        self._server._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._server._open.discard(self)
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        asked = json.loads(rest[:length]) if length else {}
        self._buffer = rest[length:]
        key = self._server.key
        if key is not None and headers.get("authorization") != f"Bearer {key}":
            self._transport.write(_whole(401, {"error": {"message": "Unauthorized"}}))
            return
        if lines[0].startswith("GET "):
            self._transport.write(_get(self._server, lines[0].split()[1]))
            return
        self._server.requests.append((headers, asked))
        self._task = asyncio.get_running_loop().create_task(self._answer(lines[0].split()[1], asked))

    async def _answer(self, path: str, asked: dict[str, Any]) -> None:
        server = self._server
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            how = server.by_tokens.get(asked.get("max_tokens", 0), server.behaviour)
            counts = server.counts if how.counted else dict.fromkeys(server.counts, 0)
            for part in answer(how, path, asked, counts):
                if isinstance(part, float):
                    await asyncio.sleep(part)
                    continue
                if part is None:
                    await asyncio.Event().wait()
                    return
                if part == b"":
                    if how.resets:
                        _reset(self._transport.get_extra_info("socket"))
                    self._transport.abort() if how.resets else self._transport.close()
                    return
                await self._write(part, how.pieces)
            if how.closes:
                self._transport.close()
        finally:
            server.in_flight -= 1

    async def _write(self, part: bytes, pieces: int | None) -> None:
        for at in range(0, len(part), pieces or len(part)):
            self._transport.write(part[at : at + (pieces or len(part))])
            if pieces:
                await asyncio.sleep(0)


def _reset(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _get(server: EchoServer, path: str) -> bytes:
    if path == "/metrics":
        return _metrics(server)
    if path == "/v1/models" and server.models:
        card = {"object": "model", "owned_by": "vllm", "max_model_len": 32768}
        cards = [{"id": name, **card} for name in server.models]
        return _whole(200, {"object": "list", "data": cards})
    return _whole(404, {"error": {"message": "no such page"}})


def _metrics(server: EchoServer) -> bytes:
    lines = [f'vllm:{name}_total{{engine="0"}} {count}.0' for name, count in server.counts.items()]
    lines += [
        f'vllm:num_requests_running{{engine="0"}} {server.in_flight}.0',
        'vllm:num_requests_waiting{engine="0"} 0.0',
    ]
    return _page(200, "\n".join([*lines, ""]).encode(), "text/plain")


def answer(
    how: Behaviour, path: str, asked: dict[str, Any], counts: dict[str, int]
) -> Iterator[bytes | float | None]:
    """The bytes of an answer, waits in seconds, None for ever; b"" closes the connection. Counts in `counts`."""
    chat = path.endswith("/chat/completions")
    if how.status != 200:
        yield _whole(how.status, {"error": {"message": how.message, "code": how.status}})
        return
    prompt = asked["messages"][0]["content"] if chat else asked["prompt"]
    prompt_tokens = len(prompt.split()) if isinstance(prompt, str) else len(prompt)
    total = how.tokens if how.tokens is not None else int(asked["max_tokens"])
    options = asked.get("stream_options") or {}
    each = how.usage == "each" and bool(options.get("continuous_usage_stats"))

    def usage(tokens: int) -> dict[str, Any]:
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        }

    if not how.streams:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"content": how.text * total}} if chat else {"text": how.text * total}
        yield how.first_s
        for name, count in (
            ("request_success", 1),
            ("prompt_tokens", prompt_tokens),
            ("generation_tokens", total),
        ):
            counts[name] += count
        yield _whole(200, {"choices": [choice], "usage": usage(total)})
        return
    yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"

    def event(told: dict[str, Any] | bytes) -> bytes:
        data = told if isinstance(told, bytes) else json.dumps(told, separators=(",", ":")).encode()
        end = b"\r\n\r\n" if how.crlf else b"\n\n"
        comment = b": ping\r\n\r\n" if how.crlf else b""
        text = comment + b"data: " + data + end
        return b"%x\r\n%s\r\n" % (len(text), text)

    if chat:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        yield event({"id": "echo", "choices": [choice], **({"usage": usage(0)} if each else {})})
    yield how.first_s
    counts["prompt_tokens"] += prompt_tokens
    done = 0
    while done < total:
        if how.drops_after is not None and done >= how.drops_after:
            yield b""
        if how.hangs_after is not None and done >= how.hangs_after:
            yield None
        if how.broken_after is not None and done >= how.broken_after:
            yield event(b'{"id": "echo", "choi')
            break
        if how.error_after is not None and done >= how.error_after:
            yield event({"error": {"message": how.message, "code": 500}})
            break
        count = min(how.tokens_an_event, total - done)
        done += count
        counts["generation_tokens"] += count
        counts["request_success"] += done == total
        last = done == total and how.finish
        text = how.text * count
        choice = {"index": 0, "finish_reason": "length" if last else None}
        choice |= {"delta": {"content": text}} if chat else {"text": text}
        yield event(
            {"id": "echo", "choices": [choice], **({"usage": usage(done)} if each else {"usage": None})}
        )
        if how.between_s:
            yield how.between_s
    if options.get("include_usage") and how.usage != "none":
        yield event({"id": "echo", "choices": [], "usage": usage(done * (2 if how.usage == "wrong" else 1))})
    if how.done:
        yield event(b"[DONE]")
    yield b"0\r\n\r\n"


def _whole(status: int, told: dict[str, Any]) -> bytes:
    return _page(status, json.dumps(told).encode(), "application/json")


def _page(status: int, data: bytes, kind: str) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        kind.encode(),
        len(data),
        data,
    )


# -- alone, for benchmarks


class _Fast(asyncio.Protocol):
    """Answers with events that were made before, all requests in step, as an engine's scheduler does."""

    def __init__(self, streams: dict[_Fast, int], head: bytes, arrivals_ns: list[int]) -> None:
        self._streams, self._head, self._arrivals_ns = streams, head, arrivals_ns
        self._buffer = b""
        self.write: Any = None

    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def connection_lost(self, _: Exception | None) -> None:
        self._streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._buffer = data if not self._buffer else self._buffer + data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        if self._buffer.startswith(b"GET"):
            body = b'{"object":"list","data":[{"id":"echo","object":"model","max_model_len":32768}]}'
            self._buffer = b""
            self.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            return
        at = self._buffer.lower().find(b"content-length:", 0, end)
        length = int(self._buffer[at + 15 : self._buffer.find(b"\r\n", at)])
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = self._buffer[end + 4 + length :]
        self._arrivals_ns.append(time.monotonic_ns())
        self.write(self._head)
        self._streams[self] = 0


def _fast_events(tokens: int, chat: bool) -> list[bytes]:
    events = []
    for number in range(1, tokens + 1):
        choice: dict[str, Any] = {"index": 0, "logprobs": None}
        choice |= {"delta": {"content": " tok"}} if chat else {"text": " tok"}
        choice |= {"finish_reason": "length" if number == tokens else None, "stop_reason": None}
        usage = {"prompt_tokens": 32, "total_tokens": 32 + number, "completion_tokens": number}
        told = {
            "id": "cmpl-0123456789abcdef0123456789abcdef",
            "object": "text_completion",
            "created": 1764286800,
        }
        text = (
            b"data: "
            + json.dumps(told | {"model": "echo", "choices": [choice], "usage": usage}).encode()
            + b"\n\n"
        )
        events.append(b"%x\r\n%s\r\n" % (len(text), text))
    usage = {"prompt_tokens": 32, "total_tokens": 32 + tokens, "completion_tokens": tokens}
    last = b"data: " + json.dumps({"id": "x", "choices": [], "usage": usage}).encode() + b"\n\n"
    events.append(b"%x\r\n%s\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" % (len(last), last))
    return events


async def _serve(port: int, tokens: int, step_s: float, chat: bool, arrivals: Path | None) -> None:
    loop = asyncio.get_running_loop()
    streams: dict[_Fast, int] = {}
    arrivals_ns: list[int] = []
    if arrivals is not None:
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: (arrivals.write_text(json.dumps(arrivals_ns)), arrivals_ns.clear())
        )
    events = _fast_events(tokens, chat)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    listening = socket.create_server(("127.0.0.1", port), reuse_port=True, backlog=4096)
    await loop.create_server(lambda: _Fast(streams, head, arrivals_ns), sock=listening)
    print(listening.getsockname()[1], flush=True)
    at = loop.time()
    while True:
        at = max(at + step_s, loop.time())
        await asyncio.sleep(at - loop.time())
        for stream, number in list(streams.items()):
            if number < tokens:
                stream.write(events[number])
                streams[stream] = number + 1
            else:
                del streams[stream]
                stream.write(events[tokens])


def main() -> None:
    parser = argparse.ArgumentParser(description="The echo server of the benchmarks.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=100, help="of each answer, whatever is asked for")
    parser.add_argument("--step-ms", type=float, default=10.0, help="between events of a stream")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument(
        "--arrivals", type=Path, help="on SIGUSR1, when requests came since then [CLOCK_MONOTONIC ns]"
    )
    options = parser.parse_args()
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    with contextlib.suppress(KeyboardInterrupt):
        run(_serve(options.port, options.tokens, options.step_ms / 1e3, options.chat, options.arrivals))


if __name__ == "__main__":
    main()
