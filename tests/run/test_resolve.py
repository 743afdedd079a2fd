"""What a configuration becomes on a machine, as a value beside what was asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wattcount.config import changed, compose
from wattcount.config.schema import Device
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, attach_session
from wattcount.run.resolve import (
    PLACE_BYTES,
    PLACES,
    Files,
    InstalledEngine,
    Machine,
    model_fingerprint,
    resolve,
)

TINY = InstalledEngine(Device.cpu, {}, None)


@pytest.fixture
def gpus(tmp_path: Path) -> tuple[GpuFacts, ...]:
    kinds = [EmulatedGpu("h100"), EmulatedGpu("l4")]
    with EmulatedMachine(kinds, tmp_path / "machine"), attach_session() as session:
        return tuple(session.usable())


def test_what_was_asked_stays_as_it_was(gpus: tuple[GpuFacts, ...]) -> None:
    asked = compose(["engine=tiny", "model=auto"])
    found = resolve(asked, Machine("emulated", gpus[:1], TINY))
    assert found.asked is asked
    assert found.problems == ()
    assert (asked.model.name, found.config.model.name) == ("auto", "tiny")
    assert found.config.gpu.name.startswith("h100")
    otherwise = found.asked_otherwise()
    assert otherwise["model.name"] == otherwise["gpu.name"] == otherwise["engine.device"] == "auto"
    assert otherwise["evidence"] is None
    assert "scenario.window_s" not in otherwise


def test_of_another_machine_only_what_the_data_sheet_says_is_known() -> None:
    asked = compose(["model=llama3_8b", "gpu=h100", "engine=vllm", "scenario=server"])
    found = resolve(asked, Machine("measured")).config
    assert found.engine.max_num_seqs == 1024
    assert "max_num_seqs" in found.engine.unset
    assert found.engine.device is Device.auto
    assert found.gpu == asked.gpu


def test_gpus_of_two_models_are_a_problem_and_no_error(gpus: tuple[GpuFacts, ...]) -> None:
    found = resolve(compose(["engine=tiny", "model=tiny"]), Machine("emulated", gpus, TINY))
    assert [problem.split(":")[0] for problem in found.problems] == ["gpu.count"]


def test_an_engine_that_is_not_installed_is_a_problem_and_no_error() -> None:
    lacking = InstalledEngine(Device.auto, {}, "it is not installed")
    found = resolve(compose(["model=llama3_8b"]), Machine("measured", (), lacking))
    assert found.problems == ("it is not installed",)
    assert found.config.engine.device is Device.auto


def test_a_file_is_read_once_for_all_points_of_a_plan(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.0000000,10,5\n")
    asked = compose(
        ["engine=tiny", "model=tiny", "scenario.arrivals.kind=trace", f"scenario.arrivals.path={trace}"]
    )
    machine = Machine("emulated", (), TINY, Files())
    first = resolve(asked, machine).config.scenario.arrivals
    assert first.fingerprint is not None
    trace.unlink()
    again = resolve(changed(asked, {"seed": 1}), machine)
    assert again.config.scenario.arrivals == first
    gone = resolve(asked, Machine("emulated", (), TINY))
    assert [str(trace) in problem for problem in gone.problems] == [True]


TENSORS, TENSOR = 64, 2**20
"""Tensors of a file, and bytes of each: most of them lie between the places at which any file is read."""


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"hidden_size": 8}')
    return path


def safetensors(file: Path, *, changed: int | None = None, dtype: str = "BF16") -> None:
    """`changed`: the tensor whose values are others than in a file without it."""
    header = {
        f"layer.{n}": {"dtype": dtype, "shape": [TENSOR // 2], "data_offsets": [n * TENSOR, (n + 1) * TENSOR]}
        for n in range(TENSORS)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for n in range(TENSORS):
            stream.write((b"\x01\x02" if n == changed else b"\x00\x3f") * (TENSOR // 2))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    safetensors(folder(tmp_path / "base") / "model.safetensors")
    return tmp_path / "base"


def test_a_copy_is_the_same(base: Path, tmp_path: Path) -> None:
    safetensors(folder(tmp_path / "copy") / "model.safetensors")
    (tmp_path / "copy" / "README.md").write_text("another place")
    assert model_fingerprint(tmp_path / "copy") == model_fingerprint(base)
    version, _, digest = model_fingerprint(base).partition(":")
    assert (version, len(digest)) == ("2", 64)  # no fingerprint of version 1, which was the digest alone


@pytest.mark.parametrize("changed", range(0, TENSORS, 9))
def test_a_fine_tune_of_any_tensor_is_another_model(changed: int, base: Path, tmp_path: Path) -> None:
    tuned = folder(tmp_path / "tuned") / "model.safetensors"
    safetensors(tuned, changed=changed)
    assert tuned.stat().st_size == (base / "model.safetensors").stat().st_size
    assert model_fingerprint(tuned.parent) != model_fingerprint(base)


def test_what_the_header_says_counts(base: Path, tmp_path: Path) -> None:
    safetensors(folder(tmp_path / "other") / "model.safetensors", dtype="FP16")
    assert model_fingerprint(tmp_path / "other") != model_fingerprint(base)


def test_names_and_config_count(base: Path) -> None:
    before = model_fingerprint(base)
    (base / "config.json").write_text('{"hidden_size": 9}')
    changed = model_fingerprint(base)
    (base / "model.safetensors").rename(base / "model-1.safetensors")
    assert len({before, changed, model_fingerprint(base)}) == 3


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.gguf"])
@pytest.mark.parametrize("size", [100, 3 * PLACES * PLACE_BYTES])
def test_files_of_other_formats_are_told_apart(name: str, size: int, tmp_path: Path) -> None:
    prints = set()
    for at in (None, 0, size // 5, size - 1):
        file = folder(tmp_path / str(at)) / name
        with file.open("wb") as stream:
            stream.truncate(size)
            if at is not None:
                stream.seek(min(at - at % 7, size - 1))
                stream.write(b"x" * min(1, size))
        prints.add(model_fingerprint(file.parent))
    # One byte of a large file may lie where nothing is read, but not the first or the last.
    assert len(prints) >= (4 if size == 100 else 2)


def test_a_file_of_any_size_is_read_in_part_only(tmp_path: Path) -> None:
    file = folder(tmp_path / "large") / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(2**42)  # 4 TiB of nothing: reading all of it would never end
    first = model_fingerprint(file.parent)
    with file.open("r+b") as stream:
        stream.seek(2**42 - 1)
        stream.write(b"x")
    assert model_fingerprint(file.parent) != first


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12345",
        b"\xff" * 64,
        (20).to_bytes(8, "little") + b'{"a": {"b": [1, 2]}}',
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_a_file_that_is_no_safetensors_file_has_a_fingerprint_too(content: bytes, tmp_path: Path) -> None:
    file = folder(tmp_path / "odd") / "model.safetensors"
    file.write_bytes(content + bytes(17 * 2**20 if content else 0))
    assert model_fingerprint(file.parent).startswith("2:")


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match="has no weight files"):
        model_fingerprint(folder(tmp_path / "none"))
    (tmp_path / "none" / "model.bin").write_text("x")
    (tmp_path / "none" / "config.json").unlink()
    with pytest.raises(NotStartedError, match=r"cannot read .*config\.json"):
        model_fingerprint(tmp_path / "none")
