"""What is known of each GPU's sensors: probed once, then kept by UUID and driver version."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wattcount import __version__
from wattcount.config import paths
from wattcount.config.schema import PowerConfig
from wattcount.errors import WattcountError
from wattcount.files import write_atomically
from wattcount.gpu import PowerSampler
from wattcount.gpu.characterise import FIRST_PROBE_S, PROBE_CONFIG, characterise, sampling_plan
from wattcount.gpu.nvml import NvmlSession

KNOWN_VERSION = 1
"""Version of what is kept of a GPU; other versions are found out anew."""


def known_path(gpu_uuid: str, driver_version: str | None) -> Path:
    """Where the characterisation of one GPU under one driver is kept."""
    name = re.sub(r"[^\w.-]", "_", f"{gpu_uuid}-{driver_version or 'unknown'}")
    return paths.data_home() / "sensors" / f"{name}.json"


def known(gpu_uuid: str, driver_version: str | None) -> dict[str, Any] | None:
    """What was found of a GPU before; None where nothing was, or the file is damaged or of another version."""
    try:
        content = json.loads(known_path(gpu_uuid, driver_version).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("version") != KNOWN_VERSION:
        return None
    found = content.get("characterisation")
    return found if isinstance(found, dict) and _whole(found) else None


def _whole(found: dict[str, Any]) -> bool:
    """Whether a plan of reads can be made of it: a file may be damaged and still be JSON."""
    try:
        sampling_plan(found, PowerConfig())
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


def keep(gpu_uuid: str, driver_version: str | None, found: dict[str, Any]) -> Path | None:
    """Puts a characterisation where `known` finds it; None where the folder cannot be written."""
    path = known_path(gpu_uuid, driver_version)
    content = {"version": KNOWN_VERSION, "wattcount": __version__, "characterisation": found}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1))
    except OSError:
        return None
    return path


def probe(session: NvmlSession, gpu_uuids: Sequence[str], seconds: float) -> dict[str, dict[str, Any]]:
    """Reads all sources of the GPUs fast for some seconds; what they are like, by UUID."""
    with PowerSampler(list(gpu_uuids), session, PROBE_CONFIG, usage_beside_average=True) as sampler:
        time.sleep(seconds)
    trace, healths = sampler.trace(), {health["uuid"]: health for health in sampler.health()}
    return {uuid: characterise(trace, uuid, healths[uuid]) for uuid in gpu_uuids}


def characterised(
    session: NvmlSession, gpu_uuids: Sequence[str], config: PowerConfig
) -> dict[str, dict[str, Any]]:
    """What is known of each GPU, by UUID. What is not known is found out first, in `FIRST_PROBE_S`.

    On an emulated GPU nothing is probed unless `power.probe` asks for it. A probe that fails spoils no run: the
    GPU is sampled as if nothing were known.
    """
    driver = session.library.get("driver_version")
    found = {uuid: content for uuid in gpu_uuids if (content := known(uuid, driver)) is not None}
    unknown = [uuid for uuid in gpu_uuids if uuid not in found]
    wanted = config.probe if config.probe is not None else session.evidence == "measured"
    if unknown and wanted:
        with contextlib.suppress(WattcountError, RuntimeError, ValueError):
            for uuid, content in probe(session, unknown, FIRST_PROBE_S).items():
                keep(uuid, driver, content)
                found[uuid] = content
    return found
