"""Settings and their runs as tables: ids, places and ties, what scripts read and what the API has."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.site.sample import GPUS, RATES, result, results, source
from wattcount.metrics.metrics_json import Status
from wattcount.records.schema import Evidence
from wattcount.result.host_part import PER_TOKEN
from wattcount.site.shown import in_script
from wattcount.site.source import Source
from wattcount.site.tables import PLAIN, Table, run_table, setting_table, settings_of
from wattcount.study.comparison import Scatters, Tell, cells

STATIC = Path(__file__).resolve().parents[2] / "wattcount" / "site" / "static"


def rows(table: Table) -> list[dict[str, object]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_a_setting_has_its_repeats_pooled_with_an_interval() -> None:
    found = rows(setting_table(settings_of(source())))
    assert len(found) == 2 * len(GPUS) * len(RATES)
    for row in found:
        low, value, high = row["low"], row["energy_gpu_j_per_output_token"], row["high"]
        assert isinstance(low, float)
        assert isinstance(value, float)
        assert isinstance(high, float)
        assert low < value < high
        assert row["runs"] == 2
        assert "2 starts" in str(row["basis"])


def test_ids_are_stable_and_tell_settings_apart() -> None:
    first, again = ({row["id"] for row in rows(setting_table(settings_of(source())))} for _ in range(2))
    assert first == again
    assert len(first) == 2 * len(GPUS) * len(RATES)
    more = rows(setting_table(settings_of(source(result(model="new", setting_key="f" * 64)))))
    assert first < {row["id"] for row in more}, "a new setting changes no id"


def test_ids_that_begin_alike_are_longer() -> None:
    alike = [result(model=name, setting_key=f"{'a' * 12}{at}{'b' * 51}") for at, name in enumerate("xyz")]
    ids = [row["id"] for row in rows(setting_table(settings_of(Source.of_results("s", alike))))]
    assert len(set(ids)) == 3


def test_ties_are_those_of_the_study() -> None:
    """The models are half a per cent apart on one GPU, which nobody can tell by two starts, and the GPUs 50 %."""
    settings = settings_of(source())
    scatters = Scatters(cells(results()))
    of_load = [s for s in settings if s.first.rate_rps == 4.0]
    by_rank = {s.place.rank: s for s in of_load if s.place is not None}
    assert sorted(by_rank) == [0, 1, 2, 3]
    for setting in of_load:
        assert setting.place is not None
        assert setting.place.ties is not None
        for rank, other in by_rank.items():
            if other is setting:
                continue
            assert setting.cell is not None
            assert other.cell is not None
            compared = scatters.compare(setting.cell, other.cell, PER_TOKEN)
            assert compared is not None
            assert (rank in setting.place.ties) == (compared.tell is Tell.CANNOT)
    assert any(s.place and s.place.ties for s in of_load), "the sample has a tie"
    assert any(s.place and len(s.place.ties or ()) < 3 for s in of_load), (
        "and settings that can be told apart"
    )


def test_what_nobody_repeated_has_no_place() -> None:
    alone = [
        result(model=name, setting_key=None, origin="imported:x", per_token_j=level)
        for name, level in (("a", 0.1), ("b", 0.2))
    ]
    for row in rows(setting_table(settings_of(Source.of_results("s", alone)))):
        assert row["ties"] is None
        assert row["low"] is None
        assert row["rank"] in (0, 1)


def test_an_invalid_run_is_listed_and_counts_for_nothing() -> None:
    bad = result(model="bad", status=Status.invalid, reasons=("throttled",))
    settings = settings_of(source(bad))
    row = next(row for row in rows(setting_table(settings)) if row["model"] == "bad")
    assert row["status"] == "invalid"
    assert row["energy_gpu_j_per_output_token"] is None
    run = next(run for run in rows(run_table(settings)) if run["setting"] == row["id"])
    assert run["reasons"] == "throttled"


def test_settings_with_the_same_words_say_what_they_differ_in() -> None:
    one = result(setting={"engine": {"name": "vllm", "block_size": 16}}, setting_key="1" * 64)
    other = replace(one, setting={"engine": {"name": "vllm", "block_size": 32}}, setting_key="2" * 64)
    words = [row["setting"] for row in rows(setting_table(settings_of(Source.of_results("s", [one, other]))))]
    assert words[0] != words[1]
    assert "block size 32" in str(words[1])


def test_the_api_has_names_whole_and_pages_have_them_cut() -> None:
    settings = settings_of(Source.of_results("s", [result(model="m" * 1000)]))
    assert rows(setting_table(settings, PLAIN))[0]["model"] == "m" * 1000
    assert len(str(rows(setting_table(settings))[0]["model"])) < 200


def test_emulated_results_say_so() -> None:
    row = rows(setting_table(settings_of(Source.of_results("s", [result(evidence=Evidence.EMULATED)]))))[0]
    assert row["evidence"] == "emulated"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here to run a script of the pages")
def test_scripts_read_what_was_written(tmp_path: Path) -> None:
    """`data.js` gives the rows of `Table.coded` as they were."""
    table = run_table(settings_of(source(result(model="\u2028</script>"))))
    script = f"""
        globalThis.window = {{ W: {{}}, WATTCOUNT: {{ rows: {in_script(table.coded())} }} }};
        globalThis.W = window.W;
        {(STATIC / "data.js").read_text()}
        console.log(JSON.stringify([W.rows("rows"), W.rowsWith("rows", "setting", W.rows("rows")[3].setting)]));
    """
    (tmp_path / "read.js").write_text(script)
    read = subprocess.run(["node", tmp_path / "read.js"], capture_output=True, text=True, check=True)
    wanted = json.loads(json.dumps(rows(table)))
    assert json.loads(read.stdout) == [
        wanted,
        [row for row in wanted if row["setting"] == wanted[3]["setting"]],
    ]
