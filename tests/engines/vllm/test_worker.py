"""What vLLM's workers are asked, on a small model of torch's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wattcount.engines.vllm.worker import DeviceReport, nvml_uuid

torch: Any = pytest.importorskip("torch")

WIDTH = 256


def worker() -> DeviceReport:
    model = torch.nn.Sequential(
        torch.nn.Embedding(1000, WIDTH), torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.LayerNorm(4 * WIDTH)
    ).to(torch.bfloat16)
    model.register_parameter(
        "packed", torch.nn.Parameter(torch.ones(7, dtype=torch.int8), requires_grad=False)
    )
    made = DeviceReport()
    made.model_runner = SimpleNamespace(model=model)
    return made


def test_matrices_are_drawn_norms_are_one_biases_zero_and_packed_weights_stay() -> None:
    one = worker()
    done = one.wattcount_initialise(False, 0.02)
    embedding, linear, norm = one.model_runner.model
    assert float(embedding.weight.detach().float().std()) == pytest.approx(0.02, rel=0.02)
    assert float(linear.weight.detach().float().std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(linear.weight.detach().float().mean())) < 0.001
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert (linear.bias == 0).all()
    assert (one.model_runner.model.packed == 1).all()
    assert done == {
        "parameters_drawn": 1000 * WIDTH + 4 * WIDTH * WIDTH + 3 * 4 * WIDTH,
        "parameters_kept": 7,
    }


def test_fan_in_keeps_activations_at_their_size() -> None:
    one = worker()
    one.wattcount_initialise(True, 123.0)
    _, linear, _ = one.model_runner.model
    assert float(linear.weight.detach().float().std()) == pytest.approx(WIDTH**-0.5, rel=0.02)
    out = linear(torch.randn(64, WIDTH, dtype=torch.bfloat16))
    assert float(out.detach().float().std()) == pytest.approx(1.0, rel=0.1)


def test_every_run_has_the_same_weights() -> None:
    one, other = worker(), worker()
    for each in (one, other):
        torch.rand(3)
        each.wattcount_initialise(False, 0.02)
    assert torch.equal(one.model_runner.model[1].weight, other.model_runner.model[1].weight)


@pytest.mark.parametrize(
    ("cuda", "nvml"), [("1234-56", "GPU-1234-56"), ("GPU-1", "GPU-1"), ("MIG-1", "MIG-1")]
)
def test_uuid_as_nvml_writes_it(cuda: str, nvml: str) -> None:
    assert nvml_uuid(cuda) == nvml
