"""`Result`: one flat row that describes a run. It needs no NVML events, phases or requests, so every source can make one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from wattcount.config.identity import key_of, levers, particulars, planned_point, setting
from wattcount.config.schema import Device, RunConfig
from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.metrics.client import LAGGING, LATE
from wattcount.metrics.metrics_json import DAMAGED, Status, Verdict, load_metrics, stored_metrics, verdict
from wattcount.metrics.sheet import Finding
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase, RunInfo
from wattcount.result.host_part import StartScatter, load_kind, scatter_of_starts

OWN = "wattcount"
"""`origin` of what wattcount itself measured."""
ABSTAINED = "no_prediction"
"""Reason of a row that stands for a setting of which nothing can be predicted; its message says why."""
ENERGY = "energy/gpu_j"
"""Key of the energy of a run's GPUs in its window."""
SHARES_ITS_INTERVAL = ("energy/gpu_j_per_", "power/gpu_mean_w")
"""Begins of the keys of figures that are ENERGY divided by something that is known exactly. Their relative uncertainty is that of ENERGY."""


_FINDING = tuple(item.name for item in fields(Finding))
"""Fields of a finding, in JSON by the same names."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run as one row. None: the source does not tell. Damaged records are rows too: `status`, `reasons`, `messages`, `source`.

    run_id, seed, repeat   of the run; an imported one has an id that its source makes
    point_id               as the record has it, see `config.identity`
    setting, setting_key   what runs must share to be pooled, see `config.identity`, and its hash; None: not comparable with others
    planned_point          what a sweep's plan finds the run by
    model, weights         option or name of the model; `hub`, `path`, `random`
    gpu                    option's name
    scenario, kind         option's name; `batch`, `server`, or what an imported source calls it
    window_s               length of the window as it was [s]
    levers                 what an operator turned, in words
    particulars            what else is not as usual, in words: engine, token lengths, arrivals, limit of requests in flight
    gpus, boards           names and UUIDs, one a GPU
    found_name, device, version_minor, fingerprints   what only the machine that measured knew of the point
    evidence, origin, instrument   `measured`, ...; `wattcount` or where it was imported from; `nvml`, `wall`, `rapl`, ...
    by, host, started_utc  who measured it, where, and when (ISO 8601)
    wattcount_version, metrics_version   that measured, and that computed the figures
    source                 where it was read from: the folder of the record, or what was imported
    status, reasons, messages, findings   the verdict, and what it rests on
    notes                  lines that a reader should know of and that spoil nothing
    energy_basis           the sources that the energy rests on
    metrics, null_reasons  figures by key in the units of `metrics.metrics_json`, and why one is null; of a predicted figure also its
                           90 % interval, by the keys KEY_p05 and KEY_p95
    wall_s, run_energy_j   of the whole run: seconds, and about what its GPUs took [J]
    session                run id of the first run on the same start of the engine; its own where that is no other's
    log_line               last line of a failed run's log
    """

    run_id: str | None = None
    seed: int | None = None
    repeat: int | None = None
    point_id: str | None = None
    setting_key: str | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)
    planned_point: str | None = None
    model: str | None = None
    weights: str | None = None
    gpu: str | None = None
    scenario: str | None = None
    kind: str | None = None
    num_requests: int | None = None
    rate_rps: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    window_s: float | None = None
    levers: tuple[str, ...] = ()
    particulars: tuple[str, ...] = ()
    engine: str | None = None
    engine_version: str | None = None
    gpus: tuple[str, ...] = ()
    boards: tuple[str, ...] = ()
    driver: str | None = None
    found_name: str | None = None
    device: str | None = None
    version_minor: str | None = None
    fingerprints: str | None = None
    evidence: Evidence | None = None
    origin: str = OWN
    instrument: str | None = None
    by: str | None = None
    host: str | None = None
    started_utc: str | None = None
    wattcount_version: str | None = None
    metrics_version: int | None = None
    source: Path | None = None
    status: Status = Status.valid
    reasons: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    energy_basis: tuple[str, ...] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    null_reasons: Mapping[str, str] = field(default_factory=dict)
    wall_s: float | None = None
    run_energy_j: float | None = None
    session: str | None = None
    log_line: str | None = None

    @property
    def record(self) -> Path | None:
        """Folder of the record; None: there is none."""
        return self.source if self.origin == OWN and self.evidence is not Evidence.PREDICTED else None

    @property
    def is_measured(self) -> bool:
        """Whether a study may count it. Who does not tell has measured."""
        return self.evidence not in (Evidence.EMULATED, Evidence.PREDICTED)

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.status, self.reasons, self.messages)

    @property
    def valid(self) -> bool:
        return self.status is Status.valid

    @property
    def remarks(self) -> tuple[Finding, ...]:
        """The findings that leave the run valid."""
        mild = (finding for finding in self.findings if not finding.invalidates)
        return tuple(
            replace(one, message=LATE.format(one)) if one.code == LAGGING.code else one for one in mild
        )

    @property
    def mild_messages(self) -> tuple[str, ...]:
        """A line for people for each of them."""
        return tuple(finding.message for finding in self.remarks)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings, each once. Those that make the run invalid come first."""
        return tuple(dict.fromkeys((*self.reasons, *(finding.code for finding in self.findings))))

    @property
    def weights_kind(self) -> str | None:
        """`random` or `real`: those two are never pooled."""
        known = {"random": "random", "hub": "real", "path": "real"}
        return None if self.weights is None else known.get(self.weights)

    def value(self, key: str) -> float | None:
        """A figure in the unit of `metrics.metrics_json`; None where it is null or the source does not have it."""
        return self.metrics.get(key)

    def u95(self, key: str) -> float | None:
        """95 % uncertainty of a figure of this run, in its unit, by method and sensor; None: not known."""
        if (own := self.metrics.get(f"{key}_u95")) is not None:
            return own
        value, energy, u95 = self.value(key), self.value(ENERGY), self.value(f"{ENERGY}_u95")
        if not key.startswith(SHARES_ITS_INTERVAL) or value is None or not energy or u95 is None:
            return None
        return abs(value) * u95 / energy

    def interval(self, key: str) -> tuple[float, float] | None:
        """90 % interval of a predicted figure, in its unit; None: it has none."""
        low, high = self.metrics.get(f"{key}_p05"), self.metrics.get(f"{key}_p95")
        return None if low is None or high is None else (low, high)

    @property
    def load_kind(self) -> str | None:
        """The kind of load, for `result.host_part`; None where repeats tell nothing: no run of ours on a real GPU, or another kind of load."""
        if self.origin != OWN or self.evidence is not Evidence.MEASURED:
            return None
        return load_kind(self.kind, bool(self.setting.get("engine", {}).get("enforce_eager")))

    def scatter(self, key: str) -> StartScatter | None:
        """How far a figure scatters between starts of the engine; None: not known."""
        return scatter_of_starts(self.load_kind, key)

    def u95_host(self, key: str) -> float | None:
        """95 %: how far the mean of many starts of this setting may lie from this run, in the figure's unit; None: not known.

        Not part of `u95`, which speaks of this run alone.
        """
        value, scatter = self.value(key), self.scatter(key)
        return None if value is None or scatter is None else abs(value) * scatter.u95_share

    def u95_setting(self, key: str) -> float | None:
        """95 % uncertainty of this run as a figure of its setting: method, sensor and host in quadrature, as far as they are known."""
        parts = [part for part in (self.u95(key), self.u95_host(key)) if part is not None]
        return math.hypot(*parts) if parts else None

    @classmethod
    def of(cls, record: Record, content: Mapping[str, Any] | None = None) -> Result:
        """The row of one of our own records.

        content  its `metrics.json`; None: `load_metrics` gives it

        Raises `WattcountError` where a raw file is not as it was measured.
        """
        content = load_metrics(record) if content is None else content
        info, cfg = record.info, record.info.resolved
        found, versions = verdict(info, content), info.versions
        return cls(
            **_of_config(cfg),
            run_id=info.run_id,
            seed=info.seed,
            repeat=info.repeat,
            point_id=info.point_id,
            planned_point=planned_point(cfg),
            weights=cfg.model.weights.value,
            window_s=content["metrics"].get("window/duration_s"),
            engine_version=info.engine.get("version") or versions.get(cfg.engine.name),
            gpus=tuple(str(gpu["name"]) for gpu in info.gpus if gpu.get("name")),
            boards=tuple(str(gpu["uuid"]) for gpu in info.gpus if gpu.get("uuid")),
            driver=info.nvml.get("driver_version"),
            evidence=info.evidence,
            origin=info.origin,
            instrument=info.instrument,
            host=info.host.get("hostname"),
            started_utc=info.started_utc,
            wattcount_version=versions.get("wattcount"),
            metrics_version=content["metrics_version"],
            source=record.path,
            status=found.status,
            reasons=found.reasons,
            messages=found.messages,
            findings=tuple(map(finding, content["validity"]["findings"])),
            notes=tuple(info.notes),
            energy_basis=tuple(sorted({str(e["basis"]) for e in content["energy"].values() if e["basis"]})),
            metrics=content["metrics"],
            null_reasons=content["null_reasons"],
            wall_s=_wall_s(info),
            run_energy_j=_run_energy_j(info, content["metrics"]),
            session=info.session.get("id", info.run_id),
            log_line=info.log_tail[-1] if info.log_tail else None,
        )

    @classmethod
    def predicted(
        cls,
        cfg: RunConfig,
        figures: Mapping[str, float | None],
        intervals: Mapping[str, tuple[float, float] | None],
        basis: str,
        *,
        notes: Sequence[str] = (),
    ) -> Result:
        """The row of what a configuration was predicted to take: never a measurement, and of no setting that measurements are of.

        figures, intervals  by key; 90 %
        basis               what the prediction rests on, in words
        """
        cfg = _as_predicted(cfg)
        values = dict(figures)
        for key, interval in intervals.items():
            if interval is not None:
                values[f"{key}_p05"], values[f"{key}_p95"] = interval
        known = {key: value for key, value in values.items() if value is not None}
        content = _of_config(cfg)
        text = json.dumps([content["setting"], known, basis], sort_keys=True, default=str)
        return cls(
            **content,
            run_id=f"predicted-{hashlib.sha256(text.encode()).hexdigest()[:12]}",
            window_s=known.get("window/duration_s"),
            gpus=(str(cfg.gpu.found_name),) * cfg.gpu.count,
            evidence=Evidence.PREDICTED,
            wattcount_version=_version(),
            notes=tuple(notes),
            energy_basis=(basis,),
            metrics=known,
        )

    @classmethod
    def not_predicted(cls, model: str, gpu: str, reason: str, cfg: RunConfig | None = None) -> Result:
        """The row of a setting that abstains. `cfg`: None where model or GPU are not known."""
        return cls(
            **({} if cfg is None else _of_config(_as_predicted(cfg))) | {"model": model, "setting_key": None},
            gpus=(gpu,),
            evidence=Evidence.PREDICTED,
            wattcount_version=_version(),
            status=Status.invalid,
            reasons=(ABSTAINED,),
            messages=(reason,),
        )

    @classmethod
    def damaged(cls, path: Path, message: str) -> Result:
        """The row of a record that cannot be read, or is not as it was measured. It has no figures."""
        return cls(source=path, status=Status.damaged, reasons=(DAMAGED,), messages=(message,))


def finding(data: Mapping[str, Any]) -> Finding:
    """The inverse of `Finding.to_json`."""
    return Finding(**{name: data[name] for name in _FINDING})


def judge(path: Path) -> Result:
    """The row of a record. Where `metrics.json` cannot be believed, the figures are computed.

    Writes nothing and raises nothing: the row of a record that cannot be read is `damaged` and has the error as its message.
    """
    try:
        return Result.of(Record.open(path))
    except (WattcountError, OSError) as error:
        return Result.damaged(path, one_line(error))


def glance(path: Path) -> Result | None:
    """As `judge`, without computing. None: the record is whole, and its `metrics.json` cannot be believed."""
    try:
        record = Record.open(path)
        record.check_files()
        content = stored_metrics(record)
        return None if content is None else Result.of(record, content)
    except (WattcountError, OSError) as error:
        return Result.damaged(path, one_line(error))


def _of_config(cfg: RunConfig) -> dict[str, Any]:
    """What a result takes from a configuration alone."""
    scenario, shared = cfg.scenario, _setting(cfg)
    return {
        "setting_key": key_of(shared) if shared else None,
        "setting": shared,
        "model": cfg.model.name,
        "gpu": cfg.gpu.name,
        "scenario": scenario.name,
        "kind": scenario.kind.value,
        "num_requests": getattr(scenario, "num_requests", None),
        "rate_rps": getattr(scenario, "rate_rps", None),
        "input_tokens": scenario.lengths.input_tokens,
        "output_tokens": scenario.lengths.output_tokens,
        "levers": tuple(levers(cfg)),
        "particulars": tuple(particulars(cfg)),
        "engine": cfg.engine.name,
        "found_name": cfg.gpu.found_name,
        "device": cfg.engine.device.value,
        "version_minor": cfg.engine.version_minor,
        "fingerprints": fingerprints_of(cfg),
    }


def _version() -> str:
    from wattcount import __version__  # looking it up takes 40 ms, for which not every command has a use

    return __version__


def _as_predicted(cfg: RunConfig) -> RunConfig:
    """With the evidence in it, so that its setting is no measured one's, and with the GPU's name as NVML would give it."""
    gpu = replace(cfg.gpu, found_name=cfg.gpu.found_name or cfg.gpu.emulated_name or cfg.gpu.name)
    device = Device.cuda if cfg.engine.device is Device.auto else cfg.engine.device
    return replace(cfg, evidence=Evidence.PREDICTED.value, gpu=gpu, engine=replace(cfg.engine, device=device))


def fingerprints_of(cfg: RunConfig) -> str:
    """Fingerprints of the files that are part of a point: weights, arrivals and lengths; `-` for each that there is not."""
    arrivals = getattr(cfg.scenario, "arrivals", None)
    prints = (
        cfg.model.path_fingerprint,
        None if arrivals is None else arrivals.fingerprint,
        cfg.scenario.lengths.fingerprint,
    )
    return " ".join(text or "-" for text in prints)


def _setting(cfg: RunConfig) -> dict[str, Any]:
    try:
        return setting(cfg)
    except NotStartedError:  # it broke off before it was resolved
        return {}


def _run_energy_j(info: RunInfo, metrics: Mapping[str, float | None]) -> float | None:
    """About the energy of a run's GPUs from its first phase to its last [J]. None: its window has no energy.

    It has the window as measured, the bare phases at bare idle power, and all other phases at loaded idle power.
    """
    if (total := metrics.get(ENERGY)) is None:
        return None
    bare_w, loaded_w = metrics.get("power/idle_bare_w"), metrics.get("power/idle_loaded_w")
    for span in info.phases:
        if span.phase is not Phase.WINDOW and span.end_ns is not None:
            watts = bare_w if span.phase in (Phase.BARE_IDLE, Phase.BARE_IDLE_AFTER) else loaded_w
            total += (watts or 0.0) * (span.end_ns - span.start_ns) / 1e9
    return float(total)


def _wall_s(info: RunInfo) -> float | None:
    """Time from the parent's first step until the record was in place [s]; of a run that broke off, the time of its phases."""
    if (whole := info.timing.get("wall_s")) is not None:
        return float(whole)
    ends = [span.end_ns for span in info.phases if span.end_ns is not None]
    return (max(ends) - info.phases[0].start_ns) / 1e9 if ends else None
