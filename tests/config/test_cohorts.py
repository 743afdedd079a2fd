"""Cohorts: the seed of a quarter, who may use it, and what it leaves alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from wattcount.config import RunConfig, changed, compose, from_json, to_json
from wattcount.config import cohorts as module
from wattcount.config.cohorts import Cohort, breach, cohort_seed, cohorts
from wattcount.config.identity import planned_point, point_id, setting_key
from wattcount.config.points import build_points
from wattcount.config.validation import problems
from wattcount.errors import NotStartedError
from wattcount.load.build import build_plan

GOOD = "name: 2031_q2\nfrom: 2031-04-01\nuntil: 2031-06-30\nseed: 7\n"


@pytest.fixture(autouse=True)
def in_the_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "today", lambda: date(2026, 11, 28))


def as_resolved(cfg: RunConfig) -> RunConfig:
    return changed(cfg, {"gpu.found_name": "NVIDIA H200", "evidence": "measured"})


def composed(*overrides: str) -> RunConfig:
    return compose(["model=tiny", "engine.device=cuda", *overrides])


def test_published_quarters_follow_one_another() -> None:
    known = list(cohorts().values())
    assert [cohort.name for cohort in known[:2]] == ["2026_q4", "2027_q1"]
    for before, after in pairwise(known):
        assert after.begins == before.ends + timedelta(days=1)
    assert len({cohort.seed for cohort in known}) == len(known)


def test_the_seed_becomes_the_cohorts_and_repeat_stays() -> None:
    cfg = composed("cohort=2026_q4", "repeat=2")
    assert (cfg.seed, cfg.repeat, cfg.cohort) == (cohort_seed("2026_q4"), 2, "2026_q4")
    assert from_json(to_json(cfg)) == cfg
    assert composed().seed == 0
    assert composed("seed=5").seed == 5
    assert composed("cohort=2026_q4", f"seed={cohort_seed('2026_q4')}").seed == cohort_seed("2026_q4")


def test_the_load_follows_from_cohort_and_repeat() -> None:
    def sends(*overrides: str) -> list[int]:
        cfg = composed("scenario=server", *overrides)
        offsets: list[int] = build_plan(cfg.scenario, cfg.seed, cfg.repeat).main.send_offset_ns.tolist()
        return offsets

    first = sends("cohort=2026_q4")
    assert first == sends(f"seed={cohort_seed('2026_q4')}")
    assert first != sends()
    assert first != sends("cohort=2026_q4", "repeat=1")


def test_a_cohort_splits_no_setting() -> None:
    with_it, without = as_resolved(composed("cohort=2026_q4")), as_resolved(composed())
    assert point_id(with_it) == point_id(without)
    assert setting_key(with_it) == setting_key(without)
    assert planned_point(with_it) == planned_point(without)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("cohort=2027_q1", "cohort: 2027_q1 begins on 2027-01-01; take cohort=2026_q4, or wait"),
        ("cohort=2019_q1", "cohort: no cohort '2019_q1' is known; there are: 2026_q4, 2027_q1"),
        ("cohort=../experiment/quick", "cohort: no cohort '../experiment/quick' is known"),
        ("cohort=2026_q4 seed=3", "seed: 3 was given beside cohort=2026_q4, which has a seed of its own; leave seed out"),
        ("cohort=2026_q4 seed=0", "seed: 0 was given beside cohort=2026_q4"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_to_do(overrides: str, said: str) -> None:
    with pytest.raises(NotStartedError) as error:
        composed(*overrides.split())
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_an_ended_cohort_is_refused_to_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "today", lambda: date(2026, 12, 31))
    cfg = composed("cohort=2026_q4")
    monkeypatch.setattr(module, "today", lambda: date(2027, 1, 1))
    assert list(problems(cfg)) == ["cohort: 2026_q4 ended on 2026-12-31; take cohort=2027_q1"]
    monkeypatch.setattr(module, "today", lambda: date(2036, 1, 1))
    assert list(problems(cfg)) == ["cohort: 2026_q4 ended on 2026-12-31; leave it out"]


def test_a_sweep_takes_the_seed_too_and_is_refused_alike() -> None:
    def built(batch: list[list[str]]) -> tuple[list[RunConfig | None], dict[str, str]]:
        from wattcount.config.composition import compose_hydra, from_hydra

        return build_points(batch, compose_hydra, from_hydra, ["model", "scenario"])

    base = ["model=tiny", "cohort=2026_q4"]
    runs, wrong = built([[*base, f"repeat={repeat}"] for repeat in range(4)])
    assert wrong == {}
    assert [run and (run.seed, run.repeat) for run in runs] == [(cohort_seed("2026_q4"), n) for n in range(4)]
    runs, wrong = built(
        [["model=tiny", f"cohort={name}", f"repeat={n}"] for name in ("null", "2026_q4") for n in (0, 1)]
    )
    assert wrong == {}
    assert [run and run.seed for run in runs] == [0, 0, cohort_seed("2026_q4"), cohort_seed("2026_q4")]
    runs, wrong = built([[*base, f"seed={seed}"] for seed in range(3)])
    assert runs == [None] * 3
    assert all("leave seed out" in problem for problem in wrong)


def test_a_run_of_a_cohort_is_of_its_seed_and_its_days() -> None:
    seed, inside = cohort_seed("2026_q4"), datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert breach("2026_q4", seed, inside) is None
    assert breach("2026_q4", seed, inside.astimezone(timezone(timedelta(hours=9)))) is None
    assert (
        breach("2026_q4", seed + 1, inside)
        == f"the run's seed is {seed + 1}, that of cohort 2026_q4 is {seed}"
    )
    late = breach("2026_q4", seed, inside + timedelta(minutes=1))
    assert late == "the run began on 2027-01-01, cohort 2026_q4 is from 2026-10-01 to 2026-12-31"
    assert "no cohort 'mine'" in str(breach("mine", seed, inside))


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "2031_q2.yaml").write_text(GOOD)
    assert cohorts(tmp_path) == {"2031_q2": Cohort("2031_q2", date(2031, 4, 1), date(2031, 6, 30), 7)}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seed: 7", "", "must have the keys"),
        ("seed: 7", "seed: 7\nmore: 1", "must have the keys"),
        ("seed: 7", "seed: 0", "seed: must be"),
        ("seed: 7", "seed: true", "seed: must be"),
        ("seed: 7", "seed: 2147483648", "seed: must be"),
        ("from: 2031-04-01", "from: 2031-04-31", "from: must be a day"),
        ("from: 2031-04-01", "from: 1.4.2031", "from: must be a day"),
        ("until: 2031-06-30", "until: 2031-03-30", "is before from"),
        ("name: 2031_q2", "name: 2031_q3", "must be that of the file"),
    ],
)
def test_a_file_that_is_no_cohort_is_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    file = tmp_path / "2031_q2.yaml"
    file.write_text(GOOD.replace(before, after))
    with pytest.raises(NotStartedError, match=said) as error:
        Cohort.read(file)
    assert str(error.value).startswith(str(file))
