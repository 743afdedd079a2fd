"""A load in its steady state: how many requests run, what a token takes, what power is drawn.

Requests come and go so that `in flight` of them run. In the time in which each of them makes its output, as many prompts are
computed: some steps carry the tokens of a prompt, the others decode alone.

    closed load    always as many in flight as asked for, or as the engine admits
    rate           in flight = rate x time of a request (Little), and none with the probability exp(-in flight)

All of it is computed for arrays of settings at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from wattcount.prediction.learned import coefficients
from wattcount.prediction.physics import Coefficients, Step, loaded_idle_w, step
from wattcount.prediction.setting import PredictionSetting, Prepared, in_flight, prepared
from wattcount.prediction.work import Facts, Gpu, Number, stacked, step_work

BISECTIONS = 30
"""Halvings of the interval in which the requests in flight lie: to a billionth of it."""
FEWER_IN_THE_MIDDLE = 0.3
"""Mean less median of a count of rare events, where there are a few: a third for Poisson's."""
LEAST_IN_FLIGHT = 1e-4
"""Requests in flight below which the power is that of idling."""


@dataclass(frozen=True)
class Load:
    """Of one replica; fields are arrays, an element a setting.

    most        requests in flight at most: what is asked for, and what the engine admits
    rate_rps    requests per second that arrive; nan: there is always a next one
    step_tokens tokens that a step may have
    batch       requests of a batch that begins and ends together; nan: no batch
    gaps        1 where the time per token is the median gap between two tokens, 0 where it is the mean of a request
    serial      1 where the engine prepares a step only when the one before has ended
    """

    tensor_parallel: Number
    captured: Number
    captured_tokens: Number
    most: Number
    step_tokens: Number
    rate_rps: Number
    input_tokens: Number
    output_tokens: Number
    batch: Number
    gaps: Number
    serial: Number


def loads(
    each: Sequence[Prepared],
    *,
    plain: Sequence[bool] | None = None,
    gaps: Sequence[bool] | None = None,
    serial: Sequence[bool] | None = None,
) -> Load:
    """Of settings.

    plain  whose engine launches each kernel, whatever the setting says
    gaps   whose time per token is the median gap
    serial whose engine prepares a step only when the one before has ended
    """
    nan = float("nan")

    def column(of: Callable[[Prepared], float | None]) -> Number:
        return np.array([nan if (value := of(one)) is None else value for one in each], dtype=float)

    captured = column(lambda one: 0.0 if one.setting.enforce_eager else 1.0)
    return Load(
        tensor_parallel=column(lambda one: one.setting.tensor_parallel),
        captured=captured if plain is None else np.where(plain, 0.0, captured),
        captured_tokens=column(lambda one: one.captured_tokens),
        most=column(lambda one: in_flight(one.at_once, one.setting)),
        step_tokens=column(lambda one: one.step_tokens),
        rate_rps=column(
            lambda one: None if one.setting.rate_rps is None else one.setting.rate_rps / one.setting.replicas
        ),
        input_tokens=column(lambda one: one.setting.input_tokens),
        output_tokens=column(lambda one: one.setting.output_tokens),
        batch=column(
            lambda one: (one.setting.concurrency or 1) / one.setting.replicas if one.setting.bursts else None
        ),
        gaps=np.array(gaps if gaps is not None else [False] * len(each), dtype=float),
        serial=np.array(serial if serial is not None else [False] * len(each), dtype=float),
    )


def tables(each: Sequence[Prepared]) -> tuple[Facts, Gpu]:
    """Of settings, as arrays."""
    return stacked([one.facts for one in each]), stacked([one.gpu for one in each])


@dataclass(frozen=True)
class Steady:
    """Of one replica.

    power_w      mean of one of its GPUs [W]
    tpot_s       time per output token after the first [s]
    output_rate  output tokens per second
    in_flight    requests that run, in the mean
    served       False: more arrive than it serves, and the figures are those of a full engine
    capacity_rps requests per second that a full engine serves
    first_s     of the steps of a request's prompt [s]
    """

    power_w: Number
    tpot_s: Number
    output_rate: Number
    in_flight: Number
    served: Number
    capacity_rps: Number
    first_s: Number


@dataclass(frozen=True)
class Expected:
    """Of a whole setting by the shipped coefficients: watts of all its GPUs at the load and without one, and what a request takes."""

    power_w: float
    idle_w: float
    first_s: float
    tpot_s: float
    output_rate: float
    served: bool


def expected(setting: PredictionSetting) -> Expected:
    """Raises `Abstained` for what cannot be served or is not known."""
    known = prepared(setting)
    k = coefficients(setting.gpu)
    found = steady(*tables([known]), k, loads([known]))
    return Expected(
        power_w=setting.num_gpus * float(found.power_w[0]),
        idle_w=setting.num_gpus * float(loaded_idle_w(known.gpu, k)),
        first_s=float(found.first_s[0]),
        tpot_s=float(found.tpot_s[0]),
        output_rate=setting.replicas * float(found.output_rate[0]),
        served=bool(found.served[0]),
    )


@dataclass(frozen=True)
class _Cycle:
    """While `in_flight` requests make their outputs: seconds of it, of a prompt's own steps, of a token after the first, and mean watts."""

    time_s: Number
    first_s: Number
    tpot_s: Number
    power_w: Number


def steady(facts: Facts, gpu: Gpu, k: Coefficients, load: Load) -> Steady:
    """What each load takes."""
    full = _cycle(facts, gpu, k, load, np.asarray(load.most, dtype=float))
    capacity = load.most / full.time_s
    arriving = np.isfinite(np.asarray(load.rate_rps, dtype=float))
    rate = np.where(arriving, load.rate_rps, 1.0)
    served = ~arriving | (rate <= capacity)

    flight = np.array(load.most + 0.0 * full.time_s)
    at = np.flatnonzero(arriving & served)
    if at.size:
        flight[at] = _in_flight(_part(facts, at), _part(gpu, at), _part(k, at), _part(load, at))
    seen = np.where(arriving & served, _seen(flight, load), flight)
    cycle = _cycle(facts, gpu, k, load, seen)
    busy = np.where(arriving & served, -np.expm1(-flight), 1.0)
    active = _cycle(facts, gpu, k, load, np.where(arriving & served, flight / busy, flight))
    idle_w = loaded_idle_w(gpu, k)
    power = idle_w + busy * (active.power_w - idle_w)

    batch = np.isfinite(np.asarray(load.batch, dtype=float))
    emptying = np.where(batch, 1 + k.tail * flight / np.where(batch, load.batch, 1.0), 1.0)
    output_rate = np.where(
        arriving & served, rate * load.output_tokens, flight * load.output_tokens / cycle.time_s / emptying
    )
    return Steady(power, cycle.tpot_s, output_rate, flight, served, capacity, cycle.first_s)


def _in_flight(facts: Facts, gpu: Gpu, k: Coefficients, load: Load) -> Number:
    """Requests in flight at a rate that is served: a request takes its prompt's steps, and then a token after the other."""
    low, high = np.zeros_like(load.rate_rps), np.array(load.most)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        cycle = _cycle(facts, gpu, k, load, _seen(middle, load))
        whole = cycle.first_s + cycle.tpot_s * np.maximum(load.output_tokens - 1, 0)
        enough = middle >= load.rate_rps * whole
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    return np.maximum(high, LEAST_IN_FLIGHT)


Kind = TypeVar("Kind", Facts, Gpu, Load, Coefficients)


def _part(of: Kind, at: Number) -> Kind:
    """Some elements of all fields that are arrays."""
    values = {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    return type(of)(**{name: value[at] if np.ndim(value) else value for name, value in values.items()})


def _seen(flight: Number, load: Load) -> Number:
    """Requests in flight as a request sees them: itself, and those that are there when it comes."""
    return np.minimum(1.0 + flight, np.maximum(load.most, 1.0))


def _cycle(facts: Facts, gpu: Gpu, k: Coefficients, load: Load, flight: Number) -> _Cycle:
    outputs = np.maximum(load.output_tokens, 1.0)
    prompts = flight * load.input_tokens
    together = np.where(np.isfinite(np.asarray(load.batch, dtype=float)), load.step_tokens, load.input_tokens)
    chunk = np.minimum(np.maximum(together, prompts / outputs), np.maximum(load.step_tokens - flight, 1.0))
    mixed_steps = prompts / chunk
    plain_steps = np.maximum(outputs - mixed_steps, 0.0)
    context = load.input_tokens + load.output_tokens / 2
    plain = _step(facts, gpu, k, load, np.zeros_like(flight), flight, context)
    mixed = _step(facts, gpu, k, load, chunk, flight, context)
    time_s = mixed_steps * mixed.time_s + plain_steps * plain.time_s
    energy = mixed_steps * mixed.time_s * mixed.power_w + plain_steps * plain.time_s * plain.power_w
    first = mixed.time_s * np.maximum(load.input_tokens / chunk, 1.0)
    # A request waits for the prompts of others, not for its own. Where all begin together, some of those came before it had begun.
    own = np.minimum(1.0 / np.maximum(flight, 1.0), 1.0)
    batch = np.asarray(load.batch, dtype=float)
    at_once = np.where(np.isfinite(batch), np.minimum(flight / np.maximum(batch, 1.0), 1.0), 0.0)
    seen = (1.0 - own) * (1.0 - (1.0 - k.waiting) * (1.0 - (1.0 - at_once) ** 2))
    others_steps = mixed_steps * seen
    decoding = others_steps * mixed.time_s + plain_steps * plain.time_s
    mean = decoding / np.maximum(others_steps + plain_steps, 1.0)
    # Prompts come at random: the middle one of all steps has somewhat fewer of them than the mean.
    middle = np.maximum(flight / outputs - FEWER_IN_THE_MIDDLE, 0.0) * load.input_tokens / chunk
    gap = plain.time_s + np.minimum(middle, 1.0) * (mixed.time_s - plain.time_s)
    tpot = np.where(np.asarray(load.gaps) > 0, gap, mean)
    return _Cycle(time_s, first, tpot, energy / time_s)


def _step(
    facts: Facts, gpu: Gpu, k: Coefficients, load: Load, chunk: Number, flight: Number, context: Number
) -> Step:
    work = step_work(
        facts,
        chunk,
        chunk * load.input_tokens / 2,
        flight,
        flight * context,
        chunk / np.maximum(load.input_tokens, 1.0),
    )
    return step(work, facts, gpu, k, load.tensor_parallel, load.captured, load.captured_tokens, load.serial)
