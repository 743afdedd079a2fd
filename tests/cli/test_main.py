"""The program's words, exit codes, and that nothing a person types ends in a traceback."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from wattcount import __version__
from wattcount.cli.main import COMMANDS, main
from wattcount.errors import NotStartedError, RunFailedError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def run_program(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "wattcount", *args],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wattcount {__version__}\n"


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"], ["model=tiny", "--help"]])
def test_help_fits_a_terminal_and_names_everything(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    for word in (
        *COMMANDS,
        "model",
        "llama3_8b",
        "h100_nvl",
        "server_paper_low",
        "--config-dir",
        "exit codes",
    ):
        assert word in out
    assert "_schema" not in out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("word", "hint"),
    [("sho", "did you mean 'show'?"), ("docter", "did you mean 'doctor'?"), ("zzz", "see wattcount --help")],
)
def test_an_unknown_word(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"wattcount: '{word}' is neither a command nor KEY=VALUE")
    assert hint in captured.err
    assert captured.err.count("\n") == 1


def fake_command(error: BaseException | None, result: int = 0) -> types.ModuleType:
    module = types.ModuleType("wattcount.cli.show")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path")

    def command(args: argparse.Namespace) -> int:
        if error is not None:
            raise error
        return result if args.path else 1

    module.add_arguments = add_arguments  # type: ignore[attr-defined]
    module.main = command  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (NotStartedError("no record at x"), 2, "wattcount: no record at x\n"),
        (RunFailedError("engine_died", "the engine died"), 1, "wattcount: the engine died\n"),
        (KeyboardInterrupt(), 130, "wattcount: interrupted\n"),
    ],
)
def test_a_command_ends_with_the_right_code_and_one_line(
    error: BaseException | None,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wattcount.cli.show", fake_command(error))
    assert main(["show", "x"]) == code
    assert capsys.readouterr().err == line


def test_the_full_error_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setitem(sys.modules, "wattcount.cli.show", fake_command(NotStartedError("no record")))
    with pytest.raises(NotStartedError):
        main(["show", "x"])


def test_a_command_without_its_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wattcount.cli.show", fake_command(None))
    assert main(["show"]) == 2
    assert "usage: wattcount show" in capsys.readouterr().err
    assert main(["show", "--help"]) == 0


def test_only_the_command_that_is_called_is_imported() -> None:
    code = (
        "import sys; from wattcount.cli.main import main; main(['--version']); "
        "heavy = {'hydra', 'mlflow', 'pandas', 'pyarrow', 'rich', 'torch', 'vllm'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


def test_as_a_module_from_another_folder(tmp_path: Path) -> None:
    done = run_program("scenario.rate=4", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "wattcount: scenario.rate: no such key; did you mean 'rate_rps'?\n"
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        f"{sys.executable} -m wattcount --cfg job model=llama3_8b | head -1",
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "model:\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_have_functions(name: str) -> None:
    command = COMMANDS[name]
    module = importlib.import_module(f"wattcount.cli.{command.module}")
    assert callable(getattr(module, command.add_arguments))
    assert callable(getattr(module, command.main))


def test_the_help_imports_neither_hydra_nor_mlflow() -> None:
    code = (
        "import sys; from wattcount.cli.main import main; main(['--help']); "
        "sys.exit(' '.join({'hydra', 'omegaconf', 'mlflow', 'numpy', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_an_option_that_is_none_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--modle", "x"]) == 2
    assert capsys.readouterr().err.startswith(
        "wattcount: unrecognized arguments: --modle; keys are written KEY=VALUE"
    )
