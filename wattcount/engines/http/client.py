"""An open-loop client of an OpenAI-compatible server, in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

from wattcount.load.generator import Generator, GeneratorOptions
from wattcount.load.plan import LoadPlan
from wattcount.load.request import GenerationRequest
from wattcount.masking import MASK, is_secret_name, masked

COMPLETIONS, CHAT = "completions", "chat"
APIS = (COMPLETIONS, CHAT)


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
    headers: Mapping[str, str] = field(default=MappingProxyType({}), repr=False)
    """Sent with each request."""
    body: Mapping[str, Any] = MappingProxyType({})
    """Further fields of each request's JSON."""
    ca_file: Path | None = None
    """Certificates (PEM) that the server's is checked against; None: those of the system."""
    verify_tls: bool = True
    connect_limit_s: float = 10.0
    """The longest that connecting may take [s]."""

    def api_key(self) -> str | None:
        """The API key out of the environment; None: none is asked for, or the variable is not set."""
        return os.environ.get(self.api_key_variable) if self.api_key_variable is not None else None

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


@dataclass(frozen=True)
class Answer:
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


class HttpClients:
    """The processes that send to one server.

    ::

        construct -- start() -- probe(), generator()*, health() -- stop()

    processes  how many; None: as many as the host's cores suggest
    """

    def __init__(self, endpoint: Endpoint, processes: int | None = None) -> None:
        self.endpoint = endpoint
        self.processes = processes
        self.details: dict[str, Any] = {}
        """What the processes did, kept up to date: for `EngineInfo.details["client"]`."""

    async def start(self) -> None:
        """Starts the processes. Raises `RunFailedError` (`engine_start_failed`)."""
        raise NotImplementedError

    async def probe(self, request: GenerationRequest) -> Answer:
        """Sends one request alone and tells what became of it."""
        raise NotImplementedError

    def generator(self, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> Generator:
        """What sends `plan` through the processes."""
        raise NotImplementedError

    async def health(self) -> str | None:
        """What is wrong with the processes or the server, one line; None: both live."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Ends the processes. May be called at any time and more than once."""
        raise NotImplementedError
