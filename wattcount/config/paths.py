"""Where wattcount keeps what it makes: one folder, never the working directory."""

from __future__ import annotations

import os
from pathlib import Path

NO_HOME = Path("/proc/no-home")
"""The home of a user who has none: neither $HOME nor an entry in passwd, as in many containers: nobody can write there."""


def user_home() -> Path:
    """The user's home folder, `NO_HOME` where there is none; it need not be there, or writable."""
    try:
        return Path.home()
    except RuntimeError:
        return NO_HOME


def data_home() -> Path:
    """`$WATTCOUNT_HOME`, else `$XDG_DATA_HOME/wattcount`, else `~/.local/share/wattcount`; absolute.

    It need not be writable: a run with `records_dir=FOLDER` and `tracking=none` needs nothing of it.
    """
    home = os.environ.get("WATTCOUNT_HOME")
    if home:
        return Path(home).expanduser().absolute()
    # The XDG specification says to ignore a relative path.
    xdg = os.environ.get("XDG_DATA_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else user_home() / ".local" / "share"
    return base / "wattcount"


def hub_home() -> Path:
    """Where the Hugging Face hub keeps tokens and downloads: `$HF_HOME`, else `~/.cache/huggingface`."""
    named = os.environ.get("HF_HOME")
    return Path(named).expanduser() if named else user_home() / ".cache" / "huggingface"


def has_hub_token() -> bool:
    """Whether a token for gated models of the hub is set, in the environment or in the hub's own file."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    return Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser().is_file()


def gpu_lock_dir() -> Path:
    """`$WATTCOUNT_LOCK_DIR`, else `/tmp/wattcount-gpus`: the same for all users of the host.

    Not `$TMPDIR`, which batch systems set for each job. Containers that share a GPU share this folder as a volume.
    """
    return Path(os.environ.get("WATTCOUNT_LOCK_DIR") or "/tmp/wattcount-gpus").expanduser().absolute()


def default_records_dir() -> str:
    return str(data_home() / "records")
