"""Completion, of words and in the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_ledger import make_sweep
from synthetic_record import SyntheticRun

from wattcount.cli.completion import SCRIPTS, completions
from wattcount.cli.main import COMMANDS, main, parser_of
from wattcount.config.packaged import packaged_options

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["mode"], ["model.", "model=", "models"]),
        (["model=tin"], ["model=tiny"]),
        (["-m", "gpu=a100,h20"], ["gpu=a100,h20", "gpu=a100,h200", "gpu=a100,h200_nvl"]),
        (
            ["model=tiny", "scenario.slo."],
            [f"scenario.slo.{name}=" for name in ("attainment", "e2e_ms", "tpot_ms", "ttft_ms")],
        ),
        (["scenario.lengths.kind=p"], ["scenario.lengths.kind=prompts"]),
        (["power.backend="], [f"power.backend={name}" for name in ("auto", "emulated", "nvml")]),
        (["+experiment=qu"], ["+experiment=quick"]),
        (["dry_run=t"], ["dry_run=true"]),
        (["hydra/launcher=r"], ["hydra/launcher=ray"]),
        (["--cfg", ""], ["all", "hydra", "job"]),
        (["--mu"], ["--multirun"]),
        (["show", "--j"], ["--json"]),
        (["dataset", "exp"], ["export"]),
        (["dataset", "export", "--out"], ["--output"]),
        (["models", "--fits", "h200,l40"], ["h200,l40", "h200,l40s"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["show", "/etc/"], []),
        (["--config-dir", ""], []),
        (["nonsense.x"], []),
        (["engine=nonsense"], []),
    ],
)
def test_words(words: list[str], found: list[str]) -> None:
    assert completions(words) == found


def test_every_command_and_group_is_offered_first() -> None:
    assert {*COMMANDS, "model=", "gpu="} <= set(completions([""]))
    assert completions(["model="]) == [f"model={name}" for name in packaged_options("model")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_offered(name: str) -> None:
    parser = parser_of(name)
    if any(hasattr(action, "choices") and isinstance(action.choices, dict) for action in parser._actions):
        return
    offered = set(completions([name, "-"]))
    assert {flag for action in parser._actions for flag in action.option_strings} == offered


def test_sweeps_and_runs_are_offered_by_name_and_id(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path / "0123456789ab" / "r0-20260101-000000-000-abc123")
    with make_sweep(tmp_path):
        where = ["--records-dir", str(tmp_path)]
        assert completions(["status", *where, ""]) == ["big"]
        assert {"big", "abc123"} <= set(completions(["show", *where, ""]))
    assert completions(["show", "--records-dir", str(tmp_path / "nothing"), "x"]) == []


def test_options_of_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    assert "model=mine" in completions(["--config-dir", str(tmp_path), "model=mi"])
    assert "model=mine" not in completions(["model=mi"])


def test_the_program_takes_words_as_the_scripts_send_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "--for=wattcount\t-m\tgpu=h20"]) == 0
    assert capsys.readouterr().out.split() == ["gpu=h20", "gpu=h200", "gpu=h200_nvl"]
    assert main(["completion", "--for=wattcount\t--v"]) == 0
    assert capsys.readouterr().out.split() == ["--version"]
    assert main(["completion"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


BASH = """
eval "$(wattcount completion bash)"
COMP_LINE="$1" COMP_POINT=${#1}
_wattcount 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "wattcount completion fish | source; complete -C $argv[1]"
ZSH = """
compdef() { : }
compadd() { while [[ $1 == -* ]]; do [[ $1 == -S ]] && shift; shift; done; print -l -- ${(P)1} }
compset() { : }
_files() { print files }
eval "$(wattcount completion zsh)"
words=("${(@s: :)1}") CURRENT=${#words}
_wattcount
"""
RUN = {
    "bash": ["bash", "--norc", "-c", BASH, "bash"],
    "zsh": ["zsh", "-f", "-c", ZSH, "zsh"],
    "fish": ["fish", "--no-config", "-c", FISH],
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_completes(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(tmp_path), "WATTCOUNT_HOME": str(tmp_path)}

    def offered(line: str) -> set[str]:
        done = subprocess.run(
            [*RUN[shell], line], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return {found.partition("\t")[0].strip() for found in done.stdout.splitlines()}

    # bash has cut the word at its `=` before, and replaces only what follows.
    head = "" if shell == "bash" else "gpu="
    assert offered("wattcount -m gpu=h20") == {f"{head}{name}" for name in ("h20", "h200", "h200_nvl")}
    assert offered("wattcount docto") == {"doctor"}
    assert offered("wattcount show --js") == {"--json"}
