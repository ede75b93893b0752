"""Metrics of labelled images, and of maps by way of the confusion matrix.

A metric gathers integers and divides once, in `compute`, from the sums over the whole split: never an average of
averages. `update` stays on the device and never waits for it. What has nothing to divide by is NaN, and a mean over
classes leaves out the classes that neither a target nor a prediction names.
Unusual: items are counted by an integer scatter_add rather than bincount, which on CUDA waits for the host to learn the
largest value; integer sums don't depend on their order, so the result is the same on every device. Ties between
scores go to the smaller class index, also in the top k, and a score that is not a number is never right.
Where images have any number of labels, "label" is float (n, C) of 0 and 1, and a class is predicted whose probability,
the sigmoid of its logit, is above a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from calotype.errors import ConfigError
from calotype.types import VOID

if TYPE_CHECKING:
    from calotype.types import Prediction, Shard


class Summed:
    """Base of metrics whose state is named integer sums; `zeros` gives the state before the first update."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self._shapes = shapes
        self._sums: dict[str, Tensor] = {}

    def add(self, **terms: Tensor) -> None:
        """Add each term to the sum of its name."""
        self._sums = {name: self._sums[name] + term for name, term in terms.items()} if self._sums else terms

    def state(self) -> dict[str, Tensor]:
        """The sums so far, int64."""
        return dict(self._sums) or {name: torch.zeros(shape, dtype=torch.int64) for name, shape in self._shapes.items()}


class Accuracy(Summed):
    """Share of images whose label is among the `top` highest scores: `accuracy`, or `top5` for top=5."""

    def __init__(self, top: int = 1) -> None:
        super().__init__(correct=(), images=())
        if top < 1:
            raise ConfigError(f"top is {top}, and must be at least 1")
        self.top = top

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Add a shard: "logits" (n, C) and "label" (n,)."""
        logits, label = prediction["logits"], shard["label"]
        correct = (rank(logits, label) < self.top).sum()
        self.add(correct=correct, images=torch.full_like(correct, len(label)))

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """`accuracy` or `top<k>`, in 0..1."""
        name = "accuracy" if self.top == 1 else f"top{self.top}"
        return {name: _ratio(state["correct"], state["images"]).item()}


class ExactMatch(Summed):
    """Share of images whose labels are all found and no other: `exact_match`. For images of any number of labels."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__(correct=(), images=())
        self._least = _logit(threshold)

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Add a shard: "logits" (n, C) and "label" (n, C)."""
        correct = ((prediction["logits"] > self._least) == (shard["label"] > 0.5)).all(1).sum()
        self.add(correct=correct, images=torch.full_like(correct, len(shard["label"])))

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """`exact_match`, in 0..1."""
        return {"exact_match": _ratio(state["correct"], state["images"]).item()}


class _PerClassCounts(Summed):
    """Base of metrics made of each class's hits, targets and predictions. `threshold` is for images of many labels."""

    def __init__(self, num_classes: int, threshold: float = 0.5) -> None:
        super().__init__(hits=(num_classes,), targets=(num_classes,), predictions=(num_classes,))
        self.num_classes = num_classes
        self._least = _logit(threshold)

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Add a shard: "logits" (n, C) and "label" (n,), or (n, C) where images have any number of labels."""
        logits, label = prediction["logits"], shard["label"]
        if label.dim() == 2:
            found, true = logits > self._least, label > 0.5
            return self.add(hits=(found & true).sum(0), targets=true.sum(0), predictions=found.sum(0))
        predicted = logits.argmax(1)
        hit = torch.where(predicted == label, label, self.num_classes)
        return self.add(
            hits=count(hit, self.num_classes),
            targets=count(label, self.num_classes),
            predictions=count(predicted, self.num_classes),
        )


class F1(_PerClassCounts):
    """Macro F1: the mean over classes of 2 hits / (targets + predictions)."""

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """`f1`, in 0..1."""
        return {"f1": _ratio(2 * state["hits"], state["targets"] + state["predictions"]).nanmean().item()}


class PerClass(_PerClassCounts):
    """Recall, precision and F1 of each class, under the names in `classes`."""

    def __init__(self, classes: Sequence[str], threshold: float = 0.5) -> None:
        super().__init__(len(classes), threshold)
        self.classes = tuple(classes)

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """`recall[<class>]`, `precision[<class>]` and `f1[<class>]`, in 0..1 or NaN."""
        hits, targets, predictions = state["hits"], state["targets"], state["predictions"]
        columns = {
            "recall": _ratio(hits, targets),
            "precision": _ratio(hits, predictions),
            "f1": _ratio(2 * hits, targets + predictions),
        }
        return {
            f"{measure}[{name}]": value
            for measure, column in columns.items()
            for name, value in zip(self.classes, column.tolist(), strict=True)
        }


class ConfusionMatrix(Summed):
    """Counts of (label, predicted class), rows by label."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(confusion=(num_classes, num_classes))
        self.num_classes = num_classes

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Add a shard: "logits" (n, C) and "label" (n,)."""
        self.add(confusion=confusion(shard["label"], prediction["logits"].argmax(1), self.num_classes))

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, list[list[int]]]:
        """`confusion`, as a list of rows."""
        return {"confusion": state["confusion"].tolist()}


class MeanIoU(Summed):
    """Intersection over union of a segmentation, from one confusion matrix over the split. `classes` begin with the
    background.

    Pixels whose target is void (255) are left out, as the PASCAL VOC protocol has it; what was predicted there is
    counted apart, so that the mean with void as background is known as well.
    Source: M. Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(confusion=(len(classes), len(classes)), void=(len(classes),))
        self.classes = tuple(classes)

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Add a shard: "mask" (n, H, W) of both, classes or void."""
        pairs = paired(shard["mask"], prediction["mask"], len(self.classes))
        self.add(confusion=pairs[:-1], void=pairs[-1])

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """`mIoU`, `mIoU_objects` (without the background), `mIoU_void_as_background`, `pixel_accuracy`, `mDice` and
        `IoU[<class>]`, in 0..1 or NaN.
        """
        matrix = state["confusion"]
        as_background = matrix.clone()
        as_background[0] += state["void"]
        hits = matrix.diagonal()
        return {
            "mIoU": mean_iou(matrix),
            "mIoU_objects": mean_iou(matrix, without=[0]),
            "mIoU_void_as_background": mean_iou(as_background),
            "pixel_accuracy": _ratio(hits.sum(), matrix.sum()).item(),
            "mDice": _ratio(2 * hits, matrix.sum(0) + matrix.sum(1)).nanmean().item(),
            **{f"IoU[{name}]": value for name, value in zip(self.classes, iou(matrix).tolist(), strict=True)},
        }


def paired(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(C + 1, C) int64 counts of (target, predicted) pixels, the last row for void (255).

    By 16-bit numbers up to 127 classes: for 8 pairs of 513 x 513 bytes 1.4 ms on a core (int64 3.1), by `confusion` 84.
    """
    rows = VOID + 1
    dtype = torch.int16 if rows * classes <= torch.iinfo(torch.int16).max else torch.int32
    pairs = target.to(dtype, copy=True).mul_(classes).add_(predicted.to(dtype)).flatten()
    size = rows * classes
    on_host = pairs.device.type == "cpu"
    counts = torch.bincount(pairs, minlength=size) if on_host else count(pairs.long(), size)
    table = counts.view(rows, classes)
    return torch.cat([table[:classes], table[VOID:]])


def rank(logits: Tensor, label: Tensor) -> Tensor:
    """How many classes come before the label's, (n,) int64: those that score higher, or as high at a smaller index."""
    own = logits.gather(1, label.unsqueeze(1))
    later = torch.arange(logits.shape[1], device=logits.device) >= label.unsqueeze(1)
    return (~((logits < own) | ((logits == own) & later))).sum(1)


def count(values: Tensor, size: int) -> Tensor:
    """How often each of 0..size-1 occurs in int64 `values`, (size,); others are not counted."""
    values = values.flatten()
    bins = torch.where((values >= 0) & (values < size), values, size)
    counts = torch.zeros(size + 1, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(0, bins, torch.ones_like(bins))[:size]


def confusion(target: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64 counts of (target, predicted); a pair with either outside 0..C-1, such as void, is not counted."""
    known = (target >= 0) & (target < num_classes) & (predicted >= 0) & (predicted < num_classes)
    pairs = torch.where(known, target * num_classes + predicted, -1)
    return count(pairs, num_classes * num_classes).view(num_classes, num_classes)


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union of each class, (C,) float64, from a summed confusion matrix; NaN for an absent class."""
    hits = matrix.diagonal()
    return _ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def mean_iou(matrix: Tensor, without: Sequence[int] = ()) -> float:
    """Mean of the classes' IoU, over those present and not in `without`."""
    values = iou(matrix)
    kept = [index for index in range(len(values)) if index not in without]
    return values[kept].nanmean().item()


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part.double() / whole.double()


def _logit(threshold: float) -> float:
    """The logit of a probability. Raises ConfigError outside 0..1."""
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold is {threshold}, and must be between 0 and 1")
    return math.log(threshold / (1 - threshold))
