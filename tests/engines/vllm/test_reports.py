"""vLLM's reports, as the rest of wattcount reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from wattcount.engines.base import EngineStep
from wattcount.engines.vllm.reports import KernelLog, engine_step


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
