"""Hydra's basic sweeper, except that every point is composed *and checked* before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from wattcount.errors import NotStartedError

MODULE = "hydra_plugins.wattcount"
SWEEPER_TARGET = f"{MODULE}.PointSweeper"


class PointSweeper(BasicSweeper):
    """One line for each bad point, all of them at once, and nothing started."""

    # Hydra instantiates plugins by name and only from below `hydra_plugins`; the class itself is
    # registered in `composition.register`.
    __module__ = MODULE

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        from wattcount.config.composition import from_hydra
        from wattcount.config.hydra_errors import plain_errors

        assert self.hydra_context is not None
        assert self.config is not None
        problems: dict[str, str] = {}
        for overrides in batch:
            try:
                with plain_errors():
                    composed = self.hydra_context.config_loader.load_sweep_config(
                        self.config, list(overrides)
                    )
                from_hydra(composed)
            except NotStartedError as error:
                problems.setdefault(str(error), " ".join(overrides))
        if problems:
            lines = [f"{line}  (in the point: {point})" for line, point in problems.items()]
            raise NotStartedError("\n".join(lines))
