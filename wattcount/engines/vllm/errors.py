"""From vLLM's failures to one line that says what went wrong.

vLLM's engine core is a child process. When it fails, the parent only learns "see root cause above"; the
cause stands in the log as a traceback of the child.
"""

from __future__ import annotations

import re
from pathlib import Path

from wattcount.errors import RunFailedError, one_line

_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt))(?::\s*(.*))?$")
_PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:[A-Z]+ [\d:. -]+(?:\[[^\]]*\])? ?)?")
_NOT_A_CAUSE = ("see root cause above", "See stack trace", "please check the stack trace", "EngineDeadError")
LINE_CHARACTERS = 400
"""Length of what is told of an error of vLLM [characters]: its configuration checks take a line or three."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|cannot allocate memory|can't allocate memory"
    r"|No available memory for the cache blocks|larger than the available KV cache memory"
    r"|Free memory on device .* less than desired|Available memory .* less than requested"
    r"|not enough (?:GPU |free )?memory",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"architectures? .* (?:is|are) not supported|does not recognize this architecture|has no vLLM implementation"
    r"|no module or parameter named|Cannot find model module|model type .* (?:is not supported|not recogni[sz]ed)"
    r"|not support(?:ed)? .*(?:quantization|dtype)|Bfloat16 is only supported on GPUs",
    re.IGNORECASE,
)
_GATED = re.compile(
    r"gated repo|access to model .* is restricted|401 Client Error|403 Client Error|Cannot access gated"
    r"|awaiting a review",
    re.IGNORECASE,
)
_NOT_ON_HUB = re.compile(
    r"is not a local folder and is not a valid model identifier|Repository Not Found|couldn't connect to"
    r"|offline mode is enabled|LocalEntryNotFound|Can't load the configuration of|OfflineModeIsEnabled",
    re.IGNORECASE,
)
_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*: -9\b")


def log_size(path: Path) -> int:
    """Bytes in the log now; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def root_cause(log: Path, offset: int) -> str | None:
    """The first exception that the log shows from byte `offset` on, as `Type: message`; None: none."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for number, raw in enumerate(lines):
        line = _PREFIX.sub("", raw).strip()
        match = _EXCEPTION.match(line)
        if match is None or any(text in line for text in _NOT_A_CAUSE):
            continue
        message = match[2] or ""
        # Pydantic puts the message on the next lines.
        if message.endswith(("validation error", "validation errors")) or "validation error for" in message:
            message = " ".join(_PREFIX.sub("", text).strip() for text in lines[number + 1 : number + 3])
        return one_line(f"{match[1]}: {message}" if message else match[1], LINE_CHARACTERS)
    return None


def describe(error: BaseException) -> str:
    """The innermost cause of an exception as `Type: message`."""
    while (cause := error.__cause__) is not None:
        error = cause
    text = str(error)
    details = getattr(error, "errors", None)
    if callable(details) and type(error).__name__ == "ValidationError":
        first = details()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"{where}: {first['msg']}" if where else str(first["msg"])
        return one_line(text.replace("Value error, ", ""), LINE_CHARACTERS)
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, LINE_CHARACTERS)


def _chain(error: BaseException | None) -> str:
    """Everything an exception and its causes say, for searching."""
    texts = []
    while error is not None:
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def start_error(error: BaseException, log: Path, offset: int) -> RunFailedError:
    """What to tell of a failed start: the cause in the child's log, else the exception itself."""
    shown = describe(error)
    cause = root_cause(log, offset) if "root cause above" in shown or "stack trace" in shown else None
    text = cause or shown
    told = cause or _chain(error)
    if _OUT_OF_MEMORY.search(told):
        return RunFailedError(
            "out_of_memory",
            f"vLLM ran out of memory while starting: {text} (lower engine.max_model_len or engine.max_num_seqs,"
            " or take a GPU with more memory)",
        )
    if _UNSUPPORTED.search(told):
        return RunFailedError("unsupported_model", f"vLLM cannot run this model: {text}")
    if _GATED.search(told):
        return RunFailedError(
            "engine_start_failed",
            f"the hub refuses the weights: {text} (accept the licence and set HF_TOKEN, or use model.weights=random)",
        )
    if _NOT_ON_HUB.search(told):
        return RunFailedError(
            "engine_start_failed",
            f"the model could not be had from the hub: {text} (check model.hf_id and the network, or use"
            " model.weights=random)",
        )
    if cause is None and _KILLED.search(shown):
        return RunFailedError(
            "out_of_memory",
            "vLLM's engine process was killed while starting (signal 9): most likely out of host memory",
        )
    return RunFailedError("engine_start_failed", f"vLLM did not start: {text} (full log: {log})")
