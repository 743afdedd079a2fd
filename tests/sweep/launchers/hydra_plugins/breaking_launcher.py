"""Launchers of Hydra that break: plugins as anybody may write them (hydra.cc, "Plugin development"), chosen by `hydra/launcher=...`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, run_job
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

_ONE_JOB = threading.Lock()
"""The launchers of several groups are called at once, and Hydra has one job's state per process."""


class BreaksAfterOne(Launcher):
    """Runs its jobs one after the other, here. The second one takes it down."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        done = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            if number > initial_job_idx:
                raise RuntimeError("a worker died")
            config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = f"job {number}", number
            with _ONE_JOB:
                job = run_job(
                    hydra_context=self._context,
                    task_function=self._task,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                    configure_logging=False,
                )
            done.append(job)
        return done


class Refuses(BreaksAfterOne):
    def launch(self, *_: object) -> Sequence[JobReturn]:
        raise RuntimeError("no such queue")


for name, launcher in (("breaks_after_one", BreaksAfterOne), ("refuses", Refuses)):
    node = OmegaConf.create({"_target_": f"{launcher.__module__}.{launcher.__qualname__}"})
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="breaking_launcher")
