"""Answers taken apart: whatever the pieces they come in, and whatever is wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from echo_server import Behaviour, answer
from hypothesis import given
from hypothesis import strategies as st

from wattcount.engines.http.sse import BadAnswerError, Counted, Reply

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def asked(tokens: int, *, each: bool = True, chat: bool = False) -> dict[str, Any]:
    prompt: dict[str, Any] = {"messages": [{"content": "a b"}]} if chat else {"prompt": [1, 2, 3]}
    options = {"include_usage": True, "continuous_usage_stats": each}
    return {"max_tokens": tokens, "stream_options": options, **prompt}


def answered(how: Behaviour, tokens: int = 6, *, each: bool = True, chat: bool = False) -> list[bytes]:
    """The pieces of an answer as the echo server writes them; an end of the connection is an empty one."""
    parts = answer(how, CHAT if chat else COMPLETIONS, asked(tokens, each=each, chat=chat), Counter())
    pieces = []
    for part in parts:
        if part is None or part == b"":
            break
        if isinstance(part, bytes):
            pieces.append(part)
    return pieces


def taken(pieces: Sequence[bytes], reply: Reply | None = None) -> Reply:
    """What becomes of pieces that arrive one nanosecond after the other, from 1 ns on."""
    reply = reply or Reply()
    reply.take_all(range(1, len(pieces) + 1), pieces)
    if not reply.complete:
        reply.closed()
    reply.finish()
    return reply


def error(how: Behaviour, tokens: int = 6, *, exact: bool = True, **options: Any) -> str | None:
    return taken(answered(how, tokens, **options)).error(tokens, exact=exact)


@pytest.mark.parametrize("chat", [False, True])
def test_usage_in_each_event_tells_when_tokens_came(chat: bool) -> None:
    reply = taken(answered(Behaviour(tokens_an_event=2), 5, chat=chat))
    first = 3 if chat else 2  # after the head, and who speaks
    assert (reply.stamps, reply.counts) == ([first, first + 1, first + 2], [2, 2, 1])
    assert (reply.tokens, reply.usage_tokens, reply.prompt_tokens) == (5, 5, 2 if chat else 3)
    assert (reply.counted, reply.finish_reason, reply.done_event) == (Counted.each_event, "length", True)
    assert reply.error(5, exact=True) is None
    assert not reply.usage_wrong


@given(
    size=st.integers(1, 400),
    each=st.booleans(),
    chat=st.booleans(),
    crlf=st.booleans(),
    count=st.integers(1, 3),
)
def test_pieces_of_any_size_hold_the_same_tokens(
    size: int, each: bool, chat: bool, crlf: bool, count: int
) -> None:
    how = Behaviour(crlf=crlf, tokens_an_event=count)
    whole = b"".join(answered(how, each=each, chat=chat))
    reply = taken([whole[at : at + size] for at in range(0, len(whole), size)])
    assert reply.error(6, exact=True) is None
    assert reply.complete
    assert sum(reply.counts) == reply.tokens == 6
    assert reply.stamps == sorted(reply.stamps)
    # Tokens have come when the last byte of their event has.
    ends = [len(piece) for piece in answered(how, each=each, chat=chat)]
    ends = [sum(ends[: at + 1]) for at in range(len(ends))][1 + chat :][: -(-6 // count)]
    assert sorted(set(reply.stamps)) == sorted({-(-end // size) for end in ends})


def test_an_event_that_comes_in_two_pieces_has_come_with_the_second() -> None:
    pieces = answered(Behaviour(), 3)
    pieces[2:3] = [pieces[2][:40], pieces[2][40:]]
    reply = taken(pieces)
    assert (reply.stamps, reply.counts) == ([2, 4, 5], [1, 1, 1])


def test_several_events_in_one_piece_have_come_together() -> None:
    pieces = answered(Behaviour(), 4)
    reply = taken([*pieces[:2], pieces[2] + pieces[3], *pieces[4:]])
    assert (reply.stamps, reply.counts) == ([2, 3, 4], [1, 2, 1])


def test_usage_at_the_end_that_counts_the_events() -> None:
    reply = taken(answered(Behaviour(), 3, each=False))
    assert (reply.stamps, reply.counts, reply.counted) == ([2, 3, 4], [1, 1, 1], Counted.one_an_event)


def test_several_tokens_an_event_are_dealt_out_by_the_length_of_the_text() -> None:
    reply = taken(answered(Behaviour(tokens_an_event=3), 7, each=False))
    assert (reply.stamps, reply.counts, reply.counted) == ([2, 3, 4], [3, 3, 1], Counted.text)


def test_several_tokens_an_event_are_dealt_out_by_the_tokenizer_where_there_is_one() -> None:
    pieces = answered(Behaviour(tokens_an_event=3), 7, each=False)
    reply = taken(pieces, Reply(count=lambda texts: [1, 6, 7][: len(texts)]))
    assert (reply.stamps, reply.counts, reply.counted) == ([2, 3, 4], [1, 5, 1], Counted.tokenizer)


def test_without_usage_and_tokenizer_events_are_taken_for_tokens_and_that_is_told() -> None:
    reply = taken(answered(Behaviour(usage="none", tokens_an_event=3), 6, each=False))
    assert (reply.counts, reply.usage_tokens, reply.counted) == ([1, 1], None, Counted.events)


def test_without_usage_the_tokenizer_counts() -> None:
    pieces = answered(Behaviour(usage="none", tokens_an_event=3), 6, each=False)
    reply = taken(pieces, Reply(count=lambda _: [3, 6]))
    assert (reply.counts, reply.counted) == ([3, 3], Counted.tokenizer_alone)


def test_events_without_text_are_dealt_out_evenly() -> None:
    reply = taken(answered(Behaviour(text="", tokens_an_event=2), 6, each=False))
    assert sum(reply.counts) == reply.tokens == 6


def test_a_usage_that_contradicts_itself_is_noticed() -> None:
    assert (
        taken(answered(Behaviour(usage="wrong"))).usage_wrong is False
    )  # not told in each event: nothing to hold it against
    told = [
        piece.replace(
            b'"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":6',
            b'"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9',
        )
        for piece in answered(Behaviour())
    ]
    assert taken(told).usage_wrong
    fewer = [
        piece.replace(b'"completion_tokens":6', b'"completion_tokens":2')
        for piece in answered(Behaviour(), each=False)
    ]
    assert taken(fewer).usage_wrong


def test_prompts_from_the_cache_are_told() -> None:
    last = json.dumps(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        }
    )
    pieces = answered(Behaviour())
    event = f"data: {last}\n\n".encode()
    pieces[-3] = b"%x\r\n%s\r\n" % (len(event), event)
    reply = taken(pieces)
    assert (reply.prompt_tokens, reply.cached_tokens) == (9, 4)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_error_s_message_is_told(status: int) -> None:
    assert (
        error(Behaviour(status=status, message="the model `x` does not exist"))
        == f"HTTP {status}: the model `x` does not exist"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"object":"error","message":"too long"}', "too long"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"msg":"Field required"}]}', '{"msg": "Field required"}'),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"", "no reason given"),
        (b"\xff\x00\x1b[31m", "??[31m"),
        (b'{"error":{"message":"Authorization: Bearer abcdefghijkl"}}', "Authorization: Bearer ***"),
    ],
)
def test_whatever_an_error_is_made_of(body: bytes, said: str) -> None:
    reply = taken([b"HTTP/1.1 502 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)])
    assert said in (reply.error(6, exact=True) or "")


@pytest.mark.parametrize(
    ("how", "options", "says"),
    [
        (Behaviour(tokens=4), {}, "ended after 4 of 6 output tokens, finish reason length"),
        (Behaviour(tokens=9), {}, "ended after 9 of 6 output tokens, finish reason length"),
        (Behaviour(tokens=9), {"exact": False}, "ended after 9 of 6 output tokens, finish reason length"),
        (Behaviour(tokens=0), {"exact": False}, "ended without an output token"),
        (Behaviour(done=False, finish=False), {}, "the stream ended without [DONE] and a finish reason, after 6 output tokens"),
        (Behaviour(drops_after=3), {}, "the connection was closed in the stream, after 3 of 6 output tokens"),
        (Behaviour(broken_after=2), {}, 'the server sent what is no JSON: {"id": "echo", "choi'),
        (Behaviour(broken_after=0), {}, 'the server sent what is no JSON: {"id": "echo", "choi'),
        (Behaviour(error_after=2, message="out of memory"), {}, "the server broke off: out of memory"),
        (Behaviour(streams=False), {}, "the server did not stream: it gave the whole answer at once"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("each", [True, False])
def test_what_is_wrong_with_an_answer_is_told(
    how: Behaviour, options: dict[str, Any], says: str, each: bool
) -> None:
    assert error(how, each=each, **options) == says


@pytest.mark.parametrize("how", [Behaviour(done=False), Behaviour(finish=False), Behaviour(tokens=4)])
def test_one_sign_of_the_end_is_enough(how: Behaviour) -> None:
    assert error(how, exact=False) is None


def test_tokens_of_an_answer_in_one_piece_came_at_its_end() -> None:
    reply = taken(answered(Behaviour(streams=False)))
    assert (reply.stamps, reply.counts) == ([1], [6])


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 two\r\n\r\n", b"x" * 70_000,
     b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        Reply().take(1, data)


def test_an_event_without_an_end_is_refused() -> None:
    reply = Reply()
    reply.take(1, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    endless = [b"data: " + b"x" * 65536] * 200
    with pytest.raises(BadAnswerError, match="longer than 8 MiB"):
        reply.take_all(range(200), endless)


def test_other_framings_than_chunks() -> None:
    events = b'data: {"choices":[{"text":"a","finish_reason":"length"}],"usage":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    until_close = taken([head + b"\r\n", events])
    assert until_close.error(1, exact=True) is None
    assert not until_close.keep_alive
    counted = taken([head + b"Content-Length: %d\r\n\r\n" % len(events), events])
    assert counted.error(1, exact=True) is None
    assert counted.keep_alive


def test_the_text_of_an_answer_is_kept_where_it_is_asked_for() -> None:
    assert taken(answered(Behaviour()), Reply(keep=True)).text() == "tok " * 6
    assert taken(answered(Behaviour(), chat=True), Reply(keep=True)).text() == "tok " * 6
