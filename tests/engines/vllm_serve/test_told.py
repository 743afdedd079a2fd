"""What the server tells the run: packets through a FIFO, and the plug-in that vLLM finds."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from wattcount.engines.base import EngineStep
from wattcount.engines.vllm_serve import told
from wattcount.engines.vllm_serve.told import StepReader, StepWriter, facts, install, packed, unpacked

STEPS = [
    EngineStep(7, None, 1_500_000, 40, 2, 3, 1, 0.25),
    EngineStep(8, None, None, 0, 0, 0, 0, None),
    EngineStep(9, None, 5, 0, 12, 3, 0, 1.0, 12, 5),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_comes_out_as_it_went_in(step: EngineStep) -> None:
    assert unpacked(packed(step, 3)) == (step, 3)


def test_packets_of_several_processes_are_never_mixed() -> None:
    """POSIX writes so many bytes at once to a pipe."""
    assert len(packed(STEPS[0], 0)) < 512


def test_steps_arrive_in_order_and_those_without_room_are_counted(tmp_path: Path) -> None:
    async def run() -> tuple[list[EngineStep], int, int]:
        heard: list[EngineStep] = []
        reader = StepReader(tmp_path, heard.append)
        writer = StepWriter(tmp_path)
        sent = 0
        # The reader's loop does not run meanwhile.
        while not writer._lost:
            writer.write(STEPS[sent % 3])
            sent += 1
        writer.write(STEPS[0])
        while len(heard) < sent - 1:
            await asyncio.sleep(0)
        writer.write(STEPS[2])
        while len(heard) < sent:
            await asyncio.sleep(0)
        reader.close()
        reader.close()
        return heard, sent, reader.lost

    heard, sent, lost = asyncio.run(run())
    assert heard == [STEPS[index % 3] for index in range(sent - 1)] + [STEPS[2]]
    assert lost == 2


def test_a_server_that_ends_ends_the_reading(tmp_path: Path) -> None:
    async def run() -> list[EngineStep]:
        heard: list[EngineStep] = []
        reader = StepReader(tmp_path, heard.append)
        writer = StepWriter(tmp_path)
        writer.write(STEPS[0])
        os.close(writer._descriptor)
        for _ in range(20):
            await asyncio.sleep(0)
        reader.close()
        return heard

    assert asyncio.run(run()) == STEPS[:1]


def test_vllm_finds_the_plug_in_on_the_path_of_its_server_alone(tmp_path: Path) -> None:
    variables = install(tmp_path, {"PYTHONPATH": "/somewhere", "VLLM_PLUGINS": "mine"})
    first, rest = variables["PYTHONPATH"].split(os.pathsep)
    assert rest == "/somewhere"
    assert variables["VLLM_PLUGINS"] == f"mine,{told.PLUGIN}"
    assert variables[told.FOLDER_VARIABLE] == str(tmp_path)
    (found,) = importlib.metadata.distributions(path=[first])
    groups = {point.group: point.value for point in found.entry_points}
    assert groups == {
        "vllm.stat_logger_plugins": "wattcount.engines.vllm_serve.steps:StepLogger",
        "vllm.general_plugins": "wattcount.engines.vllm.extensions:register",
    }
    assert first not in sys.path
    assert "VLLM_PLUGINS" not in install(tmp_path / "other", {})


def test_facts_are_there_once_they_are_whole(tmp_path: Path) -> None:
    assert facts(tmp_path) is None
    (tmp_path / told.FACTS_JSON).write_text("{")
    assert facts(tmp_path) is None
    (tmp_path / told.FACTS_JSON).write_text('{"vocab_size": 7}')
    assert facts(tmp_path) == {"vocab_size": 7}
