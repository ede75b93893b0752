"""The training loop.

A step is a function of (state, step number): every draw in it is keyed, so nothing random is saved and a resume
starts at any step. A batch comes as a list of shards, which run one after another and are added as one balanced tree;
that is gradient accumulation here, and the same arithmetic on several processes.

What is due after a step (evaluation, schedules by epoch, checkpoint, end) is done in `_finish_step`, which a resume
from a checkpoint taken in the middle of it repeats.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from calotype import faults
from calotype.engine.checkpoint import Checkpoint, Checkpoints, from_bytes, to_bytes
from calotype.engine.divided import undivided
from calotype.engine.evaluate import Evaluation, check_monitor, evaluate
from calotype.engine.gradients import Computed, Gradients
from calotype.engine.memory import NoRoomElsewhere
from calotype.engine.observe import Observer, PendingStep
from calotype.engine.parts import LoopState, Options, Parts
from calotype.engine.plan import Plan, Reached
from calotype.engine.precision import Guard, Precision, clip, guarded_step
from calotype.engine.reduce import Buffers
from calotype.engine.replicated import Replicated
from calotype.engine.schedule import Warmup, momenta
from calotype.engine.sharded import Sharded
from calotype.engine.state import Unsaved, borrowed, digests, restore, training_state
from calotype.engine.survey import Survey, joint_survey, survey
from calotype.engine.watch import Watch, Watcher
from calotype.errors import CalotypeError, ConfigError, Interrupted, RunFolderError
from calotype.keys import key, seed_torch
from calotype.types import Batch, Loader, Shard


class Trainer:
    """Runs a plan. `stop` is asked after each step for the name of a signal that wants the run to stop."""

    def __init__(
        self,
        parts: Parts,
        options: Options,
        plan: Plan,
        observer: Observer,
        checkpoints: Checkpoints,
        stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.parts, self.options, self.plan = parts, options, plan
        self.observer, self.checkpoints, self.asked = observer, checkpoints, stop
        self.task: Any = parts.task
        self.world = observer.world = parts.world
        self.spent, self.profiled = observer.profiler.spent, observer.profiler.measures
        self.watcher = Watcher(observer.mirrors, parts.task, lambda: bool(self.asked()), self.world)
        beside = {"val": parts.val, "train_eval": parts.train_eval}
        self.watched = {split: loader for split, loader in beside.items() if loader is not None}
        self.state = LoopState()
        self.precision = Precision(options.precision, options.device)
        self.guard = Guard(self.precision, latched=not options.skip_nonfinite)
        alone = options.exact or options.split or self.world.size == 1
        how = Gradients if alone else Sharded if options.sharded else Replicated
        self.gradients = how(parts, options, self.precision)
        self.joint = self.world.size > 1
        self.has_room = True
        self.surveyed = Survey({}, [], [])
        self.unsaved = Unsaved(self.task, parts.optimizer)
        self.warmup = Warmup(options.warmup_steps)
        self.next_due = 0
        self.timed = plan.max_seconds is not None or plan.ends_at is not None
        # torch's own optimizers draw nothing, any other may
        self.draws = not type(parts.optimizer).__module__.startswith("torch.optim")
        self.started, self.elapsed = time.monotonic(), 0.0

    # --- the loop

    def fit(self, resume: Checkpoint | None = None, *, replanned: bool = False) -> LoopState:
        """Train to the end of the plan, from step 0 or from `resume`. Raises Interrupted with the state saved.

        `replanned`: the plan is another one than the checkpoint's, so what ended that run may not end this one.
        """
        self.task.train()
        followed = self.parts.early_stop or isinstance(self.parts.scheduler, ReduceLROnPlateau)
        check_monitor(self.task, self.options.monitor, measured=self.parts.val is not None, followed=bool(followed))
        if self.plan.validate_first and not self.watched:
            raise ConfigError("there is no val split to measure", key="trainer.val_before_training")
        part = self._restore(resume) if resume else self._begin()
        if resume:
            self.checkpoints.settle(resume, self.state.scores)
        if replanned and not self.plan.ends(self.state.step):
            self.state.ended = None
        if part:
            self._finish_step()
        with closing(self.parts.train.steps(self.state.step, self.plan.total)) as batches:
            compute = self._first_step
            while self.state.ended is None:
                waiting = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - waiting
                if self.profiled:
                    self.spent("waiting for data")
                self.observer.step(compute(batch), waited)
                if self.profiled:
                    self.spent("optimizer step")
                    self.observer.profiler.step()
                self.state.step += 1
                if faults.hook:
                    faults.fault("after_step")
                if self.state.step >= self.next_due or self.stop_signal() or (self.timed and self._out_of_time()):
                    self._finish_step()
                compute = self.step
        return self.state

    def _first_step(self, batch: Batch) -> PendingStep:
        """A process's first step, in which a network and data that don't fit each other show themselves."""
        try:
            return self.step(batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            raise ConfigError(
                f"the first step failed; do network, loss and data fit together? A shard holds "
                f"{batch[0].description() if batch else 'nothing'}. {type(error).__name__}: {error}",
                key="module",
            ) from error

    def step(self, batch: Batch) -> PendingStep:
        """One optimizer update from one batch."""
        step, whole = self.state.step, self._survey(batch)
        counts = whole.counts
        if self.options.splits:
            self._repeat_splits()
        computed = self._compute(batch, whole)
        while computed is None:
            self._relieve(batch, whole)
            computed = self._compute(batch, whole)
        loss, terms = computed
        if self.profiled:
            self.spent("forward and backward")
        gradients = self.gradients.present()
        if self.precision.scale is not None:
            self.precision.unscale(gradients)
        norm = self.gradients.norm(gradients)
        if self.options.clip is not None:
            clip(gradients, norm, self.options.clip)
        found_inf = self.guard.check(loss, norm)
        if counts and not any(counts[name] for name in getattr(self.task, "learns_from", counts)):
            # nothing to learn from, such as no box in the whole batch; decay and momentum alone move no weight
            found_inf = True
        # told at log points, which are known beforehand; the schedule sets the next step's before they are written
        momentum = momenta(self.parts.optimizer) if step + 1 >= self.next_due else ()
        lr = self._update(step, found_inf)
        return PendingStep(step, self.plan.epoch(step), whole.ids, whole.digests, loss, norm, lr, terms, momentum)

    def _survey(self, batch: Batch) -> Survey:
        """What is to be known of the whole batch, from the targets alone, before the first backward."""
        if self.observer.on_shard:
            for shard in batch:
                self.observer.see("train", shard)
        if not self.joint:
            return survey(batch, self.task.counts)
        self.world.step = self.state.step
        self.surveyed = joint_survey(batch, self.task.counts, self.world, self.asked(), late=self._late())
        for shard in self.surveyed.others:
            self.observer.see("train", shard)
        return self.surveyed

    def _compute(self, batch: Batch, whole: Survey) -> Computed | None:
        """Loss and terms of a batch whose gradients are in place then; None where it doesn't fit into memory."""
        self.gradients.pieces = self.state.pieces
        try:
            return self.gradients.compute(batch, self.state.step, whole)
        except torch.OutOfMemoryError as error:
            self.has_room = isinstance(error, NoRoomElsewhere)
            return None  # and with the exception goes the memory that it held

    def _relieve(self, batch: Batch, whole: Survey) -> None:
        """Cut the shards further after a step that did not fit. Raises Interrupted where that can't help or may not."""
        self.gradients.drop()
        step, pieces = self.state.step, self.state.pieces
        found = 1 if self.has_room else self.gradients.fitting(batch, step, whole.counts)
        what = f"step {step} doesn't fit into memory"
        if found is None:
            raise Interrupted(f"{what}, not even one sample at a time; take smaller images or a smaller network")
        if not self.options.split:
            raise Interrupted(
                f"{what}; it does with trainer.shards={self.options.shards * found}, which is another run: start it "
                "anew with that. trainer.reduce=fast trainer.on_oom=split cuts shards by itself and goes on"
            )
        self._split(pieces * max(map(int, self.world.gather(str(found).encode()))))
        self.observer.mirrors.warn(f"{what}; shards are cut into {self.state.pieces} pieces from here on")

    def _split(self, pieces: int) -> None:
        self.observer.flush(self.guard)
        self.observer.event("split", self.state.step, pieces=pieces)
        self.state.pieces = pieces

    def _repeat_splits(self) -> None:
        """Cut where a recorded run did."""
        for pieces in self.options.splits.get(self.state.step, ()):
            if pieces > self.state.pieces:
                self._split(pieces)

    def _update(self, step: int, found_inf: Tensor | bool) -> tuple[float, ...]:
        """Optimizer, scaler, schedule, average; the learning rates that were used."""
        parts = self.parts
        if self.draws:
            seed_torch(key(self.options.seed, "optimizer", step), self.options.device)
        if step < self.warmup.steps:
            with self.warmup.apply(parts.optimizer, step) as lr:
                guarded_step(parts.optimizer, found_inf)
        else:
            lr = tuple([float(group["lr"]) for group in parts.optimizer.param_groups])
            guarded_step(parts.optimizer, found_inf)
        if self.precision.scale is not None:
            self.precision.update(self.guard.overflow)
        if parts.scheduler is not None and self.options.schedule_by_step:
            parts.scheduler.step()
        if self.options.skip_nonfinite and self.guard.tripped():
            cast(Buffers, self.gradients.buffers).restore()
        elif parts.ema is not None:
            parts.ema.update(step)
        return lr

    # --- what is due after a step

    def _finish_step(self) -> None:
        step, plan = self.state.step, self.plan
        self.next_due = plan.next_due(step)
        ended = "steps" if plan.ends(step) else "time" if self._out_of_time() else None
        due = plan.validates(step) or plan.checkpoints(step) or ended is not None
        signal = self.stop_signal()
        if due or signal or plan.logs(step) or step == plan.stops_at:
            self.observer.flush(self.guard)
        self.spent("observing")
        if signal:
            self._interrupt(signal)
        if step == plan.stops_at:
            self._interrupt("its plan", kind=Reached)
        if self.watched and (plan.validates(step) or ended):
            ended = self._validate() or ended
            self.spent("validation")
        self._schedule_epoch(step)
        self.state.ended = ended
        if ended:
            self.observer.event("end", step, reason=ended)
        if plan.checkpoints(step) or ended or self.checkpoints.improves(step, self.state.scores):
            self._checkpoint(final=ended is not None)
            self.spent("checkpoint")
        if due:
            self.observer.restart_clock()

    def stop_signal(self) -> str | None:
        """The signal that wants the run to stop; of several processes what all know of it since this step began."""
        return self.surveyed.signal if self.joint else self.asked()

    def _out_of_time(self) -> bool:
        if self.plan.ends_at is not None:
            return self.state.step >= self.plan.ends_at
        return self.surveyed.late if self.joint else self._late()

    def _late(self) -> bool:
        limit = self.plan.max_seconds
        return limit is not None and self.elapsed + time.monotonic() - self.started > limit

    def _validate(self) -> str | None:
        """Measure the validation split, and what is measured beside it; "patience" when early stopping ends the run.

        Nothing is told before all of it is measured: a run that is stopped in between does it all again. Before the
        first step it is only looked at: schedules and checkpoints go by what training has done.
        """
        step, parts = self.state.step, self.parts
        found = {split: self._measure(loader, split) for split, loader in self.watched.items()}
        for measured, watch in found.values():
            self._tell(measured, watch)
        if step == 0 or parts.val is None:
            return None
        measured = found["val"][0]
        score = measured.scalars().get(self.options.monitor)
        if score is None:
            raise ConfigError(
                f"{self.options.monitor!r} is not measured; there is {', '.join(measured.scalars())}",
                key="module.monitor",
            )
        self.state.scores[step] = score
        if isinstance(parts.scheduler, ReduceLROnPlateau):
            parts.scheduler.step(score)
        return "patience" if parts.early_stop is not None and parts.early_stop(score) else None

    def _schedule_epoch(self, step: int) -> None:
        """Step a schedule by epochs; one that follows the monitor was stepped by the validation."""
        scheduler = self.parts.scheduler
        if scheduler is None or isinstance(scheduler, ReduceLROnPlateau) or self.options.schedule_by_step:
            return
        if self.plan.ends_epoch(step):
            scheduler.step()

    def _measure(self, loader: Loader, split: str) -> tuple[Evaluation, Watch]:
        def place(shard: Shard) -> Shard:
            self.observer.see(split.removesuffix("_eval"), shard)
            return self.options.placed(shard)

        watch = self.watcher.watch(split, getattr(loader, "samples", None))
        averaged = self.parts.ema.swapped() if self.parts.ema and split != "test" else nullcontext()
        with averaged, self.gradients.gathered():
            measured = evaluate(self.task, loader, split, self.precision, place, watch)
        if measured is None:
            self._interrupt(self._who_asked(), save=self.state.ended is None)
        for shard in measured.others:
            self.observer.see(split.removesuffix("_eval"), shard)
        return measured, watch

    def _who_asked(self) -> str:
        """The signal that an evaluation was stopped by, whichever process got it."""
        return next(filter(None, self.world.gather((self.asked() or "").encode())), b"a signal").decode()

    def _tell(self, measured: Evaluation, watch: Watch) -> None:
        values = {"split": measured.split, "count": measured.count, "ids": measured.ids}
        self.observer.event("evaluation", self.state.step, **values, metrics=dict(measured.metrics))
        self.observer.scalars(self.state.step, measured.scalars())
        self.state.results |= measured.scalars()
        watch.show(self.state.step)

    def test(self) -> None:
        """Measure the test split with the weights that `options.test` names, where there are both."""
        if self.parts.test is None or self.options.test is None:
            return
        which = self.options.test if self.options.test == "last" or self.checkpoints.has_best() else "last"
        weights = self.checkpoints.named(which).model() if self.world.first else {}
        if self.joint:
            weights = from_bytes(self.world.share(to_bytes(weights)))
        with borrowed(self.task.network, weights):
            self._tell(*self._measure(self.parts.test, "test"))
        self.spent("test")

    # --- checkpoints

    def _checkpoint(self, *, final: bool) -> None:
        self._digests()
        try:
            self._save()
        except RunFolderError as error:
            if final or not self.options.warn_on_disk:
                raise
            self.observer.mirrors.warn(f"{error.message}; training goes on and tries again at the next checkpoint")
        self.world.share(b"saved")  # nobody leaves before the first process has written

    def _save(self, *, part: bool = False) -> None:
        self.unsaved.check()
        training = self.training_state() | {"part": part, "journal": self.observer.journal.mark()}
        path = self.checkpoints.save(self.state.step, self.network_state(), training, self.state.scores, part=part)
        self.observer.saved(path)

    def _interrupt(self, by: str, *, save: bool = True, kind: type[Interrupted] = Interrupted) -> NoReturn:
        """Save the state as it is before what is due at this step, and leave."""
        if save:
            self._save(part=True)
            self.world.share(b"saved")
        done = f"after step {self.state.step - 1}" if self.state.step else "before the first step"
        raise kind(f"stopped by {by} {done}; `--resume` continues from there")

    def network_state(self) -> Mapping[str, Tensor]:
        """The weights that count: the average where one is kept."""
        own = self.parts.ema.state_dict() if self.parts.ema else self.task.network.state_dict()
        return undivided(own, self.world)

    def training_state(self) -> dict[str, Any]:
        """Everything else of the run's state."""
        return undivided(training_state(self.parts, self.precision, self.state), self.world)

    def _begin(self) -> bool:
        """The digests of the initial state, which is refused if no checkpoint could hold it; whether something is due
        before the first step.
        """
        self._digests()
        return self.plan.validates(0)

    def _digests(self) -> None:
        """Note the digests of the state. Raises CalotypeError where another process has another."""
        found = digests(self.network_state(), self.training_state())
        self.observer.event("digests", self.state.step, tensors=found)
        for rank, theirs in enumerate(self.world.gather(json.dumps(found).encode())):
            for name, digest in json.loads(theirs).items():
                if found.get(name, digest) != digest:
                    raise CalotypeError(
                        f"process {rank} has another {name} than process {self.world.rank} at step {self.state.step}; "
                        "do all run the same code, packages and kind of processor?"
                    )

    def _restore(self, checkpoint: Checkpoint) -> bool:
        """Put a checkpoint's state back; whether what is due at its step is still to be done."""
        self.state, part = restore(checkpoint, self.parts, self.precision, self.training_state())
        return part
