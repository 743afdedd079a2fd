"""Whether users lose nothing where energy is saved: a paired test on the SLO, and a figure of quality that was measured elsewhere.

*Service.* Runs of two settings with the same seed and repeat have the same arrivals and lengths. The difference of the shares of requests that keep the SLO, pair
by pair, has Student's t interval; the saving is non-inferior where the lower end of its one-sided 97.5 % interval lies above -MARGIN.

*Quality.* Results of lm-evaluation-harness (its `results_*.json`), joined by model and precision.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.errors import NotStartedError
from wattcount.files import read_text
from wattcount.report.units import count
from wattcount.result.result import Result
from wattcount.statistics import spread
from wattcount.study.comparison import Cell, same_arrivals
from wattcount.study.service import Count, over_runs

MARGIN = 0.02
"""Share of requests that may newly break the SLO for a saving to leave users as they were: two in a hundred, less than the five that a p95 allows."""
RULE_OF_THREE = 3.0
"""Where none of n requests breaks an SLO, at most this / n of all do, with 95 % (Hanley and Lippman-Hand, JAMA 249 (1983) 1743)."""
NOT_MEASURED = "quality not measured"
QUALITY_MARGIN = 0.01
"""Share of a benchmark's score that may be lost: what the score of most tasks moves by between seeds of the harness."""


class Users(StrEnum):
    """What a saving does to users."""

    KEPT = "kept"
    WORSE = "worse"
    UNTOLD = "cannot tell"


@dataclass(frozen=True)
class Service:
    """Change of the share of requests that keep the SLO, with against without, and its 95 % interval; pairs of runs with the same arrivals."""

    change: float | None
    low: float | None
    high: float | None
    pairs: int

    @property
    def users(self) -> Users:
        if self.low is None or self.high is None:
            return Users.UNTOLD
        if self.low > -MARGIN:
            return Users.KEPT
        return Users.WORSE if self.high < -MARGIN else Users.UNTOLD


def service(turned: Cell, without: Cell, slo: SloConfig, counting: Count = Count.ALWAYS) -> Service:
    """Of the pairs that have the same seed and repeat. Shares that are known within bounds widen the interval by these."""
    lows, highs, sent = [], [], 0.0
    for run, other in same_arrivals(turned.runs, without.runs):
        mine, theirs = over_runs([run], slo, counting), over_runs([other], slo, counting)
        if mine is not None and theirs is not None:
            lows.append(mine.low - theirs.high)
            highs.append(mine.high - theirs.low)
            sent += min(run.value("requests/sent") or 0.0, other.value("requests/sent") or 0.0)
    if len(lows) < 2:
        return Service(lows[0] if lows and lows == highs else None, None, None, len(lows))
    (low, _, below), (high, _, above) = spread(lows), spread(highs)
    # Shares that are alike to the last request do not make the truth known better than this many requests tell.
    least = RULE_OF_THREE / sent if sent else 1.0
    return Service((low + high) / 2, low - max(below, least), high + max(above, least), len(lows))


# -- quality


@dataclass(frozen=True)
class Score:
    """A score of lm-evaluation-harness: higher is better.

    precision  quantisation, or the dtype where there is none
    """

    model: str
    precision: str
    task: str
    metric: str
    value: float
    stderr: float | None


def read_scores(paths: Iterable[Path]) -> list[Score]:
    """Of `results_*.json` files, or folders of them. Raises NotStartedError that names the file."""
    found = []
    for path in paths:
        files = sorted(path.rglob("results*.json")) if path.is_dir() else [path]
        if not files:
            raise NotStartedError(
                f"{path} has no results*.json of lm-evaluation-harness; give the folder of its --output_path"
            )
        for file in files:
            found += _of_file(file)
    return found


def _of_file(path: Path) -> list[Score]:
    try:
        content = json.loads(read_text(path, "results of lm-evaluation-harness"))
    except ValueError as error:
        raise NotStartedError(f"{path} is no JSON ({error}); give results of lm-evaluation-harness") from None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise NotStartedError(f"{path} has no group `results`; give results of lm-evaluation-harness")
    config = content.get("config") if isinstance(content.get("config"), dict) else {}
    arguments = _arguments(config.get("model_args"))
    model = str(content.get("model_name") or arguments.get("pretrained") or "")
    if not model:
        raise NotStartedError(
            f"{path} does not name its model (model_name, or pretrained in model_args); give both"
        )
    dtype = arguments.get("dtype")
    precision = str(
        arguments.get("quantization")
        or (dtype if dtype != "auto" else None)
        or config.get("model_dtype")
        or "auto"
    )
    precision = precision.removeprefix("torch.")
    found = []
    for task, figures in results.items():
        if not isinstance(figures, dict):
            continue
        for name, value in figures.items():
            metric, _, filtered = name.partition(",")
            if metric not in HIGHER or not _is_number(value):
                continue
            spread: Any = figures.get(f"{metric}_stderr,{filtered}" if filtered else f"{metric}_stderr")
            found.append(
                Score(
                    model,
                    precision,
                    str(task),
                    metric,
                    float(value),
                    float(spread) if _is_number(spread) else None,
                )
            )
    return found


HIGHER = ("acc", "acc_norm", "exact_match", "pass@1", "f1", "prompt_level_strict_acc")
"""Metrics of the harness that are better the higher they are, from 0 to 1."""


def _arguments(text: object) -> Mapping[str, Any]:
    """`pretrained=...,dtype=bfloat16` or a group of keys."""
    if isinstance(text, Mapping):
        return text
    if not isinstance(text, str):
        return {}
    return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in text.split(","))}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Quality:
    """What turning precision does to scores: mean change over the tasks that both have, its 95 % half width, and their number."""

    change: float | None
    half_width: float | None
    tasks: int

    @property
    def words(self) -> str:
        if self.change is None:
            return NOT_MEASURED
        half = "" if self.half_width is None else f" ± {100 * self.half_width:.1f}"
        return f"quality {100 * self.change:+.1f}{half} points ({count(self.tasks, 'task')})"

    @property
    def users(self) -> Users:
        """Whether scores fall by less than QUALITY_MARGIN with 95 %."""
        if self.change is None or self.half_width is None:
            return Users.UNTOLD
        if self.change - self.half_width > -QUALITY_MARGIN:
            return Users.KEPT
        return Users.WORSE if self.change + self.half_width < -QUALITY_MARGIN else Users.UNTOLD


def precision_of(run: Result) -> str:
    model = run.setting.get("model", {})
    return str(model.get("quantization") or model.get("dtype") or "bfloat16")


def against_unquantised(run: Result, scores: Sequence[Score]) -> Quality | None:
    """What the quantisation of a run costs in scores; None: it has none."""
    model = run.setting.get("model", {})
    if not model.get("quantization"):
        return None
    plain = replace(run, setting={**run.setting, "model": {**model, "quantization": None}})
    return quality(run, plain, scores)


def quality(turned: Result, without: Result, scores: Sequence[Score]) -> Quality:
    """Scores with the precision of `turned` against that of `without`, of the same model. Precision alike: nothing can change."""
    new, old = precision_of(turned), precision_of(without)
    if new == old:
        return Quality(0.0, 0.0, 0)
    names = {
        str(name).lower() for name in (turned.model, turned.setting.get("model", {}).get("hf_id")) if name
    }
    of_model = [score for score in scores if score.model.lower() in names]
    by = {(score.precision, score.task, score.metric): score for score in of_model}
    pairs = [
        (score, other)
        for (precision, task, metric), score in by.items()
        if precision == new and (other := by.get((old, task, metric))) is not None
    ]
    if not pairs:
        return Quality(None, None, 0)
    change = float(np.mean([a.value - b.value for a, b in pairs]))
    errors = [(a.stderr, b.stderr) for a, b in pairs]
    if any(one is None or other is None for one, other in errors):
        return Quality(change, None, len(pairs))
    variance = sum((one or 0.0) ** 2 + (other or 0.0) ** 2 for one, other in errors) / len(pairs) ** 2
    return Quality(change, 1.96 * math.sqrt(variance), len(pairs))
