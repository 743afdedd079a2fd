"""The coefficients that are shipped: those of a fit of the published data set, for whoever predicts without reading it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wattcount.config.schema import GpuConfig
from wattcount.prediction.physics import Coefficients
from wattcount.prediction.setting import family_of

FILE = Path(__file__).with_name("learned.json")
"""Made by `python tools/learn_prediction.py` of `data/dataset`."""


def coefficients(gpu: GpuConfig) -> Coefficients:
    """For a GPU, with what was learned of its kind where that was measured."""
    content = _content()
    own = content["gpus"].get(family_of(gpu), {})
    return dataclasses.replace(
        Coefficients(),
        **{name: value * own.get(name, 1.0) for name, value in content["coefficients"].items()},
    )


@functools.cache
def _content() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content
