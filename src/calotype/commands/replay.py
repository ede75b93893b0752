"""`calotype replay RUN`: compute the step at which a run stopped once more, alone, and say where it went wrong.

The state before the step comes from the newest checkpoint before it and from the run's keys, in a folder that goes. The
run itself is only read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands._text import printable
from calotype.commands.status import add_run, runs_folder
from calotype.errors import CalotypeError, CheckpointError, DiffersError, UsageError

if TYPE_CHECKING:
    from calotype.commands._assemble import Assembly
    from calotype.engine.checkpoint import Checkpoint
    from calotype.engine.replay import Examined
    from calotype.record.folder import RunFolder

HELP = "Compute the step at which a run stopped once more, alone, and say where the first number stopped being finite."
NAMED, SHOWN = 64, 16
"""Samples whose names are looked up at most, and samples of a shard that are shown in text."""


@dataclass(slots=True)
class Replayed:
    """A step that was computed again: what it showed, the checkpoint it was reached from, names of its samples by id.

    `differs` names what of the step is not as the journal has it, or how it ended otherwise; `changed` what is not as
    recorded, by part.
    """

    run: str
    start: str
    examined: Examined
    names: dict[int, str] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def reproduced(self) -> bool:
        """Whether the step came out as it did in the run."""
        return not self.differs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="e.g. data.workers=0 paths.data=DIR")
    parser.add_argument("--step", type=int, metavar="K", help="this step instead, from 0; for a run that didn't fail")
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0 if the step came out as it did in the run, 5 if not."""
    found = replay(args.run, *args.overrides, step=args.step, runs=runs_folder(args.runs), trust=args.trust)
    sys.stdout.write(json.dumps(as_json(found)) + "\n" if args.json else told(found))
    return 0 if found.reproduced else DiffersError.exit_code


def as_json(found: Replayed) -> dict[str, Any]:
    """What was found as plain data; numbers that are not finite by their names."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(item) for name, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    report: dict[str, Any] = plain(asdict(found) | {"reproduced": found.reproduced})
    return report | {"examined": {**report["examined"], "finite": found.examined.finite}}


def told(found: Replayed) -> str:
    """What was found, for people."""
    seen = found.examined
    lines = [f"not as recorded, {part}: {text}" for part, texts in found.changed.items() for text in texts]
    if seen.loss is not None:
        lines.append(f"loss {seen.loss:.6g}, gradient norm {seen.norm:.6g}")
    for number, group in enumerate(seen.groups):
        lines.append(f"group {number}: lr {group.lr:.6g}, norm {group.norm:.6g} of {group.tensors} gradients")
    if seen.weights:
        lines.append(f"not finite before the step: {seen.weights}")
    if place := seen.module:
        inputs = "its inputs are finite" if place.inputs_finite else "its inputs are not finite either"
        lines.append(f"first output not finite: {place.name} ({place.kind}), shard {place.shard}; {inputs}")
    if place := seen.gradient:
        lines.append(f"first gradient not finite: {place.name} {place.kind}, shard {place.shard}")
    if seen.backward:
        lines.append(f"in backward: {seen.backward}")
    if seen.error:
        lines.append(f"raised {seen.error}")
    for shard, ids in enumerate(seen.samples):
        known = {number: f" ({printable(found.names[number])})" for number in ids[:SHOWN] if number in found.names}
        names = [f"{number}{known.get(number, '')}" for number in ids[:SHOWN]]
        more = f" and {len(ids) - SHOWN} more (--json has all)" if len(ids) > SHOWN else ""
        lines.append(f"samples of shard {shard}: {', '.join(names)}{more}")
    lines += [f"differs: {text}" for text in found.differs] or ["as in the run"]
    body = "".join(f"  {line}\n" for line in lines)
    return f"replay {found.run}: step {seen.step} (epoch {seen.epoch}), from {found.start}\n{body}"


def replay(
    run: str | Path,
    *overrides: str,
    step: int | None = None,
    runs: str | Path = "runs",
    trust: Collection[str] = (),
) -> Replayed:
    """Compute `step` of a run again, by default the one at which it failed, from the newest checkpoint before it.

    Raises UsageError for a run that didn't fail or has no such step, and what the steps before it raise.
    """
    from calotype.record.folder import RunFolder

    folder = RunFolder.find(run, runs)
    from calotype.commands._inputs import changes, data_lock, reassemble, recorded_config
    from calotype.engine.checkpoint import Checkpoints

    at = _stopped_at(folder) if step is None else _checked(folder, step)

    def before(checkpoint: Checkpoint) -> None:
        if checkpoint.step > at:
            raise CheckpointError("it is of a later step")

    config = recorded_config(folder, overrides, trust)
    checkpoint, _ = Checkpoints(folder.checkpoints).newest(before)
    assembly = reassemble(folder, config, begins=checkpoint is None)
    changed = changes(folder, config, assembly, data_lock(assembly, config.tree))
    with tempfile.TemporaryDirectory(prefix="calotype-replay-") as temporary:
        again = RunFolder(Path(temporary))
        examined = _examine(assembly, again, checkpoint, at)
        differs = _differs(folder, again, examined, at)
    start = checkpoint.folder.name if checkpoint else "the start"
    return Replayed(folder.name, start, examined, _names(assembly, examined), differs, changed)


def _steps(folder: RunFolder) -> Iterator[tuple[int, dict[str, Any]]]:
    """The journal's lines of steps, each with its step."""
    from calotype.record.journal import JOURNAL, read

    return ((int(line["step"]), line) for line in read(folder.path / JOURNAL) if "event" not in line)


def _last(folder: RunFolder) -> tuple[int, dict[str, Any]]:
    """The last step in the journal and its line; -1 where there is none."""
    return max(_steps(folder), key=lambda found: found[0], default=(-1, {}))


def _stopped_at(folder: RunFolder) -> int:
    """The step at which a run failed: the journal ends with one that is not finite, or goes as far as the status."""
    status = folder.status()
    if status.get("state") != "failed":
        raise UsageError(
            f"{folder.name} did not fail ({folder.standing()}); name a step to compute again with --step K"
        )
    last, line = _last(folder)
    numbers = [float.fromhex(line[name]) for name in ("loss", "norm")] if last >= 0 else []
    return last if not all(map(math.isfinite, numbers)) else int(status.get("step") or 0)


def _checked(folder: RunFolder, step: int) -> int:
    status = folder.status()
    done = int(status.get("step") or 0)  # the next one, but of a run that came to its end
    last = max(_last(folder)[0], done - (status.get("state") == "done"))
    if not 0 <= step <= last:
        raise UsageError(f"--step {step}: {folder.name} has steps 0..{last}")
    return step


def _examine(assembly: Assembly, folder: RunFolder, checkpoint: Checkpoint | None, at: int) -> Examined:
    """Train in `folder` up to step `at` and examine it. What ends the run before or while it is read is its error."""
    from calotype.commands._progress import Progress
    from calotype.engine.checkpoint import Checkpoints
    from calotype.engine.observe import Mirrors, Observer
    from calotype.engine.replay import Examined, Reached, Replay
    from calotype.record.journal import CLOCK, JOURNAL, JsonLines

    checkpoints = Checkpoints(folder.checkpoints, maximise=assembly.options.maximise)
    checkpoints.prepare()
    journal, clock = JsonLines(folder.path / JOURNAL), JsonLines(folder.path / CLOCK)
    plan = replace(assembly.plan, max_seconds=None)
    trainer = Replay(
        assembly.parts, assembly.options, plan, Observer(journal, clock, Mirrors((), _ignore)), checkpoints
    )
    trainer.at = at
    with Progress(at - (checkpoint.step if checkpoint else 0), "steps") as progress:
        trainer.advance = progress.advance
        try:
            trainer.fit(checkpoint)
        except Reached:
            pass
        except CalotypeError as error:
            if trainer.found is None:
                step = trainer.state.step
                trainer.found = Examined(step, plan.epoch(step), error=f"{type(error).__name__}: {error}")
        finally:
            journal.close()
            clock.close()
    if trainer.found is None:
        raise UsageError(f"the run ended at step {trainer.state.step}, before step {at}")
    return trainer.found


def _ignore(_: str) -> None:
    """What a tracker would have to say; there is none."""


def _differs(folder: RunFolder, again: RunFolder, examined: Examined, at: int) -> list[str]:
    """In what the step is not the one of the run; where there is a step before it that differs already, that one."""
    if examined.step != at:
        return [f"stopped at step {examined.step} already: {examined.error}"]
    now = dict(_steps(again))
    recorded = {step: line for step, line in _steps(folder) if step in now or step == at}
    for step in sorted(recorded.keys() & now.keys()):
        names = [name for name in recorded[step] if recorded[step][name] != now[step].get(name)]
        if names:
            return [
                f"step {step} has {name} {now[step].get(name)}, in the run {recorded[step][name]}" for name in names
            ]
    if at in now:
        return [] if at in recorded else ["the step is computed here; in the run it stopped"]
    message = str(folder.status().get("message") or "nothing")
    raised = (examined.error or "").partition(": ")[2]
    return [] if at not in recorded and raised and raised in message else [f"raised here; the run says: {message}"]


def _names(assembly: Assembly, examined: Examined) -> dict[int, str]:
    """Names of the step's samples by id, of the first so many."""
    import numpy as np

    source = assembly.data.sources["train"]
    ids = [number for shard in examined.samples for number in shard][:NAMED]
    positions = np.searchsorted(source.ids, ids)
    return {number: source.name(int(position)) for number, position in zip(ids, positions, strict=True)}
