"""The handshake and the messages over real sockets: who knows the secret, who does not, and who changes what is sent."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wattcount.errors import NotStartedError
from wattcount.gpu.remote import wire
from wattcount.gpu.remote.wire import Channel, RefusedError, WireError

SECRET = b"correct horse battery staple"
Sockets = tuple[socket.socket, socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Two ends of one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    with one, other:
        yield one, other


@pytest.fixture
def keys() -> tuple[bytes, bytes]:
    return os.urandom(32), os.urandom(32)


@pytest.fixture
def channels(sockets: Sockets, keys: tuple[bytes, bytes]) -> tuple[Channel, Channel]:
    return Channel(sockets[0], *keys), Channel(sockets[1], *keys[::-1])


_open: list[socket.socket | Channel] = []


@pytest.fixture(autouse=True)
def _all_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wire, "REFUSAL_S", 0.0)
    yield
    while _open:
        _open.pop().close()


class Server:
    """Takes one connection and does with it what a test says."""

    def __init__(self, act: Callable[[socket.socket], Any]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._pool = ThreadPoolExecutor(1)
        self.done: Future[Any] = self._pool.submit(self._run, act)

    def _run(self, act: Callable[[socket.socket], Any]) -> Any:
        connection, _ = self._socket.accept()
        _open.append(connection)
        self._socket.close()
        try:
            return act(connection)
        except BaseException:
            connection.close()
            raise

    def connect(self, secret: bytes = SECRET) -> Channel:
        channel = wire.connect("127.0.0.1", self.port, secret)
        _open.append(channel)
        return channel


def listens(secret: bytes = SECRET, **options: Any) -> Server:
    return Server(lambda connection: wire.accept(connection, secret, **options))


# -- the handshake


def test_two_that_know_the_secret_talk() -> None:
    server = listens()
    client, listener = server.connect(), server.done.result()
    client.send({"id": 1, "op": "what"}, b"\0\1\2")
    assert listener.receive() == ({"id": 1, "op": "what"}, b"\0\1\2")
    for number in range(3):
        listener.send({"number": number}, bytes(number))
    assert [client.receive() for _ in range(3)] == [({"number": n}, bytes(n)) for n in range(3)]
    assert (client.sent_bytes, client.received_bytes) == (listener.received_bytes, listener.sent_bytes)
    assert not client.wait(0)
    listener.close()
    assert client.wait(5)
    with pytest.raises(WireError, match="closed"):
        client.receive()
    client.close()
    client.close()


def test_a_client_with_another_secret_is_refused() -> None:
    server = listens()
    with pytest.raises(RefusedError, match="another secret") as refused:
        server.connect(b"another secret, as long")
    assert refused.value.why == "secret"
    with pytest.raises(RefusedError, match="does not know the secret"):
        server.done.result()


def test_a_listener_that_does_not_know_the_secret_is_not_believed() -> None:
    """It takes whoever comes, to be sent what is not meant for it."""

    def pretend(connection: socket.socket) -> None:
        wire._say(connection, {"wattcount": "sampler", "protocol": wire.PROTOCOL, "nonce": "00" * 32})
        proof = wire._hear(connection, wire.time.monotonic() + 5)["proof"]
        wire._say(connection, {"proof": proof})  # the client's own

    with pytest.raises(RefusedError, match="the listener does not know the secret"):
        Server(pretend).connect()


def test_the_secret_is_never_sent() -> None:
    sent = bytearray()

    def through(listener: Server) -> Callable[[socket.socket], None]:
        def copy(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while chunk := source.recv(4096):
                    sent.extend(chunk)
                    target.sendall(chunk)

        def act(client: socket.socket) -> None:
            onward = socket.create_connection(("127.0.0.1", listener.port))
            _open.append(onward)
            threading.Thread(target=copy, args=(onward, client), daemon=True).start()
            copy(client, onward)

        return act

    listener = listens()
    client = Server(through(listener)).connect()
    client.send({"op": "anything"})
    assert listener.done.result().receive()[0] == {"op": "anything"}
    assert b"anything" in sent
    assert SECRET not in sent
    assert SECRET.hex().encode() not in sent
    client.close()


def test_the_same_question_has_another_answer_in_the_next_connection() -> None:
    """What was heard of one handshake is of no use in another one."""
    heard: list[dict[str, Any]] = []

    def act(connection: socket.socket) -> None:
        with pytest.raises(WireError):
            wire.accept(connection, SECRET)

    for _ in range(2):
        server = Server(act)
        connection = socket.create_connection(("127.0.0.1", server.port))
        _open.append(connection)
        hello = wire._hear(connection, wire.time.monotonic() + 5)
        if heard:
            wire._say(connection, heard[0])
        else:
            theirs, ours = bytes.fromhex(hello["nonce"]), bytes(32)
            proof = wire._proof(SECRET, "client", theirs, ours).hex()
            heard.append({"protocol": wire.PROTOCOL, "nonce": ours.hex(), "proof": proof})
            connection.close()
            server.done.result()
            continue
        assert wire._hear(connection, wire.time.monotonic() + 5) == {"refused": "secret"}
        server.done.result()


def test_another_version_is_told_on_both_sides() -> None:
    def newer(connection: socket.socket) -> None:
        wire._say(connection, {"wattcount": "sampler", "protocol": wire.PROTOCOL + 1, "nonce": "00" * 32})

    with pytest.raises(
        RefusedError, match=f"version {wire.PROTOCOL + 1} of the protocol, this one"
    ) as refused:
        Server(newer).connect()
    assert refused.value.why == "protocol"

    server = listens()
    connection = socket.create_connection(("127.0.0.1", server.port))
    _open.append(connection)
    wire._hear(connection, wire.time.monotonic() + 5)
    wire._say(connection, {"protocol": 99, "nonce": "00" * 32, "proof": ""})
    assert wire._hear(connection, wire.time.monotonic() + 5) == {"refused": "protocol"}
    with pytest.raises(RefusedError, match="version 99"):
        server.done.result()


def test_a_listener_that_is_full_says_so() -> None:
    server = listens(full=True)
    with pytest.raises(RefusedError, match="as many clients as it takes"):
        server.connect()


NESTED = b"[" * 900
GARBAGE = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "zeros": bytes(64),
    "random": bytes(range(256)),
    "a huge length": struct.pack("!I", 2**31) + b"x",
    "no json": struct.pack("!I", 4) + b"\xff\xfe{}",
    "nested": struct.pack("!I", len(NESTED)) + NESTED,
    "a list": struct.pack("!I", 2) + b"[]",
    "no nonce": struct.pack("!I", 14) + b'{"protocol":1}',
    "a short nonce": struct.pack("!I", 27) + b'{"protocol":1,"nonce":"00"}',
    "a nonce that is a number": struct.pack("!I", 24) + b'{"protocol":1,"nonce":5} ',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_place_of_a_greeting_is_an_error_of_ours(name: str) -> None:
    server = listens()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(GARBAGE[name])
        with contextlib.suppress(OSError):  # it was refused already
            connection.shutdown(socket.SHUT_WR)
        with pytest.raises(WireError):
            server.done.result()

    def say(connection: socket.socket) -> None:
        connection.sendall(GARBAGE[name])
        connection.close()

    with pytest.raises((WireError, OSError)):
        Server(say).connect()


@pytest.mark.parametrize("proof", ["", "00" * 32, 5, None, ["x"], "\u00e4" * 64], ids=repr)
def test_a_proof_that_is_none_is_refused(proof: object) -> None:
    server = listens()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        wire._say(connection, {"protocol": wire.PROTOCOL, "nonce": "00" * 32, "proof": proof})
        with pytest.raises(RefusedError):
            server.done.result()


def test_who_sends_a_greeting_bit_by_bit_does_not_hold_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HANDSHAKE_LIMIT_S", 0.2)
    server = listens()
    stop = threading.Event()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:

        def drip() -> None:
            while not stop.wait(0.01):
                try:
                    connection.sendall(b"\0")
                except OSError:
                    return

        connection.sendall(struct.pack("!I", 1000))
        dripping = threading.Thread(target=drip)
        dripping.start()
        with pytest.raises(WireError, match="in time"):
            server.done.result()
        stop.set()
        dripping.join()


# -- messages


def frame(channel: Channel, sockets: Sockets, header: dict[str, Any], payload: bytes = b"") -> bytes:
    """The bytes of a message, taken off the wire."""
    before = channel.sent_bytes
    channel.send(header, payload)
    return wire._exactly(sockets[1], channel.sent_bytes - before, wire.time.monotonic() + 5)


def test_each_changed_byte_is_noticed(sockets: Sockets, keys: tuple[bytes, bytes]) -> None:
    message = frame(Channel(sockets[0], *keys), sockets, {"op": "mark"}, b"payload")
    for place in range(8, len(message)):  # the lengths before say how much is read
        changed = bytearray(message)
        changed[place] ^= 1
        listener = Channel(sockets[1], *keys[::-1])
        sockets[0].sendall(changed)
        with pytest.raises(WireError, match="changed"):
            listener.receive()


@pytest.mark.parametrize("lengths", [(2**31, 0), (0, 2**31), (wire.HEADER_BYTES + 1, 0)])
def test_lengths_that_are_too_long_are_not_read(
    lengths: tuple[int, int], sockets: Sockets, channels: tuple[Channel, Channel]
) -> None:
    sockets[0].sendall(struct.pack("!II", *lengths) + bytes(40))
    with pytest.raises(WireError, match="too long"):
        channels[1].receive()


def test_a_message_that_comes_twice_is_refused(sockets: Sockets, keys: tuple[bytes, bytes]) -> None:
    message = frame(Channel(sockets[0], *keys), sockets, {"op": "mark"})
    listener = Channel(sockets[1], *keys[::-1])
    sockets[0].sendall(message + message)
    assert listener.receive() == ({"op": "mark"}, b"")
    with pytest.raises(WireError, match="changed"):
        listener.receive()


def test_messages_in_another_order_are_refused(sockets: Sockets, keys: tuple[bytes, bytes]) -> None:
    client = Channel(sockets[0], *keys)
    first, second = (frame(client, sockets, {"number": number}) for number in range(2))
    listener = Channel(sockets[1], *keys[::-1])
    sockets[0].sendall(second + first)
    with pytest.raises(WireError, match="changed"):
        listener.receive()


def test_a_message_that_comes_back_to_its_sender_is_refused(
    sockets: Sockets, keys: tuple[bytes, bytes]
) -> None:
    client = Channel(sockets[0], *keys)
    sockets[1].sendall(frame(client, sockets, {"op": "mark"}))
    with pytest.raises(WireError, match="changed"):
        client.receive()


def test_a_message_that_ends_in_its_middle(sockets: Sockets, channels: tuple[Channel, Channel]) -> None:
    sockets[0].sendall(struct.pack("!II", 10, 10) + bytes(20))
    sockets[0].close()
    with pytest.raises(WireError, match="closed"):
        channels[1].receive()


def test_a_message_that_does_not_go_on_has_a_limit(
    sockets: Sockets, channels: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TRANSFER_LIMIT_S", 0.1)
    sockets[0].sendall(struct.pack("!II", 10, 10))
    with pytest.raises(WireError, match="in time"):
        channels[1].receive()


def test_an_authentic_message_that_is_no_object(sockets: Sockets, keys: tuple[bytes, bytes]) -> None:
    client, listener = Channel(sockets[0], *keys), Channel(sockets[1], *keys[::-1])
    client.send([1, 2])  # type: ignore[arg-type]
    with pytest.raises(WireError, match="no JSON object"):
        listener.receive()


# -- the secret


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path))
    monkeypatch.delenv(wire.SECRET_ENV, raising=False)
    monkeypatch.delenv(wire.SECRET_FILE_ENV, raising=False)
    return tmp_path


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_secret_is_in_a_file_that_only_its_owner_reads(home: Path) -> None:
    written(home / "sampler.secret", SECRET + b"\n")
    assert wire.read_secret() == SECRET


def test_the_secret_may_be_in_another_file_or_in_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = written(home / "other", SECRET)
    monkeypatch.setenv(wire.SECRET_FILE_ENV, str(other))
    assert wire.read_secret() == SECRET
    monkeypatch.setenv(wire.SECRET_ENV, "from the environment")
    assert wire.read_secret() == b"from the environment"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (SECRET, 0o640, "chmod 600"),
        (SECRET, 0o604, "chmod 600"),
        (b"short", 0o600, "fewer than 16 characters"),
        (b"", 0o600, "fewer than 16 characters"),
        (b"\xff\xfe" * 20, 0o600, "one line of text"),
        (b"x" * 5000, 0o600, "one line of text"),
    ],
)
def test_a_file_that_is_no_good_secret(content: bytes, mode: int, said: str, home: Path) -> None:
    written(home / "sampler.secret", content, mode)
    with pytest.raises(NotStartedError, match=said) as error:
        wire.read_secret()
    assert SECRET.decode() not in str(error.value)


def test_no_file_and_a_folder(home: Path) -> None:
    with pytest.raises(NotStartedError, match="--new-secret"):
        wire.read_secret()
    (home / "sampler.secret").mkdir()
    with pytest.raises(NotStartedError, match="cannot read"):
        wire.read_secret()


def test_greetings_are_short() -> None:
    hello = {"wattcount": "sampler", "protocol": wire.PROTOCOL, "nonce": "00" * 32, "proof": "00" * 32}
    assert len(json.dumps(hello)) < wire.HELLO_BYTES
