"""The plug-in that vLLM's server loads: runs in the process of its front end, and is imported nowhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from wattcount.clock import now_ns
from wattcount.engines.vllm.reports import engine_step, resolved_facts
from wattcount.engines.vllm_serve.told import FACTS_JSON, FOLDER_VARIABLE, StepWriter
from wattcount.files import write_atomically


class StepLogger(StatLoggerBase):  # type: ignore[misc]
    """Tells the run of each step, as the engine in process tells it."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self._folder = Path(os.environ[FOLDER_VARIABLE])
        self._config = vllm_config
        self._steps = StepWriter(self._folder)
        del engine_index

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self._steps.write(engine_step(scheduler_stats, iteration_stats, now_ns()))

    def log_engine_initialized(self) -> None:
        write_atomically(self._folder / FACTS_JSON, json.dumps(resolved_facts(self._config)))
