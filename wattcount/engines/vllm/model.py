"""The model that vLLM is to load, as files: its `config.json`, and the context length that it allows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from wattcount.config.fit import context_problems, max_model_len
from wattcount.config.paths import data_home, hub_home
from wattcount.config.schema import ModelConfig, RunConfig, Weights
from wattcount.errors import NotStartedError, one_line
from wattcount.files import write_atomically


def known_hf_config(model: ModelConfig) -> dict[str, Any]:
    """The model's `config.json` values as far as they are known without the network, else empty."""
    if model.weights is Weights.hub:
        if not model.hf_id:
            raise NotStartedError("model.weights=hub needs model.hf_id, or use model.weights=path or random")
        if model.gated and not _has_hub_token() and not _is_cached(model.hf_id, model.revision):
            raise NotStartedError(
                f"{model.hf_id} is gated: accept its licence on the hub and set HF_TOKEN, or use model.weights=random"
            )
        return dict(model.hf_config)
    if model.weights is Weights.path:
        return _read_config_json(model.path, "model.weights=path")
    if model.hf_config:
        return dict(model.hf_config)
    if model.path:
        return _read_config_json(model.path, "model.weights=random without model.hf_config")
    if not model.hf_id:
        raise NotStartedError(
            "model.weights=random needs the model's configuration: model.hf_config, model.path (a folder with"
            " config.json) or model.hf_id"
        )
    return {}


def _read_config_json(path: str | None, why: str) -> dict[str, Any]:
    if not path:
        raise NotStartedError(f"{why} needs model.path, a folder with config.json")
    file = Path(path).expanduser() / "config.json"
    if not file.parent.is_dir():
        raise NotStartedError(f"model.path {file.parent} is no folder")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotStartedError(f"model.path {file.parent} holds no config.json") from None
    except (OSError, ValueError) as error:
        raise NotStartedError(f"{file} cannot be read: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise NotStartedError(f"{file} holds no JSON object")
    return values


def _has_hub_token() -> bool:
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    return Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser().is_file()


def _is_cached(hf_id: str, revision: str | None) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(hf_id, "config.json", revision=revision), str)


def shape_folder(hf_config: dict[str, Any], scratch: Path) -> Path:
    """A folder with the `config.json` of random weights: the same one for the same shape, in any run.

    vLLM keeps compiled kernels by the model's path, too: a new folder would compile them anew each time. Below
    `scratch` where wattcount's home cannot be written to.
    """
    content = json.dumps(hf_config, sort_keys=True)
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    try:
        return _with_config_json(data_home() / "shapes" / name, content)
    except OSError:
        return _with_config_json(scratch / "model", content)


def _with_config_json(folder: Path, content: str) -> Path:
    file = folder / "config.json"
    if not file.exists() or file.read_text(encoding="utf-8") != content:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return folder


def context_length(cfg: RunConfig, hf_config: dict[str, Any]) -> int:
    """The context length to set vLLM up for [tokens]; raises `NotStartedError` where the requests do not fit it."""
    for problem in context_problems(cfg, hf_config):
        raise NotStartedError(problem)
    return max_model_len(cfg, hf_config)
