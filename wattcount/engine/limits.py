"""How long a context an engine has to be set up for."""

from __future__ import annotations

from wattcount.config.schema import LengthKind, ScenarioConfig


def max_request_tokens(scenario: ScenarioConfig) -> int:
    """Upper bound of prompt plus completion over the requests of a scenario, whatever the seed.

    For lengths that vary it is the sum of their upper bounds in `scenario.lengths`.
    """
    lengths = scenario.lengths
    if lengths.kind is LengthKind.fixed:
        return lengths.input_tokens + lengths.output_tokens
    return lengths.input_tokens_max + lengths.output_tokens_max
