"""The values that cross the borders between packages, and the protocols a plug-in satisfies.

Nothing here imports torch at run time, so the command line can. A plug-in needs no base class: any object with these
methods is equal to ours. Units: images are uint8 NCHW, or float in 0..1 before normalisation; boxes are absolute xyxy
pixels; masks are int64 with 255 as void; steps and epochs count from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    IntArray: TypeAlias = npt.NDArray[np.int64]
    DigestArray: TypeAlias = npt.NDArray[np.uint64]

Sample: TypeAlias = "dict[str, Any]"
"""One sample before batching: "image" is a tv_tensors.Image (C, H, W) uint8; "label" an int, "mask" a tv_tensors.Mask
(H, W) int64, "boxes" a tv_tensors.BoundingBoxes (n, 4) with "labels" (n,) int64."""

VOID = 255
"""The id of a mask's pixels that count nowhere."""
CROWD, DIFFICULT, TRUNCATED = 1, 2, 4
"""Flags of a box: it is around many of a kind; too difficult to count in an evaluation; cut by the image's edge."""

Counts: TypeAlias = "Mapping[str, float]"
"""How many items each loss term is divided by: images, valid pixels, matched boxes."""

Split: TypeAlias = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a batch, in memory of its own.

    `fields` holds tensors whose first dimension is the sample (or lists of one tensor per sample where sizes differ).
    Images of files that are predicted may have beside them "original_size" (n, 2) int64, the files' height and width,
    and "affine" (n, 2, 3) float64, which takes an (x, y) of the file to that of the image, in pixels from the upper
    left corner.
    `digest` covers every byte of `fields` as the loader made them; `contents` is (n, 2): for each sample a 64-bit
    digest of its stored content and of its stored target, before any transform.
    """

    ids: IntArray
    fields: Mapping[str, Tensor | list[Tensor]]
    digest: bytes = b""
    contents: DigestArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def description(self) -> str:
        """Names, shapes and types of the fields, for a message."""

        def shape(value: Any) -> str:
            some = isinstance(value, list)
            tensor = value[0] if some else value
            return f"{'a list of ' if some else ''}{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"

        return ", ".join(f"{name} {shape(value)}" for name, value in self.fields.items())

    def to(self, device: Any, memory_format: Any = None) -> Shard:
        """The same shard on `device`; 4-dimensional float and uint8 tensors in `memory_format` where one is given."""

        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(item) for item in value]
            if memory_format is not None and value.dim() == 4:
                return value.to(device, memory_format=memory_format, non_blocking=True)
            return value.to(device, non_blocking=True)

        return replace(self, fields={name: move(value) for name, value in self.fields.items()})

    def pin_memory(self) -> Shard:
        """The same shard in page-locked memory; torch's DataLoader calls it when a CUDA device will read the shard."""
        pinned = {
            name: [item.pin_memory() for item in value] if isinstance(value, list) else value.pin_memory()
            for name, value in self.fields.items()
        }
        return replace(self, fields=pinned)


Batch: TypeAlias = "list[Shard]"


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a loss for the log: its sum over items (a detached scalar tensor), the items, its weight in the
    loss.
    """

    sum: Tensor
    count: float
    weight: float = 1.0

    def __add__(self, other: Term) -> Term:
        return Term(self.sum + other.sum, self.count + other.count, self.weight)


@dataclass(slots=True)
class Loss:
    """A shard's share of the batch loss, already divided by the batch's counts, so that shards' values just add."""

    value: Tensor
    terms: Mapping[str, Term] = field(default_factory=dict)


@dataclass(slots=True)
class StepRecord:
    """What the journal keeps of a step: functions of the record alone. `digest` is of the inputs, hex."""

    step: int
    epoch: int
    ids: str
    digest: str
    loss: float
    norm: float
    lr: tuple[float, ...]
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions of one shard in original image coordinates; keys are the task's own ("scores", "mask", "boxes")."""

    ids: IntArray
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@runtime_checkable
class Source(Protocol):
    """One split of a data set: samples by position, decoded and not yet transformed.

    `ids` are unique and ascending: a sample keeps its id when others come and go where the format allows that.
    `files` are what the split is read from; `containers` those among them that hold many samples and are read whole,
    with the sha256 of the bytes that were read. A source of one class a sample may have `labels`, int64 (n,) in the
    order of `ids`, which sampling by class reads.
    """

    ids: IntArray

    @property
    def files(self) -> Sequence[Path]: ...
    @property
    def containers(self) -> Mapping[Path, str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> Sample: ...
    def name(self, position: int) -> str: ...


@runtime_checkable
class DataSet(Protocol):
    """A data set: class names and the splits it has. `split` raises DataError that names what is missing."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def splits(self) -> Sequence[str]: ...
    def split(self, name: str) -> Source: ...


class Metric(Protocol):
    """A measurement over a split. `update` returns nothing and never waits for the device; `state` is additive.

    The engine makes a fresh metric for each batch and adds the states in batch order, so a value doesn't depend on who
    computed which batch. `state` maps names to tensors of fixed shape (integers, or float64 on the CPU), which are
    added, and to lists of tensors, which are put one after another: what is known of single samples, with their ids.
    """

    def update(self, prediction: Prediction, shard: Shard) -> None: ...
    def state(self) -> Mapping[str, Tensor | list[Tensor]]: ...
    def compute(self, state: Mapping[str, Any]) -> Mapping[str, Any]: ...


class Gallery(Protocol):
    """Pictures of an evaluation, for trackers that want them. `update` never waits for the device; `pictures` gives
    arrays (3, H, W) uint8 by name, on the host. Optional: `of_all` names those that say something of all samples; they
    are left out where several processes share the samples.
    """

    def update(self, prediction: Prediction, shard: Shard) -> None: ...
    def pictures(self) -> Mapping[str, Any]: ...


class Task(Protocol):
    """Owns network and criterion; an `nn.Module` whose `network` attribute is the part that is saved as the model.

    `counts` reads the targets alone. `forward` gets the batch's total counts and returns a Loss already divided by
    them. A batch that counts 0 of everything moves no weight; `learns_from` names the counts that this is about, where
    it isn't all of them.
    `metrics` maps names to factories of fresh metrics; metric names become `split/name`. Optional: `evaluate(shard,
    counts)` gives loss and prediction from one pass, `gallery()` a fresh Gallery; an attribute `inference`, None, is
    set to what asks the network at evaluation and prediction; `predicts` names the field that files are predicted by:
    "logits" (where there is none), or "mask", which of a shard with "affine" is a list of the masks of the files,
    (H, W) in their own pixels, 255 where the network saw nothing, None for output that is not finite; or "boxes", with
    "scores" and "labels" lists of (k, 4) xyxy, (k,) and (k,) by descending score, of a shard with "affine" in the
    pixels of the files, None likewise. An attribute `score` is then the least score of a box, and may be set.
    """

    network: Any

    def counts(self, shard: Shard) -> dict[str, float]: ...
    def __call__(self, shard: Shard, counts: Counts) -> Loss: ...
    def predict(self, shard: Shard) -> Prediction: ...
    def metrics(self) -> Mapping[str, Callable[[], Metric]]: ...


class Loader(Protocol):
    """Yields batches as lists of shards, from any step on, without reading what was skipped."""

    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def exact(self) -> bool: ...
    def steps(self, start: int, stop: int | None = None) -> Generator[Batch, None, None]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A step of a network's forward pass: its place (`Net/layer1/conv2d`), what it does, the nodes it reads, the shape
    of what it gives.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]


class Tracker(Protocol):
    """A mirror of a run. It may fail or be slow; the local files are the truth.

    Optional: with a true attribute `wants_images` it is given pictures of evaluations by `image`, with `wants_graph`
    the network by `graph(nodes)`, a list of Node, once, with `wants_progress` how far an evaluation is, by
    `progress(split, done, total)`, in samples.
    """

    def start(self, run: Any) -> None: ...
    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...
    def image(self, step: int, name: str, image: Any) -> None: ...
    def artifact(self, path: Path) -> None: ...
    def close(self, status: str) -> None: ...
