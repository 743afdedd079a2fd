"""Where the packaged groups lie, and what options they have, without Hydra or OmegaConf: for the help and for completion."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from wattcount.engines import registry


def conf_path() -> str:
    """Where the groups are, as Hydra's search path has it.

    The package `wattcount.conf`; in a checkout that is not installed the folder `conf` beside the package.
    """
    if importlib.util.find_spec("wattcount.conf") is not None:
        return "pkg://wattcount.conf"
    return str(Path(__file__).resolve().parents[2] / "conf")


def packaged(group: str) -> Path:
    """The folder of a group's files, or of others below `conf/`."""
    spec = importlib.util.find_spec("wattcount.conf")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path(conf_path())
    return folder / group


def packaged_options(group: str) -> list[str]:
    """The options of a group, sorted: its files, and of `engine` the engines that are registered."""
    names = {file.stem for file in packaged(group).glob("*.yaml")}
    return sorted(names | set(registry.names() if group == "engine" else ()))
