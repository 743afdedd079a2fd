"""Which tags a user may give runs in MLflow: none that wattcount or MLflow sets itself, and only keys that MLflow takes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from wattcount.errors import one_line

KEY_LIMIT = 250
"""Length of a tag's key [characters]: MLflow refuses longer ones."""
TAG_LIMIT = 8000
"""Length of a tag's value [characters]: MLflow refuses or cuts longer ones."""

OWN_PREFIXES = ("mlflow.", "wattcount.", "version.")
OWN_TAGS = frozenset(
    {
        "driver", "engine", "evidence", "gpu", "gpu_count", "gpu_uuids", "host", "instrument", "levers",
        "model", "origin", "point_id", "reasons", "repeat", "scenario", "seed", "setting_key", "valid", "weights",
    }
)  # fmt: skip
"""Names of the tags that `tracking.content.tags` sets, beside those with one of `OWN_PREFIXES`."""

_KEY = re.compile(r"[\w./ :-]+")


def is_own(key: str) -> bool:
    """Whether the tag is one that wattcount or MLflow sets itself."""
    return key in OWN_TAGS or key.startswith(OWN_PREFIXES)


def tag_problem(key: str) -> str | None:
    """What is wrong with the key of a user's tag, and what to do; None where nothing is."""
    if is_own(key):
        return f"tracking.tags.{one_line(key)}: is set by wattcount or MLflow itself: choose another name"
    if len(key) > KEY_LIMIT:
        return f"tracking.tags: the key {one_line(key, 40)}... has {len(key)} characters, MLflow takes at most {KEY_LIMIT}"
    path = posixpath.normpath(key)
    if not _KEY.fullmatch(key) or path != key or path.startswith(("..", "/")) or path == ".":
        return f"tracking.tags: MLflow takes no key {one_line(key)!r}: use letters, digits, '_', '-', '.', ':', '/', blanks"
    return None


def usable_tags(tags: Mapping[Any, Any]) -> dict[str, str]:
    """Those of `tags` that a user may give, with values as text: of a record, which anyone may have written."""
    texts = {str(key): str(value) for key, value in tags.items() if value is not None}
    return {key: value for key, value in texts.items() if tag_problem(key) is None}
