"""The declared sweeps say what they are meant to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from wattcount.config.catalogue import model_catalogue
from wattcount.config.composition import compose, options
from wattcount.config.model_shape import KINDS, model_kind
from wattcount.sweep.planner import predict
from wattcount.sweep.sweeper import expand

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "experiment"


def points(name: str) -> list[dict[str, str]]:
    sweep: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    sweeper = sweep["hydra"]["sweeper"]
    assert sweep["hydra"]["mode"] == "MULTIRUN"
    expanded = expand(sweeper.get("params", {}), sweeper.get("cases", []), (), OverridesParser.create())
    return [dict(text.split("=", 1) for text in point) for point in expanded]


@pytest.mark.parametrize("name", [file.stem for file in sorted(FOLDER.glob("*.yaml"))])
def test_options_exist(name: str) -> None:
    for group in ("model", "gpu", "scenario"):
        chosen = {point[group] for point in points(name) if group in point}
        assert chosen <= set(options(group))


def test_the_papers_sweep() -> None:
    found = points("watt_counts")
    assert len({point["model"] for point in found}) == 50
    assert len(found) == 50 * 11 * 3 * 5
    dtypes = {(point["gpu"], point.get("model.dtype")) for point in found}
    assert {gpu for gpu, dtype in dtypes if dtype == "float16"} == {"t4", "v100"}
    assert len(dtypes) == 11


def test_many_architectures() -> None:
    found = points("architectures")
    catalogue = model_catalogue()
    models = {point["model"] for point in found}
    assert len(models) >= 24
    assert {model_kind(catalogue[model].hf_config) for model in models} == set(KINDS)
    repeated = {point["model"] for point in found if point["repeat"] == "2"}
    assert len(repeated) == 5
    assert {model_kind(catalogue[model].hf_config) for model in repeated} == set(KINDS)


def test_one_lever_at_a_time() -> None:
    for point in points("operator_levers"):
        levers = set(point) - {"repeat", "scenario", "gpu.count"}
        assert len(levers) <= 1, point


def test_the_hosts_part_has_each_remedy_alone_and_all_together() -> None:
    found = points("host_part")
    remedies = [{key: text for key, text in point.items() if key.startswith("engine")} for point in found]
    counts = sorted(len(remedy) for remedy in remedies)
    assert counts == [0] * 3 + [1] * 9 + [3] * 3
    assert len({tuple(remedy.items()) for remedy in remedies}) == 5


def test_a_load_curve_rises_to_a_batch() -> None:
    found = points("load_curve")
    rates = sorted({float(point["scenario.rate_rps"]) for point in found if point["scenario"] == "server"})
    assert len(rates) >= 8
    assert rates[-1] / rates[0] >= 100
    assert any(point["scenario"] == "batch" for point in found)


def test_a_submission_is_a_batch_and_three_rates_on_three_starts_in_under_an_hour() -> None:
    found = points("submission")
    loads = {(point["scenario"], point.get("scenario.rate_rps")) for point in found}
    assert len(loads) == 4
    assert ("batch", None) in loads
    assert {(*load, repeat) for load in loads for repeat in "012"} == {
        (point["scenario"], point.get("scenario.rate_rps"), point["repeat"]) for point in found
    }
    settings = OmegaConf.load(FOLDER / "submission.yaml").scenario
    common = [
        f"scenario.{name}={settings[name]}" for name in ("bare_idle_s", "loaded_idle_s", "bare_idle_after_s")
    ]
    common += [f"scenario.lengths.{name}={value}" for name, value in settings.lengths.items()]
    runs = [
        compose(
            ["model=llama3_1_8b", "gpu=h100", *common, *(f"{key}={value}" for key, value in point.items())]
        )
        for point in found
    ]
    # As if each run had a start of the engine of its own, which takes longer than sharing one.
    assert sum(predict(run).wall_s for run in runs) < 3600


def test_the_campaign_begins_with_its_headline_and_is_balanced_wherever_it_stops() -> None:
    found = points("campaign")
    catalogue = model_catalogue()
    headline = [point["model"] for point in found[:6]]
    assert len(set(headline)) == 6
    for start in range(
        0, 36, 6
    ):  # three repeats of a rate, then of a batch: each model once before any comes again
        block = found[start : start + 6]
        assert [point["model"] for point in block] == headline
        assert {point["repeat"] for point in block} == {str(start // 6 % 3)}
    for point in found:
        if point["scenario"] == "server":
            requests = float(point["scenario.rate_rps"]) * float(point["scenario.window_s"])
            assert float(point["scenario.window_s"]) >= 30
            assert requests >= 100
        else:
            assert int(point["scenario.num_requests"]) >= 1024
    others = {point["model"] for point in found} - set(headline)
    assert len(others) >= 30
    assert {model_kind(catalogue[model].hf_config) for model in others} == set(KINDS)
    assert len(found) >= 250


def test_a_quick_look_is_quick() -> None:
    assert len(points("quick")) == 6
