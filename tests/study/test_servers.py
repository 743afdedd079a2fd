"""Tables of servers: what they make of starts in process and served, and of settings of the host; results made up here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wattcount.config.schema import SloConfig
from wattcount.metrics.metrics_json import Status
from wattcount.metrics.service import good_requests
from wattcount.records import Record
from wattcount.result import Result, results
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.study import servers
from wattcount.study.comparison import Scatters
from wattcount.study.comparison import cells as settings
from wattcount.study.selection import TOKENS

LIMITS = ("1024 at once", "8192 tokens a step")
RECORDS = Path(__file__).resolve().parents[2] / "data" / "servers" / "records"


def run(
    engine: str,
    repeat: int,
    per_token_j: float,
    rate_rps: float | None = 16.0,
    *levers: str,
    valid: bool = True,
) -> Result:
    figures = {PER_TOKEN: per_token_j, WATTS: 500.0, TOKENS: 2000.0, servers.TPOT: 10.0, servers.TTFT: 50.0}
    return Result(
        engine=engine,
        repeat=repeat,
        rate_rps=rate_rps,
        num_requests=None if rate_rps else 1024,
        levers=(*LIMITS, *levers),
        status=Status.valid if valid else Status.invalid,
        metrics={**figures, "host/prefill_step_ms": 25.0},
    )


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_parity_is_of_valid_starts_in_pairs() -> None:
    found = [run("near", 0, 0.20), run("near", 1, 0.30), run("far", 0, 0.22), run("far", 1, 0.33)]
    found += [run("near", 2, 9.0, valid=False), run("far", 2, 1.0), run("near", 3, 9.0, 16.0, "nice -10"), run("far", 3, 1.0)]  # fmt: skip
    found += [run("near", 0, 9.0, 48.0)]
    table = cells(servers.parity(found, "near", "far", Scatters(settings(found))))
    assert [row[1] for row in table] == list(servers.FIGURES.values())
    assert table[0][0] == "16 requests/s (2 pairs)"
    assert table[0][4] == "+10.0 % (+10.0 to +10.0 %)"
    assert table[1][4].startswith("+0.0")


def test_a_batch_has_no_time_to_first_token_in_the_table() -> None:
    found = [run(engine, repeat, 0.1, None) for engine in ("near", "far") for repeat in range(2)]
    assert "TTFT p50, ms" not in [
        row[1] for row in cells(servers.parity(found, "near", "far", Scatters(settings(found))))
    ]


def test_one_pair_is_no_repeat() -> None:
    found = [run("near", 0, 0.2), run("far", 0, 0.2), run("far", 1, 0.3)]
    assert cells(servers.parity(found, "near", "far", Scatters(settings(found)))) == []


def test_each_remedy_of_the_host_is_against_none() -> None:
    found = [run("near", 0, 0.20), run("near", 1, 0.22), run("near", 0, 0.25, 16.0, "nice -10"), run("near", 0, 9.0, 48.0)]  # fmt: skip
    table = cells(servers.host_part(found, Scatters(settings(found))))
    assert [(row[0], row[1]) for row in table] == [("nothing", "2"), ("nice -10", "1")]
    assert table[1][5].startswith("0.2500 (+19.2 %, ")


def test_runs_are_told_by_their_place_on_a_start() -> None:
    places = [("a", "a", 100.0), ("b", "b", 200.0), ("c", "b", 60.0), ("d", "b", 80.0)]
    found = [
        replace(run("near", 0, 0.2), run_id=run_id, session=session, wall_s=wall_s)
        for run_id, session, wall_s in places
    ]
    assert cells(servers.sharing(found)) == [
        ["alone", "16 requests/s", "1", "100 (100 to 100)"],
        ["first of several", "16 requests/s", "1", "200 (200 to 200)"],
        ["a later one", "16 requests/s", "2", "70 (60 to 80)"],
    ]


def test_what_a_request_within_the_slo_costs() -> None:
    found = [run for run in results(RECORDS, keep=False) if run.engine == "vllm_serve"]
    table = {row[0]: row for row in cells(servers.served_curve(found, Scatters(settings(found))))}
    assert table["1"][4] == "100 %"
    assert table["64"][3:5] == ["-", "0 %"]
    for one in found:
        assert one.source is not None
        record = Record.open(one.source)
        assert good_requests(record, SloConfig()) == one.value("requests/completed")
        assert good_requests(record, SloConfig(ttft_ms=1e-3)) == 0


def test_a_run_without_a_window_has_no_good_requests() -> None:
    record = Record.open(next(RECORDS.glob("*/*")))
    record.info.phases[:] = []
    assert good_requests(record, SloConfig(ttft_ms=1.0)) is None
