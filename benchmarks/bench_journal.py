"""Seconds and memory of a run whose journal has a million lines.

    python -m benchmarks.bench_journal                   # a million steps; --steps 100000 for fewer

A tiny run is really trained and stopped. Its lines are then repeated, steps counted on, to a journal of `--steps`
steps, with evaluations and digests of the tensors every 1,000 as a run that keeps checkpoints has them, and its
checkpoint is written anew for the step and the digest of that journal: so the verbs take the folder for what a run of a
million steps left. Each verb runs in a process of its own over the tiny run and over the long one; what is more in the
second is the journal's. CPU seconds are what a busy machine disturbs least. What can't be run to its end here is timed
by itself. The figures go to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import calotype
from benchmarks.memory import begin_peak, peak_mb
from calotype import faults
from calotype.commands._kept import kept_differences
from calotype.engine.checkpoint import Checkpoints
from calotype.engine.state import digests
from calotype.errors import Interrupted
from calotype.record.compare import compare, length
from calotype.record.folder import RunFolder
from calotype.record.journal import JOURNAL, JsonLines, check_mark, cut, end_line

TINY, EVERY, MORE = 40, 1000, 20
"""Steps that are really trained; steps between two digests; steps that are left to do at a resume."""

BEYOND = 0.1
"""Share of a journal that a killed run wrote after its last checkpoint, and that a resume sets aside."""

CONFIG = [
    "experiment=digits",
    "schedule=constant",
    "data.workers=0",
    "checkpoint.every=20st",
    "trainer.val_check_interval=20st",
    "trainer.max_epochs=null",
    "trainer.test=null",
    "~tracking.tensorboard",
]

# the tiny run was made by this program, which is none of the verbs' code
CODE = ["--allow-changed", "code"]
VERBS = {
    "status": ["status", "RUN"],
    "runs": ["runs", "--runs", "RUNS"],
    "evaluate": ["evaluate", "RUN"],
    "verify --quick": ["verify", "--quick", "RUN", *CODE],
    "replay --step 10": ["replay", "RUN", "--step", "10"],
    f"train --resume, {MORE} steps": ["train", "--resume", "RUN", *CODE],
}


def tiny(runs: Path, steps: int) -> Path:
    """A run of `steps` and a few more that was stopped after 40; its folder."""
    done = 0

    def stop(point: str) -> None:
        nonlocal done
        done += point == "after_step"
        if point == "after_step" and done == TINY:
            os.kill(os.getpid(), signal.SIGTERM)

    faults.hook = stop
    with suppress(Interrupted):
        calotype.train(*CONFIG, f"trainer.max_steps={steps + MORE}", f"paths.runs={runs}", quiet=True)
    faults.hook = None
    (record,) = runs.glob("*/*/record.json")
    return record.parent


def lengthened(lines: list[str], steps: int) -> Iterator[str]:
    """The lines of a journal, then those of its steps again up to so many, and its events every 1,000 steps."""
    yield from lines
    found = [json.loads(line) for line in lines]
    trained = [line.partition(",")[2] for line, it in zip(lines, found, strict=True) if "event" not in it]
    events = [it for it in found if it.get("event") in ("evaluation", "digests") and it["step"] == TINY // 2]
    for step in range(TINY, steps):
        yield f'{{"step":{step},{trained[step % TINY]}'
        if (step + 1) % EVERY == 0 and step + 1 < steps:
            yield from (_json({**event, "step": step + 1}) for event in events)


def _json(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def lengthen(run: Path, steps: int) -> None:
    """Make a stopped run one that was killed a while after its checkpoint of `steps` steps."""
    path, checkpoints = run / JOURNAL, Checkpoints(run / "checkpoints")
    old = checkpoints.named("last")
    network, state = old.model(), old.training()
    scores = dict.fromkeys([*range(EVERY, steps, EVERY), steps], 0.5)
    state["loop"] |= {"step": steps, "scores": scores}
    tensors = digests(network, {name: value for name, value in state.items() if name not in ("part", "journal")})
    lines = path.read_text().splitlines(keepends=True)
    path.unlink()
    log = JsonLines(path)
    for line in lengthened(lines, steps):
        log.append(line)
    log.append(_json({"event": "digests", "step": steps, "tensors": tensors}))
    mark = log.mark()
    log.close()
    checkpoints.save(steps, network, state | {"journal": mark}, scores)
    with path.open("r+b") as file:
        file.seek(-int(BEYOND * mark["length"]), os.SEEK_END)
        beyond = file.read()
        file.write(beyond[beyond.index(b"\n") + 1 : -20])  # whole lines, and a torn one
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"step": steps}))


WITH_PEAK = """
import sys
from calotype.cli import main
try:
    file = sys.argv.pop(1)
    sys.exit(main())
finally:
    open(file, "w").write(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
"""The command line in a process that writes its peak of memory down at its end."""


def verb(words: list[str], run: Path, folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of a verb over a copy of a run."""
    copy = Path(shutil.copytree(run, folder / "runs" / run.parent.name / run.name))
    places = {"RUN": str(copy), "RUNS": str(folder / "runs")}
    command = [sys.executable, "-c", WITH_PEAK, str(folder / "peak"), *(places.get(word, word) for word in words)]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    shutil.rmtree(folder / "runs")
    if done.returncode not in ({0, 75} if words[0] == "status" else {0}):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return {"s": round(seconds, 2), "cpu_s": round(cpu, 2), "mb": round(int((folder / "peak").read_text()) / 1024)}


def piece(function: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of a call, and by how much it raises the peak memory of a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: dict[str, Any] = pool.apply(_piece, (function,))
    return found


def _piece(function: Callable[[], Any]) -> dict[str, Any]:
    before, started, begun = begin_peak(), time.perf_counter(), time.process_time()
    function()
    seconds, cpu = time.perf_counter() - started, time.process_time() - begun
    return {"s": round(seconds, 2), "cpu_s": round(cpu, 2), "more_mb": round(peak_mb() - before)}


class Pieces:
    """What the verbs do with a journal, each by itself."""

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / JOURNAL

    def going_through(self) -> None:
        length(self.path)

    def checking_the_digest(self) -> None:
        check_mark(self.path, Checkpoints(self.run / "checkpoints").named("last").training()["journal"])

    def cutting_the_tail(self) -> None:
        end_line(self.path)
        cut(self.path, int(Checkpoints(self.run / "checkpoints").named("last").training()["journal"]["length"]))

    def opening_to_append(self) -> None:
        JsonLines(self.path).close()

    def comparing_all_lines(self) -> None:
        other = self.path.with_name("other.jsonl")
        shutil.copy(self.path, other)
        compared = compare(self.path, other, whole=True)
        assert compared.difference is None, compared.difference

    def comparing_the_folder_with_it(self) -> None:
        assert kept_differences(RunFolder(self.run)) == []


def measure(steps: int, folder: Path) -> dict[str, Any]:
    """All figures of a journal of so many steps."""
    short, long = tiny(folder / "short", TINY), tiny(folder / "long", steps)
    lengthen(long, steps)
    size = (long / JOURNAL).stat().st_size
    verbs = {
        name: {what: verb(words, run, folder) for what, run in (("short", short), ("long", long))}
        for name, words in VERBS.items()
    }
    pieces = Pieces(long)
    calls = [name for name in vars(Pieces) if not name.startswith("_")]
    return {
        "steps": steps,
        "journal_mb": round(size / 2**20),
        "verbs": verbs,
        "pieces": {name.replace("_", " "): piece(getattr(pieces, name)) for name in calls},
    }


def main() -> None:
    """Read the command line, measure, write the JSON."""
    parser = argparse.ArgumentParser(description="A journal of a million lines.")
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-journal-") as name:
        result = measure(arguments.steps, Path(name))
    for part in ("verbs", "pieces"):
        sys.stderr.write("".join(f"{key:32}{value}\n" for key, value in result[part].items()))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
