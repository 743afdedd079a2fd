"""What people type wrongly, and the one line they get for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import MissingConfigException

from wattcount.config import compose
from wattcount.config.hydra_errors import explain, plain_errors
from wattcount.errors import NotStartedError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scenario.rate_rp=4", "scenario.rate_rp: no such key; did you mean 'rate_rps'?"),
        (
            "scenario=batch scenario.rate_rps=4",
            "scenario.rate_rps: no such key; scenario has: bare_idle_after_s, bare_idle_s, ",
        ),
        ("window_s=10", "window_s: no such key; did you mean 'scenario.window_s'?"),
        ("max_num_seqs=4", "max_num_seqs: no such key; did you mean 'engine.max_num_seqs'?"),
        ("modle=tiny", "modle: no such key; did you mean 'model'?"),
        ("zzz=1", "zzz: no such key; the configuration has: allow_busy_gpu, "),
        ("+zzz=1", "zzz: no such key; the configuration has: allow_busy_gpu, "),
        ("model=lama3_8b", "model=lama3_8b: no such option; did you mean 'llama3_8b'?"),
        ("model=zz", "model=zz: no such option; wattcount models lists them"),
        ("gpu=radeon", "gpu=radeon: no such option; there are: a10, a100, a100_40gb, "),
        ("experiment=nothing", "experiment=nothing: no such option; there are: architectures, "),
        ("scenario.rate_rps=abc", "scenario.rate_rps: must be a number, not 'abc'"),
        ("scenario.rate_rps=[1,2]", "scenario.rate_rps: "),
        ("seed=1.5", "seed: must be a whole number, not '1.5'"),
        ("allow_busy_gpu=maybe", "allow_busy_gpu: must be true or false, not 'maybe'"),
        ("records_dir=null", "records_dir: must not be null"),
        (
            "scenario.arrivals.kind=posson",
            "scenario.arrivals.kind: 'posson' is not one of poisson, gamma, constant, trace; did you mean 'poisson'?",
        ),
        ("engine=trt", "engine=trt: no such option; there are: tiny, vllm"),
        (
            "power.backend=nvlm",
            "power.backend: 'nvlm' is not one of auto, nvml, emulated; did you mean 'nvml'?",
        ),
        ("model", "'model': not an override; write KEY=VALUE"),
        ("scenario.lengths=[1", "'scenario.lengths=[1': cannot be read as KEY=VALUE"),
        ("seed=1,2", "'seed=1,2': several values; add -m to run each of them"),
        ("nogroup@x=3", "Override nogroup@x=3 looks like a config group override, but "),
        ("~model.name", "model.name: "),
    ],
)
def test_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(NotStartedError) as caught:
        compose(override.split())
    text = str(caught.value)
    assert text.startswith(message), text
    assert "\n" not in text
    assert "_schema" not in text


def test_a_config_folder_that_is_not_there_changes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(NotStartedError, match="model=mine: no such option"):
        compose(["model=mine"], config_dir=str(tmp_path))


def test_other_errors_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError), plain_errors():
        raise ZeroDivisionError
    with pytest.raises(NotStartedError, match="kept"), plain_errors():
        raise NotStartedError("kept")
    with pytest.raises(NotStartedError, match="a; b"), plain_errors():
        raise ValueError("a\n  b")


def test_an_unknown_hydra_error_keeps_its_text_on_one_line() -> None:
    from hydra.errors import ConfigCompositionException

    assert explain(ConfigCompositionException("first\nsecond")) == "first; second"


def test_a_launcher_that_is_not_installed_is_told_with_how_to_get_it() -> None:
    error = MissingConfigException("", "hydra/launcher/submitit_slurm", ["basic"])
    assert explain(error).endswith("it is not installed: pip install 'wattcount[slurm]'")
    error = MissingConfigException("", "hydra/launcher/slurm", ["basic"])
    assert explain(error) == "hydra/launcher=slurm: no such option; there are: basic"
