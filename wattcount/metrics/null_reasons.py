"""Why a metric can be null: codes and what they say."""

from __future__ import annotations

from wattcount.energy import rapl
from wattcount.metrics import attribution, drift, percentiles
from wattcount.metrics.steady import NOT_A_BATCH, STEADY_REASONS

NO_WINDOW = "no_window"
NO_POWER_DATA = "no_power_data"
NO_TOKENS = "no_output_tokens"
NO_COMPLETED = "no_completed_requests"
NO_GOOD = "no_good_requests"
NO_SLO = "no_slo"
NO_PHASE = "phase_missing"
NOT_BATCH = NOT_A_BATCH
BATCH = "batch_has_no_rate"
NOT_A_SERVER = "not_a_server"
NOT_RECORDED = "not_recorded"
NO_DRAFTS = "no_draft_tokens"
SINGLE_TOKEN = "single_token_outputs"
ONE_ARRIVAL = "one_arrival"
NO_PREFILL = "no_prefill_tokens"
NO_DECODE = "no_decode_tokens"
UNFINISHED = percentiles.REQUESTS_UNFINISHED

NULL_REASONS: dict[str, str] = {
    NO_WINDOW: "the run broke off before its window",
    NO_POWER_DATA: "no usable observation of power or energy in that stretch",
    NO_TOKENS: "no output token was emitted in the window",
    NO_COMPLETED: "no request was completed in the window",
    NO_GOOD: "no request sent in the window met the SLO",
    NO_SLO: "the scenario has no SLO",
    NO_PHASE: "the run has no such phase, or broke off in it",
    NOT_BATCH: "only batch scenarios have it",
    NOT_A_SERVER: "only server scenarios have it",
    BATCH: "a batch sends everything at once",
    NOT_RECORDED: "the engine or the sensor does not tell",
    NO_DRAFTS: "no token was proposed in the window: speculative decoding is off, or had nothing to propose",
    SINGLE_TOKEN: "every output is a single token",
    ONE_ARRIVAL: "all tokens of a request came at once: the engine did not stream them one by one",
    UNFINISHED: "the percentile falls on a request that never finished",
    percentiles.NO_REQUESTS: "no request was sent in the window",
    rapl.NOT_PRESENT: "the host shows no RAPL counter of that kind",
    rapl.NOT_READABLE: "a RAPL counter could not be read when the run began; `run.json`, `host.rapl`, says why",
    percentiles.TOO_FEW_REQUESTS: "fewer than 100 / (100 - p) values",
    **attribution.REASONS,
    NO_PREFILL: "no prompt token was computed in the window",
    NO_DECODE: "no token was decoded in the window",
    drift.WINDOW_TOO_SHORT: "too short to tell a trend from chance",
    **STEADY_REASONS,
}
"""Codes of `null_reasons`. Energies may also carry the reasons of the estimate itself."""
