"""What a run's network says of image files, batch by batch, for `calotype predict` and `calotype.predict`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calotype.errors import ConfigError, DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from calotype.commands._model import Model
    from calotype.types import Shard

NOT_FINITE = "the network's output is not finite"


@dataclass(frozen=True, slots=True)
class Boxes:
    """What was found in a file of `size` (height, width): boxes `xyxy` (k, 4) float32 in its pixels, which may reach
    over its edge, by descending `scores` (k,), and their classes `labels` (k,), counted from 0.
    """

    xyxy: Tensor
    scores: Tensor
    labels: Tensor
    size: tuple[int, int]

    def above(self, score: float) -> Boxes:
        """Those that score above that."""
        which = self.scores > score
        return Boxes(self.xyxy[which], self.scores[which], self.labels[which], self.size)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What came of one file: class probabilities (C,), float32; or the class of every pixel, (H, W) uint8 where they
    fit and else int64, with 255 where the network saw nothing of it; or boxes; or why there is none of these. `image`
    is the file as decoded, (C, H, W) uint8, where it was asked for.
    """

    path: str
    probabilities: Tensor | None = None
    error: str | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    boxes: Boxes | None = None


def predictions(
    model: Model, files: Sequence[str], batch_size: int | None = None, *, keep: bool = False
) -> Iterator[list[Predicted]]:
    """The predictions of each batch of files, made as they are asked for; `keep` asks for the images too. Raises
    UsageError for a size that is none, and for a task whose predictions are neither classes nor masks nor boxes.
    """
    from calotype.config.build import build, locate

    image, data = model.image, model.settings.data
    size = data.eval_batch_size if batch_size is None else batch_size
    if size < 1:
        raise UsageError(f"--batch-size {size}: at least 1")
    if model.predicts not in _ROWS:
        raise UsageError(
            f"{type(model.task).__name__} predicts {model.predicts}; files are predicted by {' or '.join(_ROWS)}"
        )
    listed, traced = locate("calotype.data.listed"), model.predicts in _ADVICE
    # a network for masks or boxes may take images of other sizes than it was trained on
    check = functools.partial(_check, image.shape[:1] if traced else image.shape, image.told())
    how = listed.Reading(check, lambda shape: not image.fits(shape), trace=traced, keep=keep)
    transforms = build(data.eval_transforms, "data.eval_transforms")
    reader = listed.FileReader(listed.Files(files, decoder(model)), transforms, how, seed=model.settings.seed)
    found = listed.batches(reader, data, 1 if None in image.shape else size)
    return (_rows(model, files, batch) for batch in found)


def decoder(model: Model) -> Callable[[bytes], Any]:
    """What turns a file's bytes into an image as the run's data set does. Raises UsageError for images that no file
    format here gives.
    """
    from calotype.config.build import locate

    given = {
        name: model.settings.dataset[name]
        for name in ("mode", "background", "max_pixels")
        if name in model.settings.dataset
    }
    modes = {1: "L", 3: "RGB"}
    if "mode" not in given and model.image.channels not in modes:
        raise UsageError(f"the run's images have {model.image.channels} channels; files give 1 (grey) or 3 (RGB)")
    decode: Any = locate("calotype.data.images.decode")
    return functools.partial(decode, **{"mode": modes.get(model.image.channels), **given})


def _check(wanted: Sequence[int | None], told: str, shape: Sequence[int]) -> None:
    """Raises DataError for a shape that doesn't begin with the wanted sizes, None for any."""
    if any(own not in (None, other) for own, other in zip(wanted, shape, strict=False)):
        raise DataError(
            f"is {' x '.join(map(str, shape))} after the run's evaluation transforms, and the network was trained on "
            f"{told}; resize it, or set --override data.eval_transforms=[...]"
        )


def _rows(model: Model, files: Sequence[str], batch: Any) -> list[Predicted]:
    found = {int(place): Predicted(files[place], error=error) for place, error in batch.errors.items()}
    for shard in batch.shards:
        found |= _ROWS[model.predicts](model, files, shard)
    return [found[place] for place in sorted(found)]


def _classes(model: Model, files: Sequence[str], shard: Shard) -> Mapping[int, Predicted]:
    found = {}
    for place, values in zip(shard.ids.tolist(), model.probabilities(shard), strict=True):
        finite = bool(values.isfinite().all())
        found[place] = Predicted(files[place], values if finite else None, None if finite else NOT_FINITE)
    return found


def _masks(model: Model, files: Sequence[str], shard: Shard) -> Mapping[int, Predicted]:
    import torch

    found = _placed(model, shard)
    if isinstance(found, str):
        return {place: Predicted(files[place], error=found) for place in shard.ids.tolist()}
    dtype = torch.uint8 if len(model.classes) <= 255 else torch.int64
    return {
        place: Predicted(files[place], error=NOT_FINITE)
        if mask is None
        else Predicted(files[place], mask=mask.to(dtype).cpu(), image=image)
        for place, mask, image in zip(shard.ids.tolist(), found["mask"], _originals(shard), strict=True)
    }


def _boxes(model: Model, files: Sequence[str], shard: Shard) -> Mapping[int, Predicted]:
    found = _placed(model, shard)
    if isinstance(found, str):
        return {place: Predicted(files[place], error=found) for place in shard.ids.tolist()}
    rows = zip(found["boxes"], found["scores"], found["labels"], shard["original_size"].tolist(), strict=True)
    told = {}
    for place, row, image in zip(shard.ids.tolist(), rows, _originals(shard), strict=True):
        boxes = _boxes_of(*row, len(model.classes))
        told[place] = Predicted(
            files[place], **{"error": boxes} if isinstance(boxes, str) else {"boxes": boxes, "image": image}
        )
    return told


def _boxes_of(boxes: Any, scores: Any, labels: Any, size: Sequence[int], classes: int) -> Boxes | str:
    """A file's boxes on the CPU, or what is wrong with them."""
    if boxes is None or not bool(boxes.isfinite().all() & scores.isfinite().all()):
        return NOT_FINITE
    wrong = [label for label in labels.tolist() if not 0 <= label < classes]
    if wrong:
        return f"the network gives a box of class {wrong[0]}, and the run has {classes}, counted from 0"
    return Boxes(boxes.float().cpu(), scores.float().cpu(), labels.cpu(), (size[0], size[1]))


def _originals(shard: Shard) -> Sequence[Any]:
    """The images as decoded, None where nobody asked for them."""
    images: Any = shard.fields.get("original") or [None] * len(shard)
    return images  # type: ignore[no-any-return]


def _placed(model: Model, shard: Shard) -> Mapping[str, Any] | str:
    """What the task predicts in the pixels of the files; or why it can't, where images are of a size that the network
    wasn't trained on.
    """
    from calotype.types import Shard

    shape = shard["image"].shape[1:]
    fields = {name: value for name, value in shard.fields.items() if name != "original"}
    try:
        return model.predictions(Shard(shard.ids, fields))
    except (RuntimeError, ConfigError) as error:
        if model.image.fits(shape):
            raise
        first = str(getattr(error, "message", error)).strip().partition("\n")[0]
        return (
            f"the network fails on {' x '.join(map(str, shape))}, and was trained on {model.image.told()}: {first} "
            f"({_ADVICE[model.predicts]})"
        )


_ADVICE = {
    "mask": "pad or resize by data.eval_transforms, or cut it into windows by inference=sliding_window",
    "boxes": "set --override data.eval_transforms=[...]",
}
"""What to do about a network that fails on a size, by the fields that lie in the pixels of files."""

_ROWS: Mapping[str, Callable[[Model, Sequence[str], Shard], Mapping[int, Predicted]]] = {
    "logits": _classes,
    "mask": _masks,
    "boxes": _boxes,
}
"""By the field that a task predicts."""
