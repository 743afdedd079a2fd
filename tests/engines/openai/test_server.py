"""Which server is at a URL, and whether it can be measured: what is told before a run starts, against servers that answer badly."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from echo_server import Behaviour, EchoServer
from small_llama import LLAMA

from wattcount.config import RunConfig, compose
from wattcount.config.identity import planned_point, setting_key
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig, Weights
from wattcount.engines.http.discovery import ServerFacts
from wattcount.engines.openai import server
from wattcount.engines.registry import plugin
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import NvmlSession, open_session

KEY = "test-key-that-must-not-be-seen"


@pytest.fixture(scope="module")
def session() -> Iterator[NvmlSession]:
    with open_session(PowerConfig(backend=PowerBackend.emulated), GpuConfig(name="h200")) as found:
        yield found


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as found:
        yield found


def asked(echo: EchoServer | None, *overrides: str) -> RunConfig:
    url = "http://localhost:9" if echo is None else echo.url
    return compose(
        [
            "engine=openai",
            f"engine.base_url={url}",
            "gpu=h200",
            "power=emulated",
            "scenario=server",
            *overrides,
        ]
    )


def refusal(cfg: RunConfig, session: NvmlSession) -> str:
    with pytest.raises(NotStartedError) as caught:
        plugin("openai").discovered(cfg, session)
    message = str(caught.value)
    assert "\n" not in message
    assert KEY not in message
    return message


# -- a server that can be measured


def test_what_a_server_serves_is_the_model(echo: EchoServer, session: NvmlSession) -> None:
    found = plugin("openai").discovered(asked(echo), session)
    assert found.model.name == "echo"
    assert found.model.weights is Weights.served
    assert found.engine.served["max_model_len"] == 32768
    (probe,) = echo.requests
    assert probe[1]["max_tokens"] == server.PROBE_TOKENS
    assert len(probe[1]["prompt"]) == server.PROBE_TOKENS


def test_of_several_models_one_is_chosen(echo: EchoServer, session: NvmlSession) -> None:
    echo.models = ("base", "adapter")
    message = refusal(asked(echo), session)
    assert message == "engine.served_model: the server has base, adapter; say which one to measure"
    assert (
        plugin("openai").discovered(asked(echo, "engine.served_model=adapter"), session).model.name
        == "adapter"
    )


def test_a_model_of_the_catalogue_is_found_by_its_name_on_the_hub(
    echo: EchoServer, session: NvmlSession
) -> None:
    echo.models = ("Qwen/Qwen2.5-0.5B-Instruct",)
    known = compose(["model=qwen2_5_0_5b"]).model
    assert known.hf_id == echo.models[0]
    assert plugin("openai").discovered(asked(echo), session).model.name == "qwen2_5_0_5b"
    assert (
        plugin("openai").discovered(asked(echo, "model=qwen2_5_0_5b"), session).model.name == "qwen2_5_0_5b"
    )


def test_the_api_key_is_sent_and_stays_unseen(
    echo: EchoServer, session: NvmlSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo.key = KEY
    assert "set engine.api_key_env=NAME" in refusal(asked(echo), session)
    cfg = asked(echo, "engine.api_key_env=SERVER_KEY")
    assert "engine.api_key_env: names an environment variable that is not set" in refusal(cfg, session)
    monkeypatch.setenv("SERVER_KEY", "another")
    assert "does not take the API key in $SERVER_KEY" in refusal(cfg, session)
    monkeypatch.setenv("SERVER_KEY", KEY)
    found = plugin("openai").discovered(cfg, session)
    assert echo.requests[-1][0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(found)


def test_headers_come_out_of_the_environment(
    echo: EchoServer, session: NvmlSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = asked(echo, "engine.headers={X-Team: TEAM}")
    assert "engine.headers.X-Team: names an environment variable that is not set" in refusal(cfg, session)
    monkeypatch.setenv("TEAM", KEY)
    plugin("openai").discovered(cfg, session)
    assert echo.requests[-1][0]["x-team"] == KEY
    with pytest.raises(NotStartedError) as caught:
        asked(echo, f"engine.headers={{X-Team: '{KEY}'}}")
    assert "must be the name of an environment variable" in str(caught.value)
    assert KEY not in str(caught.value)


# -- one that cannot


def test_no_server_there(session: NvmlSession) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://localhost:{free.getsockname()[1]}"
        message = refusal(asked(None, f"engine.base_url={url}"), session)
    assert message.startswith(f"engine.base_url: no server at {url} (")
    assert message.endswith("start it, or mend the URL")


def test_what_is_no_url() -> None:
    with pytest.raises(
        NotStartedError, match=r"engine.base_url: localhost: no URL of a server; one looks like http"
    ):
        asked(None, "engine.base_url=localhost")
    with pytest.raises(NotStartedError, match=r"engine.base_url: must be given: the server's URL"):
        compose(["engine=openai"])
    with pytest.raises(NotStartedError, match=r"engine.base_url: engine=tiny is started by wattcount"):
        compose(["engine=tiny", "engine.base_url=http://localhost:8000"])
    with pytest.raises(NotStartedError, match=r"engine.base_url: holds a password"):
        asked(None, "engine.base_url=http://me:word@localhost:8000")


def test_no_openai_server(echo: EchoServer, session: NvmlSession) -> None:
    echo.models = ()
    message = refusal(asked(echo), session)
    assert (
        f"what answers at {echo.url} is no OpenAI-compatible server: it lists no model at /v1/models"
        in message
    )


def test_a_wrong_model_name(echo: EchoServer, session: NvmlSession) -> None:
    message = refusal(asked(echo, "model=llama3_8b"), session)
    assert message.startswith("model: llama3_8b is not served under that name; the server has echo: ")
    message = refusal(asked(echo, "engine.served_model=ecko"), session)
    assert message == "engine.served_model: ecko is not served; the server has echo"


def test_requests_that_are_longer_than_it_takes(echo: EchoServer, session: NvmlSession) -> None:
    message = refusal(asked(echo, "scenario.lengths.input_tokens=40000"), session)
    assert "requests of up to 40128 tokens are asked for, and the server takes 32768" in message


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (Behaviour(streams=False), "does not stream its answers"),
        (Behaviour(usage="none"), "tells no `usage` of a streamed answer"),
        (Behaviour(tokens=20), "ignores max_tokens: it made 20 tokens of 8"),
        (
            Behaviour(tokens=3),
            "ignores ignore_eos: it made 3 of 8 tokens; set scenario.lengths.force_output=false",
        ),
        (Behaviour(status=401), "engine.api_key_env: the server at"),
        (Behaviour(status=404), "has no /v1/completions, or no model echo (HTTP 404: no)"),
        (
            Behaviour(status=400),
            "takes no token ids (HTTP 400: no), and prompts are made of token ids: name the model's tokenizer",
        ),
        (Behaviour(status=429), "answered 429 to a request of 8 tokens (HTTP 429: no)"),
        (Behaviour(status=500), "answered 500 to a request of 8 tokens (HTTP 500: no)"),
        (Behaviour(broken_after=3), "failed a request of 8 tokens"),
        (Behaviour(error_after=3), "failed a request of 8 tokens: "),
        (Behaviour(drops_after=3), "failed a request of 8 tokens"),
    ],
)
def test_what_a_measurement_needs(
    echo: EchoServer, session: NvmlSession, behaviour: Behaviour, told: str
) -> None:
    echo.behaviour = behaviour
    assert told in refusal(asked(echo), session)


def test_natural_lengths_may_end_early(echo: EchoServer, session: NvmlSession) -> None:
    echo.behaviour = Behaviour(tokens=3)
    plugin("openai").discovered(asked(echo, "scenario.lengths.force_output=false"), session)


def test_settings_of_the_server_are_refused() -> None:
    with pytest.raises(NotStartedError, match=r"engine.max_num_seqs: is chosen where the server is started"):
        asked(None, "engine.max_num_seqs=8")
    with pytest.raises(NotStartedError, match=r"model.weights: served is for a server that runs already"):
        compose(["engine=vllm", "model=tiny", "model.weights=served"])


def test_gpus_that_are_not_known_have_to_be_given(echo: EchoServer) -> None:
    """A GPU of this machine that the server may not compute on is never measured in its place."""
    measured: Any = SimpleNamespace(
        evidence="measured",
        remote=None,
        gpus=lambda: [],
        native=SimpleNamespace(compute_processes=lambda _: []),
    )
    message = refusal(asked(echo), measured)
    assert message.startswith(f"gpu.devices: which GPUs the server at {echo.url} computes on is not known: ")


# -- what is made of it


def facts(**known: Any) -> ServerFacts:
    return ServerFacts("http://localhost:8000", True, answers=True, models=("name",), **known)


def test_weights_are_what_the_server_was_started_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    auto = compose(["model=auto"]).model

    def served(*command: str) -> Any:
        return server.served_model(auto, "name", facts(command=("vllm", *command) if command else None))

    random = served("serve", str(tmp_path), "--load-format=dummy", "--api-key", "***")
    assert random.weights is Weights.random
    assert random.hf_config["vocab_size"] == LLAMA["vocab_size"]
    hub = served("serve", "someone/something")
    assert (hub.weights, hub.hf_id, hub.hf_config) == (Weights.hub, "someone/something", {})
    assert served("--model", str(tmp_path)).weights is Weights.served  # it has none
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    read = served("--model", str(tmp_path))
    assert (read.weights, read.path) == (Weights.path, str(tmp_path))
    unknown = served()
    assert (unknown.name, unknown.weights, unknown.hf_id) == ("name", Weights.served, None)


def test_a_server_s_point_is_its_kind_version_and_options() -> None:
    line = (
        "vllm",
        "serve",
        "someone/something",
        "--port",
        "8000",
        "--api-key",
        "***",
        "--max-num-seqs=64",
        "--enforce-eager",
    )
    assert server.served(facts(engine="vllm", version="0.32.0", command=line)) == {
        "server": "vllm",
        "version": "0.32.0",
        "options": {"enforce-eager": True, "max-num-seqs": "64"},
    }
    assert server.served(facts()) == {}


def test_identity(session: NvmlSession) -> None:
    """Where a server is is none of it in a record; what it is, is."""
    with EchoServer() as one, EchoServer() as other:
        found = [plugin("openai").discovered(asked(echo), session) for echo in (one, other)]
    resolved = [
        dataclasses.replace(
            cfg,
            evidence="emulated",
            gpu=dataclasses.replace(cfg.gpu, found_name="NVIDIA H200"),
            engine=dataclasses.replace(
                cfg.engine, device=plugin("openai").device(cfg.engine.device, emulated=True)
            ),
        )
        for cfg in found
    ]
    keys = [setting_key(cfg) for cfg in resolved]
    assert keys[0] == keys[1]
    assert planned_point(found[0]) != planned_point(found[1])
    another = dataclasses.replace(
        resolved[0],
        engine=dataclasses.replace(resolved[0].engine, served={"server": "vllm", "version": "9.9"}),
    )
    assert setting_key(another) != keys[0]
