"""Object detection: boxes and their classes.

Reads "image" (n, c, H, W), "boxes" and "labels" of a shard, lists of (k, 4) xyxy pixels of the image and (k,) int64,
and to judge by "truth" and "affine", which brings a box back to the pixels of its file.
Two kinds of networks: those with `default_boxes` give offsets and logits of them (`calotype.models.detection`), and the
task matches, weighs and decodes; others are asked as torchvision's detectors are: images and targets give a mapping of
losses in training, images alone boxes, scores and labels counted from 1. What these divide by is their own business, so
of a batch in shards the loss is the mean over images of what each shard gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calotype.average_precision import AveragePrecision
from calotype.boxes import brought_back, corners, decoded, encoded, matched, solid, suppressed
from calotype.errors import ConfigError, DataError
from calotype.losses import MultiBoxLoss
from calotype.tasks.gallery_detection import DetectionGallery
from calotype.tasks.pixels import Pixels
from calotype.types import Counts, Loss, Prediction, Term

if TYPE_CHECKING:
    from calotype.types import Metric, Shard

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (k, 4) xyxy, scores (k,) and labels (k,) of an image, by descending score."""


class Detection(nn.Module):
    """The detection task.

    Of default boxes: `loss` is MultiBoxLoss where none is given. `detections` may have "score", which a class's boxes
    score above (0.05), "overlap", the IoU above which the better of two stays (0.5), and "most" of an image (200).
    `normalize` is {"mean": [...], "std": [...]} per channel, `metrics` replaces the default.
    """

    predicts = "boxes"

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] = (),
        loss: nn.Module | None = None,
        normalize: Mapping[str, Sequence[float]] | None = None,
        detections: Mapping[str, float] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        if not classes:
            raise ConfigError("the data set has no classes; name them", key="module.classes")
        self.network, self.classes = network, tuple(classes)
        self.anchored = hasattr(network, "default_boxes")
        if loss is not None and not self.anchored:
            raise ConfigError(f"{type(network).__name__} has losses of its own; leave it out", key="module.loss")
        chosen = _detections(detections or {})
        self.score, self.overlap, self.most = chosen["score"], chosen["overlap"], int(chosen["most"])
        self.loss = MultiBoxLoss() if loss is None else loss
        self.match: float = getattr(self.loss, "match", 0.5)
        self.learns_from = ("boxes",) if self.anchored else ("images",)
        self.images = Pixels(normalize)
        self._metrics = {"ap": AveragePrecision(self.classes)} if metrics is None else dict(metrics)

    def counts(self, shard: Shard) -> dict[str, float]:
        """The shard's images, and the boxes to learn from. Raises DataError naming a sample with an unknown class."""
        for row, labels in enumerate(shard["labels"]):
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                wrong = [label for label in labels.tolist() if not 0 <= label < len(self.classes)]
                raise DataError(
                    f"sample {shard.ids[row]} has a box of class {wrong[0]}, and there are {len(self.classes)}: count "
                    "from 0"
                )
        boxes = sum(int(solid(found).sum()) for found in shard["boxes"])
        return {"images": float(len(shard)), "boxes": float(boxes)}

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        """The shard's share of the batch's loss."""
        images = self.images(shard["image"])
        if self.anchored:
            return self._anchored_loss(self.network(images), shard, counts)
        means: Mapping[str, Tensor] = self.network(images, self._targets(shard))
        value = sum(means.values(), torch.zeros((), device=images.device)) * len(shard) / counts["images"]
        terms = {name: Term(mean.detach() * len(shard), float(len(shard))) for name, mean in means.items()}
        return Loss(value, terms)

    def predict(self, shard: Shard) -> Prediction:
        """Fields: lists of "boxes" (k, 4) xyxy float32, "scores" and "labels" (k,), by descending score, in the pixels
        of the images, or of their files where the shard says how these came from them ("affine"). Of an image whose
        output is not finite None.
        """
        images = self.images(shard["image"])
        return self._prediction(self._found(self.network(images), images), shard)

    def evaluate(self, shard: Shard, counts: Counts) -> tuple[Loss, Prediction]:
        """Loss and prediction from one pass; of a network that has losses of its own in training alone none."""
        images = self.images(shard["image"])
        outputs = self.network(images)
        loss = self._anchored_loss(outputs, shard, counts) if self.anchored else Loss(images.new_zeros(()))
        return loss, self._prediction(self._found(outputs, images), shard)

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        """Factories of fresh metrics by name."""
        return {name: partial(copy.deepcopy, metric) for name, metric in self._metrics.items()}

    def gallery(self) -> DetectionGallery:
        """A fresh gallery of pictures for trackers."""
        return DetectionGallery(self.classes)

    def _targets(self, shard: Shard) -> list[dict[str, Tensor]]:
        """As torchvision's detectors take them: solid boxes, labels from 1."""
        targets = []
        for boxes, labels in zip(shard["boxes"], shard["labels"], strict=True):
            there = solid(boxes)
            targets.append({"boxes": boxes[there], "labels": labels[there] + 1})
        return targets

    def _anchored_loss(self, outputs: tuple[Tensor, Tensor], shard: Shard, counts: Counts) -> Loss:
        offsets, logits = outputs
        if logits.shape[1] != len(self.classes) + 1:
            raise ConfigError(
                f"it gives {logits.shape[1]} outputs a box, and there are {len(self.classes)} classes and nothing",
                key="module.network",
            )
        wanted, labels = self._wanted(shard)
        place, kind = self.loss(offsets, logits, wanted, labels)
        images = float(len(shard))
        terms = {"place": Term(place.sum().detach(), images), "kind": Term(kind.sum().detach(), images)}
        return Loss((place + kind).sum() / counts["images"], terms)

    def _wanted(self, shard: Shard) -> tuple[Tensor, Tensor]:
        """What the default boxes stand for: offsets (n, 4, A), and classes (n, A) from 1, 0 for nothing."""
        defaults: Tensor = self.network.default_boxes  # type: ignore[assignment]
        height, width = shard["image"].shape[-2:]
        size = torch.tensor([width, height, width, height], device=defaults.device)
        offsets, classes = [], []
        for boxes, labels in zip(shard["boxes"], shard["labels"], strict=True):
            parts = boxes / size
            which, stands = matched(corners(defaults), parts, self.match)
            own = torch.zeros_like(defaults)
            own[stands] = encoded(parts[which[stands]], defaults[stands])
            offsets.append(own.T)
            classes.append(torch.where(stands, labels[which] + 1 if len(labels) else which, 0))
        return torch.stack(offsets), torch.stack(classes)

    def _found(self, outputs: Any, images: Tensor) -> list[Found | None]:
        if not self.anchored:
            return [(one["boxes"], one["scores"], one["labels"] - 1) for one in outputs]
        height, width = images.shape[-2:]
        offsets, logits = (output.float() for output in outputs)
        finite = (offsets.isfinite().flatten(1).all(1) & logits.isfinite().flatten(1).all(1)).tolist()
        size = offsets.new_tensor([width, height, width, height])
        found: list[Found | None] = []
        for place, kind, whole in zip(offsets, logits, finite, strict=True):
            if not whole:
                found.append(None)
                continue
            boxes, scores, labels = self._decoded(place, kind)
            found.append((boxes * size, scores, labels))
        return found

    def _decoded(self, offsets: Tensor, logits: Tensor) -> Found:
        """An image's boxes in parts of it, from (4, A) and (C, A)."""
        likely = logits.softmax(0)[1:]
        labels, places = torch.nonzero(likely > self.score, as_tuple=True)
        scores = likely[labels, places]
        kept = best_of_each(scores, labels, self.most)
        defaults: Tensor = self.network.default_boxes  # type: ignore[assignment]
        labels, places, scores = labels[kept], places[kept], scores[kept]
        boxes = decoded(offsets.T[places], defaults[places])
        left = suppressed(boxes, scores, labels, self.overlap)[: self.most]
        return boxes[left], scores[left], labels[left]

    def _prediction(self, found: Sequence[Found | None], shard: Shard) -> Prediction:
        fields: dict[str, list[Tensor | None]] = {"boxes": [], "scores": [], "labels": []}
        affines = shard.fields.get("affine", [None] * len(found))
        for one, affine in zip(found, affines, strict=True):
            boxes, scores, labels = one or (None, None, None)
            if boxes is not None and affine is not None:
                boxes = brought_back(boxes, affine).float()
            for name, value in (("boxes", boxes), ("scores", scores), ("labels", labels)):
                fields[name].append(value)
        return Prediction(shard.ids, fields)


def _detections(given: Mapping[str, float]) -> dict[str, float]:
    """Which detections are given out. Raises ConfigError with the key of what can't be."""
    chosen = {"score": 0.05, "overlap": 0.5, "most": 200, **given}
    for name, value in chosen.items():
        if name not in ("score", "overlap", "most"):
            raise ConfigError("there is no such key; allowed: score, overlap, most", key=f"module.detections.{name}")
        whole = name == "most"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ConfigError(f"{value!r} is no {'whole ' * whole}number", key=f"module.detections.{name}")
        if not (value >= 1 if whole else 0 <= value <= 1):
            allowed = "1 or more" if whole else "0..1"
            raise ConfigError(f"{value} is not allowed; allowed: {allowed}", key=f"module.detections.{name}")
    return chosen


def best_of_each(scores: Tensor, labels: Tensor, most: int) -> Tensor:
    """Ascending indices of the `most` highest scores of each class; of equal scores the first."""
    by_score = scores.argsort(descending=True, stable=True)
    by_class = by_score[labels[by_score].argsort(stable=True)]
    there = labels[by_class]
    number = torch.arange(len(there), device=there.device)
    rank = number - torch.searchsorted(there, there)
    return by_class[rank < most].sort().values
