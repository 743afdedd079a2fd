"""What `recommend` cannot take from measurements: GPUs on which nobody measured a model at a load, by prediction, and apart from what was measured.

Energy and its interval are those of `Predictor`; whether the SLO is kept is played in the simulator by the physics of the steps. The settings
are the engine's own: of what others do to quality or to users nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wattcount.config.catalogue import gpu_catalogue
from wattcount.fitting.predicting import LEAST_ROWS, Interval, Prediction, Predictor
from wattcount.fitting.rows import rows
from wattcount.prediction.names import find_gpu, find_model
from wattcount.prediction.setting import Abstained, PredictionSetting, prepared
from wattcount.result import Result
from wattcount.simulation.predicted import basis_of, simulate
from wattcount.study.advice import Advice, Need
from wattcount.study.bills import Bills
from wattcount.study.service import KEPT_SHARE

PARALLEL = (1, 2, 4, 8)
"""GPUs that share a replica: the first number that holds the model is taken."""
REPLICAS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Replicas that are tried."""
PLAYED = 3
"""Numbers of replicas of a GPU that are played, the one that takes the least energy first."""
BATCH = 512
"""Requests of a batch that is predicted."""


@dataclass(frozen=True)
class Unmeasured:
    """energy_j   of a request that keeps the SLO (of a request of a batch), with its 90 % interval
    share      of the requests that keep the SLO, as played; None: a batch
    basis      what the energy rests on
    """

    gpu: str
    replicas: int
    gpus: int
    rate_rps: float | None
    energy_j: float
    p05_j: float
    p95_j: float
    share: float | None
    mean_w: float
    basis: str
    cost_per_1000: float | None
    carbon_g_per_1000: float

    def to_json(self) -> dict[str, Any]:
        return {"evidence": "predicted", **asdict(self)}


@dataclass(frozen=True)
class Filled:
    """Options by the least energy, and for each GPU without one the reason."""

    options: tuple[Unmeasured, ...]
    abstained: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "predicted": [option.to_json() for option in self.options],
            "not_predicted": self.abstained,
        }


def fill(results: Sequence[Result], need: Need, advice: Advice, bills: Bills) -> Filled:
    """For the GPUs that are asked for, or else all that have results, where `advice` has none of them."""
    told = {
        str(name).lower()
        for option in advice.options
        for name in (option.gpu_model, option.nodes[-1].first.gpu)
    }
    names = list(need.gpus) or sorted({run.gpu for run in results if run.gpu in gpu_catalogue()})
    abstained: dict[str, str] = {}
    asked: list[tuple[str, PredictionSetting]] = []
    for name in names:
        try:
            setting = _fitting(need, name)
        except Abstained as reason:
            abstained[name] = reason.reason
            continue
        gpu = setting.gpu
        if not told.isdisjoint({gpu.name.lower(), str(gpu.emulated_name).lower()}):
            continue
        counts = REPLICAS if need.rate_rps is not None else (1,)
        asked += [(name, replace(setting, num_gpus=n * setting.tensor_parallel)) for n in counts]
    if not asked:
        return Filled((), abstained)
    learned = rows(run for run in results if run.is_measured)
    if len(learned) < LEAST_ROWS:
        too_few = f"{len(learned)} measured settings can be learned from, and {LEAST_ROWS} are needed"
        return Filled((), abstained | {name: too_few for name, _ in asked})
    predictions = Predictor.of(learned).predict([setting for _, setting in asked])
    options = []
    for name in dict.fromkeys(name for name, _ in asked):
        mine = [(setting, one) for (of, setting), one in zip(asked, predictions, strict=True) if of == name]
        found = _best(need, mine, bills)
        if isinstance(found, str):
            abstained[name] = found
        else:
            options.append(found)
    return Filled(tuple(sorted(options, key=lambda option: option.energy_j)), abstained)


def _fitting(need: Need, name: str) -> PredictionSetting:
    """On the fewest GPUs that hold the model. Raises `Abstained`."""
    setting = PredictionSetting(
        find_model(need.model),
        find_gpu(name),
        concurrency=BATCH if need.rate_rps is None else None,
        rate_rps=need.rate_rps,
        input_tokens=max(1, need.input_tokens),
        output_tokens=need.output_tokens,
        bursts=need.rate_rps is None,
    )
    for parallel in PARALLEL:
        one = replace(setting, num_gpus=parallel, tensor_parallel=parallel)
        try:
            prepared(one)
            return one
        except Abstained as reason:
            if parallel == PARALLEL[-1]:
                raise
            if "does not fit" not in reason.reason and "no request" not in reason.reason:
                raise
    raise AssertionError


def _best(
    need: Need, tried: Sequence[tuple[PredictionSetting, Prediction]], bills: Bills
) -> Unmeasured | str:
    """The number of replicas that takes the least energy and keeps the SLO as played; else why there is none."""
    said = [(setting, one) for setting, one in tried if not one.abstained]
    if not said:
        return tried[-1][1].basis.removeprefix("no prediction: ")
    bound = need.slo.tpot_ms if need.rate_rps is not None else None
    quick = [
        (setting, one) for setting, one in said if bound is None or one.figures["tpot_ms"].value <= bound
    ]
    if not quick:
        return f"TPOT would be above {bound:g} ms"
    quick.sort(key=lambda pair: pair[1].figures["j_per_output_token"].value)
    if need.rate_rps is None:
        return _option(need, *quick[0], None, bills)
    why = ""
    for setting, one in quick[:PLAYED]:
        each = replace(setting, num_gpus=setting.tensor_parallel, rate_rps=need.rate_rps / setting.replicas)
        try:
            config = each.as_run()
            played = simulate(config, basis_of(config, []), need.slo)
        except Abstained as reason:
            return reason.reason
        share = played.attained or 0.0
        if played.overloaded is None and share >= KEPT_SHARE:
            return _option(need, setting, one, share, bills)
        why = (
            f"{100 * share:.0f} % of the requests would keep the SLO with {setting.num_gpus} GPUs, as played"
        )
    return why


def _option(
    need: Need, setting: PredictionSetting, one: Prediction, share: float | None, bills: Bills
) -> Unmeasured:
    per_token: Interval = one.figures["j_per_output_token"]
    requests = one.figures["output_tokens_per_s"].value / need.output_tokens
    part = need.output_tokens / (share or 1.0)
    energy_j = per_token.value * part
    return Unmeasured(
        setting.gpu.name,
        setting.replicas,
        setting.num_gpus,
        None if need.rate_rps is None else need.rate_rps / setting.replicas,
        energy_j,
        per_token.p05 * part,
        per_token.p95 * part,
        share,
        one.figures["power_w"].value,
        one.basis,
        bills.cost_per_1000(
            setting.gpu.name, str(setting.gpu.emulated_name), setting.num_gpus, requests * (share or 1.0)
        ),
        bills.carbon_g_per_1000(energy_j),
    )
