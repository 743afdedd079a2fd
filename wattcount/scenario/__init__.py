"""Scenarios: the phases of a run and the load in them."""

from __future__ import annotations

from wattcount.config.schema import BatchConfig, ConcurrencyConfig, RunConfig, ServerConfig
from wattcount.scenario.base import RunContext, Scenario
from wattcount.scenario.batch import BatchScenario
from wattcount.scenario.concurrency import ConcurrencyScenario
from wattcount.scenario.journal import Journal, Progress
from wattcount.scenario.server import ServerScenario

__all__ = ["Journal", "Progress", "RunContext", "Scenario", "create"]


def create(cfg: RunConfig) -> Scenario:
    """The scenario a run asks for."""
    if isinstance(cfg.scenario, BatchConfig):
        return BatchScenario(cfg.scenario)
    if isinstance(cfg.scenario, ServerConfig):
        return ServerScenario(cfg.scenario)
    if isinstance(cfg.scenario, ConcurrencyConfig):
        return ConcurrencyScenario(cfg.scenario)
    raise TypeError(f"no scenario is defined for a {type(cfg.scenario).__name__}")
