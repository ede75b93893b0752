"""`calotype verify RUN`: run a run again, here, and compare it bit for bit with its journal."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands._arguments import asked
from calotype.commands._together import (
    dismiss,
    end_with_launcher,
    follow,
    hand_out,
    is_first,
    is_told_elsewhere,
    launch,
    launched,
    reporting,
    spoken_for,
    to_start,
    world_of,
)
from calotype.commands.status import add_run, runs_folder
from calotype.errors import DiffersError, NonFiniteError, UsageError

if TYPE_CHECKING:
    from calotype.commands._assemble import Assembly
    from calotype.config.compose import Config
    from calotype.engine.distributed import World
    from calotype.record.compare import Comparison, Difference, Length
    from calotype.record.data import DataLock
    from calotype.record.folder import RunFolder
    from calotype.record.record import Departure
    from calotype.types import Shard

HELP = "Run a run again and compare it bit for bit: equal, or the first step that differs and in what (exit 5)."
QUICK = 20


@dataclass(slots=True)
class Verdict:
    """What verify found. `changed` is what is not as recorded, `difference` the first line of the journals that
    differs, `kept` what of the folder's files is not what the journal says, `left` why later steps are not compared.
    """

    run: str
    steps: int
    events: int
    whole: bool
    changed: dict[str, list[str]]
    difference: Difference | None = None
    exact: bool = True
    allowed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left: Departure | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Verdict:
        """What `asdict` gave."""
        from calotype.record.compare import Difference
        from calotype.record.record import Departure

        difference, left = found["difference"], found["left"]
        made = {"difference": difference and Difference(**difference), "left": left and Departure(**left)}
        return cls(**{**found, **made})

    @property
    def equal(self) -> bool:
        """Whether every bit that was compared is equal."""
        return self.difference is None and not self.kept

    @property
    def holds(self) -> bool:
        """Equal, and nothing differs from the record but what was allowed."""
        return self.equal and not set(self.changed) - set(self.allowed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="e.g. paths.data=DIR")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help="only the first N steps")
    length.add_argument("--quick", action="store_true", help=f"only the first {QUICK} steps")
    parser.add_argument("--workers", type=int, metavar="M", help="read the data by M workers")
    parser.add_argument("--devices", type=int, metavar="W", help="compute by W processes")
    parser.add_argument("--resume-at", type=int, metavar="K", help="stop after K steps and resume on the way")
    parser.add_argument(
        "--allow-changed", default="", metavar="PARTS", help="accept changed config,data,code,packages,..."
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0 or 5."""
    from calotype.record.folder import RunFolder

    overrides = [*args.overrides, *([f"data.workers={args.workers}"] if args.workers is not None else [])]
    with spoken_for():
        verdict = verify(
            RunFolder.find(args.run, runs_folder(args.runs, overrides)).path if is_first() else args.run,
            *overrides,
            steps=QUICK if args.quick else args.steps,
            resume_at=args.resume_at,
            devices=args.devices,
            allow_changed=[part for part in args.allow_changed.split(",") if part],
            trust=args.trust,
        )
    if is_told_elsewhere():
        return 0 if verdict.holds else DiffersError.exit_code
    if args.json:
        sys.stdout.write(json.dumps(as_json(verdict)) + "\n")
    else:
        sys.stdout.write(told(verdict))
    return 0 if verdict.holds else DiffersError.exit_code


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data."""
    found = verdict.difference
    return {
        "run": verdict.run,
        "equal": verdict.equal,
        "holds": verdict.holds,
        "whole": verdict.whole,
        "steps": verdict.steps,
        "events": verdict.events,
        "exact": verdict.exact,
        "changed": verdict.changed,
        "difference": found and {"step": found.step, "what": found.what, "recorded": found.recorded, "now": found.now},
        "tensors": found.tensors if found else [],
        "kept": verdict.kept,
        "resumed": verdict.left and {"step": verdict.left.step, "changed": dict(verdict.left.changed)},
    }


def told(verdict: Verdict) -> str:
    """The verdict for people."""
    lines = [f"  not as recorded, {part}: {text}" for part, texts in verdict.changed.items() for text in texts]
    if not verdict.exact:
        lines.append("  the record says exact: false, so equal bits were never promised")
    lines += [f"  {text}" for text in verdict.kept]
    if verdict.left:
        lines.append(f"  steps {verdict.left.step}.. are not compared: {verdict.left}")
    found, journals = verdict.difference, f"{verdict.steps} steps and {verdict.events} events"
    if found is None and verdict.kept:
        lines.append(f"differs in the files above; computed again, {journals} are equal")
    elif found is None:
        extent = "the whole run" if verdict.whole else "the start of the run"
        but = "" if verdict.holds else ", but not from what was recorded"
        lines.append(f"equal{but}: {journals}, {extent}")
    else:
        lines.append(f"differs first at step {found.step} in {found.what}: {found.recorded} recorded, {found.now} now")
        if found.tensors:
            more = f" and {len(found.tensors) - 8} more" if len(found.tensors) > 8 else ""
            lines.append(f"  tensors that differ at step {found.at}: {', '.join(found.tensors[:8])}{more}")
    return f"verify {verdict.run}\n" + "\n".join(lines) + "\n"


def verify(
    run: str | Path,
    *overrides: str,
    steps: int | None = None,
    resume_at: int | None = None,
    devices: int | None = None,
    allow_changed: Collection[str] = (),
    trust: Collection[str] = (),
) -> Verdict:
    """Run `run` again, or its first `steps` steps, in a folder of its own, and compare the journals.

    `resume_at` stops it after so many steps and goes on in freshly built objects; `devices` processes compute it. An
    unfinished run is compared as far as it came, one that was resumed with changed inputs up to there. What lies in the
    folder is compared with the journal. Raises what a run raises; a difference is no error here but part of the
    verdict.
    """
    from calotype.commands._inputs import recorded_config
    from calotype.record.folder import RunFolder
    from calotype.record.record import PARTS, departure

    end_with_launcher()
    if not is_first():
        return Verdict.of(follow())
    with reporting():
        folder = RunFolder.find(run, runs_folder(None, overrides))
        if unknown := sorted(set(allow_changed) - set(PARTS)):
            raise UsageError(f"--allow-changed {unknown[0]}: there are {', '.join(PARTS)}")
        record = folder.record()
        wanted = to_start("auto" if devices is None else devices, "--devices")
        _check_devices(record, wanted)
        reach = _Reach.of(folder, _whole(folder), departure(record), steps, resume_at)
        config = recorded_config(folder, overrides, trust)
        if wanted > 1:
            numbers = {"steps": steps, "resume-at": resume_at}
            arguments = [f"--{name}={number}" for name, number in numbers.items() if number is not None]
            found = launch(
                wanted, config, "verify", str(folder.path), *overrides, *arguments, *asked(allow_changed, trust)
            )
            return Verdict.of(found)
        with world_of(config) as world:
            verdict = _verify(folder, config, reach, list(allow_changed), world)
            dismiss(world, asdict(verdict))
    return verdict


def _verify(folder: RunFolder, config: Config, reach: _Reach, allowed: list[str], world: World) -> Verdict:
    from calotype.commands._inputs import changes, data_lock, reassemble
    from calotype.commands._kept import kept_differences
    from calotype.record.data import DataLock

    record = folder.record()
    assembly = reassemble(folder, config, begins=True, world=world)
    lock, then = data_lock(assembly, config.tree), DataLock.load(folder.path, first=True)
    changed = changes(folder, config, assembly, lock, then)
    if recomposed := _recomposed(record, folder):
        changed["config"] = [*changed.get("config", []), *recomposed]
    seen = _Seen(lock, then)
    result = _Again(folder, config, reach, world).compared(assembly, seen)
    if seen.changed:
        changed["data"] = [*changed.get("data", []), *seen.told()]
    return Verdict(
        folder.name,
        result.steps,
        result.events,
        reach.limit is None and reach.left is None,
        changed,
        result.difference,
        bool(record.get("exact", True)),
        allowed,
        kept_differences(folder),
        reach.left,
    )


def _check_devices(record: Mapping[str, Any], wanted: int) -> None:
    """Raises UsageError for a number of processes that can't repeat a run."""
    devices = record["frozen"].get("devices", 1)
    size = int(os.environ["WORLD_SIZE"]) if launched() else wanted
    if size < 1:
        raise UsageError(f"--devices {size}: 1 or more")
    if record["frozen"]["reduce"] == "fast" and devices != size:
        raise UsageError(
            f"the run was computed by {devices} processes with trainer.reduce=fast, whose bits only as many of them "
            f"give; use --devices {devices}. A run with trainer.reduce=exact can be verified by any number"
        )


def _whole(folder: RunFolder) -> Length:
    """How far the journal goes. Raises DiffersError for one that has lost its end: the lines that are left would
    compare as equal.
    """
    from calotype.engine.checkpoint import Checkpoints
    from calotype.record.compare import length
    from calotype.record.journal import JOURNAL

    checkpoint, _ = Checkpoints(folder.checkpoints).newest(lambda _: None)
    written = int(checkpoint.training()["journal"]["length"]) if checkpoint else 0
    path = folder.path / JOURNAL
    found = length(path)
    there = path.stat().st_size if path.is_file() else 0
    if there < written or (folder.status().get("state") == "done" and not found.ended):
        raise DiffersError(f"{path} has lost its end: it has {there} bytes, and had {written} at the last checkpoint")
    return found


@dataclass(frozen=True, slots=True)
class _Reach:
    """What to compare: all that is `recorded` or up to step `limit`, stopped and resumed at `resume_at`. Where the run
    `left` its record, `recorded` ends there.
    """

    recorded: Length
    left: Departure | None
    limit: int | None
    resume_at: int | None

    @classmethod
    def of(
        cls, folder: RunFolder, recorded: Length, left: Departure | None, steps: int | None, resume_at: int | None
    ) -> _Reach:
        """`recorded` is the whole journal's. Raises UsageError where there is nothing to do."""
        from calotype.record.compare import length
        from calotype.record.journal import JOURNAL

        if left:
            recorded = length(folder.path / JOURNAL, left.size)
        if recorded.steps == 0:
            raise UsageError(f"{folder.name} has no step to compare: {left or folder.standing()}")
        if steps is not None and steps < 1:
            raise UsageError(f"--steps {steps}: compare at least one step")
        reach = recorded.steps if steps is None else min(steps, recorded.steps)
        if resume_at is not None and not 0 < resume_at < reach:
            raise UsageError(f"--resume-at {resume_at}: the run has steps 1..{reach - 1} to stop after")
        return cls(recorded, left, None if steps is None and recorded.ended else reach, resume_at)


class _Seen:
    """Compares the samples that are read with the recorded digests, and remembers those that differ."""

    def __init__(self, lock: DataLock, then: DataLock) -> None:
        self.lock = lock
        self.lock.inherit(then)
        self.changed: dict[str, set[int]] = {}

    def __call__(self, split: str, shard: Shard) -> None:
        if split in self.lock.splits and shard.contents is not None:
            differ = self.lock.splits[split].take(shard.ids, shard.contents)
            self.changed.setdefault(split, set()).update(map(int, differ)) if len(differ) else None

    def told(self) -> list[str]:
        """The samples that differ, a line a split."""
        return [
            f"{split}: {len(ids)} of the samples read here differ from the recorded ones (ids {sorted(ids)[:5]})"
            for split, ids in self.changed.items()
        ]


def _recomposed(record: Mapping[str, Any], folder: RunFolder) -> list[str]:
    """What the run's own command composes to today, where that isn't what it did then: a default that was changed.

    A config file that is gone is no difference: the run's own copy is complete. The command of somebody else's run is
    not composed: it may name a Python file.
    """
    from calotype.commands._inputs import anchored, is_ours
    from calotype.config.compose import compose
    from calotype.errors import ConfigError
    from calotype.record.record import changed_config

    gone = any(item.startswith("/") and not Path(item).is_file() for item in record["command"])
    if gone or not is_ours(folder):
        return []
    try:
        composed = compose(record["command"], config_dirs=[Path(path) for path in record["search"]])
        today = anchored(composed, Path(record.get("cwd", "."))).tree
    except ConfigError as error:
        return [f"the run's command composes no more: {error}"]
    found = changed_config(compose([str(folder.path / "config.yaml")]).tree, today)
    return [f"the run's command gives {text}" for text in found]


@dataclass(frozen=True, slots=True)
class _Again:
    """A run as it is computed again, in a folder that goes."""

    folder: RunFolder
    config: Config
    reach: _Reach
    world: World

    def compared(self, assembly: Assembly, seen: _Seen) -> Comparison:
        """Run again and compare the journals."""
        from calotype.commands._inputs import reassemble
        from calotype.record.compare import compare
        from calotype.record.folder import RunFolder
        from calotype.record.journal import JOURNAL

        reach = self.reach
        with tempfile.TemporaryDirectory(prefix="calotype-verify-") as temporary:
            again = RunFolder(Path(temporary))
            if reach.resume_at is not None:
                self._stretch(assembly, again, seen, reach.resume_at)
                assembly = reassemble(self.folder, self.config, begins=False, world=self.world)
            # where the run left its record, what was due after its last step is compared too
            beyond = reach.left is not None and reach.limit == reach.recorded.steps
            self._stretch(assembly, again, seen, reach.limit + 1 if reach.limit and beyond else reach.limit)
            size = reach.left.size if reach.left else None
            return compare(self.folder.path / JOURNAL, again.path / JOURNAL, whole=reach.limit is None, size=size)

    def _stretch(self, assembly: Assembly, folder: RunFolder, seen: _Seen, until: int | None) -> None:
        """Train in `folder` from where it stands to the end, or until so many steps are done."""
        from calotype.commands._execute import Execution
        from calotype.engine.checkpoint import Checkpoints
        from calotype.engine.plan import Reached

        (folder.path / "status.json").write_text("{}")
        checkpoint, _ = Checkpoints(folder.checkpoints).newest(lambda _: None)
        plan: dict[str, Any] = {"max_seconds": None, "ends_at": self.reach.recorded.ended_by_time, "stops_at": until}
        splits = self.reach.recorded.splits
        hand_out(self.world, self.config, self.folder.record(), checkpoint, plan=plan, splits=[*splits.items()])
        assembly.plan = replace(assembly.plan, **plan)
        assembly.options = replace(assembly.options, splits=splits)
        # a loss that is not finite is in the journal, where the recorded run failed in the same way or differs
        with suppress(Reached, NonFiniteError):
            Execution(assembly, folder, seen, lambda _: None, quiet=True).run(checkpoint)
