"""Settings of a GPU that a run asks for: its SM clock and its power limit. They outlive the process that makes them.

NVML tells a power limit but not which clocks are locked: to undo a lock is to unlock, whoever had locked before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wattcount.config.schema import GpuConfig
from wattcount.errors import NotStartedError
from wattcount.gpu import _native
from wattcount.gpu.library import Library

if TYPE_CHECKING:
    from wattcount.gpu.nvml import GpuFacts

NO_PERMISSION, NOT_SUPPORTED, FUNCTION_NOT_FOUND = 4, 3, 13
"""nvmlReturn_t."""
CANNOT = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
"""NVML's return codes of a setting that a board does not have."""
POWER_LIMIT_STEP_MW = 1000
"""Limits within this of each other are one: boards round to what their regulator can do."""


class UndoError(Exception):
    """A setting is still in force and should not be."""


@dataclass(frozen=True)
class Setting:
    """What is asked of one GPU, and what to go back to. None: not asked for."""

    uuid: str
    sm_clock_mhz: int | None
    power_limit_mw: int | None
    power_limit_before_mw: int | None

    def describe(self) -> str:
        parts = [] if self.sm_clock_mhz is None else [f"SM clock locked to {self.sm_clock_mhz} MHz"]
        if self.power_limit_mw is not None:
            before = (self.power_limit_before_mw or 0) / 1e3
            parts.append(f"power limit {self.power_limit_mw / 1e3:g} W instead of {before:g} W")
        return ", ".join(parts)

    def undo_by_hand(self) -> str:
        """Commands for a person with the right to do so."""
        parts = [] if self.sm_clock_mhz is None else [f"sudo nvidia-smi -i {self.uuid} -rgc"]
        if self.power_limit_mw is not None:
            parts.append(f"sudo nvidia-smi -i {self.uuid} -pl {(self.power_limit_before_mw or 0) / 1e3:g}")
        return " && ".join(parts)


def plan(gpu: GpuConfig, gpus: Sequence[GpuFacts], native: Library) -> list[Setting]:
    """The settings that `gpu` asks for, one a GPU; empty where it asks for none.

    Raises `NotStartedError` for what NVML says a GPU cannot do; whether it may be done only trying tells.
    """
    if gpu.sm_clock_mhz is None and gpu.power_limit_w is None:
        return []
    return [_plan_one(gpu, facts, native) for facts in gpus]


def _plan_one(gpu: GpuConfig, facts: GpuFacts, native: Library) -> Setting:
    if facts.shares_power:
        key = "gpu.power_limit_w" if gpu.sm_clock_mhz is None else "gpu.sm_clock_mhz"
        raise NotStartedError(
            f"{key}: {facts.name} ({facts.uuid}) is shared with others (MIG or vGPU), whose work it would change; "
            "leave it out"
        )
    if gpu.sm_clock_mhz is not None:
        _check_clock(gpu.sm_clock_mhz, facts, native)
    if gpu.power_limit_w is None:
        return Setting(facts.uuid, gpu.sm_clock_mhz, None, None)
    asked_mw = round(gpu.power_limit_w * 1e3)
    if facts.power_limit_mw is None:
        raise NotStartedError(
            f"gpu.power_limit_w: NVML does not tell the power limit of {facts.name} ({facts.uuid}), so it could not be "
            "restored; leave it out"
        )
    least_mw, most_mw = facts.power_limit_min_mw, facts.power_limit_max_mw
    if least_mw is not None and most_mw is not None and not least_mw <= asked_mw <= most_mw:
        raise NotStartedError(
            f"gpu.power_limit_w: {gpu.power_limit_w:g} W is outside of what {facts.name} allows, {least_mw / 1e3:g} to "
            f"{most_mw / 1e3:g} W"
        )
    return Setting(facts.uuid, gpu.sm_clock_mhz, asked_mw, facts.power_limit_mw)


def _check_clock(asked_mhz: int, facts: GpuFacts, native: Library) -> None:
    supported: list[int] = []
    with contextlib.suppress(_native.NvmlError):
        supported = native.supported_sm_clocks_mhz(facts.uuid)
    if supported and asked_mhz not in supported:
        nearest = min(supported, key=lambda clock: (abs(clock - asked_mhz), clock))
        raise NotStartedError(
            f"gpu.sm_clock_mhz: {facts.name} has no SM clock of {asked_mhz} MHz; it has {supported[0]} to "
            f"{supported[-1]} MHz in steps, the nearest is {nearest} MHz"
        )
    most_mhz = facts.max_sm_clock_mhz
    if not supported and most_mhz is not None and asked_mhz > most_mhz:
        raise NotStartedError(
            f"gpu.sm_clock_mhz: {asked_mhz} MHz is above the highest SM clock of {facts.name}, {most_mhz} MHz"
        )


def put_in_force(native: Library, setting: Setting) -> dict[str, Any]:
    """Makes a setting and reads it back; what was found, for `run.json`.

    A power limit that is what it should be is left alone, which needs no permission. Raises
    `NotStartedError`; a power limit may have been set by then, clocks have not been locked.
    """
    found: dict[str, Any] = {}
    if setting.power_limit_mw is not None:
        if not _same(setting.power_limit_before_mw, setting.power_limit_mw):
            with _refusals("gpu.power_limit_w", setting):
                native.set_power_limit_mw(setting.uuid, setting.power_limit_mw)
        now = native.device_info(setting.uuid)
        found["power_limit_mw"] = {
            "before": setting.power_limit_before_mw,
            "asked": setting.power_limit_mw,
            "read_back": now["power_limit_mw"],
            "enforced": now["power_limit_enforced_mw"],
            "restored": None,
        }
        for what in ("power_limit_mw", "power_limit_enforced_mw"):
            if not _same(now[what], setting.power_limit_mw):
                there = "nothing" if now[what] is None else f"{now[what] / 1e3:g} W"
                raise NotStartedError(
                    f"gpu.power_limit_w: {setting.uuid} was set to {setting.power_limit_mw / 1e3:g} W, but NVML reads "
                    f"back {there} ({what}); something else limits it: leave it out"
                )
    if setting.sm_clock_mhz is not None:
        with _refusals("gpu.sm_clock_mhz", setting):
            native.lock_sm_clock_mhz(setting.uuid, setting.sm_clock_mhz)
        # NVML does not tell what is locked; the clock under load is in power.parquet.
        found["sm_clock_mhz"] = {"before": None, "asked": setting.sm_clock_mhz, "restored": None}
    return found


def undo(native: Library, setting: Setting, *, clocks: bool = True) -> dict[str, Any]:
    """Goes back to what was before; may be called again. Returns what is in force now, by setting.

    A power limit that is not the one asked for any more was changed by someone else since, and stays. `clocks`
    False: clocks are left alone. Raises `UndoError`.
    """
    left: dict[str, Any] = {}
    before_mw = setting.power_limit_before_mw
    try:
        if setting.power_limit_mw is not None and before_mw is not None:
            now_mw = native.device_info(setting.uuid)["power_limit_mw"]
            if _same(now_mw, setting.power_limit_mw) and not _same(now_mw, before_mw):
                native.set_power_limit_mw(setting.uuid, before_mw)
                now_mw = native.device_info(setting.uuid)["power_limit_mw"]
            left["power_limit_mw"] = now_mw
        if setting.sm_clock_mhz is not None and clocks:
            native.unlock_sm_clock(setting.uuid)
            left["sm_clock_mhz"] = "unlocked"
    except _native.NvmlError as error:
        raise UndoError(f"{setting.describe()}: {error}; by hand: {setting.undo_by_hand()}") from error
    return left


def _same(a_mw: int | None, b_mw: int | None) -> bool:
    return a_mw is not None and b_mw is not None and abs(a_mw - b_mw) < POWER_LIMIT_STEP_MW


@contextlib.contextmanager
def _refusals(key: str, setting: Setting) -> Iterator[None]:
    try:
        yield
    except _native.NvmlError as error:
        if error.code == NO_PERMISSION:
            by_hand = (
                f", or set it by hand (sudo nvidia-smi -i {setting.uuid} -pl {(setting.power_limit_mw or 0) / 1e3:g})"
                if key == "gpu.power_limit_w"
                else ""
            )
            raise NotStartedError(
                f"{key}: no permission to set it on {setting.uuid}: run as root{by_hand}, or leave it out"
            ) from error
        if error.code in CANNOT:
            raise NotStartedError(
                f"{key}: {setting.uuid} or its driver does not support it: leave it out"
            ) from error
        raise NotStartedError(f"{key}: {error}") from error
