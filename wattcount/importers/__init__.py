"""Power logs that other people's instruments wrote: read strictly, integrated, and how sure that is."""

from wattcount.importers.mlperf import LoadgenLog, MlperfRun, read_loadgen, read_run, read_spl
from wattcount.importers.nvidia_smi import read_nvidia_smi
from wattcount.importers.power_log import LogEnergy, PowerLog

__all__ = [
    "LoadgenLog",
    "LogEnergy",
    "MlperfRun",
    "PowerLog",
    "read_loadgen",
    "read_nvidia_smi",
    "read_run",
    "read_spl",
]
