"""GPUs that nobody measured a model on: predicted, and apart from what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.cli.sources import results_of
from wattcount.config.schema import SloConfig
from wattcount.fitting.unmeasured import _fitting, fill
from wattcount.prediction.setting import Abstained
from wattcount.records.schema import Evidence
from wattcount.study.advice import Need, advise
from wattcount.study.bills import Bills

DATA = Path(__file__).resolve().parents[2] / "data" / "dataset"
NEED = Need("llama3_1_8b", 16.0, 512, 128, SloConfig(ttft_ms=500.0, tpot_ms=50.0), ("h100", "a100", "nosuch"))


def test_the_fewest_gpus_that_hold_the_model_are_one_replica() -> None:
    assert _fitting(NEED, "a100").tensor_parallel == 1
    assert _fitting(NEED, "t4").tensor_parallel == 2
    with pytest.raises(Abstained, match="does not fit 8 x t4"):
        _fitting(Need("llama3_1_70b", 1.0, 512, 128, NEED.slo), "t4")
    with pytest.raises(Abstained, match="not known"):
        _fitting(NEED, "nosuch")


def test_only_what_was_not_measured_is_filled_and_never_among_the_options() -> None:
    results = results_of([DATA])
    advice = advise(results, NEED)
    filled = fill(results, NEED, advice, Bills(per_gpu_hour={"a100": 2.0}))
    assert advice.options  # on H100, which is asked for and so is not predicted
    assert [option.gpu for option in filled.options] == ["a100"]
    assert list(filled.abstained) == ["nosuch"]
    (found,) = filled.options
    assert found.p05_j < found.energy_j < found.p95_j
    assert found.share is not None
    assert found.share >= 0.95
    assert found.rate_rps is not None
    assert found.rate_rps * found.replicas == pytest.approx(16.0)
    assert found.cost_per_1000 is not None
    assert "by others only" in found.basis
    assert found.to_json()["evidence"] == Evidence.PREDICTED.value
    assert all(node.first.is_measured for option in advice.options for node in option.nodes)
