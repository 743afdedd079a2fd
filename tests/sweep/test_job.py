"""What a job does on its node: one point, in this process."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from short_run import SHORT_RUN

from wattcount.config.composition import compose
from wattcount.config.loader import to_json
from wattcount.errors import EXIT_NOT_STARTED, NotStartedError
from wattcount.masking import reveal
from wattcount.records import Record
from wattcount.sweep.job import Gpus, Place, SlurmNodes, measure_job, ray_request
from wattcount.sweep.lane import Task
from wattcount.sweep.point import State, decode


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path), str(tmp_path / "rest"))


def a_task(records_dir: Path, *overrides: str) -> Task:
    cfg = compose([*SHORT_RUN, "power=emulated", "gpu=l4", f"records_dir={records_dir}", *overrides])
    return Task(to_json(cfg), "k", "s", 2, (), wait_for_others=False)


def test_a_job_measures_its_point_and_tells_the_ledger(place: Place, tmp_path: Path) -> None:
    result = measure_job(place, a_task(tmp_path / "records"))
    assert (result.state, result.key, result.attempt) == (State.done, "k", 2)
    assert result.record is not None
    assert Record.open(Path(result.record)).path.is_relative_to(tmp_path / "records")
    (file,) = (tmp_path / "records").glob(".sweeps/s/events/*.jsonl")
    events = [decode(line) for line in file.read_bytes().splitlines()[1:]]
    assert [(event.state.value, event.key, event.attempt) for event in events] == [
        ("running", "k", 2),
        ("done", "k", 2),
    ]


def test_jobs_know_what_a_gpu_was_like_before_the_first_of_them(place: Place, tmp_path: Path) -> None:
    first = measure_job(place, a_task(tmp_path / "records"))
    (file,) = (tmp_path / "rest").glob("GPU-*.json")
    assert first.gpu_uuid == file.stem
    before = json.loads(file.read_text())
    file.write_text(json.dumps(before | {"temperature_c": 3.0}))
    second = measure_job(place, a_task(tmp_path / "records", "repeat=1", "cooldown_limit_s=0"))
    assert second.record is not None
    cooldown = Record.open(Path(second.record)).info.cooldown
    assert cooldown is not None
    assert cooldown["before"][file.stem]["temperature_c"] == 3.0
    assert json.loads(file.read_text())["temperature_c"] == 3.0


def test_a_password_reaches_a_job_and_is_in_nothing_that_is_printed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    sent = replace(place, tracking_uri="http://bob:hunter2@127.0.0.1:9")
    assert "hunter2" not in repr(sent)
    result = measure_job(sent, a_task(tmp_path / "records", "power=nvml"))
    assert result.exit_code == EXIT_NOT_STARTED
    assert reveal("http://bob:***@127.0.0.1:9") == "http://bob:hunter2@127.0.0.1:9"


def test_a_ledger_that_cannot_be_written_costs_no_result(place: Place, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("")
    result = measure_job(place, a_task(tmp_path / "records"))
    assert result.exit_code == EXIT_NOT_STARTED


def test_what_a_point_asks_for_reads_as_it_is_written() -> None:
    assert str(Gpus("a100")) == "gpu=a100"
    assert str(Gpus("a100", 2)) == "gpu=a100 gpu.count=2"


# --- SLURM ------------------------------------------------------------------------------------------


def test_what_sinfo_says_of_typed_and_untyped_gpus_of_features_and_of_nodes_without_any() -> None:
    nodes = SlurmNodes.parse(
        "a100,nvlink|gpu:a100:4(S:0-1),gpu:A30:2(S:0,2)\n"
        "(null)|gpu:8\n"
        "bigmem|(null)\n"
        "l4|gpu:l4:1,lustre:no_consume:1\n"
    )
    assert nodes.features == {"a100", "nvlink", "bigmem", "l4"}
    assert nodes.gpu_types == {"a100", "A30", "l4"}
    assert nodes.has_gpus
    assert SlurmNodes.parse("") == SlurmNodes()


@pytest.mark.parametrize(
    ("sinfo", "asked", "expected"),
    [
        ("a100|gpu:a100:4", Gpus("a100"), {"gres": "gpu:a100:1"}),
        ("x|gpu:A100:4", Gpus("a100", 2), {"gres": "gpu:A100:2"}),
        ("A100,x|gpu:4", Gpus("a100", 2), {"constraint": "A100", "gres": "gpu:2"}),
        ("a100|(null)", Gpus("a100"), {"constraint": "a100"}),
        ("x|gpu:v100:4", Gpus("auto"), {"gres": "gpu:1"}),
        ("x|(null)", Gpus("auto"), {}),
        ("x|(null)", Gpus("a100", emulated=True), {}),
    ],
)
def test_what_a_group_asks_of_slurm(sinfo: str, asked: Gpus, expected: dict[str, str]) -> None:
    assert SlurmNodes.parse(sinfo).request(asked) == expected


def test_a_gpu_that_no_node_has_is_told_with_what_there_is_and_what_to_say() -> None:
    with pytest.raises(NotStartedError, match=r"gpu=h100 gpu.count=2.*types: a100; features: nvlink"):
        SlurmNodes.parse("nvlink|gpu:a100:4").request(Gpus("h100", 2))


def test_sxm_is_not_taken_for_pcie() -> None:
    with pytest.raises(NotStartedError, match=r"sweep\.placement\.a100_pcie_40gb\.constraint"):
        SlurmNodes.parse("a100|gpu:a100:4").request(Gpus("a100_pcie_40gb"))


# --- Ray --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "asked", "expected"),
    [
        ({"CPU": 8, "gpu_a100": 2}, Gpus("a100", 2), {"resources": {"gpu_a100": 2}}),
        (
            {"gpu_a100": 2, "GPU": 2, "accelerator_type:A100": 1},
            Gpus("a100"),
            {"resources": {"gpu_a100": 1}, "num_gpus": 1},
        ),
        (
            {"GPU": 4, "accelerator_type:A100": 1},
            Gpus("a100", 2),
            {"accelerator_type": "A100", "num_gpus": 2},
        ),
        ({"GPU": 4}, Gpus("auto"), {"num_gpus": 1}),
    ],
)
def test_what_a_group_asks_of_ray(
    amounts: dict[str, float], asked: Gpus, expected: dict[str, object]
) -> None:
    assert ray_request(asked, amounts) == {"ray": {"remote": expected}}


def test_ray_is_asked_for_nothing_where_any_node_will_do() -> None:
    assert ray_request(Gpus("a100", emulated=True), {"CPU": 2}) == {}
    assert ray_request(Gpus("auto"), {"CPU": 2}) == {}


def test_a_gpu_that_no_ray_node_has_is_told_with_how_to_start_one() -> None:
    with pytest.raises(
        NotStartedError, match=r"there are: CPU.*ray start --resources='\{\"gpu_l4\": COUNT\}'"
    ):
        ray_request(Gpus("l4"), {"CPU": 2})


# --- no SLURM ---------------------------------------------------------------------------------------


def test_no_slurm_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotStartedError, match="no SLURM here"):
        SlurmNodes.ask()


def test_a_slurm_that_does_not_answer_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "sinfo"
    program.write_text("#!/bin/sh\necho 'slurm_load_node: Unable to contact slurm controller' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(NotStartedError, match="SLURM does not answer: slurm_load_node: Unable to contact"):
        SlurmNodes.ask()
