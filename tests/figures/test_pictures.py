"""Every kind of picture is a Vega-Lite spec that Vega takes, with the data that is meant, and nothing where there is none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from synthetic_record import SyntheticRun, steady_requests

from wattcount.config.schema import SloConfig
from wattcount.errors import NotStartedError
from wattcount.figures import (
    Compared,
    Figure,
    LeverEffect,
    LoadPoint,
    Tradeoff,
    Value,
    budget,
    compare,
    energy_budget,
    gallery,
    latency_distribution,
    lever_effects,
    levers,
    load_curve,
    power_trace,
    tradeoff,
)
from wattcount.figures.figure import VEGA_LITE, without_empty
from wattcount.figures.labels import MOST_CHARACTERS
from wattcount.figures.page import drawing
from wattcount.metrics import load_metrics
from wattcount.records import Record
from wattcount.records.schema import Evidence
from wattcount.study.comparison import Tell

PER_TOKEN = "energy/gpu_j_per_output_token"
POINTS = [
    LoadPoint(curve="a", rate_rps=rate, j_per_token=j, low_j_per_token=0.9 * j, high_j_per_token=1.1 * j, j_per_request=100 * j,
              good_low=good, good_high=good, ttft_ms=40.0, tpot_ms=8.0, knee=rate == 16)
    for rate, j, good in ((1.0, 2.0, 1.0), (4.0, 0.9, 1.0), (16.0, 0.3, 0.5))
]  # fmt: skip


TRADEOFFS = [
    Tradeoff(name=name, what="g", against=against, j_per_token=j, evidence=evidence)
    for name, against, j, evidence in (
        ("a", 10.0, 0.3, Evidence.MEASURED),
        ("b", 15.0, 0.4, Evidence.MEASURED),
        ("c", 20.0, 0.2, Evidence.MEASURED),
        ("d", 9.0, 0.1, Evidence.PREDICTED),
    )
]


def a_record(tmp_path: Path, **given: Any) -> Record:
    return Record.open(SyntheticRun(**given).write(tmp_path / "r0-x"))


def vega(figure: Figure) -> dict[str, Any]:
    """Raises ValueError where Vega-Lite does not take the spec."""
    compiled = vl_convert.vegalite_to_vega(figure.to_spec(), vl_version=VEGA_LITE)
    return dict(compiled) if isinstance(compiled, dict) else dict(json.loads(compiled))


def figures_of(tmp_path: Path) -> list[Figure]:
    record = a_record(tmp_path, slo=SloConfig(ttft_ms=45.0))
    setting = Compared("one", {PER_TOKEN: Value(0.3, 0.28, 0.32), "power/gpu_mean_w": Value(500.0)})
    effects = [
        LeverEffect("fp8", "m, batch", -20.0, -22.0, -18.0, Tell.LESS),
        LeverEffect("x", "m", 1.0, None, None, Tell.CANNOT),
    ]
    return [
        power_trace(record),
        latency_distribution(record),
        energy_budget(record, load_metrics(record)),
        load_curve(POINTS, SloConfig(ttft_ms=500.0)),
        compare([setting, Compared("two", {PER_TOKEN: Value(0.4)})]),
        levers(effects),
        tradeoff(TRADEOFFS, "TPOT p95 [ms]"),
    ]


def test_vega_takes_every_kind(tmp_path: Path) -> None:
    made = figures_of(tmp_path)
    assert {figure.name for figure in made} == set(gallery.KINDS)
    for figure in made:
        assert vega(figure)["marks"], figure.name


def test_every_part_of_a_spec_names_data_that_the_picture_has(tmp_path: Path) -> None:
    def named(spec: Any) -> set[str]:
        children = [child for key in ("vconcat", "layer") for child in spec.get(key, ())]
        own = {spec["data"]["name"]} if "data" in spec else set()
        return own.union(*map(named, children))

    for figure in figures_of(tmp_path):
        assert named(figure.spec) == set(figure.data), figure.name


def test_a_png_and_an_svg_are_made_offline(tmp_path: Path) -> None:
    figure = load_curve(POINTS)
    assert figure.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert figure.save(tmp_path / "a.svg").read_text().startswith("<svg")
    assert json.loads(figure.save(tmp_path / "a.json").read_text())["datasets"]["tokens"]
    with pytest.raises(NotStartedError, match="endings"):
        figure.save(tmp_path / "a.jpg")


def test_a_notebook_gets_the_spec_and_a_picture() -> None:
    bundle = load_curve(POINTS)._repr_mimebundle_()
    assert bundle["application/vnd.vegalite.v6+json"]["vconcat"]
    assert bundle["image/png"].startswith("iVBOR")


def test_panels_without_data_are_left_out(tmp_path: Path) -> None:
    figure = power_trace(a_record(tmp_path))  # its record has neither steps nor temperatures nor clocks
    assert [panel["name"] for panel in figure.to_spec()["vconcat"]] == ["phases", "power", "flight"]
    assert figure.to_spec()["params"][0]["views"] == ["power_lines", "flight_lines"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here to run a script of the pages")
@pytest.mark.parametrize("still", [False, True])
def test_pages_leave_out_what_pictures_leave_out(tmp_path: Path, still: bool) -> None:
    """`draw.js` and `without_empty` agree on each kind, with all of its data, without any, and without each of them."""
    cases = []
    for figure in figures_of(tmp_path):
        some = [{}, figure.data, *({**figure.data, name: []} for name in figure.data)]
        cases += [[figure.spec, {name: [*map(dict, rows)] for name, rows in data.items()}] for data in some]
    script = f"""
        globalThis.window = {{}};
        {drawing()}
        const cases = {json.dumps(cases)};
        console.log(JSON.stringify(cases.map(([spec, data]) => window.WattcountFigures.withoutEmpty(spec, data, {json.dumps(still)}))));
    """
    (tmp_path / "draw.mjs").write_text(script)
    made = subprocess.run(["node", tmp_path / "draw.mjs"], capture_output=True, text=True, check=True)
    wanted = [without_empty(spec, data, still) for spec, data in cases]
    assert json.loads(made.stdout) == json.loads(json.dumps(wanted))


def test_one_line_has_no_legend_and_two_have_one() -> None:
    spec = {
        "data": {"name": "a"},
        "layer": [{"encoding": {"color": {"field": "what", "legend": {"title": None}}}}],
    }
    one = without_empty(spec, {"a": [{"what": "x"}, {"what": "x"}]})
    two = without_empty(spec, {"a": [{"what": "x"}, {"what": "y"}]})
    assert one["layer"][0]["encoding"]["color"]["legend"] is None
    assert two["layer"][0]["encoding"]["color"]["legend"] == {"title": None}
    assert spec["layer"][0]["encoding"]["color"]["legend"] == {"title": None}  # the spec itself is as it was


def test_a_run_without_anything_is_an_empty_picture(tmp_path: Path) -> None:
    record = a_record(tmp_path, phases=[], complete=False, requests=[])
    assert power_trace(record).is_empty
    assert latency_distribution(record).is_empty


def test_shares_of_latency_end_below_all_where_requests_never_ended(tmp_path: Path) -> None:
    requests = steady_requests()
    requests[-1] |= {"status": "cancelled", "last_token_ns": None}
    figure = latency_distribution(a_record(tmp_path, requests=requests))
    top = {row["what"]: row["share"] for row in figure.data["latencies"]}
    assert top["time to first token"] == 1.0
    assert 0.9 < top["whole request"] < 1.0


def test_the_slo_is_drawn_where_the_run_has_one(tmp_path: Path) -> None:
    figure = latency_distribution(a_record(tmp_path, slo=SloConfig(ttft_ms=45.0)))
    assert list(figure.data["bounds"]) == [{"what": "time to first token", "ms": 45.0}]


def test_nothing_of_a_load_curve_lies_beyond_what_was_measured() -> None:
    figure = load_curve(POINTS)
    rates = [row["rate_rps"] for row in figure.data["tokens"]]
    assert (min(rates), max(rates)) == (1.0, 16.0)
    assert len(rates) == len(POINTS)


def test_a_good_request_costs_the_requests_energy_over_the_share_that_is_good() -> None:
    good = {row["rate_rps"]: row["value"] for row in load_curve(POINTS).data["good"]}
    assert good == {1.0: 200.0, 4.0: 90.0, 16.0: 60.0}


def test_where_no_request_is_good_none_is_drawn() -> None:
    point = LoadPoint(
        curve="a", rate_rps=64.0, j_per_token=0.1, j_per_request=10.0, good_low=0.0, good_high=0.0
    )
    assert load_curve([*POINTS, point]).data["good"][-1]["rate_rps"] == 16.0


def test_the_parts_of_the_energy_add_up_to_it(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    content = load_metrics(record)
    parts = budget.rows(content)["parts"]
    assert sum(float(row["j"]) for row in parts) == pytest.approx(content["metrics"]["energy/gpu_j"])


def test_causes_of_the_sensor_add_up_over_gpus_and_others_in_quadrature() -> None:
    energy = {gpu: {"budget_j": {"gain": 3.0, "edges": 3.0}} for gpu in ("a", "b")}
    causes = {
        row["cause"]: row["j"]
        for row in budget.rows({"metrics": {"energy/gpu_j": 100.0}, "energy": energy})["causes"]
    }
    assert causes == {"gain": 6.0, "edges": pytest.approx(18**0.5)}


def test_the_line_joins_measured_settings_that_no_other_beats_in_both() -> None:
    """`b` takes more time and more energy than `a`, and what is predicted joins nothing."""
    svg = tradeoff(TRADEOFFS, "TPOT p95 [ms]").to_svg()
    (line,) = re.findall(r'aria-roledescription="line mark"[^>]*? d="([^"]*)"', svg)
    assert line.count("L") == 1, "from `a` to `c`"


def test_two_to_six_settings_can_be_compared() -> None:
    one = Compared("one", {})
    for number in (1, 7):
        with pytest.raises(ValueError, match="two to 6"):
            compare([one] * number)


def test_effects_come_from_the_studys_rows_and_those_that_save_most_first() -> None:
    row = {
        "model": "m",
        "load": "batch",
        "gpu": "g",
        "low_percent": None,
        "high_percent": None,
        "tell": "cannot tell",
    }
    found = lever_effects(
        [
            {**row, "lever": "a", "change_percent": 5.0},
            {**row, "lever": "b", "change_percent": -5.0},
            {**row, "lever": "c"},
        ]
    )
    assert [effect.lever for effect in found] == ["a", "b"]
    assert [row["lever"] for row in levers(found).data["levers"]] == ["b", "a"]


HOSTILE = "<script>alert(1)</script>\"'\u202e\x1b[31m" + "x" * 10_000


def test_names_of_others_are_text_in_one_short_line() -> None:
    (name,) = {
        row["name"]
        for row in levers([LeverEffect(HOSTILE, "m", 1.0, None, None, Tell.CANNOT)]).data["levers"]
    }
    assert "\x1b" not in name
    assert "\u202e" not in name
    assert len(name) <= MOST_CHARACTERS


def test_a_page_is_not_ended_by_what_is_in_it(tmp_path: Path) -> None:
    page = (
        levers([LeverEffect("</script><b>", "m", 1.0, None, None, Tell.CANNOT)])
        .save(tmp_path / "a.html")
        .read_text()
    )
    assert "<b>" not in page.partition("</title>")[2].rpartition("<script>")[2]
    assert page.count("</script>") == 3
    assert 'http-equiv="Content-Security-Policy"' in page


def test_what_is_no_measurement_says_so_on_the_picture(tmp_path: Path) -> None:
    record = a_record(tmp_path, evidence=Evidence.EMULATED)
    for figure in (
        power_trace(record),
        latency_distribution(record),
        energy_budget(record, load_metrics(record)),
    ):
        title = figure.to_spec()["title"]
        assert "EMULATED" in " ".join(title.get("subtitle", title["text"])), figure.name
        assert vega(figure)
    assert "title" not in load_curve(POINTS).to_spec()
    assert load_curve(POINTS, caveats=["EMULATED"]).to_spec()["title"] == {"text": ["EMULATED"]}
