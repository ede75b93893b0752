"""Classification: one label per image, or any number of them.

Reads "image" and "label" of a shard. Labels are int64 (n,), or class probabilities (n, C) as mixing transforms make
them; for `MultiLabel` they are float (n, C) of 0 and 1.
Unusual: `evaluate` gives loss and prediction from one forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calotype.errors import ConfigError, DataError
from calotype.losses import BCEWithLogitsLoss, CrossEntropyLoss
from calotype.metrics import F1, Accuracy, ExactMatch, PerClass
from calotype.tasks.gallery import ClassificationGallery
from calotype.tasks.pixels import Pixels
from calotype.types import Counts, Loss, Prediction, Term

if TYPE_CHECKING:
    from calotype.types import Metric, Shard


MOST_OFF = 1e-3
"""By which probabilities of one class may miss a sum of 1."""


class Classification(nn.Module):
    """The classification task.

    `network` maps (n, c, H, W) to logits (n, C). `loss` is cross-entropy where none is given; one with a `reduction` is
    used with "none" and divided by the batch's images, or by the weights of their targets where it has class weights;
    any other is taken as the mean over a shard's images. `normalize` is {"mean": [...], "std": [...]} per channel.
    `metrics` maps names to metrics and replaces the default: accuracy, top-5 beyond five classes, macro F1.
    `num_classes` is the network's own where it has such an attribute; `classes` are their names, for people.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module | None = None,
        normalize: Mapping[str, Sequence[float]] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = _classes_of(network) if num_classes is None else num_classes
        named = classes is not None and len(classes) == self.num_classes
        self.classes = tuple(classes) if classes and named else tuple(map(str, range(self.num_classes)))
        self.loss = _unreduced(self._default_loss() if loss is None else loss)
        self._class_weights = self._divisors()
        self._whole_batch = _mean_of(self.loss) if self._class_weights is None else None
        self._per_item = hasattr(self.loss, "reduction")
        self.images = Pixels(normalize)
        self._metrics = self._default_metrics() if metrics is None else _checked(metrics)

    def counts(self, shard: Shard) -> dict[str, float]:
        """The shard's images, and the weights of their targets if the loss has class weights.

        Reads the labels on the CPU, before the shard is moved and mixed. Raises DataError naming the sample whose label
        is no class.
        """
        label = shard["label"]
        if label.is_cuda:
            label = label.cpu()
        self._check(shard, label)
        counts = {"images": float(len(label))}
        if self._class_weights is not None:
            weights = self._class_weights[label] if label.dim() == 1 else label.double() @ self._class_weights
            counts["weight"] = weights.sum().item()
        return counts

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        """The shard's share of the batch's mean loss."""
        return self._loss(self.network(self.images(shard["image"])), shard, counts)

    def predict(self, shard: Shard) -> Prediction:
        """Fields: "logits" (n, C), float32."""
        return Prediction(shard.ids, {"logits": self.network(self.images(shard["image"])).float()})

    def evaluate(self, shard: Shard, counts: Counts) -> tuple[Loss, Prediction]:
        """What forward and predict give, from one pass through the network."""
        logits = self.network(self.images(shard["image"]))
        return self._loss(logits, shard, counts), Prediction(shard.ids, {"logits": logits.float()})

    def gallery(self) -> ClassificationGallery:
        """Pictures of an evaluation: predictions, worst mistakes, confusion matrix."""
        return ClassificationGallery(self.classes)

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        """Factories of fresh metrics by name."""
        return {name: partial(copy.deepcopy, metric) for name, metric in self._metrics.items()}

    def _loss(self, logits: Tensor, shard: Shard, counts: Counts) -> Loss:
        label = shard["label"]
        if logits.shape[1] != self.num_classes:
            raise ConfigError(
                f"it gives {logits.shape[1]} outputs and there are {self.num_classes} classes; num_classes=null takes "
                "the data's number of them",
                key="module.network",
            )
        if self.training and self._whole_batch is not None and label.shape[0] == counts["images"]:
            return Loss(self._whole_batch(logits, label))
        losses = self.loss(logits, label)
        if losses.dim() == 2:
            losses = losses.mean(1)
        total = losses.sum() if self._per_item else losses * len(label)
        divisor = counts["weight"] if "weight" in counts else counts["images"]
        # a shard's part of the divisor by its images: sums to the divisor over the batch without asking the device
        items = divisor * len(label) / counts["images"]
        return Loss(total / divisor if divisor else total * 0, {"loss": Term(total.detach(), items)})

    def _check(self, shard: Shard, label: Tensor) -> None:
        if label.dim() != 1:
            odd = ((label < 0).any(1) | ((label.sum(1) - 1).abs() > MOST_OFF)).nonzero()
            if len(odd):
                raise DataError(
                    f"sample {shard.ids[int(odd[0])]} has labels {label[int(odd[0])].tolist()}, which are no "
                    "probabilities of one class; with any number of classes an image the task is MultiLabel "
                    "(task=multi_label)"
                )
            return
        # Python's min and max of a list take a fifth of the time of NumPy's or torch's for the labels of a batch
        numbers = label.tolist()
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.num_classes:
            values = label.numpy()
            wrong = int(((values < 0) | (values >= self.num_classes)).argmax())
            raise DataError(
                f"sample {shard.ids[wrong]} has label {values[wrong]}, outside 0..{self.num_classes - 1}; "
                "correct the label or the network's number of classes"
            )

    def _default_loss(self) -> nn.Module:
        return CrossEntropyLoss()

    def _divisors(self) -> Tensor | None:
        return _divisors(self.loss, self.num_classes)

    def _default_metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {"accuracy": Accuracy()}
        if self.num_classes > 5:
            metrics["top5"] = Accuracy(5)
        return {**metrics, "f1": F1(self.num_classes)}


def _checked(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Raises ConfigError for one that lacks a method, as a `_partial_` node does: what makes a metric is none."""
    for name, metric in metrics.items():
        if lacking := [method for method in ("update", "state", "compute") if not hasattr(metric, method)]:
            hint = ""
            if isinstance(metric, partial):
                hint = f" of {getattr(metric.func, '__name__', metric.func)}; leave _partial_ out"
            raise ConfigError(
                f"a metric needs {', '.join(lacking)}, and this is a {type(metric).__name__}{hint}",
                key=f"module.metrics.{name}",
            )
    return dict(metrics)


class MultiLabel(Classification):
    """Classification of images that have any number of labels: each class is a question of its own.

    As `Classification`, but "label" is float (n, C) of 0 and 1 and `loss` binary cross-entropy where none is given; one
    that gives a value for each class is averaged over them. The default metrics take a class as predicted whose
    probability is above one half: macro F1, precision, recall and F1 of each class, share of exact matches.
    """

    def _check(self, shard: Shard, label: Tensor) -> None:
        if label.dim() != 2 or label.shape[1] != self.num_classes or not label.is_floating_point():
            raise DataError(
                f"label is {tuple(label.shape)} {str(label.dtype).removeprefix('torch.')}, and must be float, a 0 or 1 "
                f"for each of {self.num_classes} classes; with one class an image the task is Classification "
                "(task=classification)"
            )
        wrong = ~((label >= 0) & (label <= 1)).all(1)
        if wrong.any():
            row = int(wrong.int().argmax())
            raise DataError(f"sample {shard.ids[row]} has labels {label[row].tolist()}, outside 0..1; correct them")

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probability of each class on its own, (n, C)."""
        return logits.sigmoid()

    def _default_loss(self) -> nn.Module:
        return BCEWithLogitsLoss()

    def _divisors(self) -> Tensor | None:
        return None

    def _default_metrics(self) -> dict[str, Metric]:
        return {"f1": F1(self.num_classes), "per_class": PerClass(self.classes), "exact_match": ExactMatch()}


def _classes_of(network: nn.Module) -> int:
    own: Any = getattr(network, "num_classes", None)
    linear = [module.out_features for module in network.modules() if isinstance(module, nn.Linear)]
    if not isinstance(own, int) and not linear:
        raise ConfigError("the network doesn't say how many classes it has; set num_classes", key="module")
    return own if isinstance(own, int) else linear[-1]


def _unreduced(loss: nn.Module) -> nn.Module:
    if getattr(loss, "reduction", "mean") == "sum":
        raise ConfigError("a task divides its loss itself; leave reduction out", key="module.loss.reduction")
    loss = copy.deepcopy(loss)
    if hasattr(loss, "reduction"):
        # cross-entropy adds up the same values itself, with one node less in the graph: 12 us of a step
        loss.reduction = "sum" if isinstance(loss, nn.CrossEntropyLoss) else "none"  # type: ignore[assignment]
    return loss


def _mean_of(loss: nn.Module) -> Callable[..., Tensor] | None:
    """The loss as a mean, for a batch of one shard: two graph nodes less a step. Not for one that has tensors of its
    own, since a copy would not follow them, to a device or in training.
    """
    if not hasattr(loss, "reduction") or [*loss.parameters(), *loss.buffers()]:
        return None
    mean = copy.deepcopy(loss)
    mean.reduction = "mean"  # type: ignore[assignment]
    return mean.forward


def _divisors(loss: nn.Module, num_classes: int) -> Tensor | None:
    """What one image of each class adds to the divisor, float64; None where that is 1 for all."""
    weight: Tensor | None = getattr(loss, "weight", None)
    ignored: int = getattr(loss, "ignore_index", -1)
    if weight is not None and len(weight) != num_classes:
        raise ConfigError(f"{len(weight)} class weights for {num_classes} classes", key="module.loss.weight")
    if weight is None and not 0 <= ignored < num_classes:
        return None
    divisors = torch.ones(num_classes).double() if weight is None else weight.detach().cpu().double().clone()
    if 0 <= ignored < num_classes:
        divisors[ignored] = 0
    return divisors
