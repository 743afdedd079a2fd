"""A streamed answer as it comes off the wire: HTTP/1.1, server-sent events, and the tokens in them.

Whoever receives only stamps what came and lays it aside; this takes it apart later::

    (t_ns, bytes)* --> head | chunks of HTTP --> events --> tokens by time, and how it ended

An event is not a token. How many tokens came when is told, in this order of preference, by

- `usage` in each event (`stream_options.continuous_usage_stats`: vLLM, SGLang);
- `usage` at the end, where it counts as many tokens as events with text came;
- `usage` at the end, dealt out over the events by the tokens that the model's tokenizer finds in their texts;
- the same by the lengths of their texts, where there is no tokenizer.

`Reply.counted` says which it was.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from wattcount.errors import one_line

LONGEST_EVENT_BYTES = 8 << 20
"""Longest part of an answer that is kept until it is whole [bytes]: no server sends such an event."""
LONGEST_BODY_BYTES = 64 << 10
"""So much of an answer that is no stream is kept [bytes]: an error says less."""
LAST_BLOCKS = 4
"""So many arrivals at the end of a stream are looked at for how it ended: finish reason, usage, `[DONE]`."""

_TOTAL = b'"completion_tokens":'
"""What stands before the number of output tokens so far, in an event of a server that gives it with each."""
_NUMBER = re.compile(rb"\s*(\d+)")
"""The number after it."""
_WHOLE = (b"}\n\n", b"[DONE]\n\n")
"""Ends of an arrival that holds only whole events, so that nothing has to be kept for the next one."""

CountTokens = Callable[[Sequence[str]], list[int]]
"""From pieces of a text to how many tokens had ended by the end of each."""


class Counted(StrEnum):
    """How it is known when the tokens of an answer came."""

    each_event = "usage_of_each_event"
    one_an_event = "one_an_event"
    """As many events with text as `usage` counts tokens."""
    tokenizer = "usage_by_tokenizer"
    text = "usage_by_length_of_text"
    events = "events"
    """No `usage`, no tokenizer: each event is taken for one token, which may be wrong."""
    tokenizer_alone = "tokenizer"
    """No `usage`."""
    none = "none"
    """No token came."""


class BadAnswerError(Exception):
    """What came is not HTTP/1.1, or not what was asked for. The message is a clause."""


class Reply:
    """The answer to one request, fed with `take` as it arrived.

    stamps, counts   when tokens came [ns] and how many, since the caller last emptied these lists
    """

    __slots__ = (
        "_blocks", "_body", "_broken", "_chunked", "_count", "_each", "_ends", "_error", "_keep", "_left", "_pieces",
        "_text", "_usage_after", "_wire", "cached_tokens", "chunked", "complete", "counted", "counts", "done_event",
        "finish_reason", "keep_alive", "prompt_tokens", "stamps", "status", "streamed", "t_ns", "tokens", "usage_tokens",
    )  # fmt: skip

    def __init__(self, *, keep: bool = False, count: CountTokens | None = None) -> None:
        self.status: int | None = None
        self.complete = False
        """All of the answer is here."""
        self.keep_alive = True
        self.chunked = False
        self.streamed = False
        self.done_event = False
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.usage_tokens: int | None = None
        """Output tokens as `usage` says in the end."""
        self.tokens = 0
        self.counted = Counted.none
        self.stamps: list[int] = []
        self.counts: list[int] = []
        self.t_ns = 0
        self._wire = b""
        """Not whole yet: head, or a chunk of HTTP."""
        self._left: int | None = None
        """Bytes of the body still to come, where its length was said."""
        self._text = b""
        """An event that is not whole yet."""
        self._body = b""
        """Of an answer that is no stream."""
        self._each: bool | None = None
        """Whether each event tells usage; None: not known yet."""
        self._ends: deque[bytes] = deque(maxlen=LAST_BLOCKS)
        self._pieces: list[tuple[int, str]] = []
        """Events with text, where usage comes at the end: when, and the text."""
        self._blocks: list[bytes] | None = [] if keep else None
        self._broken: str | None = None
        self._error: str | None = None
        self._usage_after: int | None = None
        """Output tokens that the events with choices told of, where `usage` of the last one says more."""
        self._count = count

    # -- taking apart

    def take(self, t_ns: int, data: bytes) -> None:
        """`data` arrived at `t_ns`. Raises `BadAnswerError`."""
        self.t_ns = t_ns
        if self.status is None:
            self._wire += data
            rest = self._head()
            if rest is None:
                return
            data, self._wire = rest, b""
            if not data and self._left != 0:
                return
        if self.chunked:
            data = self._dechunked(data)
        elif self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self.complete = self._left == 0
        if not data:
            return
        if self.streamed:
            self._events(data)
        else:
            self._body = (self._body + data)[:LONGEST_BODY_BYTES]

    def take_all(self, times_ns: Sequence[int], pieces: Sequence[bytes]) -> None:
        """`take` for each piece. Quick where each is one whole chunk with whole events that tell `usage`: nearly always."""
        quick = self._each and self.chunked and self._blocks is None and not (self._wire or self._text)
        reached, stamps, counts, ends = self.tokens, self.stamps, self.counts, self._ends
        length, number = len(_TOTAL), _NUMBER.match
        for t_ns, data in zip(times_ns, pieces, strict=True):
            if quick and data.endswith(b"}\n\n\r\n"):
                eol = data.find(b"\r\n")
                if len(data) == eol + _size(data[:eol]) + 4 and data.startswith(b"data: {", eol + 2):
                    ends.append(data[eol + 2 : -2])
                    at = data.rfind(_TOTAL)
                    if at >= 0 and (found := number(data, at + length)) is not None:
                        total = int(found[1])
                        if total > reached:
                            stamps.append(t_ns)
                            counts.append(total - reached)
                            reached = total
                    self.t_ns = t_ns
                    continue
            self.tokens = reached
            self.take(t_ns, data)
            quick = self._each and self.chunked and self._blocks is None and not (self._wire or self._text)
            reached = self.tokens
        self.tokens = reached

    def closed(self) -> None:
        """The server closed the connection: that ends an answer whose length nothing else tells."""
        if self.status is not None and not self.chunked and self._left is None:
            self.complete = True
        self.keep_alive = False

    def _head(self) -> bytes | None:
        """Reads the head; what follows it, or None where it is not whole."""
        while True:
            end = self._wire.find(b"\r\n\r\n")
            if end < 0:
                if len(self._wire) > LONGEST_BODY_BYTES:
                    raise BadAnswerError("the answer does not begin like HTTP")
                return None
            lines = self._wire[:end].split(b"\r\n")
            rest = self._wire[end + 4 :]
            words = lines[0].split(None, 2)
            if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
                raise BadAnswerError(f"the answer does not begin like HTTP/1.1: {_shown(lines[0])}")
            status = int(words[1])
            if 100 <= status < 200:  # `100 Continue` and its like come before the answer
                self._wire = rest
                continue
            break
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip().lower()
        self.status = status
        connection = headers.get(b"connection", b"")
        self.keep_alive = b"close" not in connection and (
            words[0] != b"HTTP/1.0" or b"keep-alive" in connection
        )
        self.chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
        self.streamed = status == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if not self.chunked and b"content-length" in headers:
            if not headers[b"content-length"].isdigit():
                raise BadAnswerError(f"Content-Length is {_shown(headers[b'content-length'])}")
            self._left = int(headers[b"content-length"])
            self.complete = self._left == 0
        return rest

    def _dechunked(self, data: bytes) -> bytes:
        """The bodies of the chunks that `data` makes whole."""
        if not self._wire:  # nearly always: one chunk, whole
            eol = data.find(b"\r\n")
            if 0 < eol < 9 and (size := _size(data[:eol])) and len(data) == eol + size + 4:
                return data[eol + 2 : -2]
        else:
            data = self._wire + data
        bodies, at = [], 0
        while (eol := data.find(b"\r\n", at)) >= 0:
            size = _size(data[at:eol])
            if size == 0:
                end = data.find(b"\r\n\r\n", eol)  # after trailers, which nobody needs
                if end >= 0:
                    self.complete, at = True, end + 4
                break
            end = eol + 2 + size
            if len(data) < end + 2:
                break
            bodies.append(data[eol + 2 : end])
            at = end + 2
        self._wire = data[at:]
        if len(self._wire) > LONGEST_EVENT_BYTES:
            raise BadAnswerError(f"a chunk is longer than {LONGEST_EVENT_BYTES >> 20} MiB")
        return b"".join(bodies)

    def _events(self, data: bytes) -> None:
        text = self._text + data if self._text else data
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        if text.endswith(b"\n\n"):
            self._text = b""
        else:
            end = text.rfind(b"\n\n") + 2
            if end < 2:
                if len(text) > LONGEST_EVENT_BYTES:
                    raise BadAnswerError(f"an event is longer than {LONGEST_EVENT_BYTES >> 20} MiB")
                self._text = text
                return
            text, self._text = text[:end], text[end:]
        if self._blocks is not None:
            self._blocks.append(text)
        if not self._each:
            for event in text.split(b"\n\n"):
                self._event(event)
            return
        self._ends.append(text)
        at = text.rfind(_TOTAL)
        if at >= 0 and (number := _NUMBER.match(text, at + len(_TOTAL))) is not None:
            self._reached(int(number[1]))
        if not text.endswith(_WHOLE) and not text.startswith(b":"):
            self._broken = self._broken or _shown(_first_broken(text))

    def _reached(self, total: int) -> None:
        """`total` output tokens have come until now."""
        if total > self.tokens:
            self.stamps.append(self.t_ns)
            self.counts.append(total - self.tokens)
            self.tokens = total

    def _event(self, event: bytes) -> None:
        told = self._told(event)
        if told is None:
            return
        text = _text_of(told)
        usage = told.get("usage")
        if self._each is None and told.get("choices") and (text is not None or _tokens_of(usage) is not None):
            self._each = _tokens_of(usage) is not None
        if self._each:
            self._reached(_tokens_of(usage) or 0)
        elif text is not None:
            self._pieces.append((self.t_ns, text))

    def _told(self, event: bytes) -> dict[str, Any] | None:
        """An event's JSON, after what it says of the whole answer was noted; None: it has none."""
        if not event.startswith(b"data:"):
            # Comments (`: ping`), and fields that the protocol has and no such server uses.
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            data = b"\n".join(lines)
            if not data:
                if event and not event.startswith((b":", b"event:", b"id:", b"retry:")):
                    self._broken = self._broken or _shown(event)
                return None
        else:
            data = event[5:].strip()
        if data == b"[DONE]":
            self.done_event = True
            return None
        try:
            told = json.loads(data)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            self._broken = self._broken or _shown(data)
            return None
        self._note(told)
        return told

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("error") is not None or told.get("object") == "error":
            self._error = self._error or error_text(told)
        choices = told.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict) and choice.get("finish_reason"):
                    self.finish_reason = str(choice["finish_reason"])
        usage = told.get("usage")
        if not isinstance(usage, dict):
            return
        if (total := _tokens_of(usage)) is not None:
            if not choices and self.usage_tokens is not None and self.usage_tokens != total:
                self._usage_after = self.usage_tokens
            self.usage_tokens = total
        if isinstance(usage.get("prompt_tokens"), int):
            self.prompt_tokens = usage["prompt_tokens"]
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            self.cached_tokens = details["cached_tokens"]

    # -- how it ended

    def finish(self) -> None:
        """Counts what is left to count. Call it once, when nothing more comes, whatever the reason."""
        if self._each:
            self.counted = Counted.each_event
            for block in self._ends:
                for event in block.split(b"\n\n"):
                    self._told(event)
        elif self.streamed:
            self._deal_out()
        elif self.status == 200:
            self._at_once()

    def _deal_out(self) -> None:
        """Deals the tokens that `usage` told in the end out over the events with text."""
        pieces = [piece for piece in self._pieces if piece[1]] or self._pieces
        total = self.usage_tokens
        if total == 0 or not (pieces or total):
            return
        if not pieces:
            self._reached(total or 0)
            self.counted = Counted.text
            return
        if total == len(pieces):
            weights = list(range(1, total + 1))
            self.counted = Counted.one_an_event
        elif self._count is not None and (weights := self._count([text for _, text in pieces]))[-1]:
            self.counted = Counted.tokenizer if total is not None else Counted.tokenizer_alone
        elif total is not None and any(text for _, text in pieces):
            weights, length = [], 0
            for _, text in pieces:
                length += len(text)
                weights.append(length)
            self.counted = Counted.text
        else:
            weights = list(range(1, len(pieces) + 1))
            self.counted = Counted.events if total is None else Counted.text
        total = weights[-1] if total is None else total
        for (t_ns, _), weight in zip(pieces, weights, strict=True):
            # What came first is a token at least, and the last one brings all.
            reached = max(1, round(total * weight / weights[-1]))
            if reached > self.tokens:
                self.stamps.append(t_ns)
                self.counts.append(reached - self.tokens)
                self.tokens = reached

    def _at_once(self) -> None:
        """An answer in one piece, where a stream was asked for."""
        try:
            told = json.loads(self._body)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            self._broken = self._broken or _shown(self._body)
            return
        self._note(told)
        if self.usage_tokens:
            self._reached(self.usage_tokens)
            self.counted = Counted.text

    def error(self, max_tokens: int, *, exact: bool) -> str | None:
        """What is wrong with the answer to a request for at most, or `exact`ly, so many tokens; a clause, None: nothing.

        Call it after `finish`.
        """
        if self.status is None:
            return "the server closed the connection without an answer"
        if self.status != 200:
            return f"HTTP {self.status}: {self._said()}"
        if self._error is not None:
            return f"the server broke off: {self._error}"
        if self._broken is not None:
            return f"the server sent what is no JSON: {self._broken}"
        if not self.complete:
            return (
                f"the connection was closed in the stream, after {self.tokens} of {max_tokens} output tokens"
            )
        if not self.streamed:
            return "the server did not stream: it gave the whole answer at once"
        ending = f", finish reason {self.finish_reason}" if self.finish_reason else ""
        if not self.done_event and self.finish_reason is None:
            return f"the stream ended without [DONE] and a finish reason, after {self.tokens} output tokens"
        if (self.tokens != max_tokens and exact) or self.tokens > max_tokens:
            return f"ended after {self.tokens} of {max_tokens} output tokens{ending}"
        return None if self.tokens else f"ended without an output token{ending}"

    @property
    def usage_wrong(self) -> bool:
        """Whether `usage` contradicts itself: the last one tells another number than the events before it, or less than came."""
        texts = sum(1 for _, text in self._pieces if text)
        return self._usage_after is not None or (self.usage_tokens is not None and self.usage_tokens < texts)

    @property
    def each_event(self) -> bool:
        """Whether each event told `usage`."""
        return bool(self._each)

    @property
    def kept(self) -> bool:
        """Whether all of it is kept, for `text`."""
        return self._blocks is not None

    def text(self) -> str:
        """What the model wrote, of an answer that was made with `keep`."""
        told = [self._told(event) for block in self._blocks or () for event in block.split(b"\n\n")]
        return "".join(_text_of(one) or "" for one in told if one is not None)

    def _said(self) -> str:
        try:
            told = json.loads(self._body)
        except ValueError:
            told = None
        if isinstance(told, dict):
            return error_text(told)
        return one_line(self._body.decode(errors="replace")) or "no reason given"


def error_text(told: dict[str, Any]) -> str:
    """What a server's JSON says went wrong, one line."""
    found = told.get("error", told)
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or found
    return one_line(found if isinstance(found, str) else json.dumps(found))


def _tokens_of(usage: object) -> int | None:
    total = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else None


def _text_of(told: dict[str, Any]) -> str | None:
    """The text of an event's choices; None where it has no choice that could hold any."""
    choices = told.get("choices")
    found: str | None = None
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if isinstance(delta, dict):
            parts = [delta.get(key) for key in ("reasoning_content", "reasoning", "content")]
            if not any(isinstance(part, str) and part for part in parts) and (
                "role" in delta or choice.get("finish_reason")
            ):
                continue  # says who speaks, or that all was said
            found = (found or "") + "".join(part for part in parts if isinstance(part, str))
            if delta.get("tool_calls"):
                found += json.dumps(delta["tool_calls"])
        elif isinstance(choice.get("text"), str):
            if not choice["text"] and choice.get("finish_reason"):
                continue
            found = (found or "") + choice["text"]
    return found


def _size(digits: bytes) -> int:
    """The size of a chunk, out of its first line."""
    try:
        return int(digits.split(b";")[0] if b";" in digits else digits, 16)
    except ValueError:
        raise BadAnswerError(f"a chunk of HTTP has no size: {_shown(digits)}") from None


def _first_broken(text: bytes) -> bytes:
    """The first of some events that is no JSON; all of the text where each is."""
    for event in text.split(b"\n\n"):
        data = event.removeprefix(b"data:").strip()
        if not data or data == b"[DONE]" or event.startswith(b":"):
            continue
        try:
            json.loads(data)
        except ValueError:
            return data
    return text.removeprefix(b"data: ")


def _shown(data: bytes) -> str:
    return one_line(data[:200].decode(errors="replace"), 120)
