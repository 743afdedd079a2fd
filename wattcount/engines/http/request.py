"""What requests to an OpenAI-compatible server look like, and one that is sent alone."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wattcount.config.schema import SamplingConfig
from wattcount.engines.http.fetch import error_text, tls
from wattcount.engines.http.sse import BadAnswerError, Reply
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.prompts import loaded_tokenizer
from wattcount.load.request import GenerationRequest
from wattcount.masking import masked

if TYPE_CHECKING:
    from wattcount.engines.http.client import Endpoint

ROUNDS = 3
"""So often a text is cut or lengthened until it has as many tokens as asked for: what is cut out of a text is cut into tokens anew."""
RECEIVE_BYTES = 65536
"""Most that is read at once [bytes]."""


@dataclass(frozen=True)
class Probed:
    """What a server made of one request, sent alone before a run."""

    status: int | None
    """Of HTTP; None: no answer came."""
    error: str | None
    """What was wrong, one line, without secrets; None: the request completed as asked."""
    streamed: bool
    """It answered with a stream of events."""
    prompt_tokens: int | None
    output_tokens: int | None
    """As `usage` tells; None: it does not."""
    continuous_usage: bool
    """Every chunk told `usage`."""
    finish_reason: str | None
    seconds: float


class Server:
    """The host that an endpoint names, and how it is connected to."""

    def __init__(self, endpoint: Endpoint) -> None:
        where = urlsplit(endpoint.base_url)
        self._shown = masked(endpoint.base_url)
        self._limit_s = endpoint.connect_limit_s
        self.host = where.hostname or ""
        self.tls: ssl.SSLContext | None = None
        if where.scheme == "https":
            self.tls = tls(endpoint.ca_file)
            if not endpoint.verify_tls:
                self.tls.check_hostname = False
                self.tls.verify_mode = ssl.CERT_NONE
        self.port = where.port or (443 if self.tls is not None else 80)

    def connected(self) -> socket.socket:
        """A new connection. Raises `RunFailedError` (`no_server`)."""
        try:
            sock = socket.create_connection((self.host, self.port), self._limit_s)
            return sock if self.tls is None else self.tls.wrap_socket(sock, server_hostname=self.host)
        except OSError as error:
            raise RunFailedError(
                "no_server", f"cannot connect to {self._shown}: {error_text(error)}"
            ) from None


class Requests:
    """The bytes of requests to one endpoint. Raises `NotStartedError` where prompts need a tokenizer that is not there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.tokenizer = (
            loaded_tokenizer(endpoint.tokenizer, endpoint.tokenizer_revision) if endpoint.tokenizer else None
        )
        self._as_ids = endpoint.token_ids and not endpoint.chat
        if self.tokenizer is None and not self._as_ids:
            raise NotStartedError("prompts as text need the model's tokenizer: set model.tokenizer")
        where = urlsplit(endpoint.base_url)
        path = where.path.rstrip("/")
        path += "" if path.endswith("/v1") else "/v1"
        path += "/chat/completions" if endpoint.chat else "/completions"
        headers = {
            "Host": where.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": "wattcount",
        }
        if (key := endpoint.api_key()) is not None:
            headers["Authorization"] = f"Bearer {key}"
        headers |= endpoint.headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST {path} HTTP/1.1\r\n{lines}Content-Length: ".encode()

    def render(self, ids: Sequence[int], most: int, forced: bool, sampling: SamplingConfig) -> bytes:
        """One request: the prompt's token ids, for at most, or if `forced` exactly, `most` output tokens."""
        endpoint = self._endpoint
        body: dict[str, Any] = {
            "model": endpoint.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if endpoint.continuous_usage:
            body["stream_options"]["continuous_usage_stats"] = True
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        # Not of OpenAI's protocol: a server that does not know them may refuse them.
        if endpoint.ignore_eos or sampling.top_k:
            body["top_k"] = sampling.top_k
        if endpoint.ignore_eos or sampling.min_p:
            body["min_p"] = sampling.min_p
        if forced and endpoint.ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": most}
        body |= endpoint.body
        if self._as_ids:
            body["prompt"] = list(ids)
        elif endpoint.chat:
            body["messages"] = [{"role": "user", "content": self._text(list(ids))}]
        else:
            body["prompt"] = self._text(list(ids))
        data = json.dumps(body, separators=(",", ":")).encode()
        return self._head + f"{len(data)}\r\n\r\n".encode() + data

    def _text(self, ids: list[int]) -> str:
        """A text of as many tokens as `ids`, as far as the tokenizer lets it be."""
        assert self.tokenizer is not None
        found = ids
        for _ in range(ROUNDS):
            text: str = self.tokenizer.decode(found)
            found = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(found) == len(ids):
                return text
            found = found[: len(ids)] + ids[: max(0, len(ids) - len(found))]
        return str(self.tokenizer.decode(found))


def probe(endpoint: Endpoint, request: GenerationRequest, limit_s: float = 60.0) -> Probed:
    """Sends one request alone, blocking for at most `limit_s`, and tells what became of it.

    Raises `RunFailedError` (`no_server`) where nothing answers, `NotStartedError` where prompts need a tokenizer that is not there.
    """
    data = Requests(endpoint).render(
        request.prompt_token_ids, request.max_output_tokens, request.force_output_length, request.sampling
    )
    reply = Reply()
    begun_ns = time.monotonic_ns()
    error: str | None = None
    with Server(endpoint).connected() as sock:
        try:
            sock.settimeout(limit_s)
            sock.sendall(data)
            while not reply.complete:
                got = sock.recv(RECEIVE_BYTES)
                if not got:
                    reply.closed()
                    break
                if time.monotonic_ns() - begun_ns > limit_s * 1e9:
                    raise TimeoutError
                reply.take(time.monotonic_ns(), got)
        except TimeoutError:
            error = f"the request was not done after {limit_s:g} s"
        except OSError as broken:
            error = f"the connection broke: {error_text(broken)}"
        except BadAnswerError as bad:
            error = str(bad)
    reply.finish()
    if error is None:
        error = reply.error(request.max_output_tokens, exact=request.force_output_length)
    return Probed(
        status=reply.status,
        error=None if error is None else endpoint.clean(error),
        streamed=reply.streamed,
        prompt_tokens=reply.prompt_tokens,
        output_tokens=reply.usage_tokens,
        continuous_usage=reply.each_event,
        finish_reason=reply.finish_reason,
        seconds=(time.monotonic_ns() - begun_ns) / 1e9,
    )
