"""Engines found by name: the packaged ones, and one that another distribution brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wattcount.config import RunConfig, compose
from wattcount.config.schema import Device
from wattcount.engines import registry
from wattcount.errors import NotStartedError
from wattcount.records import Record
from wattcount.result import judge

ECHO = Path(__file__).with_name("outside") / "echo_engine.py"
Install = Callable[..., Path]

SHORT_RUN = (
    "model=tiny", "gpu=h200", "power=emulated", "tracking=none", "scenario=batch", "scenario.num_requests=4",
    "scenario.warmup_requests=0", "scenario.lengths.input_tokens=8", "scenario.lengths.output_tokens=15",
    "scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2", "scenario.bare_idle_after_s=0.2", "power.probe=false",
)  # fmt: skip


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution that registers the engine `name`, for this process and its children; returns its folder."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))

    def make(name: str, value: str = "echo_engine:EchoPlugin", distribution: str = "echo-engine") -> Path:
        folder = site / f"{distribution.replace('-', '_')}-3.1.4.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 3.1.4\n")
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {value}\n")
        shutil.copy(ECHO, site)
        return site

    return make


@pytest.mark.parametrize("name", registry.PACKAGED)
def test_every_packaged_engine_is_found_and_takes_the_default_configuration(name: str) -> None:
    plugin = registry.plugin(name)
    assert plugin is registry.plugin(name)
    where = ["engine.base_url=http://localhost:8000"] if not plugin.capabilities.owns_process else []
    cfg = compose(["model=tiny", f"engine.name={name}", *where])
    assert list(plugin.problems(cfg)) == []
    assert plugin.device(Device.cpu, emulated=True) is Device.cpu
    assert (plugin.defaults(cfg).max_num_seqs is not None) == plugin.capabilities.owns_process
    assert all(check.name for check in plugin.checks(Device.auto, emulated=True))
    assert name in registry.names()


def test_a_plug_in_is_quick_to_import() -> None:
    asked = "from wattcount.engines import registry; [registry.plugin(name) for name in registry.PACKAGED]"
    heavy = "import sys; print(*sorted({'vllm', 'torch', 'transformers', 'mlflow', 'hydra'} & sys.modules.keys()))"
    found = subprocess.run(
        [sys.executable, "-c", f"{asked}\n{heavy}"], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout == "\n"


def test_an_unknown_engine_is_refused_with_those_that_are_known(install: Install) -> None:
    install("echo")
    with pytest.raises(NotStartedError) as caught:
        compose(["engine.name=ecko"])
    assert str(caught.value).startswith(
        f"engine.name: 'ecko' is not one of {', '.join(sorted({'echo', *registry.PACKAGED}))}; "
    )


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("echo_engine:NoSuchPlugin", "AttributeError: module 'echo_engine' has no attribute 'NoSuchPlugin'"),
        ("no_such_module:Plugin", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("echo_engine:EchoEngine", "TypeError: echo_engine:EchoEngine is no subclass of "),
    ],
)
def test_a_broken_plug_in_is_refused_by_its_distribution(install: Install, value: str, what: str) -> None:
    install("broken", value)
    with pytest.raises(NotStartedError) as caught:
        registry.plugin("broken")
    assert str(caught.value).startswith(
        f"engine.name: the plug-in 'broken' of echo-engine 3.1.4 cannot be loaded: {what}"
    )
    assert "broken" in registry.names()


def test_a_plug_in_that_does_not_tell_what_it_can_do_is_refused(install: Install) -> None:
    text = "from wattcount.engines.plugin import EnginePlugin\nclass Mute(EnginePlugin):\n    title, create, device = 'Mute', id, id\n"
    (install("mute", "mute_engine:Mute") / "mute_engine.py").write_text(text)
    with pytest.raises(
        NotStartedError, match="cannot be loaded: TypeError: mute_engine:Mute has no `capabilities`"
    ):
        registry.plugin("mute")


def test_one_name_is_one_engine(install: Install) -> None:
    install("twice")
    install("twice", distribution="other-engine")
    with pytest.raises(
        NotStartedError, match=r"by (echo|other)-engine 3.1.4 and by (echo|other)-engine 3.1.4"
    ):
        registry.plugin("twice")


def test_nobody_takes_the_place_of_a_packaged_engine(install: Install) -> None:
    install("tiny")
    assert type(registry.plugin("tiny")).__module__ == "wattcount.engines.tiny.plugin"


def test_a_run_of_an_engine_of_another_distribution(install: Install, tmp_path: Path) -> None:
    """Through the run's own process. Nobody owns its server, so there is no bare idle; it reports no steps."""
    install("echo")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wattcount",
            "engine=echo",
            *SHORT_RUN,
            f"records_dir={tmp_path / 'records'}",
        ],
        env={**os.environ, "WATTCOUNT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "records").rglob("run.json")
    judged = judge(file.parent)
    assert judged.valid
    info = Record.open(file.parent).info
    assert info.engine["name"] == "echo"
    assert info.config["engine"]["version_minor"] == "3.1"
    assert [span.phase for span in info.phases][:2] == ["engine_start", "loaded_idle"]
    assert any("reports no steps" in note for note in info.notes)


def test_its_own_checks_refuse_a_configuration(install: Install) -> None:
    install("echo")
    registry.plugin.cache_clear()
    with pytest.raises(NotStartedError, match=r"engine.args.tokn_ms: Echo has token_ms only"):
        compose(["engine.name=echo", "engine.args.tokn_ms=1"])


def test_a_record_of_an_engine_that_is_not_installed_can_be_read(tiny_run: Callable[..., RunConfig]) -> None:
    from wattcount.config import from_json, to_json

    plain = to_json(tiny_run())
    plain["engine"]["name"] = "gone"
    assert from_json(plain).engine.name == "gone"
