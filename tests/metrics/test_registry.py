import re
from pathlib import Path

import pytest

from wattcount.metrics import FINDINGS, METRICS, NULL_REASONS, spec
from wattcount.metrics.energy import gpu_energy_key
from wattcount.metrics.sensors import ENERGY_SOURCES, POLLED_SOURCES

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

PROMISED = [
    "energy/gpu_j", "energy/gpu_j_per_output_token", "energy/gpu_j_per_request",
    "energy/gpu_j_per_good_request", "energy/batch_gpu_j", "power/gpu_mean_w", "power/idle_bare_w",
    "power/idle_loaded_w", "throughput/output_tokens_per_s", "throughput/requests_per_s",
    "throughput/goodput_rps", *(f"latency/{n}_p{p}_ms" for n in ("ttft", "tpot", "e2e") for p in (50, 95, 99)),
    "load/offered_rps", "load/achieved_rps", "load/send_lag_p99_ms",
]  # fmt: skip


def test_the_keys_others_rely_on():
    assert set(PROMISED) <= set(METRICS)


def documented() -> dict[str, str]:
    """Key to unit, from the tables of docs/metrics.md."""
    rows = dict(re.findall(r"^\| `(\w+/[\w]+)` \| (\S+) \|", DOCS, re.MULTILINE))
    expanded = {}
    for key, unit in rows.items():
        if "SOURCE" in key:
            sources = ENERGY_SOURCES if key.startswith("energy") else POLLED_SOURCES
            expanded |= {key.replace("SOURCE", source): unit for source in sources}
        elif "_pP_" in key:
            expanded |= {key.replace("pP", f"p{p}"): unit for p in (50, 95, 99)}
        elif "gpuN" not in key:
            expanded[key] = unit
    return expanded


def test_docs_have_every_key_with_its_unit_and_no_other():
    assert documented() == {key: entry.unit for key, entry in METRICS.items()}


def test_docs_explain_every_null_reason():
    for code in NULL_REASONS:
        assert f"`{code}`" in DOCS


def test_docs_explain_every_finding():
    assert len(FINDINGS) > 30
    for code in FINDINGS:
        assert f"| `{code}` |" in DOCS


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
