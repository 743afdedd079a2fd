from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.engines.vllm.errors import describe, log_size, root_cause, start_error

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
