"""Who may use what, as far as the import contracts of pyproject.toml cannot say it: a native module, and names in code."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wattcount"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Full names of everything a module imports, inside functions too, but for TYPE_CHECKING."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    package = name_of(file) if file.name == "__init__.py" else name_of(file).rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_only_gpus_and_their_emulation_use_the_native_module() -> None:
    native = "wattcount.gpu._native"
    users = {name_of(file) for file in MODULES if native in imports(file)}
    assert users, f"nobody imports {native}: this test looks for the wrong name"
    assert [
        user for user in sorted(users) if not user.startswith(("wattcount.gpu.", "wattcount.emulation."))
    ] == []


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_an_engine_s_own_folder_names_it(file: Path) -> None:
    """Others ask its plug-in. Comments and docstrings may say whose behaviour they rest on.

    An importer says what others ran: that is a fact of their results, and nothing here depends on it. `fitting` learns from those
    results. How far a source is off, by the engine that it ran, is a fact of them, too: there is no plug-in for most.
    """
    if any(file.is_relative_to(PACKAGE / name) for name in ("engines", "importers", "fitting")):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words = [
        str(word)
        for node in ast.walk(tree)
        if id(node) not in said
        for word in (
            getattr(node, "value", None),
            *(getattr(node, key, None) for key in ("id", "attr", "name", "arg")),
        )
        if isinstance(word, str)
    ]
    assert [word for word in words if "vllm" in word.lower()] == []


def test_imports_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    module = tmp_path / "wattcount" / "load" / "wrong.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    import unseen.one\n"
        "def f():\n"
        "    from c import d\n"
        "    from ..engines import base\n"
        "    from . import plan\n"
    )
    assert set(imports(module)) == {
        "typing",
        "typing.TYPE_CHECKING",
        "c",
        "c.d",
        "wattcount.engines",
        "wattcount.engines.base",
        "wattcount.load",
        "wattcount.load.plan",
    }
