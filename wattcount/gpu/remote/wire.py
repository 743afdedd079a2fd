"""Messages between two machines, which only who knows the shared secret can make: nothing here is encrypted.

::

    listener  {"wattcount": "sampler", "protocol": 1, "nonce": N}
    client    {"protocol": 1, "nonce": M, "proof": HMAC(secret, "client", 1, N, M)}
    listener  {"proof": HMAC(secret, "listener", 1, N, M)}    or {"refused": why}

After that each message is

    length of header, length of payload [4 bytes each, big-endian], HMAC [32 bytes], header [JSON], payload

with the HMAC-SHA256 of (number of the message, both lengths, header, payload). Its key is made of the secret, both nonces and the
direction. So no message can be made, changed, left out, moved, repeated in another connection or sent back to where it came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import select
import socket
import stat
import struct
import threading
import time
from pathlib import Path
from typing import Any

from wattcount.config import paths
from wattcount.errors import NotStartedError

PROTOCOL = 1
"""Version of the protocol: two ends of different versions refuse each other."""
DEFAULT_PORT = 9470
"""TCP port that a listener has unless told otherwise. Chosen: not registered, and beside no exporter that is common on GPU hosts."""
SECRET_ENV = "WATTCOUNT_SAMPLER_SECRET"
"""Environment variable with the secret."""
SECRET_FILE_ENV = "WATTCOUNT_SAMPLER_SECRET_FILE"
"""Environment variable with the path of a file that holds the secret, for who keeps it elsewhere than in `secret_file`."""
LEAST_SECRET_CHARACTERS = 16
"""Shortest secret [characters]. Chosen: who listens to a handshake can try secrets at leisure, and shorter ones are often words."""
MOST_SECRET_BYTES = 4096
"""Longest file of a secret [bytes]."""
HELLO_BYTES = 1024
"""Longest message of the handshake [bytes]: some 200 are needed."""
HEADER_BYTES = 1 << 20
"""Longest header [bytes]: a session of 16 GPUs tells some 100 KiB of health."""
PAYLOAD_BYTES = 8 << 20
"""Longest payload [bytes]: a longer batch of events is sent as several messages."""
HANDSHAKE_LIMIT_S = 5.0
"""Longest handshake [s], all of it together."""
REFUSAL_S = 0.5
"""Time before a wrong proof is answered [s], so that guessing is slow."""
TRANSFER_LIMIT_S = 20.0
"""Longest time for one message once it has begun, and for the other end to take one [s]: TCP gives up on a lost packet later."""
_LENGTHS = struct.Struct("!II")
"""Lengths of a message's header and payload [bytes]: four bytes each, the highest first."""
_MAC_BYTES = hashlib.sha256().digest_size
"""Length of a message's proof [bytes]: that of SHA-256."""


class WireError(Exception):
    """The connection is of no use any more; the message says why."""


class ClosedError(WireError):
    """The other end has closed the connection, or is gone."""


class RefusedError(WireError):
    """The other end refused the handshake. `why`: `secret`, `protocol`, `full`."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def secret_file() -> Path:
    """Where the secret is looked for, unless the environment says otherwise."""
    return Path(os.environ.get(SECRET_FILE_ENV) or paths.data_home() / "sampler.secret").expanduser()


def read_secret() -> bytes:
    """The secret of `$WATTCOUNT_SAMPLER_SECRET`, else of `secret_file`. Raises `NotStartedError`, which never holds it."""
    text = os.environ.get(SECRET_ENV, "").strip()
    where = f"${SECRET_ENV}"
    if not text:
        where = str(secret_file())
        text = _read_private(secret_file()).strip()
    if len(text) < LEAST_SECRET_CHARACTERS:
        raise NotStartedError(
            f"the secret in {where} has fewer than {LEAST_SECRET_CHARACTERS} characters: make one with "
            "wattcount sampler --new-secret"
        )
    return text.encode()


def _read_private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NotStartedError(f"{path}: the secret must be in a regular file")
            if status.st_mode & 0o077:
                raise NotStartedError(f"{path}: others can read the secret: chmod 600 {path}")
            content = file.read(MOST_SECRET_BYTES + 1)
    except FileNotFoundError:
        raise NotStartedError(
            f"no secret for the sampler: neither ${SECRET_ENV} is set nor is there {path}. Make one with "
            "wattcount sampler --new-secret on one machine, and copy the file to the other"
        ) from None
    except OSError as error:
        raise NotStartedError(f"cannot read the sampler's secret in {path}: {error.strerror}") from None
    try:
        if len(content) <= MOST_SECRET_BYTES:
            return content.decode()
    except UnicodeDecodeError:
        pass
    raise NotStartedError(
        f"{path}: a secret is one line of text: make one with wattcount sampler --new-secret"
    )


class Channel:
    """The messages of one connection after its handshake. Threads may send beside each other; one receives."""

    def __init__(self, connection: socket.socket, send_key: bytes, receive_key: bytes) -> None:
        self._socket = connection
        self._keys = send_key, receive_key
        self._sent = self._received = 0
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self.received_ns = 0
        """CLOCK_MONOTONIC when the first bytes of the last message had come [ns]."""
        self.received_bytes = self.sent_bytes = 0
        connection.settimeout(TRANSFER_LIMIT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A machine that is gone says nothing; a process that is stopped has a kernel that still answers.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def wait(self, limit_s: float) -> bool:
        """Whether a message, or the end of the connection, comes within the limit."""
        return bool(self._poll.poll(max(0.0, limit_s) * 1e3))

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Raises `WireError`: the other end is gone, or takes nothing."""
        text = json.dumps(header, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(text), len(payload))
        with self._sending:
            mac = _mac(self._keys[0], self._sent.to_bytes(8, "big"), lengths, text, payload)
            self._sent += 1
            message = lengths + mac + text + payload
            self.sent_bytes += len(message)
            try:
                self._socket.sendall(message)
            except OSError as error:
                raise WireError(f"cannot send: {_what(error)}") from None

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Header and payload of the next message, which `wait` has seen come. Raises `WireError`."""
        deadline_s = time.monotonic() + TRANSFER_LIMIT_S
        lengths = _exactly(self._socket, _LENGTHS.size, deadline_s)
        self.received_ns = time.monotonic_ns()
        header_bytes, payload_bytes = _LENGTHS.unpack(lengths)
        if header_bytes > HEADER_BYTES or payload_bytes > PAYLOAD_BYTES:
            raise WireError("a message that is too long")
        mac = _exactly(self._socket, _MAC_BYTES, deadline_s)
        text = _exactly(self._socket, header_bytes, deadline_s)
        payload = _exactly(self._socket, payload_bytes, deadline_s)
        number = self._received.to_bytes(8, "big")
        if not hmac.compare_digest(mac, _mac(self._keys[1], number, lengths, text, payload)):
            raise WireError("a message that was changed on its way")
        self._received += 1
        self.received_bytes += len(lengths) + len(mac) + len(text) + len(payload)
        return _parsed(text), payload

    def close(self) -> None:
        """Ends the connection; may be called twice, and while another thread waits in it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def connect(host: str, port: int, secret: bytes) -> Channel:
    """A connection to a listener that has proved to know the secret. Raises OSError, `WireError`, `RefusedError`."""
    connection = socket.create_connection((host, port), HANDSHAKE_LIMIT_S)
    try:
        deadline_s = time.monotonic() + HANDSHAKE_LIMIT_S
        hello = _hear(connection, deadline_s)
        if hello.get("wattcount") != "sampler":
            raise WireError("something else than a wattcount sampler listens there")
        _check_refused(hello)
        if hello.get("protocol") != PROTOCOL:
            raise _other_protocol(hello.get("protocol"))
        listeners, ours = _nonce(hello), os.urandom(32)
        proof = _proof(secret, "client", listeners, ours).hex()
        _say(connection, {"protocol": PROTOCOL, "nonce": ours.hex(), "proof": proof})
        answer = _hear(connection, deadline_s)
        _check_refused(answer)
        if not _proves(answer, _proof(secret, "listener", listeners, ours)):
            raise RefusedError("secret", "the listener does not know the secret")
        keys = [_proof(secret, f"{who} messages", listeners, ours) for who in ("client", "listener")]
        return Channel(connection, *keys)
    except BaseException:
        connection.close()
        raise


def accept(connection: socket.socket, secret: bytes, *, full: bool = False) -> Channel:
    """The listener's side of `connect`. Raises OSError and `WireError`; the caller closes the connection then.

    full    refuse whoever it is
    """
    deadline_s = time.monotonic() + HANDSHAKE_LIMIT_S
    ours = os.urandom(32)
    hello: dict[str, Any] = {"wattcount": "sampler", "protocol": PROTOCOL, "nonce": ours.hex()}
    if full:
        _say(connection, hello | {"refused": "full"})
        raise WireError("too many clients")
    _say(connection, hello)
    answer = _hear(connection, deadline_s)
    if answer.get("protocol") != PROTOCOL:
        _say(connection, {"refused": "protocol"})
        raise _other_protocol(answer.get("protocol"))
    theirs = _nonce(answer)
    if not _proves(answer, _proof(secret, "client", ours, theirs)):
        time.sleep(REFUSAL_S)
        _say(connection, {"refused": "secret"})
        raise RefusedError("secret", "a client that does not know the secret")
    _say(connection, {"proof": _proof(secret, "listener", ours, theirs).hex()})
    keys = [_proof(secret, f"{who} messages", ours, theirs) for who in ("listener", "client")]
    return Channel(connection, *keys)


def _proof(secret: bytes, role: str, listeners: bytes, clients: bytes) -> bytes:
    return _mac(secret, role.encode(), PROTOCOL.to_bytes(4, "big"), listeners, clients)


def _mac(key: bytes, *parts: bytes) -> bytes:
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(part)
    return mac.digest()


def _proves(message: dict[str, Any], expected: bytes) -> bool:
    proof = message.get("proof")
    return isinstance(proof, str) and hmac.compare_digest(proof.encode(), expected.hex().encode())


def _nonce(message: dict[str, Any]) -> bytes:
    try:
        nonce = bytes.fromhex(message["nonce"])
    except (KeyError, TypeError, ValueError):
        nonce = b""
    if len(nonce) != 32:
        raise WireError("a greeting without a nonce")
    return nonce


def _check_refused(message: dict[str, Any]) -> None:
    match message.get("refused"):
        case None:
            return
        case "secret":
            raise RefusedError("secret", "the listener has another secret")
        case "protocol":
            raise RefusedError("protocol", "the listener is of another version of wattcount")
        case "full":
            raise RefusedError("full", "the listener has as many clients as it takes")
        case _:
            raise RefusedError("unknown", "the listener refused for a reason that is not known here")


def _other_protocol(theirs: object) -> RefusedError:
    known = theirs if isinstance(theirs, int) else "none"
    return RefusedError("protocol", f"the other end has version {known} of the protocol, this one {PROTOCOL}")


def _say(connection: socket.socket, message: dict[str, Any]) -> None:
    text = json.dumps(message).encode()
    connection.settimeout(HANDSHAKE_LIMIT_S)
    connection.sendall(len(text).to_bytes(4, "big") + text)


def _hear(connection: socket.socket, deadline_s: float) -> dict[str, Any]:
    length = int.from_bytes(_exactly(connection, 4, deadline_s), "big")
    if length > HELLO_BYTES:
        raise WireError("no greeting of a wattcount sampler")
    return _parsed(_exactly(connection, length, deadline_s))


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise WireError("a message that is no JSON object")
    return message


def _exactly(connection: socket.socket, count: int, deadline_s: float) -> bytes:
    """Reads `count` bytes, all of them before `deadline_s` [time.monotonic()]; the socket's own limit is for sending."""
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    received = bytearray()
    while len(received) < count:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not readable.poll(left_s * 1e3):
            raise WireError("nothing came in time")
        try:
            chunk = connection.recv(min(count - len(received), 1 << 20))
        except OSError as error:
            raise WireError(_what(error)) from None
        if not chunk:
            raise ClosedError("the connection was closed")
        received += chunk
    return bytes(received)


def _what(error: OSError) -> str:
    return "nothing came in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
