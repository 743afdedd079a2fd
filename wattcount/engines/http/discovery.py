"""What serves at a URL: which processes, on which GPUs, with which version, models and settings.

::

    port --> listening process --> its processes --> NVML's compute processes --> GPU UUIDs     (a server on this machine)
    /v1/models, /version, /metrics, /server_info, /props, command line         --> what it serves, and how

The server is not trusted: texts are bounded and secrets are masked. What cannot be known is None, and `unknown` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from wattcount.config.schema import GpuConfig
from wattcount.engines.http.counters import PATHS, parse, samples
from wattcount.engines.http.fetch import MAX_TEXT, Site, plain
from wattcount.engines.http.processes import Found, arguments_of, processes, use_cuda
from wattcount.masking import masked, masked_command

if TYPE_CHECKING:
    from wattcount.gpu.nvml import NvmlSession
    from wattcount.gpu.remote.client import RemoteNvml

MAX_MODELS = 64
"""Models that are kept [1]: adapters count as models, too."""
MAX_SETTINGS = 64
"""Settings that are kept [1]."""
MAX_ARGUMENTS = 256
"""Arguments of a command line that are kept [1]."""

NAMES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "tensorrt_llm": "TensorRT-LLM",
    "llama_cpp": "llama.cpp",
}
"""What people call the servers that are known."""

COUNTERS_HINT = {
    "sglang": "start it with --enable-metrics",
    "tensorrt_llm": "start it with return_perf_metrics: true among its LLM options",
    "llama_cpp": "start it with --metrics",
}
"""How a server that tells no counters is made to."""

_SGLANG_SETTINGS = (
    "model_path", "tokenizer_path", "dtype", "quantization", "kv_cache_dtype", "context_length", "mem_fraction_static",
    "max_running_requests", "max_total_tokens", "chunked_prefill_size", "max_prefill_tokens", "schedule_policy",
    "tp_size", "pp_size", "dp_size", "ep_size", "attention_backend", "sampling_backend", "disable_radix_cache",
    "disable_cuda_graph", "cuda_graph_max_bs", "enable_torch_compile", "speculative_algorithm", "speculative_num_steps",
    "speculative_num_draft_tokens", "enable_dp_attention", "max_total_num_tokens", "max_req_input_len", "random_seed",
)  # fmt: skip
"""Settings that are taken from SGLang's server_info, which also holds keys."""
_LLAMA_SETTINGS = ("total_slots", "model_path", "model_alias", "build_info", "n_ctx", "is_sleeping")
"""The same of llama.cpp's props."""
_PARALLEL_FLAGS = {
    "tensor_parallel_size": ("--tensor-parallel-size", "-tp", "--tp-size", "--tp"),
    "pipeline_parallel_size": ("--pipeline-parallel-size", "-pp", "--pp-size", "--pp"),
    "data_parallel_size": ("--data-parallel-size", "-dp", "--dp-size", "--dp"),
}
"""Arguments of vLLM and SGLang that spread a model over GPUs, by the name of ours."""
_PARALLEL_OF_SGLANG = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
}
"""The same in SGLang's server_info, by the name of ours."""


@dataclass(frozen=True)
class ServerFacts:
    """One server as found. None, or empty: not known, and `unknown` says why.

    base_url   passwords masked
    local      it runs on this machine
    answers    it answers over HTTP
    engine     `vllm`, `sglang`, `tensorrt_llm`, `llama_cpp`
    pid        the process that listens, or the first of those that do
    pids       all of its processes that can be seen
    command    of `pid`, secrets masked
    parallel   `tensor_parallel_size`, `pipeline_parallel_size`, `data_parallel_size`
    gpu_uuids  NVML's UUIDs of the GPUs it computes on
    computing  of these, UUID to those of `pids` that compute on it
    strangers  of these, UUID to processes that do and are none of its own
    settings   what it tells of itself
    unknown    field to why it is not known
    """

    base_url: str
    local: bool
    answers: bool = False
    engine: str | None = None
    version: str | None = None
    models: tuple[str, ...] = ()
    max_model_len: int | None = None
    vocab_size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pid: int | None = None
    pids: tuple[int, ...] = ()
    command: tuple[str, ...] | None = None
    parallel: Mapping[str, int] = field(default_factory=dict)
    gpu_uuids: tuple[str, ...] = ()
    computing: Mapping[str, Sequence[int]] = field(default_factory=dict)
    strangers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For a record. `pids` are of this start of the machine."""
        return {
            item.name: list(value) if isinstance(value := getattr(self, item.name), tuple) else value
            for item in fields(self)
        }


def discover(
    base_url: str,
    *,
    headers: Mapping[str, str] | None = None,
    tls: Any = None,
    devices: Sequence[str] = (),
    session: NvmlSession | None = None,
    remote: RemoteNvml | None = None,
) -> ServerFacts:
    """What serves at `base_url`. Takes up to some seconds; nothing of it stays open.

    headers  sent with each request, such as the API key
    tls      `ssl.SSLContext`; None: the system's certificates
    devices  `gpu.devices`: the GPUs it computes on, where they are told; these are believed
    session  NVML of the server's machine; None: no GPU is looked for
    remote   where the server's machine is another one: the listener there, which is asked for its processes

    Raises `NotStartedError` for what is no URL, and for `devices` that are not here.
    """
    site = Site(base_url, headers or {}, tls)
    unknown: dict[str, str] = {}
    told = _told(site, unknown)
    found, command = (
        _here(site.base_url, unknown) if remote is None else _there(site.base_url, remote, unknown)
    )
    engine = told.pop("engine", None) or _engine_of(command)
    told["parallel"] = told.pop("parallel", None) or _parallel(engine, command, unknown)
    gpus = _gpus(found, devices, session, unknown)
    return ServerFacts(
        base_url=masked(site.base_url),
        local=found.local,
        engine=engine,
        pid=found.pid,
        pids=tuple(sorted(found.pids)),
        command=command,
        gpu_uuids=gpus.gpu_uuids,
        computing=gpus.computing,
        strangers=gpus.strangers,
        unknown=unknown,
        **told,
    )


# -- its processes


def serving(url: str) -> dict[str, Any]:
    """What a listener tells another machine (`gpu.remote.client`) of the processes that serve at a URL which is used there: `pid`,
    `pids`, `wider`, `command`, `unknown`. Raises ValueError for what is no URL.

    The URL may be that machine's end of a tunnel: then its port is taken for one of this machine's.
    """
    port = urlsplit(url).port
    for candidate in dict.fromkeys((url, f"http://127.0.0.1:{port}")):
        unknown: dict[str, str] = {}
        found, command = _here(candidate, unknown)
        if found.pid is not None:
            break
    return {
        "pid": found.pid,
        "pids": sorted(found.pids),
        "wider": sorted(found.wider),
        "command": command,
        "unknown": unknown,
    }


def _here(url: str, unknown: dict[str, str]) -> tuple[Found, tuple[str, ...] | None]:
    """The processes of this machine that serve at a URL, and their command line."""
    found = processes(url, unknown)
    return found, None if found.pid is None else _command(found.pid, unknown)


def _there(url: str, remote: RemoteNvml, unknown: dict[str, str]) -> tuple[Found, tuple[str, ...] | None]:
    """`_here` of another machine."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    told = remote.serving(f"http://{host}:{port}")
    unknown |= {str(name): f"there: {why}" for name, why in told["unknown"].items()}
    command = told["command"]
    found = Found(False, told["pid"], set(told["pids"]), set(told["wider"]))
    return found, None if command is None else tuple(str(word) for word in command)


# -- what it tells over HTTP


def _told(site: Site, unknown: dict[str, str]) -> dict[str, Any]:
    """Fields of `ServerFacts` that the server itself tells."""
    listed = site.get("/v1/models")
    told: dict[str, Any] = {"answers": listed.status is not None}
    if not told["answers"]:
        for name in ("engine", "version", "models", "max_model_len", "settings"):
            unknown[name] = f"it does not answer: {listed.problem}"
        return told
    if listed.status in (401, 403):
        unknown["models"] = f"it answered {listed.status}: it wants an API key, or another one"
    elif listed.text is None:
        unknown["models"] = f"/v1/models: {listed.problem}"
    cards = _cards(site.json("/v1/models") if listed.text is not None else None)
    told["models"] = tuple(masked(card["id"][:MAX_TEXT]) for card in cards)
    told["max_model_len"] = next((n for card in cards if (n := _count(card.get("max_model_len")))), None)
    told["vocab_size"] = next(
        (n for card in cards if (n := _count(_mapping(card.get("meta")).get("n_vocab")))), None
    )
    told["settings"] = {}
    engine: str | None = next(
        (name for card in cards if (name := _OWNERS.get(str(card.get("owned_by")).lower(), ""))), None
    )
    for path in PATHS:
        text = site.text(path)
        counters = None if text is None else parse(text, 0, 0)
        if text is not None and counters is not None:
            engine = counters.family
            told["settings"] = _infos(text)
            break
    version = _mapping(site.json("/version")).get("version")
    if engine in (None, "sglang"):
        info = _mapping(site.json("/server_info") or site.json("/get_server_info"))
        if "tp_size" in info:
            engine, version = "sglang", info.get("version")
            told["settings"] |= _kept(info, _SGLANG_SETTINGS)
            told["max_model_len"] = told["max_model_len"] or _count(info.get("context_length"))
            told["parallel"] = {
                ours: n for ours, theirs in _PARALLEL_OF_SGLANG.items() if (n := _count(info.get(theirs)))
            }
    if engine in (None, "llama_cpp"):
        props = _mapping(site.json("/props"))
        if "default_generation_settings" in props:
            props = {**props, "n_ctx": _mapping(props["default_generation_settings"]).get("n_ctx")}
            engine, version = "llama_cpp", props.get("build_info") or version
            told["settings"] |= _kept(props, _LLAMA_SETTINGS)
            told["max_model_len"] = told["max_model_len"] or _count(props["n_ctx"])
    told["engine"] = engine
    told["version"] = masked(version[:MAX_TEXT]) if isinstance(version, str) else None
    for name in ("engine", "version", "max_model_len", "settings"):
        if not told[name]:
            unknown.setdefault(name, "the server does not tell")
    return told


_NO_SETTING = frozenset({"engine", "model_name", "engine_type", "pid"})
"""Labels that say whose settings they are."""
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama_cpp", "tensorrt_llm": "tensorrt_llm"}
"""`owned_by` of a model's card, and whose word it is."""


def _cards(listed: Any) -> list[dict[str, Any]]:
    """The models of `/v1/models`."""
    data = _mapping(listed).get("data")
    cards = data[:MAX_MODELS] if isinstance(data, list) else []
    return [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]


def _infos(text: str) -> dict[str, Any]:
    """Settings that are labels of `..._config_info`, by `cache.NAME` and the like."""
    names = {
        "vllm:cache_config_info": "cache",
        "trtllm_model_config_info": "model",
        "trtllm_parallel_config_info": "parallel",
        "trtllm_speculative_config_info": "speculative",
        "trtllm_kv_cache_config_info": "kv_cache",
    }
    found: dict[str, Any] = {}
    for name, labels, _ in samples(text, set(names)):
        for key, value in labels.items():
            if len(found) < MAX_SETTINGS and key not in _NO_SETTING and key[0] != "_" and value != "None":
                found.setdefault(f"{names[name]}.{key}"[:MAX_TEXT], masked(value[:MAX_TEXT]))
    return found


def _kept(told: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of `names` that are told, as single values without secrets."""
    found = {name: plain(told[name]) for name in names if name in told}
    return {
        name: masked(value) if isinstance(value, str) else value
        for name, value in found.items()
        if value is not None
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


# -- what its command line says


def _command(pid: int, unknown: dict[str, str]) -> tuple[str, ...] | None:
    arguments = arguments_of(pid)
    if not any(arguments):
        unknown["command"] = "the command line of its process cannot be read"
        return None
    return tuple(argument[:MAX_TEXT] for argument in masked_command(arguments[:MAX_ARGUMENTS]))


def _engine_of(command: Sequence[str] | None) -> str | None:
    """Which server a command line starts, by the names of its programs and modules."""
    words = [Path(word).name for word in command or ()][:6]
    for name, known in {
        "vllm": ("vllm", "vllm.entrypoints.openai.api_server", "api_server.py"),
        "sglang": ("sglang", "sglang.launch_server"),
        "tensorrt_llm": ("trtllm-serve",),
        "llama_cpp": ("llama-server",),
    }.items():
        if any(word in known for word in words):
            return name
    return None


def _parallel(engine: str | None, command: Sequence[str] | None, unknown: dict[str, str]) -> dict[str, int]:
    """Sizes by the command line. A size that is not named is 1; where a file names settings, nothing is known."""
    if engine not in ("vllm", "sglang") or command is None:
        unknown["parallel"] = "neither the server nor a command line that is understood tells"
        return {}
    if any(word.partition("=")[0] == "--config" for word in command):
        unknown["parallel"] = "the server's settings are in a file (--config)"
        return {}
    found = dict.fromkeys(_PARALLEL_FLAGS, 1)
    for ours, flags in _PARALLEL_FLAGS.items():
        for word, after in zip(command, [*command[1:], ""], strict=True):
            flag, equals, value = word.partition("=")
            if flag.replace("_", "-") in flags:
                size = value if equals else after
                if size.isdigit() and int(size) > 0:
                    found[ours] = int(size)
    return found


# -- which GPUs


@dataclass(frozen=True)
class _Gpus:
    """The GPUs of a server, and which processes compute on them."""

    gpu_uuids: tuple[str, ...] = ()
    computing: Mapping[str, Sequence[int]] = field(default_factory=dict)
    strangers: Mapping[str, Sequence[int]] = field(default_factory=dict)


def _gpus(
    found: Found, devices: Sequence[str], session: NvmlSession | None, unknown: dict[str, str]
) -> _Gpus:
    """The server's GPUs. `found.pids` gains those processes of `found.wider` that they were found by."""
    if session is None:
        if not devices and found.pid is not None:
            unknown["gpu_uuids"] = "NVML was not asked"
        return _Gpus(tuple(devices))
    there: dict[str, set[int]] = {}
    silent = []
    for gpu in session.gpus():
        try:
            there[gpu.uuid] = {pid for pid, _ in session.native.compute_processes(gpu.uuid)}
        except RuntimeError as error:
            silent.append(f"{gpu.uuid} does not tell which processes compute on it ({error})")
    uuids: tuple[str, ...] = ()
    for candidates in (found.pids, found.pids | found.wider):
        uuids = tuple(uuid for uuid, pids in there.items() if pids & candidates)
        if uuids:
            found.pids |= {pid for uuid in uuids for pid in there[uuid]} & candidates
            break
    known = bool(uuids)
    if not known and found.local and len(there) == 1 and use_cuda(found.pids | found.wider):
        # In a container NVML names processes by numbers of the host, or names none. There is one GPU that it can be.
        uuids = tuple(there)
    if devices:
        uuids = tuple(gpu.uuid for gpu in session.select(GpuConfig(devices=list(devices))))
        unknown.pop("gpu_uuids", None)
    elif not uuids and found.pid is not None:
        unknown["gpu_uuids"] = f"{_why_none(there, silent, found.local)}; gpu.devices=[...] names its GPUs"
    if not known:
        return _Gpus(uuids)
    own = {uuid: sorted(there[uuid] & found.pids) for uuid in uuids if uuid in there}
    return _Gpus(uuids, own, {uuid: sorted(there[uuid] - found.pids) for uuid in own})


def _why_none(there: Mapping[str, set[int]], silent: Sequence[str], local: bool) -> str:
    """Why no GPU was found by the server's processes; `local`: they are of this machine."""
    unseen = {pid for pids in there.values() for pid in pids if local and not psutil.pid_exists(pid)}
    if silent:
        return "; ".join(silent)
    if unseen:
        return (
            f"NVML names {len(unseen)} process(es) that cannot be seen from here (a container has process numbers of its "
            "own): start wattcount outside, or with the host's process numbers (docker run --pid=host)"
        )
    return "none of its processes computes on a GPU that NVML shows" if there else "NVML finds no GPU"
