"""The script of `calotype launch slurm` in the hands of a real Slurm, two machines on one: `tests.slurm`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calotype.commands.verify import verify
from tests import harness
from tests.slurm import Slurm, cluster
from tests.toys.configs import toy, write

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
PAUSE = {"_target_": "tests.toys.slow.Pause"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def submit(slurm: Slurm, folder: Path, config: str, *options: str, **environment: str) -> str:
    """Write the script, hand it in; the job's number."""
    command = [sys.executable, "-m", "calotype", "launch", "slurm", config, "--output", str(folder / "job.sh")]
    subprocess.run([*command, "--sbatch", f"output={folder}/log.txt", *options], cwd=ROOT, check=True)
    return slurm("sbatch", "--parsable", str(folder / "job.sh"), **environment)


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text() if (folder / "log.txt").exists() else "no log"


def test_a_run_outlives_the_time_limits_of_its_job(slurm: Slurm, parity_root: Path, tmp_path: Path) -> None:
    """At 0.24 s a step it takes longer than the 80 s after which the signal comes at the latest."""
    tree = toy(
        "classification",
        parity_root,
        tmp_path / "runs",
        trainer={"max_epochs": 60},
        data={"train_transforms": [PAUSE]},
        checkpoint={"every": "1ep", "keep_last": 2},
    )
    config = write(tree, tmp_path / "config.yaml")
    job = submit(slurm, tmp_path, config, "--nodes", "2", "--time", "2", "--signal-ahead", "40", TOY_PAUSE="0.06")
    ended = harness.until(lambda: slurm.job(job)["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"), 540)
    found = slurm.job(job)
    assert ended and found["JobState"] == "COMPLETED", f"{found}\n{log(tmp_path)}"
    assert int(found["Restarts"]) >= 1 and found["NumNodes"].startswith("2")
    assert log(tmp_path).count("stopped by SIGUSR1 after step") >= int(found["Restarts"])
    run = harness.only_run(tmp_path / "runs")
    assert harness.status(run)["step"] == len(harness.lines(run)) == 300
    verdict = verify(run)
    assert verdict.equal and verdict.whole, verdict


def test_a_job_that_is_preempted_goes_on_and_one_that_is_cancelled_does_not(
    slurm: Slurm, parity_root: Path, tmp_path: Path
) -> None:
    tree = toy("classification", parity_root, tmp_path / "runs", trainer={"max_epochs": 50000})
    job = submit(slurm, tmp_path, write(tree, tmp_path / "config.yaml"), "--devices", "2")
    assert harness.until(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last"))), 60), log(tmp_path)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    slurm("sbatch", *urgent)
    assert harness.until(lambda: slurm.job(job)["Restarts"] == "1", 60), slurm.job(job)
    run = harness.only_run(tmp_path / "runs")
    assert harness.until(lambda: harness.status(run)["state"] == "interrupted", 30), log(tmp_path)
    before = harness.status(run)
    assert before["exit_code"] == 75 and harness.newest(run) == before["step"]
    assert harness.until(lambda: harness.newest(run) > before["step"], 90), log(tmp_path)

    slurm("scancel", job)
    assert harness.until(lambda: slurm.job(job)["JobState"] == "CANCELLED", 60), slurm.job(job)
    assert harness.until(lambda: not slurm("squeue", "--noheader"), 40), slurm("squeue")
    assert harness.status(run)["exit_code"] == 75 and harness.status(run)["step"] > before["step"]
    assert slurm.job(job)["Restarts"] == "1"
