"""What should serve a model at a load: ranked within what was measured, and refused where the data cannot tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wattcount.config.composition import compose
from wattcount.config.schema import SloConfig
from wattcount.errors import NotStartedError
from wattcount.metrics.metrics_json import Status
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY
from wattcount.study.advice import MOST_REGRET, Need, advise, serve_command, verify_command
from wattcount.study.bills import J_PER_KWH, USUAL_G_PER_KWH, USUAL_PUE, Bills, read_bills
from wattcount.study.quality import Score

SLO = SloConfig(ttft_ms=500.0, tpot_ms=50.0)
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
OPTION = {H100: "h100", H200: "h200"}


def run(
    rate_rps: float | None,
    watts: float,
    gpu: str = H200,
    *,
    repeat: int = 0,
    late: bool = False,
    **fields: object,
) -> Result:
    engine = {"max_num_seqs": 256, "enforce_eager": True, "args": {"swap_space": 4}}
    server = rate_rps is not None
    p99 = 900.0 if late else 100.0
    tokens_per_s = 100.0 * (rate_rps or 10.0)
    made = Result(
        run_id=f"{gpu}{rate_rps}{repeat}{watts}",
        setting_key=f"{gpu} {rate_rps}",
        setting={
            "model": {"name": "llama3_1_8b", "hf_id": "meta-llama/Llama-3.1-8B-Instruct", "weights": "random"},
            "gpu": {"found_name": gpu},
            "scenario": {"kind": "server", "rate_rps": rate_rps} if server else {"kind": "batch", "num_requests": 512},
            "engine": engine,
        },
        model="llama3_1_8b",
        weights="random",
        gpu=OPTION[gpu],
        scenario="server" if server else "batch",
        kind="server" if server else "batch",
        num_requests=None if server else 512,
        rate_rps=rate_rps,
        input_tokens=512,
        output_tokens=100,
        engine="vllm",
        levers=("eager",),
        gpus=(gpu,),
        boards=(f"{gpu} {repeat}",),
        evidence=Evidence.MEASURED,
        metrics={
            WATTS: watts,
            PER_TOKEN: watts / tokens_per_s,
            ENERGY: watts * 60,
            f"{ENERGY}_u95_sensor": watts * 3,
            "throughput/output_tokens_per_s": tokens_per_s,
            "requests/sent": 600,
            **{f"latency/ttft_p{p}_ms": p99 for p in (50, 95, 99)},
            **{f"latency/tpot_p{p}_ms": 10.0 for p in (50, 95, 99)},
        },
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def curve(gpu: str = H200, factor: float = 1.0, rates: tuple[float, ...] = (1.0, 4.0, 16.0)) -> list[Result]:
    """200 W and 100 W more for each fourfold rate, twice on two boards, 1 % apart."""
    return [
        run(rate, factor * (200 + 100 * i) * (1 + 0.01 * repeat), gpu, repeat=repeat)
        for i, rate in enumerate(rates)
        for repeat in (0, 1)
    ]


def need(rate_rps: float | None = 4.0, **fields: object) -> Need:
    made = Need("llama3_1_8b", rate_rps, 512, 100, SLO)
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_measured_rate_is_taken_as_it_is() -> None:
    advice = advise(curve(), need())
    first = advice.options[0]
    assert advice.refusal is None
    assert (first.replicas, first.how, first.rate_rps) == (1, "measured", 4.0)
    # 300 W (geometric mean with 303 W) at 4 requests/s, of which at least 98 % keep the SLO (99 % TTFT, 99 % TPOT).
    assert first.energy_j == pytest.approx((300 * 303) ** 0.5 / (4 * 0.98))
    assert first.low_j < first.energy_j < first.high_j
    assert first.share == pytest.approx(0.98)


def test_between_rates_power_lies_on_a_line_of_logarithms_and_is_less_sure() -> None:
    (first, *_), (at, *_) = advise(curve(), need(8.0)).options, advise(curve(), need(4.0)).options
    assert first.how == "interpolated"
    assert first.watts == pytest.approx((300 * 400 * 1.01) ** 0.5)
    assert np.log(first.high_j / first.energy_j) > np.log(at.high_j / at.energy_j)
    assert [node.first.rate_rps for node in first.nodes] == [4.0, 16.0]


def test_nothing_is_taken_from_beyond_the_measured_rates() -> None:
    """40 requests/s are more than one replica was measured with: three or more are needed; 0.5 are less than any."""
    options = advise(curve(), need(40.0)).options
    assert options[0].replicas == 3
    assert all(1.0 <= option.rate_rps <= 16.0 for option in options if option.rate_rps)
    assert max(option.replicas for option in options) == 40
    refused = advise(curve(), need(0.5))
    assert refused.options == ()
    assert "measured at 1 to 16 requests/s only" in (refused.refusal or "")
    assert "scenario.rate_rps=0.5" in (refused.tell or "")


def test_what_breaks_the_slo_is_left_out() -> None:
    runs = [
        run(r.rate_rps, r.metrics[WATTS] or 0.0, repeat=r.repeat or 0, late=r.rate_rps == 16.0)
        for r in curve()
    ]
    advice = advise(runs, need(8.0))
    assert advice.options[0].replicas == 2
    assert advice.left_out == {"the next measured rate breaks the SLO": 1}
    assert advise(runs, need(8.0, slo=SloConfig(ttft_ms=1000.0))).options[0].replicas == 1


def test_the_gpu_with_less_energy_comes_first_and_says_why() -> None:
    advice = advise([*curve(), *curve(H100, 1.5)], need())
    assert [option.gpu_model for option in advice.options[:2]] == [H200, H100]
    assert "more than chance" in advice.why
    assert advice.sure_of_first is not None
    assert advice.sure_of_first > 0.99
    only = advise([*curve(), *curve(H100, 1.5)], need(gpus=("h100",)))
    assert {option.gpu_model for option in only.options} == {H100}


def test_equal_gpus_are_said_to_be_equal_and_regret_is_what_the_doubt_is_worth() -> None:
    advice = advise([*curve(), *curve(H100, 1.005)], need())
    assert "may be chance" in advice.why
    assert advice.sure_of_first is not None
    assert 0.35 < advice.sure_of_first < 0.75
    assert advice.regret is not None
    # Two sensors of 5 % (1.96 sd): the mean of the larger of two is 0.4 of the sd of their difference.
    assert 0.005 < advice.regret < MOST_REGRET
    assert advice.tell is not None


def test_too_much_doubt_is_refused_with_the_run_that_would_tell() -> None:
    doubt = [
        replace(r, metrics={**r.metrics, f"{ENERGY}_u95_sensor": (r.metrics[ENERGY] or 0.0) * 0.5})
        for r in (*curve(), *curve(H100))
    ]
    advice = advise(doubt, need())
    assert "cannot tell" in (advice.refusal or "")
    assert advice.options
    assert (advice.tell or "").startswith("wattcount model=llama3_1_8b gpu=")


def test_what_was_not_measured_is_named() -> None:
    for wanted, said in (
        (need(model="phi4"), "no result is of phi4"),
        (need(input_tokens=100), "512/100 (server) only"),
        (need(gpus=("l4",)), "not on l4"),
    ):
        advice = advise(curve(), wanted)
        assert said in (advice.refusal or "")
        assert (advice.tell or "").startswith("wattcount ")
    invalid = advise([replace(r, status=Status.invalid) for r in curve()], need())
    assert "no run of it is valid" in (invalid.refusal or "")
    emulated = advise([replace(r, evidence=Evidence.EMULATED) for r in curve()], need())
    assert "no result is of" in (emulated.refusal or "")


def test_a_batch_is_advised_without_an_slo() -> None:
    runs = [run(None, w, gpu, repeat=i) for gpu, w in ((H200, 500.0), (H100, 650.0)) for i in (0, 1)]
    advice = advise(runs, need(None))
    first = advice.options[0]
    assert (first.gpu_model, first.share, first.rate_rps) == (H200, None, None)
    assert first.energy_j == pytest.approx(500.0 / 1000.0 * 100)


def test_commands_are_those_of_the_setting() -> None:
    advice = advise(curve(), need(8.0))
    words = (serve_command(advice.options[0]) or "").split()
    assert words[:3] == ["vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct"]
    assert words[words.index("--max-num-seqs") + 1] == "256"
    assert "--enforce-eager" in words
    assert words[words.index("--swap-space") + 1] == "4"
    made = verify_command(advice.options[0], need(8.0)).split()
    assert made[0] == "wattcount"
    cfg = compose(made[1:])
    assert (cfg.scenario.rate_rps, cfg.engine.max_num_seqs, cfg.scenario.slo.ttft_ms) == (8.0, 256, 500.0)
    assert (cfg.model.name, cfg.gpu.name, cfg.scenario.lengths.output_tokens) == ("llama3_1_8b", "h200", 100)


def test_prices_and_carbon_stand_beside_the_energy(tmp_path: Path) -> None:
    price, carbon = tmp_path / "price.csv", tmp_path / "carbon.csv"
    price.write_text("gpu,per_hour,currency\nH200,3.6,EUR\n")
    carbon.write_text("hour,g_per_kwh\npue,1.2\n" + "".join(f"{h},{100 + h}\n" for h in range(24)))
    bills = read_bills(price, carbon)
    (first, *_) = advise(curve(), need(), bills).options
    assert first.cost_per_1000 == pytest.approx(3.6 / 3600 / (4 * 0.98) * 1000)
    assert first.carbon_g_per_1000 == pytest.approx(first.energy_j * 1000 / J_PER_KWH * 1.2 * 111.5)
    assert bills.best_hours == (0, 23, pytest.approx(100 / 123))
    assert "EUR" in bills.words
    usual = Bills()
    assert usual.carbon_g_per_1000(J_PER_KWH) == pytest.approx(1000 * USUAL_PUE * USUAL_G_PER_KWH)
    assert usual.cost_per_1000("h200", H200, 1, 4.0) is None
    assert usual.best_hours is None
    assert "default" in usual.words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hour,g\n", "no column g_per_kwh"),
        ("hour,g_per_kwh\n", "no row"),
        ("hour,g_per_kwh\n24,5\n", "line 2: hour is '24'"),
        ("hour,g_per_kwh\nall,nan\n", "line 2: g_per_kwh is 'nan'"),
        ("hour,g_per_kwh\npue,0.5\n", "a PUE is 1 or more"),
        ("hour,g_per_kwh\n1,5\n", "has 1 hours"),
    ],
)
def test_a_file_of_carbon_that_is_wrong_says_where(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "carbon.csv"
    path.write_text(text)
    with pytest.raises(NotStartedError, match=said):
        read_bills(carbon=path)


def test_an_option_that_surely_loses_quality_is_left_out() -> None:
    plain = [run(4.0, 400.0, repeat=i) for i in (0, 1)]
    setting = {**plain[0].setting, "model": {**plain[0].setting["model"], "quantization": "fp8"}}
    quantised = [
        replace(run(4.0, 300.0, repeat=i), setting=setting, setting_key="fp8", levers=("eager", "fp8"))
        for i in (0, 1)
    ]
    runs = [*plain, *quantised]

    def scores(fp8: float) -> list[Score]:
        name = "meta-llama/Llama-3.1-8B-Instruct"
        return [Score(name, p, "arc", "acc", value, 0.002) for p, value in (("bfloat16", 0.6), ("fp8", fp8))]

    kept = advise(runs, need(), scores=scores(0.599))
    assert "fp8" in kept.options[0].setting
    assert any("Quality -0.1" in note for note in kept.notes)
    assert kept.to_json()["options"][0]["quality_change_share"] == pytest.approx(-0.001)
    lost = advise(runs, need(), scores=scores(0.5))
    assert all("fp8" not in option.setting for option in lost.options)
    assert lost.left_out == {"its quantisation costs more than 1 point of quality": 1}
    untold = advise(runs, need())
    assert "fp8" in untold.options[0].setting
    assert any("quality not measured" in note.lower() for note in untold.notes)


def test_the_next_is_another_gpu_or_setting_and_what_may_be_as_good_is_named() -> None:
    """One more replica of the same is no alternative."""
    alike = [*curve(), *curve(H100, 1.02)]
    advice = advise(alike, need(8.0))
    assert [option.gpu for option in advice.options][:2] == [H200, H100]
    assert f"{H100} x 1" in advice.why
    assert [option.place for option in advice.as_good] == [(H100, "vllm, eager")]
    apart = advise([*curve(), *curve(H100, 2.0)], need(8.0))
    assert f"{H100} x 1" in apart.why
    assert apart.as_good == ()
    shown = apart.to_json()["options"]
    assert (shown[0]["boards"], shown[0]["starts"], shown[0]["runs"]) == (2, 4, 4)
    assert apart.options[0].how_words == "interpolated between 4 and 16 requests/s"
    assert apart.options[0].basis == "2/4/4"


def test_between_rates_power_rises_as_on_curves_of_models_of_like_size() -> None:
    """Of another 8B model nearly all of the rise from 4 to 16 requests/s is below 8; a model of 70B tells nothing."""

    def other(model: str, watts: tuple[float, float, float]) -> list[Result]:
        rated = zip((4.0, 8.0, 16.0), watts, strict=True)
        return [
            run(rate, w, H100, model=model, setting_key=f"{model}{rate}", setting={}) for rate, w in rated
        ]

    alone = advise(curve(), need(8.0)).options[0]
    like = advise([*curve(), *other("llama3_8b", (300.0, 390.0, 400.0))], need(8.0)).options[0]
    unlike = advise([*curve(), *other("llama3_1_70b", (300.0, 390.0, 400.0))], need(8.0)).options[0]
    part = np.log(390 / 300) / np.log(400 / 300)
    assert like.watts == pytest.approx(1.01**0.5 * 300 * (400 / 300) ** part)
    assert unlike.watts == pytest.approx(alone.watts)
    assert like.sd < alone.sd
    # Nothing lies between on a curve that was measured at the same rates only.
    same = advise([*curve(), *other("llama3_8b", (300.0, 300.0, 400.0))[::2]], need(8.0)).options[0]
    assert same.watts == pytest.approx(alone.watts)
