"""What two runs share: the one home of `point_id`, `setting_key` and `planned_point`.

point_id       the point: what is measured. In it are the fields marked as identity: model and weights, the GPU as found,
               scenario, engine and its settings, the engine's minor version, evidence. Out of it: seed, repeat, paths,
               power plan, tracking, display. Fields equal to their default are left out, so a new option changes no old hash.
setting_key    what two runs must share to be pooled, on whatever board, host or day: the point without LENGTHS.
planned_point  the point as far as it is known before any machine has looked at it.

`levers` are what an operator turned, in words; `particulars` what else of a run is not as usual.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Hashable, Iterable, Mapping
from enum import Enum
from typing import Any, cast

from wattcount.config.fields import ALWAYS, IDENTITY, LEFT_OUT, Node
from wattcount.config.schema import (
    ArrivalConfig,
    ArrivalKind,
    ConcurrencyConfig,
    Device,
    EngineConfig,
    GpuConfig,
    LengthConfig,
    LengthKind,
    ModelConfig,
    RunConfig,
    ScenarioKind,
    ServerConfig,
    Weights,
)
from wattcount.engines import registry
from wattcount.errors import NotStartedError

LENGTHS = (
    "scenario.bare_idle_s", "scenario.loaded_idle_s", "scenario.warmup_s", "scenario.warmup_limit_s", "scenario.window_s",
)  # fmt: skip
"""Identity fields of a scenario that are no part of a setting: how long its phases last [s]. They decide how sure a figure
is, not what it is."""
FOUND_BY_THE_MACHINE = (
    "found_name", "evidence", "device", "version_minor", "path_fingerprint", "fingerprint", "served",
)  # fmt: skip
"""Identity fields that the machine which measures fills in: no plan knows them."""
PLANNED = ("model", "gpu", "scenario", "engine")
"""Groups of a configuration that `planned_point` is made of."""
USUAL_TOKENS = {
    ScenarioKind.batch: (512, 256),
    ScenarioKind.server: (512, 128),
    ScenarioKind.concurrency: (512, 128),
    ScenarioKind.capacity: (512, 128),
}
"""Input and output tokens of the scenarios `batch`, `server`, `concurrency` and `capacity`, by kind. A name says others only: most runs have these."""
USUAL_WINDOW_S = ServerConfig().window_s
"""Length of a server's window where nobody sets one [s]. A name says others only."""


def point_id(cfg: RunConfig) -> str:
    """SHA-256 of `canonical_json(cfg)`, 64 hexadecimal digits.

    Raises `NotStartedError` where `cfg` is not resolved: `model=auto`, `engine.device=auto`, a GPU whose
    name is not known yet, or a key that is still to be given.
    """
    return hashlib.sha256(canonical_json(cfg).encode()).hexdigest()


def setting(cfg: RunConfig) -> dict[str, Any]:
    """What two runs must share to be pooled: the identity fields without LENGTHS. Raises like `point_id`."""
    _refuse_unresolved(cfg)
    return _without(identity_fields(cfg), LENGTHS)


def setting_key(cfg: RunConfig) -> str:
    """`key_of` the setting. Raises like `point_id`."""
    return key_of(setting(cfg))


def key_of(setting: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """SHA-256 of a setting's canonical JSON, 64 hexadecimal digits.

    without   dotted keys to leave out: without `gpu.found_name` a setting has one key on all GPU models
    """
    return hashlib.sha256(_canonical(_without(setting, without)).encode()).hexdigest()


def _without(fields: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """`fields` without some dotted keys, and without groups that are empty then."""
    found = dict(fields)
    for key in keys:
        name, _, rest = key.partition(".")
        if name in found and rest and (inner := _without(found[name], [rest])):
            found[name] = inner
        else:
            found.pop(name, None)
    return found


def planned_point(cfg: RunConfig) -> str:
    """SHA-256 of `planned_node` of each group in PLANNED, 64 hexadecimal digits.

    It is made of a configuration that is still to be resolved and of a record's alike.
    """
    return joined_nodes(planned_node(getattr(cfg, name)) for name in PLANNED)


def planned_key(point: str, seed: int, repeat: int) -> str:
    """12 hexadecimal digits of a planned point with its seed and repeat."""
    return hashlib.sha256(f"{point} {seed} {repeat}".encode()).hexdigest()[:12]


def joined_nodes(nodes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(nodes).encode()).hexdigest()


@functools.lru_cache(maxsize=65536)
def planned_node(node: Node) -> str:
    """The canonical JSON of one group, without FOUND_BY_THE_MACHINE: the GPU option's name, a server's URL and the names of
    files, without their folders, stand for what a machine finds there."""
    fields = differing(node, FOUND_BY_THE_MACHINE)
    if isinstance(node, ModelConfig):
        if node.weights is not Weights.random:
            fields.pop("hf_config", None)
        if node.weights is Weights.path:
            fields["path"] = _file_name(node.path)
    elif isinstance(node, GpuConfig):
        fields["name"] = node.name
    elif isinstance(node, EngineConfig) and node.base_url is not None:
        fields["base_url"] = node.base_url
    for name in ("arrivals", "lengths"):
        inner = getattr(node, name, None)
        if inner is not None and inner.path is not None:
            fields[name] = {**fields.get(name, {}), "path": _file_name(inner.path)}
    return _canonical(fields)


def _file_name(path: str | None) -> str | None:
    return None if path is None else path.rstrip("/").rpartition("/")[2]


def canonical_json(cfg: RunConfig) -> str:
    """The identity as JSON: keys sorted, no spaces, numbers as Python writes them, text in ASCII."""
    _refuse_unresolved(cfg)
    return _canonical(identity_fields(cfg))


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def identity_fields(cfg: RunConfig) -> dict[str, Any]:
    """The identity fields that differ from their defaults, nested as in the configuration."""
    fields = differing(cfg)
    if cfg.model.weights is not Weights.random:
        # Real weights bring their own config.json; what conf/ says of it is only for the fit arithmetic.
        fields.get("model", {}).pop("hf_config", None)
    return fields


def differing(node: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The identity fields of a dataclass that differ from their defaults; `without` names fields to leave out."""
    found: dict[str, Any] = {}
    for name, left_out in _identifying(cast(Hashable, type(node))):
        if name in without:
            continue
        value = getattr(node, name)
        if dataclasses.is_dataclass(value):
            nested = differing(value, without)
            if nested:
                found[name] = nested
        elif value not in left_out:
            found[name] = plain_value(value)
    return found


@functools.cache
def _identifying(cls: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """Names of a dataclass's identity fields, with the values of each that are left out."""
    return [
        (item.name, () if item.metadata.get(ALWAYS) else (item.default, *item.metadata.get(LEFT_OUT, ())))
        for item in dataclasses.fields(cls)
        if item.metadata.get(IDENTITY)
    ]


def plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 500000.0 and 500000 are one value, whoever wrote it
    if isinstance(value, dict):
        return {str(key): plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(entry) for entry in value]
    return value


def _refuse_unresolved(cfg: RunConfig) -> None:
    unresolved = []
    if cfg.model.name in ("auto", "???"):
        unresolved.append(f"model.name={cfg.model.name}")
    if cfg.gpu.found_name is None:
        unresolved.append("gpu.found_name=null")
    if cfg.engine.device is Device.auto:
        unresolved.append("engine.device=auto")
    if cfg.evidence is None:
        unresolved.append("evidence=null")
    if cfg.model.weights is Weights.path and cfg.model.path_fingerprint is None:
        unresolved.append("model.path_fingerprint=null")
    if unresolved:
        raise NotStartedError(
            f"the point has no identity yet: {', '.join(unresolved)}; preflight fills these in"
        )


def levers(cfg: RunConfig) -> list[str]:
    """`["fp8", "eager", "TP 2"]` of a configuration, in a fixed order; empty where nothing was turned.

    What was left to the engine (`engine.unset`) was not turned, whatever it chose.
    """
    model, engine, gpu, sampling = cfg.model, cfg.engine, cfg.gpu, cfg.scenario.sampling
    found: list[str] = []

    def add(value: object, words: str, usual: object = None) -> None:
        if (plain := plain_value(value)) not in (None, usual):
            found.append(words.format(plain))

    def asked(name: str) -> object:
        return None if name in engine.unset else getattr(engine, name)

    add(model.quantization, "{}")
    add(model.dtype, "{}", "bfloat16")
    add(model.initializer, "{} weights", "dummy")
    add(engine.enforce_eager or None, "eager")
    add(engine.kv_cache_dtype, "{} KV cache", "auto")
    for size, short in (
        (engine.tensor_parallel_size, "TP"),
        (engine.pipeline_parallel_size, "PP"),
        (engine.data_parallel_size, "DP"),
    ):
        add(size, f"{short} {{}}", 1)
    add(asked("max_num_seqs"), "{} at once")
    add(asked("max_num_batched_tokens"), "{} tokens a step")
    for name, words in (
        ("enable_prefix_caching", "prefix caching"),
        ("enable_chunked_prefill", "chunked prefill"),
    ):
        if (turned := asked(name)) is not None:
            found.append(words if turned else f"no {words}")
    add(engine.speculative.method, "{} speculation")
    add(engine.pinned_cpus, "{} CPUs")
    add(engine.nice, "nice {}")
    for value, words, usual in (
        (sampling.temperature, "temperature {:g}", 1),
        (sampling.top_p, "top-p {:g}", 1),
        (sampling.top_k, "top-k {}", 0),
        (sampling.min_p, "min-p {:g}", 0),
        (sampling.seed, "sampling seed {}", None),
    ):
        add(value, words, usual)
    found += [f"{key}={value}" for key, value in sorted(engine.args.items())]
    add(gpu.sm_clock_mhz, "{} MHz")
    add(gpu.power_limit_w, "{:g} W")
    return found


def particulars(cfg: RunConfig) -> list[str]:
    """`["vllm_serve", "512 in, 64 out", "constant arrivals"]`: engine, lengths, arrivals, limit of requests in flight, users.

    In a fixed order, each only where it is not the usual one; empty where all are.
    """
    scenario = cfg.scenario
    found = [cfg.engine.name] * (cfg.engine.name != registry.DEFAULT)
    found += _lengths_in_words(scenario.lengths, USUAL_TOKENS[scenario.kind])
    if isinstance(scenario, ServerConfig):
        found += _arrivals_in_words(scenario.arrivals)
        if scenario.max_in_flight is not None:
            found.append(f"at most {scenario.max_in_flight} in flight")
    if isinstance(scenario, ConcurrencyConfig):
        found.append(f"{scenario.concurrency} {'user' if scenario.concurrency == 1 else 'users'}")
    return found


def window_in_words(kind: str | None, window_s: float | None) -> list[str]:
    """`["window 300 s"]` of a server or a closed loop; empty for the usual length, and for a batch, which lasts as long as it takes.

    Not in `particulars`: runs that differ in it alone are of one setting.
    """
    if kind not in (ScenarioKind.server.value, ScenarioKind.concurrency.value) or window_s is None:
        return []
    text, usual = f"{window_s:.3g}", f"{USUAL_WINDOW_S:.3g}"
    return [] if text == usual else [f"window {text} s"]


def _lengths_in_words(lengths: LengthConfig, usual: tuple[int, int]) -> list[str]:
    if lengths.kind is LengthKind.conversations:
        words = f"conversations of {_file_name(lengths.path)}"
    elif lengths.kind is LengthKind.prompts:
        words = f"prompts of {_file_name(lengths.path)}"
    elif lengths.kind is LengthKind.trace:
        words = f"lengths of {_file_name(lengths.path)}"
    else:
        up_to = "" if lengths.force_output else "up to "
        words = f"{lengths.input_tokens} in, {up_to}{lengths.output_tokens} out"
        if lengths.kind is not LengthKind.fixed:
            return [f"{words} ({lengths.kind.value})"]
    return [] if words == "{} in, {} out".format(*usual) else [words]


def _arrivals_in_words(arrivals: ArrivalConfig) -> list[str]:
    if arrivals.kind is ArrivalKind.trace:
        return [f"arrivals of {_file_name(arrivals.path)}"]
    if arrivals.kind is ArrivalKind.gamma:
        return [f"gamma arrivals, cv {arrivals.cv:g}"]
    return [] if arrivals.kind is ArrivalKind.poisson else [f"{arrivals.kind.value} arrivals"]
