"""Tables of what studies on an H200 found: what levers save, the load curve, many shapes."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from scipy.stats import t as student
from tables import Entry, entries, is_of_many_shapes, number, table

from wattcount.config import fit
from wattcount.config.catalogue import model_catalogue

PER_TOKEN = "energy/gpu_j_per_output_token"
TOKENS = "throughput/output_tokens_per_s"


def _load(entry: Entry) -> tuple:
    """What two runs must share for a lever to be the only difference; the initialiser is no lever here."""
    scenario, model = entry.scenario, entry.record.info.config["model"]
    lengths = scenario["lengths"]
    return (
        model["name"],
        model.get("initializer", "dummy"),
        scenario["name"],
        scenario.get("num_requests"),
        scenario.get("rate_rps"),
        lengths["input_tokens"],
        lengths["output_tokens"],
    )


def _change(turned: list[float], usual: list[float]) -> tuple[float, float | None]:
    """(percent, its 95 % half-width) of the mean of `turned` against that of `usual`, boards drawn at random.

    The half-width is Student's for two means of logarithms with the variance of `usual`, as boards and occasions scatter
    there; None where there are fewer than two of them.
    """
    ratio = float(np.mean(np.log(turned)) - np.mean(np.log(usual)))
    percent = 100 * float(np.expm1(ratio))
    if len(usual) < 2:
        return percent, None
    deviation = float(np.std(np.log(usual), ddof=1))
    half = float(student.ppf(0.975, len(usual) - 1)) * deviation * (1 / len(usual) + 1 / len(turned)) ** 0.5
    return percent, 100 * float(np.exp(ratio)) * half


def lever_savings() -> str:
    """Each lever against the same load without it."""
    valid = [entry for entry in entries() if entry.valid]
    rows = []
    for (load, words), found in groupby(
        sorted((e for e in valid if len(e.levers) == 1), key=lambda e: (str(_load(e)), e.levers)),
        key=lambda e: (_load(e), e.levers),
    ):
        turned = list(found)
        usual = [entry for entry in valid if not entry.levers and _load(entry) == load]
        if not usual or "weights" in words[0]:
            continue
        cells = []
        for key in (PER_TOKEN, TOKENS):
            percent, half = _change([e.value(key) for e in turned], [e.value(key) for e in usual])
            cells.append(f"{percent:+.1f} %" + (f" ± {half:.1f}" if half is not None else ", one run each"))
        rows.append(
            [
                words[0],
                usual[0].name,
                ", ".join(f"{1e3 * e.value(PER_TOKEN):.2f} ({e.board})" for e in usual),
                ", ".join(f"{1e3 * e.value(PER_TOKEN):.2f} ({e.board})" for e in turned),
                *cells,
            ]
        )
    head = ["lever", "load", "mJ per output token without (board)", "with (board)", "J per output token", "output tokens/s"]  # fmt: skip
    return table(head, rows)


def load_curve() -> str:
    """Llama-3-8B's shape by offered load; a batch of the same lengths has none of its own yet."""
    rows = []
    curve = [
        entry
        for entry in entries()
        if entry.scenario["name"] == "server" and entry.record.info.config["model"]["name"] == "llama3_8b"
    ]
    first = curve[0].value(PER_TOKEN)
    for entry in curve:
        m = entry.metrics
        method = m["energy/gpu_j_u95_method"]
        assert method is not None
        rows.append(
            [
                f"{entry.scenario['rate_rps']:g}",
                number(m["throughput/requests_per_s"]),
                f"{number(entry.value(PER_TOKEN))} ± {100 * method / entry.value('energy/gpu_j'):.2f} %",
                f"{100 * (entry.value(PER_TOKEN) / first - 1):+.0f} %" if entry is not curve[0] else "",
                number(m["energy/dynamic_j_per_output_token"]),
                number(m["power/gpu_mean_w"]),
                f"{number(m['latency/ttft_p50_ms'])} / {number(m['latency/ttft_p95_ms'])}",
                f"{number(m['latency/tpot_p50_ms'])} / {number(m['latency/tpot_p95_ms'])}",
                entry.board,
                "it could not keep up" if "overloaded" in entry.findings else "",
            ]
        )
    head = ["offered, requests/s", "completed", "J per output token ± method", "to the first", "without idle", "mean W", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms", "board", ""]  # fmt: skip
    return table(head, rows)


def shapes() -> str:
    """One row a shape: batch and server."""
    rows = []
    catalogue = model_catalogue()
    chosen = sorted((e for e in entries() if is_of_many_shapes(e)), key=_model)
    for name, found in groupby(chosen, key=_model):
        runs = {entry.scenario["kind"]: entry for entry in found}
        counted = fit.count_parameters(catalogue[name].hf_config)
        cells = [name, f"{counted.total / 1e9:.1f}", f"{counted.active / 1e9:.1f}"]
        for kind in ("batch", "server"):
            entry = runs.get(kind)
            if entry is None:
                cells += ["-", "-", "-", ""]
                continue
            said = [code for code in entry.findings if code != "power_capped"]
            cells += [
                number(entry.value(PER_TOKEN)) if entry.valid else "-",
                number(entry.metrics["power/gpu_mean_w"]),
                number(entry.metrics[TOKENS]),
                ("invalid: " if not entry.valid else "") + ", ".join(f"`{code}`" for code in said),
            ]
        rows.append(cells)
    head = ["model", "10^9 parameters", "active", "batch: J per output token", "W", "tokens/s", "findings", "server: J per output token", "W", "tokens/s", "findings"]  # fmt: skip
    return table(head, rows)


def _model(entry: Entry) -> str:
    name: str = entry.record.info.config["model"]["name"]
    return name
