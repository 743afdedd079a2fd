"""The client processes against the echo server: what they send, what they make of bad answers, and how they end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from echo_server import Behaviour, EchoServer
from waiting import commands, wait_until

from wattcount.clock import now_ns
from wattcount.config.schema import SamplingConfig
from wattcount.engines.http.client import Endpoint, HttpClients
from wattcount.engines.http.fetch import Site, tls
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.generator import Generator
from wattcount.load.plan import LoadPlan
from wattcount.load.request import GenerationRequest
from wattcount.records.schema import RequestStatus

VOCAB = 1000
T = TypeVar("T")


def plan(offsets_ms: Sequence[float], tokens: int | Sequence[int] = 4, *, forced: bool = True) -> LoadPlan:
    count = len(offsets_ms)
    return LoadPlan(
        (np.array(offsets_ms) * 1e6).astype(np.int64),
        np.full(count, 8, np.int32),
        np.full(count, tokens, np.int32) if isinstance(tokens, int) else np.array(tokens, np.int32),
        forced,
        seed=1,
    )


def with_clients(endpoint: Endpoint, work: Callable[[HttpClients], Awaitable[T]], processes: int = 1) -> T:
    async def live() -> T:
        clients = HttpClients(endpoint, processes)
        await clients.start()
        try:
            return await work(clients)
        finally:
            await clients.stop()

    return asyncio.run(live())


def sent(
    endpoint: Endpoint, load: LoadPlan, processes: int = 1, *, limit_s: float = 60.0, **options: Any
) -> tuple[Generator, HttpClients]:
    """A plan that was sent to its end, and the clients that did."""

    async def work(clients: HttpClients) -> tuple[Generator, HttpClients]:
        generator = clients.generator(load, **({"vocab_size": VOCAB, "window_start_offset_ns": 0} | options))
        await generator.run(now_ns())
        await generator.drain(limit_s)
        return generator, clients

    return with_clients(endpoint, work, processes)


def test_each_request_of_a_plan_is_sent_once_and_followed_to_its_end() -> None:
    load = plan([0, 0, *range(1, 39)], [4 + number % 3 for number in range(40)])
    with EchoServer(Behaviour(between_s=0.001)) as server:
        generator, clients = sent(Endpoint(server.url, "m"), load, 2, window_start_offset_ns=10_000_000)
    assert (generator.sent, generator.completed, generator.failed, generator.in_flight) == (40, 40, 0, 0)
    prompts = [asked["prompt"] for _, asked in server.requests]
    assert sorted(prompts) == sorted(load.token_ids(index, VOCAB) for index in range(40))
    assert generator.output_tokens == int(load.output_tokens.sum())
    assert [record.phase for record in generator.records] == ["warmup"] * 11 + ["window"] * 29
    for record, tokens in zip(generator.records, load.output_tokens.tolist(), strict=True):
        assert record.status == RequestStatus.COMPLETED
        assert (record.output_tokens, sum(record.token_count), record.input_tokens) == (tokens, tokens, 8)
        assert list(record.token_ts_ns) == sorted(record.token_ts_ns)
        assert record.planned_send_ns is not None
        assert record.actual_send_ns is not None
        assert record.first_token_ns == record.token_ts_ns[0]
        assert record.last_token_ns == record.token_ts_ns[-1]
        assert record.planned_send_ns <= record.actual_send_ns < record.first_token_ns
    details = clients.details
    assert details["tokens_counted"] == {"usage_of_each_event": 40}
    assert (details["usage_missing"], details["usage_wrong"], details["held_back"]) == (0, 0, 0)
    assert len(details["cpu"]) == len(details["stalls"]) == 2
    assert 0 < details["dispatch_delay_ms"]["p50"] <= details["dispatch_delay_ms"]["max"]
    json.dumps(details)


def test_a_request_says_everything_and_takes_a_connection_that_is_free() -> None:
    with EchoServer() as server:
        load = plan([0, 300, 600], 3)
        load = LoadPlan(**(vars(load) | {"sampling": SamplingConfig(temperature=0.5, seed=7)}))
        sent(Endpoint(server.url + "/v1/", "m", headers={"X-Team": "a"}, body={"priority": 1}), load)
        assert server.connections < 4  # one to see that the server is there
    headers, asked = server.requests[0]
    assert asked == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 3, "min_tokens": 3, "ignore_eos": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
        "seed": 7, "priority": 1, "prompt": load.token_ids(0, VOCAB),
    }  # fmt: skip
    assert headers["x-team"] == "a"
    assert "authorization" not in headers


def test_a_server_that_knows_openai_s_protocol_only_is_asked_for_nothing_else() -> None:
    with EchoServer(Behaviour(usage="end")) as server:
        endpoint = Endpoint(server.url, "m", continuous_usage=False, ignore_eos=False)
        generator, clients = sent(endpoint, plan([0], 3))
    asked = server.requests[0][1]
    assert asked.keys() == {
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "top_p",
        "prompt",
    }
    assert asked["stream_options"] == {"include_usage": True}
    assert (generator.completed, clients.details["tokens_counted"]) == (1, {"one_an_event": 1})


BAD = {
    1: (Behaviour(status=500, message="boom"), "HTTP 500: boom", 0),
    2: (Behaviour(status=429, message="slow down"), "HTTP 429: slow down", 0),
    3: (Behaviour(drops_after=1), "the connection was closed in the stream, after 1 of 3 output tokens", 1),
    4: (Behaviour(drops_after=2, resets=True, between_s=0.05), "the connection broke: Connection reset by peer", 2),
    5: (Behaviour(broken_after=2), 'the server sent what is no JSON: {"id": "echo", "choi', 2),
    6: (Behaviour(tokens=9), "ended after 9 of 6 output tokens, finish reason length", 9),
    7: (Behaviour(tokens=2), "ended after 2 of 7 output tokens, finish reason length", 2),
    8: (Behaviour(streams=False), "the server did not stream: it gave the whole answer at once", 8),
    9: (Behaviour(done=False, finish=False), "the stream ended without [DONE] and a finish reason, after 9 output tokens", 9),
    10: (Behaviour(error_after=4, message="CUDA"), "the server broke off: CUDA", 4),
    11: (Behaviour(drops_after=0), "the connection was closed in the stream, after 0 of 11 output tokens", 0),
    12: (Behaviour(pieces=7, crlf=True), None, 12),
    13: (Behaviour(closes=True), None, 13),
    14: (Behaviour(usage="none"), None, 14),
    15: (Behaviour(usage="end", tokens_an_event=4), None, 15),
}  # fmt: skip
"""By the tokens asked for: how the server answers, what the record says of it, and how many tokens came."""


def test_a_bad_answer_fails_its_request_only() -> None:
    with EchoServer() as server:
        server.by_tokens = {tokens: how for tokens, (how, _, _) in BAD.items()}
        load = plan([10.0 * number for number in range(len(BAD) + 1)], [*BAD, 20])
        generator, clients = sent(Endpoint(server.url, "m"), load)
    assert [(record.error, record.output_tokens) for record in generator.records] == [
        *((error, tokens) for _, error, tokens in BAD.values()),
        (None, 20),
    ]
    assert (generator.completed, generator.failed) == (5, len(BAD) - 4)
    assert clients.details["usage_missing"] == 1
    # No tokenizer, and what comes four at a time in events of equal length.
    assert list(generator.records[14].token_count) == [4, 4, 4, 3]


def test_slots_are_shared_by_all_processes() -> None:
    with EchoServer(Behaviour(between_s=0.002)) as server:
        generator, clients = sent(Endpoint(server.url, "m"), plan([0] * 30), 3, max_in_flight=4)
        assert server.most_in_flight <= 4
    assert generator.completed == 30
    # All are due at once, so each process finds the slots taken; how often depends on how fast it starts and the server answers.
    assert clients.details["held_back"] > 0


def test_two_generators_share_slots() -> None:
    async def work(clients: HttpClients) -> tuple[Generator, Generator]:
        one = clients.generator(plan([0] * 10), vocab_size=VOCAB, window_start_offset_ns=0, max_in_flight=2)
        other = clients.generator(
            plan([0] * 10), vocab_size=VOCAB, window_start_offset_ns=None, share_slots=one, id_prefix="more-"
        )
        await asyncio.gather(one.run(now_ns()), other.run(now_ns()))
        await one.drain(60)
        await other.drain(60)
        return one, other

    with EchoServer(Behaviour(between_s=0.001)) as server:
        one, other = with_clients(Endpoint(server.url, "m"), work, 2)
        assert server.most_in_flight <= 2
    assert one.completed == other.completed == 10
    assert other.records[0].request_id == "more-u0"


def test_a_load_that_was_never_begun_has_nothing_to_wait_for() -> None:
    """As the further warm-up of a server whose power and throughput had settled."""

    async def work(clients: HttpClients) -> int:
        generator = clients.generator(plan([0, 1, 2]), vocab_size=VOCAB, window_start_offset_ns=None)
        return await generator.drain(3600)

    with EchoServer(Behaviour()) as server:
        assert with_clients(Endpoint(server.url, "m"), work, processes=2) == 0
    assert server.requests == []


def test_the_window_waits_until_it_is_released() -> None:
    async def work(clients: HttpClients) -> Generator:
        generator = clients.generator(
            plan([0, 1, 2, 3]), vocab_size=VOCAB, window_start_offset_ns=2_000_000, hold_window=True
        )
        start_ns = now_ns()
        running = asyncio.create_task(generator.run(start_ns))
        await asyncio.sleep(0)
        while generator.completed < 2:
            await asyncio.sleep(0.01)
        assert not running.done()
        later_ns = now_ns() - start_ns
        generator.release_window(later_ns)
        await running
        await generator.drain(60)
        planned = [record.planned_send_ns for record in generator.records]
        assert planned == [
            start_ns, start_ns + 1_000_000, start_ns + 2_000_000 + later_ns, start_ns + 3_000_000 + later_ns
        ]  # fmt: skip
        assert generator.records[2].actual_send_ns is not None
        assert generator.records[2].actual_send_ns >= start_ns + 2_000_000 + later_ns
        return generator

    with EchoServer() as server:
        assert with_clients(Endpoint(server.url, "m"), work, 2).completed == 4


@pytest.mark.parametrize("phase", [None, "warmup"])
def test_nothing_is_sent_from_a_stop_on(phase: str | None) -> None:
    async def work(clients: HttpClients) -> Generator:
        hour_ms = 3_600_000.0
        offsets = [0, 0, hour_ms] if phase is None else [0, 0, 1, 2]
        generator = clients.generator(
            plan(offsets),
            vocab_size=VOCAB,
            window_start_offset_ns=2_000_000 if phase is not None else None,
            max_in_flight=None if phase is None else 1,
        )
        start_ns = now_ns()
        if phase is not None:
            generator.stop_at(start_ns - 1, phase)
        running = asyncio.create_task(generator.run(start_ns))
        if phase is None:
            while generator.completed < 2:
                await asyncio.sleep(0.01)
            generator.stop_at(now_ns())
        await running
        await generator.drain(60)
        return generator

    with EchoServer() as server:
        records = with_clients(Endpoint(server.url, "m"), work).records
    if phase is None:
        assert [record.status for record in records] == ["completed", "completed", "not_sent"]
        assert records[2].planned_send_ns is None  # never planned
    else:
        assert [record.status for record in records] == ["not_sent"] * 3 + ["completed"]
        assert all(record.planned_send_ns is not None for record in records)


def test_what_hangs_is_cancelled_and_keeps_what_had_come() -> None:
    with EchoServer(Behaviour(hangs_after=3)) as server:

        async def work(clients: HttpClients) -> Generator:
            generator = clients.generator(plan([0, 0, 0], 5), vocab_size=VOCAB, window_start_offset_ns=0)
            await generator.run(now_ns())
            while generator.output_tokens < 9:
                await asyncio.sleep(0.01)
            assert generator.in_flight == 3
            assert await generator.drain(0.0) == 3
            await asyncio.to_thread(wait_until, lambda: server.in_flight == 0)  # it was told
            return generator

        generator = with_clients(Endpoint(server.url, "m"), work, 2)
    assert (generator.in_flight, generator.completed, generator.failed) == (0, 0, 0)
    assert [(record.status, record.output_tokens) for record in generator.records] == [("cancelled", 3)] * 3


def test_a_run_that_is_cancelled_sends_nothing_more() -> None:
    async def work(clients: HttpClients) -> Generator:
        generator = clients.generator(plan([0, 3_600_000.0]), vocab_size=VOCAB, window_start_offset_ns=0)
        running = asyncio.create_task(generator.run(now_ns()))
        while not generator.completed:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await generator.drain(60) == 0
        return generator

    with EchoServer() as server:
        assert with_clients(Endpoint(server.url, "m"), work).sent == 1


def test_a_server_that_is_gone_ends_the_run() -> None:
    with EchoServer() as server:

        async def work(clients: HttpClients) -> None:
            generator = clients.generator(
                plan([0, *[100.0 * number for number in range(1, 600)]]),
                vocab_size=VOCAB,
                window_start_offset_ns=0,
            )
            running = asyncio.create_task(generator.run(now_ns()))
            while not generator.completed:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.stop)
            with pytest.raises(RunFailedError, match="nothing answers at http://localhost") as failed:
                await running
            assert failed.value.reason == "engine_died"
            assert generator.failure is failed.value
            with pytest.raises(RunFailedError):
                await generator.drain(60)
            assert "cannot connect" in (await clients.health() or "")

        with_clients(Endpoint(server.url, "m"), work)


def test_a_server_that_starts_again_ends_the_run_or_fails_what_was_in_flight() -> None:
    """How soon it is there again decides which: a connection may be refused meanwhile."""
    with EchoServer(Behaviour(hangs_after=1)) as server:
        port = int(server.url.rpartition(":")[2])

        async def work(clients: HttpClients) -> None:
            generator = clients.generator(plan([0, 0]), vocab_size=VOCAB, window_start_offset_ns=0)
            await generator.run(now_ns())
            while generator.output_tokens < 2:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.stop)
            with EchoServer(port=port):
                await generator.drain(60)
                assert (generator.failed, generator.completed) == (2, 0)
                again = clients.generator(plan([0]), vocab_size=VOCAB, window_start_offset_ns=0)
                await again.run(now_ns())
                await again.drain(60)
                assert again.completed == 1
            assert {record.error for record in generator.records} <= {
                "the connection broke: Connection reset by peer",
                "the connection was closed in the stream, after 1 of 4 output tokens",
            }

        with_clients(Endpoint(server.url, "m"), work)


def test_a_client_process_that_dies_ends_the_run() -> None:
    async def work(clients: HttpClients) -> None:
        generator = clients.generator(
            plan([0, 3_600_000.0, 3_600_000.0]), vocab_size=VOCAB, window_start_offset_ns=0
        )
        running = asyncio.create_task(generator.run(now_ns()))
        while not generator.completed:
            await asyncio.sleep(0.01)
        os.kill(min(clients.alive), signal.SIGKILL)
        with pytest.raises(RunFailedError, match=r"client process .* killed by signal 9") as failed:
            await running
        assert failed.value.reason == "client_died"
        assert "killed by signal 9" in (await clients.health() or "")
        with pytest.raises(RunFailedError):
            await generator.drain(60)

    with EchoServer() as server:
        with_clients(Endpoint(server.url, "m"), work, 2)


def test_client_processes_end_with_their_parent() -> None:
    script = """
import asyncio, os, sys
from wattcount.engines.http.client import Endpoint, HttpClients
async def main():
    clients = HttpClients(Endpoint(sys.argv[1], "m"), 2)
    await clients.start()
    print(*clients.alive, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    with EchoServer() as server:
        ended = subprocess.run(
            [sys.executable, "-c", script, server.url], capture_output=True, text=True, check=False
        )
        pids = [int(word) for word in ended.stdout.split()]
        assert len(pids) == 2
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_where_nothing_answers_there_is_no_start() -> None:
    with EchoServer() as server:
        url = server.url
    with pytest.raises(RunFailedError, match=f"cannot connect to {url}: Connection refused") as failed:
        with_clients(Endpoint(url, "m"), _nothing)
    assert failed.value.reason == "engine_start_failed"


async def _nothing(_: HttpClients) -> None:
    pass


def test_the_api_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "very-private-7f3a"
    monkeypatch.setenv("MY_KEY", key)
    with EchoServer(Behaviour(status=401, message=f"the key {key} is not known")) as server:
        endpoint = Endpoint(server.url, "m", api_key_variable="MY_KEY", headers={"X-Other": "private-too"})
        shown_by_ps: list[list[str]] = []

        async def work(clients: HttpClients) -> tuple[Generator, HttpClients]:
            shown_by_ps.extend(commands(map(psutil.Process, clients.alive)).values())
            generator = clients.generator(plan([0]), vocab_size=VOCAB, window_start_offset_ns=0)
            await generator.run(now_ns())
            await generator.drain(60)
            return generator, clients

        generator, clients = with_clients(endpoint, work)
        assert shown_by_ps
        assert server.requests[0][0]["authorization"] == f"Bearer {key}"
        assert server.requests[0][0]["x-other"] == "private-too"
    assert generator.records[0].error == "HTTP 401: the key *** is not known"
    shown = (
        f"{endpoint!r} {json.dumps(endpoint.to_json())} {shown_by_ps} {clients.details} {capfd.readouterr()}"
    )
    assert key not in shown
    assert "private-too" not in shown


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


def test_tls_is_checked_against_a_file_of_certificates(certificate: tuple[Path, Path]) -> None:
    import ssl

    key, cert = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with EchoServer(Behaviour(pieces=50), tls=context) as server:
        with pytest.raises(RunFailedError, match=r"its certificate is refused \(self-signed certificate\)"):
            with_clients(Endpoint(server.url, "m"), _nothing)
        generator, _ = sent(Endpoint(server.url, "m", ca_file=cert), plan([0, 0, 50, 400], 20), 2)
        assert (generator.completed, generator.output_tokens) == (4, 80)
        generator, _ = sent(Endpoint(server.url, "m", verify_tls=False), plan([0], 20))
        assert generator.completed == 1


def test_a_certificate_that_is_refused_says_why_and_what_to_do(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    import ssl

    key, cert = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with EchoServer(tls=context) as server:

        def problem(url: str, ca_file: Path | None = None) -> str | None:
            return Site(url, tls=tls(ca_file)).get("/v1/models").problem

        assert problem(server.url, cert) is None
        unknown = problem(server.url)
        assert unknown is not None
        assert unknown.startswith("its certificate is refused (self-signed certificate): name a file (PEM)")
        other = problem(server.url.replace("localhost", "127.0.0.1"), cert)
        assert other is not None
        assert other.endswith("use the host name that it was made for in the URL")
        plain = problem(server.url.replace("https", "http"))
        assert plain is not None
        assert plain.endswith("is the URL's http or https right?")
    with pytest.raises(NotStartedError, match=r"engine\.ca_file: .* holds no certificates"):
        tls(key)
    with pytest.raises(NotStartedError, match=r"--ca-file: cannot read .*: No such file"):
        tls(tmp_path / "none.pem", "--ca-file")


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{number}": number for number in range(VOCAB - 1)} | {"tok": VOCAB - 1}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_prompts_as_text_and_tokens_counted_by_the_tokenizer(api: str, tokenizer: str) -> None:
    with EchoServer(Behaviour(usage="end", tokens_an_event=3)) as server:
        endpoint = Endpoint(
            server.url, "m", api=api, token_ids=False, tokenizer=tokenizer, continuous_usage=False
        )
        generator, clients = sent(endpoint, plan([0, 0], 7, forced=False))
        asked = server.requests[0][1]
    text = asked["messages"][0]["content"] if api == "chat" else asked["prompt"]
    assert len(text.split()) == 8
    assert [list(record.token_count) for record in generator.records] == [[3, 3, 1]] * 2
    details = clients.details
    assert details["tokens_counted"] == {"usage_by_tokenizer": 2}
    assert (details["recounted"], details["recounted_wrong"]) == (2, 0)


def test_a_usage_that_the_tokenizer_contradicts_is_noticed(tokenizer: str) -> None:
    with EchoServer(Behaviour(text="tok tok ")) as server:
        generator, clients = sent(Endpoint(server.url, "m", tokenizer=tokenizer), plan([0], 10, forced=False))
    assert generator.completed == 1
    assert (clients.details["recounted"], clients.details["recounted_wrong"]) == (1, 1)


def test_a_probe_tells_what_the_server_makes_of_a_request() -> None:
    from wattcount.engines.http.request import probe

    request = GenerationRequest("p", [1, 2, 3], 4, True)
    with EchoServer() as server:
        endpoint = Endpoint(server.url, "m")
        answer = probe(endpoint, request)
        assert (answer.status, answer.error, answer.streamed, answer.continuous_usage) == (
            200,
            None,
            True,
            True,
        )
        assert (answer.prompt_tokens, answer.output_tokens, answer.finish_reason) == (3, 4, "length")
        server.behaviour = Behaviour(status=404, message="no such model")
        answer = probe(endpoint, request)
        assert (answer.status, answer.error) == (404, "HTTP 404: no such model")
        server.behaviour = Behaviour(streams=False)
        answer = probe(endpoint, request)
        assert (answer.streamed, answer.output_tokens) == (False, 4)
        server.behaviour = Behaviour(hangs_after=1)
        answer = probe(endpoint, request, limit_s=0.2)
        assert answer.error == "the request was not done after 0.2 s"
    with pytest.raises(RunFailedError, match="cannot connect") as failed:
        probe(endpoint, request)
    assert failed.value.reason == "no_server"


def test_a_prompt_of_another_vocabulary_is_refused() -> None:
    async def work(clients: HttpClients) -> None:
        load = LoadPlan(**(vars(plan([0])) | {"prompt_token_ids": ((1, VOCAB),)}))
        with pytest.raises(RunFailedError, match=r"prompt 0 holds token id 1000") as failed:
            clients.generator(load, vocab_size=VOCAB, window_start_offset_ns=0)
        assert failed.value.reason == "bad_prompt"

    with EchoServer() as server:
        with_clients(Endpoint(server.url, "m"), work)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_users_of_a_closed_loop_send_one_request_after_the_other(processes: int) -> None:
    """Of three processes one has no user."""
    load = dataclasses.replace(plan([0.0] * 40), follows=np.arange(40) % 3 > 0)

    async def work(clients: HttpClients) -> tuple[Generator, HttpClients]:
        generator = clients.generator(load, vocab_size=VOCAB, window_start_offset_ns=None, users=2)
        generator.begin_window(0)
        run = asyncio.create_task(generator.run(now_ns()))
        await wait_until_async(lambda: generator.completed == 40 or run.done())
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await generator.drain(60.0)
        return generator, clients

    with EchoServer(Behaviour(between_s=0.001)) as server:
        generator, clients = with_clients(Endpoint(server.url, "m"), work, processes)
    assert (generator.sent, generator.completed, generator.failed, generator.in_flight) == (40, 40, 0, 0)
    assert {record.phase for record in generator.records} == {"window"}
    assert {record.planned_send_ns for record in generator.records} == {None}
    begins = sorted((record.actual_send_ns or 0, 1) for record in generator.records)
    ends = sorted((record.last_token_ns or 0, -1) for record in generator.records)
    flying = np.cumsum([change for _, change in sorted(begins + ends)])
    assert flying.max() == 2
    for turns in load.conversations():
        for before, after in pairwise(turns):
            first, second = generator.records[before], generator.records[after]
            assert (first.last_token_ns or 0) < (second.actual_send_ns or 0)
    assert clients.details["dispatch_delay_ms"]["p50"] > 0


def test_a_closed_loop_sends_nothing_after_its_end() -> None:
    load = plan([0.0] * 1000)

    async def work(clients: HttpClients) -> Generator:
        generator = clients.generator(load, vocab_size=VOCAB, window_start_offset_ns=None, users=4)
        run = asyncio.create_task(generator.run(now_ns()))
        await wait_until_async(lambda: generator.completed >= 8 or run.done())
        generator.stop_at(now_ns())
        await run
        await generator.drain(60.0)
        return generator

    with EchoServer(Behaviour(between_s=0.001)) as server:
        generator = with_clients(Endpoint(server.url, "m"), work, 2)
    assert generator.sent == generator.completed < 1000


async def wait_until_async(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)
