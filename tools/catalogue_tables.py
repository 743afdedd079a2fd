"""The tables of docs/catalogue.md: the packaged options, and what came of the models with vLLM on a CPU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from wattcount.config import fit, model_shape
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.report.units import markdown
from wattcount.study.tables import number

TRIALS = Path(__file__).resolve().parent.parent / "data" / "catalogue" / "vllm_cpu.json"


def trials() -> dict[str, dict[str, Any]]:
    """What came of each model of the catalogue with vLLM on a CPU; `benchmarks/bench_catalogue.py` finds it out."""
    return json.loads(TRIALS.read_text())


def catalogue_models() -> str:
    rows = []
    for name, model in sorted(model_catalogue().items()):
        counted = model_shape.count_parameters(model.hf_config)
        assert counted is not None
        found = trials().get(name)
        reduced = ", ".join(f"{what} {to} of {of}" for what, (of, to) in sorted(found["reduced"].items(), key=lambda item: item[0] != "layers")) if found else ""  # fmt: skip
        rows.append(
            [
                f"`{name}`",
                model.hf_id or "-",
                str(model_shape.text_config(model.hf_config)["model_type"]),
                model_shape.model_kind(model.hf_config),
                number(counted.total / 1e9),
                number(counted.active / 1e9),
                f"{fit.weight_bits(model):.3g}",
                "not tried" if not found else "runs" if found["outcome"] == "ok" else "**does not run**",
                reduced,
            ]
        )
    head = ["option", "hub id", "`model_type`", "kind", "10^9 parameters", "for one token", "bits", "vLLM on a CPU", "reduced to"]  # fmt: skip
    return markdown(head, rows)


def catalogue_failures() -> str:
    rows = []
    for name, found in sorted(trials().items()):
        if found["outcome"] != "ok":
            message = re.sub(r"^vLLM [a-z ]+: ", "", found["message"])
            message = re.split(r"(?<=[a-z])\. |, activation_key| Reasons:", message)[0].replace("|", "\\|")
            rows.append([f"`{name}`", found["outcome"].replace("_", " "), message])
    return markdown(["option", "outcome", "what vLLM says"], rows)


def catalogue_summary() -> str:
    found = trials()
    versions = sorted({trial["vllm"] for trial in found.values()})
    ran = sum(trial["outcome"] == "ok" for trial in found.values())
    return f"vLLM {', '.join(versions)}: {ran} of {len(found)} models ran."


def catalogue_gpus() -> str:
    rows = [
        [
            f"`{name}`",
            gpu.architecture or "-",
            gpu.compute_capability or "-",
            *(
                "-" if value is None else f"{value:g}"
                for value in (
                    gpu.memory_gib,
                    gpu.memory_bandwidth_gb_s,
                    gpu.fp16_dense_tflops,
                    gpu.fp8_dense_tflops,
                    gpu.tdp_w,
                )
            ),
            gpu.emulator_profile or "-",
            gpu.source or "-",
        ]
        for name, gpu in sorted(gpu_catalogue().items())
    ]
    head = ["option", "architecture", "compute capability", "GiB", "GB/s", "FP16 TFLOPS", "FP8 TFLOPS", "TDP W", "emulated with the sensors of", "source"]  # fmt: skip
    return markdown(head, rows)
