"""How long each prompt and each completion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import takewhile
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from wattcount.config.loader import check_fields
from wattcount.config.schema import LengthConfig, LengthKind
from wattcount.errors import NotStartedError
from wattcount.load.arrivals import BLOCK_TOKENS, Trace, read_trace
from wattcount.load.plan import Stream, stream
from wattcount.load.prompts import (
    ConversationFile,
    PromptFile,
    Tokenize,
    Turn,
    read_conversations,
    read_prompts,
)

BLOCK_VOCABULARY = (256, 8192)
"""Token ids that blocks of a trace are drawn from: below the first are control tokens, and every model has those below the second."""


@dataclass(frozen=True)
class LengthChanges:
    """How many of `requests` have another length than in their trace or prompt file.

    The bounds (`scenario.lengths.input_tokens_min` and the like) change lengths. A request can count twice: for its prompt
    and for its output.
    """

    requests: int
    input_cut: int
    """Prompts longer than the upper bound."""
    input_raised: int
    """Prompts shorter than the lower bound."""
    output_cut: int
    output_raised: int
    input_tokens_given: int
    """Prompt tokens of all requests, as the file gives them."""
    output_tokens_given: int
    input_tokens: int
    """Prompt tokens of all requests, as they are sent."""
    output_tokens: int


@dataclass(frozen=True)
class DrawnLengths:
    """The lengths of `n` requests, and their prompts where a file has them.

    input_tokens, output_tokens   int32[n], at least 1
    given_input_tokens, given_output_tokens   int32[n], as a trace or prompt file has them; None: there is no file
    """

    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    prompt_token_ids: tuple[tuple[int, ...], ...] | None = None
    given_input_tokens: NDArray[np.int32] | None = None
    given_output_tokens: NDArray[np.int32] | None = None
    follows: NDArray[np.bool_] | None = None
    """See `LoadPlan.follows`."""

    def changes(self) -> LengthChanges | None:
        """What the bounds have changed. None: nothing, or there is no file."""
        given_in, given_out = self.given_input_tokens, self.given_output_tokens
        if given_in is None or given_out is None:
            return None
        if (self.input_tokens == given_in).all() and (self.output_tokens == given_out).all():
            return None
        return LengthChanges(
            requests=len(self.input_tokens),
            input_cut=int((self.input_tokens < given_in).sum()),
            input_raised=int((self.input_tokens > given_in).sum()),
            output_cut=int((self.output_tokens < given_out).sum()),
            output_raised=int((self.output_tokens > given_out).sum()),
            input_tokens_given=int(given_in.sum(dtype=np.int64)),
            output_tokens_given=int(given_out.sum(dtype=np.int64)),
            input_tokens=int(self.input_tokens.sum(dtype=np.int64)),
            output_tokens=int(self.output_tokens.sum(dtype=np.int64)),
        )


class Lengths(ABC):
    """A distribution of prompt and completion lengths."""

    notes: tuple[str, ...] = ()
    """Lines that a reader of the record should know."""

    @abstractmethod
    def draw(self, count: int, seed: int) -> DrawnLengths:
        """The lengths of the first `count` requests; a larger count begins with the same ones."""


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest number of tokens, both allowed."""

    low: int
    high: int

    def clip(self, tokens: NDArray[np.float64] | NDArray[np.int32]) -> NDArray[np.int32]:
        return np.clip(np.rint(tokens), self.low, self.high).astype(np.int32)


@dataclass(frozen=True)
class UniformLengths(Lengths):
    """Every whole number within the bounds is equally likely; equal bounds make every request the same."""

    input_bounds: Bounds
    output_bounds: Bounds

    def draw(self, count: int, seed: int) -> DrawnLengths:
        return DrawnLengths(
            _uniform(self.input_bounds, count, stream(seed, Stream.INPUT_LENGTHS)),
            _uniform(self.output_bounds, count, stream(seed, Stream.OUTPUT_LENGTHS)),
        )


@dataclass(frozen=True)
class LognormalLengths(Lengths):
    """Log-normal lengths with a given mean and coefficient of variation, rounded and clipped to the bounds.

    sigma² = ln(1 + cv²), mu = ln(mean) - sigma² / 2. The mean is that of the distribution without bounds: bounds near it
    change it.
    """

    input_mean: float
    input_cv: float
    input_bounds: Bounds
    output_mean: float
    output_cv: float
    output_bounds: Bounds

    def draw(self, count: int, seed: int) -> DrawnLengths:
        return DrawnLengths(
            _lognormal(
                self.input_mean, self.input_cv, self.input_bounds, count, stream(seed, Stream.INPUT_LENGTHS)
            ),
            _lognormal(
                self.output_mean,
                self.output_cv,
                self.output_bounds,
                count,
                stream(seed, Stream.OUTPUT_LENGTHS),
            ),
        )


@dataclass(frozen=True)
class TraceLengths(Lengths):
    """Lengths of recorded requests; prompt and completion are those of one request.

    in_order  request i is row i, for arrivals from the same trace; False: rows are drawn at random, with replacement
    """

    trace: Trace
    input_bounds: Bounds
    output_bounds: Bounds
    in_order: bool

    def draw(self, count: int, seed: int) -> DrawnLengths:
        if self.in_order and count > len(self.trace):
            raise NotStartedError(
                f"trace file {self.trace.path} has {len(self.trace)} requests, the scenario needs {count}"
            )
        rows = (
            np.arange(count)
            if self.in_order
            else stream(seed, Stream.ROWS).integers(0, len(self.trace), count)
        )
        given_in, given_out = self.trace.input_tokens[rows], self.trace.output_tokens[rows]
        inputs = self.input_bounds.clip(given_in)
        return DrawnLengths(
            inputs,
            self.output_bounds.clip(given_out),
            self._prompts(rows, inputs, seed),
            given_input_tokens=given_in,
            given_output_tokens=given_out,
        )

    def _prompts(
        self, rows: NDArray[np.int64], inputs: NDArray[np.int32], seed: int
    ) -> tuple[tuple[int, ...], ...] | None:
        """Prompts that begin alike where their blocks do; None: the trace does not tell its blocks."""
        if self.trace.blocks is None:
            return None
        texts: dict[int, list[int]] = {}
        prompts = []
        for row, length in zip(rows.tolist(), inputs.tolist(), strict=True):
            ids: list[int] = []
            for block in self.trace.blocks[row]:
                if block not in texts:
                    bits = np.random.Generator(np.random.Philox(key=[seed, block]))
                    texts[block] = bits.integers(*BLOCK_VOCABULARY, BLOCK_TOKENS).tolist()
                ids += texts[block]
            if len(ids) < length:  # a lower bound has made it longer
                ids += ids * (length // max(1, len(ids)))
            prompts.append(tuple(ids[:length]))
        return tuple(prompts)


class PromptLengths(Lengths):
    """Prompts of a file, in an order that the seed draws. All of them come before one comes again.

    A prompt that is longer than the upper bound is cut.
    """

    def __init__(
        self, prompts: PromptFile, input_bounds: Bounds, output_tokens: int, output_bounds: Bounds
    ) -> None:
        self.prompts = prompts
        self.input_bounds = input_bounds
        self.output_tokens = output_tokens
        self.output_bounds = output_bounds
        if prompts.skipped:
            entries = prompts.skipped + len(prompts.token_ids)
            self.notes = (
                f"prompt file {prompts.path.name}: {prompts.skipped} of its {entries} entries hold no prompt with an "
                "answer and are left out",
            )
        for index, ids in enumerate(prompts.token_ids):
            if len(ids) < input_bounds.low:
                raise NotStartedError(
                    f"prompt file {prompts.path}, line {prompts.lines[index]}: the prompt has {len(ids)} tokens,"
                    f" fewer than scenario.lengths.input_tokens_min={input_bounds.low}"
                )

    def draw(self, count: int, seed: int) -> DrawnLengths:
        total = len(self.prompts.token_ids)
        random = stream(seed, Stream.ROWS)
        rounds = [random.permutation(total) for _ in range(-(-count // total))]
        rows = np.concatenate(rounds)[:count] if rounds else np.zeros(0, np.int64)
        given = [self.prompts.token_ids[row] for row in rows]
        ids = tuple(prompt[: self.input_bounds.high] for prompt in given)
        outputs = np.array(
            [self.prompts.output_tokens[row] or self.output_tokens for row in rows], dtype=np.int32
        )
        return DrawnLengths(
            np.array([len(prompt) for prompt in ids], dtype=np.int32),
            self.output_bounds.clip(outputs),
            ids,
            given_input_tokens=np.array([len(prompt) for prompt in given], dtype=np.int32),
            given_output_tokens=outputs,
        )


class ConversationLengths(Lengths):
    """Conversations of a file, in an order that the seed draws. All of them come before one comes again.

    The turns of a conversation follow each other. A conversation ends before a turn whose prompt is longer than the upper bound.
    """

    def __init__(
        self, file: ConversationFile, input_bounds: Bounds, output_tokens: int, output_bounds: Bounds
    ) -> None:
        self.output_tokens = output_tokens
        self.output_bounds = output_bounds
        fitting = [
            tuple(takewhile(lambda turn: len(turn.token_ids) <= input_bounds.high, turns))
            for turns in file.conversations
        ]
        self.conversations = [turns for turns in fitting if turns]
        if not self.conversations:
            raise NotStartedError(
                f"file of conversations {file.path}: every first prompt is longer than scenario.lengths.input_tokens_max={input_bounds.high}"
            )
        turns_of = sum(map(len, file.conversations))
        kept = sum(map(len, self.conversations))
        notes = []
        if file.skipped:
            notes.append(f"{file.skipped} entries hold nothing that was said and answered and are left out")
        if kept < turns_of:
            notes.append(
                f"{turns_of - kept} of {turns_of} turns are longer than scenario.lengths.input_tokens_max and are left out"
            )
        self.notes = tuple(f"file of conversations {file.path.name}: {note}" for note in notes)

    def draw(self, count: int, seed: int) -> DrawnLengths:
        random = stream(seed, Stream.ROWS)
        turns: list[Turn] = []
        follows: list[bool] = []
        while len(turns) < count:
            for row in random.permutation(len(self.conversations)).tolist():
                turns += self.conversations[row]
                follows += [number > 0 for number in range(len(self.conversations[row]))]
                if len(turns) >= count:
                    break
        turns = turns[:count]
        outputs = np.array([turn.output_tokens or self.output_tokens for turn in turns], dtype=np.int32)
        inputs = np.array([len(turn.token_ids) for turn in turns], dtype=np.int32)
        return DrawnLengths(
            inputs,
            self.output_bounds.clip(outputs),
            tuple(turn.token_ids for turn in turns),
            given_input_tokens=inputs,
            given_output_tokens=outputs,
            follows=np.array(follows[:count], dtype=np.bool_),
        )


def create(config: LengthConfig, *, trace: Trace | None = None, tokenize: Tokenize | None = None) -> Lengths:
    """The lengths of a scenario. Raises `NotStartedError`.

    trace     the trace that the arrivals come from, if any; lengths from the same file are then taken row by row with it
    tokenize  needed for prompt files that hold text
    """
    check_fields(config, "scenario.lengths")
    input_bounds = _bounds("input", config.input_tokens_min, config.input_tokens_max)
    output_bounds = _bounds("output", config.output_tokens_min, config.output_tokens_max)
    if config.kind is LengthKind.fixed:
        return UniformLengths(
            Bounds(config.input_tokens, config.input_tokens),
            Bounds(config.output_tokens, config.output_tokens),
        )
    if config.kind is LengthKind.uniform:
        return UniformLengths(input_bounds, output_bounds)
    if config.kind is LengthKind.lognormal:
        return LognormalLengths(
            config.input_tokens,
            config.input_cv,
            input_bounds,
            config.output_tokens,
            config.output_cv,
            output_bounds,
        )
    if config.kind is LengthKind.prompts:
        if config.path is None:
            raise NotStartedError("scenario.lengths.kind=prompts needs scenario.lengths.path, a prompt file")
        return PromptLengths(
            read_prompts(config.path, tokenize), input_bounds, config.output_tokens, output_bounds
        )
    if config.kind is LengthKind.conversations:
        if config.path is None:
            raise NotStartedError(
                "scenario.lengths.kind=conversations needs scenario.lengths.path, a file of conversations"
            )
        return ConversationLengths(
            read_conversations(config.path, tokenize), input_bounds, config.output_tokens, output_bounds
        )
    if config.path is None and trace is None:
        raise NotStartedError("scenario.lengths.kind=trace needs scenario.lengths.path, a trace file")
    if config.path is not None and (trace is None or not _same_file(config.path, trace)):
        return TraceLengths(read_trace(config.path), input_bounds, output_bounds, in_order=False)
    assert trace is not None
    return TraceLengths(trace, input_bounds, output_bounds, in_order=True)


def _same_file(path: str, trace: Trace) -> bool:
    return trace.path.resolve() == type(trace.path)(path).expanduser().resolve()


def _bounds(what: str, low: int, high: int) -> Bounds:
    if high < low:
        raise NotStartedError(
            f"scenario.lengths.{what}_tokens_max={high} is below scenario.lengths.{what}_tokens_min={low}"
        )
    return Bounds(low, high)


def _uniform(bounds: Bounds, count: int, random: np.random.Generator) -> NDArray[np.int32]:
    return random.integers(bounds.low, bounds.high, count, endpoint=True).astype(np.int32)


def _lognormal(
    mean: float, cv: float, bounds: Bounds, count: int, random: np.random.Generator
) -> NDArray[np.int32]:
    variance = log(1 + cv * cv)
    return bounds.clip(np.exp(log(mean) - variance / 2 + sqrt(variance) * random.standard_normal(count)))
