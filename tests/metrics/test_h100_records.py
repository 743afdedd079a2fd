"""Records of real H100s (data/h100), one GPU and two: what was computed from them then is what is computed now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stored_figures

from wattcount.metrics import compute
from wattcount.records import Record
from wattcount.records.schema import Evidence

RECORDS = sorted((Path(__file__).resolve().parents[2] / "data" / "h100" / "records").glob("*/*/"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_metrics_are_a_function_of_the_raw_files(path: Path) -> None:
    record = Record.open(path)
    stored = json.loads((path / "metrics.json").read_text())
    fresh = compute(record)
    assert record.info.evidence is Evidence.MEASURED
    assert record.info.engine["gpu_uuids"] == [gpu["uuid"] for gpu in record.info.gpus]
    stored_figures.check(fresh, stored)
    assert fresh["validity"]["valid"] == stored["validity"]["valid"]


HEADLINE = ("llama3_1_8b", "qwen3_8b", "olmoe_1b_7b", "falcon3_mamba_7b", "nemotron3_nano_30b_a3b")


def test_what_is_kept_of_the_sweep() -> None:
    """Twenty shapes valid as batch and as server, five of them three times, two GPUs beside one, and what was invalid is there,
    too."""
    valid: dict[str, set[str]] = {}
    repeats: dict[tuple[str, str], set[int]] = {}
    invalid, counts = set(), set()
    for path in RECORDS:
        info = Record.open(path).info
        content = json.loads((path / "metrics.json").read_text())
        model, scenario = info.config["model"]["name"], info.config["scenario"]["name"]
        counts.add(len(info.gpus))
        if content["validity"]["valid"]:
            valid.setdefault(model, set()).add(scenario)
            repeats.setdefault((model, info.point_id), set()).add(info.repeat)
        else:
            invalid.add(model)
    both = [model for model, found in valid.items() if found >= {"batch_short", "server_short"}]
    assert len(both) == 20
    for model in HEADLINE:
        assert sum(found == {0, 1, 2} for (name, _), found in repeats.items() if name == model) == 2, model
    assert counts == {1, 2}
    assert invalid == {"gpt_oss_20b"}


def test_two_gpus_count_both() -> None:
    pairs = [path for path in RECORDS if len(Record.open(path).info.gpus) == 2]
    assert pairs
    for path in pairs:
        content = compute(Record.open(path))
        metrics = content["metrics"]
        energies = [energy["value_j"] for energy in content["energy"].values()]
        assert len(energies) == 2
        assert metrics["energy/gpu_j"] == pytest.approx(sum(energies))
        # Each draws its share: halves of one step, of the layers, or of the requests.
        assert max(energies) < 1.1 * min(energies)
        assert metrics["power/idle_bare_w"] == pytest.approx(2 * 72.5, rel=0.02)
