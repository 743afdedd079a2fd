"""What each column of a record's raw files holds, in words: for the documents, and for whoever reads a record with other tools."""

from __future__ import annotations

from wattcount.records.schema import (
    HOST_PARQUET,
    HOST_POWER_PARQUET,
    POWER_PARQUET,
    REQUESTS_PARQUET,
    STEPS_PARQUET,
    TOKENS_PARQUET,
)

FILES = {
    POWER_PARQUET: "One row for each reading of NVML. Times say when the call began and ended.",
    REQUESTS_PARQUET: "One row for each request, in the order of the planned send.",
    TOKENS_PARQUET: "One row for each arrival of tokens, of all requests, in the order of time.",
    STEPS_PARQUET: "One row for each step of the engine, in the order in which they were logged. Each replica has steps of its own. "
    "A server behind HTTP tells no steps.",
    HOST_POWER_PARQUET: "One row for each reading of a RAPL counter (energy of CPU and DRAM). The file is there only where the host "
    "lets them be read.",
    HOST_PARQUET: "How fast the host computed and how busy it was. Of each sample one row is for the host, and one for each process of "
    "the run. Columns that a kind of row does not have are null. All but the spin, the CPU and its frequency are counters that only grow.",
}
"""What is in each file."""

COLUMNS: dict[str, dict[str, str]] = {
    POWER_PARQUET: {
        "gpu": "UUID of the GPU",
        "source": "which reading of NVML; `value` has its unit",
        "prev_t0_ns": "begin of the call before it, of the same source; null: there was none",
        "t0_ns": "begin of the call",
        "t1_ns": "end of the call",
        "source_ts_us": "the driver's own stamp of the value (wall clock, microseconds); null: this source has none",
        "value": "what was read, as NVML gives it: mJ of the energy counter, mW of power, MHz of clocks, degrees Celsius, bytes",
        "nvml_return": "NVML's return code; 0: the call succeeded",
    },
    REQUESTS_PARQUET: {
        "request_id": "name of the request within the run",
        "index": "its number in the load",
        "phase": "what it was sent for: `rehearsal`, `warmup` or `window`",
        "planned_send_ns": "when it was to be sent",
        "actual_send_ns": "when it was sent; null: not sent",
        "first_token_ns": "when its first token arrived",
        "last_token_ns": "when its last token arrived",
        "input_tokens": "tokens of the prompt",
        "cached_tokens": "of them, tokens that the engine took from its prefix cache",
        "output_tokens": "tokens of the answer",
        "preemptions": "how often the engine threw it out to make room, and began it again",
        "engine_queued_ns": "when the engine put it into its queue; null: the engine does not tell",
        "engine_scheduled_ns": "when the engine began to compute it; null: the engine does not tell",
        "engine_first_token_ns": "when the engine had its first token; null: the engine does not tell",
        "engine_last_token_ns": "when the engine had its last token; null: the engine does not tell",
        "status": "`completed`, `failed`, `cancelled` (still running at an interrupt or at the drain's limit) or `not_sent`",
        "error": "what the engine said of a request that failed",
    },
    TOKENS_PARQUET: {
        "arrival_ns": "when the tokens arrived",
        "request": "number of the request's row in `requests.parquet`",
        "tokens": "how many tokens arrived together",
    },
    STEPS_PARQUET: {
        "logged_ns": "when the report of the step reached wattcount",
        "engine_ts_ns": "when the step ended, by the engine's own stamp; null: it gives none",
        "duration_ns": "how long the step took; null: the engine does not tell",
        "prefill_tokens": "prompt tokens that were computed in it",
        "decode_tokens": "tokens of answers that were computed in it",
        "running": "requests that ran",
        "waiting": "requests that waited",
        "kv_cache_usage": "share of the KV cache that was in use, 0 to 1",
        "draft_tokens": "tokens that speculative decoding proposed",
        "accepted_tokens": "of them, tokens that were accepted",
    },
    HOST_POWER_PARQUET: {
        "domain": "name of the domain, as under `host.rapl.domains` of `run.json`",
        "t0_ns": "begin of the read",
        "t1_ns": "end of the read",
        "value_uj": "the counter [uJ], as read: it starts again from 0 at the domain's `max_energy_range_uj`; null: the read failed",
    },
    HOST_PARQUET: {
        "t_ns": "when the sample began",
        "pid": "id of the process; null: the host's row",
        "process": "name of the process; null: the host's row",
        "spin_ns": "how long a fixed piece of work took, by the clock",
        "spin_cpu_ns": "how long it took, by the CPU time of its thread",
        "cpu": "number of the CPU that it ran on",
        "frequency_khz": "that CPU's clock [kHz]",
        "user_ms": "time of all CPUs in programs [ms], niced ones included",
        "system_ms": "time of all CPUs in the kernel [ms], interrupts included",
        "idle_ms": "time of all CPUs idle [ms]",
        "iowait_ms": "time of all CPUs idle while a task waited for a disk [ms]",
        "steal_ms": "time that the hypervisor took from all CPUs [ms]",
        "pressure_cpu_us": 'time in which a task waited for a CPU [us] (`/proc/pressure`, "some")',
        "pressure_memory_us": "time in which a task waited for memory [us]",
        "pressure_io_us": "time in which a task waited for a disk [us]",
        "throttled_us": "time in which the run's cgroup was held back by its CPU limit [us]",
        "cpu_ns": "CPU time of the process, all threads together",
        "wait_ns": "time in which its main thread could have run and waited for a CPU",
        "voluntary": "how often its main thread gave up a CPU to wait for something",
        "involuntary": "how often a CPU was taken from its main thread",
    },
}
"""What each column holds, by file. Times that end in `_ns` are CLOCK_MONOTONIC nanoseconds; null: not known, or never happened."""
