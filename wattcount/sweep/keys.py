"""A planned point's key: its identity as far as it is known before any machine has looked at it.

It is what `config.identity.point_id` hashes, less what only the measuring machine knows (the GPU's name as found,
evidence, device, vLLM's version, fingerprints of files), with the GPU option's name and the names of files in
their place, and with seed and repeat. So it can be computed from a configuration that is still to be resolved and
from a record's alike.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from wattcount.config.identity import differing
from wattcount.config.schema import GpuConfig, ModelConfig, RunConfig, Weights

UNKNOWN_BEFORE = frozenset(
    {"found_name", "evidence", "device", "version_minor", "path_fingerprint", "fingerprint"}
)
"""Identity fields that are filled in by the machine that measures."""
NODES = ("model", "gpu", "scenario", "engine")


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
        parts = [self._node(getattr(cfg, name)) for name in NODES]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _node(self, node: Any) -> str:
        known = self._known.get(id(node))
        if known is None:
            # The node is kept, so that no other one is ever made at its place in memory.
            self._known[id(node)] = known = (node, _canonical(node))
        return known[1]


def plan_key(cfg: RunConfig) -> str:
    """12 hexadecimal digits of a point with its seed and repeat."""
    return Keys().key(cfg)


def _canonical(node: Any) -> str:
    fields = differing(node, UNKNOWN_BEFORE)
    if isinstance(node, ModelConfig):
        if node.weights is not Weights.random:
            fields.pop("hf_config", None)
        if node.weights is Weights.path:
            fields["path"] = _file_name(node.path)
    elif isinstance(node, GpuConfig):
        fields["name"] = node.name
    for name in ("arrivals", "lengths"):
        inner = getattr(node, name, None)
        if inner is not None and inner.path is not None:
            fields[name] = {**fields.get(name, {}), "path": _file_name(inner.path)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _file_name(path: str | None) -> str | None:
    return None if path is None else path.rstrip("/").rpartition("/")[2]
