"""What a run asks of vLLM: its model, its arguments, and the environment of its processes.

vLLM is left at its defaults (asynchronous scheduling, chunked prefill, prefix caching, CUDA graphs; those of
`usage_context`) but for what the configuration names, its own statistics logging (off: it says nothing that is not in the
record), `enable_logging_iteration_details` (on: it says how many tokens of a step were prefill and decode) and
`jit_monitor_verbose` (on: each kernel that is compiled while serving is logged, not only the first of a name).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.config.fit import context_problems, max_model_len
from wattcount.config.hub import is_cached
from wattcount.config.loader import plain
from wattcount.config.paths import data_home, has_hub_token
from wattcount.config.schema import (
    EngineConfig,
    ModelConfig,
    RunConfig,
    ScenarioKind,
    SpeculativeMethod,
    Weights,
)
from wattcount.engines import defaults
from wattcount.engines.vllm.checks import (
    check_arguments,
    check_gpus,
    check_weights,
    chosen_device,
    config_problems,
    draft_model,
    supported_install,
)
from wattcount.engines.vllm.install import VllmInstall
from wattcount.errors import NotStartedError, one_line
from wattcount.files import write_atomically


def known_hf_config(model: ModelConfig) -> dict[str, Any]:
    """The model's `config.json` values, as far as they are known without the network; else empty."""
    if model.weights is Weights.hub:
        if not model.hf_id:
            raise NotStartedError("model.weights=hub needs model.hf_id, or use model.weights=path or random")
        if (
            model.gated
            and not has_hub_token()
            and not is_cached(model.hf_id, model.revision, with_weights=False)
        ):
            raise NotStartedError(
                f"{model.hf_id} is gated: accept its licence on the hub and set HF_TOKEN, or use model.weights=random"
            )
        return dict(model.hf_config)
    if model.weights is Weights.path:
        return _read_config_json(model.path, "model.weights=path")
    if model.hf_config:
        return dict(model.hf_config)
    if model.path:
        return _read_config_json(model.path, "model.weights=random without model.hf_config")
    if not model.hf_id:
        raise NotStartedError(
            "model.weights=random needs the model's configuration: model.hf_config, model.path (a folder with"
            " config.json) or model.hf_id"
        )
    return {}


def _read_config_json(path: str | None, why: str) -> dict[str, Any]:
    if not path:
        raise NotStartedError(f"{why} needs model.path, a folder with config.json")
    file = Path(path).expanduser() / "config.json"
    if not file.parent.is_dir():
        raise NotStartedError(f"model.path {file.parent} is no folder")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotStartedError(f"model.path {file.parent} holds no config.json") from None
    except (OSError, ValueError) as error:
        raise NotStartedError(f"{file} cannot be read: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise NotStartedError(f"{file} holds no JSON object")
    return values


def shape_folder(hf_config: dict[str, Any], scratch: Path) -> Path:
    """A folder with the `config.json` of random weights. Every run has the same folder for the same shape.

    vLLM keeps compiled kernels by the model's path, too, and would compile them anew for a new folder. The folder is below
    `scratch` where wattcount's home cannot be written to.
    """
    content = json.dumps(hf_config, sort_keys=True)
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    try:
        return _with_config_json(data_home() / "shapes" / name, content)
    except OSError:
        return _with_config_json(scratch / "model", content)


def _with_config_json(folder: Path, content: str) -> Path:
    file = folder / "config.json"
    if not file.exists() or file.read_text(encoding="utf-8") != content:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return folder


def context_length(cfg: RunConfig, hf_config: dict[str, Any]) -> int:
    """The context length for vLLM [tokens]. Raises `NotStartedError` where the requests do not fit it."""
    for problem in context_problems(cfg, hf_config):
        raise NotStartedError(problem)
    return max_model_len(cfg, hf_config)


SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket [bytes]: `sun_path` has 108, one of them for the NUL (unix(7))."""
SOCKET_NAME_BYTES = 37
"""Length of the names of vLLM's sockets [bytes]: a slash and a UUID."""
USAGE_CONTEXTS = {
    ScenarioKind.server: "OPENAI_API_SERVER",
    ScenarioKind.concurrency: "OPENAI_API_SERVER",
    ScenarioKind.capacity: "OPENAI_API_SERVER",
    ScenarioKind.batch: "LLM_CLASS",
}
"""Names of vLLM's usage contexts (`vllm.usage.usage_lib.UsageContext`, in vLLM 0.26 to 0.32): that of `vllm serve`, that of `LLM`."""


@dataclass(frozen=True)
class VllmSetup:
    """A configuration that vLLM can be started with.

    device         `cuda` or `cpu`
    gpu_uuids      NVML UUIDs of the GPUs to compute on; empty on a CPU
    hf_config      the model's `config.json` values as far as they are known without the network, else empty
    max_model_len  tokens of prompt and completion
    draft          the draft model of speculative decoding
    scenario       what vLLM's defaults are those of: its server, or its class `LLM`
    """

    install: VllmInstall
    device: str
    gpu_uuids: tuple[str, ...]
    model: ModelConfig
    engine: EngineConfig
    hf_config: dict[str, Any]
    max_model_len: int
    draft: ModelConfig | None
    scenario: ScenarioKind

    @classmethod
    def of(
        cls,
        cfg: RunConfig,
        gpu_uuids: Sequence[str],
        *,
        scenario: ScenarioKind | None = None,
        further_arguments: Collection[str] = (),
    ) -> VllmSetup:
        """Raises `NotStartedError` for what vLLM could not do here. Imports no vllm.

        scenario           see the class; None: the run's own
        further_arguments  names that `engine.args` may have besides those of `AsyncEngineArgs`
        """
        install = supported_install()
        device = chosen_device(cfg.engine.device, install, gpu_uuids)
        uuids = tuple(gpu_uuids) if device == "cuda" else ()
        check_gpus(cfg.engine, device, uuids)
        for problem in config_problems(cfg):
            raise NotStartedError(problem)
        check_arguments(cfg.engine.args, further_arguments)
        check_weights(cfg.model, device)
        hf_config = known_hf_config(cfg.model)
        max_model_len = context_length(cfg, hf_config)
        return cls(
            install,
            device,
            uuids,
            cfg.model,
            cfg.engine,
            hf_config,
            max_model_len,
            draft_model(cfg),
            scenario or cfg.scenario.kind,
        )

    @property
    def usage_context(self) -> str:
        """Name of the member of vLLM's `UsageContext` whose defaults are taken."""
        return USAGE_CONTEXTS[self.scenario]

    def arguments(self, scratch: Path) -> dict[str, Any]:
        """What `AsyncEngineArgs` is made with. `scratch`: a folder of the engine's own."""
        model, engine = self.model, self.engine
        location = self._model_location(scratch)
        arguments: dict[str, Any] = {
            "model": location,
            "dtype": model.dtype,
            "max_model_len": self.max_model_len,
            "tensor_parallel_size": engine.tensor_parallel_size,
            "pipeline_parallel_size": engine.pipeline_parallel_size,
            "data_parallel_size": engine.data_parallel_size,
            "enforce_eager": engine.enforce_eager,
            "kv_cache_dtype": engine.kv_cache_dtype,
            "disable_log_stats": True,
            "enable_logging_iteration_details": True,
            "jit_monitor_verbose": True,
            "worker_extension_cls": "wattcount.engines.vllm.extensions.DeviceReport",
        }
        # What was left to vLLM stays left to it: what it chooses is then compared with what was expected.
        as_asked = defaults.asked(engine)
        for name in defaults.SETTINGS:
            if (value := getattr(as_asked, name)) is not None:
                arguments[name] = value
        if self.device != "cuda":
            arguments.pop("gpu_memory_utilization", None)
        if model.quantization is not None:
            arguments["quantization"] = model.quantization
        if model.weights is Weights.random:
            arguments["load_format"] = "dummy"
        if model.revision is not None and location == model.hf_id:
            arguments["revision"] = model.revision
        if model.tokenizer is None:
            arguments["skip_tokenizer_init"] = True
        else:
            arguments["tokenizer"] = model.tokenizer
        if (speculative := self._speculative_config(scratch)) is not None:
            arguments["speculative_config"] = speculative
        own: dict[str, Any] = plain(engine.args)  # vLLM writes into some of them
        return arguments | own

    def _speculative_config(self, scratch: Path) -> dict[str, Any] | None:
        spec = self.engine.speculative
        if spec.method is None:
            return None
        config: dict[str, Any] = {
            "method": spec.method.value,
            "num_speculative_tokens": spec.num_speculative_tokens,
        }
        if spec.method is SpeculativeMethod.draft_model:
            return config | {"model": self._draft_location(scratch)}
        for name in ("prompt_lookup_min", "prompt_lookup_max"):
            if (value := getattr(spec, name)) is not None:
                config[name] = value
        return config

    def _draft_location(self, scratch: Path) -> str:
        """Where the draft model lies. vLLM loads its weights as it loads the model's: a shape alone where those are random."""
        assert self.draft is not None
        if self.model.weights is not Weights.random:
            return str(self.draft.hf_id)
        return str(shape_folder(self.draft.hf_config, scratch / "draft"))

    def _model_location(self, scratch: Path) -> str:
        """A folder, or the model's id on the hub."""
        model = self.model
        if model.weights is Weights.path:
            return str(Path(str(model.path)).expanduser().resolve())
        if model.weights is Weights.random and self.hf_config:
            return str(shape_folder(self.hf_config, scratch))
        return str(model.hf_id)

    def environment(self, scratch: Path, log: Path, inherited: Mapping[str, str]) -> dict[str, str]:
        """Environment variables of vLLM and its children; what the user set keeps its value where it may.

        scratch    a folder of the engine's own; vLLM's logging configuration is written there
        log        the file that vLLM logs to
        inherited  the environment as the user set it
        """
        config = scratch / "logging.json"
        config.write_text(json.dumps(logging_config(log)), encoding="utf-8")
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_CONFIG_PATH": str(config),
            "VLLM_CONFIGURE_LOGGING": "1",
            "VLLM_ENGINE_READY_TIMEOUT_S": str(math.ceil(self.engine.start_timeout_s)),
            # A forked child inherits NVML's locks as the sampler's thread left them.
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        }
        unless_set: dict[str, str] = {}
        if len(os.fsencode(scratch)) + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES:
            # An engine that is killed leaves its sockets behind.
            unless_set["VLLM_RPC_BASE_PATH"] = str(scratch)
        if self.model.weights is not Weights.hub and self._model_location(scratch) != self.model.hf_id:
            unless_set |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self.device == "cpu":
            # vLLM takes the variable before the argument.
            if "kv_cache_memory_bytes" not in self.engine.args:
                unless_set["VLLM_CPU_KVCACHE_SPACE"] = "1"
        else:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._visible_devices())
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            if not _has_flashinfer():
                unless_set["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        return environment | {name: inherited.get(name, value) for name, value in unless_set.items()}

    def _visible_devices(self) -> Sequence[str]:
        if self.engine.data_parallel_size == 1:
            return self.gpu_uuids
        # Dealing GPUs out to replicas, not every version takes UUIDs.
        from wattcount.gpu.nvml import attach_session

        with attach_session() as session:
            indices = {gpu.uuid: str(gpu.index) for gpu in session.gpus()}
        return [indices[uuid] for uuid in self.gpu_uuids]


def logging_config(log: Path) -> dict[str, Any]:
    """A configuration of vLLM's logging: to the engine's log only, because stdout belongs to the program."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {
                "format": "%(levelname)s %(asctime)s.%(msecs)03d [%(processName)s %(process)d %(filename)s:%(lineno)d] %(message)s",
                "datefmt": "%m-%d %H:%M:%S",
            }
        },
        "handlers": {
            "engine_log": {
                "class": "logging.FileHandler",
                "filename": str(log.resolve()),
                "mode": "a",
                "delay": True,
                "encoding": "utf-8",
                "formatter": "plain",
            }
        },
        "loggers": {
            "vllm": {"handlers": ["engine_log"], "level": "INFO", "propagate": False},
            # A line for each step, which a server writes by default when steps are told of.
            "vllm.v1.metrics.loggers": {"level": "WARNING"},
        },
    }


def _has_flashinfer() -> bool:
    return importlib.util.find_spec("flashinfer") is not None
