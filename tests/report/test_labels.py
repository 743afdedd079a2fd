from dataclasses import replace

import pytest
from synthetic_record import SyntheticRun, steady_requests

from wattcount.config.composition import compose
from wattcount.config.loader import changed
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase
from wattcount.report.labels import (
    PHASE_NAMES,
    asked_load,
    board_of,
    caveats,
    describe,
    evidence_label,
    gpu_label,
    headline,
    load_label,
    name_of,
    short_name,
)
from wattcount.result import Result

BATCH = Result(
    model="llama3_8b",
    kind="batch",
    num_requests=512,
    input_tokens=512,
    output_tokens=256,
    gpus=("NVIDIA H200",),
    boards=("GPU-8d2e0000-1111",),
)
SERVER = replace(BATCH, kind="server", num_requests=None, rate_rps=4.0, output_tokens=128)


def result_of(run: SyntheticRun, folder) -> Result:
    return Result.of(Record.open(run.write(folder)))


def test_gpus():
    assert gpu_label([]) == "no GPU"
    assert gpu_label(["NVIDIA H200"] * 2 + ["NVIDIA L4"]) == "2 x NVIDIA H200 + NVIDIA L4"
    assert gpu_label(["\x1b[2J"]) == "\\x1b[2J"


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (("batch", 512), "batch of 512"),
        (("batch",), "batch"),
        (("server", None, 4.0), "server 4 requests/s"),
        (("server",), "server, rate of the trace"),
        (("offline",), "offline"),
        ((None,), "unknown load"),
    ],
)
def test_loads(load, text):
    assert load_label(*load) == text


def test_evidence_and_what_has_to_be_said_of_it():
    assert evidence_label("measured", "wattcount", "hub") == "measured"
    assert evidence_label(None, "mlperf", "random") == "unknown evidence, mlperf, random weights"
    assert caveats("measured", "hub") == []
    assert [text.partition(":")[0] for text in caveats("emulated", "random")] == [
        "EMULATED",
        "RANDOM WEIGHTS",
    ]


def test_a_run_is_called_the_same_before_and_after_it():
    two = ["gpu.count=2", "engine.tensor_parallel_size=2"]
    asked = compose(["model=llama3_8b", "gpu=h200", "engine=vllm", "scenario=batch", *two])
    cfg = changed(asked, {"gpu.found_name": "NVIDIA H200", "scenario.num_requests": 512})
    assert asked_load(cfg) == "batch of 512, TP 2"
    text = "llama3_8b on 2 x NVIDIA H200, batch of 512, TP 2"
    assert headline(cfg) == describe(replace(BATCH, gpus=("NVIDIA H200",) * 2, levers=("TP 2",))) == text
    fp8 = changed(cfg, {"model.quantization": "fp8", "engine.enforce_eager": True})
    assert headline(fp8) == text.replace("TP 2", "fp8, eager, TP 2")


def test_a_run_among_others_is_named_by_what_is_not_usual():
    assert name_of(BATCH) == "llama3_8b, batch of 512"
    assert name_of(replace(SERVER, levers=("fp8",))) == "llama3_8b, server 4 requests/s, fp8"
    short = replace(
        BATCH, model="gpt2", num_requests=256, particulars=("tiny", "256 in, 64 out"), levers=("eager",)
    )
    assert name_of(short) == "gpt2, batch of 256, tiny, 256 in, 64 out, eager"
    # Runs of one setting have one name, however long their windows were.
    assert name_of(replace(SERVER, window_s=300.0)) == name_of(SERVER)


def test_a_run_and_its_double_in_another_engine_have_different_names(tmp_path):
    here = result_of(SyntheticRun(), tmp_path / "here")
    there = replace(here, engine="vllm_serve", particulars=("vllm_serve", *here.particulars))
    for name in (describe, name_of, short_name):
        assert name(here) != name(there)
        assert "vllm_serve" in name(there)


def test_a_name_tells_how_long_a_window_was_that_is_not_as_usual():
    usual, short = replace(SERVER, window_s=45.0004), replace(SERVER, window_s=8.0003)
    assert describe(usual) == describe(SERVER)
    assert describe(short) == "llama3_8b on NVIDIA H200, server 4 requests/s, window 8 s"
    asked = compose(
        ["model=llama3_8b", "gpu=h200", "engine=vllm", "scenario=server", "scenario.window_s=300"]
    )
    assert asked_load(asked) == "server 1 requests/s, window 300 s"


def test_the_boards_of_a_run_on_two_gpus_are_both_named():
    assert board_of(replace(BATCH, boards=("GPU-8d2e0000-1111", "GPU-37330000-1111"))) == "3733+8d2e"


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (SyntheticRun(rate_rps=4.0), "llama3_8b h200 server 4 rps window 60 s r0"),
        (SyntheticRun(rate_rps=0.017, repeat=3), "llama3_8b h200 server 0.017 rps window 60 s r3"),
        (
            SyntheticRun(scenario="batch", requests=steady_requests()[:12]),
            "llama3_8b h200 batch 12 512 in, 128 out r0",
        ),
        (SyntheticRun(evidence=Evidence.EMULATED), "llama3_8b h200 server 4 rps window 60 s r0 emulated"),
    ],
)
def test_short_names(run, name, tmp_path):
    assert short_name(result_of(run, tmp_path)) == name


def test_a_short_name_says_what_was_turned():
    turned = replace(SERVER, gpu="h200", repeat=0, evidence=Evidence.MEASURED, levers=("fp8", "eager"))
    assert short_name(turned) == "llama3_8b h200 server 4 rps fp8, eager r0"


def test_the_short_name_of_a_gpu_that_was_found(tmp_path):
    result = result_of(SyntheticRun(gpu_name="NVIDIA GeForce RTX 4090"), tmp_path)
    assert short_name(replace(result, gpu="auto")) == "llama3_8b rtx_4090 server 4 rps window 60 s r0"


def test_every_phase_has_a_name():
    assert PHASE_NAMES.keys() == set(Phase)
