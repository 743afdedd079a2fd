"""What vLLM's own worker processes are asked: runs there, not in the run's process.

vLLM mixes this class into its worker (`worker_extension_cls`), where it answers `collective_rpc`. Asking
torch in the run's process instead would open a second CUDA context and change the idle power.
"""

from __future__ import annotations

from typing import Any


class DeviceReport:
    """Mixed into vLLM's worker."""

    device: Any

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


def nvml_uuid(uuid: str) -> str:
    """CUDA's UUID as NVML writes it: `GPU-xxxxxxxx-...`."""
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
