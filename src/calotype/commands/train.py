"""`calotype train`: train from a config, or go on with a run."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands._arguments import add_config_arguments, asked, config_from, paths
from calotype.commands._text import count
from calotype.commands._together import (
    dismiss,
    end_with_launcher,
    follow,
    hand_out,
    is_first,
    is_quiet,
    launch,
    reporting,
    spoken_for,
    wanted,
    world_of,
)
from calotype.config.compose import Config
from calotype.errors import CheckpointError, RunFolderError, UsageError

if TYPE_CHECKING:
    from calotype.commands._assemble import Assembly
    from calotype.engine.checkpoint import Checkpoint
    from calotype.engine.distributed import World
    from calotype.record.data import DataLock
    from calotype.record.folder import RunFolder

HELP = "Train from a config, or resume a run. `calotype train experiment=digits trainer.max_epochs=3`"


CLASSES = 8
"""Metrics of single classes that a summary lists at most."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint: its step and the value of the monitor there."""

    step: int
    value: float
    monitor: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a training came to: its folder, how it ended, its last metrics by `split/name`.

    `best` is None where no best checkpoint is kept; `tested` names the weights that the test split was measured with,
    "best" or "last", and is None where it was not.
    """

    folder: Path
    state: str
    step: int
    metrics: dict[str, float]
    best: Best | None = None
    tested: str | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Result:
        """What `plain` gave."""
        metrics = {name: float(value) for name, value in found["metrics"].items()}
        best = found["best"] and Best(**found["best"])
        return cls(**{**found, "folder": Path(found["folder"]), "metrics": metrics, "best": best})

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        from calotype.commands._execute import plain

        return asdict(self) | {"folder": str(self.folder), "metrics": plain(self.metrics)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_config_arguments(parser)
    parser.add_argument("--resume", metavar="RUN", help="go on with RUN (folder, id, last), or with the newest: auto")
    parser.add_argument("--strict", action="store_true", help="with --resume: a damaged newest checkpoint is an error")
    parser.add_argument(
        "--allow-changed",
        default="",
        metavar="PARTS",
        help="with --resume: go on although config,data,code,... changed",
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout at the end")


def run(args: argparse.Namespace) -> int:
    """Run the verb; its exit code."""
    if args.cfg:
        sys.stdout.write(config_from(args).to_yaml())
        return 0
    allowed = [part for part in args.allow_changed.split(",") if part]
    with spoken_for():
        result = train(
            *args.overrides,
            config_dirs=args.config_dir,
            resume=args.resume,
            allow_changed=allowed,
            strict=args.strict,
            trust=args.trust,
        )
    if args.json and is_first():
        sys.stdout.write(json.dumps(result.plain()) + "\n")
    return 0


def summary(result: Result) -> str:
    """The result for people: the last validation, the best one, the test and the weights it was made with."""
    test = {name: value for name, value in result.metrics.items() if name.startswith("test/")}
    last = {name: value for name, value in result.metrics.items() if name not in test}
    lines = [f"{result.state} after {count(result.step, 'step')}"]
    if last:
        lines.append(f"  last  step {result.step}  {_listed(last)}")
    if result.best:
        lines.append(f"  best  step {result.best.step}  {_listed({result.best.monitor: result.best.value})}")
    if test:
        lines.append(f"  test  of {result.tested}  {_listed(test)}")
    return "\n".join([*lines, f"run folder {result.folder}", ""])


def _listed(metrics: Mapping[str, float]) -> str:
    if sum(name.endswith("]") for name in metrics) > CLASSES:
        metrics = {name: value for name, value in metrics.items() if not name.endswith("]")}
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def train(
    *overrides: str,
    config_dirs: Sequence[Path] = (),
    resume: str | Path | None = None,
    allow_changed: Collection[str] = (),
    strict: bool = False,
    trust: Collection[str] = (),
    quiet: bool = False,
) -> Result:
    """Train, and return what came of it.

    `overrides` are those of the command line (`"experiment=digits"`, `"trainer.max_epochs=3"`, a config file). `resume`
    names a run (folder, id or "last") or is "auto": the newest run of this config goes on, if there is one. Raises
    ConfigError, DataError, RefusedError for inputs that changed since the run was recorded, Interrupted when a signal
    stopped it.
    """
    end_with_launcher()
    if not is_first():
        return Result.of(follow())
    with reporting():
        chosen, config = _choose(overrides, config_dirs, resume, trust)
        if (devices := wanted(config)) > 1:
            arguments = [*overrides, *(f"--config-dir={path}" for path in config_dirs), *asked(allow_changed, trust)]
            arguments += [f"--resume={resume}"] * (resume is not None) + ["--strict"] * strict
            return Result.of(launch(devices, config, "train", *arguments, quiet=quiet))
        quiet = quiet or is_quiet()
        with world_of(config) as world:
            if chosen is None:
                result = start(config, overrides, quiet=quiet, world=world)
            else:
                result = go_on(chosen, config, allow_changed, strict=strict, quiet=quiet, world=world)
            dismiss(world, result.plain())
    return result


def _choose(
    overrides: Sequence[str], config_dirs: Sequence[Path], resume: str | Path | None, trust: Collection[str]
) -> tuple[RunFolder | None, Config]:
    """The run to go on with, None for a new one, and its config."""
    from calotype.config.check import load_and_check
    from calotype.record.folder import RunFolder

    if resume is None or resume == "auto":
        from calotype.commands._inputs import anchored

        config = anchored(load_and_check(overrides, config_dirs=config_dirs))
        return (find_same(config) if resume == "auto" else None), config

    from calotype.config.compose import compose

    runs = paths(compose([text for text in overrides if text.startswith("paths.")]).tree).runs
    folder = RunFolder.find(resume, runs)
    if any(text.startswith(("experiment=", "experiment@")) for text in overrides):
        raise UsageError("--resume RUN takes the run's own config; leave experiment= out, or use --resume auto")
    from calotype.commands._inputs import recorded_config

    return folder, recorded_config(folder, overrides, trust)


def find_same(config: Config) -> RunFolder | None:
    """The newest run of this config."""
    from calotype.record.folder import RunFolder

    runs = paths(config.tree).runs / str(config.tree["experiment"])
    for file in sorted(runs.glob("*/record.json"), reverse=True):
        folder = RunFolder(file.parent.resolve())
        try:
            same = folder.record()["config_digest"] == config.digest()
        except RunFolderError as error:
            sys.stderr.write(f"warning: {error}; passed over\n")
            continue
        if same:
            return folder
    return None


def start(config: Config, overrides: Sequence[str] = (), *, quiet: bool = False, world: World | None = None) -> Result:
    """A new run of the config that `overrides` gave: its folder and record, then the training."""
    from calotype.commands._assemble import assemble
    from calotype.commands._inputs import data_lock
    from calotype.commands._messages import Messages
    from calotype.commands._model import Image
    from calotype.commands._start import other_inputs
    from calotype.engine.distributed import World
    from calotype.record import record as records
    from calotype.record.folder import RunFolder
    from calotype.record.ownership import sign, statement

    world = world or World()
    folder = RunFolder.create(paths(config.tree).runs, str(config.tree["experiment"]))
    with folder.locked(), Messages(folder, quiet=quiet).warnings():
        try:
            assembly = assemble(config.tree, world=world)
            assembly.notes += other_inputs(config.tree)
            lock = data_lock(assembly, config.tree)
            text, search = config.to_yaml(), [str(path) for path in config.search]
            command = [str(Path(item).resolve()) if Path(item).is_file() else item for item in overrides]
            records.write(
                folder,
                {"yaml": text, "digest": config.digest(), "tree": config.tree},
                lock,
                command=command,
                search=search,
                frozen=assembly.frozen.recorded(),
                skipped=assembly.frozen.skipped,
                exact=not assembly.inexact,
                inexact=assembly.inexact,
                weights=asdict(assembly.loaded) if assembly.loaded else None,
                classes=list(assembly.data.classes),
                category_ids=assembly.data.category_ids,
                input=asdict(Image.of(assembly.data)),
                signature=sign(statement(text.encode(), command, search)),
            )
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        hand_out(world, config, folder.record(), None)
        return _Job(folder, config, assembly, lock, quiet).run()


def go_on(
    folder: RunFolder,
    config: Config,
    allowed: Collection[str],
    *,
    strict: bool = False,
    quiet: bool = False,
    world: World | None = None,
) -> Result:
    """Resume a run from its newest sound checkpoint, or from its start. A finished run is left as it is."""
    from calotype.commands._inputs import changes, data_lock, reassemble, refuse_changes
    from calotype.commands._messages import Messages
    from calotype.commands._skipped import recorded
    from calotype.engine.distributed import World
    from calotype.record import record as records
    from calotype.record.data import DataLock

    world = world or World()
    with folder.locked(), Messages(folder, quiet=quiet).warnings():
        status = folder.status()
        if status.get("state") == "done" and config.digest() == folder.record()["config_digest"]:
            return _finished(folder, config, quiet=quiet)
        checkpoint, faults = _newest(folder, strict=strict)
        assembly = reassemble(folder, config, begins=checkpoint is None, world=world)
        lock = data_lock(assembly, config.tree)
        found = changes(folder, config, assembly, lock)
        refuse_changes(found, allowed)
        if "data" not in {*found, *allowed}:
            lock.inherit(DataLock.load(folder.path))
        _cut(folder, checkpoint, faults)
        step = checkpoint.step if checkpoint else 0
        out = assembly.frozen.skipped
        looked = {"skipped": out} if out is not None and recorded(folder.record()) is None else {}
        records.extend(folder, resumed_at=step, changed=found, allowed=sorted(found), **looked)
        replanned = "config" in found
        hand_out(world, config, folder.record(), checkpoint, replanned=replanned)
        return _Job(folder, config, assembly, lock, quiet).run(checkpoint, replanned=replanned)


def _newest(folder: RunFolder, *, strict: bool) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from, None for the start, and what is wrong with newer ones."""
    from calotype.engine.checkpoint import Checkpoints
    from calotype.record.journal import JOURNAL, check_mark

    journal = folder.path / JOURNAL

    def fits(checkpoint: Checkpoint) -> None:
        check_mark(journal, checkpoint.training()["journal"])

    checkpoint, faults = Checkpoints(folder.checkpoints).newest(fits, strict=strict)
    if faults and not checkpoint and not journal.is_file():
        raise CheckpointError(faults[0])
    return checkpoint, faults


def _cut(folder: RunFolder, checkpoint: Checkpoint | None, faults: Sequence[str]) -> None:
    """Cut the journal to where it was at the checkpoint, and tell of those that were passed over."""
    from calotype.commands._messages import Messages
    from calotype.record.journal import JOURNAL, cut

    used = checkpoint.folder if checkpoint else "the start"
    for fault in faults:
        Messages(folder).warn(f"{fault}; going on from {used} instead")
    cut(folder.path / JOURNAL, int(checkpoint.training()["journal"]["length"]) if checkpoint else 0)


def _finished(folder: RunFolder, config: Config, *, quiet: bool) -> Result:
    """What a run that is done came to, as its folder has it; the summary goes to stderr unless `quiet`."""
    from calotype.engine.checkpoint import name_of

    status, pointer = folder.status(), folder.checkpoints / "best"
    kept = pointer.read_text(errors="replace").strip() if pointer.is_file() else None
    metrics = {name: float(value) for name, value in status["results"].items()}
    score, best, tested = status.get("best"), None, None
    if score and kept == name_of(score["step"]):
        best = Best(score["step"], float(score["value"]), score["monitor"])
    if any(name.startswith("test/") for name in metrics):
        tested = "best" if kept and config.tree["trainer"]["test"] == "best" else "last"
    result = Result(folder.path, "done", status["step"], metrics, best, tested)
    if not quiet:
        sys.stderr.write(summary(result))
    return result


@dataclass(frozen=True, slots=True)
class _Job:
    """A run that is ready to train in its folder."""

    folder: RunFolder
    config: Config
    assembly: Assembly
    lock: DataLock
    quiet: bool

    def run(self, checkpoint: Checkpoint | None = None, *, replanned: bool = False) -> Result:
        from calotype.commands._execute import Execution
        from calotype.commands._header import header
        from calotype.commands._tracking import trackers
        from calotype.record import record as records

        built, found = ([], {}) if self.quiet else trackers(self.config.tree, self.assembly.notes)
        execution = Execution(
            self.assembly,
            self.folder,
            on_shard=self.lock.see,
            on_saved=self._saved,
            trackers=built,
            quiet=self.quiet,
            header=header(self.assembly) | found | {"folder": str(self.folder.path)},
        )
        execution.run(checkpoint, replanned=replanned)
        records.complete(self.folder)
        return _finished(self.folder, self.config, quiet=self.quiet)

    def _saved(self, step: int) -> None:
        """Keep the data lock with a checkpoint of `step` steps; from the first whole epoch on every sample is in it."""
        from calotype.config.build import locate

        source, digest = self.assembly.data.sources["train"], locate("calotype.data.reader.content_digests")
        whole = self.config.tree["trainer"].get("limit_train_batches") is None
        if whole and step >= self.assembly.plan.steps_per_epoch:
            self.lock.splits["train"].complete(lambda rows: digest(source, rows))
        self.lock.save(self.folder.path)
