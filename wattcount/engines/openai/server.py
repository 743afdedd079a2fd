"""Which server is at a URL, and whether it can be measured: asked before a run starts.

::

    engine.base_url --> discover --> model, engine.served, gpu.devices     (`discovered`)
                    --> one tiny request --> what it takes and tells       (`agreed`)
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattcount.config import hub
from wattcount.config.catalogue import model_catalogue
from wattcount.config.fit import longest_request_tokens
from wattcount.config.model_shape import text_config
from wattcount.config.schema import APIS, ModelConfig, RunConfig, Weights
from wattcount.engines.http.client import Endpoint, HttpClients
from wattcount.engines.http.discovery import NAMES, ServerFacts, discover
from wattcount.engines.http.fetch import CERTIFICATE_REFUSED, root_url, tls
from wattcount.engines.http.request import Probed
from wattcount.errors import NotStartedError, one_line
from wattcount.load.prompts import tokenizer_source
from wattcount.load.request import GenerationRequest

if TYPE_CHECKING:
    from wattcount.gpu.nvml import NvmlSession

PROBE_TOKENS = 8
"""Tokens of the prompt, and of the answer, of the request before a run [1]: few, for it may be somebody's server."""
COMMON_TOKENS = 10_000
"""Token ids below this one [1] are in the vocabulary of nearly every model: prompts are drawn from them where its size is not known."""
FIRST_TOKEN = 100
"""Ids below this one are control tokens in many vocabularies; the probe uses none."""

WHERE_IT_IS = frozenset(
    {
        "host", "port", "uds", "root-path", "api-key", "served-model-name", "model", "model-path", "tokenizer",
        "tokenizer-path", "download-dir", "log-level", "nccl-port", "dist-init-addr", "alias", "hf-repo", "admin-api-key",
    }
)  # fmt: skip
"""Options of servers' command lines that do not say what is measured."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What an id of the Hugging Face hub looks like. A path or a name that a server was given has another form."""


# -- what is asked for


def problems(cfg: RunConfig) -> Iterator[str]:
    """What of `engine.base_url` and its like could be nowhere, a line each."""
    engine = cfg.engine
    try:
        root_url(str(engine.base_url))
    except NotStartedError as error:
        yield f"engine.base_url: {error}"
    if engine.ca_file is not None and not Path(engine.ca_file).expanduser().is_file():
        yield f"engine.ca_file: no file at {engine.ca_file}"
    if engine.api != APIS[0] and tokenizer_source(cfg.model) is None and cfg.model.name != "auto":
        yield from _needs_text(f"engine.api: {engine.api} takes text only")


def _needs_text(why: str) -> Iterator[str]:
    yield f"{why}, and prompts are made of token ids: name the model's tokenizer (model.tokenizer=FOLDER or a hub id)"


def headers(cfg: RunConfig) -> dict[str, str]:
    """The headers of each request, out of the environment. Raises `NotStartedError`, which shows no value."""
    found = {}
    for name, variable in cfg.engine.headers.items():
        if (value := os.environ.get(variable)) is None:
            raise NotStartedError(f"engine.headers.{name}: names an environment variable that is not set")
        found[name] = value
    key = cfg.engine.api_key_env
    if key is not None and not os.environ.get(key):
        raise NotStartedError("engine.api_key_env: names an environment variable that is not set")
    return found


def all_headers(cfg: RunConfig) -> dict[str, str]:
    """`headers`, and the one with the API key."""
    found = headers(cfg)
    if cfg.engine.api_key_env is not None:
        found["Authorization"] = f"Bearer {os.environ[cfg.engine.api_key_env]}"
    return found


def facts_of(cfg: RunConfig, session: NvmlSession | None) -> ServerFacts:
    """What serves at `engine.base_url`."""
    emulated = session is None or session.evidence == "emulated"
    return discover(
        str(cfg.engine.base_url),
        headers=all_headers(cfg),
        tls=tls(cfg.engine.ca_file),
        devices=() if emulated else cfg.gpu.devices,
        session=None if emulated else session,
        remote=None if session is None else session.remote,
    )


# -- what is there


def discovered(cfg: RunConfig, session: NvmlSession) -> RunConfig:
    """`cfg` with the server's model, GPUs and settings. Raises `NotStartedError` where it cannot be measured, with what to do."""
    facts = facts_of(cfg, session)
    url = cfg.engine.base_url
    if not facts.answers:
        why = next(iter(facts.unknown.values()), "").removeprefix("it does not answer: ")
        if why.startswith(CERTIFICATE_REFUSED):
            raise NotStartedError(f"engine.ca_file: the server at {url} is not believed: {why}")
        raise NotStartedError(f"engine.base_url: no server at {url} ({why}); start it, or mend the URL")
    if not facts.models:
        raise NotStartedError(f"engine.base_url: {_no_models(cfg, facts)}")
    name = served_name(cfg, facts.models)
    model = served_model(cfg.model, name, facts)
    engine = dataclasses.replace(
        cfg.engine, served=served(facts), version_minor=_minor(facts.version), served_model=name
    )
    gpu = cfg.gpu
    if session.evidence != "emulated":
        if not facts.gpu_uuids:
            raise NotStartedError(
                f"gpu.devices: which GPUs the server at {url} computes on is not known: "
                f"{facts.unknown.get('gpu_uuids', 'it does not tell')}"
            )
        gpu = dataclasses.replace(gpu, devices=list(facts.gpu_uuids), count=len(facts.gpu_uuids))
    found = dataclasses.replace(cfg, model=model, engine=engine, gpu=gpu)
    longest = longest_request_tokens(cfg.scenario)
    if facts.max_model_len is not None and longest > facts.max_model_len:
        raise NotStartedError(
            f"scenario.lengths: requests of up to {longest} tokens are asked for, and the server takes {facts.max_model_len}; "
            "ask for less"
        )
    check(found)
    return found


def _no_models(cfg: RunConfig, facts: ServerFacts) -> str:
    why = facts.unknown.get("models", "")
    url = cfg.engine.base_url
    if "API key" in why:
        if cfg.engine.api_key_env is None:
            return f"the server at {url} wants an API key: put it into an environment variable and set engine.api_key_env=NAME"
        return f"the server at {url} does not take the API key in ${cfg.engine.api_key_env}"
    return f"what answers at {url} is no OpenAI-compatible server: it lists no model at /v1/models ({why or 'none at all'})"


def served_name(cfg: RunConfig, models: Sequence[str]) -> str:
    """The name of the model to measure, of those that the server has."""
    has = f"the server has {', '.join(models)}"
    if cfg.engine.served_model is not None:
        if cfg.engine.served_model not in models:
            raise NotStartedError(f"engine.served_model: {cfg.engine.served_model} is not served; {has}")
        return cfg.engine.served_model
    model = cfg.model
    if model.name != "auto":
        known = {name.lower() for name in (model.hf_id, model.path, model.name) if name is not None}
        for name in models:
            if name.lower() in known:
                return name
        raise NotStartedError(
            f"model: {model.name} is not served under that name; {has}: set model=auto, or engine.served_model=NAME where "
            "it goes by another name"
        )
    if len(models) > 1:
        raise NotStartedError(f"engine.served_model: {has}; say which one to measure")
    return models[0]


def served_model(asked: ModelConfig, name: str, facts: ServerFacts) -> ModelConfig:
    """The model that is served as `name`: of the catalogue, of a folder that can be read, or by its name alone."""
    options = _options(facts.command)
    root = str(options.get("model") or options.get("model-path") or name)
    weights = _weights(root, options)
    folder = Path(root) if Path(root).is_absolute() else None
    if asked.name != "auto":
        return dataclasses.replace(asked, weights=weights if weights is not Weights.path else Weights.served)
    for option in model_catalogue().values():
        if option.hf_id is not None and option.hf_id.lower() == root.lower():
            return dataclasses.replace(option, weights=weights, tokenizer=asked.tokenizer or option.tokenizer)
    hub_id = root if folder is None and _HUB_ID.fullmatch(root) else None
    has_weights = folder is not None and weights is Weights.path and any(folder.glob("*.safetensors"))
    return dataclasses.replace(
        asked,
        name=name,
        hf_id=hub_id,
        path=str(folder) if has_weights else None,
        hf_config=hub.config_json(folder) if folder is not None else {},
        weights=weights if weights is not Weights.path or has_weights else Weights.served,
        tokenizer=asked.tokenizer or _tokenizer(folder),
    )


def _weights(root: str, options: Mapping[str, Any]) -> Weights:
    """Whose weights they are, by what the server was started with; `served` where that cannot be known."""
    if not options:
        return Weights.served
    if options.get("load-format") == "dummy":
        return Weights.random
    if Path(root).is_absolute():
        return Weights.path
    return Weights.hub if _HUB_ID.fullmatch(root) else Weights.served


def _tokenizer(folder: Path | None) -> str | None:
    return str(folder) if folder is not None and (folder / "tokenizer.json").is_file() else None


def served(facts: ServerFacts) -> dict[str, Any]:
    """What makes a server's point another one: its kind, its version, and the options that it was started with."""
    options = {name: value for name, value in _options(facts.command).items() if name not in WHERE_IT_IS}
    found = {
        "server": facts.engine,
        "version": facts.version,
        "max_model_len": facts.max_model_len,
        "vocab_size": facts.vocab_size,
        "parallel": dict(facts.parallel) or None,
        "options": dict(sorted(options.items())) if facts.command is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _options(command: Sequence[str] | None) -> dict[str, str | bool]:
    """Options of a command line, `--NAME VALUE` or `--NAME=VALUE`, by name with dashes; the model that `vllm serve` is given."""
    found: dict[str, str | bool] = {}
    words = list(command or ())
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        if not word.startswith("--"):
            if word == "serve" and after and not after.startswith("-"):
                found["model"] = after
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        found[name.replace("_", "-")] = (
            value if equals else after if after and not after.startswith("-") else True
        )
    return found


def _minor(version: str | None) -> str | None:
    match = re.match(r"v?(\d+\.\d+)", version or "")
    return match[1] if match else None


# -- whether it can be measured


def endpoint(cfg: RunConfig) -> Endpoint:
    """Where and how requests are sent, before it is known what the server takes."""
    return Endpoint(
        base_url=root_url(str(cfg.engine.base_url)),
        model=str(cfg.engine.served_model),
        api=cfg.engine.api,
        token_ids=cfg.engine.api == APIS[0],
        tokenizer=tokenizer_source(cfg.model),
        tokenizer_revision=cfg.model.revision,
        api_key_variable=cfg.engine.api_key_env,
        headers=headers(cfg),
        ca_file=None if cfg.engine.ca_file is None else Path(cfg.engine.ca_file).expanduser(),
        ignore_eos=cfg.scenario.lengths.force_output,
    )


def vocab_size(cfg: RunConfig) -> int | None:
    """Token ids of the model, as the server tells or by its config.json; None: not known."""
    size = cfg.engine.served.get("vocab_size") or text_config(cfg.model.hf_config).get("vocab_size")
    return size if isinstance(size, int) and size > 0 else None


def check(cfg: RunConfig) -> None:
    """Raises `NotStartedError` where the server does not answer a tiny request as a measurement needs it."""
    asyncio.run(agreed(cfg))


async def agreed(cfg: RunConfig) -> Endpoint:
    """How requests are sent to the server, of what it takes. Raises like `check`."""
    wanted = endpoint(cfg)
    answer = await _ask(wanted, cfg)
    if wanted.token_ids and answer.status in (400, 422) and wanted.tokenizer is not None:
        as_text = dataclasses.replace(wanted, token_ids=False)
        told = await _ask(as_text, cfg)
        if told.error is None:
            wanted, answer = as_text, told
    for problem in _wrong(wanted, cfg, answer):
        raise NotStartedError(problem)
    return dataclasses.replace(wanted, continuous_usage=answer.continuous_usage)


async def _ask(wanted: Endpoint, cfg: RunConfig) -> Probed:
    ids = [FIRST_TOKEN + index for index in range(PROBE_TOKENS)]
    request = GenerationRequest("probe", ids, PROBE_TOKENS, wanted.ignore_eos, cfg.scenario.sampling)
    clients = HttpClients(wanted, 1)
    try:
        return await clients.probe(request)
    finally:
        await clients.stop()


def _wrong(wanted: Endpoint, cfg: RunConfig, answer: Probed) -> Iterator[str]:
    """What is wrong with the answer to a tiny request, with what to do; nothing where it is as asked."""
    url, said = cfg.engine.base_url, one_line(answer.error or "", 300)
    page = f"/v1/{'chat/' if wanted.api == APIS[1] else ''}completions"
    if answer.status is None:
        yield f"engine.base_url: the server at {url} does not answer requests ({said})"
    elif answer.status in (401, 403):
        yield f"engine.api_key_env: the server at {url} answered {answer.status}: it wants an API key, or another one"
    elif answer.status == 404:
        yield f"engine.api: the server at {url} has no {page}, or no model {wanted.model} ({said})"
    elif answer.status in (400, 422) and wanted.token_ids:
        yield from _needs_text(f"engine.base_url: the server at {url} takes no token ids ({said})")
    elif answer.status != 200:
        yield f"engine.base_url: the server at {url} answered {answer.status} to a request of {PROBE_TOKENS} tokens ({said})"
    elif not answer.streamed:
        yield f"engine.base_url: the server at {url} does not stream its answers, so that no token can be timed"
    elif answer.output_tokens is None:
        yield (
            f"engine.base_url: the server at {url} tells no `usage` of a streamed answer (stream_options.include_usage), so that "
            "its tokens cannot be counted"
        )
    elif answer.output_tokens > PROBE_TOKENS:
        yield f"engine.base_url: the server at {url} ignores max_tokens: it made {answer.output_tokens} tokens of {PROBE_TOKENS}"
    elif wanted.ignore_eos and answer.output_tokens < PROBE_TOKENS and answer.finish_reason is not None:
        yield (
            f"scenario.lengths.force_output: the server at {url} ignores ignore_eos: it made {answer.output_tokens} of "
            f"{PROBE_TOKENS} tokens; set scenario.lengths.force_output=false"
        )
    elif wanted.token_ids and answer.prompt_tokens not in (None, PROBE_TOKENS):
        yield from _needs_text(
            f"engine.base_url: the server at {url} read {answer.prompt_tokens} tokens in a prompt of {PROBE_TOKENS} token ids"
        )
    elif answer.error is not None:
        yield f"engine.base_url: the server at {url} failed a request of {PROBE_TOKENS} tokens: {said}"


def title(facts: ServerFacts) -> str:
    """The server as people call it, with its version."""
    name = NAMES.get(facts.engine or "", "a server of unknown kind")
    return f"{name} {facts.version}" if facts.version is not None else name
