"""Steps of an engine at a setting: how long a step takes and what power it draws, for simulators and for whole loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wattcount.prediction.learned import coefficients
from wattcount.prediction.physics import Coefficients, Step, loaded_idle_w, step
from wattcount.prediction.setting import Abstained, PredictionSetting, Prepared, prepared
from wattcount.prediction.work import step_work

__all__ = ["Abstained", "PredictionSetting", "StepBatch", "StepModel", "step_model"]


@dataclass(frozen=True)
class StepBatch:
    """What one step of an engine computes.

    prefill_tokens          tokens of prompts
    prefill_context_tokens  tokens that each of them attends to, summed over them
    decode_sequences        requests that get their next token
    decode_context_tokens   tokens that each of them attends to, summed over them
    prompts                 requests whose prompt ends in this step
    """

    prefill_tokens: int
    prefill_context_tokens: int
    decode_sequences: int
    decode_context_tokens: int
    prompts: int = 0


class StepModel(Protocol):
    """An engine at one setting: one replica on all its GPUs."""

    @property
    def idle_w(self) -> float:
        """Power of all GPUs of the engine while it has no request [W]."""

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that its KV cache holds."""

    def step_time_s(self, batch: StepBatch) -> float:
        """From the start of a step to the start of the next [s]."""

    def step_power_w(self, batch: StepBatch) -> float:
        """Mean power of all GPUs of the engine in it [W]."""


@dataclass(frozen=True)
class PredictedSteps:
    """A `StepModel` by physics with learned coefficients.

    time_factor, power_factor   of this model and this GPU, as learned; 1 where neither was seen
    """

    prepared: Prepared
    coefficients: Coefficients
    time_factor: float = 1.0
    power_factor: float = 1.0

    @property
    def idle_w(self) -> float:
        gpus = self.prepared.setting.tensor_parallel
        return float(gpus * loaded_idle_w(self.prepared.gpu, self.coefficients))

    @property
    def kv_capacity_tokens(self) -> int:
        return self.prepared.kv_tokens

    def step_time_s(self, batch: StepBatch) -> float:
        return float(self._step(batch).time_s) * self.time_factor

    def step_power_w(self, batch: StepBatch) -> float:
        each = min(float(self._step(batch).power_w) * self.power_factor, self.prepared.gpu.tdp_w)
        return float(self.prepared.setting.tensor_parallel * each)

    def _step(self, batch: StepBatch) -> Step:
        known = self.prepared
        work = step_work(
            known.facts,
            float(batch.prefill_tokens),
            float(batch.prefill_context_tokens),
            float(batch.decode_sequences),
            float(batch.decode_context_tokens),
            float(batch.prompts),
        )
        return step(
            work,
            known.facts,
            known.gpu,
            self.coefficients,
            float(known.setting.tensor_parallel),
            0.0 if known.setting.enforce_eager else 1.0,
            known.captured_tokens,
        )


def step_model(setting: PredictionSetting) -> StepModel:
    """Of one replica. Raises `Abstained` for what cannot be served or is not known."""
    return PredictedSteps(prepared(setting), coefficients(setting.gpu))
