"""What serves at a URL: processes of this machine, GPUs of an emulated one, pages of servers that are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nobody import as_nobody
from pages_server import Serve

from wattcount.engines.http import processes
from wattcount.engines.http.discovery import ServerFacts, discover
from wattcount.engines.http.fetch import MAX_BYTES, Site, root_url
from wattcount.errors import NotStartedError

emulation = pytest.importorskip("wattcount.emulation.machine", reason="needs the native module")

VLLM = {
    "/v1/models": json.dumps({"data": [{"id": "org/m", "owned_by": "vllm", "max_model_len": 4096}]}),
    "/version": '{"version": "0.32.0"}',
    "/metrics": 'vllm:request_success_total{engine="0",finished_reason="stop"} 3.0\n'
    'vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",sliding="None"} 1.0\n',
}
SGLANG = {
    "/v1/models": json.dumps({"data": [{"id": "org/m", "owned_by": "sglang", "max_model_len": 8192}]}),
    "/server_info": json.dumps(
        {
            "model_path": "org/m",
            "api_key": "sesame",
            "tp_size": 2,
            "pp_size": 1,
            "dp_size": 4,
            "mem_fraction_static": 0.88,
            "dtype": "bfloat16",
            "internal_states": [{}],
            "version": "0.5.14",
        }
    ),
}
LLAMA_CPP = {
    "/v1/models": json.dumps({"data": [{"id": "m.gguf", "owned_by": "llamacpp"}]}),
    "/props": json.dumps(
        {
            "default_generation_settings": {"n_ctx": 2048},
            "total_slots": 4,
            "build_info": "b8681-abc",
            "chat_template": "x",
        }
    ),
    "/metrics": "llamacpp:tokens_predicted_total 3\n",
}
TENSORRT_LLM = {
    "/v1/models": json.dumps({"data": [{"id": "m", "owned_by": "tensorrt_llm"}]}),
    "/version": '{"version": "1.2.0"}',
    "/metrics": '[{"iter": 1}]',
    "/prometheus/metrics": 'trtllm_request_success_total{model_name="m"} 1.0\n'
    'trtllm_parallel_config_info{model_name="m",tp_size="2"} 1.0\n',
}


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """An NVML session of an emulated machine, with these processes on its GPUs."""
    from wattcount.gpu.nvml import attach_session

    opened: list[Any] = []

    def make(*computing: list[int], faults: Any = ()) -> Any:
        described = [emulation.EmulatedGpu("h200", options={"processes": pids}) for pids in computing]
        machine = emulation.EmulatedMachine(
            described, tmp_path / f"machine-{len(opened)}", faults=faults
        ).open()
        session = attach_session()
        opened.extend([machine, session])
        return session

    yield make
    for one in reversed(opened):
        one.close()


def uuid(index: int) -> str:
    return str(emulation.emulated_uuid("h200", index))


# -- processes and GPUs


def test_a_port_leads_to_the_process_its_workers_and_their_gpus(
    serve: Serve, gpus: Callable[..., Any]
) -> None:
    server = serve(VLLM, "--api-key", "sesame", "--tensor-parallel-size=2")
    facts = discover(server.url, session=gpus([1], [server.worker], [server.pid, 1]))
    assert facts.local
    assert facts.pid == server.pid
    assert set(facts.pids) == {server.pid, server.worker}
    assert facts.gpu_uuids == (uuid(1), uuid(2))
    assert "gpu_uuids" not in facts.unknown
    assert facts.command is not None
    assert facts.command[-3:] == ("--api-key", "***", "--tensor-parallel-size=2")
    assert facts.parallel == {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, "data_parallel_size": 1}
    assert "sesame" not in json.dumps(facts.to_json())


def test_a_worker_that_left_its_parent_is_found_by_the_servers_session(
    serve: Serve, gpus: Callable[..., Any]
) -> None:
    server = serve(VLLM, how="orphan")
    facts = discover(server.url, session=gpus([server.worker]))
    assert facts.gpu_uuids == (uuid(0),)
    assert server.worker in facts.pids


def test_gpus_that_are_named_are_believed(serve: Serve, gpus: Callable[..., Any]) -> None:
    server = serve(VLLM)
    session = gpus([server.worker], [])
    assert discover(server.url, session=session, devices=["1"]).gpu_uuids == (uuid(1),)
    with pytest.raises(NotStartedError, match="no GPU '7' here"):
        discover(server.url, session=session, devices=["7"])


@pytest.mark.parametrize(
    ("computing", "faults", "why"),
    [
        ([os.getpid()], [], "none of its processes computes on a GPU"),
        ([2**22 + 1], [], "cannot be seen from here"),
        (
            [],
            [{"kind": "error", "function": "nvmlDeviceGetComputeRunningProcesses", "code": 3}],
            "does not tell which processes",
        ),
    ],
)
def test_without_a_process_on_a_gpu_none_is_guessed(
    serve: Serve, gpus: Callable[..., Any], computing: list[int], faults: list[dict[str, Any]], why: str
) -> None:
    facts = discover(serve(VLLM).url, session=gpus(computing, faults=faults))
    assert facts.gpu_uuids == ()
    assert why in facts.unknown["gpu_uuids"]
    assert "gpu.devices" in facts.unknown["gpu_uuids"]


@pytest.mark.parametrize(("count", "found"), [(1, True), (2, False)])
def test_in_a_container_the_only_gpu_is_that_of_a_server_that_uses_cuda(
    serve: Serve, gpus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, count: int, found: bool
) -> None:
    """NVML's process numbers are the host's; a file that the server has open stands for CUDA's device."""
    server = serve(VLLM)
    monkeypatch.setattr(processes, "UVM", str(Path(f"/proc/{server.pid}/fd/2").readlink()))
    facts = discover(server.url, session=gpus(*[[2**22 + 1]] * count))
    assert facts.gpu_uuids == ((uuid(0),) if found else ())
    assert ("gpu_uuids" in facts.unknown) != found
    assert facts.computing == {}


def test_without_nvml_no_gpu_is_looked_for(serve: Serve) -> None:
    assert discover(serve(VLLM).url).unknown["gpu_uuids"] == "NVML was not asked"


def test_of_a_server_elsewhere_no_process_is_looked_for(
    serve: Serve, gpus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(VLLM)
    monkeypatch.setattr(processes, "_own_addresses", lambda: {"192.0.2.1"})
    facts = discover(server.url, session=gpus([server.worker]))
    assert (facts.local, facts.pid, facts.pids, facts.gpu_uuids) == (False, None, (), ())
    assert {facts.unknown[name] for name in ("pid", "command", "gpu_uuids")} == {
        "the server is on another machine"
    }
    assert facts.models == ("org/m",)


def test_of_a_server_beside_a_listener_all_is_found_there(
    serve: Serve, gpus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from remote_machine import SECRET, Listening

    from wattcount.gpu.nvml import attach_session

    monkeypatch.setenv("WATTCOUNT_SAMPLER_SECRET", SECRET)
    server = serve(VLLM, "--api-key", "sesame")
    gpus([1], [server.worker], [server.pid, 1])
    there = Listening()
    try:
        with attach_session(there.address) as session:
            facts = discover(server.url, session=session, remote=session.remote)
            assert (facts.local, facts.pid) == (False, server.pid)
            assert facts.gpu_uuids == (uuid(1), uuid(2))
            assert facts.computing == {uuid(1): [server.worker], uuid(2): [server.pid]}
            assert facts.strangers == {uuid(1): [], uuid(2): [1]}
            assert facts.command is not None
            assert facts.command[-2:] == ("--api-key", "***")
            assert facts.version == "0.32.0"
            # The URL is that of a tunnel's end, or has a name that only this machine knows: the port counts.
            assert session.remote is not None
            port = server.url.rpartition(":")[2]
            assert session.remote.serving(f"http://not-known-there.invalid:{port}")["pid"] == server.pid
            nobody = discover("http://127.0.0.1:1", session=session, remote=session.remote)
            assert (nobody.pid, nobody.gpu_uuids) == (None, ())
            assert "there: no process of this machine listens on port 1" in nobody.unknown["gpu_uuids"]
    finally:
        there.stop()


def test_another_users_server_is_told_of(serve: Serve) -> None:
    if os.geteuid() != 0:
        pytest.skip("cannot become another user here")
    server = serve(VLLM)
    with as_nobody():
        facts = discover(server.url)
    assert facts.pid is None
    assert "another user's or container's process listens" in facts.unknown["pid"]
    assert "gpu.devices" in facts.unknown["gpu_uuids"]
    assert facts.version == "0.32.0"


def test_behind_dockers_proxy_the_containers_processes_are_found(serve: Serve, tmp_path: Path) -> None:
    """A network namespace stands for the container, a program of that name for the proxy."""
    unshared = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--net", "--map-root-user")
    inside = (*unshared, "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network namespace can be made here")
    server = serve(VLLM, before=inside)
    port = server.url.rpartition(":")[2]
    proxy = tmp_path / "docker-proxy"
    proxy.symlink_to(sys.executable)
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [proxy, "-c", listen, "-proto", "tcp", "-container-ip", "127.0.0.1", "-container-port", port],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        outside = process.stdout.readline().strip()
        unknown: dict[str, str] = {}
        found = processes.processes(f"http://127.0.0.1:{outside}", unknown)
        process.communicate()
    assert found.pid == server.pid
    assert {server.pid, server.worker} <= found.pids
    assert unknown == {}


def test_a_port_without_a_listener_says_so() -> None:
    facts = discover("http://127.0.0.1:1")
    assert not facts.answers
    assert "no process of this machine listens on port 1" in facts.unknown["pid"]
    assert facts.unknown["version"].startswith("it does not answer")


# -- what servers tell


def told(serve: Serve, pages: dict[str, Any]) -> ServerFacts:
    return discover(serve(pages).url)


def test_what_vllm_tells(serve: Serve) -> None:
    facts = told(serve, VLLM)
    assert (facts.engine, facts.version, facts.models, facts.max_model_len) == (
        "vllm",
        "0.32.0",
        ("org/m",),
        4096,
    )
    assert facts.settings == {
        "cache.block_size": "16",
        "cache.cache_dtype": "auto",
        "cache.enable_prefix_caching": "True",
    }


def test_what_sglang_tells(serve: Serve) -> None:
    facts = told(serve, SGLANG)
    assert (facts.engine, facts.version, facts.max_model_len) == ("sglang", "0.5.14", 8192)
    assert facts.parallel == {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, "data_parallel_size": 4}
    assert facts.settings["mem_fraction_static"] == 0.88
    assert "sesame" not in json.dumps(facts.to_json())


def test_what_llama_cpp_and_tensorrt_llm_tell(serve: Serve) -> None:
    facts = told(serve, LLAMA_CPP)
    assert (facts.engine, facts.version, facts.max_model_len) == ("llama_cpp", "b8681-abc", 2048)
    assert facts.settings == {"total_slots": 4, "build_info": "b8681-abc", "n_ctx": 2048}
    facts = told(serve, TENSORRT_LLM)
    assert (facts.engine, facts.version) == ("tensorrt_llm", "1.2.0")
    assert facts.settings == {"parallel.tp_size": "2"}
    assert "max_model_len" in facts.unknown


def test_a_server_that_tells_nothing_is_null_with_reasons(serve: Serve) -> None:
    facts = told(serve, {})
    assert facts.answers
    assert (facts.engine, facts.version, facts.models, facts.max_model_len) == (None, None, (), None)
    assert facts.unknown["version"] == "the server does not tell"
    assert facts.unknown["models"] == "/v1/models: it answered 404"


def test_a_server_that_wants_a_key_is_told_of(serve: Serve) -> None:
    assert "wants an API key" in told(serve, {"/v1/models": [401, "no"]}).unknown["models"]


@pytest.mark.parametrize(
    "models",
    ["[]", "{}", '{"data": 3}', '{"data": [3, {"id": 4}, {"object": "model"}]}', "[" * 20_000, "NaN", "\x00", '{"data": [{"id": "m", "max_model_len": 1e400}]}'],
)  # fmt: skip
def test_answers_that_are_none_do_no_harm(serve: Serve, models: str) -> None:
    pages = {
        "/v1/models": models,
        "/version": models,
        "/metrics": models,
        "/server_info": models,
        "/props": models,
    }
    facts = told(serve, pages)
    assert facts.max_model_len is None
    assert facts.version is None
    json.dumps(facts.to_json(), allow_nan=False)


def test_long_answers_and_secrets_are_not_kept(serve: Serve) -> None:
    models = {"data": [{"id": f"hf_abcdefghijklmnopqrstuvwxyz{n}" + "x" * 9999} for n in range(999)]}
    facts = told(serve, {"/v1/models": json.dumps(models), "/version": json.dumps({"version": "v" * 10**6})})
    assert len(json.dumps(facts.to_json())) < 50_000
    assert "abcdefghij" not in json.dumps(facts.to_json())
    site = Site(serve({"/big": "x" * (MAX_BYTES + 1)}).url)
    assert site.get("/big").problem == "its answer was too long, or did not end in time"


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://host/v1/", "https://host"),
        ("http://host:80/proxy/v1", "http://host:80/proxy"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_is_the_servers_root(given: str, root: str) -> None:
    assert root_url(given) == root


@pytest.mark.parametrize(
    "given",
    ["", "localhost:8000", "ftp://host", "http://", "http://host:0", "http://host:99999", "file:///etc"],
)
def test_what_is_no_url_of_a_server_is_refused(given: str) -> None:
    with pytest.raises(NotStartedError, match="http://localhost:8000"):
        root_url(given)


def test_a_key_goes_to_the_server_only() -> None:
    site = Site("http://host", {"Authorization": "Bearer sesame"})
    assert "sesame" not in repr(site)
