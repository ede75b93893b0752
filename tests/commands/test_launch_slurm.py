"""`calotype launch slurm`: what it writes, what it refuses, and what the script does with stand-ins for Slurm, Python
and the run. `tests/test_slurm.py` hands it to a real Slurm.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from calotype import cli
from calotype.commands._launch_slurm import Job, script

BEFORE, LATER = "a/1  interrupted  step 5 of 15", "a/1  interrupted  step 9 of 15"

SRUN = """
printf '%s\\0' "$@" > srun.arguments
shift 2
"$@"
"""
SCONTROL = """
[ "$1" = show ] && printf 'first\\nsecond\\n' || echo "$@" > requeued
"""
PYTHON = """
case "$*" in
    "-m torch.distributed.run "*) touch ended; exit "$TRAINED" ;;
    "-m calotype status auto "*) ;;
    *) exit 99 ;;
esac
printf '%s\\0' "${@:5}" > status.arguments
[ -e ended ] || { [ -n "$BEFORE" ] && echo "$BEFORE"; exit 75; }
[ -n "$AFTER" ] && echo "$AFTER"
exit "$CODE"
"""


def launch(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["launch", "slurm", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "--nodes",
        "2",
        "--devices",
        "4",
        "--gpus",
        "--cpus",
        "6",
        "--time",
        "1-12:00:00",
        "--partition",
        "gpu,big",
    ]
    extra = ["--signal-ahead", "300", "--sbatch", "mem=64G", "--sbatch=--exclusive", "--sbatch", "comment=a 'b' # c"]
    code, text, err = launch(capsys, *asked, *extra, "experiment=digits", "trainer.max_epochs=3")
    assert (code, err) == (0, "")
    assert [line for line in text.splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=digits",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=24",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --time=1-12:00:00",
        "#SBATCH --partition=gpu,big",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --mem=64G",
        "#SBATCH --exclusive",
        "#SBATCH --comment='a '\"'\"'b'\"'\"' # c'",
    ]
    assert text.startswith("#!/bin/bash\n#SBATCH ") and "\n    experiment=digits\n    trainer.max_epochs=3\n)" in text
    assert f"\ncd {shlex.quote(str(Path.cwd()))} || exit\npython={shlex.quote(sys.executable)}\n" in text
    assert "--nproc-per-node=4" in text and "--shutdown-timeout=300" in text and "--cpus-per-task=24 " in text


def test_what_is_asked_for_by_default(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "my job.sh"
    code, text, err = launch(capsys, "--output", str(file), "experiment=digits", "data.workers=3")
    assert (code, text) == (0, "") and err == f"wrote {file}; submit it: sbatch '{file}'\n"
    text = file.read_text()
    assert "#SBATCH --cpus-per-task=4\n#SBATCH --signal=USR1@120\n" in text
    assert "--time" not in text and "--gpus" not in text and "--partition" not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nodes", "0"], "--nodes 0: at least 1"),
        (["--devices", "-1"], "--devices -1: at least 1"),
        (["--cpus", "0"], "--cpus 0: at least 1"),
        (["--signal-ahead", "0"], "--signal-ahead 0: 1 to 65535 seconds"),
        (["--time", "2", "--signal-ahead", "120"], "--time 2 is 120 s, and --signal-ahead 120 leaves nothing of it"),
        (["--time", "1:59"], "--time 1:59 is 119 s"),
        (["--time", "0-0:02"], "--time 0-0:02 is 120 s"),
        (["--time", "1 hour"], "--time '1 hour': write HH:MM:SS"),
        (["--time", "1\n#SBATCH --uid=0"], "write HH:MM:SS"),
        (["--partition", "a b"], "--partition 'a b' is no name of a partition"),
        (["--partition", "a\n#SBATCH --uid=0"], "is no name of a partition"),
        (["--sbatch", "comment=a\nrm -r x"], "write NAME=VALUE"),
        (["--sbatch", "-p main"], "write NAME=VALUE"),
        (["--sbatch=--signal=TERM"], "--sbatch --signal=TERM: the script sets signal itself"),
        (["--sbatch", "no-requeue"], "the script sets no-requeue itself"),
        (["--devices", "2", "trainer.devices=4"], "trainer.devices: 4, and the job has 2"),
        (["trainer.devices=2"], "trainer.devices: 2, and the job has 1"),
        (["--devices", "3"], "3 is no power of two"),
        (["--nodes", "2", "--devices", "4", "trainer.shards=4"], "8 processes can't share 4 shards evenly"),
        (["--gpus", "--devices", "3", "trainer.reduce=exact"], "3 is no power of two"),
        (["--devices", "2", "--gpus", "trainer.strategy=dp"], "dp is one process, and 2 are wanted"),
        (["trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["module.network._target_=calotype.models.nothing"], "module.network"),
        (["--node", "2"], "did you mean --nodes?"),
    ],
)
def test_a_mistake_is_told_before_anything_waits_in_a_queue(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text, err = launch(capsys, "--output", str(tmp_path / "job.sh"), "experiment=digits", *arguments)
    assert (code, text) == (2, "") and told in err, err
    assert not (tmp_path / "job.sh").exists()


def test_gpus_divide_by_any_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(capsys, "--gpus", "--devices", "3", "experiment=digits")[0] == 0


# --- the script


def submit(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a job with stand-ins for Slurm's commands."""
    for name, body in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(f"#!/bin/bash{body}")
        (folder / name).chmod(0o755)
    (folder / "job.sh").write_text(text)
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    values = {"BEFORE": "", "AFTER": "", "TRAINED": "0", "CODE": "0", "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(folder / "job.sh")]
    return subprocess.run(command, env=values | job | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for Python in it, whose name needs quoting; scripts are written for it."""
    folder = tmp_path / "it's $(here)"
    folder.mkdir()
    (folder / "py thon").write_text(f"#!/bin/bash{PYTHON}")
    (folder / "py thon").chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "executable", str(folder / "py thon"))
    return folder


@pytest.mark.parametrize(
    ("before", "after", "code", "ends"),
    [
        ("", BEFORE, 75, 75),
        (BEFORE, LATER, 75, 75),
        (f"{BEFORE}: out of memory", f"{LATER}: out of memory", 75, 75),
        (f"{BEFORE}: process 1 (pid 7) was lost", f"{BEFORE}: process 1 (pid 8) was lost", 75, 1),
        (BEFORE, "", 1, 1),
        ("", "", 2, 1),
        ("", "a/1  failed  step 0 of ?: a key", 2, 2),
        (BEFORE, "a/1  failed  step 9 of 15", 3, 3),
        (BEFORE, "a/1  done  step 15 of 15", 0, 0),
        (BEFORE, "a/1  running  step 9 of 15", 0, 1),
    ],
)
def test_a_job_goes_back_into_the_queue_on_75_if_it_got_anywhere(
    written: Path, before: str, after: str, code: int, ends: int
) -> None:
    values = {"TRAINED": "1", "BEFORE": before, "AFTER": after, "CODE": str(code)}
    found = submit(written, script(Job(), "a", ["seed=1"]), **values)
    assert found.returncode == ends, found.stderr
    assert (written / "requeued").exists() is (ends == 75)
    assert ends != 75 or (written / "requeued").read_text() == "requeue 12345\n"
    assert ("got nowhere" in found.stderr) is (before.split(": ", maxsplit=1)[0] == after.split(": ", maxsplit=1)[0])


def test_a_run_that_is_done_ends_the_job(written: Path) -> None:
    assert submit(written, script(Job(), "a", []), BEFORE=BEFORE, CODE="75").returncode == 0
    assert not (written / "requeued").exists()


def test_overrides_are_data(written: Path) -> None:
    nasty = ["vars.a=$(touch hit)", "vars.b=`touch hit`", "vars.c='; touch hit; '", 'vars.d="\\', "~vars.e", "*", "a b",
             "vars.f=\ntouch hit", "vars.g={h}", "$HOME", "!!", "é=ü"]  # fmt: skip
    text = script(Job(nodes=2, devices=4), "a", nasty)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert submit(written, text, TRAINED="1").returncode == 1
    given = (written / "srun.arguments").read_text().split("\0")[:-1]
    assert given == [
        "--kill-on-bad-exit=0",
        "--cpus-per-task=4",
        str(written / "py thon"),
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=4",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=first:20345",
        "--rdzv-id=12345",
        "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT",
        "--shutdown-timeout=120",
        *["-m", "calotype", "train", "--resume", "auto"],
        *nasty,
    ]
    assert (written / "status.arguments").read_text().split("\0")[:-1] == nasty
    assert not list(written.glob("**/hit"))


def test_outside_a_job_it_does_nothing(written: Path) -> None:
    found = submit(written, script(Job(), "a", []), SLURM_JOB_ID="")
    assert found.returncode != 0 and "submit this script with sbatch" in found.stderr
    assert not (written / "srun.arguments").exists()
