from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig, RunConfig
from wattcount.errors import NotStartedError
from wattcount.sweep.placement import Group, RayResources, SlurmNodes, groups, request, split
from wattcount.sweep.plan import Point


def point(key: str) -> Point:
    return Point(key, (f"+key={key}",), "m", "g", "server", "1/s", 0, 0)


def config(gpu: str, count: int = 1, backend: PowerBackend = PowerBackend.auto) -> RunConfig:
    return RunConfig(gpu=GpuConfig(name=gpu, count=count), power=PowerConfig(backend=backend))


def group(gpu: str, count: int = 1, *, emulated: bool = False) -> Group:
    return Group(gpu, count, emulated, (point("a"),))


# --- groups -----------------------------------------------------------------------------------------


def test_points_are_grouped_by_what_they_ask_for_and_keep_their_order() -> None:
    configs = {
        "1": config("a100"),
        "2": config("l4"),
        "3": config("a100", count=2),
        "4": config("a100"),
        "5": config("a100", backend=PowerBackend.emulated),
    }
    found = groups([point(key) for key in configs], configs)
    assert [(*one.asked, [p.key for p in one.points]) for one in found] == [
        ("a100", 1, False, ["1", "4"]),
        ("l4", 1, False, ["2"]),
        ("a100", 2, False, ["3"]),
        ("a100", 1, True, ["5"]),
    ]


def test_a_group_is_split_for_launchers_with_a_limit_and_loses_no_point() -> None:
    whole = Group("a100", 2, False, tuple(point(str(index)) for index in range(7)))
    parts = split(whole, 3)
    assert [len(part.points) for part in parts] == [3, 3, 1]
    assert sum((part.points for part in parts), ()) == whole.points
    assert {part.asked for part in parts} == {whole.asked}


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
        ("a100|gpu:a100:4", group("a100"), {"gres": "gpu:a100:1"}),
        ("x|gpu:A100:4", group("a100", 2), {"gres": "gpu:A100:2"}),
        ("A100,x|gpu:4", group("a100", 2), {"constraint": "A100", "gres": "gpu:2"}),
        ("a100|(null)", group("a100"), {"constraint": "a100"}),
        ("x|gpu:v100:4", group("auto"), {"gres": "gpu:1"}),
        ("x|(null)", group("auto"), {}),
        ("x|(null)", group("a100", emulated=True), {}),
    ],
)
def test_what_a_group_asks_of_slurm(sinfo: str, asked: Group, expected: dict[str, str]) -> None:
    assert request(asked, SlurmNodes.parse(sinfo), {}) == expected


def test_a_gpu_that_no_node_has_is_told_with_what_there_is_and_what_to_say() -> None:
    with pytest.raises(NotStartedError, match=r"gpu=h100 gpu.count=2.*types: a100; features: nvlink"):
        request(group("h100", 2), SlurmNodes.parse("nvlink|gpu:a100:4"), {})


def test_sxm_is_not_taken_for_pcie() -> None:
    with pytest.raises(NotStartedError, match=r"sweep\.placement\.a100_pcie_40gb\.constraint"):
        request(group("a100_pcie_40gb"), SlurmNodes.parse("a100|gpu:a100:4"), {})


# --- Ray --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "asked", "expected"),
    [
        ({"CPU": 8, "gpu_a100": 2}, group("a100", 2), {"resources": {"gpu_a100": 2}}),
        (
            {"gpu_a100": 2, "GPU": 2, "accelerator_type:A100": 1},
            group("a100"),
            {"resources": {"gpu_a100": 1}, "num_gpus": 1},
        ),
        (
            {"GPU": 4, "accelerator_type:A100": 1},
            group("a100", 2),
            {"accelerator_type": "A100", "num_gpus": 2},
        ),
        ({"GPU": 4}, group("auto"), {"num_gpus": 1}),
    ],
)
def test_what_a_group_asks_of_ray(
    amounts: dict[str, float], asked: Group, expected: dict[str, object]
) -> None:
    assert request(asked, RayResources(amounts), {}) == {"ray": {"remote": expected}}


def test_ray_is_asked_for_nothing_where_any_node_will_do() -> None:
    assert request(group("a100", emulated=True), RayResources({"CPU": 2}), {}) == {}
    assert request(group("auto"), RayResources({"CPU": 2}), {}) == {}


def test_a_gpu_that_no_ray_node_has_is_told_with_how_to_start_one() -> None:
    with pytest.raises(
        NotStartedError, match=r"there are: CPU.*ray start --resources='\{\"gpu_l4\": COUNT\}'"
    ):
        request(group("l4"), RayResources({"CPU": 2}), {})


# --- what the person says ---------------------------------------------------------------------------


def test_the_persons_placement_goes_before_what_the_cluster_says() -> None:
    nodes = SlurmNodes.parse("a100|gpu:a100:4")
    own = {"a100": {"partition": "gpu", "constraint": "sxm4"}}
    assert request(group("a100"), nodes, own) == own["a100"]
    assert request(group("a100"), None, own) == own["a100"]


def test_a_placement_that_is_no_group_of_keys_is_told() -> None:
    with pytest.raises(NotStartedError, match=r"sweep.placement.a100: must be keys of hydra.launcher"):
        request(group("a100"), None, {"a100": "sxm4"})


def test_a_launcher_that_nobody_knows_is_asked_for_nothing() -> None:
    assert request(group("a100"), None, {}) == {}


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
