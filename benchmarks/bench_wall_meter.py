"""Energy per token at the wall, from MLPerf's own logs, and of a V100 from its nvidia-smi log.

    python benchmarks/bench_wall_meter.py [FOLDER]      # default ../shared/data or $WATTCOUNT_SHARED_DATA

`mlperf_v4.1/llama2-70b-99/{Offline,Server}`: MLPerf Inference v4.1, 8 x H200, published joules per token 0.2436 and
0.2717. `wilkins/falcon-7b_v100_nvidia-smi.csv`: a V100 polled every 0.1 s, 377,963 J by the trapezoidal rule. Besides
the right windows it shows what wrong ones give.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from wattcount.importers import MlperfRun, read_nvidia_smi, read_run

S_NS = 1_000_000_000
PUBLISHED_J_PER_TOKEN = {"Offline": 0.2436, "Server": 0.2717}
KNOWN_V100_J = 377_963
METER_U95_SHARE = 0.01
"""Greatest uncertainty of an analyser that SPEC PTDaemon accepts, at the ranges in use."""
CLOCKS_OFF_BY_S = 2.0
"""Where the meter sees the load step, against power_begin (below)."""
SMI_GAIN_U95_SHARE = 0.05
"""Of nvidia-smi's power against an external meter on over 70 GPUs (Yang, Adamek and Armour, arXiv 2312.02741); NVIDIA's
manual says 5 W, which would be 2 % here."""


def step_after_begin_s(run: MlperfRun) -> float:
    """When the meter first shows more than halfway from the minute before the run to the minute after."""
    start_ns, _ = run.window_ns
    t_s = (run.meter.t_ns - start_ns) / S_NS
    power_w = run.meter.power_w
    before_w = np.median(power_w[(t_s > -60) & (t_s < 0)])
    after_w = np.median(power_w[(t_s > 10) & (t_s < 70)])
    near = np.flatnonzero((t_s > -60) & (t_s < 60) & (power_w > (before_w + after_w) / 2))
    return float(t_s[near[0]])


def windows(run: MlperfRun) -> dict[str, float]:
    """Joules per token by what one takes for the run's energy, power and tokens."""
    start_ns, end_ns = run.window_ns
    loadgen, meter = run.loadgen, run.meter
    first_ns, last_ns = int(meter.t_ns[0]), int(meter.t_ns[-1])

    def energy_j(start_ns: int, end_ns: int) -> float:
        return meter.energy(start_ns, end_ns).value_j

    def mean_w(start_ns: int, end_ns: int) -> float:
        return energy_j(start_ns, end_ns) / ((end_ns - start_ns) / S_NS)

    rate = loadgen.tokens_per_second
    return {
        "power_begin to power_end, mean reading / published rate (as published)": run.j_per_token_published(),
        "power_begin to power_end, energy / all tokens": run.j_per_token(),
        "until LoadGen's last log line, energy / all tokens": energy_j(
            start_ns, start_ns + loadgen.log_end_ns - loadgen.begin_ns
        )
        / loadgen.tokens,
        "the time the rate was reckoned over, mean power / rate": mean_w(
            start_ns, start_ns + round(loadgen.rate_s * S_NS)
        )
        / rate,
        "whole meter file, mean power / rate": mean_w(first_ns, last_ns) / rate,
        "whole meter file, energy / all tokens": energy_j(first_ns, last_ns) / loadgen.tokens,
        "meter's clock 60 s off, mean power / rate": mean_w(start_ns - 60 * S_NS, end_ns - 60 * S_NS) / rate,
        "from the meter file's start, as long as the run": mean_w(first_ns, first_ns + end_ns - start_ns)
        / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(os.environ.get("WATTCOUNT_SHARED_DATA", shared))
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    figures: dict[str, object] = {}
    for scenario, published in PUBLISHED_J_PER_TOKEN.items():
        folder = args.folder / "mlperf_v4.1" / "llama2-70b-99" / scenario
        if not folder.is_dir():
            print(f"skipped: there are no MLPerf logs at {folder}")
            continue
        run = read_run(folder)
        energy = run.energy()
        placement = run.u95_placement_j(CLOCKS_OFF_BY_S) / energy.value_j
        print(
            f"MLPerf v4.1 llama2-70b-99 {scenario}: {run.loadgen.duration_s:.0f} s, {energy.readings} readings"
        )
        print(
            f"  {run.mean_w():.1f} W, {run.loadgen.tokens_per_second:.1f} tokens/s over {run.loadgen.rate_s:.1f} s, "
            f"{energy.value_j / 1e6:.3f} MJ, {run.loadgen.tokens / 1e6:.2f} M tokens"
        )
        print(
            f"  load step seen {step_after_begin_s(run):+.1f} s from power_begin; clocks off by {CLOCKS_OFF_BY_S:.0f} s: "
            f"{100 * placement:.3f} %; meter {100 * METER_U95_SHARE:.0f} %; gaps {energy.gap_s:.1f} s"
        )
        found = windows(run)
        for name, value in found.items():
            print(f"  {value:.4f} J/token  {100 * (value / published - 1):+6.1f} %  {name}")
        figures[scenario] = {
            "published_j_per_token": published,
            "mean_w": run.mean_w(),
            "energy_j": energy.value_j,
            "tokens": run.loadgen.tokens,
            "u95_placement_share": placement,
            "j_per_token": found,
        }
    path = args.folder / "wilkins" / "falcon-7b_v100_nvidia-smi.csv"
    if path.is_file():
        log = read_nvidia_smi(path)
        energy = log.energy()
        gain_j = SMI_GAIN_U95_SHARE * energy.value_j
        u95_j = float(np.sqrt(energy.u95_sampling_j**2 + energy.u95_gaps_j**2 + gain_j**2))
        print(
            f"V100, nvidia-smi: {len(log)} readings, {1e3 * log.period_s:.0f} ms apart, {energy.duration_s:.1f} s"
        )
        print(f"  {energy.value_j:,.0f} J by the trapezoidal rule (known: {KNOWN_V100_J:,})")
        print(
            f"  u95 {u95_j:,.0f} J ({100 * u95_j / energy.value_j:.1f} %): the sensor's gain {gain_j:,.0f} J, "
            f"between readings {energy.u95_sampling_j:,.0f} J, {energy.gap_s:.2f} s of gaps {energy.u95_gaps_j:,.0f} J"
        )
        figures["v100"] = {
            "energy_j": energy.value_j,
            "known_j": KNOWN_V100_J,
            "u95_j": u95_j,
            "u95_sampling_j": energy.u95_sampling_j,
            "u95_gaps_j": energy.u95_gaps_j,
            "u95_gain_j": gain_j,
        }
    else:
        print(f"skipped: there is no nvidia-smi log at {path}")
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
