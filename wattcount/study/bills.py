"""What energy and GPUs cost, and the carbon of it: from files that a user gives, with defaults that are marked as such."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wattcount.errors import NotStartedError
from wattcount.files import read_text

USUAL_PUE = 1.56
"""Energy of a data centre / energy of its machines, where nobody gives one: the mean of the Uptime Institute's Global Data Center Survey 2024."""
USUAL_G_PER_KWH = 445.0
"""Carbon of electricity [g CO2/kWh] where nobody gives one: the world's mean of 2024 (IEA, Electricity 2025)."""
J_PER_KWH = 3.6e6
"""Joules in a kilowatt-hour."""
HOURS = 24
"""Hours of a day, for which a file of carbon has a row each."""


@dataclass(frozen=True)
class Bills:
    """Prices and carbon.

    per_gpu_hour  price of a GPU for an hour, by its option or name in small letters
    currency      of the prices, as the file names it
    pue           energy of the data centre / energy of its machines
    g_per_kwh     carbon of electricity by hour of the day, 24 values, or one for all [g CO2/kWh]
    given         what was given by the user: `price`, `carbon`
    """

    per_gpu_hour: Mapping[str, float] = field(default_factory=dict)
    currency: str = ""
    pue: float = USUAL_PUE
    g_per_kwh: tuple[float, ...] = (USUAL_G_PER_KWH,)
    given: tuple[str, ...] = ()

    def cost_per_1000(self, option: str | None, name: str, gpus: int, good_rps: float | None) -> float | None:
        """Price of 1,000 good requests that `gpus` GPUs serve at `good_rps` requests/s together; None: no price of that GPU."""
        price = next(
            (
                self.per_gpu_hour[key.lower()]
                for key in (option or "", name)
                if key.lower() in self.per_gpu_hour
            ),
            None,
        )
        if price is None or not good_rps:
            return None
        return price * gpus / (good_rps * 3600.0) * 1000.0

    def carbon_g_per_1000(self, energy_j: float) -> float:
        """Of 1,000 requests of that energy [g CO2], the GPUs' energy alone with what the data centre adds, mean over the day."""
        mean = math.fsum(self.g_per_kwh) / len(self.g_per_kwh)
        return 1000.0 * energy_j / J_PER_KWH * self.pue * mean

    @property
    def best_hours(self) -> tuple[int, int, float] | None:
        """(hour with the least carbon, with the most, least / most); None: the same all day."""
        if len(self.g_per_kwh) != HOURS:
            return None
        least, most = (self.g_per_kwh.index(end(self.g_per_kwh)) for end in (min, max))
        return least, most, self.g_per_kwh[least] / self.g_per_kwh[most]

    @property
    def words(self) -> str:
        carbon = (
            "as given"
            if "carbon" in self.given
            else f"default: PUE {USUAL_PUE} (Uptime Institute 2024), {USUAL_G_PER_KWH:g} g/kWh (world, IEA 2024)"
        )
        price = (
            f"as given{', ' + self.currency if self.currency else ''}"
            if "price" in self.given
            else "none given (--price)"
        )
        return f"Carbon {carbon}. Prices {price}."


def read_bills(price: Path | None = None, carbon: Path | None = None) -> Bills:
    """`price`: CSV with `gpu,per_hour` and optionally `currency`. `carbon`: CSV with `hour,g_per_kwh` (24 rows), or `key,value` rows
    `pue` and `g_per_kwh`; both may stand in one file. Raises NotStartedError that names line and remedy."""
    prices, currency, given = {}, "", []
    if price is not None:
        given.append("price")
        for line, row in _rows(price, "file of prices", ("gpu", "per_hour")):
            prices[row["gpu"].strip().lower()] = _number(price, line, "per_hour", row["per_hour"])
            currency = (row.get("currency") or currency).strip()
    pue, hours = USUAL_PUE, dict.fromkeys(range(HOURS), math.nan)
    flat: float | None = None
    if carbon is not None:
        given.append("carbon")
        for line, row in _rows(carbon, "file of carbon", ("hour", "g_per_kwh")):
            hour = row["hour"].strip().lower()
            if hour == "pue":
                pue = _number(carbon, line, "PUE", row["g_per_kwh"])
                if pue < 1:
                    raise NotStartedError(f"{carbon}, line {line}: a PUE is 1 or more; correct it")
            elif hour == "all":
                flat = _number(carbon, line, "g_per_kwh", row["g_per_kwh"])
            elif hour.isdigit() and int(hour) < HOURS:
                hours[int(hour)] = _number(carbon, line, "g_per_kwh", row["g_per_kwh"])
            else:
                raise NotStartedError(
                    f"{carbon}, line {line}: hour is {hour!r}; give 0 to 23, `all`, or `pue`"
                )
        known = [value for value in hours.values() if not math.isnan(value)]
        if known and len(known) < HOURS:
            raise NotStartedError(f"{carbon} has {len(known)} hours; give all 24 (0 to 23), or one row `all`")
        intensity = tuple(known) if known else (USUAL_G_PER_KWH if flat is None else flat,)
    else:
        intensity = (USUAL_G_PER_KWH,)
    return Bills(prices, currency, pue, intensity, tuple(given))


def _rows(path: Path, what: str, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path, what)))
    if lacking := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise NotStartedError(
            f"{path}, line 1: the {what} has no column {', '.join(lacking)}; give {','.join(needed)}"
        )
    rows = [
        (line, {k: v or "" for k, v in row.items() if isinstance(k, str)})
        for line, row in enumerate(reader, 2)
    ]
    if not rows:
        raise NotStartedError(f"{path} has no row; give {','.join(needed)}")
    return rows


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise NotStartedError(
            f"{path}, line {line}: {name} is {text[:50]!r}, no number from 0 on; correct it"
        )
    return value
