"""Reads one shard: samples, their transforms, their digests, one block of memory. It runs in the loader's workers.

Every sample is drawn under its own key (seed, epoch, sample id, occurrence), so neither the worker that reads it nor
what was read before changes a pixel. The stored content is digested before any transform, the finished shard after: the
first tells a changed data set, the second a changed pipeline.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import default_collate, get_worker_info

from calotype.data.geometry import traced
from calotype.digest import Digest
from calotype.errors import CalotypeError, DataError
from calotype.keys import key, seed_everything
from calotype.types import Sample, Shard, Source

if TYPE_CHECKING:
    from calotype.data.order import ShardPlan
    from calotype.types import DigestArray, IntArray

RAGGED = frozenset({"boxes", "labels", "truth"})
"""Fields whose length differs from sample to sample: they stay lists of tensors."""

Transform = Callable[..., Sample]


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample that could not be read, sent from a worker as plain data."""

    error: CalotypeError
    detail: str


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the data path on one thread, so that it computes the same in a worker and in the training process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def naming(source: Source, position: int) -> Iterator[None]:
    """Within the context an error that is none of ours becomes a DataError naming the sample."""
    try:
        yield
    except CalotypeError:
        raise
    except Exception as error:
        where = f"sample {source.ids[position]} ({source.name(position)})"
        raise DataError(f"{where}: {type(error).__name__}: {error}") from error


class ShardReader:
    """Maps a ShardPlan to a Shard, or to a Failure that names the sample.

    What a source gives to judge by ("truth") is kept where it `judges`, with "affine", how the image came from its
    file's pixels, and left out elsewhere.
    """

    def __init__(
        self, source: Source, transforms: Sequence[Transform] = (), *, seed: int = 0, judges: bool = False
    ) -> None:
        self.source, self.transforms, self.seed, self.judges = source, tuple(transforms), seed, judges

    def __getitem__(self, plan: ShardPlan) -> Shard | Failure:
        try:
            with one_thread():
                return self.read(plan)
        except CalotypeError as error:
            return Failure(error, traceback.format_exc())

    def read(self, plan: ShardPlan) -> Shard:
        """The shard of a plan. Raises DataError naming the sample that can't be read or transformed."""
        contents = np.empty((len(plan.positions), 2), np.uint64)
        samples = []
        for row, position in enumerate(plan.positions.tolist()):
            occurrence = 0 if plan.occurrences is None else int(plan.occurrences[row])
            sample, contents[row] = self.sample(position, plan.epoch, occurrence)
            samples.append(sample)
        ids = self.source.ids[plan.positions]
        fields = {name: self._joined(name, [sample[name] for sample in samples], plan) for name in samples[0]}
        return Shard(ids, fields, fields_digest(fields), contents)

    def sample(self, position: int, epoch: int, occurrence: int = 0) -> tuple[Sample, tuple[int, int]]:
        """One transformed sample and the digests of its stored content and target. `occurrence` counts its draws within
        an epoch.
        """
        with naming(self.source, position):
            sample = self.source[position]
            contents = content_digest(sample)
            truth = sample.pop("truth", None)
            if truth is None or not self.judges:
                return self.transformed(sample, position, epoch, occurrence), contents
            sample, affine = traced(lambda given: self.transformed(given, position, epoch, occurrence), sample)
        return {**sample, "truth": truth, "affine": affine}, contents

    def transformed(self, sample: Sample, position: int, epoch: int, occurrence: int = 0) -> Sample:
        """A stored sample after the transforms, which draw under its key."""
        if self.transforms:
            seed_everything(key(self.seed, "sample", epoch, int(self.source.ids[position]), occurrence, 0))
        return self._applied(self.transforms, sample)

    def _applied(self, transforms: Sequence[Transform], sample: Sample) -> Sample:
        for place, transform in enumerate(transforms):
            if wanted := getattr(transform, "partners", 0):
                partners = [self._applied(transforms[:place], partner) for partner in self._drawn(wanted)]
                sample = transform(sample, partners)
            else:
                sample = transform(sample)
        return sample

    def _drawn(self, count: int) -> list[Sample]:
        """Stored samples drawn under the key of the one that is read, for a transform that puts several together."""
        samples = []
        for position in torch.randint(len(self.source), (count,)).tolist():
            with naming(self.source, position):
                stored = self.source[position]
            samples.append({name: value for name, value in stored.items() if name not in ("content", "truth")})
        return samples

    def _joined(self, name: str, values: list[Any], plan: ShardPlan) -> torch.Tensor | list[torch.Tensor]:
        if name in RAGGED:
            return [plain(value) for value in values]
        if not isinstance(values[0], torch.Tensor):
            return torch.tensor(values)
        shapes = [tuple(value.shape) for value in values]
        odd = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            first, other = (self.source.name(int(plan.positions[row])) for row in (0, odd))
            raise DataError(
                f"{name} of {first} is {shapes[0]} and of {other} {shapes[odd]}: one batch needs one size; "
                "add a resize or a crop to the transforms",
            )
        return _stacked([value.as_subclass(torch.Tensor) for value in values])


def _stacked(values: list[torch.Tensor]) -> torch.Tensor:
    """The values as one contiguous tensor; a worker lays it into the memory that it shares, which saves a copy."""
    if get_worker_info() is not None:
        joined: torch.Tensor = default_collate(values)
        return joined
    return torch.stack(values, out=torch.empty((len(values), *values[0].shape), dtype=values[0].dtype))


def plain(value: Any) -> torch.Tensor:
    """The value as a contiguous tensor without its torchvision type."""
    return torch.as_tensor(value).as_subclass(torch.Tensor).contiguous()


def content_digest(sample: Sample) -> tuple[int, int]:
    """64-bit digests of a stored sample: of its content (the bytes under "content", else the image) and of the rest.

    A source whose samples are files puts the bytes it read under "content", which is taken out here.
    """
    content = sample.pop("content", None)
    image = Digest().add(content if content is not None else plain(sample["image"]).numpy())
    target = Digest()
    for name in sorted(sample):
        if name != "image":
            target.add(name).add(plain(sample[name]).numpy())
    return image.int(), target.int()


def fields_digest(fields: dict[str, torch.Tensor | list[torch.Tensor]]) -> bytes:
    """A 128-bit digest of every name, type, shape and byte of a shard's fields."""
    digest = Digest(128)
    for name in sorted(fields):
        value = fields[name]
        for tensor in value if isinstance(value, list) else [value]:
            digest.add(f"{name}{tensor.dtype}{tuple(tensor.shape)}")
            digest.add(tensor.view(torch.uint8).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy())
    return digest.bytes()


def content_digests(source: Source, positions: IntArray | None = None) -> DigestArray:
    """The digests of a source's samples, of all or of those at `positions`, (n, 2) uint64.

    Raises DataError naming a sample that can't be read.
    """
    wanted = range(len(source)) if positions is None else positions.tolist()
    digests = np.empty((len(wanted), 2), np.uint64)
    for row, position in enumerate(wanted):
        with naming(source, position):
            digests[row] = content_digest(source[position])
    return digests
