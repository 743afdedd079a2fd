"""Each source: what its figures become, what is never pretended, and how it refuses what it cannot read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import importer_samples as samples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattcount import importers
from wattcount.errors import NotStartedError
from wattcount.importers import power_log
from wattcount.metrics import spec
from wattcount.metrics.metrics_json import Status
from wattcount.result import Result

FORMS = [*samples.TABLES, *samples.JSON_FILES, *samples.TEXTS]
NAMES = {
    form: name
    for forms in (samples.TABLES, samples.JSON_FILES, samples.TEXTS)
    for form, (name, *_) in forms.items()
}
PER_TOKEN, WATTS = "energy/gpu_j_per_output_token", "power/gpu_mean_w"
RATE, READINGS = "throughput/output_tokens_per_s", "power/gpu_readings_mean_w"


def read(folder: Path, form: str) -> list[Result]:
    return importers.read(samples.write(folder, form))


def outcome(path: Path, name: str) -> list[Result] | str:
    """The results of a file, or the line that refuses it. Any other error fails the test."""
    try:
        return importers.named(name).results(path)
    except NotStartedError as error:
        return str(error)


# -- all of them


def test_every_source_has_a_sample() -> None:
    elsewhere = {"mlperf", "nvidia-smi"}
    assert {importer.SOURCE.name for importer in importers.IMPORTERS} == set(NAMES.values()) | elsewhere


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised_by_its_source_alone(tmp_path: Path, form: str) -> None:
    path = samples.write(tmp_path, form)
    known = [importer.SOURCE.name for importer in importers.IMPORTERS if importer.recognises(path)]
    assert known == [NAMES[form]]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_pretended(tmp_path: Path, form: str) -> None:
    results = read(tmp_path, form)
    assert results
    for item in results:
        assert item.origin == f"imported:{NAMES[form]}"
        assert (item.setting_key, item.point_id, item.seed, item.record) == (None, None, None, None)
        assert item.notes or not item.valid
        assert all(value is not None for value in item.metrics.values())
        assert all(spec(key).unit for key in item.metrics)
        assert all(value > 0 for value in item.metrics.values() if value is not None)
    assert len({item.run_id for item in results}) == len(results)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_row_has_the_same_id_in_another_file(tmp_path: Path, form: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert [item.run_id for item in read(here, form)] == [item.run_id for item in read(there, form)]


@pytest.mark.parametrize("form", samples.TABLES)
@pytest.mark.parametrize("how", ["crlf", "byte order mark", "utf-16", "semicolons", "tabulators"])
def test_tables_as_other_programs_save_them(tmp_path: Path, form: str, how: str) -> None:
    header, rows = samples.cells(form)
    path = tmp_path / "file.csv"
    plain = samples.text(header, rows)
    content = {
        "crlf": samples.text(header, rows, ending="\r\n").encode(),
        "byte order mark": plain.encode("utf-8-sig"),
        "utf-16": plain.encode("utf-16"),
        "semicolons": samples.text(header, rows, delimiter=";").encode(),
        "tabulators": samples.text(header, rows, delimiter="\t").encode(),
    }[how]
    path.write_bytes(content)
    assert [item.metrics for item in importers.read(path)] == [item.metrics for item in read(tmp_path, form)]


@pytest.mark.parametrize("form", samples.TABLES)
def test_a_row_that_is_cut_off_is_refused(tmp_path: Path, form: str) -> None:
    header, rows = samples.cells(form)
    path = tmp_path / "file.csv"
    path.write_text(samples.text(header, [*rows, rows[-1][:3]]))
    with pytest.raises(NotStartedError, match=r"file\.csv, line \d+: 3 columns instead of"):
        importers.read(path)


@pytest.mark.parametrize("form", samples.TABLES)
@pytest.mark.parametrize(
    "value", ["nan", "inf", "-5", "1e999", "1,234.5", "12 W", "1_000", "\uff19", "9" * 400]
)
def test_no_cell_makes_a_figure_of_what_is_no_number(tmp_path: Path, form: str, value: str) -> None:
    """Each cell of the first row in turn: it is refused with file, line and remedy, or it is no figure of a result."""
    header, rows = samples.cells(form)
    before = read(tmp_path, form)
    path = tmp_path / "file.csv"
    for at in range(len(header)):
        changed = [[*rows[0][:at], value, *rows[0][at + 1 :]], *rows[1:]]
        path.write_text(samples.text(header, changed))
        after = outcome(path, NAMES[form])
        if isinstance(after, str):
            assert f"{path}, line 2" in after
            assert "; " in after
        else:
            # A row may be told to be none by one of its words, and lack a figure; no figure may be another.
            known = [other.metrics.items() for other in before]
            assert all(any(item.metrics.items() <= other for other in known) for item in after), header[at]


@pytest.mark.parametrize("form", samples.TABLES)
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_wrong_unit_does_not_pass_where_energy_rests_on_it(
    tmp_path: Path, form: str, factor: float
) -> None:
    """A power or energy a thousand times as large or small is refused, unless the row has nothing to check it against."""
    header, rows = samples.cells(form)
    unchecked = {
        "codecarbon": {"cpu_power", "gpu_power", "ram_power"},
        "ecocompute pairs": {"energy_fp16_j1k", "energy_quant_j1k"},
        "ecocompute runs": {"total_energy_j"},
        "ecocompute batches": {"energy_per_1k_tokens_j"},
        "joulebench runs": {"joules_per_token"},
        "joulebench": set(),
        "tokenpowerbench": {"total_energy", "cpu_energy", "dram_energy"},
        "inferencex csv": {
            "power_valid",
            "power_metric_schema_version",
            "joules_per_output_token",
            "joules_per_total_token",
        },
        "mlenergy v3": {"avg_power_watts"},
        "watt-counts": {
            "gpu_0_power_draw_watts_min",
            "gpu_0_power_draw_watts_max",
            "gpu_0_power_draw_watts_std",
        },
        "splitwise": {"peak_power", "average_power"},
        "wilkins": {"CPU Energy (J)"},
    }.get(form, set())
    if form == "watt-counts" and factor == 1e3:
        unchecked.add("gpu_energy")  # millijoules: power x time tells
    path = tmp_path / "file.csv"
    for at, name in enumerate(header):
        is_energy = any(
            word in name.lower() for word in ("energy", "joule", "watt", "power", "j_per_tok_mean")
        )
        if not is_energy or name in unchecked or "std" in name or not rows[0][at] or float(rows[0][at]) == 0:
            continue
        changed = [[*rows[0][:at], str(float(rows[0][at]) * factor), *rows[0][at + 1 :]], *rows[1:]]
        path.write_text(samples.text(header, changed))
        with pytest.raises(NotStartedError, match=r"line 2: .*(unit|know|Throughput)"):
            importers.read(path)


HOSTILE = "\x1b[2J\x1b]0;pwned\x07<script>alert(1)</script>[red]\u202e=cmd|'/c calc'!A0"


@pytest.mark.parametrize("form", samples.TABLES)
def test_hostile_text_is_text(tmp_path: Path, form: str) -> None:
    header, rows = samples.cells(form)
    path = tmp_path / "file.csv"
    for at in range(len(header)):
        path.write_text(samples.text(header, [[*rows[0][:at], HOSTILE, *rows[0][at + 1 :]], *rows[1:]]))
        assert outcome(path, NAMES[form])


@pytest.mark.parametrize("form", samples.JSON_FILES)
@pytest.mark.parametrize("value", [None, "x", [], {}, True, -1.0, 1e300, "nan"])
def test_no_key_of_a_json_file_makes_it_crash(tmp_path: Path, form: str, value: Any) -> None:
    content = samples.JSON_FILES[form][1]
    path = tmp_path / "file.json"
    for changed in _each_changed(content, value):
        path.write_text(json.dumps(changed))
        results = outcome(path, NAMES[form])
        if isinstance(results, str):
            assert str(path) in results
        else:
            figures = [figure for item in results for figure in item.metrics.values() if figure is not None]
            assert all(0 <= figure < 1e18 for figure in figures)


def _each_changed(content: Any, value: Any) -> list[Any]:
    """Copies of `content` in each of which one value is another."""
    if isinstance(content, dict):
        inside = [{**content, key: new} for key in content for new in _each_changed(content[key], value)]
    elif isinstance(content, list):
        inside = [
            [*content[:at], new, *content[at + 1 :]]
            for at in range(len(content))
            for new in _each_changed(content[at], value)
        ]
    else:
        inside = []
    return [value, *inside]


@pytest.mark.parametrize("form", samples.JSON_FILES)
def test_a_json_file_that_is_cut_off_is_refused(tmp_path: Path, form: str) -> None:
    path = samples.write(tmp_path, form)
    whole = path.read_text()
    for cut in (len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:cut])
        with pytest.raises(NotStartedError, match=r"file\.json is damaged: .*get the .* again"):
            importers.named(NAMES[form]).results(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(FORMS), st.integers(0, 5_000))
def test_no_bytes_make_a_source_crash(tmp_path: Path, noise: bytes, form: str, at: int) -> None:
    """Noise alone, and noise somewhere in a good file: a result, or a line that refuses it."""
    path = samples.write(tmp_path, form)
    whole = path.read_bytes()
    for content in (noise, whole[:at] + noise + whole[at:]):
        path.write_bytes(content)
        for importer in importers.IMPORTERS:
            importer.recognises(path)
        outcome(path, NAMES[form])


@pytest.mark.parametrize("name", sorted({*NAMES.values(), "nvidia-smi"}))
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert not importers.recognises(pipe)
    for path in (pipe, Path("/dev/zero")):
        found = outcome(path, name)
        assert isinstance(found, str)
        assert f"{path} cannot be read: it is no regular file" in found


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_log, "MAX_FILE_BYTES", 100)
    found = outcome(samples.write(tmp_path, "mlenergy v2"), "mlenergy")
    assert isinstance(found, str)
    assert "cut it into several" in found


# -- one by one


def test_mlenergy_v1_is_one_response_at_a_time(tmp_path: Path) -> None:
    first, second = read(tmp_path, "mlenergy v1")
    assert (first.gpu, first.gpus, second.gpu, second.gpus) == ("a40", ("A40",), None, ("A100",))
    assert first.value(PER_TOKEN) == pytest.approx(8.0)
    assert first.value(WATTS) == pytest.approx(200.0)
    assert first.value(RATE) == pytest.approx(25.0)
    assert first.setting["engine"]["max_num_seqs"] == 1
    assert first.model == "lmsys/vicuna-7B"


def test_mlenergy_v2_sums_all_gpus(tmp_path: Path) -> None:
    first, second = read(tmp_path, "mlenergy v2")
    assert (first.model, first.gpu, len(first.gpus)) == ("gemma2_9b", "a100_40gb", 2)
    assert first.value(PER_TOKEN) == pytest.approx(0.25)
    assert first.value(WATTS) == pytest.approx(250.0)
    assert first.value("energy/gpu_j_per_request") is None  # theirs is of a mean answer
    assert first.value("energy/gpu_j_per_mean_request") == 100.0
    assert (second.model, second.gpu, len(second.gpus)) == ("llama3_1_70b", "h100", 16)


def test_mlenergy_v3_power_is_energy_times_rate(tmp_path: Path) -> None:
    first, second = read(tmp_path, "mlenergy v3")
    assert (first.model, first.gpu) == ("qwen3_8b", "h100")
    assert first.value(WATTS) == pytest.approx(500.0)
    assert first.value("latency/itl_p50_ms") == 20.0
    assert (first.levers, first.setting["engine"]["dtype"], second.levers) == (
        ("64 at once",),
        "bfloat16",
        ("fp8", "EP 8", "256 at once"),
    )
    assert (second.model, second.setting["engine"]["quantization"]) == (
        "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
        "fp8",
    )
    assert second.setting["engine"]["expert_parallel_size"] == 8


def test_tokenpowerbench_leaves_idle_gpus_and_zeros_out(tmp_path: Path) -> None:
    first, second = read(tmp_path, "tokenpowerbench")
    assert (first.model, first.gpu, len(first.gpus)) == ("llama3_1_8b", "h100_nvl", 1)
    assert first.value("energy/gpu_j") == pytest.approx(3_000.0)
    assert first.value("energy/host_gpus_j") == pytest.approx(4_800.0)
    assert first.value(PER_TOKEN) == pytest.approx(0.15)
    assert first.value("energy/cpu_package_j") is None
    assert second.value("energy/cpu_package_j") == 18_000.0
    assert len(second.gpus) == 2
    assert second.value(PER_TOKEN) is None  # 52 x 500 tokens were not counted
    assert "did not count" in second.notes[-2]


def test_llm_inference_bench_is_in_milliwatts_and_counts_all_tokens(tmp_path: Path) -> None:
    first, second = read(tmp_path, "llm-inference-bench")
    assert first.value(READINGS) == pytest.approx(250.0)
    assert first.value("throughput/total_tokens_per_s") == 1024.0
    assert first.value(RATE) == pytest.approx(512.0)
    assert first.value(PER_TOKEN) == pytest.approx(250 / 512)
    assert (first.gpu, first.gpus) == (None, ("A100",))
    assert (second.gpu, second.model, second.setting["model"]["hf_id"]) == (
        "h100",
        "llama3_8b",
        "meta-llama/Meta-Llama-3-8B",
    )
    assert "base model of llama3_8b" in second.notes[-1]


def test_joulebench_publishes_what_is_above_idle(tmp_path: Path) -> None:
    first, second = read(tmp_path, "joulebench")
    assert first.value("energy/gpu_j_above_idle_per_output_token") == 0.5
    assert first.value(PER_TOKEN) == pytest.approx(1.25)
    assert first.value("power/idle_reported_w") == 60.0
    assert (first.model, first.gpu) == ("llama3_2_1b", "a100_pcie_80gb")
    assert second.setting["engine"]["quantization"] == "int8"
    run, failed = read(tmp_path, "joulebench runs")
    assert (failed.status, failed.messages, failed.metrics) == (Status.failed, ("out of memory",), {})
    assert run.value(PER_TOKEN) == pytest.approx(230 / 256)
    assert run.value(WATTS) is None


def test_joulebench_with_idle_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(samples.JOULEBENCH.replace(",10,0.5,", ",10,1.25,"))
    with pytest.raises(NotStartedError, match=r"line 2: .*whether idle is in it cannot be told"):
        importers.read(path)


def test_splitwise_zeros_are_no_power(tmp_path: Path) -> None:
    first, second = read(tmp_path, "splitwise")
    assert first.value(READINGS) == pytest.approx(0.75 * 400 * 2)
    assert first.value(PER_TOKEN) is None  # when power was read is not told
    assert (second.value(READINGS), second.instrument) == (None, None)
    assert second.value("latency/ttft_mean_ms") == 100.0


def test_watt_counts_rows_of_servers_and_batches(tmp_path: Path) -> None:
    server, batch = read(tmp_path, "watt-counts")
    assert (server.kind, server.rate_rps, server.gpu, server.model) == ("server", 0.33, "l4", "gemma2_2b")
    assert server.value("energy/gpu_j") == 15_000.0
    assert server.value(PER_TOKEN) == pytest.approx(18.75)
    assert server.value("latency/ttft_p50_ms") == pytest.approx(250.0)
    assert server.value("latency/ttft_p99_ms") is None  # of four requests there is none
    assert (batch.kind, batch.rate_rps) == ("batch", None)
    assert batch.value("energy/gpu_j") == 35_000.0  # the file has millijoules
    assert "millijoules" in batch.notes[-1]
    assert batch.value("latency/e2e_p50_ms") is None


@pytest.mark.parametrize("text", ["__import__('os')", "[1, 2", "[nan]", "[1, 'a']", "{}", "[[1]]"])
def test_watt_counts_lists_are_never_run(tmp_path: Path, text: str) -> None:
    header, rows = samples.cells("watt-counts")
    rows[0][header.index("e2e_request_latency_seconds_events")] = text
    path = tmp_path / "file.csv"
    path.write_text(samples.text(header, rows))
    with pytest.raises(NotStartedError, match="line 2: e2e_request_latency_seconds_events"):
        importers.read(path)


def test_codecarbon_is_in_kilowatt_hours(tmp_path: Path) -> None:
    first, second = read(tmp_path, "codecarbon")
    assert (first.gpu, first.gpus, first.model) == ("a40", ("NVIDIA A40",) * 2, None)
    assert first.value("energy/gpu_j") == pytest.approx(1.8e6)
    assert first.value(WATTS) == pytest.approx(500.0)
    assert first.value("energy/cpu_package_j") is None  # it may be a constant power
    assert first.value("energy/cpu_reckoned_j") == pytest.approx(144_000.0)
    assert second.value("energy/gpu_j") is None
    assert "no GPU was measured" in second.notes
    assert "Norway" not in repr(first)


def test_inferencex_rows_of_version_2(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "inferencex rows")
    assert (row.model, row.gpu, len(row.gpus)) == ("gpt_oss_120b", "b200", 8)  # not 64 or 128
    assert row.value(PER_TOKEN) == 2.0
    assert row.value(WATTS) == 4_000.0
    assert row.value(RATE) == 2_000.0
    assert row.value("latency/ttft_p50_ms") == 500.0
    assert row.window_s == pytest.approx(100.0)
    assert (row.kind, row.setting["scenario"]["max_in_flight"]) == ("concurrency", 64)
    assert (row.levers, row.setting["engine"]["quantization"]) == (
        ("fp4", "TP 8", "EP 8"),
        "fp4",
    )
    assert row.particulars == ("1024 in, 1024 out", "at most 64 in flight")
    (exported,) = read(tmp_path, "inferencex export")
    assert exported == row


def test_inferencex_power_that_is_not_valid_or_of_a_role(tmp_path: Path) -> None:
    (aggregate,) = read(tmp_path, "inferencex aggregate")
    assert (aggregate.value(PER_TOKEN), aggregate.value(WATTS)) == (None, None)
    assert aggregate.value(RATE) == 240.0
    plain, split, old = read(tmp_path, "inferencex csv")
    assert (plain.value(WATTS), plain.value(RATE)) == (4_800.0, pytest.approx(1_200.0))
    assert (split.value(WATTS), split.value("power/gpu_each_mean_w"), len(split.gpus)) == (None, 600.0, 0)
    assert (old.value(PER_TOKEN), old.model, old.gpu) == (None, "llama3_3_70b", None)


def test_aiperf_counts_each_gpu_once(tmp_path: Path) -> None:
    (run,) = read(tmp_path, "aiperf")
    assert (run.gpu, len(run.gpus), run.boards) == ("h100", 2, ("GPU-a", "GPU-b"))
    assert run.value(READINGS) == pytest.approx(600.0)
    assert run.value("energy/gpu_j") == pytest.approx(30_000.0)
    assert run.value(PER_TOKEN) == pytest.approx(1.5)
    assert run.value("latency/tpot_p50_ms") == 8.0
    assert run.model == "qwen3_0_6b"
    assert run.kind == "concurrency"


def test_aiperf_units_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    seconds = samples.AIPERF | {"time_to_first_token": {"unit": "s", "p50": 0.05}}
    path.write_text(json.dumps(seconds))
    assert importers.read(path)[0].value("latency/ttft_p50_ms") == pytest.approx(50.0)
    path.write_text(json.dumps(samples.AIPERF | {"benchmark_duration": {"unit": "parsec", "avg": 1.0}}))
    with pytest.raises(NotStartedError, match="unit is 'parsec'"):
        importers.read(path)


def test_leadgreen_and_ecocompute(tmp_path: Path) -> None:
    first, second = read(tmp_path, "leadgreen")
    assert first.value("energy/gpu_j_per_request") == pytest.approx(18.0)
    assert (len(first.gpus), len(second.gpus)) == (1, 0)
    (run,) = read(tmp_path, "ecocompute runs")
    assert (run.gpu, run.value(PER_TOKEN)) == ("rtx4090", 8.0)
    half, quarter = read(tmp_path, "ecocompute pairs")
    assert (half.value(PER_TOKEN), quarter.value(PER_TOKEN)) == (2.2, 2.5)
    assert quarter.setting["engine"]["quantization"] == "nf4"


def test_wilkins_leaves_out_what_is_no_inference(tmp_path: Path) -> None:
    first, second = read(tmp_path, "wilkins")
    assert (first.value("energy/gpu_j"), first.value(WATTS), first.value(PER_TOKEN)) == (800.0, 200.0, None)
    assert (first.gpus, first.gpu) == (("V100",), None)
    assert second.value("energy/cpu_reckoned_j") is None
    assert len(first.notes) == len(second.notes) + 1


def test_chuyishang_reports_are_read_one_by_one(tmp_path: Path) -> None:
    first, second = read(tmp_path, "chuyishang")
    assert (first.model, first.gpu) == ("qwen2_5_3b", "rtx6000_ada")
    assert first.value(PER_TOKEN) == pytest.approx(0.5)
    assert first.value("power/idle_reported_w") == 20.0
    assert (second.model, second.gpus) == ("gpt_oss_20b", ("A100",))
    assert second.value("latency/e2e_mean_ms") is None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("300.00 W", "300.00 kW", "line 7: Average power is in 'kW', not in 'W'; correct it"),
        ("300.00 W", "0.30 W", "line 3: Average power makes 0.3 W"),
        ("180,000.00 J", "180.00 J", "line 3: Total energy is 180, but average power x time is 1.8e"),
        ("M2  Total tokens:              360,000\n", "", "line 3: Total tokens is empty"),
    ],
)
def test_chuyishang_reports_that_cannot_be_are_refused(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    path = tmp_path / "file.md"
    path.write_text(samples.CHUYISHANG.replace(before, after, 1))
    found = outcome(path, "chuyishang")
    assert isinstance(found, str)
    assert message in found


# -- real files


@pytest.mark.parametrize(
    ("name", "source", "count", "median_w_each"),
    [
        ("outside/mlenergy_v1_v2/v1_flat.csv", "mlenergy", 260, (40, 300)),
        ("outside/mlenergy_v1_v2/v2_flat.csv", "mlenergy", 356, (90, 610)),
        ("mlenergy_v3/llm_h100.csv", "mlenergy", 405, (220, 700)),
        ("outside/llm-inference-bench/power_results.csv", "llm-inference-bench", 48, (220, 660)),
        ("outside/llm-inference-bench/All_results.csv", "llm-inference-bench", 4_772, None),
        ("outside/joulebench/combined_results.csv", "joulebench", 306, (70, 320)),
        ("outside/joulebench/energy_bench_pythia_combined.csv", "joulebench", 280, (70, 320)),
        ("outside/tokenpowerbench/results_flat.csv", "tokenpowerbench", 185, (90, 410)),
        ("outside/splitwise/perf_model.csv", "splitwise", 1_260, (60, 400)),
        ("outside/ecocompute/measured.csv", "ecocompute", 58, None),
        ("outside/ecocompute/a800_mistral7b_batch_size_raw.csv", "ecocompute", 70, (100, 420)),
        ("outside/ecocompute/rtx4090_int8_repeats_2026-08-20.csv", "ecocompute", 15, (50, 460)),
        ("outside/wilkins_phases/all-stats.csv", "wilkins", 2_176, (3, 420)),
        ("outside/wilkins_phases/hetero-all-output-stats.csv", "wilkins", 1_455, (3, 420)),
        ("outside/chuyishang/results_paste.md", "chuyishang", 11, (200, 400)),
        ("outside/leadgreen/per-query.json", "leadgreen", 22, None),
    ],
)
def test_real_files(
    outside_data: Path, name: str, source: str, count: int, median_w_each: tuple[float, float] | None
) -> None:
    results = importers.read(outside_data / name)
    assert len(results) == count
    assert {item.origin for item in results} == {f"imported:{source}"}
    each = [
        watts / max(len(item.gpus), 1)
        for item in results
        if (watts := item.value(WATTS) or item.value(READINGS)) is not None
    ]
    assert (median_w_each is None) == (not each)
    if median_w_each is not None:
        assert median_w_each[0] <= min(each) <= max(each) <= median_w_each[1]
