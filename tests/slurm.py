"""A throw-away Slurm of two machines on this one, in a folder of its own, with Debian's packages.

Each machine is a slurmd that has its own host name, in namespaces that take root. Nothing of a Slurm that is installed
here is used or changed but the programs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import harness

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("node1", "node2")

CONF = """\
ClusterName=calotype
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
NodeName=node1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=node2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL State=UP PriorityTier=9
"""
MACHINE = 'mount --bind "$1" /etc/hosts && hostname "$2" && exec slurmd -D -f "$3"'


@dataclass(frozen=True)
class Slurm:
    """The cluster in its folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell has, without anything of a job that the tests may run in."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return own | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}

    def __call__(self, *command: str, **environment: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        words = self("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def processes(self) -> list[int]:
        """The live processes that have this cluster's configuration: the daemons, and all of a job's."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.folder).encode() in (place / "environ").read_bytes() and harness.alive(int(place.name)):
                    found.append(int(place.name))
        return [pid for pid in found if pid != os.getpid()]


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """A running cluster; afterwards nothing of it is left. Skips the test where it can't be had."""
    if absent := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
        pytest.skip(f"{', '.join(absent)} are absent; `make debian` installs them")
    if os.geteuid() != 0:
        pytest.skip("not installable: two machines on one take root")
    slurm, host = Slurm(folder), socket.gethostname().split(".")[0]
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, ports=_free_ports(3)))
    (folder / "hosts").write_text(f"127.0.0.1 localhost {host} {' '.join(NODES)}\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    with ExitStack() as stack:
        stack.callback(_assert_gone, slurm)
        stack.enter_context(_daemon(slurm, ["munged", "-F", "--force", f"--socket={folder}/munge.socket", *munge]))
        assert harness.until((folder / "munge.socket").exists, 10)
        stack.enter_context(_daemon(slurm, ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"]))
        for node in NODES:
            machine = ["unshare", "--uts", "--mount", "sh", "-c", MACHINE, "sh", f"{folder}/hosts", node]
            stack.enter_context(_daemon(slurm, [*machine, f"{folder}/slurm.conf"]))
        stack.callback(_cancel_all, slurm)
        assert harness.until(lambda: _idle(slurm) == len(NODES), 30), _logs(folder)
        yield slurm


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _daemon(slurm: Slurm, command: Sequence[str]) -> Iterator[None]:
    name = f"{Path(command[0]).name}-{len(list(slurm.folder.glob('*.out')))}"
    with (slurm.folder / f"{name}.out").open("wb") as log:
        child = subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _idle(slurm: Slurm) -> int:
    with suppress(AssertionError):
        return slurm("sinfo", "--noheader", "--Node", "--partition=main", "--states=idle").count("\n") + 1
    return 0


def _cancel_all(slurm: Slurm) -> None:
    slurm("scancel", "--user=root")
    harness.until(lambda: not slurm("squeue", "--noheader"), 40)


def _assert_gone(slurm: Slurm) -> None:
    assert harness.until(lambda: not slurm.processes(), 20), slurm.processes()


def _logs(folder: Path) -> str:
    return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in folder.glob("*.out"))
