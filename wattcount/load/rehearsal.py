"""What an engine is given before it is measured, so that it meets every size of step once.

vLLM compiles some kernels (Triton's, of mixtures of experts and state-space models among them) when a step first has
a certain number of tokens, and stands still for half a second and more each time. Triton compiles one kernel for
numbers that 16 divides and another for those that it does not, and a kernel's own table of configurations has its bounds
anywhere: so a rehearsal takes the engine through both kinds, some quarter apart at most, from as many tokens
as a step may hold down to one.

::

    tokens in a step
    max_batched |##                     # #
                |##                     # # # #
    requests    |##....                 # # # # # # # #      one prefill, once those before it have ended and a
                |      `----....        # # # # # # # #      request of a few tokens has got its first: that one
              1 |               `-----  # # # # # # # #      keeps the engine busy, so that it finds all prompts at once
                +------------------------------------------> steps
                    all at once,              rungs
                decoding ever fewer

A kernel may also be compiled for a number that a step's tokens make, as gpt-oss's experts are for how many blocks of 32 tokens
a step has: on H100s that explains 87 of 106 prefills that took more than a second. So prefills of sizes drawn at random
follow (`variation`), each sent twice: the second finds all compiled, so what the first took longer it stood still
(`stalled`). Where that is so, all numbers of blocks are gone through (`blocks`), before more rounds tell whether
that was enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wattcount.load.plan import LoadPlan
from wattcount.load.streams import Stream, derived_seed

SHORT_INPUT_TOKENS = 16
"""Of requests that are there for the batch's size alone: decoding does not compile anew for a longer context."""
FULL_PREFILL_STEPS = 2
"""Prompts of the load's own lengths fill so many steps."""
MULTIPLE = 16
"""Triton's specialisation of integer arguments (triton-lang.org, `JITFunction`: divisible by 16, or 1)."""
EACH_UP_TO = 32
"""Up to here each number of running requests is met: tables of configurations are finest there."""
FINE_UP_TO = 128
"""Up to here each multiple of 16 is met."""
OPENER_TOKENS = 6
"""Output tokens of the request that a rung's prompts arrive behind: they are sent after its first, and vLLM has a step or two under
way by then."""
BLOCK = 32
"""Tokens in a block of the kernels that are compiled for a number of blocks (triton_kernels' `HIST_BLOCK_M`)."""
VARIATION_GROUPS = 16
"""Prefills of a round of sizes drawn at random, each of which is sent twice."""
STALL_MIN_S = 0.3
"""A prefill that stood still is late by at least this much: the same work, sent twice to Falcon Mamba's shape on H100s, differed by
up to 0.27 s."""
STALL_SHARE = 0.25
"""And by at least this share of what it took the other time."""


@dataclass(frozen=True)
class Rehearsal:
    """A plan whose requests are sent in groups."""

    plan: LoadPlan
    begins: tuple[int, ...]
    """Indices of requests that are sent once all before them have ended."""
    joins: tuple[int, ...]
    """Indices of requests that are sent once all before them have got a token."""

    @property
    def groups(self) -> list[slice]:
        """The requests of each group, by index."""
        bounds = (0, *self.begins, len(self.plan))
        return [slice(begin, end) for begin, end in pairwise(bounds)]


def rehearsal(
    load: LoadPlan, requests: int, *, max_batched_tokens: int, max_request_tokens: int
) -> Rehearsal:
    """`requests` at once whose number falls to one as they end, then prefills alone, each smaller than the one before.

    load                what is rehearsed: its longest prompts are the longest of the rehearsal
    max_batched_tokens  that the engine prefills in a step at most
    max_request_tokens  that a request may have, prompt and completion

    Never are more than `requests` there at once. Raises `ValueError` for less than one.
    """
    longest = _longest(load, requests, max_request_tokens)
    own = np.resize(np.sort(load.input_tokens.astype(np.int64))[::-1], requests)
    prompts = max(1, requests - 1)
    most = min(max_batched_tokens, prompts * longest + 1)
    groups = [_falling(own[::-1], max_batched_tokens, max_request_tokens)]
    groups += [
        _rung(tokens, longest, max_request_tokens, openers=min(1, requests - 1))
        for tokens in _rungs(max(requests, MULTIPLE), most)
    ]
    return _planned(groups, load, derived_seed(load.seed, Stream.REHEARSAL))


def dress(
    load: LoadPlan, number: int, requests: int, *, begin_ns: int = 0, end_ns: int | None = None
) -> LoadPlan:
    """Round `number` of a dress rehearsal: the first `requests` of those of `load` that are planned from `begin_ns` on and before
    `end_ns`, with their lengths and arrivals.

    begin_ns, end_ns  from the start of the load; None: to its end

    The token ids are others in each round, drawn at random, so that no prompt is found in a prefix cache. Raises `ValueError`
    for less than one request.
    """
    offsets = load.send_offset_ns
    chosen = np.flatnonzero((offsets >= begin_ns) & (offsets < (end_ns if end_ns is not None else np.inf)))
    if not len(chosen):
        chosen = np.arange(len(load))
    chosen = chosen[:requests]
    if not len(chosen):
        raise ValueError(f"a rehearsal needs at least one request, got {requests}")
    return LoadPlan(
        send_offset_ns=offsets[chosen] - offsets[chosen[0]],
        input_tokens=load.input_tokens[chosen],
        output_tokens=load.output_tokens[chosen],
        force_output_length=load.force_output_length,
        sampling=load.sampling,
        seed=derived_seed(load.seed, Stream.REHEARSAL) + number,
    )


def blocks(
    load: LoadPlan, requests: int, *, max_batched_tokens: int, max_request_tokens: int, replicas: int = 1
) -> Rehearsal:
    """A prefill of each number of blocks of `BLOCK` tokens for each of `replicas`, from one up to what a step may hold.

    Arguments, bounds and errors as of `rehearsal`.
    """
    longest = _longest(load, requests, max_request_tokens)
    openers = min(1, requests - 1)
    most = min(max_batched_tokens, (requests - openers) * longest + openers)
    block = BLOCK * replicas
    # One less than a multiple of it: 16 does not divide the tokens of most steps of a load.
    sizes = [min(end - 1, most) for end in range(block, most + block, block)]
    groups = [
        _rung(max(tokens, openers + 1), longest, max_request_tokens, openers=openers) for tokens in sizes
    ]
    return _planned(groups, load, derived_seed(load.seed, Stream.REHEARSAL) + 1)


def variation(
    load: LoadPlan, requests: int, number: int, *, max_batched_tokens: int, max_request_tokens: int
) -> Rehearsal:
    """Round `number` of `VARIATION_GROUPS` prefills of sizes drawn at random (uniform and log-uniform in turn), each behind
    some requests that decode, as many as are drawn at random too. Each is sent twice, one right after the other.

    Arguments, bounds and errors as of `rehearsal`. A function of the load's seed and of `number` alone.
    """
    seed = derived_seed(load.seed, Stream.REHEARSAL)
    draw = np.random.default_rng([seed, number])
    longest = _longest(load, requests, max_request_tokens)
    groups = []
    for index in range(VARIATION_GROUPS):
        openers = min(round(float(requests) ** draw.random()), requests - 1)
        most = min(max_batched_tokens, (requests - openers) * longest + openers)
        tokens = round(most * draw.random() if index % 2 else float(most) ** draw.random())
        group = _rung(max(tokens, openers + 1), longest, max_request_tokens, openers=openers)
        groups += [group, group]
    return _planned(groups, load, seed + number + 2)


def stalled(took_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[pairs]: which prefills of a variation stood still, one of the two times that they were sent.

    took_s  [2 * pairs]: seconds from each group's first send to its last token; NaN: not all of it completed

    The same work takes as long twice. It stood still if one time took at least `STALL_MIN_S` longer than the other, and more
    than `STALL_SHARE` of its time longer.
    """
    pairs = took_s.reshape(-1, 2)
    usual_s = pairs.min(axis=1)
    late_s = pairs.max(axis=1) - usual_s
    return np.asarray(late_s > np.maximum(STALL_MIN_S, STALL_SHARE * usual_s), np.bool_)


def _longest(load: LoadPlan, requests: int, max_request_tokens: int) -> int:
    """Tokens of the longest prompt of `load` that the engine takes. Raises `ValueError` without requests."""
    if requests < 1:
        raise ValueError(f"a rehearsal needs at least one request, got {requests}")
    return max(1, min(int(load.input_tokens.max()), max_request_tokens - 1))


def _planned(groups: list[_Group], load: LoadPlan, seed: int) -> Rehearsal:
    inputs = np.concatenate([group.inputs for group in groups])
    outputs = np.concatenate([group.outputs for group in groups])
    begins = np.cumsum([0, *(len(group.inputs) for group in groups)])[:-1].tolist()
    joins = [begin + group.openers for begin, group in zip(begins, groups, strict=True) if group.openers]
    plan = LoadPlan(
        send_offset_ns=np.zeros(len(inputs), np.int64),
        input_tokens=inputs.astype(np.int32),
        output_tokens=outputs.astype(np.int32),
        force_output_length=True,
        sampling=load.sampling,
        seed=seed,
    )
    return Rehearsal(plan, tuple(begins[1:]), tuple(joins))


_Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


class _Group(NamedTuple):
    """Prompt and completion lengths, and how many of the requests are there before the others are sent."""

    inputs: _Ints
    outputs: _Ints
    openers: int = 0


def _falling(own: _Ints, max_batched_tokens: int, max_request_tokens: int) -> _Group:
    """Those that stay longest come first, with short prompts; the prompts of the last, which stay shortest, are of
    their `own` length, as many as `FULL_PREFILL_STEPS` hold."""
    # From the last one back, until the steps are full.
    tokens_behind = np.cumsum(own[::-1])[::-1] - own
    inputs = np.where(
        tokens_behind < FULL_PREFILL_STEPS * max_batched_tokens, own, np.minimum(own, SHORT_INPUT_TOKENS)
    )
    prefilled_in = _prefill_steps(inputs, max_batched_tokens)
    # One token is the prefill's own; after it all of them decode.
    outputs = 1 + _steps_running(len(own)) + prefilled_in[-1] - prefilled_in
    outputs = np.clip(outputs, 1, max(1, max_request_tokens - 1))
    return _Group(np.maximum(1, np.minimum(inputs, max_request_tokens - outputs)), outputs)


def _prefill_steps(inputs: _Ints, max_batched_tokens: int) -> _Ints:
    """int64[requests]: the step in which each prompt's last token is prefilled, in order; those before it decode meanwhile."""
    steps = np.zeros(len(inputs), np.int64)
    step, room = 0, max_batched_tokens
    for index, tokens in enumerate(inputs.tolist()):
        while tokens > room:
            tokens -= room
            step += 1
            room = max(1, max_batched_tokens - index)
        room -= tokens
        steps[index] = step
    return steps


def _steps_running(requests: int) -> _Ints:
    """int64[requests]: for how many steps each one runs, the first the longest."""
    steps = np.zeros(requests, np.int64)
    for running in _numbers_running(requests):
        steps[:running] += 1
    return steps


def _numbers_running(requests: int) -> list[int]:
    """Falling: an eighth apart or 16, an odd number with each multiple of 16; from 32 on each one."""
    numbers = [requests]
    level = requests
    while level > EACH_UP_TO:
        level -= level // 8
        multiple = level // MULTIPLE * MULTIPLE
        numbers += [number for number in (multiple, multiple - 1) if EACH_UP_TO < number < numbers[-1]]
    return numbers + list(range(min(EACH_UP_TO, numbers[-1] - 1), 0, -1))


def _rungs(least: int, most: int) -> list[int]:
    """Tokens of each prefill, from `most` down to `least`: multiples of 16 a quarter apart, all below 128; an odd number
    with each."""
    rungs = []
    level = most
    while level > least:
        multiple = level // MULTIPLE * MULTIPLE
        rungs += [multiple, multiple - 1]
        level = multiple - MULTIPLE if multiple <= FINE_UP_TO else level * 3 // 4
    return [tokens for tokens in rungs if tokens > 1]


def _rung(tokens: int, longest: int, max_request_tokens: int, *, openers: int) -> _Group:
    """A prefill of `tokens` in one step, of prompts up to the `longest`; as many of the tokens as there are `openers` are the
    decode of the requests that they arrive behind."""
    prefilled = tokens - openers if openers else min(tokens, longest)
    count = -(-prefilled // longest)
    inputs = np.full(count, prefilled // count, np.int64)
    inputs[: prefilled % count] += 1
    outputs = np.ones(count, np.int64)
    opening = min(OPENER_TOKENS, max(1, max_request_tokens - 1))
    return _Group(
        np.append(np.ones(openers, np.int64), inputs), np.append(np.full(openers, opening), outputs), openers
    )
