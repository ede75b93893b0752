"""The sabotages: a file of src/calotype, a text that stands in it once, what replaces it, and the test that turns red.

A sabotage is a mistake that somebody could make or has made. `long` ones need whole runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sabotage:
    name: str
    file: str
    old: str
    new: str
    test: str
    long: bool = False


TRAINER, DATA, CHECKPOINT = (
    "tests/engine/test_trainer.py::test_",
    "tests/data/test_",
    "tests/engine/test_checkpoint.py::test_",
)
REDUCE = "tests/engine/test_reduce.py::test_"
STOPPED = "tests/test_exactness.py::test_stopped_at_awkward_moments"
LOOP, RECORD = "engine/trainer.py", "record/"

SABOTAGES = [
    Sabotage(
        "shards draw under one key",
        "engine/gradients.py",
        '"model", step, index)',
        '"model", step)',
        TRAINER + "each_shard_of_each_step_draws_under_a_key_of_its_own",
    ),
    Sabotage(
        "shards swapped",
        "engine/gradients.py",
        "for index, shard in enumerate(batch):\n",
        "for index, shard in enumerate(batch[::-1]):\n",
        TRAINER + "shards_run_in_their_order_each_from_the_steps_statistics",
    ),
    Sabotage(
        "buffers not restored between shards",
        "engine/reduce.py",
        "torch._foreach_copy_([*self.means, *self.agreeing], self._start)",
        "torch._foreach_copy_(self.agreeing, self._start[len(self.means) :])",
        TRAINER + "shards_run_in_their_order_each_from_the_steps_statistics",
    ),
    Sabotage(
        "buffers not combined",
        "engine/reduce.py",
        "torch._foreach_add_(self.means, changes)",
        "pass",
        REDUCE + "float_buffers_are_means_by_items_and_untouched_ones_keep_their_bits",
    ),
    Sabotage(
        "buffers combined without weights",
        "engine/reduce.py",
        "torch._foreach_mul_(changes, float(items))",
        "pass",
        REDUCE + "float_buffers_are_means_by_items_and_untouched_ones_keep_their_bits",
    ),
    Sabotage(
        "shards added one after another",
        "engine/reduce.py",
        "while self._partial and self._partial[-1][0] == level:",
        "while self._partial:",
        REDUCE + "eight_leaves_add_as_a_balanced_tree",
    ),
    Sabotage(
        "counts of the shard instead of the batch",
        "engine/gradients.py",
        "loss = self.forward(shard, counts)",
        "loss = self.forward(shard, self.task.counts(shard))",
        TRAINER + "counts_are_the_whole_batchs",
    ),
    Sabotage(
        "ids sorted within a batch",
        "data/order.py",
        "shard, positions[piece], None",
        "shard, np.sort(positions[rows])[piece - rows[0]], None",
        DATA + "order.py::test_the_order_within_a_batch_is_drawn_too",
    ),
    Sabotage(
        "one permutation for every epoch",
        "data/order.py",
        'generator(self.seed, "order", epoch)',
        'generator(self.seed, "order")',
        DATA + "order.py::test_epochs_and_seeds_have_orders_of_their_own",
    ),
    Sabotage(
        "sample key without the sample",
        "data/reader.py",
        '"sample", epoch, int(self.source.ids[position]), occurrence, 0)',
        '"sample", epoch, 0, occurrence, 0)',
        DATA + "reader.py::test_samples_draw_apart_from_each_other",
    ),
    Sabotage(
        "sample key without the epoch",
        "data/reader.py",
        '"sample", epoch, int(',
        '"sample", 0, int(',
        DATA + "reader.py::test_seeds_and_epochs_draw_otherwise",
    ),
    Sabotage(
        "a resume reads from the epoch's start",
        "data/loader.py",
        "        step = self.start\n",
        "        step = self.start - self.start % self.order.steps_per_epoch\n",
        DATA + "loader.py::test_nothing_that_is_skipped_is_opened",
    ),
    Sabotage(
        "latch dropped",
        "engine/precision.py",
        "not good or (self.latched and bool(self.bad))",
        "not good",
        TRAINER + "the_latch_lets_nothing_be_updated_before_the_host_looks",
    ),
    Sabotage(
        "statistics of a skipped step kept",
        LOOP,
        "cast(Buffers, self.gradients.buffers).restore()",
        "pass",
        TRAINER + "a_skipped_step_leaves_no_trace",
    ),
    Sabotage(
        "raw weights validated",
        LOOP,
        'self.parts.ema.swapped() if self.parts.ema and split != "test" else nullcontext()',
        "nullcontext()",
        TRAINER + "validation_measures_the_average",
    ),
    Sabotage(
        "no validation at the end",
        LOOP,
        "(plan.validates(step) or ended)",
        "plan.validates(step)",
        TRAINER + "validation_comes_as_planned_and_once_at_the_end",
    ),
    Sabotage(
        "validated twice at the end",
        LOOP,
        "            ended = self._validate() or ended\n",
        "            ended = (ended and self._validate()) or self._validate() or ended\n",
        TRAINER + "validation_comes_as_planned_and_once_at_the_end",
    ),
    Sabotage(
        "warm-up for good",
        "engine/schedule.py",
        "            _set_rates(optimizer, rates)\n",
        "            pass\n",
        "tests/engine/test_schedule.py::test_warm_up_is_linear_from_zero_and_gives_the_rates_back",
    ),
    Sabotage(
        "strides lost",
        "engine/codec.py",
        'return {"$tensor": path, "strides": list(value.stride())}',
        'return {"$tensor": path}',
        "tests/engine/test_codec.py::test_momentum_of_a_channels_last_kernel_keeps_its_strides",
    ),
    Sabotage(
        "file not synced",
        "files.py",
        "        os.fsync(file.fileno())\n",
        "",
        CHECKPOINT + "the_order_of_the_calls_that_make_a_checkpoint_durable",
    ),
    Sabotage(
        "folder not synced",
        "files.py",
        "        os.fsync(handle)\n",
        "        pass\n",
        CHECKPOINT + "the_order_of_the_calls_that_make_a_checkpoint_durable",
    ),
    Sabotage(
        "pointer before the rename",
        "engine/checkpoint.py",
        "self._write(folder, contents(step, network, training))",
        "self._point(folder.name, scores); self._write(folder, contents(step, network, training))",
        CHECKPOINT + "the_order_of_the_calls_that_make_a_checkpoint_durable",
    ),
    Sabotage(
        "ties to the earlier",
        "engine/checkpoint.py",
        "(self.sign * numbers[step], step)",
        "(self.sign * numbers[step], -step)",
        CHECKPOINT + "ties_go_to_the_later",
    ),
    Sabotage(
        "journal's mark off by one",
        RECORD + "journal.py",
        '"length": self._length,',
        '"length": self._length - 1,',
        "tests/test_exactness.py::test_asked_to_stop_at_every_step[classification]",
        long=True,
    ),
    Sabotage(
        "average not restored",
        "engine/state.py",
        "parts.ema.load_state_dict(model)",
        "pass",
        STOPPED + "[after_step@5:SIGTERM-0-classification]",
    ),
    Sabotage(
        "schedule not restored",
        "engine/state.py",
        'parts.scheduler.load_state_dict(state["scheduler"])',
        "pass",
        STOPPED + "[after_step@5:SIGTERM-0-classification]",
        long=True,
    ),
    Sabotage(
        "scale not restored",
        "engine/state.py",
        'precision.load_state_dict(state["precision"])',
        "pass",
        "tests/test_exactness.py::test_an_overflow_of_half_precision_is_no_error[classification]",
        long=True,
    ),
    Sabotage(
        "what was due at an interrupted step forgotten",
        "engine/state.py",
        'bool(state["part"])',
        "False",
        STOPPED + "[in_val@2:SIGTERM+in_val@3:SIGTERM-0-classification]",
        long=True,
    ),
    Sabotage(
        "pointers left where a kill left them",
        LOOP,
        "self.checkpoints.settle(resume, self.state.scores)",
        "pass",
        STOPPED + "[before_pointer@9-0-classification]",
        long=True,
    ),
    Sabotage(
        "lock inherited by workers",
        RECORD + "folder.py",
        "        _held.add(handle)\n",
        "",
        STOPPED + "[after_step@5-2-classification]",
        long=True,
    ),
    Sabotage(
        "repeated draws of a sample augmented alike",
        "data/reader.py",
        "int(self.source.ids[position]), occurrence, 0))",
        "int(self.source.ids[position]), 0, 0))",
        "tests/data/test_reader.py::test_draws_of_one_sample_within_an_epoch_draw_apart",
    ),
    Sabotage(
        "schedules go by what was seen before training",
        LOOP,
        "if step == 0 or parts.val is None:",
        "if parts.val is None:",
        "tests/test_watching.py::test_nothing_goes_by_what_was_seen_before_training",
        long=True,
    ),
    Sabotage(
        "an average of three is of two",
        "engine/swa.py",
        "total / len(tensors)",
        "total / 2",
        "tests/engine/test_swa.py::test_the_arithmetic_mean_is_rounded_once_whatever_the_order",
    ),
    Sabotage(
        "dropout of an average's pass unkeyed",
        "engine/swa.py",
        'seed_torch(key(options.seed, "model", step, index), options.device)',
        "pass",
        "tests/engine/test_swa.py::test_draws_are_keyed_so_twice_is_the_same",
    ),
    Sabotage(
        "a replayed step clipped before it is looked at",
        "engine/replay.py",
        "self.options = replace(self.options, clip=None)",
        "pass",
        "tests/commands/test_replay.py::test_a_backward_that_is_not_finite",
    ),
    Sabotage(
        "a process's levels of the tree left out",
        "engine/doubling.py",
        "bit <<= 1",
        "bit <<= 2",
        "tests/test_workers.py::test_any_number_of_processes_gives_the_same_bits[classification-as_it_stands-4]",
        long=True,
    ),
    Sabotage(
        "draws of a process's own shards",
        "engine/gradients.py",
        "self.backward(self.first_shard + index, ",
        "self.backward(index, ",
        "tests/test_workers.py::test_any_number_of_processes_gives_the_same_bits[classification-as_it_stands-2]",
        long=True,
    ),
    Sabotage(
        "counts of a process's own shards",
        "engine/survey.py",
        "merge(result.counts, found)",
        "result.counts.update(found)",
        "tests/test_workers.py::test_any_number_of_processes_gives_the_same_bits[classification-as_it_stands-2]",
        long=True,
    ),
    Sabotage(
        "a tail of one shard goes another way",
        "engine/gradients.py",
        "if self.options.shards > 1 or len(batch) > 1:",
        "if self.doubling or len(batch) > 1:",
        "tests/test_workers.py::test_any_number_of_processes_gives_the_same_bits[classification-tail-2]",
        long=True,
    ),
    Sabotage(
        "what only others have, laid out as it came",
        "engine/doubling.py",
        "torch.empty_like(like).copy_(b)",
        "b.clone()",
        "tests/test_workers.py::test_any_number_of_processes_gives_the_same_bits[classification-tail_channels_last-4]",
        long=True,
    ),
    Sabotage(
        "a failed checkpoint is not shared",
        "engine/trainer.py",
        'tries again at the next checkpoint")\n        self.world.share(b"saved")',
        'tries again at the next checkpoint")\n            return\n        self.world.share(b"saved")',
        "tests/test_workers.py::test_what_one_process_fails_with_all_end_with[warn]",
        long=True,
    ),
    Sabotage(
        "evaluations added by process",
        "engine/evaluate.py",
        "for row in zip_longest(*dealt, fillvalue={}):",
        "for row in dealt:",
        "tests/engine/test_evaluate.py::test_what_is_rounded_is_added_in_the_order_of_the_batches_whoever_had_them",
    ),
    Sabotage(
        "DDP's buckets not settled",
        "engine/replicated.py",
        "WARM_UP = 2",
        "WARM_UP = 0",
        "tests/test_workers.py::test_ddp_resumes_exactly[classification-3]",
        long=True,
    ),
    Sabotage(
        "shares of a batch averaged under fsdp",
        "engine/sharded.py",
        "module.set_gradient_divide_factor(1.0)",
        "module.set_gradient_divide_factor(2.0)",
        "tests/test_sharded.py::test_fsdp_comes_to_the_weights_of_one_process[2-optimizer0-32-1e-05]",
        long=True,
    ),
    Sabotage(
        "the norm of a process's own part",
        "engine/sharded.py",
        "torch.linalg.vector_norm(self.world.every(self.own(gradients)))",
        "self.own(gradients)",
        "tests/test_sharded.py::test_fsdp_comes_to_the_weights_of_one_process[2-optimizer0-32-1e-05]",
        long=True,
    ),
    Sabotage(
        "who fails keeps its connections",
        "engine/distributed.py",
        "self._hang_up()",
        "dist.destroy_process_group()",
        "tests/test_sharded.py::test_a_step_that_does_not_fit_into_one_process_stops_all[0-fsdp]",
        long=True,
    ),
]
