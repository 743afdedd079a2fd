import pytest

from wattcount.metrics import FINDINGS, METRICS, NULL_REASONS, spec
from wattcount.metrics.energy import gpu_energy_key
from wattcount.metrics.registry import PARTS

PROMISED = [
    "energy/gpu_j", "energy/gpu_j_per_output_token", "energy/gpu_j_per_request",
    "energy/gpu_j_per_good_request", "energy/batch_gpu_j", "power/gpu_mean_w", "power/idle_bare_w",
    "power/idle_loaded_w", "throughput/output_tokens_per_s", "throughput/requests_per_s",
    "throughput/goodput_rps", *(f"latency/{n}_p{p}_ms" for n in ("ttft", "tpot", "e2e") for p in (50, 95, 99)),
    "load/offered_rps", "load/achieved_rps", "load/send_lag_p99_ms",
]  # fmt: skip


def test_the_keys_others_rely_on():
    assert set(PROMISED) <= set(METRICS)


def test_every_metric_reason_and_finding_is_declared_once_and_explained():
    for part in PARTS:
        assert part.METRICS or part.CHECKS.specs
    assert len(METRICS) == sum(len(part.METRICS) for part in PARTS)
    assert len(FINDINGS) == sum(len(part.CHECKS.specs) for part in PARTS) > 30
    assert all(len(entry.description) > 3 for entry in METRICS.values())
    assert all(entry.figure and entry.limit for entry in FINDINGS.values())
    assert all(NULL_REASONS.values())


def test_units_are_in_the_names():
    suffixes = {
        "J": "_j",
        "W": "_w",
        "ms": "_ms",
        "s": "_s",
        "Hz": "_hz",
        "C": "_c",
        "MHz": "_mhz",
        "%": "_percent",
    }
    for key, entry in METRICS.items():
        if entry.unit in suffixes and "_per_" not in key:
            assert key.partition("_u95")[0].endswith(suffixes[entry.unit]), key


def test_spec_knows_per_gpu_keys_and_refuses_others():
    assert spec(gpu_energy_key(7)).unit == "J"
    with pytest.raises(KeyError):
        spec("energy/none")
