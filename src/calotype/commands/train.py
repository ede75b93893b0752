"""`calotype train`: train from a config, or go on with a run."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calotype.commands._arguments import add_config_arguments, config_from, paths
from calotype.config.compose import Config
from calotype.errors import CheckpointError, RunFolderError, UsageError

if TYPE_CHECKING:
    from calotype.commands._assemble import Assembly
    from calotype.engine.checkpoint import Checkpoint, Checkpoints
    from calotype.record.data import DataLock
    from calotype.record.folder import RunFolder

HELP = "Train from a config, or resume a run. `calotype train experiment=digits trainer.max_epochs=3`"


@dataclass(frozen=True, slots=True)
class Result:
    """What a training came to: its folder, how it ended, its last metrics by `split/name`."""

    folder: Path
    state: str
    step: int
    metrics: dict[str, float]


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
    result = train(
        *args.overrides,
        config_dirs=args.config_dir,
        resume=args.resume,
        allow_changed=allowed,
        strict=args.strict,
        trust=args.trust,
    )
    if args.json:
        sys.stdout.write(json.dumps(asdict(result) | {"folder": str(result.folder)}) + "\n")
    else:
        sys.stderr.write(summary(result))
    return 0


def summary(result: Result) -> str:
    """The result for people."""
    metrics = "".join(f"  {name:16}{value:.4f}\n" for name, value in result.metrics.items())
    return f"{result.state} after {result.step} steps\n{metrics}run folder {result.folder}\n"


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
    from calotype.config.check import load_and_check
    from calotype.record.folder import RunFolder

    if resume is None or resume == "auto":
        config = load_and_check(overrides, config_dirs=config_dirs)
        folder = find_same(config) if resume == "auto" else None
        if folder is None:
            return start(config, overrides, quiet=quiet)
        return go_on(folder, lambda _: config, allow_changed, strict=strict, quiet=quiet)

    from calotype.config.compose import compose

    runs = paths(compose([text for text in overrides if text.startswith("paths.")]).tree).runs
    folder = RunFolder.find(resume, runs)
    if any(text.startswith(("experiment=", "experiment@")) for text in overrides):
        raise UsageError("--resume RUN takes the run's own config; leave experiment= out, or use --resume auto")
    from calotype.commands._inputs import recorded_config

    return go_on(
        folder, lambda found: recorded_config(found, overrides, trust), allow_changed, strict=strict, quiet=quiet
    )


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


def start(config: Config, overrides: Sequence[str] = (), *, quiet: bool = False) -> Result:
    """A new run of the config that `overrides` gave: its folder and record, then the training."""
    from calotype.commands._assemble import assemble
    from calotype.commands._inputs import data_lock
    from calotype.commands._model import Image
    from calotype.record import record as records
    from calotype.record.folder import RunFolder
    from calotype.record.ownership import sign, statement

    folder = RunFolder.create(paths(config.tree).runs, str(config.tree["experiment"]))
    with folder.locked():
        try:
            assembly = assemble(config.tree)
            lock = data_lock(assembly, config.tree)
            text, search = config.to_yaml(), [str(path) for path in config.search]
            command = [str(Path(item).resolve()) if Path(item).is_file() else item for item in overrides]
            records.write(
                folder,
                {"yaml": text, "digest": config.digest(), "tree": config.tree},
                lock,
                command=command,
                search=search,
                frozen=asdict(assembly.frozen),
                exact=not assembly.inexact,
                inexact=assembly.inexact,
                weights=asdict(assembly.loaded) if assembly.loaded else None,
                classes=list(assembly.data.classes),
                input=asdict(Image.of(assembly.data)),
                signature=sign(statement(text.encode(), command, search)),
            )
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return _Job(folder, config, assembly, lock, quiet).run()


def go_on(
    folder: RunFolder,
    config_of: Callable[[RunFolder], Config],
    allowed: Collection[str],
    *,
    strict: bool = False,
    quiet: bool = False,
) -> Result:
    """Resume a run from its newest sound checkpoint, or from its start. A finished run is left as it is."""
    from calotype.commands._assemble import assemble
    from calotype.commands._inputs import changes, data_lock, frozen, refuse_changes
    from calotype.record import record as records
    from calotype.record.data import DataLock

    with folder.locked():
        status = folder.status()
        config = config_of(folder)
        if status.get("state") == "done" and config.digest() == folder.record()["config_digest"]:
            return Result(folder.path, "done", status["step"], status["results"])
        assembly = assemble(config.tree, frozen(folder.record()))
        lock = data_lock(assembly, config.tree)
        found = changes(folder, config, assembly, lock)
        refuse_changes(found, allowed)
        if "data" not in {*found, *allowed}:
            lock.inherit(DataLock.load(folder.path))
        checkpoint = _newest(folder, assembly, strict=strict)
        step = checkpoint.step if checkpoint else 0
        records.extend(folder, resumed_at=step, changed=found, allowed=sorted(found))
        return _Job(folder, config, assembly, lock, quiet).run(checkpoint, replanned="config" in found)


def _newest(folder: RunFolder, assembly: Assembly, *, strict: bool) -> Checkpoint | None:
    """The checkpoint to go on from; the journal is cut to where it was then."""
    from calotype.commands._execute import Messages
    from calotype.record.journal import JOURNAL, check_mark, cut

    journal = folder.path / JOURNAL

    def fits(checkpoint: Checkpoint) -> None:
        check_mark(journal, checkpoint.training()["journal"])

    checkpoint, faults = _checkpoints(folder, assembly).newest(fits, strict=strict)
    used = checkpoint.folder if checkpoint else "the start"
    for fault in faults:
        Messages(folder).warn(f"{fault}; going on from {used} instead")
    if faults and not checkpoint and not journal.is_file():
        raise CheckpointError(faults[0])
    cut(journal, int(checkpoint.training()["journal"]["length"]) if checkpoint else 0)
    return checkpoint


def _checkpoints(folder: RunFolder, assembly: Assembly) -> Checkpoints:
    from calotype.engine.checkpoint import Checkpoints

    return Checkpoints(folder.checkpoints, maximise=assembly.options.maximise)


@dataclass(frozen=True, slots=True)
class _Job:
    """A run that is ready to train in its folder."""

    folder: RunFolder
    config: Config
    assembly: Assembly
    lock: DataLock
    quiet: bool

    def run(self, checkpoint: Checkpoint | None = None, *, replanned: bool = False) -> Result:
        from calotype.commands._assemble import header
        from calotype.commands._execute import Execution
        from calotype.config.build import build
        from calotype.record import record as records

        built = {} if self.quiet else build(self.config.tree["tracking"], "tracking")
        execution = Execution(
            self.assembly,
            self.folder,
            on_shard=self.lock.see,
            on_saved=self._saved,
            trackers=[tracker for tracker in built.values() if tracker is not None],
            quiet=self.quiet,
            header=header(self.assembly) | {"folder": str(self.folder.path)},
        )
        trainer = execution.run(checkpoint, replanned=replanned)
        records.complete(self.folder)
        return Result(self.folder.path, "done", trainer.state.step, dict(trainer.state.results))

    def _saved(self, step: int) -> None:
        """Keep the data lock with a checkpoint of `step` steps; from the first whole epoch on every sample is in it."""
        from calotype.config.build import locate

        source, digest = self.assembly.data.sources["train"], locate("calotype.data.reader.content_digests")
        whole = self.config.tree["trainer"].get("limit_train_batches") is None
        if whole and step >= self.assembly.plan.steps_per_epoch:
            self.lock.splits["train"].complete(lambda rows: digest(source, rows))
        self.lock.save(self.folder.path)
