"""Hydra's basic sweeper, except that every point is composed *and checked* before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from wattcount.errors import NotStartedError

# Hydra's search for plugins executes their modules once more and so defines every class anew: a class
# derived from what was imported before that search would have a base that its own module has forgotten.
Plugins.instance()

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402

SWEEPER_TARGET = "hydra_plugins.wattcount.PointSweeper"
"""The name it goes by in Hydra's config; see `composition.register`."""


class PointSweeper(BasicSweeper):
    """One line for each bad point, all of them at once, and nothing started."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        from wattcount.config.composition import GROUPS, from_hydra
        from wattcount.config.hydra_errors import plain_errors
        from wattcount.config.points import problems_of_points

        assert self.hydra_context is not None
        assert self.config is not None
        loader, master = self.hydra_context.config_loader, self.config

        def compose(overrides: Sequence[str]) -> DictConfig:
            with plain_errors():
                return loader.load_sweep_config(master, list(overrides))

        problems = problems_of_points(batch, compose, from_hydra, GROUPS)
        if problems:
            raise NotStartedError(
                "\n".join(f"{line}  (in the point: {point})" for line, point in problems.items())
            )
