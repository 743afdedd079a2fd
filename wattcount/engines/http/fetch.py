"""Small answers of a server that somebody else may run: fetched within limits of size and time, and taken as data."""

from __future__ import annotations

import http.client
import json
import math
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from wattcount.errors import NotStartedError, one_line

TIMEOUT_S = 5.0
"""Longest time [s] that an answer is waited for: a loaded server answers in well under one."""
MAX_BYTES = 8 * 2**20
"""Longest answer [bytes] that is taken; `/metrics` of a server with 8 replicas has some 0.5 MiB."""
MAX_TEXT = 400
"""Characters of a text that is kept."""
_CHUNK_BYTES = 2**16
"""How much of an answer is read at once [bytes]: small enough to notice soon that it is too long, or too slow."""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    status   of HTTP; None: no answer
    text     None: there is none, or it cannot be taken
    problem  why there is none, as a clause
    """

    status: int | None
    text: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Site:
    """A server to ask, without anything secret in its `repr`.

    base_url  `http://HOST:PORT`; a `/v1` at its end is left out
    headers   sent with each request, such as the API key
    tls       None: the system's certificates
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", root_url(self.base_url))

    def get(self, path: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """The answer to GET `path`, whatever it is; raises nothing."""
        return self._ask(urllib.request.Request(self.base_url + path, headers=dict(self.headers)), timeout_s)

    def _ask(self, request: urllib.request.Request, timeout_s: float) -> Answer:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=self.tls),
            _SameSite(),
        )
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                text = _read(answer, time.monotonic() + timeout_s)
                problem = None if text is not None else "its answer was too long, or did not end in time"
                return Answer(answer.status, text, problem)
        except urllib.error.HTTPError as error:
            error.close()
            return Answer(error.code, None, f"it answered {error.code}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            return Answer(None, None, error_text(reason))

    def text(self, path: str) -> str | None:
        """The answer's text; None where the server has no such page, or gives no answer that can be taken."""
        return self.get(path).text

    def json(self, path: str) -> Any:
        """The answer as JSON; None where there is none."""
        text = self.text(path)
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Any:
        """The answer to POST `path` with `body` as JSON, as JSON; None where there is none. Raises nothing."""
        content = json.dumps(body).encode()
        headers = {**self.headers, "Content-Type": "application/json"}
        text = self._ask(urllib.request.Request(self.base_url + path, content, headers), timeout_s).text
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            return None


class _SameSite(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to the same server only: the headers may hold a key."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


CERTIFICATE_REFUSED = "its certificate is refused"
"""How `error_text` begins where a server is there, and is not who it should be."""
_USE_ITS_NAME = "use the host name that it was made for in the URL"
_OF_CERTIFICATES = {10: "have it renewed", 62: _USE_ITS_NAME, 64: _USE_ITS_NAME}
"""What to do, by OpenSSL's number of what is wrong (X509_V_ERR_CERT_HAS_EXPIRED, ..._HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH)."""
_PLACE_IN_PYTHON = re.compile(r"_ssl\.c:\d+: | \(_ssl\.c:\d+\)")


def error_text(error: object) -> str:
    """Why a connection came to nothing, on one line, without the system's number."""
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _OF_CERTIFICATES.get(
            error.verify_code,
            "name a file (PEM) with what it is to be checked against: engine.ca_file, --ca-file of doctor",
        )
        return f"{CERTIFICATE_REFUSED} ({error.verify_message.rstrip('.')}): {advice}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it speaks no TLS: is it http:// in place of https://?"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection without an answer: is the URL's http or https right?"
    return one_line(_PLACE_IN_PYTHON.sub("", getattr(error, "strerror", None) or str(error)))


def tls(ca_file: str | Path | None, asked: str = "engine.ca_file") -> ssl.SSLContext:
    """What certificates are checked against; None: the system's. Raises `NotStartedError`, which begins with `asked`."""
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else Path(ca_file).expanduser())
    except ssl.SSLError:
        raise NotStartedError(f"{asked}: {ca_file} holds no certificates (PEM)") from None
    except OSError as error:
        raise NotStartedError(f"{asked}: cannot read {ca_file}: {error.strerror}") from None


def _read(answer: Any, until_s: float) -> str | None:
    """The body; None where it is too long, or does not end in time."""
    parts, length = [], 0
    while chunk := answer.read1(_CHUNK_BYTES):
        length += len(chunk)
        if length > MAX_BYTES or time.monotonic() > until_s:
            return None
        parts.append(chunk)
    return b"".join(parts).decode("utf-8", "replace")


def root_url(base_url: str) -> str:
    """`base_url` without `/v1` and slashes at its end. Raises `NotStartedError` for what is no URL of a server."""
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError as error:
        raise NotStartedError(
            f"{base_url}: {error}; a server's URL looks like http://localhost:8000"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise NotStartedError(f"{base_url}: no URL of a server; one looks like http://localhost:8000")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def plain(value: Any) -> str | int | float | bool | None:
    """A single value of an answer as it can be kept in a record; None for what is none, or cannot be."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value[:MAX_TEXT] if isinstance(value, str) else None
