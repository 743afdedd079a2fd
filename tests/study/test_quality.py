"""What a saving does to users: the SLO on the same arrivals, and scores of lm-evaluation-harness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wattcount.config.schema import SloConfig
from wattcount.errors import NotStartedError
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.study.comparison import Cell
from wattcount.study.quality import (
    NOT_MEASURED,
    Quality,
    Users,
    against_unquantised,
    quality,
    read_scores,
    service,
    unused,
)

SLO = SloConfig(ttft_ms=500.0)


def run(good: int, repeat: int, quantization: str | None = None, seed: int = 0) -> Result:
    return Result(
        run_id=f"{good}{repeat}{quantization}",
        seed=seed,
        repeat=repeat,
        kind="server",
        model="m",
        setting={"scenario": {"slo": {"ttft_ms": 500}}, "model": {"hf_id": "org/m", "quantization": quantization}},
        evidence=Evidence.MEASURED,
        metrics={"requests/sent": 1000, "requests/good": good},
    )  # fmt: skip


def cell(*goods: int, seed: int = 0) -> Cell:
    return Cell("c", tuple(run(good, i, seed=seed) for i, good in enumerate(goods)))


@pytest.mark.parametrize(
    ("turned", "users"),
    [
        ((980, 979, 981), Users.KEPT),
        ((900, 901, 899), Users.WORSE),
        ((990, 900, 985), Users.UNTOLD),
        ((980,), Users.UNTOLD),
    ],
)
def test_users_are_kept_only_where_pairs_show_it(turned: tuple[int, ...], users: Users) -> None:
    found = service(cell(*turned), cell(981, 980, 979), SLO)
    assert found.users is users
    assert found.pairs == len(turned)


def test_a_few_requests_that_all_keep_the_slo_tell_little() -> None:
    def small(repeat: int) -> Result:
        return replace(run(20, repeat), metrics={"requests/sent": 20.0, "requests/good": 20.0})

    few = Cell("f", tuple(small(i) for i in range(3)))
    found = service(few, few, SLO)
    assert (found.change, found.low) == (0.0, pytest.approx(-3 / 60))
    assert found.users is Users.UNTOLD


def test_shares_within_bounds_claim_neither_a_loss_nor_that_there_is_none() -> None:
    """By percentiles alone 95 to 100 % of the requests keep the SLO, in both settings."""

    def vague(repeat: int) -> Result:
        shares = {f"latency/ttft_p{p}_ms": 400.0 for p in (50, 95)}
        return replace(run(0, repeat), setting={}, metrics={"requests/sent": 1000.0, **shares})

    both = Cell("v", tuple(vague(i) for i in range(4)))
    found = service(both, both, SLO)
    assert (found.change, found.pairs) == (pytest.approx(0.0), 4)
    assert (found.low, found.high) == (pytest.approx(-0.05 - 3 / 4000), pytest.approx(0.05 + 3 / 4000))
    assert found.users is Users.UNTOLD


def test_runs_with_other_arrivals_are_no_pair() -> None:
    assert service(cell(980, 980), cell(980, 980, seed=1), SLO).pairs == 0


def test_the_difference_is_that_of_pairs_and_not_of_means() -> None:
    """Arrivals that are hard for one setting are hard for the other."""
    found = service(cell(990, 900, 800), cell(991, 900, 801), SLO)
    assert found.change == pytest.approx(-2 / 3000)
    assert found.users is Users.KEPT


def harness(path: Path, precision: str, acc: float, model: str = "org/m") -> Path:
    path.write_text(
        json.dumps(
            {
                "model_name": model,
                "config": {"model_args": f"pretrained={model},dtype=bfloat16" + (f",quantization={precision}" if precision != "bfloat16" else "")},
                "results": {"arc": {"acc,none": acc, "acc_stderr,none": 0.01, "alias": "arc"}, "wiki": {"word_perplexity,none": 9.0}},
            }
        )
    )  # fmt: skip
    return path


def test_quality_is_joined_by_model_and_precision(tmp_path: Path) -> None:
    harness(tmp_path / "results_a.json", "bfloat16", 0.60)
    harness(tmp_path / "results_b.json", "fp8", 0.59)
    scores = read_scores([tmp_path])
    assert [(s.precision, s.task, s.value) for s in scores] == [
        ("bfloat16", "arc", 0.60),
        ("fp8", "arc", 0.59),
    ]
    found = quality(run(1, 0, "fp8"), run(1, 0), scores)
    assert found.change == pytest.approx(-0.01)
    assert found.half_width == pytest.approx(1.96 * 0.01 * 2**0.5)
    assert found.words == "quality -1.0 ± 2.8 points (1 task)"
    assert quality(run(1, 0, "awq"), run(1, 0), scores).words == NOT_MEASURED
    assert quality(run(1, 0), run(1, 0), []).change == 0.0


REAL = json.loads((Path(__file__).parent / "lm_eval_0_4_13.json").read_text())
"""What lm_eval 0.4.13 wrote of its model `dummy` with two tasks of a group and one by itself; without what it says of its machine."""


def real(path: Path, arguments: object, acc: float = 0.3, **changes: object) -> Path:
    content = json.loads(json.dumps(REAL))
    content["config"]["model_args"] = arguments
    content["results"]["sums"]["acc,none"] = acc
    path.write_text(json.dumps(content | changes))
    return path


def llama(quantization: str | None, **engine: object) -> Result:
    model = {"hf_id": "meta-llama/Llama-3.1-8B-Instruct", "quantization": quantization}
    return replace(run(1, 0), model="llama3_1_8b", setting={"model": model, "engine": engine})


BASE = "pretrained=meta-llama/Llama-3.1-8B-Instruct,dtype=auto"


def test_each_answer_counts_once_in_what_the_harness_writes(tmp_path: Path) -> None:
    """A group instead of its parts, one metric of a task, one way to read the answer; no error where all answers are alike."""
    scores = read_scores([real(tmp_path / "results_1.json", REAL["config"]["model_args"])])
    assert [(s.task, s.metric, s.value, s.protocol[-1]) for s in scores] == [
        ("say", "exact_match", 0.0, "strict-match"),
        ("sums", "acc", 0.3, "none"),
    ]
    assert scores[0].stderr == pytest.approx((2 / 34 * 32 / 34 / 34) ** 0.5)
    assert scores[1].stderr == REAL["results"]["sums"]["acc_stderr,none"]
    parts = json.loads(json.dumps(REAL))
    del parts["results"]["sums"]["acc,none"]
    (tmp_path / "results_2.json").write_text(json.dumps(parts))
    tasks = {(s.task, s.metric) for s in read_scores([tmp_path / "results_2.json"])}
    assert tasks == {("say", "exact_match"), ("sums_one", "acc_norm"), ("sums_two", "acc_norm")}


@pytest.mark.parametrize(
    "arguments",
    [
        BASE + ",quantization=fp8,max_model_len=4096",
        {"pretrained": "meta-llama/Llama-3.1-8B-Instruct", "dtype": "auto", "quantization": "fp8"},
        json.dumps({"pretrained": "meta-llama/Llama-3.1-8B-Instruct", "quantization": "fp8"}),
    ],
)
def test_vllms_own_dtype_stands_against_its_quantisation(arguments: object, tmp_path: Path) -> None:
    """The harness does not say which type `auto` became under vLLM."""
    (tmp_path / "meta-llama__Llama-3.1-8B-Instruct").mkdir()
    inside = tmp_path / "meta-llama__Llama-3.1-8B-Instruct"
    real(inside / "results_2026-11-28T12-12-26.792465.json", BASE)
    real(inside / "results_2026-11-28T12-12-52.849041.json", arguments, 0.28)
    (inside / "samples_say_2026-11-28T12-12-26.792465.jsonl").write_text("{}")
    scores = read_scores([tmp_path])
    found = quality(llama("fp8"), llama(None), scores)
    assert (found.change, found.tasks) == (pytest.approx(-0.01), 2)
    assert unused(scores, [llama("fp8")]) == []
    assert unused(scores, [llama(None)]) == ["meta-llama/Llama-3.1-8B-Instruct:fp8"]


def test_a_quantised_cache_is_a_precision_of_its_own(tmp_path: Path) -> None:
    real(tmp_path / "results_1.json", BASE)
    real(tmp_path / "results_2.json", BASE + ",kv_cache_dtype=fp8_e4m3", 0.28)
    scores = read_scores([tmp_path])
    assert quality(llama(None, kv_cache_dtype="fp8"), llama(None), scores).change == pytest.approx(-0.01)
    assert quality(llama("fp8", kv_cache_dtype="fp8"), llama("fp8"), scores).words == NOT_MEASURED
    cache = against_unquantised(llama(None, kv_cache_dtype="fp8"), scores)
    assert cache is not None
    assert cache.change == pytest.approx(-0.01)


def test_scores_with_other_shots_prompts_or_versions_are_not_compared(tmp_path: Path) -> None:
    shots = dict.fromkeys(REAL["n-shot"], 5)
    versions = dict.fromkeys(REAL["versions"], 9)
    for changes in ({"n-shot": shots}, {"chat_template_sha": "abc"}, {"versions": versions}):
        real(tmp_path / "results_1.json", BASE)
        real(tmp_path / "results_2.json", BASE + ",quantization=fp8", 0.28, **changes)
        assert quality(llama("fp8"), llama(None), read_scores([tmp_path])).words == NOT_MEASURED


def test_a_server_does_not_tell_its_precision_and_a_user_may(tmp_path: Path) -> None:
    config = REAL["config"] | {
        "model": "local-completions",
        "model_args": "model=tuned,base_url=http://localhost:8000",
    }
    path = real(tmp_path / "results_1.json", "", model_name="tuned")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": config}))
    assert {score.precision for score in read_scores([path])} == {None}
    assert unused(read_scores([path]), [llama("fp8")]) == ["tuned:precision not told"]
    named = read_scores([f"llama3_1_8b:fp8={path}", f"llama3_1_8b:bfloat16={real(tmp_path / 'r.json', '')}"])
    assert quality(llama("fp8"), llama(None), named).change == 0.0


def test_weights_in_folders_are_called_by_them(tmp_path: Path) -> None:
    for name in (
        "/models/Llama-3.1-8B-Instruct",
        "/root/.cache/huggingface/hub/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e9e",
    ):
        real(tmp_path / "results_1.json", f"pretrained={name}", model_name=name)
        real(tmp_path / "results_2.json", f"pretrained={name},quantization=fp8", model_name=name)
        assert quality(llama("fp8"), llama(None), read_scores([tmp_path])).tasks == 2


def test_version_03_and_lighteval_are_read(tmp_path: Path) -> None:
    old = {
        "results": {"sciq": {"acc": 0.9, "acc_stderr": 0.01, "acc_norm": 0.8, "acc_norm_stderr": 0.02}},
        "versions": {"sciq": 0},
        "config": {
            "model": "gpt2",
            "model_args": "use_fast=True,pretrained=org/m,dtype=auto",
            "num_fewshot": 0,
        },
    }
    (tmp_path / "results.json").write_text(json.dumps(old))
    (score,) = read_scores([tmp_path])
    assert (score.model, score.precision, score.metric, score.value) == ("org/m", "auto", "acc_norm", 0.8)
    other = {
        "config_general": {
            "model_name": "org/m",
            "model_config": {"model_name": "org/m", "dtype": "bfloat16"},
        },
        "results": {
            "mmlu:anatomy|5": {"acc": 0.44, "acc_stderr": float("nan")},
            "mmlu:_average|5": {"acc": 0.44},
            "gsm8k|5": {"qem": 0.5, "qem_stderr": 0.01},
            "all": {"acc": 0.44, "qem": 0.5},
        },
    }
    (tmp_path / "results.json").write_text(json.dumps(other))
    found = [(s.model, s.precision, s.task, s.value, s.stderr) for s in read_scores([tmp_path])]
    assert found == [
        ("org/m", "bfloat16", "mmlu:anatomy|5", 0.44, None),
        ("org/m", "bfloat16", "gsm8k|5", 0.5, 0.01),
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"results": 1}', '{"results": {}}'])
def test_what_is_no_result_of_the_harness_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(NotStartedError, match=str(path)):
        read_scores([path])
    with pytest.raises(NotStartedError):
        read_scores([tmp_path / "none"])


def test_auto_is_the_dtype_that_the_harness_found(tmp_path: Path) -> None:
    content = {
        "results": {"arc": {"acc,none": 0.5}},
        "config": {"model_args": "pretrained=org/m,dtype=auto", "model_dtype": "torch.bfloat16"},
    }
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert [score.precision for score in read_scores([tmp_path])] == ["bfloat16"]


@pytest.mark.parametrize(
    ("change", "half", "users"),
    [
        (-0.002, 0.005, Users.KEPT),
        (-0.03, 0.005, Users.WORSE),
        (-0.012, 0.005, Users.UNTOLD),
        (None, None, Users.UNTOLD),
    ],
)
def test_quality_is_kept_within_its_margin(change: float | None, half: float | None, users: Users) -> None:
    assert Quality(change, half, 1).users is users


def test_quantisation_stands_against_the_same_model_without(tmp_path: Path) -> None:
    harness(tmp_path / "results_a.json", "bfloat16", 0.60)
    harness(tmp_path / "results_b.json", "fp8", 0.59)
    found = against_unquantised(run(1, 0, "fp8"), read_scores([tmp_path]))
    assert found is not None
    assert found.change == pytest.approx(-0.01)
    assert against_unquantised(run(1, 0), ()) is None
