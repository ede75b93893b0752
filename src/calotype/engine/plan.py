"""When what happens in a run: every duration turned into steps, once.

`step` here counts the steps done, so 0 is before the first. What is due at a step is a pure function of it; only a time
limit, early stopping and a signal come from outside, and a run that they end has everything due that a last step has.
"""

from __future__ import annotations

from dataclasses import dataclass

from calotype.errors import ConfigError, Interrupted
from calotype.settings import CheckpointSettings, Duration, TrainerSettings, seconds


class Reached(Interrupted):
    """A run came to the step that it was to be stopped at."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's timetable in steps. `total` None: only the time limit ends the run.

    For a run that repeats a recorded one, `ends_at` is the step at which that was ended by its time limit, and
    `stops_at` the step at which this one is stopped as by a signal.
    """

    steps_per_epoch: int
    total: int | None
    max_seconds: float | None
    validate_every: int | None
    validate_epochs: frozenset[int] | None
    checkpoint_every: int | None
    log_every: int
    ends_at: int | None = None
    stops_at: int | None = None
    validate_first: bool = False

    @classmethod
    def of(cls, trainer: TrainerSettings, checkpoint: CheckpointSettings, steps_per_epoch: int) -> Plan:
        """The timetable of the settings. Raises ConfigError for a run without end or a duration of no step."""
        limits = []
        if trainer.max_epochs is not None:
            limits.append(trainer.max_epochs * steps_per_epoch)
        if trainer.max_steps is not None:
            limits.append(trainer.max_steps)
        if not limits and trainer.max_time is None:
            raise ConfigError("the run has no end; set max_epochs, max_steps or max_time", key="trainer")
        total = min(limits) if limits else None

        def every(value: str | int | None, key: str) -> int | None:
            if value is None:
                return None
            steps = Duration.parse(value, "ep", key).steps(steps_per_epoch, total)
            if steps < 1:
                raise ConfigError(f"{value} is less than one step", key=key)
            return steps

        return cls(
            steps_per_epoch,
            total,
            None if trainer.max_time is None else seconds(trainer.max_time, "trainer.max_time"),
            None if trainer.val_epochs is not None else every(trainer.val_check_interval, "trainer.val_check_interval"),
            None if trainer.val_epochs is None else frozenset(trainer.val_epochs),
            every(checkpoint.every, "checkpoint.every"),
            trainer.log_every_n_steps,
            validate_first=trainer.val_before_training,
        )

    def epoch(self, step: int) -> int:
        """The epoch that step number `step` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def ends(self, step: int) -> bool:
        """Whether the run has all its steps."""
        return self.total is not None and step >= self.total

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` steps are a whole number of epochs."""
        return step > 0 and step % self.steps_per_epoch == 0

    def validates(self, step: int) -> bool:
        """Whether validation is due after `step` steps, the end of the run aside."""
        if step == 0:
            return self.validate_first
        if self.validate_epochs is not None:
            return self.ends_epoch(step) and self.epoch(step - 1) in self.validate_epochs
        return _due(step, self.validate_every)

    def checkpoints(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps, the end of the run aside."""
        return _due(step, self.checkpoint_every)

    def next_due(self, step: int) -> int:
        """The first step after `step` at which anything may be due; nothing is at those before it."""
        periods = (self.log_every, self.steps_per_epoch, self.validate_every, self.checkpoint_every)
        coming = min(step + every - step % every for every in periods if every)
        ends = (self.total, self.stops_at if self.stops_at is not None and self.stops_at > step else None)
        return min([coming, *(end for end in ends if end is not None)])

    def logs(self, step: int) -> bool:
        """Whether the host looks at the losses after `step` steps."""
        return _due(step, self.log_every) or self.ends_epoch(step) or self.ends(step)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step > 0 and step % every == 0
