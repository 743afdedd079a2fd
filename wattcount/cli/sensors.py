"""`wattcount doctor --sensors`: what the power sensors of this machine's GPUs are like."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from wattcount.config import compose
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.energy import PowerTrace
from wattcount.energy.events import Source
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.gpu import PowerSampler
from wattcount.gpu.characterise import PROBE_CONFIG, Load, characterise, sampling_plan
from wattcount.gpu.nvml import GpuFacts, NvmlSession, open_session
from wattcount.gpu.stimulus import run_waves
from wattcount.run.sensors import keep
from wattcount.terminal import console, table

IDLE_S = 10.0
"""How long an idle GPU is watched [s]: a hundred values of the slowest energy counter known (100 ms)."""
COLOURS = {"energy_counter": "k", "power_samples": "C0", "power_average": "C1", "power_instant": "C2"}
"""Colour of each source in a plot, as matplotlib names it."""
SOURCES = {
    "energy_counter": "energy counter",
    "power_samples": "samples ring",
    "power_average": "field 185",
    "power_instant": "field 186",
    "power_usage": "GetPowerUsage",
}
"""Sources of power and energy, in the order of the tables, and what people call them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sensors", action="store_true", help="find out what the power sensors are like")
    parser.add_argument(
        "--load",
        action="store_true",
        help="with --sensors: under known loads of some 30 s a GPU, for step response and aliasing (needs torch)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="with --sensors: draw it (PNG, PDF, SVG)")
    parser.add_argument(
        "--emulated", metavar="GPU", help="with --sensors: of an emulated GPU instead (h200, a100, l4, ...)"
    )


def main(args: argparse.Namespace) -> int:
    if args.plot is not None:
        _pyplot()
    power = PowerConfig(backend=PowerBackend.emulated if args.emulated else PowerBackend.nvml)
    gpu = GpuConfig() if not args.emulated else compose([f"gpu={args.emulated}", "power=emulated"]).gpu
    results: dict[str, Any] = {}
    with open_session(power, gpu) as session:
        driver = session.library.get("driver_version")
        gpus = session.gpus()
        if not gpus:
            raise NotStartedError("NVML shows no GPU; --emulated h200 shows what an emulated one is like")
        for facts in gpus:
            trace, loads, found = _probe(session, facts, with_load=args.load)
            kept = keep(facts.uuid, driver, found)
            results[facts.uuid] = {
                "name": facts.name,
                "evidence": session.evidence,
                "driver_version": driver,
                "characterisation": found,
                "kept": None if kept is None else str(kept),
            }
            if args.json != "-":
                show(console(), facts, session.evidence, found)
            if args.plot is not None:
                place = args.plot
                if len(gpus) > 1:
                    place = place.with_name(f"{place.stem}-gpu{facts.index}{place.suffix}")
                plot(place, f"{facts.name} ({session.evidence})", trace, facts.uuid, loads, found)
                print(f"plot: {place}", file=sys.stderr)
    if args.json is not None:
        write_json(args.json, results)
    return EXIT_OK


def write_json(place: str, content: object) -> None:
    """To a file, or to standard output for `-`."""
    text = json.dumps(content, indent=2)
    if place == "-":
        print(text)
        return
    try:
        Path(place).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise NotStartedError(f"--json {place}: {error.strerror}") from error


def _probe(
    session: NvmlSession, facts: GpuFacts, with_load: bool
) -> tuple[PowerTrace, list[Load], dict[str, Any]]:
    loads: list[Load] = []
    with PowerSampler([facts.uuid], session, PROBE_CONFIG, usage_beside_average=True) as sampler:
        if with_load:
            time.sleep(2.0)
            loads = run_waves(session, facts.uuid)
            time.sleep(1.0)
        else:
            time.sleep(IDLE_S)
    trace = sampler.trace()
    (health,) = sampler.health()
    return trace, loads, characterise(trace, facts.uuid, health, loads)


def show(out: Console, facts: GpuFacts, evidence: str, found: dict[str, Any]) -> None:
    """Prints two tables: the sources, and their mean power under each load."""
    out.print(f"{facts.name} {facts.uuid} ({evidence}), {found['seconds']:.0f} s", soft_wrap=True)
    sources = table(("source", "new every", "mean of", "delay", "rise", "call p50 / p99", "step"))
    for name, label in SOURCES.items():
        source = found["sources"].get(name)
        if source is None:
            sources.add_row(label, *["-"] * 6)
            continue
        delay = source["step_delay_ms"] if source["step_delay_ms"] is not None else source["delay_ms"]
        mean_of = "a moment" if source["box_ms"] == 0 else _ms(source["box_ms"])
        calls = "-"
        if source["call_p50_ms"] is not None:
            calls = _call(source["call_p50_ms"], source["call_p99_ms"])
        unit = "J" if name == "energy_counter" else "W"
        sources.add_row(
            label,
            _ms(source["update_period_ms"]),
            mean_of,
            _ms(delay),
            _ms(source["rise_ms"]),
            calls,
            "-" if source["resolution_w"] is None else f"{source['resolution_w']:.2g} {unit}",
        )
    out.print(sources)
    counter, ring = found["counter"], found["ring"]
    if not counter["present"]:
        out.print("no energy counter")
    elif not counter["moves"]:
        out.print("the energy counter does not move")
    elif counter["power_against_counter"] is not None:
        label = SOURCES[counter["agrees_with"]]
        out.print(f"{label} against the energy counter: {100 * counter['power_against_counter']:+.1f} %")
    if ring["depth"]:
        lost = "" if ring["lost_share"] is None else f", {100 * ring['lost_share']:.1f} % lost"
        out.print(f"samples ring: {ring['depth']} deep{lost}")
    plan = sampling_plan(found, PowerConfig())
    out.print(
        f"sampled every: counter {plan.energy_counter_period_ms:.0f} ms, fields {plan.power_period_ms:.0f} ms, "
        f"ring {plan.samples_period_ms:.0f} ms"
    )
    if found["loads"]:
        out.print(_aliasing(found["loads"]))


def _aliasing(loads: Sequence[dict[str, Any]]) -> Table:
    others = [
        name for name in SOURCES if name != "energy_counter" and any(name in load["mean_w"] for load in loads)
    ]
    shown = table(["load", "counter", *(SOURCES[name] for name in others)])
    for load in loads:
        counter = load["mean_w"].get("energy_counter")
        cells = []
        for name in others:
            value = load["mean_w"].get(name)
            cells.append(f"{100 * (value / counter - 1):+.1f} %" if value and counter else "-")
        shown.add_row(
            f"{load['on_ms']:g} of {load['period_ms']:g} ms",
            "-" if not counter else f"{counter:.0f} W",
            *cells,
        )
    return shown


def _call(p50_ms: float, p99_ms: float) -> str:
    scale, unit = (1.0, "ms") if p99_ms >= 0.1 else (1e3, "us")
    return f"{scale * p50_ms:.2g} / {scale * p99_ms:.2g} {unit}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise NotStartedError("--plot needs matplotlib: pip install 'wattcount[plot]'") from error
    return plt


def plot(
    place: Path, title: str, trace: PowerTrace, gpu_uuid: str, loads: Sequence[Load], found: dict[str, Any]
) -> None:
    """Draws power around the slow steps by each source, and each source's mean of a load against the counter's."""
    plt = _pyplot()
    slow = [load for load in loads if load.on_ms >= 800]
    figure, axes = plt.subplots(
        2 if loads else 1, 1, figsize=(9, 7 if loads else 4), layout="constrained", squeeze=False
    )
    top = axes[0][0]
    model = trace.model(gpu_uuid)
    if slow:
        edge_ns = slow[0].edges_ns[1]
        start_ns, end_ns = edge_ns - 500_000_000, edge_ns + round(2 * slow[0].period_ms * 1e6)
        for k, begin_ns in enumerate(slow[0].edges_ns):
            if start_ns < begin_ns < end_ns:
                since_s = (begin_ns - edge_ns) / 1e9
                until_s = min(since_s + slow[0].on_ms / 1e3, (end_ns - edge_ns) / 1e9)
                label = "load" if k == 1 else None
                top.axvspan(since_s, until_s, color="0.92", label=label, zorder=0)
    else:
        t_ns = trace.events["t0_ns"]
        edge_ns, start_ns, end_ns = int(t_ns.min()), int(t_ns.min()), int(t_ns.max())
    if model.ring is not None:
        inside = (model.ring.t_ns >= start_ns) & (model.ring.t_ns <= end_ns)
        seconds = (model.ring.t_ns[inside] - edge_ns) / 1e9
        top.plot(
            seconds,
            model.ring.power_at(model.ring.t_ns[inside]),
            ".-",
            ms=3,
            lw=0.8,
            label=SOURCES["power_samples"],
            color=COLOURS["power_samples"],
        )
    for source in (Source.POWER_INSTANT, Source.POWER_AVERAGE):
        events = trace.of(gpu_uuid, source)
        events = events[
            (events["nvml_return"] == 0) & (events["t0_ns"] >= start_ns) & (events["t0_ns"] <= end_ns)
        ]
        if len(events):
            top.step(
                (events["t0_ns"] - edge_ns) / 1e9,
                events["value"] / 1e3,
                where="post",
                lw=1.2,
                label=SOURCES[source.name.lower()],
                color=COLOURS[source.name.lower()],
            )
    if len(model.counter.ticks_ns) > 2:
        ticks_ns = model.counter.ticks_ns
        mean_w = np.diff(model.counter.energy_j) / (np.diff(ticks_ns) / 1e9)
        inside = (ticks_ns[:-1] >= start_ns) & (ticks_ns[1:] <= end_ns)
        if inside.any():
            ends_ns = np.append(ticks_ns[:-1][inside], ticks_ns[1:][inside][-1:])
            top.stairs(
                mean_w[inside],
                (ends_ns - edge_ns) / 1e9,
                label="energy counter, mean between ticks",
                color=COLOURS["energy_counter"],
                lw=1.2,
                baseline=None,
            )
    top.set_xlabel("s since a step of the load" if slow else "s")
    top.set_ylabel("W")
    top.set_title(title)
    top.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5, fontsize="small", frameon=False)
    if loads:
        bottom = axes[1][0]
        others = [name for name in SOURCES if name not in ("energy_counter", "power_usage")]
        width = 0.8 / len(others)
        for k, name in enumerate(others):
            bars = []
            for load in found["loads"]:
                counter, value = load["mean_w"].get("energy_counter"), load["mean_w"].get(name)
                bars.append(100 * (value / counter - 1) if counter and value else np.nan)
            place_x = np.arange(len(bars)) + (k - (len(others) - 1) / 2) * width
            bottom.bar(place_x, bars, width, label=SOURCES[name], color=COLOURS[name])
        bottom.axhline(0, color="k", lw=0.8)
        bottom.set_xticks(
            range(len(found["loads"])),
            [f"{load['on_ms']:g} of {load['period_ms']:g} ms" for load in found["loads"]],
        )
        bottom.set_ylabel("mean power against the counter, %")
        bottom.set_xlabel("load: on time of period")
        bottom.legend(fontsize="small")
    try:
        figure.savefig(place, dpi=130)
    except (OSError, ValueError) as error:
        raise NotStartedError(f"--plot {place}: {error}") from error
    finally:
        plt.close(figure)
