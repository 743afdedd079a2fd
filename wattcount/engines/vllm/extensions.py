"""Classes of wattcount that vLLM uses: config classes that it lacks, and an addition to its worker processes.

Some architectures that vLLM computes have a config that neither vLLM nor transformers can read. Their checkpoints bring the
config class as Python code (`trust_remote_code`). A model with random weights is made from `config.json` alone and has no
such code. Each class here differs from Llama's config by further values only. A config keeps these values as they are, and
vLLM's models read them by the same names.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig


class DeviceReport:
    """What vLLM's worker processes answer; vLLM mixes it into its worker (`worker_extension_cls`).

    Asking torch in the run's process instead would open a second CUDA context and change the idle power.
    """

    device: Any
    model_runner: Any

    def wattcount_device_report(self) -> dict[str, Any]:
        """The device this worker computes on, as CUDA sees it; plain types."""
        import torch

        report: dict[str, Any] = {"type": self.device.type, "torch": str(torch.__version__)}
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            report |= {
                "name": str(properties.name),
                "uuid": nvml_uuid(str(properties.uuid)),
                "total_memory_bytes": int(properties.total_memory),
                "compute_capability": f"{properties.major}.{properties.minor}",
                "allocated_bytes": int(torch.cuda.memory_allocated(self.device)),
                "reserved_bytes": int(torch.cuda.memory_reserved(self.device)),
                "cuda": str(torch.version.cuda),
            }
        return report

    def wattcount_initialise(self, fan_in: bool, standard_deviation: float) -> dict[str, Any]:
        """Draws all weights anew, in place; seeded, so that every run has the same ones.

        Matrices are normal with `standard_deviation` (fan_in: 1 / sqrt(inputs), the last dimension), vectors of
        norms are 1, biases 0. What is not in floating point of 16 bits or more stays as it is.
        """
        import torch

        torch.manual_seed(0)
        drawn = kept = 0
        with torch.no_grad():
            for name, weight in self.model_runner.model.named_parameters():
                if not weight.is_floating_point() or weight.element_size() < 2:
                    kept += weight.numel()
                    continue
                drawn += weight.numel()
                if weight.ndim >= 2:
                    weight.normal_(0.0, weight.shape[-1] ** -0.5 if fan_in else standard_deviation)
                else:
                    weight.fill_(0.0 if name.endswith("bias") else 1.0)
        return {"parameters_drawn": drawn, "parameters_kept": kept}


def nvml_uuid(uuid: str) -> str:
    """CUDA's UUID as NVML writes it: `GPU-xxxxxxxx-...`."""
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


class InternLM2Config(LlamaConfig):  # type: ignore[misc]
    model_type = "internlm2"


class DeepseekConfig(LlamaConfig):  # type: ignore[misc]
    """DeepSeek's first mixture of experts (arXiv 2401.06066); V2 and V3 have classes in transformers."""

    model_type = "deepseek"


class SolarConfig(LlamaConfig):  # type: ignore[misc]
    """Solar Pro Preview: Llama's layers with skips between them (`bskcn_*`)."""

    model_type = "solar"


CLASSES = (InternLM2Config, DeepseekConfig, SolarConfig)
"""Config classes that are made known to transformers."""


def register() -> None:
    """Makes `AutoConfig` know these classes; where transformers has one of its own by now, that stays."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for config_class in CLASSES:
        if config_class.model_type not in CONFIG_MAPPING:
            AutoConfig.register(config_class.model_type, config_class)
