"""A vLLM that has started, in this process or as a server: what it computes on, its weights, what the record keeps of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from wattcount.config.schema import Initializer, Weights
from wattcount.engines.base import EngineInfo
from wattcount.engines.defaults import differences
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.errors import RunFailedError

DEFAULT_INITIALIZER_RANGE = 0.02
"""Standard deviation of normal weights, where config.json names none: transformers' own default."""

AskWorkers = Callable[[str, tuple[Any, ...]], Awaitable[Sequence[dict[str, Any]]]]
"""What calls a method of `extensions.DeviceReport` in each of vLLM's workers and returns their answers."""


async def engine_info(
    name: str,
    setup: VllmSetup,
    told: Mapping[str, Any],
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    ask_workers: AskWorkers,
) -> EngineInfo:
    """What the engine `name` turned out to be; weights are drawn as the configuration says.

    told  what vLLM resolved (`reports.resolved_facts`)

    Raises `RunFailedError` where it computes on other GPUs than are measured, or cannot draw the weights.
    """
    reports: list[dict[str, Any]] = []
    if "worker_extension_cls" not in setup.engine.args:
        reports = list(await ask_workers("wattcount_device_report", ()))
    check_devices(setup, reports)
    initialised = await _initialise(setup, ask_workers)
    settings = told["settings"]
    return EngineInfo(
        name=name,
        version=setup.install.version,
        device=setup.device,
        gpu_uuids=_found_gpus(setup, reports),
        vocab_size=told["vocab_size"],
        max_model_len=told["max_model_len"],
        details={
            "distribution": setup.install.distribution,
            "torch": told["torch"],
            "cuda": told["cuda"],
            "devices": reports,
            "device_verified": bool(reports),
            "architecture": told["architecture"],
            "dtype": told["dtype"],
            "weight_initializer": initialised,
            **settings,
            "usage_context": setup.usage_context,
            "unexpected_defaults": differences(setup.engine, settings),
            "arguments": {key: value for key, value in arguments.items() if key != "model"},
            "environment": dict(environment),
        },
    )


async def _initialise(setup: VllmSetup, ask_workers: AskWorkers) -> dict[str, Any] | None:
    """Draws random weights as the config says; what was done, None for real weights."""
    model = setup.model
    if model.weights is not Weights.random:
        return None
    if model.initializer is Initializer.dummy:
        return {"initializer": "dummy", "distribution": "vLLM's dummy weights"}
    deviation = float(model.hf_config.get("initializer_range") or DEFAULT_INITIALIZER_RANGE)
    fan_in = model.initializer is Initializer.fan_in
    try:
        done = list(await ask_workers("wattcount_initialise", (fan_in, deviation)))
    except Exception as error:
        raise RunFailedError(
            "engine_start_failed",
            f"model.initializer={model.initializer.value}: vLLM's worker could not draw the weights: {error}",
        ) from error
    return {
        "initializer": model.initializer.value,
        "standard_deviation": None if fan_in else deviation,
        "workers": done,
    }


def check_devices(setup: VllmSetup, reports: Sequence[Mapping[str, Any]]) -> None:
    """Raises `RunFailedError` where vLLM's workers compute on other GPUs than are measured."""
    found = [str(report["uuid"]) for report in reports if "uuid" in report]
    wanted = [uuid for uuid in setup.gpu_uuids if uuid.startswith("GPU-")]
    # Of several replicas the first one answers for all.
    replicas = setup.engine.data_parallel_size
    right = set(found) < set(wanted) if replicas > 1 else set(found) == set(wanted)
    if found and wanted and not right:
        raise RunFailedError(
            "engine_start_failed",
            f"vLLM computes on {', '.join(found)} while {', '.join(wanted)} is measured: unset"
            " CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER",
        )


def _found_gpus(setup: VllmSetup, reports: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    if setup.engine.data_parallel_size > 1:
        return setup.gpu_uuids
    return tuple(str(report["uuid"]) for report in reports if "uuid" in report) or setup.gpu_uuids
