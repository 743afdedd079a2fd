"""`wattcount doctor --server URL`: what serves there, on which GPUs, who else uses it, and how to measure it."""

from __future__ import annotations

import os
import shlex
import time
from typing import TYPE_CHECKING, Any

from wattcount.cli.findings import MISSING, NOTE, OK, Report
from wattcount.config.fit import gib
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.engines.http.counters import ServerCounters, restarted, scrape
from wattcount.engines.http.discovery import COUNTERS_HINT, NAMES, ServerFacts, discover
from wattcount.engines.http.fetch import CERTIFICATE_REFUSED, Site, tls
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, NvmlSession, attach_session, open_session
from wattcount.report.units import count, significant
from wattcount.run.preflight import describe_process

if TYPE_CHECKING:
    from collections.abc import Mapping

WATCH_S = 3.0
"""Time [s] over which others' use is watched: some steps of any server, and nobody waits long for it."""
SHOWN_SETTINGS = 6
"""Settings that are shown [1]; `--json` has all."""
SHOWN_COMMAND = 240
"""Characters of the command line that are shown."""


def examine(
    url: str, api_key_env: str | None = None, remote: str | None = None, ca_file: str | None = None
) -> Report:
    """Asks the server at `url`. Raises `NotStartedError` for what is no URL, and a variable that is not set.

    remote   `power.remote`: the listener on the server's machine, where that is another one
    ca_file  `engine.ca_file`: what the certificate of an `https` server is checked against
    """
    headers = {}
    if api_key_env is not None:
        if not os.environ.get(api_key_env):
            raise NotStartedError(f"--api-key-env: the environment has no {api_key_env}")
        headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
    checked = tls(ca_file, "--ca-file")
    report = Report()
    session = _session(remote)
    try:
        listener = None if session is None else session.remote
        facts = discover(url, headers=headers, tls=checked, session=session, remote=listener)
        report.facts["server"] = facts.to_json()
        _server(report, facts, api_key_env)
        if facts.answers:
            _process(report, facts)
            _gpus(report, facts, session)
            _users(report, Site(url, headers, checked), facts)
            _null(report, facts)
            _command(report, facts, session, api_key_env, remote, ca_file)
    finally:
        if session is not None:
            session.close()
    return report


def conclusion(report: Report) -> str:
    command = report.facts.get("command")
    if not report.ok or command is None:
        return "It cannot be measured like this: see what is missing above."
    return f"Measure it:  {command}"


def _session(remote: str | None) -> NvmlSession | None:
    """Raises `NotStartedError` where nothing listens at `remote`."""
    if remote is not None:
        return attach_session(remote)
    try:
        return open_session(PowerConfig(backend=PowerBackend.nvml), GpuConfig())
    except NotStartedError:
        return None


def _server(report: Report, facts: ServerFacts, api_key_env: str | None) -> None:
    if not facts.answers:
        why = facts.unknown.get("models", "it does not answer")
        # A certificate that is refused says itself what to do.
        fix = None if CERTIFICATE_REFUSED in why else "start it, or mend the URL"
        report.add(MISSING, "server", f"{facts.base_url}: {why}", fix)
        return
    name = NAMES.get(facts.engine or "", "a server that is not known")
    version = f" {facts.version}" if facts.version else ""
    report.add(OK if facts.engine else NOTE, "server", f"{name}{version} at {facts.base_url}")
    if facts.models:
        length = "" if facts.max_model_len is None else f", up to {facts.max_model_len:,} tokens"
        report.add(OK, "model", f"{', '.join(facts.models)}{length}")
    else:
        fix = None
        if "API key" in facts.unknown.get("models", ""):
            fix = "--api-key-env NAME: the environment variable that holds it"
            if api_key_env is not None:
                fix = f"put its own key into {api_key_env}"
        report.add(MISSING, "model", f"lists none: {facts.unknown.get('models', 'the list is empty')}", fix)
    shown = [f"{name} {value}" for name, value in [*facts.parallel.items(), *facts.settings.items()]]
    if shown:
        more = len(shown) - SHOWN_SETTINGS
        text = ", ".join(shown[:SHOWN_SETTINGS])
        report.add(OK, "settings", text + (f" and {more} more (--json)" if more > 0 else ""))
    else:
        report.add(NOTE, "settings", f"not known: {facts.unknown.get('settings', 'it tells none')}")


def _process(report: Report, facts: ServerFacts) -> None:
    if facts.pid is None:
        report.add(NOTE, "process", f"not known: {facts.unknown.get('pid')}")
        return
    text = f"pid {facts.pid}, {count(len(facts.pids), 'process').replace('processs', 'processes')}"
    if facts.command is not None:
        line = shlex.join(facts.command)
        text += f": {line[:SHOWN_COMMAND]}{'...' if len(line) > SHOWN_COMMAND else ''}"
    report.add(OK, "process", text)


def _gpus(report: Report, facts: ServerFacts, session: NvmlSession | None) -> None:
    """Its GPUs, and whoever else computes on them."""
    report.facts["gpus"] = []
    if not facts.gpu_uuids:
        why = facts.unknown.get("gpu_uuids", "").removesuffix("; gpu.devices=[...] names its GPUs")
        if not facts.local and (session is None or session.remote is None):
            fix = "start `wattcount sampler --listen` there, and say --remote HOST:PORT (docs/remote.md)"
            report.add(MISSING, "GPU", f"not known: {why}", fix)
        elif session is None:
            report.add(NOTE, "GPU", "no NVIDIA GPU can be read here: power would be emulated")
        else:
            fix = "name its GPUs with gpu.devices=[UUID,...] when you measure"
            report.add(MISSING, "GPU", f"not known: {why}", fix)
        return
    assert session is not None
    there = {gpu.uuid: gpu for gpu in session.gpus()}
    for uuid in facts.gpu_uuids:
        report.facts["gpus"].append(_gpu(report, there[uuid], session, facts))


def _gpu(report: Report, gpu: GpuFacts, session: NvmlSession, facts: ServerFacts) -> dict[str, Any]:
    used = dict(session.native.compute_processes(gpu.uuid))
    own, others = facts.computing.get(gpu.uuid, ()), facts.strangers.get(gpu.uuid, ())
    topic = f"GPU {gpu.index}"
    total = "" if gpu.memory_total_bytes is None else f", {gib(gpu.memory_total_bytes)}"
    held = sum(used.get(pid) or 0 for pid in own)
    report.add(
        OK, topic, f"{gpu.name}{total}, {gpu.uuid}" + (f"; the server holds {gib(held)}" if held else "")
    )
    if others:
        known = session.remote is None
        names = ", ".join(describe_process(pid, used.get(pid), known=known) for pid in others)
        report.add(
            NOTE,
            topic,
            f"others compute on it, too: {names}",
            "wait for them: their energy would be in the joules, and make a run invalid",
        )
    return {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_total_bytes": gpu.memory_total_bytes,
        "own": [{"pid": pid, "used_bytes": used.get(pid)} for pid in own],
        "others": [{"pid": pid, "used_bytes": used.get(pid)} for pid in others],
    }


def _users(report: Report, site: Site, facts: ServerFacts) -> None:
    """Who else uses it now, by its counters over a few seconds."""
    first = scrape(site)
    if first is None:
        report.facts["users"] = None
        hint = COUNTERS_HINT.get(facts.engine or "")
        report.add(NOTE, "users", "it tells no counters: whether others use it is not known", hint)
        return
    time.sleep(WATCH_S)
    last = scrape(site)
    if last is None or restarted(first, last):
        report.facts["users"] = None
        report.add(NOTE, "users", "its counters went away, or back: it was started anew just now")
        return
    seconds = (last.t_ns - first.t_ns) / 1e9
    rates = {
        f"{name}_per_s": _rate(first, last, name, seconds)
        for name in ("requests", "prompt_tokens", "generation_tokens")
    }
    report.facts["users"] = {
        "running": last.running,
        "waiting": last.waiting,
        "counts_steps": last.steps is not None,
        "seconds": seconds,
        **rates,
    }
    now = ", ".join(
        f"{n} {what}" for n, what in ((last.running, "running"), (last.waiting, "waiting")) if n is not None
    )
    work = ", ".join(
        f"{significant(rate, 3)} {what}"
        for rate, what in (
            (rates["requests_per_s"], "requests/s"),
            (rates["prompt_tokens_per_s"], "prompt tokens/s"),
            (rates["generation_tokens_per_s"], "output tokens/s"),
        )
        if rate is not None
    )
    busy = bool(last.running or last.waiting or any(rates.values()))
    text = "; ".join(part for part in (now, f"{work} over {seconds:.0f} s" if work else "") if part)
    if busy:
        report.add(
            NOTE,
            "users",
            f"others use it now: {text}",
            "measure when they are gone: their load makes a run invalid",
        )
    else:
        report.add(OK, "users", f"nobody else now: {text or 'it is idle'}")


def _rate(first: ServerCounters, last: ServerCounters, name: str, seconds: float) -> float | None:
    after = getattr(last, name)
    return None if after is None else (after - (getattr(first, name) or 0)) / seconds


def _null(report: Report, facts: ServerFacts) -> None:
    """What of a measurement there will not be."""
    users: Mapping[str, Any] | None = report.facts["users"]
    missing = ["power of the bare GPU (the server stays up)", "when it stood still (it tells no steps)"]
    if users is None or not users["counts_steps"]:
        missing.append("energy of prefill and of decode (it does not count its steps)")
    if users is None:
        missing.append("whether others used it")
    if facts.max_model_len is None:
        missing.append("whether a request fits its context")
    report.facts["null"] = missing
    report.add(NOTE, "null", f"what a run will not know: {'; '.join(missing)}")


def _command(
    report: Report,
    facts: ServerFacts,
    session: NvmlSession | None,
    api_key_env: str | None,
    remote: str | None,
    ca_file: str | None,
) -> None:
    """The command that measures it."""
    words = [
        "python",
        "-m",
        "wattcount",
        "engine=openai",
        f"engine.base_url={facts.base_url}",
        "model=auto",
        "scenario=server",
    ]
    if len(facts.models) > 1:
        words.append(f"engine.served_model={facts.models[0]}")
    if api_key_env is not None:
        words.append(f"engine.api_key_env={api_key_env}")
    if ca_file is not None:
        words.append(f"engine.ca_file={ca_file}")
    if remote is not None:
        words.append(f"power.remote={remote}")
    if not facts.gpu_uuids and session is not None:
        words.append("gpu.devices=[UUID]")
    report.facts["command"] = shlex.join(words).replace("'gpu.devices=[UUID]'", "gpu.devices=[UUID]")
