"""A model of the Hugging Face hub, as far as it can be known before an engine asks for it: its local cache, and whether the hub answers.

An engine that finds neither tells so after a minute, when bare idle has been measured.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from wattcount.config.paths import has_hub_token, hub_home
from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError, one_line

ANSWER_LIMIT_S = 4.0
"""The longest that an answer of the hub is waited for [s], name resolution included: without a network that alone can take half a minute."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Ends of names of files with weights."""
R = TypeVar("R")
"""Result of what is done within a limit of time."""


class Place(Enum):
    """Where the files of a hub model are."""

    here = "here"
    """All files are in the local cache."""
    hub = "hub"
    """The hub answers and gives them."""
    nowhere = "nowhere"
    """Neither: nothing can be started."""
    unknown = "unknown"
    """It cannot be told: the package huggingface_hub is not installed."""


@dataclass(frozen=True)
class Found:
    """What was found out of a hub model. `problem`: why it cannot be had and what to do, where `place` is `nowhere`."""

    place: Place
    problem: str | None = None


def needs_hub(model: ModelConfig) -> bool:
    """Whether an engine that computes this model takes files of it from the hub, or from its cache."""
    if model.hf_id is None:
        return False
    return model.weights is Weights.hub or (
        model.weights is Weights.random and not model.hf_config and model.path is None
    )


def look(model: ModelConfig) -> Found:
    """Where the files of `model` are, which `needs_hub`; takes ANSWER_LIMIT_S at most."""
    assert model.hf_id is not None
    if is_complete(model):
        return Found(Place.here)
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        return Found(Place.unknown)
    return _asked(model.hf_id, model.revision, model.weights is Weights.hub)


def check(model: ModelConfig) -> None:
    """Raises `NotStartedError` with one line where the files of `model` cannot be had."""
    if needs_hub(model) and (problem := look(model).problem) is not None:
        raise NotStartedError(problem)


def is_complete(model: ModelConfig) -> bool:
    """Whether the local cache has all files of `model`, which `needs_hub`."""
    assert model.hf_id is not None
    return is_cached(model.hf_id, model.revision, with_weights=model.weights is Weights.hub)


def is_cached(hf_id: str, revision: str | None, *, with_weights: bool) -> bool:
    """Whether the local cache has `config.json` and, with weights, every file of weights that it knows of."""
    folder = cached_folder(hf_id, revision)
    return folder is not None and (not with_weights or _has_weights(folder))


def cached_folder(hf_id: str, revision: str | None = None) -> Path | None:
    """The folder of the local cache that has this model's `config.json`; None: it is not there."""
    if Path(hf_id).is_absolute() or ".." in hf_id:
        return None
    repository = _cache() / f"models--{hf_id.replace('/', '--')}"
    name = revision or "main"
    try:
        reference = repository / "refs" / name
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else name
        folder = repository / "snapshots" / commit
        return folder if (folder / "config.json").is_file() else None
    except (OSError, ValueError):
        return None


def cached_config(model: ModelConfig) -> dict[str, Any]:
    """The values of `config.json` as the local cache has it; empty where it has none."""
    folder = cached_folder(model.hf_id, model.revision) if model.hf_id is not None else None
    return config_json(folder) if folder is not None else {}


def config_json(folder: Path) -> dict[str, Any]:
    """The values of a folder's `config.json`; empty where it has none that can be read."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _has_weights(folder: Path) -> bool:
    """Whether all files of weights are there: those that an index lists, else any."""
    try:
        for index in folder.glob("*.safetensors.index.json"):
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return all((folder / str(name)).is_file() for name in set(listed))
        return any(file.suffix in WEIGHT_SUFFIXES and file.is_file() for file in folder.iterdir())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _cache() -> Path:
    return Path(os.environ.get("HF_HUB_CACHE") or hub_home() / "hub").expanduser()


def _is_offline() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


@functools.cache
def _asked(hf_id: str, revision: str | None, with_weights: bool) -> Found:
    """What the hub says of a model that is not in the cache; asked once, for a plan may name it a thousand times."""
    if _is_offline():
        return _nowhere(hf_id, "the hub is not asked (HF_HUB_OFFLINE)", with_weights)
    try:
        _within(ANSWER_LIMIT_S, lambda: _ask(hf_id, revision))
    except TimeoutError:
        return _nowhere(hf_id, f"the hub does not answer within {ANSWER_LIMIT_S:g} s", with_weights)
    except Exception as error:  # of huggingface_hub and of the HTTP library beneath it
        return _refused(hf_id, revision, error, with_weights)
    return Found(Place.hub)


def _ask(hf_id: str, revision: str | None) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(hf_id, "config.json", revision=revision), timeout=ANSWER_LIMIT_S)


def _refused(hf_id: str, revision: str | None, error: Exception, with_weights: bool) -> Found:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        token = "with the account of HF_TOKEN" if has_hub_token() else "and set HF_TOKEN"
        what = f"is gated: accept its licence on the hub {token}, or use model.weights=random"
    elif "RevisionNotFoundError" in kinds:
        what = f"has no revision {revision}: check model.revision"
    elif "RepositoryNotFoundError" in kinds:
        what = "is not on the hub, or is private: check the id, and HF_TOKEN for a private one"
    elif "EntryNotFoundError" in kinds or "RemoteEntryNotFoundError" in kinds:
        what = "has no config.json on the hub: is it a model that this engine can serve?"
    else:
        return _nowhere(hf_id, f"the hub cannot be reached ({one_line(error, 120)})", with_weights)
    return Found(Place.nowhere, f"model.hf_id: {hf_id} {what}")


def _nowhere(hf_id: str, why: str, with_weights: bool) -> Found:
    what = "" if with_weights else "config.json of "
    shape = ", or measure its shape with model.weights=random" if with_weights else ""
    return Found(
        Place.nowhere,
        f"model.hf_id: {what}{hf_id} is not in {_cache()} and {why}: fetch it where there is a network with 'hf download {hf_id}', "
        f"and copy that folder here or set HF_HOME to it; or give a folder, model=/PATH{shape}",
    )


def _within(limit_s: float, work: Callable[[], R]) -> R:
    """What `work` returns. Raises `TimeoutError` after `limit_s`; its thread is left behind then, for a name resolution cannot be
    broken off."""
    done: list[R] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="wattcount-hub", daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError
    return done[0]
