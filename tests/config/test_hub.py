"""Models of the hub: what the local cache has, what is said where nothing can be had."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from wattcount.config import hub
from wattcount.config.schema import ModelConfig, Weights
from wattcount.errors import NotStartedError

MODEL = ModelConfig(name="mine", hf_id="me/mine")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that nobody has asked yet."""
    hub._asked.cache_clear()
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path / "hub"


def keep(cache: Path, *files: str, commit: str = "c0ffee", config: str = "{}") -> Path:
    """A model in the cache, as the hub's library lays it out."""
    repository = cache / "models--me--mine"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    (folder / "config.json").write_text(config, encoding="utf-8")
    for name in files:
        (folder / name).write_bytes(b"weights")
    return folder


def test_a_model_is_here_only_with_all_its_weights(cache: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    folder = keep(cache, "model-1.safetensors")
    assert hub.is_complete(MODEL)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert not hub.is_complete(MODEL)
    assert hub.is_cached("me/mine", None, with_weights=False)
    (folder / "model-2.safetensors").write_bytes(b"weights")
    assert hub.look(MODEL).place is hub.Place.here


def test_a_revision_is_a_commit_or_a_name(cache: Path) -> None:
    keep(cache, "model.safetensors", commit="abc123")
    assert hub.is_cached("me/mine", "abc123", with_weights=True)
    assert not hub.is_cached("me/mine", "other", with_weights=True)


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_damaged_index_or_config_is_nothing_known(cache: Path, text: str) -> None:
    folder = keep(cache, "model.safetensors", config=text)
    assert hub.cached_config(MODEL) == {}
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    assert not hub.is_complete(MODEL)


def test_the_shape_is_read_from_the_cache(cache: Path) -> None:
    keep(cache, config='{"hidden_size": 64}')
    assert hub.cached_config(MODEL) == {"hidden_size": 64}


def test_offline_says_what_to_do_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_ask", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(
        NotStartedError,
        match=r"me/mine is not in .*HF_HUB_OFFLINE.*hf download me/mine.*model.weights=random",
    ):
        hub.check(MODEL)


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(hub, "ANSWER_LIMIT_S", 0.01)
    monkeypatch.setattr(hub, "_ask", lambda *_: answer.wait())
    try:
        assert "does not answer" in (hub.look(MODEL).problem or "")
    finally:
        answer.set()


def test_what_the_hub_refuses_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class RepositoryNotFoundError(Exception):
        pass

    class GatedRepoError(RepositoryNotFoundError):
        pass

    for error, words in (
        (RepositoryNotFoundError, "is not on the hub"),
        (GatedRepoError, "is gated"),
        (OSError, "cannot be reached"),
    ):

        def ask(*_: object, error: type[Exception] = error) -> None:
            raise error("no")

        hub._asked.cache_clear()
        monkeypatch.setattr(hub, "_ask", ask)
        assert words in (hub.look(MODEL).problem or "")


def test_a_hub_that_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hub, "_ask", lambda *what: asked.append(what))
    assert {hub.look(MODEL).place for _ in range(3)} == {hub.Place.hub}
    assert len(asked) == 1


def test_random_weights_of_a_known_shape_need_no_hub() -> None:
    known = ModelConfig(name="m", hf_id="me/mine", weights=Weights.random, hf_config={"hidden_size": 64})
    unknown = ModelConfig(name="m", hf_id="me/mine", weights=Weights.random)
    assert not hub.needs_hub(known)
    assert hub.needs_hub(unknown)
    assert not hub.needs_hub(ModelConfig(name="m", weights=Weights.path, path="/m"))
