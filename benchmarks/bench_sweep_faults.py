"""Does a sweep end whole, whatever happens to it? Kills at random moments, restarts, and every point counted.

    python benchmarks/bench_sweep_faults.py                              # 600 points, some 20 minutes on 2 cores
    python benchmarks/bench_sweep_faults.py --points 200 --faults 0      # nothing is killed: what a point costs
    python benchmarks/bench_sweep_faults.py --sweep watt_counts --workers 6 --faults 12 --gap-s 120 320 --limit-s 9000

`--sweep watt_counts` is `conf/experiment/watt_counts.yaml`, the paper's sweep, with all models, GPUs, scenarios and repeats that
fit, for the tiny engine: a second in place of 300 s windows, and some requests in each.

A sweep of the tiny engine on emulated GPUs is started as a person would start it. At random moments (seeded) something
is killed: the whole sweep (SIGKILL of its process group, as a power cut would), the parent alone, one of its lanes or of
the processes of its runs, or it is told to end (SIGTERM, SIGINT). Now and then a second start of the same sweep over the same
folder is started beside it. Whenever the sweep is gone, it is started again with the same command, until a start ends with
exit code 0.

Then all records are read: each planned point must have exactly one valid record, which opens and agrees with its
checksums; whatever else there is must be marked invalid; nothing may be half written. Exit code 1 where that is not so.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

from wattcount.config import fit
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.schema import BatchConfig, GpuConfig, LengthConfig, ModelConfig, RunConfig
from wattcount.records import Record
from wattcount.sweep.machine import nominal_bytes

GPUS = ("a100", "l4", "h100", "t4", "a30")
WHAT = ("group", "parent", "descendant", "descendant", "descendant", "terminate", "interrupt")
"""What is done to a sweep, each as likely as it stands here often."""


IDLES = ("scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2", "scenario.bare_idle_after_s=0")
PAPER = Path(__file__).parent.parent / "conf" / "experiment" / "watt_counts.yaml"
BRIEF = {
    "batch_paper": {"num_requests": 20},
    "server_paper_low": {"window_s": 1.2, "rate_rps": 8.0},
    "server_paper_high": {"window_s": 1.2, "rate_rps": 16.0},
}
"""What of the paper's scenarios is cut short."""


def made_up(points: int) -> tuple[int, list[str]]:
    """(points, arguments) of a sweep of some `points` of one model on five GPUs."""
    repeats = 3
    seeds = max(1, round(points / (len(GPUS) * 2 * repeats)))
    return seeds * len(GPUS) * 2 * repeats, [
        *(
            "-m",
            "engine=tiny",
            "model=tiny",
            "power=emulated",
            f"gpu={','.join(GPUS)}",
            "model.dtype=float16",
        ),
        *("scenario=server", "scenario.rate_rps=8,16", "scenario.warmup_s=0", "scenario.window_s=1.2"),
        *("scenario.lengths.output_tokens=16", *IDLES),
        f"seed={','.join(map(str, range(seeds)))}",
        f"repeat={','.join(map(str, range(repeats)))}",
    ]


def the_papers(folder: Path) -> tuple[int, list[str]]:
    """(points, arguments) of the paper's sweep, whose files it writes to `folder`: for each GPU the models that vLLM could
    hold there, which the tiny engine would not ask."""
    declared: Any = OmegaConf.to_container(OmegaConf.load(PAPER).hydra.sweeper)
    models, gpus = model_catalogue(), gpu_catalogue()
    repeats = int(declared["params"]["repeat"].removeprefix("range(").removesuffix(")"))
    cases, points = [], 0
    for case in declared["cases"]:
        for gpu in case["gpu"].split(", "):
            fitting = [
                name for name in declared["params"]["model"].split(", ") if _fits(models[name], gpus[gpu])
            ]
            cases.append({**case, "gpu": gpu, "model": ", ".join(fitting)})
            points += len(fitting) * len(BRIEF) * repeats
    params = {
        "scenario": ", ".join(f"{name}_brief" for name in BRIEF),
        "repeat": declared["params"]["repeat"],
    }
    sweep = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params, "cases": cases}}}
    for group, files in (
        ("experiment", {"watt_counts_brief": sweep}),
        ("scenario", {f"{name}_brief": {"defaults": [name, "_self_"], **cut} for name, cut in BRIEF.items()}),
    ):
        (folder / group).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            head = "# @package _global_\n" if group == "experiment" else ""
            (folder / group / f"{name}.yaml").write_text(head + OmegaConf.to_yaml(OmegaConf.create(content)))
    return points, [
        *("+experiment=watt_counts_brief", "--config-dir", str(folder), "engine=tiny", "power=emulated"),
        *("scenario.lengths.output_tokens=16", *IDLES),
    ]


def _fits(model: ModelConfig, gpu: GpuConfig) -> bool:
    lengths = LengthConfig(input_tokens=256, output_tokens=256)
    cfg = RunConfig(model=model, gpu=gpu, scenario=BatchConfig(lengths=lengths))
    memory_bytes = nominal_bytes(cfg)
    assert memory_bytes is not None, gpu.name
    return fit.estimate(cfg, memory_bytes).fits


class Sweep:
    """One command line over one folder."""

    def __init__(self, points: int, arguments: list[str], workers: int, folder: Path) -> None:
        self.records = folder / "records"
        self.points = points
        self.command = [
            *(sys.executable, "-m", "wattcount", *arguments),
            *("tracking=none", f"records_dir={self.records}", f"sweep.workers={workers}"),
            "sweep.retry_invalid=true",
        ]
        self.environment = os.environ | {
            "WATTCOUNT_HOME": str(folder / "home"),
            "WATTCOUNT_LOCK_DIR": str(folder / "locks"),
        }
        self.log = folder / "sweeps.log"

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def valid(self) -> collections.Counter[tuple[str, int, int]]:
        """How many valid records each (point, seed, repeat) has, by `run.json` and the findings of `metrics.json`."""
        found: collections.Counter[tuple[str, int, int]] = collections.Counter()
        for file in self.records.glob("*/r*/run.json"):
            info = json.loads(file.read_text())
            if info["complete"] and info["validity"]["valid"] and _is_sound(file.with_name("metrics.json")):
                found[info["point_id"], info["seed"], info["repeat"]] += 1
        return found


def _is_sound(metrics: Path) -> bool:
    try:
        return bool(json.loads(metrics.read_text())["validity"]["valid"])
    except (OSError, ValueError):
        return True  # its run was killed before it computed them; they are made when they are asked for


def harm(sweep: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Does something to a running sweep; what it was."""
    what = chance.choice(WHAT)
    try:
        parent = psutil.Process(sweep.pid)
        family = parent.children(recursive=True)
        if what == "descendant" and family:
            victim = chance.choice(family)
            what = f"SIGKILL of {_role(victim)}"
            victim.kill()
        elif what == "group":
            for process in (parent, *family):
                process.kill()
            what = "SIGKILL of everything"
        elif what == "terminate":
            parent.terminate()
        elif what == "interrupt":
            parent.send_signal(signal.SIGINT)
        else:
            what = "SIGKILL of the parent"
            parent.kill()
    except psutil.Error:
        what = "nothing (it had just ended)"
    return what


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next(
        (role for role in ("run.worker", "sweep.lane", "resource_tracker") if role in line), "a child"
    )


def run(sweep: Sweep, faults: int, gap_s: tuple[float, float], chance: random.Random, limit_s: float) -> dict:
    began_s = time.monotonic()
    done: collections.Counter[str] = collections.Counter()
    starts = 0
    while True:
        sweeps = [sweep.start()]
        starts += 1
        if faults > sum(done.values()) and chance.random() < 0.2:
            sweeps.append(sweep.start())  # a second one beside it
            starts += 1
        while any(sweep.poll() is None for sweep in sweeps):
            pause_s = chance.uniform(*gap_s)
            until_s = time.monotonic() + pause_s
            while time.monotonic() < until_s and any(sweep.poll() is None for sweep in sweeps):
                time.sleep(0.1)
            if time.monotonic() - began_s > limit_s:
                for sweep in sweeps:
                    harm_all(sweep)
                raise SystemExit(
                    f"not whole after {limit_s:g} s: {len(sweep.valid())} of {sweep.points} points; see {sweep.log}"
                )
            alive = [sweep for sweep in sweeps if sweep.poll() is None]
            if alive and sum(done.values()) < faults:
                done[harm(chance.choice(alive), chance)] += 1
        codes = [sweep.returncode for sweep in sweeps]
        print(
            f"{time.monotonic() - began_s:7.0f} s: exit codes {codes}, {len(sweep.valid())} of {sweep.points} points valid, {sum(done.values())} faults",
            flush=True,
        )
        if 0 in codes:
            return {"elapsed_s": time.monotonic() - began_s, "starts": starts, "faults": dict(done)}


def harm_all(sweep: subprocess.Popen[bytes]) -> None:
    try:
        parent = psutil.Process(sweep.pid)
        for process in (*parent.children(recursive=True), parent):
            process.kill()
    except psutil.Error:
        pass


def judge(sweep: Sweep) -> tuple[list[str], dict]:
    """What is wrong, and what there is."""
    wrong: list[str] = []
    valid = sweep.valid()
    if len(valid) != sweep.points:
        wrong.append(f"{len(valid)} points have a valid record, of {sweep.points}")
    if twice := [key for key, count in valid.items() if count > 1]:
        wrong.append(f"{len(twice)} points were measured more than once")
    reasons: collections.Counter[str] = collections.Counter()
    phases_s = 0.0
    for folder in sweep.records.glob("*/r*"):
        record = Record.open(folder)
        try:
            record.verify()
        except Exception as error:  # whatever is wrong with it is what is looked for
            wrong.append(f"{folder}: {error}")
        info = record.info
        if not info.validity.valid:
            reasons[info.validity.reasons[0]] += 1
        elif not info.complete:
            wrong.append(f"{folder}: valid, but not complete")
        else:
            phases_s += info.timing.get("phases_s") or 0.0
    if half := list(sweep.records.glob("*/.tmp-*")) + list(sweep.records.glob(".tmp-*")):
        wrong.append(f"{len(half)} half-written records are left, e.g. {half[0]}")
    return wrong, {"valid": sum(valid.values()), "invalid": dict(reasons), "phases_s": phases_s}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweep", choices=["made_up", "watt_counts"], default="made_up")
    parser.add_argument("--points", type=int, default=600, help="of the made-up sweep")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--gap-s", type=float, nargs=2, default=(2.0, 20.0), help="between two faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=3600.0)
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="wattcount-bench-sweep-"))
    folder.mkdir(parents=True, exist_ok=True)
    what = made_up(args.points) if args.sweep == "made_up" else the_papers(folder / "conf")
    sweep = Sweep(*what, args.workers, folder)
    print(f"{sweep.points} points, {args.workers} at once, in {folder}", flush=True)
    result = run(sweep, args.faults, tuple(args.gap_s), random.Random(args.seed), args.limit_s)
    wrong, found = judge(sweep)
    result |= found | {"points": sweep.points, "workers": args.workers, "wrong": wrong}
    if not args.faults:
        result["overhead_s_per_point"] = (
            result["elapsed_s"] * args.workers - found["phases_s"]
        ) / sweep.points
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
