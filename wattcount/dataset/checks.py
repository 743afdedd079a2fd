"""All rules: importing this module declares every one of them in `rules.RULES`, in the order in which they are checked."""

from __future__ import annotations

from wattcount.dataset import checks_form, checks_load, checks_novelty, checks_physics, checks_recompute
from wattcount.dataset.rules import RULES

__all__ = ["FAMILIES", "RULES"]

FAMILIES = {
    "form": checks_form.__doc__,
    "load": checks_load.__doc__,
    "recompute": checks_recompute.__doc__,
    "physics": checks_physics.__doc__,
    "novelty": checks_novelty.__doc__,
}
"""What the rules of each family are about."""
