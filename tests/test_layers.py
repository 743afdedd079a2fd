"""Each package imports only what stands to its left in docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wattcount"
MODULES = sorted(PACKAGE.rglob("*.py"))


def order(first: str) -> dict[str, int]:
    """Each name's place in the line of docs/architecture.md that begins with `first`: `a, b < c < d`."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"    {first} <"))
    return {name.strip(): rank for rank, names in enumerate(line.split("<")) for name in names.split(",")}


RANK = order("masking, text")

SPLIT = {f"wattcount.{name.partition('.')[0]}" for name in RANK if "." in name}
"""Packages with modules that have places of their own; the packages themselves hold no code."""

CROSSING = {
    # A backend that is emulated opens its own machine.
    ("wattcount.gpu.nvml", "wattcount.emulation.machine"),
}
"""Imports against the order, each with its reason."""


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


def layer(module: str) -> str | None:
    """`config` of `wattcount.config.loader`, or the module itself where it has a place of its own; None for the top level."""
    parts = module.split(".")
    names = (".".join(parts[1:3]), parts[1]) if len(parts) > 1 else ()
    return next((name for name in names if name in RANK), None)


def inside(package: Path) -> set[str]:
    return {file.relative_to(package).parts[0].removesuffix(".py") for file in package.rglob("*.py")}


def test_every_package_has_a_layer() -> None:
    assert inside(PACKAGE) - {"__init__", "__main__", "emulator"} == {
        name for name in RANK if "." not in name
    }


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_only_to_the_left(file: Path) -> None:
    own = layer(name_of(file))
    if own is None:
        return  # wattcount, wattcount.__main__
    for target in imports(file):
        other = layer(target) if target.startswith("wattcount.") else None
        if other is None or other == own or target in SPLIT:
            continue
        crossing = any(name_of(file) == source and target.startswith(allowed) for source, allowed in CROSSING)
        assert RANK[other] < RANK[own] or crossing, f"{own} must not import {target}"


@pytest.mark.parametrize(
    ("package", "may"),
    [
        ("wattcount.gpu._native", ("wattcount.gpu.", "wattcount.emulation.")),
        ("vllm", ("wattcount.engines.vllm.",)),
        ("wattcount.engines.vllm", ("wattcount.engines.vllm.",)),
        ("wattcount.engines.tiny", ("wattcount.engines.tiny.",)),
        ("mlflow", ("wattcount.tracking",)),
        ("hydra", ("wattcount.config", "wattcount.cli", "wattcount.sweep")),
    ],
)
def test_who_may_import_what(package: str, may: tuple[str, ...]) -> None:
    users = {
        name_of(file)
        for file in MODULES
        for target in imports(file)
        if target == package or target.startswith(f"{package}.")
    }
    assert users, f"nobody imports {package}: this test looks for the wrong name"
    assert [user for user in sorted(users) if not user.startswith(may)] == []


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_an_engine_s_own_folder_names_it(file: Path) -> None:
    """Others ask its plug-in. Comments and docstrings may say whose behaviour they rest on."""
    if file.is_relative_to(PACKAGE / "engines"):
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
