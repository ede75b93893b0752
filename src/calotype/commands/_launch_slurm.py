"""`calotype launch slurm`: the sbatch script of a training.

It only writes; what the script was given is data in it, quoted, never run. Ahead of the time limit Slurm signals the
processes of the job's step, not the script's shell, so nothing has to be forwarded: the run writes a checkpoint and
ends with 75. torchrun ends with 1 whatever happened, so the script asks `calotype status auto` for the run's own
code, and on 75 puts the job back into the queue. Unusual: not where state and step are those of before. Then this
start got nowhere (out of memory at the same step, refused, a limit too short for one step), and another would not.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from calotype.commands._arguments import add_config_dir, describe_groups
from calotype.config.build import settings
from calotype.config.check import check_alone, check_processes, load_and_check
from calotype.config.compose import Config
from calotype.errors import ConfigError, UsageError
from calotype.files import replace_file
from calotype.settings import TrainerSettings

HELP = """Write the sbatch script of a training; it goes on by itself after every time limit until it is done.

  calotype launch slurm --nodes 2 --devices 4 --gpus --time 12:00:00 --output job.sh experiment=digits
  sbatch job.sh

The config is composed and checked here, so a mistake in it is told now and not when the job starts."""

WRITTEN = ("job-name", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "partition",
           "signal", "requeue", "no-requeue", "open-mode", "chdir", "wrap")  # fmt: skip
"""Options of sbatch that the script has itself, or that would undo it."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
_PARTITION = re.compile(r"[\w.+-]+(?:,[\w.+-]+)*", re.ASCII)
_OPTION = re.compile(r"(?:--)?(?P<name>[a-z][a-z-]*)(?:=(?P<value>.+))?")
_LONGEST = 65535
"""Seconds that sbatch takes for `--signal` at most."""

SCRIPT = """\
#!/bin/bash
{options}

# Ahead of the time limit Slurm sends SIGUSR1 to the processes of the step. The run then writes a checkpoint and ends
# with 75, and this job goes back into the queue, until the run is done.
: "${{SLURM_JOB_ID:?submit this script with sbatch}}"
cd {folder} || exit
python={python}
config=({config}
)

status() {{ "$python" -m calotype status auto "${{config[@]}}"; }}

before=$(status 2>/dev/null)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 12000))
srun --kill-on-bad-exit=0 --cpus-per-task={cpus} "$python" -m torch.distributed.run \\
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={devices} \\
    --rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="$SLURM_JOB_ID" \\
    --signals-to-handle=SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT --shutdown-timeout={ahead} \\
    -m calotype train --resume auto "${{config[@]}}"
code=$?
[ "$code" -eq 0 ] && exit 0

# torchrun ends with 1 whatever happened; the run knows its own code.
after=$(status)
told=$?
printf '%s\\n' "$after"
case ${{after%%: *}} in # without the message
    "${{before%%: *}}") echo "this start got nowhere, so the job is not put back into the queue" >&2 ;;
    *"  running  "*) echo "another job has this run" >&2 ;;
    *) code=$told ;;
esac
[ "$code" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What a job asks Slurm for. `devices` are processes of a node, `cpus` those of a process; `ahead` is the time, in
    seconds, from the signal to the limit; `extra` are further options of sbatch.
    """

    nodes: int = 1
    devices: int = 1
    cpus: int = 1
    gpus: bool = False
    time: str | None = None
    partition: str | None = None
    ahead: int = 120
    extra: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UsageError for what sbatch would refuse, or what would not work when the job runs."""
        for name, value in (("--nodes", self.nodes), ("--devices", self.devices), ("--cpus", self.cpus)):
            if value < 1:
                raise UsageError(f"{name} {value}: at least 1")
        if not 1 <= self.ahead <= _LONGEST:
            raise UsageError(f"--signal-ahead {self.ahead}: 1 to {_LONGEST} seconds")
        if self.time is not None and (limit := _seconds(self.time)) <= self.ahead:
            raise UsageError(f"--time {self.time} is {limit} s, and --signal-ahead {self.ahead} leaves nothing of it")
        if self.partition is not None and not _PARTITION.fullmatch(self.partition):
            raise UsageError(f"--partition {self.partition!r} is no name of a partition")

    def options(self, name: str) -> list[str]:
        """The job's options of sbatch. Raises UsageError for an extra one that is none, or that is here already."""
        asked = [
            f"job-name={name}",
            f"nodes={self.nodes}",
            "ntasks-per-node=1",
            f"cpus-per-task={self.devices * self.cpus}",
            *([f"gpus-per-node={self.devices}"] if self.gpus else []),
            *([f"time={self.time}"] if self.time else []),
            *([f"partition={self.partition}"] if self.partition else []),
            f"signal=USR1@{self.ahead}",
            "requeue",
            "open-mode=append",
        ]
        return [f"--{option}" for option in [*asked, *map(_extra, self.extra)]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="what `calotype train` would get")
    add_config_dir(parser)
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="processes of each machine (default 1)")
    parser.add_argument("--cpus", type=int, metavar="N", help="cores of each process (default: data.workers + 1)")
    parser.add_argument("--gpus", action="store_true", help="ask for a GPU for each process")
    parser.add_argument("--time", metavar="TIME", help="the time limit: HH:MM:SS, D-HH:MM:SS or minutes")
    parser.add_argument("--partition", metavar="NAME", help="where to run")
    parser.add_argument(
        "--signal-ahead",
        type=int,
        default=120,
        metavar="S",
        help="seconds left for a step and a checkpoint before the limit (default 120)",
    )
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="NAME=VALUE", help="any other option of sbatch (repeatable)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of stdout")
    parser.epilog = describe_groups()


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises UsageError, ConfigError."""
    config = load_and_check(args.overrides, config_dirs=args.config_dir)
    job = Job(
        args.nodes,
        args.devices,
        int(config.tree["data"].get("workers", 2)) + 1 if args.cpus is None else args.cpus,
        args.gpus,
        args.time,
        args.partition,
        args.signal_ahead,
        tuple(args.sbatch),
    )
    job.check()
    _check_processes(config, job)
    arguments = [*(f"--config-dir={folder}" for folder in args.config_dir), *args.overrides]
    text = script(job, str(config.tree["experiment"]), arguments)
    if args.output is None:
        sys.stdout.write(text)
    else:
        replace_file(args.output, text)
        sys.stderr.write(f"wrote {args.output}; submit it: sbatch {shlex.quote(str(args.output))}\n")
    return 0


def script(job: Job, name: str, arguments: list[str]) -> str:
    """The script of a job that trains with these arguments, from this folder and by this Python."""
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in job.options(name)),
        folder=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        config="".join(f"\n    {shlex.quote(text)}" for text in arguments),
        cpus=job.devices * job.cpus,
        devices=job.devices,
        ahead=job.ahead,
    )


def _check_processes(config: Config, job: Job) -> None:
    """Raises ConfigError where the config can't be computed by so many processes."""
    total, trainer = job.nodes * job.devices, config.tree["trainer"]
    if trainer.get("devices", "auto") not in ("auto", total):
        raise ConfigError(
            f"{trainer['devices']}, and the job has {total} (--nodes times --devices); leave it at auto",
            key="trainer.devices",
        )
    shards, adds_fast = trainer["shards"], job.gpus or trainer["strategy"] in ("fsdp", "dp")
    exact = trainer["reduce"] == "exact" or (trainer["reduce"] == "auto" and not adds_fast)
    check_alone(settings(trainer, TrainerSettings, "trainer"), total)
    check_processes(total, total if shards == "auto" else shards, exact=exact)


def _seconds(time: str) -> int:
    """A time as sbatch reads it: minutes, minutes:seconds, hours:minutes:seconds; after `days-` hours come first."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise UsageError(f"--time {time!r}: write HH:MM:SS, D-HH:MM:SS or minutes")
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"]:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = [0, *parts, 0] if len(parts) == 1 else [0] * (3 - len(parts)) + parts
    return (hours * 60 + minutes) * 60 + seconds


def _extra(option: str) -> str:
    """A further option of sbatch, as its line has it."""
    match = _OPTION.fullmatch(option)
    if match is None or not option.isprintable():
        raise UsageError(f"--sbatch {option!r}: write NAME=VALUE, such as account=vision, or NAME")
    if match["name"] in WRITTEN:
        raise UsageError(f"--sbatch {option}: the script sets {match['name']} itself")
    value = match["value"]
    return match["name"] if value is None else f"{match['name']}={shlex.quote(value)}"
