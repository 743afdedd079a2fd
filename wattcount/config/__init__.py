"""The configuration: dataclasses, composition, checks, identity, and whether a model fits.

Reading a resolved configuration (`from_json`) needs no Hydra; `compose` imports it on first use.
"""

from __future__ import annotations

from collections.abc import Sequence

from wattcount.config.loader import changed, from_json, to_json
from wattcount.config.schema import RunConfig
from wattcount.config.validation import validate

__all__ = ["RunConfig", "changed", "compose", "from_json", "to_json", "validate"]


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> RunConfig:
    """See `wattcount.config.composition.compose`."""
    from wattcount.config import composition

    return composition.compose(overrides, config_dir)
