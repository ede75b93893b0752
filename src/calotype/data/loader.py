"""The native loader: batches as lists of shards, from any step on, read by PyTorch's DataLoader workers.

Unusual choices. A worker is asked for a whole shard, by a plan that says which samples, so there is no iterator whose
state would have to be saved. One iterator runs through all epochs, so no worker waits at an epoch's end. Workers live
in a process session of their own: a signal to the run's process group doesn't take them, nor does a SIGTERM to each
process of a job, as schedulers send it. Their number changes no bit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from calotype.data.order import Batching, EvalOrder, Order, ShardPlan, Share, TrainOrder
from calotype.data.reader import RAGGED, Failure, ShardReader, fields_digest, one_thread, plain
from calotype.errors import CONTINUE, ConfigError, Interrupted
from calotype.faults import fault
from calotype.keys import key, seed_everything
from calotype.settings import DataSettings, seconds
from calotype.types import Batch, Shard

if TYPE_CHECKING:
    from calotype.types import IntArray

NAMED = 64
"""Sample ids an error names at most."""


class _Plans:
    """The sampler: the plans of steps start..stop; `sent` holds those handed out whose shards are not here yet."""

    def __init__(self, order: Order, start: int, stop: int | None) -> None:
        self.order, self.start, self.stop = order, start, stop
        self.sent: deque[ShardPlan] = deque()

    def __iter__(self) -> Iterator[ShardPlan]:
        step = self.start
        while self.stop is None or step < self.stop:
            batch = self.order.batch(step)
            self.sent.extend(batch)
            yield from batch
            step += 1


class NativeLoader:
    """Reads the batches of an order, or of several processes' one its `share` of them. `workers=0` reads in this
    process; `timeout` bounds the wait for one shard.
    """

    def __init__(
        self,
        reader: ShardReader,
        order: Order,
        settings: DataSettings,
        *,
        pin: bool = False,
        workers: int | None = None,
        share: Order | None = None,
    ) -> None:
        self.reader, self.order, self.settings, self.pin = reader, order, settings, pin
        self.share = share or order
        self.workers = settings.workers if workers is None else workers
        self.timeout = seconds(settings.timeout, "data.timeout")
        self.exact = True

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.order.steps_per_epoch

    @property
    def samples(self) -> int | None:
        """How many samples an evaluation reads, those of all processes; None for training."""
        return self.order.samples if isinstance(self.order, EvalOrder) else None

    def in_flight(self) -> tuple[int, int]:
        """What workers may have ready at once, and the batch that is computed: open files, and bytes of shared memory.

        Told from the first sample: exact for samples of one size.
        """
        if self.workers == 0 or len(self.reader.source) == 0:
            return 0, 0
        with one_thread():
            sample, _ = self.reader.sample(0, 0)
        batch = self.share.batch(0) or self.order.batch(0)
        tensors = [value if isinstance(value, torch.Tensor) else torch.tensor(value) for value in sample.values()]
        shards = self.workers * self.settings.prefetch + len(batch)
        largest = max(len(plan.positions) for plan in batch)
        pieces = sum(largest if name in RAGGED else 1 for name in sample)
        return shards * pieces + 4 * self.workers, shards * largest * sum(tensor.nbytes for tensor in tensors)

    def steps(self, start: int, stop: int | None = None) -> Generator[Batch, None, None]:
        """The batches of steps start..stop (for ever without `stop`).

        Raises DataError for a sample that can't be read, Interrupted when a worker dies or hangs.
        """
        plans = _Plans(self.share, start, stop)
        shards = self._here(plans) if self.workers == 0 else self._by_workers(plans)
        for step in count(start) if stop is None else range(start, stop):
            batch: Batch = []
            for _ in range(self.share.size(step)):
                batch.append(next(shards))
                plans.sent.popleft()
            yield batch

    def _here(self, plans: _Plans) -> Iterator[Shard]:
        for plan in plans:
            yield _shard(self.reader[plan])

    def _by_workers(self, plans: _Plans) -> Iterator[Shard]:
        with warnings.catch_warnings():
            # Too many workers for the cores is the user's choice; forking before any device is used is what we want.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            results = iter(
                DataLoader(
                    self.reader,  # type: ignore[arg-type]
                    sampler=plans,
                    batch_size=None,
                    collate_fn=_same,
                    num_workers=self.workers,
                    prefetch_factor=self.settings.prefetch,
                    worker_init_fn=_start_worker,
                    generator=torch.Generator(),
                    timeout=self.timeout,
                    pin_memory=self.pin,
                )
            )
        try:
            while True:
                yield _shard(self._next(results, plans))
        except StopIteration:
            return
        finally:
            del results

    def _next(self, results: Iterator[Shard | Failure], plans: _Plans) -> Shard | Failure:
        try:
            return next(results)
        except RuntimeError as error:
            if "DataLoader" not in str(error):
                raise
            positions = [position for plan in plans.sent for position in plan.positions][:NAMED]
            ids = self.reader.source.ids[positions].tolist()
            raise Interrupted(
                f"a loader worker died or hung at step {plans.sent[0].step}, reading among sample ids {ids}: {error}; "
                f"{CONTINUE}; data.workers=0 shows the cause in this process"
            ) from error


def _same(value: Any) -> Any:
    return value


def _start_worker(_: int) -> None:
    os.setsid()
    _leave_with(os.getppid())
    sys.excepthook = _told_by_the_run(sys.excepthook)
    torch.set_num_threads(1)
    fault("in_worker")


def _leave_with(run: int) -> None:
    """Obey a SIGTERM of the run's own process alone. Not to heed it at all would hang the interpreter at its end, when
    it ends its children by that signal.
    """

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=listen, daemon=True).start()


def _told_by_the_run(before: Callable[..., None]) -> Callable[..., None]:
    """The hook without lost connections: the thread that hands over shards tells of one where the run was killed in the
    middle of it, which is no news.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            before(kind, error, trace)

    return hook


def _shard(result: Shard | Failure) -> Shard:
    if isinstance(result, Failure):
        raise result.error
    return result


def train_loader(
    reader: ShardReader,
    settings: DataSettings,
    *,
    shards: int,
    limit: int | None = None,
    pin: bool = False,
    part: tuple[int, int] = (0, 1),
) -> NativeLoader:
    """The loader of the train split; `limit` ends an epoch after so many batches. `part`: this process's number among
    so many.

    Raises DataError for a split smaller than a batch, ConfigError for shards that would get no sample, and for sampling
    by class from samples that have not one class each, or in a fixed order.
    """
    if settings.batch_size < shards:
        raise ConfigError(
            f"{shards} shards can't share a batch of {settings.batch_size}; raise it or lower trainer.shards",
            key="data.batch_size",
        )
    batching = Batching(settings.batch_size, shards, settings.shuffle, settings.drop_last, limit)
    labels = _labels(reader, settings) if settings.sampling == "class_balanced" else None
    order = TrainOrder(len(reader.source), batching, reader.seed, labels)
    return NativeLoader(reader, order, settings, pin=pin, share=Share(order, *part) if part[1] > 1 else None)


def _labels(reader: ShardReader, settings: DataSettings) -> IntArray:
    labels: IntArray | None = getattr(reader.source, "labels", None)
    if labels is None or labels.shape != (len(reader.source),):
        raise ConfigError(
            "class_balanced needs a data set whose samples have one class each; set it to uniform", key="data.sampling"
        )
    if not settings.shuffle:
        raise ConfigError("class_balanced draws samples anew; set data.shuffle=true", key="data.sampling")
    return labels


def eval_loader(
    reader: ShardReader,
    settings: DataSettings,
    *,
    limit: int | None = None,
    sample: int | None = None,
    pin: bool = False,
    part: tuple[int, int] = (0, 1),
) -> NativeLoader:
    """The loader of an evaluation: every sample once in the order of ids, `limit` batches at most. `sample` takes only
    so many samples, drawn by the seed, the same each time.

    A few batches are read sooner here than by workers that have to be started for them.
    """
    size, ids, seed = settings.eval_batch_size, reader.source.ids, reader.seed
    order = EvalOrder(ids, size, limit=limit, sample=sample, seed=seed, part=part)
    workers = 0 if order.steps_per_epoch < 2 * settings.workers else settings.workers
    return NativeLoader(reader, order, settings, pin=pin, workers=workers)


def foreign_generators(reader: ShardReader, samples: int = 8) -> list[str]:
    """Names of transforms that draw from a generator of their own, found by drawing the same samples twice.

    Such a draw depends on what was drawn before, so it can be neither resumed nor spread over workers exactly.
    """
    positions = range(min(samples, len(reader.source)))

    def drawn(transforms: Sequence[Any]) -> list[bytes]:
        probe = ShardReader(reader.source, transforms, seed=reader.seed)
        return [_digest_of(probe, position) for position in positions]

    return _unrepeatable(reader.transforms, drawn)


def foreign_batch_generators(reader: ShardReader, transforms: Sequence[Any], samples: int = 8) -> list[str]:
    """The same of transforms of a whole shard."""
    if not transforms:
        return []
    with one_thread():
        shard = reader.read(ShardPlan(0, 0, 0, np.arange(min(samples, len(reader.source)))))

    def drawn(some: Sequence[Any]) -> bytes:
        fields: Any = dict(shard.fields)
        seed_everything(key(reader.seed, "probe"))
        for transform in some:
            fields = transform(fields)
        return fields_digest(
            {
                name: [plain(item) for item in value] if isinstance(value, list) else plain(value)
                for name, value in fields.items()
            }
        )

    return _unrepeatable(transforms, drawn)


def _unrepeatable(transforms: Sequence[Any], drawn: Callable[[Sequence[Any]], Any]) -> list[str]:
    """The first of the transforms without which `drawn` gives the same twice."""
    if drawn(transforms) == drawn(transforms):
        return []
    for length in range(1, len(transforms) + 1):
        if drawn(transforms[:length]) != drawn(transforms[:length]):
            return [_name(transforms[length - 1])]
    return [_name(transform) for transform in transforms]


def _name(transform: Any) -> str:
    return str(getattr(transform, "__name__", type(transform).__name__))


def _digest_of(reader: ShardReader, position: int) -> bytes:
    with one_thread():
        sample, _ = reader.sample(position, epoch=0)
    return fields_digest({name: [plain(value)] for name, value in sample.items()})
