"""submitit itself, on a SLURM whose commands are scripts that say what a test wants."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wattcount.errors import WattcountError
from wattcount.sweep.job import JOB_LOST, RUNS, Gpus, Place, SlurmNodes
from wattcount.sweep.lane import Task
from wattcount.sweep.point import CANCELLED, Outcome, State

pytest.importorskip("submitit", reason="no submitit: pip install 'wattcount[slurm]'")

from submitit.slurm.slurm import SlurmJob

from wattcount.sweep import submitit_backend
from wattcount.sweep.submitit_backend import RESULT_LIMIT_S, Local, Slurm

DONE = Outcome(State.done, key="k")
OPTIONS = {
    "_target_": "x.SlurmLauncher",
    "max_num_timeout": 0,
    "partition": None,
    "timeout_min": 7,
    "name": "wattcount",
}


class Commands:
    """SLURM's commands as scripts on the path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.says("srun", "")

    def says(self, name: str, answer: str, code: int = 0, stream: int = 1) -> None:
        (self._folder / f"{name}.answer").write_text(answer)
        script = self._folder / name
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {self._folder}/{name}.asked\ncat {self._folder}/{name}.answer >&{stream}\nexit {code}\n'
        )
        script.chmod(0o755)

    def asked(self, name: str) -> list[str]:
        return (self._folder / f"{name}.asked").read_text().splitlines()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(SlurmJob, "watcher", SlurmJob.watcher)
    return Commands(folder)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_task(key: str) -> Task:
    return Task({}, key, "s", 1, (), wait_for_others=False)


def queue(commands: Commands, state: str, why: str = "None") -> None:
    commands.says("squeue", f"7_0|{state}|{why}\n7_1|RUNNING|None\n")


def look_anew(slurm: Slurm, job: SlurmJob) -> Outcome:
    SlurmJob.watcher.clear()  # it asks every five seconds only
    return slurm.look(job)


@pytest.fixture
def job(commands: Commands, tmp_path: Path) -> SlurmJob:
    commands.says("squeue", "")
    return SlurmJob(tmp_path / "%j", "7_0")


def said(outcome: Outcome) -> tuple[State, str | None, str | None]:
    return outcome.state, outcome.reason, outcome.message


def leave(job: SlurmJob, outcome: str, result: object) -> None:
    job.paths.folder.mkdir(exist_ok=True)
    job.paths.result_pickle.write_bytes(pickle.dumps((outcome, result)))


def test_what_the_person_asks_of_slurm_is_in_the_batch_script(commands: Commands, tmp_path: Path) -> None:
    commands.says("sbatch", "Submitted batch job 7\n")
    own = {"submitit_folder": str(tmp_path / "jobs" / "%j"), "partition": "gpu", "gres": "gpu:l4:1", "mem_gb": 3,
           "setup": ["module load cuda"], "additional_parameters": {"nice": 5}}  # fmt: skip
    place = Place("home", "rest")
    jobs = Slurm(SlurmNodes()).submit(OPTIONS | own, place, [a_task("a"), a_task("b")])
    assert [job.job_id for job in jobs] == ["7_0", "7_1"]
    assert jobs[1].submission().args == (place, a_task("b"))
    script = (tmp_path / "jobs" / "7" / "7_submission.sh").read_text()
    for line in (
        "--partition=gpu", "--gres=gpu:l4:1", "--mem=3GB", "--time=7", "--nice=5", "--job-name=wattcount", "--array=0-1%2"
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load cuda\n" in script


def test_what_slurm_refuses_is_told_in_its_words(
    commands: Commands, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands.says("sbatch", "sbatch: error: invalid partition specified: nowhere\n", code=1, stream=2)
    folder = {"submitit_folder": str(tmp_path / "%j")}
    with pytest.raises(WattcountError, match="Slurm refused the jobs: sbatch: error: invalid partition"):
        Slurm(SlurmNodes()).submit(OPTIONS | folder, Place("", ""), [a_task("a")])
    capfd.readouterr()
    with pytest.raises(WattcountError, match="nonsense"):
        Slurm(SlurmNodes()).submit(OPTIONS | folder | {"nonsense": 1}, Place("", ""), [a_task("a")])


def test_a_job_waits_runs_and_has_a_result(commands: Commands, job: SlurmJob) -> None:
    slurm = Slurm(SlurmNodes())
    queue(commands, "PENDING", "Resources")
    assert said(look_anew(slurm, job)) == (State.waiting, None, "Resources")
    queue(commands, "RUNNING")
    assert look_anew(slurm, job) is RUNS
    leave(job, "success", DONE)
    assert look_anew(slurm, job) == DONE
    # The user by number: in a container a user may have no name.
    assert f"--user={os.getuid()} " in commands.asked("squeue")[0]
    assert "sacct" not in {file.name for file in job.paths.folder.parent.glob("bin/*")}


@pytest.mark.parametrize(
    ("state", "message", "reason"),
    [
        ("TIMEOUT", "SLURM job 7_0 ended: TIMEOUT; raise hydra.launcher.timeout_min", JOB_LOST),
        ("OUT_OF_MEMORY", "SLURM job 7_0 ended: OUT_OF_MEMORY; raise hydra.launcher.mem_gb", JOB_LOST),
        ("NODE_FAIL", "SLURM job 7_0 ended: NODE_FAIL", JOB_LOST),
        ("CANCELLED", "SLURM job 7_0 ended: CANCELLED", CANCELLED),
    ],
)
def test_a_job_that_left_no_result_is_dead_after_a_while(
    commands: Commands, job: SlurmJob, state: str, message: str, reason: str
) -> None:
    clock = Clock()
    slurm = Slurm(SlurmNodes(), clock)
    queue(commands, state)
    assert look_anew(slurm, job) is RUNS
    clock.now_s = RESULT_LIMIT_S
    assert said(look_anew(slurm, job)) == (State.lost, reason, message)


def test_a_job_that_slurm_has_forgotten_is_dead_too(job: SlurmJob) -> None:
    clock = Clock()
    slurm = Slurm(SlurmNodes(), clock)
    assert look_anew(slurm, job) is RUNS
    clock.now_s = RESULT_LIMIT_S
    found = look_anew(slurm, job)
    assert (found.state, found.reason) == (State.lost, JOB_LOST)
    assert str(found.message).startswith("SLURM job 7_0 ended without a result; see ")


def test_a_result_that_a_network_file_system_shows_late_counts(commands: Commands, job: SlurmJob) -> None:
    clock = Clock()
    slurm = Slurm(SlurmNodes(), clock)
    queue(commands, "COMPLETED")
    assert look_anew(slurm, job) is RUNS
    clock.now_s = RESULT_LIMIT_S - 1.0
    leave(job, "success", DONE)
    assert look_anew(slurm, job) == DONE


def test_a_job_that_slurm_starts_again_is_not_dead(commands: Commands, job: SlurmJob) -> None:
    clock = Clock()
    slurm = Slurm(SlurmNodes(), clock)
    queue(commands, "NODE_FAIL")
    assert look_anew(slurm, job) is RUNS
    queue(commands, "PENDING", "BeginTime")
    clock.now_s = RESULT_LIMIT_S
    assert said(look_anew(slurm, job)) == (State.waiting, None, "BeginTime")
    queue(commands, "NODE_FAIL")
    assert look_anew(slurm, job) is RUNS  # counted from now


def test_a_slurm_that_does_not_answer_says_nothing_new(
    commands: Commands, job: SlurmJob, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm = Slurm(SlurmNodes())
    queue(commands, "PENDING", "Priority")
    assert said(look_anew(slurm, job)) == (State.waiting, None, "Priority")
    commands.says("squeue", "slurm_load_jobs error: Unable to contact slurm controller", code=1, stream=2)
    SlurmJob.watcher.update()
    assert said(slurm.look(job)) == (State.waiting, None, "Priority")
    commands.says("scancel", "", code=1)
    slurm.cancel([job])
    assert capfd.readouterr() == ("", "")


def test_what_a_job_raised_is_told_with_where_its_log_is(commands: Commands, job: SlurmJob) -> None:
    queue(commands, "FAILED")
    leave(
        job,
        "error",
        'Traceback (most recent call last):\n  File "x.py", line 3\nValueError: no such engine\n',
    )
    found = look_anew(Slurm(SlurmNodes()), job)
    assert found.message == f"its job failed: ValueError: no such engine; see {job.paths.stderr}"


def test_arrays_are_cancelled_as_a_whole_and_then_dead_at_once(
    commands: Commands, job: SlurmJob, tmp_path: Path
) -> None:
    commands.says("scancel", "")
    slurm = Slurm(SlurmNodes(), Clock())
    slurm.cancel([job, SlurmJob(tmp_path / "%j", "7_1"), SlurmJob(tmp_path / "%j", "9")])
    assert commands.asked("scancel") == ["7 9"]
    queue(commands, "CANCELLED")
    assert said(look_anew(slurm, job)) == (State.lost, CANCELLED, "SLURM job 7_0 ended: CANCELLED")


def test_a_local_job_gets_as_many_gpus_as_its_run() -> None:
    assert Local().request(Gpus("l4", 2)) == {"gpus_per_node": 2}
    assert Local().request(Gpus("l4", 2, emulated=True)) == {}


IN_A_JOB = """
import os, signal, sys
from wattcount.sweep import submitit_backend
from wattcount.sweep.point import failed

def run(place, task):  # as a run: notes the signal, and closes its record
    came = []
    signal.signal(signal.SIGTERM, lambda *_: came.append(143))
    os.kill(os.getpid(), getattr(signal, task))
    return failed("interrupted", "by a signal", came[0])

submitit_backend.measure_job = run
print(submitit_backend.SubmittedJob()("place", sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("name", "code", "says"), [("SIGTERM", 143, ""), ("SIGUSR2", 0, "reached its time limit")]
)
def test_a_job_that_is_told_to_end_leaves_no_result_but_at_its_time_limit(
    name: str, code: int, says: str
) -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_JOB, name], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stdout
    assert bool(says) == bool(done.stdout)


def test_a_job_without_a_run_ends_at_once_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    seen = []
    monkeypatch.setattr(
        submitit_backend, "measure_job", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)) or DONE
    )
    try:
        assert submitit_backend.SubmittedJob()(Place("", ""), a_task("k")) == DONE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIG_DFL]
