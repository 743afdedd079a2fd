"""Where wattcount keeps what it makes: one folder, never the working directory."""

from __future__ import annotations

import os
from pathlib import Path


def data_home() -> Path:
    """`$WATTCOUNT_HOME`, else `$XDG_DATA_HOME/wattcount`, else `~/.local/share/wattcount`; absolute."""
    home = os.environ.get("WATTCOUNT_HOME")
    if home:
        return Path(home).expanduser().absolute()
    # The XDG specification says to ignore a relative path.
    xdg = os.environ.get("XDG_DATA_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "share"
    return base / "wattcount"


def gpu_lock_dir() -> Path:
    """`$WATTCOUNT_LOCK_DIR`, else `/tmp/wattcount-gpus`: the same for all users of the host.

    Not `$TMPDIR`, which batch systems set for each job. Containers that share a GPU share this folder as a volume.
    """
    return Path(os.environ.get("WATTCOUNT_LOCK_DIR") or "/tmp/wattcount-gpus").expanduser().absolute()


def default_records_dir() -> str:
    return str(data_home() / "records")
