from __future__ import annotations

import pytest

from wattcount.config.context_length import longest_request_tokens
from wattcount.config.schema import BatchConfig, LengthConfig, LengthKind
from wattcount.load import build_plan


def test_fixed_lengths() -> None:
    assert (
        longest_request_tokens(BatchConfig(lengths=LengthConfig(input_tokens=512, output_tokens=128))) == 640
    )


@pytest.mark.parametrize("kind", [LengthKind.uniform, LengthKind.lognormal])
def test_no_request_of_a_plan_is_longer(kind: LengthKind) -> None:
    lengths = LengthConfig(
        kind=kind, input_tokens_max=90, output_tokens_max=70, input_tokens=80, output_tokens=60
    )
    scenario = BatchConfig(num_requests=2000, lengths=lengths)
    plan = build_plan(scenario, 0, 0).main
    assert longest_request_tokens(scenario) == 160
    assert (plan.input_tokens + plan.output_tokens).max() <= 160
