"""Energies of records whose power is known exactly."""

import pytest
from synthetic_record import SyntheticRun, at, metrics_of, request, values_of

from wattcount.records.schema import Phase, PhaseSpan


def test_several_gpus_are_summed(tmp_path):
    found = values_of(SyntheticRun(power_w=250.0, gpus=3), tmp_path)
    assert found["energy/gpu_j"] == pytest.approx(3 * 250 * 60, rel=1e-9)
    assert found["power/idle_bare_w"] == pytest.approx(750, rel=1e-9)
    assert [found[f"energy_by_gpu/gpu{i}_j"] for i in range(3)] == pytest.approx([15000.0] * 3, rel=1e-9)


def test_one_gpu_without_data_makes_the_sum_null_not_smaller(tmp_path):
    run = SyntheticRun(gpus=2)
    run.write(tmp_path)
    half = SyntheticRun(gpus=1)
    power = half.power_rows()
    run.power_rows = lambda: power  # type: ignore[method-assign]
    content = metrics_of(run, tmp_path)
    assert content["metrics"]["energy/gpu_j"] is None
    assert content["null_reasons"]["energy/gpu_j"] == "no_power_data"
    assert content["metrics"]["energy_by_gpu/gpu0_j"] == pytest.approx(18000)
    assert content["metrics"]["energy_by_gpu/gpu1_j"] is None
    assert content["metrics"]["throughput/output_tokens_per_s"] == 44.0


def rapl_domain(name, kind, **other):
    return {"name": name, "kind": kind, "zone": "", "max_energy_range_uj": 10**10, "error": None} | other


def host_power(name, power_w, start_uj=0):
    """Reads at odd times, between the bounds of the phases; the counter starts over at 10 kJ."""
    seconds = [tick + 0.3 for tick in range(-1, 121)]
    return [
        {
            "domain": name,
            "t0_ns": at(s),
            "t1_ns": at(s),
            "value_uj": round(start_uj + power_w * (s + 1) * 1e6) % 10**10,
        }
        for s in seconds
    ]


def test_cpu_and_dram_energy_are_figures_of_their_own(tmp_path):
    domains = [
        rapl_domain("package-0", "package"),
        rapl_domain("package-1", "package"),
        rapl_domain("package-0/dram", "dram"),
        rapl_domain("psys", "psys"),
    ]
    run = SyntheticRun(
        power_w=300.0,
        rapl={"state": "ok", "domains": domains},
        host_power=host_power("package-0", 200.0, start_uj=9 * 10**9)
        + host_power("package-1", 150.0)
        + host_power("package-0/dram", 30.0)
        + host_power("psys", 900.0),
    )
    found = values_of(run, tmp_path)
    assert found["energy/cpu_package_j"] == pytest.approx(350.0 * 60)
    assert found["power/cpu_package_mean_w"] == pytest.approx(350.0)
    assert found["energy/dram_j"] == pytest.approx(30.0 * 60)
    assert found["energy/gpu_j"] == 18000.0


def test_why_there_is_no_cpu_energy(tmp_path):
    def reasons(rapl, folder):
        found = metrics_of(SyntheticRun(rapl=rapl), tmp_path / folder)
        assert found["metrics"]["energy/cpu_package_j"] is None
        assert found["metrics"]["power/cpu_package_mean_w"] is None
        keys = ("energy/cpu_package_j", "power/cpu_package_mean_w", "energy/dram_j")
        return [found["null_reasons"][key] for key in keys]

    assert reasons(None, "old") == ["not_recorded"] * 3
    assert reasons({"state": "rapl_not_present", "domains": []}, "virtual") == ["rapl_not_present"] * 3
    amd = [rapl_domain("package-0", "package", error="Permission denied")]
    assert reasons({"state": "rapl_not_readable", "domains": amd}, "amd") == [
        "rapl_not_readable",
        "rapl_not_readable",
        "rapl_not_present",
    ]


def test_a_batch_from_first_send_to_last_token_holds_both(tmp_path):
    requests = [request(i, 40.0, ttft_ms=1000 + i, itl_ms=10, tokens=100) for i in range(100)]
    end = max(row["last_token_ns"] for row in requests)
    phases = [
        PhaseSpan(Phase.LOADED_IDLE, at(20), at(30)),
        PhaseSpan(Phase.WINDOW, at(40), end),
    ]
    run = SyntheticRun(scenario="batch", requests=requests, phases=phases)
    content = metrics_of(run, tmp_path)
    found = content["metrics"]
    assert found["tokens/output"] == 100 * 100
    assert found["requests/completed_in_window"] == 100
    assert found["energy/batch_gpu_j"] == pytest.approx(found["energy/gpu_j"], rel=1e-12)
    assert found["energy/batch_gpu_j"] == pytest.approx(300 * (end - at(40)) / 1e9, rel=1e-9)
    assert content["null_reasons"]["load/offered_rps"] == "batch_has_no_rate"


def test_energy_of_a_batch_that_did_not_complete_is_null(tmp_path):
    requests = [request(0, 40.0), request(1, 40.0, status="failed", tokens=3)]
    content = metrics_of(SyntheticRun(scenario="batch", requests=requests), tmp_path)
    assert content["metrics"]["energy/batch_gpu_j"] is None
    assert content["null_reasons"]["energy/batch_gpu_j"] == "requests_unfinished"
    assert content["metrics"]["energy/gpu_j"] is not None
