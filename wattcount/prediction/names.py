"""Models and GPUs by what people call them, without a network: options of the catalogue, hub ids, files of `config.json`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wattcount.config.catalogue import catalogued_model, gpu_catalogue, match_gpu, model_catalogue
from wattcount.config.fit import DTYPE_BYTES
from wattcount.config.schema import GpuConfig, ModelConfig
from wattcount.prediction.setting import Abstained

SHAPES = Path(__file__).with_name("shapes.json")
"""Sizes of models that are not in the catalogue, by hub id."""
MOST_CONFIG_BYTES = 2**20
"""Largest `config.json` that is read [bytes]: the largest of the hub have some ten thousand."""
VARIANTS = {
    "a100": "a100",
    "a100 80gb": "a100_80gb",
    "a100 40gb": "a100_40gb",
    "a100 sxm": "a100",
    "a100 sxm4": "a100",
    "a100 pcie": "a100_pcie_80gb",
    "a100 80gb pcie": "a100_pcie_80gb",
    "a100 40gb pcie": "a100_pcie_40gb",
    "a800": "a100",
    "h100 sxm": "h100",
    "h100 sxm5": "h100",
    "h100 80gb": "h100",
    "h800": "h100",
    "v100 sxm2": "v100",
    "v100 sxm2 32gb": "v100",
    "v100 sxm2 16gb": "v100_16gb",
    "v100 pcie": "v100",
    "gh200 480gb": "gh200",
    "rtx 4090d": "rtx4090",
    "rtx 6000 ada generation": "rtx6000_ada",
    "rtx pro 6000 blackwell": "rtx_pro_6000",
}
"""Names of variants as people write them, and our options. A100, H100 and V100 alone mean the boards on SXM, which most servers have."""
DTYPES = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "float16": "float16",
    "fp32": "float32",
    "float": "float32",
    "float32": "float32",
}
"""Types by the names that people give them."""
METHODS = {
    "fp8": "fp8",
    "float8": "fp8",
    "w8a8": "fp8",
    "fbgemm_fp8": "fbgemm_fp8",
    "modelopt": "modelopt",
    "compressed-tensors": "compressed-tensors",
    "experts_int8": "experts_int8",
    "awq": "awq",
    "awq_marlin": "awq_marlin",
    "gptq": "gptq",
    "gptq_marlin": "gptq_marlin",
    "int4": "awq",
    "w4a16": "awq",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "nf4": "bitsandbytes",
    "bitsandbytes": "bitsandbytes",
    "bnb": "bitsandbytes",
}
"""Methods of quantisation by the names that people give them."""


def find_gpu(name: str) -> GpuConfig:
    """By its option, NVML's name or a short name. Raises `Abstained` where there is none."""
    options = gpu_catalogue()
    plain = name.strip()
    if plain.lower() in options:
        return options[plain.lower()]
    if found := match_gpu(plain) or match_gpu(f"NVIDIA {plain}") or match_gpu(f"NVIDIA GeForce {plain}"):
        return found
    short = re.sub(r"[\s_-]+", " ", plain.lower())
    short = re.sub(r"^(nvidia )?(geforce |tesla )?", "", short).removesuffix(" gpu")
    spaced = re.sub(r"(\d) gb", r"\1gb", short)
    for candidate in (
        VARIANTS.get(spaced),
        spaced.replace(" ", "_"),
        spaced.replace(" ", ""),
        VARIANTS.get(re.sub(r"^(rtx)(\d)", r"\1 \2", spaced)),
    ):
        if candidate in options:
            return options[candidate]
    raise Abstained(f"GPU {plain!r} is not known: wattcount gpus lists those that are")


def find_model(name: str, *, files: bool = True) -> ModelConfig:
    """By its option, its hub id, or the path of its `config.json` or of the folder that holds it.

    files  paths are read

    Raises `Abstained` where there is none.
    """
    plain = name.strip()
    if (option := catalogued_model(plain.lower())) is not None:
        return option
    known = _hub_ids()
    if (found := known.get(plain.lower())) is not None:
        return found
    if files and (plain.endswith(".json") or Path(plain).is_dir()):
        return _of_file(Path(plain))
    raise Abstained(
        f"model {plain!r} is neither in the catalogue nor a hub id whose sizes are known: give the path of its config.json"
    )


def find_dtype(word: str | None) -> tuple[str | None, str | None]:
    """The type and the method of quantisation that a word for a type means. Raises `Abstained` for an unknown one."""
    plain = (word or "").strip().lower()
    if plain in ("", "auto", "none"):
        return None, None
    if plain in DTYPES:
        return DTYPES[plain], None
    if plain in METHODS:
        return None, METHODS[plain]
    raise Abstained(f"dtype {plain!r} is not known: {', '.join(DTYPES)}")


def find_method(word: str | None) -> str | None:
    """The method of quantisation. Raises `Abstained` for an unknown one."""
    plain = (word or "").strip().lower()
    if plain in ("", "auto", "none", "no", *DTYPES):
        return None
    if plain in METHODS:
        return METHODS[plain]
    raise Abstained(f"quantization {plain!r} is not known: {', '.join(METHODS)}")


@functools.cache
def _hub_ids() -> dict[str, ModelConfig]:
    content = json.loads(SHAPES.read_text(encoding="utf-8"))
    found = {
        hub_id.lower(): ModelConfig(
            name=hub_id, hf_id=hub_id, hf_config=entry["config"], source=content["source"]
        )
        for entry in content["models"]
        for hub_id in entry["ids"]
    }
    return found | {model.hf_id.lower(): model for model in model_catalogue().values() if model.hf_id}


def _of_file(path: Path) -> ModelConfig:
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.stat().st_size > MOST_CONFIG_BYTES:
            raise Abstained(f"{file}: has more than {MOST_CONFIG_BYTES} bytes, so it is no config.json")
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Abstained(f"{file}: cannot be read as a config.json: {type(error).__name__}") from None
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise Abstained(f"{file}: is no config.json: it must hold one JSON object")
    stated = str(content.get("torch_dtype") or content.get("dtype") or "bfloat16")
    name = str(content.get("_name_or_path") or file.parent.name or file.stem) or "model"
    return ModelConfig(
        name=name[:200],
        hf_config=_sizes(content),
        dtype=stated if stated in DTYPE_BYTES else "bfloat16",
    )


def _sizes(content: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in content.items() if key not in ("id2label", "label2id")}
