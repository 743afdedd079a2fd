"""How well `wattcount predict` does on models and GPUs that no fit has seen, beside TDP and a plain roofline, and what each ingredient brings.

    python benchmarks/bench_prediction.py --json data/study/prediction.json

docs/prediction.md says what is held out and which gates count. `--outside FOLDER`: files of sources without a licence, which no fit sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from wattcount import importers
from wattcount.dataset.store import Dataset
from wattcount.errors import WattcountError
from wattcount.fitting import fit as fitting
from wattcount.fitting.evaluation import IDEAL, QUANTITIES, Tried, measured, score, tried
from wattcount.fitting.predicting import Predictor, one_core
from wattcount.fitting.rows import Row, rows
from wattcount.prediction.physics import Coefficients
from wattcount.prediction.steady import steady

ROOT = Path(__file__).resolve().parent.parent


def sealed(shape: str) -> bool:
    """Whether rows of a shape were left alone while physics, priors and noise were thought about: a third of the shapes, by lot."""
    return int(hashlib.sha256(f"155{shape}".encode()).hexdigest(), 16) % 3 == 0


def subsets(found: list[Tried]) -> Iterator[tuple[str, str, list[Tried]]]:
    for split in ("model", "gpu"):
        mine = [one for one in found if one.split == split]
        yield split, "served", [one for one in mine if one.served]
        yield split, "served, batches", [one for one in mine if one.served and not one.arriving]
        yield split, "served, servers", [one for one in mine if one.served and one.arriving]
        yield split, "served, our own runs", [one for one in mine if one.source == "wattcount"]
        yield split, "plain", [one for one in mine if not one.served]
        yield split, "served, sealed", [one for one in mine if one.served and sealed(one.shape)]
    for group in sorted({one.group for one in found if one.split == "gpu"}):
        yield "gpu", f"GPU {group}", [one for one in found if one.split == "gpu" and one.group == group]


WITHOUT_TABLES = Coefficients(
    memory=0.80,
    compute=0.65,
    kv=0.60,
    experts=0.60,
    expert_compute=1.0,
    corner=3.0,
    layer_s=8e-6,
    expert_layer_s=1e-9,
)
"""What one would begin with who has no tables of measured kernels: data sheets and experience."""


def ablations(learned: list[Row]) -> list[dict[str, Any]]:
    """MdAPE of J per token of the served rows, groups left out to first order, with one ingredient after the other."""
    none = {
        "smooth": 1e-3,
        "shape": 1e-3,
        "gpu": 1e-3,
        "source_shape": 1e-3,
        "source_gpu": 1e-3,
        "measure": 1e-3,
    }
    steps: list[tuple[str, Mapping[str, float], bool, Coefficients]] = [
        ("physics, fitted", {**none, "source": 1e-3}, False, fitting.START),
        ("and origin effects", none, True, fitting.START),
        ("and effects of models and GPUs", {"smooth": 1e-3}, True, fitting.START),
        ("and a smooth rest: all of it", {}, True, fitting.START),
        ("all of it without kernel tables", {}, True, WITHOUT_TABLES),
    ]
    served = np.array([row.served for row in learned])
    truth = np.array([row.j_per_token or np.nan for row in learned])
    table = fitting.table_of_rows(learned, fitting.groups_of(learned))
    use = served & np.isfinite(truth)
    found = []
    for name, begin in (
        ("roofline alone", IDEAL),
        ("physics before any fit, without kernel tables", WITHOUT_TABLES),
        ("physics before any fit", fitting.START),
    ):
        start = steady(table.facts, table.gpu, begin, table.load)
        guess = start.power_w * table.gpus / (start.output_rate * table.replicas)
        physics = 100 * float(np.median(np.abs(guess[use] / truth[use] - 1)))
        found.append({"with": name, "model": physics, "gpu": physics})
    for name, changed, origins, begin in steps:
        sources, hosts = (
            (each if origins else dict.fromkeys(each, 1e-3))
            for each in (fitting.SOURCE_EFFECTS, fitting.HOST_EFFECTS)
        )
        with (
            mock.patch.object(fitting, "START", begin),
            mock.patch.object(fitting, "SOURCE_EFFECTS", sources),
            mock.patch.object(fitting, "HOST_EFFECTS", hosts),
            one_core(),
        ):
            made = fitting.fitted(
                learned,
                spreads=(
                    dataclasses.replace(fitting.TIME, **changed),
                    dataclasses.replace(fitting.POWER, **changed),
                ),
            )
            row: dict[str, Any] = {"with": name}
            for split, groups in (("model", made.table.shape), ("gpu", made.table.family)):
                error = fitting.left_out(made, groups).joules
                both = use & np.isfinite(error)
                row[split] = 100 * float(np.median(np.abs(np.expm1(-error[both]))))
        found.append(row)
    return found


def outside(predictor: Predictor, folder: Path) -> list[dict[str, Any]]:
    """Of sources that state no licence: only how far predictions are off, and no row."""
    found = []
    for source in ("chuyishang", "ecocompute"):
        results = []
        for path in sorted((folder / source).iterdir()) if (folder / source).is_dir() else ():
            try:
                results += importers.read(path)
            except WattcountError:
                continue
        mine = rows(results)
        predictions = predictor.predict([row.prepared.setting for row in mine])
        tries = [
            Tried(
                "outside", row.family, row.shape, row.source, row.served, row.prepared.setting.rate_rps is not None, measured(row),
                {name: None if (one := prediction.figures.get(name)) is None else (one.value, one.p05, one.p95) for name in QUANTITIES},
                dict.fromkeys(QUANTITIES, float("nan")), dict.fromkeys(QUANTITIES, float("nan")), prediction.basis,
            )
            for row, prediction in zip(mine, predictions, strict=True)
        ]  # fmt: skip
        for quantity in QUANTITIES:
            scored = score(tries, quantity)
            if scored is not None:
                scored.pop("roofline"), scored.pop("tdp")
                found.append({"source": source, "quantity": quantity, **scored})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--outside", type=Path, default=ROOT.parent / "shared" / "data" / "outside")
    args = parser.parse_args()
    learned = rows(Dataset.open(ROOT / "data" / "dataset").results())
    begun = time.process_time()
    predictor = Predictor.of(learned)
    fit_s = time.process_time() - begun
    settings = [learned[at % len(learned)].prepared.setting for at in range(1000)]
    begun = time.process_time()
    predictor.predict(settings)
    predict_s = time.process_time() - begun
    print(
        f"fit of {len(learned)} rows: {fit_s:.1f} s of CPU; 1,000 predictions: {predict_s:.1f} s", flush=True
    )
    found = tried(learned)
    scores = [
        {"split": split, "of": name, "quantity": quantity, **scored}
        for split, name, mine in subsets(found)
        for quantity in QUANTITIES
        if (scored := score(mine, quantity)) is not None
    ]
    for one in scores:
        print(json.dumps(one), flush=True)
    content = {
        "learned_rows": len(learned), "fit_cpu_s": round(fit_s, 1), "predict_1000_cpu_s": round(predict_s, 2),
        "scores": scores, "ablation": ablations(learned), "outside": outside(predictor, args.outside),
    }  # fmt: skip
    print(json.dumps({key: content[key] for key in ("ablation", "outside")}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
