"""What vLLM tells of its steps and of its failures, as the rest of wattcount reads it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from wattcount.engines.base import EngineStep
from wattcount.engines.vllm.reports import KernelLog, describe, engine_step, log_size, root_cause, start_error


def test_step_takes_details_where_there_are_any() -> None:
    scheduler = SimpleNamespace(
        num_running_reqs=3,
        num_waiting_reqs=2,
        num_skipped_waiting_reqs=1,
        kv_cache_usage=0.25,
        iteration_details=SimpleNamespace(num_ctx_tokens=40, num_generation_tokens=2, elapsed_ms=1.5),
    )
    assert engine_step(scheduler, None, 7) == EngineStep(7, None, 1_500_000, 40, 2, 3, 3, 0.25)
    scheduler.spec_decoding_stats = SimpleNamespace(num_draft_tokens=12, num_accepted_tokens=5)
    assert engine_step(scheduler, None, 7) == EngineStep(7, None, 1_500_000, 40, 2, 3, 3, 0.25, 12, 5)


def test_step_without_details_counts_what_came_out() -> None:
    scheduler = SimpleNamespace(
        num_running_reqs=3, num_waiting_reqs=0, kv_cache_usage=0.0, iteration_details=None
    )
    iteration = SimpleNamespace(
        num_prompt_tokens=40, num_generation_tokens=5, time_to_first_tokens_iter=[0.1, 0.2]
    )
    assert engine_step(scheduler, iteration, 7) == EngineStep(7, None, None, 40, 3, 3, 0, 0.0)
    assert engine_step(scheduler, None, 7) == EngineStep(7, None, None, 0, 0, 3, 0, 0.0)


def test_the_kernels_that_the_log_says_were_compiled(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    kernels = KernelLog(log, 0)
    assert kernels.read() == []
    begin = "WARNING 11-27 17:00:00.000 [EngineCore 7 jit_monitor.py:120] "
    advice = "This causes a latency spike; consider extending warmup to cover this shape/config.\n"
    log.write_text(
        "INFO Kernel JIT monitor activated; monitored JIT compilations during inference will use mode=warn.\n"
        f"{begin}Triton kernel JIT compilation during inference: _topk_forward. {advice}"
        f"{begin}Triton kernel JIT compilation during inference: fused_moe_kernel (constexprs={{N=1}}; key='a.b'). {advice}"
    )
    assert kernels.read() == ["_topk_forward", "fused_moe_kernel"]
    whole = f"{begin}CuTeDSL JIT compilation during inference: gemm. {advice}"
    with log.open("a") as stream:
        stream.write(whole[:80])
    assert kernels.read() == ["_topk_forward", "fused_moe_kernel"]
    with log.open("a") as stream:
        stream.write(whole[80:])
    assert kernels.read() == ["_topk_forward", "fused_moe_kernel", "gemm"]
    assert KernelLog(log, log.stat().st_size).read() == []


CORE_FAILED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"

LOG = """\
INFO 11-23 08:00:09.100 [EngineCore 6912 core.py:133] Initializing a V1 LLM engine
ERROR 11-23 08:00:10.200 [VllmWorker-0 6926 multiproc_executor.py:953] WorkerProc failed to start.
Traceback (most recent call last):
  File "/x/vllm/v1/worker/gpu_worker.py", line 10, in load_model
    raise torch.OutOfMemoryError()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
ERROR 11-23 08:00:11.000 [EngineCore 6912 core.py:1510] EngineCore failed to start.
Traceback (most recent call last):
  File "/x/vllm/v1/engine/core.py", line 1, in run
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


def test_root_cause_is_the_first_exception(log: Path) -> None:
    log.write_text(LOG)
    assert root_cause(log, 0) == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_only_what_came_after_the_offset_counts(log: Path) -> None:
    log.write_text(LOG)
    offset = log_size(log)
    assert root_cause(log, offset) is None
    with log.open("a") as file:
        file.write("ValueError: something else\n")
    assert root_cause(log, offset) == "ValueError: something else"


def test_prefixed_lines_and_undecodable_bytes(log: Path) -> None:
    log.write_bytes(
        b"\xff\xfe\n(EngineCore pid=1) ERROR 11-23 07:59:53 [core.py:906] ValueError: head size 80\n"
    )
    assert root_cause(log, 0) == "ValueError: head size 80"


def test_lines_that_only_mention_an_error_are_no_cause(log: Path) -> None:
    log.write_text(
        "WARNING see RuntimeError: in the docs\n  ValueErrors: 3 of them\nvllm.EngineDeadError: x EngineDeadError\n"
    )
    assert root_cause(log, 0) is None


def test_pydantic_message_stands_on_the_next_lines(log: Path) -> None:
    log.write_text(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "max_model_len\n  Value error, too long\n"
    )
    assert root_cause(log, 0) == "ValidationError: max_model_len Value error, too long"


def test_missing_log(log: Path) -> None:
    assert log_size(log) == 0
    assert root_cause(log, 0) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "out_of_memory"),
        ("ValueError: No available memory for the cache blocks. Try increasing", "out_of_memory"),
        (
            "ValueError: 4.0 GiB KV cache is needed, which is larger than the available KV cache memory (2 GiB)",
            "out_of_memory",
        ),
        (
            "ValueError: Free memory on device cuda:0 (2/80 GiB) on startup is less than desired GPU memory",
            "out_of_memory",
        ),
        (
            "ValueError: Available memory on node 0 (1/2 GiB) is less than requested memory for kv",
            "out_of_memory",
        ),
        ("ValueError: Model architectures ['Foo'] are not supported for now.", "unsupported_model"),
        ("ValueError: Transformers does not recognize this architecture", "unsupported_model"),
        (
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
            "unsupported_model",
        ),
        ("ValueError: something new", "engine_start_failed"),
    ],
)
def test_reason_from_the_childs_log(log: Path, text: str, reason: str) -> None:
    log.write_text(text + "\n")
    failure = start_error(RuntimeError(CORE_FAILED), log, 0)
    assert failure.reason == reason
    assert text.split(": ", 1)[1][:40] in str(failure)
    assert "\n" not in str(failure)


def test_reason_from_the_exception_itself(log: Path) -> None:
    log.write_text("ValueError: CUDA out of memory, but earlier and survived\n")
    failure = start_error(ValueError("bad block size"), log, 0)
    assert failure.reason == "engine_start_failed"
    assert "bad block size" in str(failure)


@pytest.mark.parametrize(
    "text",
    [
        "You are trying to access a gated repo. Make sure to have access",
        "401 Client Error: Unauthorized for url",
        "foo/bar is not a local folder and is not a valid model identifier",
        "We couldn't connect to 'https://huggingface.co' to load the files",
    ],
)
def test_weights_that_cannot_be_had_name_random_weights(log: Path, text: str) -> None:
    failure = start_error(OSError(text), log, 0)
    assert failure.reason == "engine_start_failed"
    assert "model.weights=random" in str(failure)


def test_killed_child_without_a_word(log: Path) -> None:
    failure = start_error(
        RuntimeError(
            "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
        ),
        log,
        0,
    )
    assert failure.reason == "out_of_memory"
    assert "killed" in str(failure)


def test_describe_takes_the_innermost_cause() -> None:
    error = RuntimeError("outer")
    error.__cause__ = KeyError("inner")
    assert describe(error) == "KeyError: 'inner'"
    assert describe(ValueError()) == "ValueError"


def test_what_vllm_says_is_one_line_for_people() -> None:
    assert describe(OSError(" a\n b\t c ")) == "OSError: a b c"
    assert len(describe(OSError("x" * 1000))) == 400


def test_what_vllm_says_keeps_no_password_and_no_escape_code(log: Path) -> None:
    said = "401 for https://me:secret@hub/x \x1b[31mred"
    shown = "OSError: 401 for https://me:***@hub/x ?[31mred"
    assert describe(OSError(said)) == shown
    log.write_text(f"OSError: {said}\n")
    assert root_cause(log, 0) == shown
