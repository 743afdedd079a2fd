"""Whether users lose nothing where energy is saved: a paired test on the SLO, and a figure of quality that was measured elsewhere.

*Service.* Runs of two settings with the same seed and repeat have the same arrivals and lengths. The difference of the shares of requests that keep the SLO, pair
by pair, has Student's t interval; the saving is non-inferior where the lower end of its one-sided 97.5 % interval lies above -MARGIN.

*Quality.* Results of lm-evaluation-harness (its `results_*.json`, of versions 0.3 on) or of lighteval, joined by model and precision.
"""

from __future__ import annotations

import json
import math
import re
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
    """A model's score in a task of an evaluation: from 0 to 1, higher is better.

    precision  weights, and cache where it is not the weights' type: `bfloat16`, `fp8`, `fp8+kv_fp8`; OWN_DTYPE: as the checkpoint is; None: not told
    protocol   what else two scores must share to be compared: task's version, shots, filter, chat template
    """

    model: str
    precision: str | None
    task: str
    metric: str
    value: float
    stderr: float | None
    protocol: tuple[str, ...] = ()

    @property
    def of(self) -> str:
        """`org/m:fp8`"""
        return f"{self.model}:{self.precision or 'precision not told'}"


OWN_DTYPE = "auto"
"""Precision of weights that were loaded in the type that their checkpoint has, whatever that is."""
SCORES: tuple[str, ...] = (
    "acc_norm", "acc", "exact_match", "pass@1", "pass_at_1", "prompt_level_strict_acc", "math_verify", "f1", "em", "qem",
    "extractive_match",
)  # fmt: skip
"""Metrics of lm-evaluation-harness and lighteval that are better the higher they are, from 0 to 1. The first that a task has is its score: its
others are of the same answers, and would count them twice."""
FILTERS = ("strict-match", "none", "")
"""Ways to read an answer; the first that a task has counts."""
SERVED = ("completions", "gguf")
"""Parts of the names of the harness's models that ask a server, whose precision they do not know."""


def read_scores(sources: Iterable[Path | str]) -> list[Score]:
    """Of files of results, or folders of them. `MODEL=PATH` and `MODEL:PRECISION=PATH` say whose they are, before what they say themselves.

    Raises NotStartedError that names the file.
    """
    found = []
    for source in sources:
        model, precision, path = _named(str(source))
        if path.is_dir():
            files = sorted(path.rglob("results*.json")) or sorted(path.rglob("*.json"))
            if not files:
                raise NotStartedError(f"{path} has no results*.json of lm-evaluation-harness; give the folder of its --output_path")  # fmt: skip
        else:
            files = [path]
        for file in files:
            found += _of_file(file, model, precision)
    return found


def _named(text: str) -> tuple[str | None, str | None, Path]:
    """(model, precision, path) of `MODEL:PRECISION=PATH`."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, None, Path(text)
    model, _, precision = name.partition(":")
    return model or None, precision or None, Path(path)


def _of_file(path: Path, model: str | None, precision: str | None) -> list[Score]:
    try:
        content = json.loads(read_text(path, "scores"))
    except ValueError as error:
        raise NotStartedError(f"{path} is no JSON ({error}); give results of lm-evaluation-harness") from None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise NotStartedError(f"{path} has no group `results`; give results of lm-evaluation-harness")
    lighteval = _group(content, "config_general")
    config = _group(lighteval, "model_config") if lighteval else _group(content, "config")
    arguments = config if lighteval else _arguments(config.get("model_args"))
    model = model or next(
        (
            str(name)
            for name in (
                content.get("model_name"), lighteval.get("model_name"), arguments.get("pretrained"), arguments.get("model"),
            )
            if name
        ),
        None,
    )  # fmt: skip
    if model is None:
        raise NotStartedError(
            f"{path} does not name its model (model_name, or pretrained in model_args); give --quality MODEL:PRECISION={path}"
        )
    if precision is None and not any(part in str(config.get("model")) for part in SERVED):
        precision = _precision(arguments, config.get("model_dtype") or lighteval.get("model_dtype"))
    counted = _without_parts(results, _group(content, "group_subtasks"))
    found = [
        _score(model, precision, name, figures, _protocol(content, name), _answers(content, name))
        for name, figures in counted.items()
    ]
    return [score for score in found if score is not None]


def _group(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def _without_parts(results: Mapping[str, Any], parts_of: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Tasks that are no part of a group that has a score itself, and no mean over all tasks: each answer counts once."""
    scored = {
        name: figures
        for name, figures in results.items()
        if isinstance(figures, dict) and any(_metric(key)[0] in SCORES for key in figures)
    }
    inside = {
        str(part)
        for group, parts in parts_of.items()
        if group in scored and isinstance(parts, list)
        for part in parts
    }
    averages = {
        name for name in scored if name.split("|")[0].endswith(":_average") or (name == "all" and len(scored) > 1)
    }  # fmt: skip
    return {name: figures for name, figures in scored.items() if name not in inside | averages}


def _protocol(content: Mapping[str, Any], task: str) -> tuple[str, ...]:
    chat = "chat template" if content.get("chat_template_sha") or content.get("chat_template") else ""
    version, shots = _group(content, "versions").get(task), _group(content, "n-shot").get(task)
    if shots is None:
        shots = _group(content, "config").get("num_fewshot")
    return (_plain_number(version), _plain_number(shots), chat)


def _plain_number(value: object) -> str:
    """Versions are 1, 1.0 or "1", by the version of the harness."""
    try:
        return f"{float(value):g}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "" if value is None else str(value)


def _metric(key: str) -> tuple[str, str]:
    """(`acc`, `none`) of `acc,none`; without a filter in files of versions before 0.4."""
    name, _, filtered = key.partition(",")
    return name, filtered


def _answers(content: Mapping[str, Any], task: str) -> int | None:
    """How many answers a task's score is of; None: not told."""
    told = _group(_group(content, "n-samples"), task).get("effective")
    told = _group(_group(content, "results"), task).get("sample_len") if told is None else told
    return told if isinstance(told, int) and told > 0 else None


def _score(
    model: str,
    precision: str | None,
    task: str,
    figures: Mapping[str, Any],
    protocol: tuple[str, ...],
    answers: int | None,
) -> Score | None:
    """The score of a task by the first of SCORES, read by the first of FILTERS; None: it has none from 0 to 1."""
    found = [
        (SCORES.index(metric), FILTERS.index(filtered) if filtered in FILTERS else len(FILTERS), key)
        for key, value in figures.items()
        for metric, filtered in [_metric(key)]
        if metric in SCORES and _is_number(value) and 0 <= value <= 1
    ]
    if not found:
        return None
    key = min(found)[2]
    metric, filtered = _metric(key)
    value, stated = float(figures[key]), figures.get(f"{metric}_stderr,{filtered}".rstrip(","))
    stderr = float(stated) if isinstance(stated, int | float) and _is_number(stated) and stated > 0 else None
    if stderr is None and answers is not None:
        # Without one, or all answers alike: two more of each kind (Agresti and Coull, Am. Stat. 52 (1998) 119).
        share = (value * answers + 2) / (answers + 4)
        stderr = math.sqrt(share * (1 - share) / (answers + 4))
    return Score(model, precision, task, metric, value, stderr, (*protocol, filtered))


def _arguments(given: object) -> Mapping[str, Any]:
    """`pretrained=...,dtype=bfloat16`, the same as JSON text, or a group of keys."""
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    if isinstance(given, Mapping):
        return given
    if not isinstance(given, str):
        return {}
    return {
        key.strip(): value.strip() for key, _, value in (part.partition("=") for part in given.split(","))
    }


def _precision(arguments: Mapping[str, Any], found_dtype: object) -> str:
    """Of model_args, and of the type that the harness found its model to have."""
    weights = arguments.get("quantization")
    if _is_on(arguments.get("load_in_4bit")):
        weights = "bitsandbytes"
    if _is_on(arguments.get("load_in_8bit")):
        weights = "bitsandbytes 8 bit"
    if any(arguments.get(key) not in (None, False, "False", "") for key in ("autogptq", "gptqmodel")):
        weights = "gptq"
    dtype = arguments.get("dtype")
    if _is_off(weights):
        weights = (None if _is_off(dtype) or dtype == OWN_DTYPE else dtype) or found_dtype or OWN_DTYPE
    return _with_cache(str(weights).removeprefix("torch."), arguments.get("kv_cache_dtype"))


def _is_on(value: object) -> bool:
    return str(value).lower() == "true"


def _is_off(value: object) -> bool:
    return value is None or str(value).lower() in ("none", "null", "")


def _with_cache(weights: str, cache: object) -> str:
    name = "fp8" if cache == "fp8_e4m3" else str(cache)
    return weights if _is_off(cache) or name == "auto" else f"{weights}+kv_{name}"


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
    """As of a score: weights, and the cache where its type is another one."""
    model, engine = run.setting.get("model", {}), run.setting.get("engine", {})
    weights = str(model.get("quantization") or model.get("dtype") or "bfloat16")
    return _with_cache(weights, engine.get("kv_cache_dtype"))


def _unquantised(run: Result) -> Result:
    model, engine = run.setting.get("model", {}), run.setting.get("engine", {})
    plain = {
        **run.setting,
        "model": {**model, "quantization": None},
        "engine": {**engine, "kv_cache_dtype": None},
    }
    return replace(run, setting=plain)


def against_unquantised(run: Result, scores: Sequence[Score]) -> Quality | None:
    """What the quantisation of a run's weights and cache costs in scores; None: it has none."""
    plain = _unquantised(run)
    return None if precision_of(run) == precision_of(plain) else quality(run, plain, scores)


def quality(turned: Result, without: Result, scores: Sequence[Score]) -> Quality:
    """Scores with the precision of `turned` against that of `without`, of the same model. Precision alike: nothing can change."""
    if precision_of(turned) == precision_of(without):
        return Quality(0.0, 0.0, 0)
    new, old = (_scores_of(run, scores) for run in (turned, without))
    pairs = [(score, old[key]) for key, score in new.items() if key in old]
    if not pairs:
        return Quality(None, None, 0)
    change = float(np.mean([a.value - b.value for a, b in pairs]))
    errors = [(a.stderr, b.stderr) for a, b in pairs]
    if any(one is None or other is None for one, other in errors):
        return Quality(change, None, len(pairs))
    variance = sum((one or 0.0) ** 2 + (other or 0.0) ** 2 for one, other in errors) / len(pairs) ** 2
    return Quality(change, 1.96 * math.sqrt(variance), len(pairs))


def _scores_of(run: Result, scores: Sequence[Score]) -> dict[tuple[str, ...], Score]:
    """By task, metric and protocol: those with the run's model and precision. The last one of each counts."""
    wanted = precision_of(run)
    accepted = [wanted] if run.setting.get("model", {}).get("quantization") else [_own(wanted), wanted]
    names = _names(run)
    return {
        (score.task, score.metric, *score.protocol): score
        for precision in accepted
        for score in scores
        if score.precision == precision and _plain_name(score.model) in names
    }


def _own(precision: str) -> str:
    """`auto+kv_fp8` of `bfloat16+kv_fp8`."""
    weights, plus, cache = precision.partition("+")
    return f"{OWN_DTYPE if weights else weights}{plus}{cache}"


def _names(run: Result) -> set[str]:
    """The option, the id on the hub, and the id's last part, as folders of weights are called."""
    hub = run.setting.get("model", {}).get("hf_id")
    return {str(name).lower() for name in (run.model, hub, hub and f"/{str(hub).rpartition('/')[2]}") if name}


_CACHED = re.compile(r"models--(.+?)--(.+?)(?:/|$)")


def _plain_name(model: str) -> str:
    """Of weights in a folder, `/NAME`; of those in the hub's cache, the id."""
    if found := _CACHED.search(model):
        return f"{found[1]}/{found[2]}".lower()
    return f"/{Path(model).name}".lower() if model.startswith(("/", "./", "../", "~")) else model.lower()


def unused(scores: Sequence[Score], results: Iterable[Result]) -> list[str]:
    """`org/m:fp8` of the scores that belong to no result."""
    known = {(name, precision) for run in results for name in _names(run) for precision in _precisions(run)}
    return sorted({s.of for s in scores if (_plain_name(s.model), s.precision) not in known})


def _precisions(run: Result) -> set[str]:
    """Those that a run stands with or against."""
    both = {precision_of(run), precision_of(_unquantised(run))}
    return both | {_own(precision_of(_unquantised(run)))}
