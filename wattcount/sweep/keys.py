"""A planned point's key: `config.identity.planned_point` with seed and repeat."""

from __future__ import annotations

import hashlib
from typing import Any

from wattcount.config.identity import PLANNED, joined_nodes, planned_node
from wattcount.config.schema import RunConfig


class Keys:
    """Computes keys; nodes that many configurations share are looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}

    def key(self, cfg: RunConfig) -> str:
        """12 hexadecimal digits."""
        return self.of(self.point(cfg), cfg.seed, cfg.repeat)

    @staticmethod
    def of(point: str, seed: int, repeat: int) -> str:
        return hashlib.sha256(f"{point} {seed} {repeat}".encode()).hexdigest()[:12]

    def point(self, cfg: RunConfig) -> str:
        """64 hexadecimal digits, without seed and repeat."""
        return joined_nodes(self._node(getattr(cfg, name)) for name in PLANNED)

    def _node(self, node: Any) -> str:
        known = self._known.get(id(node))
        if known is None:
            # The node is kept, so that no other one is ever made at its place in memory.
            self._known[id(node)] = known = (node, planned_node(node))
        return known[1]


def plan_key(cfg: RunConfig) -> str:
    """12 hexadecimal digits of a point with its seed and repeat."""
    return Keys().key(cfg)
