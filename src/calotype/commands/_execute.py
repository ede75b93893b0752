"""Runs an assembled training inside a run folder: signals, status, logs, trackers. Shared by train, resume and
verify.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.commands._assemble import Assembly
from calotype.commands._messages import Messages
from calotype.commands._signals import Signals
from calotype.engine.checkpoint import Checkpoint, Checkpoints, Elsewhere
from calotype.engine.observe import Mirrors, Observer
from calotype.engine.profile import profiler
from calotype.engine.trainer import Trainer
from calotype.errors import CTRL_C, CalotypeError, Interrupted, RunFolderError
from calotype.record.folder import RunFolder
from calotype.record.journal import CLOCK, JOURNAL, JsonLines, end_line
from calotype.types import Shard, Tracker

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Run:
    """What a tracker is told about a run when it starts. `step` is where it starts; `warn` tells a person something."""

    folder: Path
    name: str
    total_steps: int
    steps_per_epoch: int
    header: Mapping[str, str]
    warn: Callable[[str], None]
    step: int = 0


class _Nowhere:
    """A log that keeps nothing."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Drop it."""

    def append(self, lines: str) -> None:
        """Drop them."""

    def flush(self) -> None:
        """Nothing waits."""

    def mark(self) -> dict[str, Any]:
        """Nothing is here."""
        return {}


def compute(assembly: Assembly, resume: Checkpoint | None, *, replanned: bool) -> None:
    """The share of a process that writes nothing: the same loop to the same end."""
    signals = Signals()
    log = _Nowhere()
    observer = Observer(log, log, Mirrors([], lambda _: None))
    elsewhere = Elsewhere(maximise=assembly.options.maximise, keep_best=assembly.checkpoint.keep_best)
    trainer = Trainer(assembly.parts, assembly.options, assembly.plan, observer, elsewhere, signals.asked)
    with signals.caught(leaving=True):
        trainer.fit(resume, replanned=replanned)
        trainer.test()


@dataclass(slots=True)
class Execution:
    """What the process that writes a run does: the assembled parts in their folder."""

    assembly: Assembly
    folder: RunFolder
    on_shard: Callable[[str, Shard], None]
    on_saved: Callable[[int], None]
    trackers: Sequence[Tracker] = ()
    quiet: bool = False
    header: Mapping[str, str] = field(default_factory=dict)

    def checkpoints(self) -> Checkpoints:
        """The folder's checkpoints, kept as the config says."""
        settings, options = self.assembly.checkpoint, self.assembly.options
        found = Checkpoints(
            self.folder.checkpoints,
            keep_last=settings.keep_last,
            keep_best=settings.keep_best,
            maximise=options.maximise,
        )
        found.prepare()
        return found

    def run(self, resume: Checkpoint | None = None, *, replanned: bool = False) -> Trainer:
        """Train to the end; the folder's status follows. Raises what ended the run otherwise."""
        signals, before = Signals(), float(self.folder.status().get("seconds") or 0.0)
        started = time.monotonic() - before
        messages, assembly = Messages(self.folder, quiet=self.quiet), self.assembly
        parts = assembly.parts
        for note in assembly.notes:
            messages.warn(note)
        profile = profiler(assembly.profiler, self.folder.path, assembly.options.device)
        with messages.warnings(), self._logs() as (journal, clock):
            mirrors = Mirrors(self.trackers, messages.warn)

            def saved() -> None:
                self.on_saved(trainer.state.step)
                self._status(trainer, "running", None, started)

            observer = Observer(journal, clock, mirrors, on_shard=self.on_shard, on_saved=saved, profiler=profile)
            trainer = Trainer(parts, assembly.options, assembly.plan, observer, self.checkpoints(), signals.asked)
            trainer.elapsed = before
            self._status(trainer, "running", None, started)
            mirrors.call("start", self._about(resume.step if resume else 0, messages.warn))
            state = "failed"
            try:
                with signals.caught(leaving=parts.world.size > 1), self._disk():
                    trainer.fit(resume, replanned=replanned)
                    trainer.test()
                    self.on_saved(trainer.state.step)
                    journal.mark()  # a run that is done keeps its last lines through a kill
                state = "done"
                self._status(trainer, state, 0, started)
            except BaseException as error:
                state = "interrupted" if isinstance(error, Interrupted) else "failed"
                self._ended_by(error, trainer, signals, started)
                raise
            finally:
                mirrors.call("close", state)
                with suppress(OSError):
                    messages(profile.close())
        return trainer

    @contextmanager
    def _logs(self) -> Iterator[tuple[JsonLines, JsonLines]]:
        end_line(self.folder.path / CLOCK)
        journal, clock = JsonLines(self.folder.path / JOURNAL), JsonLines(self.folder.path / CLOCK)
        try:
            yield journal, clock
        except BaseException:
            with suppress(OSError):  # on a full disk they have lines left, which the resume writes again
                journal.close()
            with suppress(OSError):
                clock.close()
            raise
        journal.close()
        clock.close()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """An OSError of a full or read-only disk becomes a RunFolderError."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise RunFolderError(
                f"{self.folder.path} could not be written to the disk: {error}; free space, then continue with --resume"
            ) from error

    def _about(self, step: int, warn: Callable[[str], None]) -> Run:
        plan, folder = self.assembly.plan, self.folder
        return Run(folder.path, folder.name, plan.total or 0, plan.steps_per_epoch, self.header, warn, step)

    def _ended_by(self, error: BaseException, trainer: Trainer, signals: Signals, started: float) -> None:
        """Write down how the run ended; a Ctrl-C leaves as KeyboardInterrupt, and no other signal does."""
        if isinstance(error, Interrupted) and signals.asked() == "SIGINT":
            with suppress(OSError):
                self._status(trainer, "interrupted", CTRL_C, started, str(error))
            Messages(self.folder, quiet=self.quiet)(str(error))
            raise KeyboardInterrupt from error
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        code = CTRL_C if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        message = str(error) if isinstance(error, CalotypeError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # the error that ended the run is the one to raise
            self._status(trainer, state, code, started, message)

    def _status(
        self, trainer: Trainer, state: str, code: int | None, started: float, message: str | None = None
    ) -> None:
        self.folder.set_status(
            state,
            exit_code=code,
            step=trainer.state.step,
            total=self.assembly.plan.total,
            epoch=self.assembly.plan.epoch(trainer.state.step),
            seconds=round(time.monotonic() - started, 3),
            results=plain(trainer.state.results),
            best=_best(trainer),
            message=message,
        )


def _best(trainer: Trainer) -> dict[str, Any] | None:
    """The best value of the monitor so far and the step it was measured at, None before the first."""
    step = trainer.checkpoints.best_of(trainer.state.scores)
    if step is None:
        return None
    options, value = trainer.options, trainer.state.scores[step]
    return {"monitor": options.monitor, "step": step, "maximise": options.maximise} | plain({"value": value})


def plain(results: Mapping[str, float]) -> dict[str, float | str]:
    """Metrics as JSON can hold them: one that is not finite by its name."""
    return {name: value if math.isfinite(value) else str(value) for name, value in results.items()}
