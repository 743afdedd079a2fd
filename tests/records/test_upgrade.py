"""Records of earlier versions: what they left to vLLM is written out, and they are the points that they were."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from wattcount.config.identity import point_id
from wattcount.config.levers import levers
from wattcount.config.loader import changed, from_json
from wattcount.config.schema import RunConfig
from wattcount.engines import defaults, registry
from wattcount.engines.vllm.defaults import BARE_ENGINE
from wattcount.records import Record
from wattcount.records.upgrade import upgraded

RECORDS = sorted((Path(__file__).resolve().parents[2] / "data").glob("h*/records/*/*/run.json"))


def config_of(file: Path) -> RunConfig:
    return from_json(Record.open(file.parent).info.config)


def test_every_old_record_says_what_it_ran_with() -> None:
    assert len(RECORDS) == 118
    for file in RECORDS:
        before = json.loads(file.read_bytes())
        info = Record.open(file.parent).info
        asked, now, told = before["config"]["engine"], info.config["engine"], info.engine["details"]
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            assert now[name] == told[name] == (asked[name] or BARE_ENGINE[name])
            assert (name in now["unset"]) == (asked[name] is None)
        assert now["gpu_memory_utilization"] == 0.9
        assert now["enable_prefix_caching"] is False
        assert info.point_id == before["point_id"]


def test_an_old_record_keeps_its_label() -> None:
    """What was left to the engine then is no lever now that its value is written out."""
    labels = Counter(", ".join(levers(Record.open(file.parent).info.resolved)) for file in RECORDS)
    assert labels == {
        "": 17, "eager": 82, "float16, eager": 2, "fp8": 4, "fp8 KV cache": 1, "TP 2": 2, "PP 2": 2, "DP 2": 2,
        "2048 tokens a step": 2, "64 at once": 1, "256 at once": 1, "normal weights": 1, "fan_in weights": 1,
    }  # fmt: skip


def test_an_old_record_is_not_the_point_that_null_means_now() -> None:
    for file in RECORDS[:10]:
        old = config_of(file)
        new = config_of(file)
        new = changed(new, {"engine": defaults.asked(new.engine)})
        new = changed(new, {"engine": registry.plugin(new.engine.name).resolved(new)})
        assert new.engine.max_num_seqs == 1024 or "max_num_seqs" not in old.engine.unset
        assert point_id(new) != point_id(old)


def test_an_old_record_is_the_point_that_asks_for_what_it_ran_with() -> None:
    for file in RECORDS[:10]:
        old = config_of(file)
        explicit = config_of(file)
        explicit = changed(explicit, {"engine.unset": []})
        assert point_id(engine_defaults_filled(explicit)) == point_id(old)


def engine_defaults_filled(cfg: RunConfig) -> RunConfig:
    return changed(cfg, {"engine": registry.plugin(cfg.engine.name).resolved(cfg)})


def test_an_engine_that_never_came_up_would_have_run_with_the_values_of_its_version() -> None:
    info = {
        "config": {"engine": {"name": "vllm", "max_num_seqs": None, "max_num_batched_tokens": 512}},
        "engine": {},
    }
    engine = upgraded(info)["config"]["engine"]
    assert (engine["max_num_seqs"], engine["max_num_batched_tokens"]) == (128, 512)
    assert "max_num_batched_tokens" not in engine["unset"]
    assert info["config"]["engine"]["max_num_seqs"] is None


def test_what_says_so_itself_and_what_is_no_record_of_vllm_stay_as_they_are() -> None:
    for engine in ({"name": "vllm", "unset": [], "max_num_seqs": None}, {"name": "tiny", "unset": []}, None):
        info = {"config": {"engine": engine}, "engine": {}}
        assert upgraded(info) == info
    assert upgraded({}) == {}


def test_the_kind_of_rehearsal_that_could_be_chosen_for_a_while_is_passed_over() -> None:
    info = {
        "config": {"engine": {"name": "vllm", "unset": []}, "scenario": {"name": "x", "rehearsal": "dress"}}
    }
    assert upgraded(info)["config"]["scenario"] == {"name": "x"}
    assert info["config"]["scenario"]["rehearsal"] == "dress"


def test_a_warm_up_that_had_no_limit_was_of_fixed_length() -> None:
    for scenario, limit_s in (({"warmup_s": 8.0}, 8.0), ({"warmup_s": 8.0, "warmup_limit_s": 60.0}, 60.0)):
        found = upgraded({"config": {"scenario": {"kind": "server", **scenario}}})["config"]["scenario"]
        assert found["warmup_limit_s"] == limit_s
    assert "warmup_limit_s" not in upgraded({"config": {"scenario": {"kind": "batch"}}})["config"]["scenario"]


def test_no_prefix_caching_was_what_nobody_asked_for() -> None:
    engine = {"name": "tiny", "enable_prefix_caching": False}
    config = upgraded({"config": {"engine": engine, "scenario": {"kind": "batch"}}})["config"]
    assert config["engine"]["unset"] == ["enable_prefix_caching"]
    assert levers(from_json(config)) == []
