"""Semantic segmentation: a class for every pixel.

Reads "image" and "mask" of a shard; masks are int64 (n, H, W), 255 is void. A network gives logits (n, C, H, W), or a
mapping with them as "out" and those of an auxiliary head as "aux", as torchvision's do; smaller logits are resized to
the mask's size, bilinearly.
A loss is divided by what it is made of: one that gives a value for each pixel by the batch's pixels that aren't void
(or by the weights of their classes), one that gives a value for each image (Dice, OHEM) by its images.
Predictions, and so metrics, may come from windows and several views (`inference`); the loss is always that of one plain
pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.errors import ConfigError, DataError
from calotype.losses import CrossEntropyLoss, Sum
from calotype.metrics import MeanIoU
from calotype.tasks.deterministic import deterministic
from calotype.tasks.gallery_segmentation import SegmentationGallery
from calotype.tasks.original import restored
from calotype.tasks.pixels import Pixels
from calotype.types import VOID, Counts, Loss, Prediction, Term

if TYPE_CHECKING:
    from calotype.tasks.inference import Logits
    from calotype.types import Metric, Shard


class Segmentation(nn.Module):
    """The segmentation task.

    `classes` begin with the background. `loss` is cross-entropy where none is given, or a `Sum` of several. `void` says
    what becomes of void pixels: "ignore" leaves them out of the losses, "background" makes them class 0 there; metrics
    tell both. `normalize` is {"mean": [...], "std": [...]} per channel, `metrics` replaces the default.
    """

    predicts = "mask"
    inference: Callable[[Logits, Tensor], Tensor] | None = None
    """Takes what gives logits, and images, and gives scores to predict by, as `calotype.tasks.inference.Inference`."""

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] = (),
        loss: nn.Module | None = None,
        normalize: Mapping[str, Sequence[float]] | None = None,
        void: str = "ignore",
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        if void not in ("ignore", "background"):
            raise ConfigError(f"{void!r} is not allowed; allowed: ignore, background", key="module.void")
        if not classes:
            raise ConfigError("the data set has no classes; name them", key="module.classes")
        if len(classes) > VOID:
            raise ConfigError(f"there are {len(classes)} classes, and 255 is void: at most 255", key="module.classes")
        self.network, self.classes, self.void = network, tuple(classes), void
        self.num_classes = len(self.classes)
        given = loss if isinstance(loss, Sum) else Sum({"loss": CrossEntropyLoss() if loss is None else loss})
        self.losses = nn.ModuleDict({name: _unreduced(term, name) for name, term in given.terms.items()})
        for name, term in self.losses.items():
            weight = _class_weights(term)
            if weight is not None and len(weight) != self.num_classes:
                raise ConfigError(
                    f"{len(weight)} class weights for {self.num_classes} classes", key=f"module.loss.{name}.weight"
                )
        self.weights, self.aux = given.weights, given.aux
        self.images = Pixels(normalize)
        self._metrics = {"iou": MeanIoU(self.classes)} if metrics is None else dict(metrics)

    def counts(self, shard: Shard) -> dict[str, float]:
        """The shard's images and pixels that aren't void, and the weights of their classes where a loss has such.

        Reads the masks on the CPU. Raises DataError naming the sample whose mask holds an id that is no class.
        """
        mask = self._target(shard["mask"].cpu())
        present = torch.bincount(mask.flatten(), minlength=VOID + 1) if mask.numel() and mask.min() >= 0 else None
        if present is None or int(present[self.num_classes : VOID].sum()) or len(present) > VOID + 1:
            raise self._no_class(shard, mask)
        pixels = present[: self.num_classes].double()
        counts = {"images": float(len(mask)), "pixels": float(pixels.sum())}
        for name, loss in self.losses.items():
            if (weight := _class_weights(loss)) is not None:
                counts[f"{name}_weight"] = float(pixels @ weight.double().cpu())
        return counts

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        """The shard's share of the batch's loss."""
        return self._loss(self._maps(self.images(shard["image"])), shard, counts)

    def predict(self, shard: Shard) -> Prediction:
        """Fields: "mask" (n, H, W) int64, the class of every pixel of the images as the shard has them.

        Of a shard that says how its images came from files ("original_size", "affine") a list of (H, W), the classes of
        the files' pixels, void where the network saw none; None for one whose scores are not finite.
        """
        scores = self._scores(self.images(shard["image"]))
        if "affine" not in shard.fields:
            return self._prediction(scores, shard)
        sizes, affines = shard["original_size"].tolist(), shard["affine"].cpu()
        finite = scores.isfinite().flatten(1).all(1).tolist()
        masks = [
            restored(one, affine, tuple(size)) if whole else None
            for one, affine, size, whole in zip(scores, affines, sizes, finite, strict=True)
        ]
        return Prediction(shard.ids, {"mask": masks})

    def evaluate(self, shard: Shard, counts: Counts) -> tuple[Loss, Prediction]:
        """What forward and predict give, without `inference` from one pass through the network."""
        images = self.images(shard["image"])
        found = self._maps(images)
        scores = self._logits(found, images) if self.inference is None else self._scores(images)
        return self._loss(found, shard, counts), self._prediction(scores, shard)

    def gallery(self) -> SegmentationGallery:
        """Pictures of an evaluation: predictions beside the ground truth, the worst of them, confusion matrix."""
        return SegmentationGallery(self.classes)

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        """Factories of fresh metrics by name."""
        return {name: partial(copy.deepcopy, metric) for name, metric in self._metrics.items()}

    def _maps(self, images: Tensor) -> Tensor | Mapping[str, Tensor]:
        """What the network makes of normalised images."""
        with deterministic(images.device):
            found: Tensor | Mapping[str, Tensor] = self.network(images)
        return found

    def _target(self, mask: Tensor) -> Tensor:
        return torch.where(mask == VOID, 0, mask) if self.void == "background" else mask

    def _scores(self, images: Tensor) -> Tensor:
        def logits(images: Tensor) -> Tensor:
            return self._logits(self._maps(images), images)

        return logits(images) if self.inference is None else self.inference(logits, images)

    def _prediction(self, scores: Tensor, shard: Shard) -> Prediction:
        return Prediction(shard.ids, {"mask": scores.argmax(1)})

    def _logits(self, found: Tensor | Mapping[str, Tensor], like: Tensor, name: str = "out") -> Tensor:
        logits = found[name] if isinstance(found, Mapping) else found
        if logits.shape[1] != self.num_classes:
            raise ConfigError(
                f"it gives {logits.shape[1]} outputs and there are {self.num_classes} classes", key="module.network"
            )
        size = like.shape[-2:]
        if logits.shape[-2:] == size:
            return logits
        with deterministic(logits.device):
            return F.interpolate(logits, size, mode="bilinear")

    def _loss(self, found: Tensor | Mapping[str, Tensor], shard: Shard, counts: Counts) -> Loss:
        target = self._target(shard["mask"])
        heads = {"": 1.0}
        if isinstance(found, Mapping) and "aux" in found and self.aux:
            heads["aux_"] = self.aux
        terms: dict[str, Term] = {}
        total: Tensor = torch.zeros((), device=target.device)
        for head, factor in heads.items():
            logits = self._logits(found, target, "aux" if head else "out")
            for name, loss in self.losses.items():
                weight = factor * self.weights[name]
                with deterministic(logits.device):
                    losses = _at(loss, logits, target)
                value, divisor, items = self._term(name, losses, loss, target, counts)
                total = total + (weight * value / divisor if divisor else value * 0)
                terms[head + name] = Term(value.detach(), items, weight)
        return Loss(total, terms)

    def _term(
        self, name: str, losses: Tensor, loss: nn.Module, target: Tensor, counts: Counts
    ) -> tuple[Tensor, float, float]:
        """A term's sum over the shard, what it is divided by in the batch, and the shard's part of that."""
        if losses.dim() < 2:  # a value for each image, or their mean
            value = losses.sum() if losses.dim() else losses * len(target)
            return value, counts["images"], float(len(target))
        key = f"{name}_weight" if _class_weights(loss) is not None else "pixels"
        # its part by its images: sums to the divisor over the batch without asking the device
        return losses.sum(), counts[key], counts[key] * len(target) / counts["images"]

    def _no_class(self, shard: Shard, mask: Tensor) -> DataError:
        wrong = (mask < 0) | ((mask >= self.num_classes) & (mask != VOID))
        row = int(wrong.flatten(1).any(1).int().argmax())
        values = sorted({*mask[row][wrong[row]].tolist()})
        return DataError(
            f"the mask of sample {shard.ids[row]} holds {', '.join(map(str, values[:5]))}, outside "
            f"0..{self.num_classes - 1} and not {VOID} (void); correct the mask, or the number of classes"
        )


def _unreduced(loss: nn.Module, name: str) -> nn.Module:
    if getattr(loss, "reduction", "mean") == "sum":
        raise ConfigError("a task divides its loss itself; leave reduction out", key=f"module.loss.{name}")
    loss = copy.deepcopy(loss)
    if hasattr(loss, "reduction"):
        loss.reduction = "none"  # type: ignore[assignment]
    if hasattr(loss, "ignore_index"):
        loss.ignore_index = VOID  # type: ignore[assignment]
    return loss


def _at(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """A loss that is 0 at void pixels, whether it knows of void or not."""
    if hasattr(loss, "ignore_index") or hasattr(loss, "void"):
        return cast(Tensor, loss(logits, target))
    void = target == VOID
    losses: Tensor = loss(logits, target.masked_fill(void, 0))
    if losses.dim() >= 2 and losses.shape != target.shape:
        raise ConfigError(
            f"{type(loss).__name__} gives values of {tuple(losses.shape)} for masks of {tuple(target.shape)}; one for "
            "each pixel or for each image is wanted",
            key="module.loss",
        )
    return losses.masked_fill(void, 0) if losses.dim() >= 2 else losses


def _class_weights(loss: nn.Module) -> Tensor | None:
    weight: Any = getattr(loss, "weight", None)
    return weight if isinstance(weight, Tensor) else None
