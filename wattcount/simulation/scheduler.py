"""The scheduler of vLLM's V1 engine, step by step, in virtual time: which tokens each step computes, when, and what it draws.

What it does, as that scheduler does it:

- *Continuous batching*: each step has a budget of `max_num_batched_tokens`. Running requests take theirs first, then waiting ones are admitted,
  first come, first served, while fewer than `max_num_seqs` are there.
- *Chunked prefill*: a prompt that does not fit what is left of the budget is computed in pieces; the last piece emits the first token.
- *KV blocks*: a request holds blocks for the tokens that are computed. Where a running one needs a block and none is free, the one admitted last is
  *preempted*: it loses its blocks, goes to the head of the queue and computes its prompt and its output so far again. A step that preempts admits
  nobody.
- *Asynchronous scheduling*: a step is composed as soon as the tokens of the one two before it are heard, while another runs. So what arrives while step n
  runs is first computed in step n + 2, and a slot is free for the step after the next.
- *Launching*: the thread that composes a step also launches its kernels. A step without a CUDA graph takes it milliseconds, and for so long nobody
  hears the tokens of the step before.

::

    GPU          |--- n ---|-- n+1 --|-- n+2 --|
    composed     n+1       n+2       n+3              of what has arrived by then
    launched     ==        ======                     tokens of n+1 are heard when n+2 is launched

Requests that decode are a count and the sum of their contexts, not a loop: when each ends is known when it begins to decode.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattcount.prediction.steps import StepBatch, StepModel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEVER = math.nan
"""Time of what never happened."""
END, HEARD, COUNT = 1, 2, 4
"""Columns of the rows that become `Steps`."""


@dataclass(frozen=True)
class Limits:
    """What bounds a step. The defaults are vLLM's for a server on a large GPU.

    kv_blocks      blocks of the KV cache; None: never short
    asynchronous   whether a step is composed while another runs
    """

    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    block_size: int = 16
    kv_blocks: int | None = None
    asynchronous: bool = True

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.block_size) < 1 or self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                "a step needs max_num_seqs and block_size of at least 1, and as many batched tokens as sequences"
            )

    def blocks(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size)


@dataclass(frozen=True)
class Load:
    """float64[n] arrival times [s], not decreasing; int64[n] tokens of prompt and of output, each at least 1."""

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints

    def __post_init__(self) -> None:
        if (np.diff(self.arrival_s) < 0).any():
            raise ValueError("arrival times must not decrease")
        if len(self) and min(self.input_tokens.min(), self.output_tokens.min()) < 1:
            raise ValueError("a request has at least one token of prompt and of output")

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True)
class Steps:
    """Steps in the order of time, as columns of one length. A row is `count` steps in which nobody came or ended.

    start_s, end_s, power_w            float64
    heard_s                            float64, when the last tokens of it were heard
    count                              int64
    prefill_tokens, decode_sequences   int64, of each of its steps
    emitted                            int64, output tokens of all its steps
    running, waiting, kv_blocks        int64: requests in the step, requests that wait, blocks in use after it
    """

    start_s: Floats
    end_s: Floats
    heard_s: Floats
    power_w: Floats
    count: Ints
    prefill_tokens: Ints
    decode_sequences: Ints
    emitted: Ints
    running: Ints
    waiting: Ints
    kv_blocks: Ints

    def __len__(self) -> int:
        return len(self.start_s)

    def within(self, start_s: float, end_s: float) -> tuple[float, float]:
        """(seconds, joules) of the steps in [start, end]."""
        length = np.clip(np.minimum(self.end_s, end_s) - np.maximum(self.start_s, start_s), 0.0, None)
        return float(length.sum()), float(length @ self.power_w)

    def emitted_between(self, start_s: float, end_s: float) -> float:
        """Output tokens heard in (start, end]. A row of several steps that straddles a bound counts by its share."""
        whole = (self.count == 1) & (self.heard_s > start_s) & (self.heard_s <= end_s)
        many = self.count > 1
        length = self.end_s[many] - self.start_s[many]
        inside = np.minimum(self.end_s[many], end_s) - np.maximum(self.start_s[many], start_s)
        share = np.divide(inside.clip(0.0), length, out=np.zeros_like(inside), where=length > 0)
        return float(self.emitted[whole].sum() + share @ self.emitted[many])


@dataclass(frozen=True)
class Played:
    """What came of a load.

    scheduled_s, first_s, last_s   float64[n]: first computed on, first token, last token; `NEVER` where that did not happen
    preemptions                    int64[n]
    refused                        requests that can never be served: they need more blocks than there are
    idle_w                         power while no step runs [W]
    """

    load: Load
    scheduled_s: Floats
    first_s: Floats
    last_s: Floats
    preemptions: Ints
    refused: tuple[int, ...]
    steps: Steps
    idle_w: float

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Energy in [start, end]: of the steps as far as they lie in it, and idle power for the rest [J]."""
        busy_s, steps_j = self.steps.within(start_s, end_s)
        return steps_j + self.idle_w * max(0.0, end_s - start_s - busy_s)


Launches = Callable[[StepBatch], tuple[float, float]]
"""From a step with prefill to how long it takes to launch, and after what time since it was composed it can have ended at the earliest [s]."""


@dataclass(slots=True)
class _Request:
    """One that is being served.

    computed   tokens that are computed while it is in prefill
    made       output tokens, when it last was in prefill
    joined     number of the first step in which it decodes; -1: it is in prefill
    ends       number of the step that emits its last token
    """

    index: int
    prompt: int
    output: int
    order: int = -1
    computed: int = 0
    made: int = 0
    joined: int = -1
    ends: int = -1

    def made_before(self, step: int) -> int:
        return self.made + step - self.joined if self.joined >= 0 else self.made


def play(
    load: Load,
    limits: Limits,
    model: StepModel,
    *,
    launches: Launches | None = None,
    until_s: float = math.inf,
    jump: bool = False,
) -> Played:
    """What a load does to one engine.

    launches  how long a step takes to launch, and how long after it was composed it can have ended at the earliest; None: it takes no time. Only
              with asynchronous scheduling
    until_s  no step begins after it
    jump     stretches of decoding alone, in which nobody comes or ends, are one row of `Steps`: the same times where a step's time is linear in its
             contexts, and many times faster
    """
    return _Engine(load, limits, model, launches, jump).run(until_s)


class _Engine:
    def __init__(
        self, load: Load, limits: Limits, model: StepModel, launches: Launches | None, jump: bool
    ) -> None:
        self._load, self._limits, self._model, self._jump = load, limits, model, jump
        self._launches = launches if limits.asynchronous else None
        count = len(load)
        self._scheduled = [NEVER] * count
        self._first, self._last = [-1] * count, [-1] * count
        """Rows of the steps with the first and the last token; -1: none."""
        self._preempted = [0] * count
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        """All that are admitted and not at their end, by the order of their admission."""
        self._prefilling: dict[int, _Request] = {}
        """Those of them in prefill."""
        self._endings: list[tuple[int, int]] = []
        """Heap of (step with the last token, order); of preempted requests it is out of date."""
        self._ended: deque[tuple[int, int]] = deque()
        """(step with the last token, blocks) of what keeps its slot and blocks until that step is known to have ended."""
        self._contexts = 0
        """Tokens that the decoding requests look back on in the next step, all together."""
        self._needing = [0] * limits.block_size
        """Decoding requests that need another block in the steps of this number, modulo the block size."""
        self._blocks = 0
        self._orders = 0
        self._last_step_s = 0.0
        """Length of the last step of a stretch."""
        self._launched_s = 0.0
        """How long the last step took to launch."""
        self._refused: list[int] = []
        self._rows: list[list[float]] = []

    def run(self, until_s: float) -> Played:
        arrivals = self._load.arrival_s.tolist()
        prompts, outputs = self._load.input_tokens.tolist(), self._load.output_tokens.tolist()
        coming, count, number = 0, len(arrivals), 0
        lag = 2 if self._limits.asynchronous else 1
        end_s = heard_s = compose_s = -math.inf
        while True:
            # Now the tokens of the step two before this one are heard, and the one before it is launched.
            compose_s = max(compose_s + self._launched_s, heard_s)
            known = number - lag
            composed = False
            while not composed:
                if not (self._running or self._waiting):
                    if coming == count:
                        return self._played()
                    compose_s = max(compose_s, arrivals[coming])
                if compose_s > until_s:
                    return self._played()
                while coming < count and arrivals[coming] <= compose_s:
                    self._arrive(coming, prompts[coming], outputs[coming])
                    coming += 1
                while self._ended and self._ended[0][0] <= known:
                    self._blocks -= self._ended.popleft()[1]
                next_s = arrivals[coming] if coming < count else math.inf
                composed = self._compose(number, compose_s, max(end_s, compose_s), next_s)
                if not composed and known < number - 1:
                    # What holds slots and blocks has to end first.
                    known, compose_s = number - 1, max(compose_s, end_s)
                elif not composed and (self._running or self._waiting):
                    if coming == count:
                        return self._played()
                    compose_s = max(compose_s, next_s)
            row = self._rows[-1]
            if lag == 1:
                heard_s = row[END]
            elif row[COUNT] > 1:
                # Of a stretch of steps the last begins where the one before it has ended.
                heard_s = row[END] - self._last_step_s
            elif len(self._rows) > 1:
                before = self._rows[-2]
                if compose_s < before[END]:
                    before[HEARD] = max(before[END], compose_s + self._launched_s)
                heard_s = before[HEARD]
            number += int(row[COUNT])
            end_s = row[END]

    # -- what comes and goes

    def _arrive(self, index: int, prompt: int, output: int) -> None:
        blocks = self._limits.kv_blocks
        if blocks is not None and self._limits.blocks(prompt + output - 1) > blocks:
            self._refused.append(index)
        else:
            self._waiting.append(_Request(index, prompt, output))

    def _leave(self, request: _Request, step: int) -> int:
        """Takes a request that decodes out of the sums, before `step`. Returns its blocks."""
        made = request.made_before(step)
        self._contexts -= request.prompt + made
        self._needing[(request.joined - request.prompt - request.made + 1) % self._limits.block_size] -= 1
        return self._limits.blocks(request.prompt + made - 1)

    def _preempt(self, step: int) -> None:
        order, request = self._running.popitem()
        if request.joined >= 0:
            self._blocks -= self._leave(request, step)
            request.made = request.made_before(step)
        else:
            del self._prefilling[order]
            self._blocks -= self._limits.blocks(request.computed)
        request.computed, request.joined, request.ends, request.order = 0, -1, -1, -1
        self._preempted[request.index] += 1
        self._waiting.appendleft(request)

    # -- a step

    def _compose(self, number: int, composed_s: float, start_s: float, next_s: float) -> bool:
        """Composes step `number`, which begins at `start_s`. False: nothing could be scheduled."""
        limits, running, prefilling = self._limits, self._running, self._prefilling
        total = limits.kv_blocks if limits.kv_blocks is not None else math.inf
        phase = number % limits.block_size
        preempted = False
        while running and self._blocks + self._needing[phase] > total:
            self._preempt(number)
            preempted = True
        decoding = len(running) - len(prefilling)
        contexts = self._contexts
        budget = limits.max_num_batched_tokens - decoding
        pieces: list[tuple[_Request, int]] = []
        for order, request in list(prefilling.items()):
            if budget <= 0:
                break
            if order not in running:
                continue
            piece = min(request.prompt + request.made - request.computed, budget)
            more = limits.blocks(request.computed + piece) - limits.blocks(request.computed)
            while self._blocks + self._needing[phase] + more > total and order in running:
                self._preempt(number)
                preempted = True
            if order not in running:
                break
            self._blocks += more
            pieces.append((request, piece))
            budget -= piece
        if preempted:
            pieces = [piece for piece in pieces if piece[0].order in running]
            decoding, contexts = len(running) - len(prefilling), self._contexts
        while (
            not preempted
            and self._waiting
            and budget > 0
            and len(running) + len(self._ended) < limits.max_num_seqs
        ):
            request = self._waiting[0]
            piece = min(request.prompt + request.made, budget)
            more = limits.blocks(piece)
            if self._blocks + self._needing[phase] + more > total:
                break
            self._waiting.popleft()
            self._blocks += more
            request.order = self._orders
            self._orders += 1
            running[request.order] = prefilling[request.order] = request
            if math.isnan(self._scheduled[request.index]):
                self._scheduled[request.index] = start_s
            pieces.append((request, piece))
            budget -= piece
        if not pieces and not decoding:
            # Who has preempted itself is admitted again, if there is room.
            return preempted and self._compose(number, composed_s, start_s, next_s)
        if pieces:
            self._mixed(number, composed_s, start_s, decoding, contexts, pieces)
        else:
            # After a step that preempted and so admitted nobody, the next may admit somebody.
            self._decode(number, start_s, start_s if preempted else next_s, decoding, contexts)
        return True

    def _mixed(
        self,
        number: int,
        composed_s: float,
        start_s: float,
        decoding: int,
        contexts: int,
        pieces: list[tuple[_Request, int]],
    ) -> None:
        tokens = looked_back = 0
        for request, piece in pieces:
            tokens += piece
            looked_back += piece * request.computed + piece * (piece + 1) // 2
        batch = StepBatch(tokens, looked_back, decoding, contexts)
        step_s = self._model.step_time_s(batch)
        energy_j = step_s * self._model.step_power_w(batch)
        self._launched_s = 0.0
        if self._launches is not None:
            self._launched_s, earliest_s = self._launches(batch)
            # While kernels are launched too slowly, the GPU waits for them.
            more_s = max(0.0, composed_s + earliest_s - start_s - step_s)
            energy_j += self._model.idle_w * more_s
            step_s += more_s
        end_s, power_w = start_s + step_s, energy_j / step_s
        self._advance(number, 1, decoding)
        emitted = decoding
        for request, piece in pieces:
            request.computed += piece
            if request.computed < request.prompt + request.made:
                continue
            del self._prefilling[request.order]
            emitted += 1
            if self._first[request.index] < 0:
                self._first[request.index] = len(self._rows)
            request.made += 1
            if request.made == request.output:
                del self._running[request.order]
                self._last[request.index] = len(self._rows)
                self._ended.append((number, self._limits.blocks(request.computed)))
                continue
            request.joined, request.ends = number + 1, number + request.output - request.made
            self._contexts += request.prompt + request.made
            self._needing[(request.joined - request.prompt - request.made + 1) % self._limits.block_size] += 1
            heapq.heappush(self._endings, (request.ends, request.order))
        self._row(start_s, end_s, power_w, 1, tokens, decoding, emitted)

    def _decode(self, number: int, start_s: float, next_s: float, decoding: int, contexts: int) -> None:
        """A step of decoding alone, or a stretch of them."""
        batch = StepBatch(0, 0, decoding, contexts)
        self._launched_s = 0.0
        step_s, power_w = self._model.step_time_s(batch), self._model.step_power_w(batch)
        steps = self._stretch(number, next_s - start_s, step_s, decoding) if self._jump else 1
        if steps > 1:
            last = StepBatch(0, 0, decoding, contexts + (steps - 1) * decoding)
            last_s, last_w = self._model.step_time_s(last), self._model.step_power_w(last)
            power_w = (power_w * step_s + last_w * last_s) / (step_s + last_s)
            step_s, self._last_step_s = (step_s + last_s) / 2, last_s
        end_s = start_s + steps * step_s
        self._advance(number, steps, decoding)
        self._row(start_s, end_s, power_w, steps, 0, decoding, steps * decoding)

    def _stretch(self, number: int, free_s: float, step_s: float, decoding: int) -> int:
        """For how many steps from `number` on surely nobody comes, ends or lacks a block; at least 1."""
        if self._ended:
            return 1
        while self._endings and self._outdated(self._endings[0]):
            heapq.heappop(self._endings)
        steps = self._endings[0][0] - number
        if free_s <= 0:
            return 1
        if not self._waiting and free_s < math.inf:
            # Contexts grow, and steps with them: by less than a fifth within a stretch.
            steps = min(steps, int(free_s / (1.2 * step_s)))
            steps = min(steps, max(1, int(0.2 * self._contexts / decoding)))
        if self._limits.kv_blocks is not None:
            room = self._limits.kv_blocks - self._blocks
            steps = min(steps, (room // decoding) * self._limits.block_size)
        return max(steps, 1)

    def _outdated(self, ending: tuple[int, int]) -> bool:
        request = self._running.get(ending[1])
        return request is None or request.ends != ending[0]

    def _advance(self, number: int, steps: int, decoding: int) -> None:
        """The decoding requests get their tokens of `steps` steps: those of the row that comes next."""
        if not decoding:
            return
        size = self._limits.block_size
        whole, rest = divmod(steps, size)
        if whole:
            self._blocks += whole * decoding
        for step in range(number, number + rest):
            self._blocks += self._needing[step % size]
        self._contexts += steps * decoding
        after = number + steps
        while self._endings and self._endings[0][0] < after:
            ending = heapq.heappop(self._endings)
            if self._outdated(ending):
                continue
            request = self._running.pop(ending[1])
            self._last[request.index] = len(self._rows)
            self._ended.append((ending[0], self._leave(request, after)))

    def _row(
        self,
        start_s: float,
        end_s: float,
        power_w: float,
        count: int,
        prefill: int,
        decoding: int,
        emitted: int,
    ) -> None:
        there = len(self._running) + len(self._ended)
        self._rows.append(
            [
                start_s,
                end_s,
                end_s,
                power_w,
                count,
                prefill,
                decoding,
                emitted,
                there,
                len(self._waiting),
                self._blocks,
            ]
        )

    def _played(self) -> Played:
        columns = np.array(self._rows, dtype=np.float64).reshape(-1, 11).T
        steps = Steps(*columns[:COUNT], *(column.astype(np.int64) for column in columns[COUNT:]))
        # What has no row is row -1: never.
        heard = np.append(steps.heard_s, NEVER)
        return Played(
            self._load,
            np.array(self._scheduled, dtype=np.float64),
            heard[self._first],
            heard[self._last],
            np.array(self._preempted, dtype=np.int64),
            tuple(self._refused),
            steps,
            self._model.idle_w,
        )
