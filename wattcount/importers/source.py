"""What is known of a source, and results of its rows.

origin       `imported:<source>`: what was measured by others is never taken for our own
run_id       source and a hash of the row: the same row is the same result, in whatever file it comes
model, gpu   the option of our catalogue where the source names the same thing; else the source's name of the
             model, and no option of a GPU
gpus         the source's name of the GPU, once for each that the figures are of
setting      what the source tells of the setting, under the names that our own have. Without `setting_key`: an
             imported result is pooled with none
notes        what the window was, which tokens count, what was derived: whatever the key of a figure does not say
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from wattcount.config.catalogue import gpu_catalogue, match_gpu, model_catalogue
from wattcount.engines import registry
from wattcount.importers.table import Row
from wattcount.records.schema import Evidence
from wattcount.result import Result

IMPORTED = "imported:"
"""Begin of the `origin` of an imported result."""


USUAL_DTYPES = ("bfloat16",)
"""Types of weights that are no lever: engines choose them by themselves."""


@dataclass(frozen=True)
class Source:
    """A source of results.

    name      for `wattcount import` and in `origin`
    title     who measured what
    url       where it is published; None: its files do not tell
    licence   SPDX identifier of its data; None: none is stated, so its rows must not be published
    gives     figures that its results have, in words
    """

    name: str
    title: str
    url: str | None
    licence: str | None
    gives: str

    @property
    def origin(self) -> str:
        return IMPORTED + self.name


@dataclass(frozen=True)
class Setting:
    """What a source tells of a run's setting. None: it does not tell.

    model        as the source names it, best by its id on the hub
    gpu          as the source names it
    gpu_option   option of our catalogue, where the source says more than the name does
    engine       as the source names it; in a result in small letters, as ours are
    batch        sequences at once: the limit that the engine was given, or the size of a static batch
    in_flight    requests that the client kept in flight
    """

    model: str | None = None
    gpu: str | None = None
    gpu_option: str | None = None
    num_gpus: int | None = None
    kind: str | None = "batch"
    engine: str | None = None
    engine_version: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    expert_parallel: int | None = None
    data_parallel: int | None = None
    batch: int | None = None
    in_flight: int | None = None
    rate_rps: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further facts, under `scenario`."""

    @property
    def engine_name(self) -> str | None:
        return None if self.engine is None else self.engine.lower()

    def content(self) -> dict[str, Any]:
        """As `Result.setting` has it, without what is not known."""
        return _known(
            {
                "model": {"hf_id": self.model},
                "gpu": {"found_name": self.gpu},
                "scenario": {
                    "kind": self.kind,
                    "rate_rps": self.rate_rps,
                    "max_in_flight": self.in_flight,
                    "lengths": {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens},
                    **self.more,
                },
                "engine": {
                    "name": self.engine_name,
                    "version": self.engine_version,
                    "dtype": self.dtype,
                    "quantization": self.quantization,
                    "tensor_parallel_size": self.tensor_parallel,
                    "pipeline_parallel_size": self.pipeline_parallel,
                    "expert_parallel_size": self.expert_parallel,
                    "data_parallel_size": self.data_parallel,
                    "max_num_seqs": self.batch,
                },
            }
        )


def _known(tree: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: _known(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in found.items() if value is not None and value != {}}


def result(
    source: Source,
    row: Row,
    setting: Setting,
    metrics: Mapping[str, float | None],
    notes: Sequence[str],
    **fields: Any,
) -> Result:
    """The result of a row. Figures that are None are left out."""
    option, alike = catalogued(setting.model) if setting.model else (None, None)
    return Result(
        run_id=f"{source.name} {digest(row.cells)}",
        setting=setting.content(),
        model=option or setting.model,
        weights="hub" if setting.model and "/" in setting.model else None,
        gpu=setting.gpu_option or (gpu_option(setting.gpu) if setting.gpu else None),
        gpus=(setting.gpu,) * (setting.num_gpus or 0) if setting.gpu else (),
        kind=setting.kind,
        rate_rps=setting.rate_rps,
        input_tokens=setting.input_tokens,
        output_tokens=setting.output_tokens,
        engine=setting.engine_name,
        engine_version=setting.engine_version,
        particulars=_particulars(setting),
        levers=_levers(setting, fields.get("num_requests")),
        evidence=Evidence.MEASURED,
        origin=source.origin,
        by=source.title.partition(":")[0],
        source=row.path,
        notes=(*notes, *([alike] if alike else [])),
        metrics={key: value for key, value in metrics.items() if value is not None},
        **{"instrument": "nvml", "window_s": metrics.get("window/duration_s")} | fields,
    )


def _levers(setting: Setting, num_requests: int | None) -> tuple[str, ...]:
    """What an operator turned, in the words that `config.identity.levers` has for our own."""
    dtype = None if setting.quantization or setting.dtype in USUAL_DTYPES else setting.dtype
    sizes = (
        (setting.tensor_parallel, "TP"),
        (setting.pipeline_parallel, "PP"),
        (setting.data_parallel, "DP"),
        (setting.expert_parallel, "EP"),
    )
    found = [setting.quantization, dtype, *(f"{short} {size}" for size, short in sizes if (size or 1) > 1)]
    # The size of a static batch is the load already.
    if setting.batch and setting.batch not in (1, num_requests):
        found.append(f"{setting.batch} at once")
    return tuple(word for word in found if word)


def _particulars(setting: Setting) -> tuple[str, ...]:
    """What else is not as usual, in the words that `config.identity.particulars` has for our own."""
    name, lengths = setting.engine_name, (setting.input_tokens, setting.output_tokens)
    found = [name] if name not in (None, registry.DEFAULT) else []
    if None not in lengths:
        found.append("{} in, {} out".format(*lengths))
    if setting.in_flight:
        found.append(f"at most {setting.in_flight} in flight")
    return tuple(word for word in found if word)


def digest(cells: Mapping[str, Any]) -> str:
    """Short hash of a row's content, whatever the order of its columns."""
    text = json.dumps(dict(cells), sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def numbered(results: Iterable[Result]) -> list[Result]:
    """The results, with a number behind the id of a row that comes again."""
    seen: dict[str | None, int] = {}
    found = []
    for item in results:
        seen[item.run_id] = count = seen.get(item.run_id, 0) + 1
        found.append(item if count == 1 else replace(item, run_id=f"{item.run_id} {count}"))
    return found


# -- names

RENAMED = {
    "meta-llama/meta-llama-3.1-8b-instruct": "meta-llama/llama-3.1-8b-instruct",
    "meta-llama/meta-llama-3.1-70b-instruct": "meta-llama/llama-3.1-70b-instruct",
}
"""Hub ids that name the same weights, in small letters."""
SAME_SHAPE = {
    "meta-llama/meta-llama-3-8b": "llama3_8b",
    "meta-llama/llama-3.1-8b": "llama3_1_8b",
    "meta-llama/llama-3.2-1b": "llama3_2_1b",
    "meta-llama/llama-3.2-3b": "llama3_2_3b",
    "meta-llama/llama-3.1-70b": "llama3_1_70b",
    "meta-llama/llama-2-13b-hf": "llama2_13b",
    "qwen/qwen2.5-3b": "qwen2_5_3b",
    "qwen/qwen2.5-14b": "qwen2_5_14b",
}
"""Base models by their hub id, in small letters, and the option of the chat model that was tuned from them: same architecture, same size,
other weights."""
SHORT_GPUS = {
    "a40": "a40",
    "a30": "a30",
    "a10": "a10",
    "a10g": "a10g",
    "t4": "t4",
    "l4": "l4",
    "l40": "l40",
    "l40s": "l40s",
    "h200": "h200",
    "b200": "b200",
    "b300": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
    "gh200": "gh200",
    "rtx 3090": "rtx3090",
    "rtx 4090": "rtx4090",
    "rtx 5090": "rtx5090",
    "rtx 6000 ada": "rtx6000_ada",
    "h100 nvl": "h100_nvl",
    "h100-nvl": "h100_nvl",
}
"""Short names of GPUs that come in one variant. A100, H100 and V100 come in several: their option is known only where a source says more."""


@cache
def _by_hub_id() -> dict[str, str]:
    return {model.hf_id.lower(): name for name, model in model_catalogue().items() if model.hf_id}


def catalogued(model: str) -> tuple[str | None, str | None]:
    """(option of the catalogue, note where it is not quite the same) of a model by its hub id; None: there is none."""
    name = model.lower()
    name = RENAMED.get(name, name)
    if option := _by_hub_id().get(name):
        return option, None
    if option := SAME_SHAPE.get(name):
        return option, f"model: {model}, the base model of {option}: the same shape, other weights"
    return None, None


def gpu_option(name: str) -> str | None:
    """The option of a GPU by its name: NVML's own, or a short one that can mean only one."""
    if found := match_gpu(name) or match_gpu(f"NVIDIA {name}"):
        return found.name
    short = re.sub(r"^(nvidia )?(geforce )?", "", name.strip().lower())
    short = re.sub(r" gpu$", "", short)
    option = SHORT_GPUS.get(short)
    return option if option in gpu_catalogue() else None
