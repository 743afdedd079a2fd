"""Whether a configuration makes sense: the rules that concern several keys. Hardware is looked at later (preflight).

The tags that a user may give runs in MLflow are such a rule: none that wattcount or MLflow sets itself, and only keys that MLflow
takes. What only one engine minds, its plug-in says (`EnginePlugin.problems`).
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wattcount.config import cohorts
from wattcount.config.fields import Node
from wattcount.config.fit import context_problems, max_model_len
from wattcount.config.loader import field_problems, kinds
from wattcount.config.model_shape import text_config
from wattcount.config.schema import (
    MAX_REQUESTS,
    ArrivalKind,
    CapacityConfig,
    ConcurrencyConfig,
    Device,
    Initializer,
    LengthKind,
    PowerBackend,
    RunConfig,
    ServerConfig,
    SpeculativeMethod,
    Weights,
)
from wattcount.engines import registry
from wattcount.errors import NotStartedError, one_line
from wattcount.masking import MASK, has_secret, is_secret_name


def validate(cfg: RunConfig) -> None:
    """Raises `NotStartedError` with one line: the first key whose value makes no sense, and what would."""
    for problem in problems(cfg):
        raise NotStartedError(problem)


def problems(cfg: RunConfig) -> Iterator[str]:
    """Every problem, one line each: of single values, and if there is none, of what does not go together."""
    broken = field_problems(cfg)
    yield from broken
    if broken:
        return
    try:
        registry.plugin(cfg.engine.name)
    except NotStartedError as error:
        yield str(error)
        return  # the checks below ask it
    yield from _model(cfg)
    yield from _gpu(cfg)
    yield from _lengths(cfg)
    if isinstance(cfg.scenario, ServerConfig):
        yield from _server(cfg.scenario)
    if isinstance(cfg.scenario, CapacityConfig):
        yield from _capacity(cfg.scenario)
    if isinstance(cfg.scenario, ConcurrencyConfig):
        yield from _concurrency(cfg.scenario)
    yield from _engine(cfg)
    yield from _run(cfg)


def _secrets(node: Any, where: str) -> Iterator[str]:
    """Passwords and tokens: every record keeps the whole configuration."""
    if isinstance(node, Node):
        for name in kinds(type(node)):
            yield from _secrets(getattr(node, name), f"{where}.{name}")
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _secrets(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _secrets(value, f"{where}[{number}]")
    elif isinstance(node, str) and node:
        named_so = is_secret_name(where.rpartition(".")[2])
        if named_so or MASK in node or has_secret(node):
            yield (
                f"{where}: holds a password or a token, which every record would keep: set it in the environment "
                "(HF_TOKEN for the Hugging Face hub), or in the settings of whoever serves the file"
            )


def _file(key: str, path: str | None, what: str) -> Iterator[str]:
    if path is None:
        yield f"{key}: must be given: the path of a {what}"
        return
    file = Path(path).expanduser()
    if not file.is_file():
        yield f"{key}: no {what} at {file}" + (" (that is a folder)" if file.is_dir() else "")
        return
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        yield f"{key}: cannot read {file}: {error.strerror}"
        return
    if empty:
        yield f"{key}: {file} is empty"


def _model(cfg: RunConfig) -> Iterator[str]:
    model, able = cfg.model, registry.plugin(cfg.engine.name).capabilities
    if model.initializer is not Initializer.dummy:
        if model.weights is not Weights.random:
            yield (
                f"model.initializer: {model.initializer.value} draws random weights, but model.weights="
                f"{model.weights.value}; set model.weights=random"
            )
        elif model.initializer not in able.initializers:
            yield f"model.initializer: engine={cfg.engine.name} cannot draw {model.initializer.value} weights"
    if model.path is not None:
        folder = Path(model.path).expanduser()
        if not folder.is_dir():
            yield (
                f"model.path: no folder at {folder}; give the folder that holds the model's config.json, "
                "or model.hf_id for one from the hub"
            )
        elif not (folder / "config.json").is_file():
            yield f"model.path: {folder} has no config.json; give the folder of a Hugging Face model"
    if model.name == "auto":
        return
    if model.weights is Weights.path and model.path is None:
        yield "model.path: must be given with model.weights=path: the folder with config.json and weights"
    if model.weights is Weights.hub:
        if model.path is not None:
            yield (
                "model.weights: is hub although model.path is given; set model.weights=path for the weights "
                "there, or model.weights=random for their shape alone"
            )
        elif model.hf_id is None:
            yield (
                f"model.hf_id: model {model.name} needs one for model.weights=hub; or give model.path=FOLDER "
                "with model.weights=path or random"
            )
    if model.weights is Weights.served and able.owns_process:
        yield (
            f"model.weights: served is for a server that runs already; engine={cfg.engine.name} is started by wattcount: set "
            "hub, path or random"
        )
    if (
        model.weights is Weights.random
        and not model.hf_config
        and model.path is None
        and model.hf_id is None
        and able.computes_model
    ):
        yield (
            "model.weights: random needs the model's config.json: give model.path=FOLDER that holds one, "
            "model.hf_id, or model.hf_config"
        )
    heads = model.hf_config.get("num_attention_heads")
    size = cfg.engine.tensor_parallel_size
    if isinstance(heads, int) and heads % size:
        yield (
            f"engine.tensor_parallel_size: {size} does not divide the {heads} attention heads of {model.name}"
        )


def _gpu(cfg: RunConfig) -> Iterator[str]:
    gpu = cfg.gpu
    if gpu.devices and len(gpu.devices) != gpu.count:
        yield (
            f"gpu.devices: names {len(gpu.devices)} GPUs but gpu.count is {gpu.count}; "
            f"set gpu.count={len(gpu.devices)}"
        )
    if len(set(gpu.devices)) != len(gpu.devices):
        yield f"gpu.devices: names a GPU twice: {', '.join(gpu.devices)}"
    if cfg.power.remote is not None:
        yield from _remote(cfg)


def _remote(cfg: RunConfig) -> Iterator[str]:
    """What does not go with GPUs of another machine."""
    if cfg.power.backend is PowerBackend.emulated:
        yield "power.remote: the listener there says whether its GPUs are emulated; leave out power.backend=emulated"
    for key in ("sm_clock_mhz", "power_limit_w"):
        if getattr(cfg.gpu, key) is not None:
            yield (
                f"gpu.{key}: is not set on another machine (power.remote); set it there with nvidia-smi, and leave it out here"
            )
    if cfg.engine.device is Device.cuda and registry.plugin(cfg.engine.name).capabilities.owns_process:
        yield (
            f"power.remote: engine={cfg.engine.name} computes on the GPUs of this machine; measure a server over there with "
            "engine=openai engine.base_url=http://HOST:PORT"
        )


def _lengths(cfg: RunConfig) -> Iterator[str]:
    lengths = cfg.scenario.lengths
    where = "scenario.lengths"
    for side in ("input", "output"):
        mean = getattr(lengths, f"{side}_tokens")
        low = getattr(lengths, f"{side}_tokens_min")
        high = getattr(lengths, f"{side}_tokens_max")
        if low > high:
            yield f"{where}.{side}_tokens_min: {low} is above {side}_tokens_max, {high}"
        if lengths.kind is LengthKind.lognormal and low <= high and not low <= mean <= high:
            yield (
                f"{where}.{side}_tokens: the mean, {mean}, lies outside "
                f"{side}_tokens_min..{side}_tokens_max, {low}..{high}"
            )
    if lengths.kind is LengthKind.prompts:
        yield from _file(f"{where}.path", lengths.path, "prompt file")
    if lengths.kind is LengthKind.conversations:
        yield from _file(f"{where}.path", lengths.path, "file of conversations")
    if lengths.kind is LengthKind.trace:
        arrivals = cfg.scenario.arrivals if isinstance(cfg.scenario, ServerConfig) else None
        shared = arrivals is not None and arrivals.kind is ArrivalKind.trace and arrivals.path is not None
        if lengths.path is not None or not shared:
            yield from _file(f"{where}.path", lengths.path, "trace file")
    yield from context_problems(cfg)


def _server(scenario: ServerConfig) -> Iterator[str]:
    arrivals, rate = scenario.arrivals, scenario.rate_rps
    if arrivals.kind is ArrivalKind.trace:
        yield from _file("scenario.arrivals.path", arrivals.path, "trace file")
    elif rate is None:
        yield (
            f"scenario.rate_rps: must be given for {arrivals.kind.value} arrivals; only a trace has a rate "
            "of its own"
        )
    if rate is None:
        return
    expected = rate * scenario.window_s
    if expected < 1:
        yield (
            f"scenario.window_s: {rate:g} requests/s for {scenario.window_s:g} s is {expected:.2g} requests; "
            f"make it at least {math.ceil(min(1 / rate, 1e18))} s"
        )
    longest_s = max(scenario.warmup_s, scenario.warmup_limit_s) + scenario.window_s
    if rate * longest_s > MAX_REQUESTS:
        yield f"scenario.rate_rps: {rate:g} requests/s makes more than {MAX_REQUESTS} requests; lower it"


def _capacity(scenario: CapacityConfig) -> Iterator[str]:
    slo = scenario.slo
    if slo.ttft_ms is None and slo.tpot_ms is None and slo.e2e_ms is None:
        yield (
            "scenario.slo: a capacity is the highest rate that keeps a bound: set scenario.slo.ttft_ms, scenario.slo.tpot_ms or "
            "scenario.slo.e2e_ms"
        )
    if scenario.rate_rps is None:
        yield "scenario.rate_rps: must be given: the rate that is tried first"


def _concurrency(scenario: ConcurrencyConfig) -> Iterator[str]:
    requests, users = scenario.max_requests, scenario.concurrency
    if requests is not None and requests < users:
        yield f"scenario.max_requests: {requests} requests are fewer than scenario.concurrency, {users} users"
    if users > MAX_REQUESTS:
        yield f"scenario.concurrency: {users} users are more than {MAX_REQUESTS}; lower it"


def _engine(cfg: RunConfig) -> Iterator[str]:
    engine = cfg.engine
    yield from _batching(cfg)
    yield from _speculative(cfg)
    plugin = registry.plugin(engine.name)
    able = plugin.capabilities
    if able.spreads_over_gpus:
        yield from _parallel(cfg)
    if not able.takes_token_ids:
        yield f"engine.name: {engine.name} takes prompts as text only, and what wattcount sends are token ids"
    if cfg.scenario.lengths.force_output and not able.forces_length:
        yield (
            f"scenario.lengths.force_output: engine={engine.name} cannot be made to emit a number of tokens; set "
            "scenario.lengths.force_output=false"
        )
    if not able.owns_process and (engine.pinned_cpus is not None or engine.nice is not None):
        yield f"engine.pinned_cpus, engine.nice: engine={engine.name} is a server that the run did not start; place it yourself"
    if able.owns_process:
        for key in ("base_url", "served_model", "api_key_env", "headers", "ca_file"):
            if getattr(engine, key):
                yield f"engine.{key}: engine={engine.name} is started by wattcount; set engine=openai for a server that runs"
    yield from plugin.problems(cfg)


def _batching(cfg: RunConfig) -> Iterator[str]:
    engine = cfg.engine
    tokens = engine.max_num_batched_tokens
    if tokens is None:
        return
    if engine.max_num_seqs is not None and tokens < engine.max_num_seqs:
        yield (
            f"engine.max_num_batched_tokens: {tokens} is less than engine.max_num_seqs, {engine.max_num_seqs}; "
            "each running request takes a token of every step"
        )
    length = max_model_len(cfg)
    if engine.enable_chunked_prefill is False and tokens < length:
        yield (
            f"engine.max_num_batched_tokens: {tokens} cannot hold a prompt of engine.max_model_len={length} in one "
            f"step, which engine.enable_chunked_prefill=false asks for; make it at least {length}"
        )


def _speculative(cfg: RunConfig) -> Iterator[str]:
    spec, where = cfg.engine.speculative, "engine.speculative"
    if spec.method is None:
        for key in ("prompt_lookup_min", "prompt_lookup_max", "draft_model"):
            if getattr(spec, key) is not None:
                yield f"{where}.{key}: needs {where}.method"
        return
    if spec.method not in registry.plugin(cfg.engine.name).capabilities.speculates:
        yield f"{where}.method: engine={cfg.engine.name} cannot do {spec.method.value}"
    least, most = spec.prompt_lookup_min, spec.prompt_lookup_max
    if spec.method is SpeculativeMethod.ngram:
        if least is not None and most is not None and least > most:
            yield f"{where}.prompt_lookup_min: {least} is above prompt_lookup_max, {most}"
        if spec.draft_model is not None:
            yield f"{where}.draft_model: ngram needs none; set {where}.method=draft_model to use it"
        return
    if least is not None or most is not None:
        yield f"{where}.prompt_lookup_max: is for {where}.method=ngram"
    yield from _draft(cfg)


def _draft(cfg: RunConfig) -> Iterator[str]:
    from wattcount.config.catalogue import catalogued_model

    where = "engine.speculative.draft_model"
    name = cfg.engine.speculative.draft_model
    if name is None:
        yield f"{where}: must be given: an option of the group model (wattcount models lists them)"
        return
    draft = catalogued_model(name)
    if draft is None:
        yield f"{where}: '{name}' is no option of the group model (wattcount models lists them)"
        return
    vocab, target = (text_config(hf).get("vocab_size") for hf in (draft.hf_config, cfg.model.hf_config))
    if vocab is not None and target is not None and vocab != target:
        yield (
            f"{where}: {name} has a vocabulary of {vocab} tokens and {cfg.model.name} one of {target}; choose one of "
            "the same family"
        )


def _parallel(cfg: RunConfig) -> Iterator[str]:
    """The GPUs of the run are those that the engine is spread over: others would idle, and be counted."""
    engine = cfg.engine
    sizes = {
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "data_parallel_size": engine.data_parallel_size,
    }
    layers = text_config(cfg.model.hf_config).get("num_hidden_layers")
    if isinstance(layers, int) and engine.pipeline_parallel_size > layers:
        yield (
            f"engine.pipeline_parallel_size: {engine.pipeline_parallel_size} is more than the {layers} layers of "
            f"{cfg.model.name}"
        )
    parallel = math.prod(sizes.values())
    chosen = " x ".join(f"{key}={size}" for key, size in sizes.items() if size > 1)
    if parallel > cfg.gpu.count:
        yield (
            f"gpu.count: the engine is spread over {parallel} GPUs ({chosen}) but gpu.count is {cfg.gpu.count}; "
            f"set gpu.count={parallel} or one of these lower"
        )
    emulated = cfg.power.backend is PowerBackend.emulated or engine.device is Device.cpu
    if parallel < cfg.gpu.count and not emulated:
        yield (
            f"gpu.count: the engine would use {parallel} of {cfg.gpu.count} GPUs and the rest would idle; set "
            f"engine.tensor_parallel_size, pipeline_parallel_size or data_parallel_size so that they multiply to "
            f"{cfg.gpu.count}, or gpu.count={parallel}"
        )


def _run(cfg: RunConfig) -> Iterator[str]:
    yield from cohorts.problems(cfg)
    if cfg.tracking.enabled and not cfg.tracking.experiment.strip():
        yield "tracking.experiment: must not be empty"
    for tag in cfg.tracking.tags:
        if (problem := tag_problem(tag)) is not None:
            yield problem
    for name in ("model", "engine", "scenario", "gpu"):
        yield from _secrets(getattr(cfg, name), name)


KEY_LIMIT = 250
"""Length of a tag's key [characters]: MLflow refuses longer ones."""
TAG_LIMIT = 8000
"""Length of a tag's value [characters]: MLflow refuses or cuts longer ones."""

OWN_PREFIXES = ("mlflow.", "wattcount.", "version.")
"""Begins of tags that MLflow or wattcount sets itself: nobody else's tag may take their place."""
OWN_TAGS = frozenset(
    {
        "driver", "engine", "evidence", "gpu", "gpu_count", "gpu_uuids", "host", "instrument", "levers",
        "model", "origin", "particulars", "point_id", "reasons", "repeat", "scenario", "seed", "session", "setting_key", "valid", "weights",
    }
)  # fmt: skip
"""Names of the tags that `tracking.content.tags` sets, beside those with one of `OWN_PREFIXES`."""

_KEY = re.compile(r"[\w./ :-]+")
"""Characters that MLflow allows in a tag's key."""


def is_own(key: str) -> bool:
    """Whether the tag is one that wattcount or MLflow sets itself."""
    return key in OWN_TAGS or key.startswith(OWN_PREFIXES)


def tag_problem(key: str) -> str | None:
    """What is wrong with the key of a user's tag, and what to do; None where nothing is."""
    if is_own(key):
        return f"tracking.tags.{one_line(key)}: is set by wattcount or MLflow itself: choose another name"
    if len(key) > KEY_LIMIT:
        return f"tracking.tags: the key {one_line(key, 40)}... has {len(key)} characters, MLflow takes at most {KEY_LIMIT}"
    path = posixpath.normpath(key)
    if not _KEY.fullmatch(key) or path != key or path.startswith(("..", "/")) or path == ".":
        return f"tracking.tags: MLflow takes no key {one_line(key)!r}: use letters, digits, '_', '-', '.', ':', '/', blanks"
    return None


def usable_tags(tags: Mapping[Any, Any]) -> dict[str, str]:
    """Those of `tags` that a user may give, with values as text: of a record, which anyone may have written."""
    texts = {str(key): str(value) for key, value in tags.items() if value is not None}
    return {key: value for key, value in texts.items() if tag_problem(key) is None}
