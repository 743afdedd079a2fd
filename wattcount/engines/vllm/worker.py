"""What vLLM's own worker processes are asked: runs there, not in the run's process.

vLLM mixes this class into its worker (`worker_extension_cls`), where it answers `collective_rpc`. Asking
torch in the run's process instead would open a second CUDA context and change the idle power.
"""

from __future__ import annotations

from typing import Any


class DeviceReport:
    """Mixed into vLLM's worker."""

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
