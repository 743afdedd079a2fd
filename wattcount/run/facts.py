"""What this machine and these programs are, for `run.json`."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from wattcount import __version__


def host_facts() -> dict[str, Any]:
    """hostname, kernel, cpu, cpu_count, cpu_usable, memory_bytes, os, python."""
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "os": _os_name(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_count": psutil.cpu_count(logical=True),
        "cpu_usable": len(psutil.Process().cpu_affinity() or []) or None,
        "memory_bytes": int(psutil.virtual_memory().total),
        "python": platform.python_version(),
    }


def versions(engine: Iterable[str] = ()) -> dict[str, str]:
    """Versions of wattcount, of Python and of what is installed of their packages and the `engine`'s; imports none of them."""
    found = {"wattcount": __version__, "python": platform.python_version()}
    for name in ("numpy", "pyarrow", *engine):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None
