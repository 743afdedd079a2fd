from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.errors import NotStartedError
from wattcount.sweep.placement import Gpus, SlurmNodes, ray_request


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
