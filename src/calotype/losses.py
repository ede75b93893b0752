"""Losses that divide nothing: with `reduction="none"` each gives one value per item, and the task divides by counts.

Contract: a loss class with a `reduction` argument is used with "none"; any other is taken as a mean over the shard's
images, and says so. Reductions "mean" and "sum" follow PyTorch's meaning (a weighted mean divides by the targets'
weights) and are here for use outside a task.
Unusual: cross-entropy over maps goes through the one-row-per-pixel form, because the other form has no deterministic
backward on CUDA; with channels_last logits that costs no copy. Everything is computed in float32 under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reduction = Literal["none", "mean", "sum"]


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """torch.nn.CrossEntropyLoss that takes class weights as a list, and is deterministic for maps as well.

    Logits (n, C) or (n, C, ...); targets int64 (n) or (n, ...), or class probabilities of the logits' shape.
    """

    def __init__(
        self,
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(_weights(weight), None, ignore_index, None, reduction, label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss per item, or reduced."""
        maps = input.dim() > 2 and target.dim() < input.dim()
        losses = F.cross_entropy(
            input.movedim(1, -1).flatten(0, -2) if maps else input,
            target.flatten() if maps else target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        return losses.view_as(target) if maps and self.reduction == "none" else losses


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """torch.nn.BCEWithLogitsLoss that takes the weights of positives as a list, one for each class.

    Logits (n, C); targets float (n, C) in 0..1. "none" gives (n, C).
    """

    def __init__(self, pos_weight: Sequence[float] | Tensor | None = None, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction, pos_weight=_weights(pos_weight))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss per class of each item, or reduced."""
        return super().forward(input.to(_at_least_float32(input)), target)


class FocalLoss(nn.Module):
    """Focal loss: -w_y (1 - p_y)^gamma log p_y of the softmax; gamma 0 is cross-entropy.

    Logits (n, C, ...); targets int64 (n, ...) or class probabilities of the logits' shape. Computed from log_softmax,
    so it is finite where a softmax rounds to 0 or 1.
    Source: T.-Y. Lin et al., Focal loss for dense object detection, arXiv:1708.02002.
    """

    weight: Tensor | None

    def __init__(
        self, gamma: float = 2.0, weight: Sequence[float] | Tensor | None = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}, and must be at least 0")
        self.gamma = gamma
        self.reduction = reduction
        self.register_buffer("weight", _weights(weight))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss per item, or reduced."""
        log_p = F.log_softmax(input, dim=1, dtype=_at_least_float32(input))
        focal = log_p if self.gamma == 0 else (-torch.expm1(log_p)).clamp(min=0).pow(self.gamma) * log_p
        if self.weight is not None:
            focal = focal * self.weight.view(-1, *[1] * (input.dim() - 2))
        if target.dim() == input.dim():
            losses = -(target * focal).sum(1)
        else:
            losses = -focal.gather(1, target.unsqueeze(1)).squeeze(1)
        return self._reduce(losses, target)

    def _reduce(self, losses: Tensor, target: Tensor) -> Tensor:
        if self.reduction == "none":
            return losses
        total = losses.sum()
        if self.reduction == "sum":
            return total
        hard = target.dim() == losses.dim()
        return total / (self.weight[target].sum() if self.weight is not None and hard else losses.numel())


class DiceLoss(nn.Module):
    """Soft Dice per image: 1 - (2 <p, y> + s) / (<p, 1> + <y, 1> + s), averaged over the classes the image shows.

    Logits (n, C, H, W); targets int64 (n, H, W). Pixels whose target is `void` count nowhere; an image of nothing but
    void has loss 0 and gradient 0. "none" gives (n,).
    Source: F. Milletari, N. Navab, S.-A. Ahmadi, V-Net, arXiv:1606.04797, for many classes.
    """

    def __init__(self, void: int = 255, smooth: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.void = void
        self.smooth = smooth
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss per image, or reduced."""
        target = target.unsqueeze(1)
        classes = torch.arange(input.shape[1], device=input.device).view(1, -1, 1, 1)
        true = (target == classes) & (target != self.void)
        p = F.softmax(input, dim=1, dtype=_at_least_float32(input)) * (target != self.void)
        area = true.sum((2, 3))
        shared = (p * true).sum((2, 3))
        dice = 1 - (2 * shared + self.smooth) / (p.sum((2, 3)) + area + self.smooth)
        shown = area > 0
        losses = (dice * shown).sum(1) / shown.sum(1).clamp(min=1)
        return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[self.reduction]


class OHEMCrossEntropyLoss(nn.Module):
    """Cross-entropy of the hard pixels of each image: the mean over those whose class has a probability below
    `threshold`, and over the `kept` hardest at least, a share of the image's pixels that aren't void.

    Logits (n, C, H, W); targets int64 (n, H, W). An image of nothing but void has loss 0. "none" gives (n,).
    Source: A. Shrivastava, A. Gupta, R. Girshick, Training region-based object detectors with online hard example
    mining, arXiv:1604.03540, for pixels.
    """

    def __init__(
        self, threshold: float = 0.7, kept: float = 1 / 16, void: int = 255, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1 or not 0 < kept <= 1:
            raise ValueError(f"threshold is {threshold} and kept {kept}; both must be above 0 and at most 1")
        self.least = -math.log(threshold)
        self.kept = kept
        self.void = void
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss per image, or reduced."""
        valid = (target != self.void).flatten(1)
        log_p = F.log_softmax(input, dim=1, dtype=_at_least_float32(input))
        inside = target.masked_fill(target == self.void, 0)
        losses = -log_p.gather(1, inside.unsqueeze(1)).squeeze(1).flatten(1).masked_fill(~valid, 0)
        ranked = losses.detach().masked_fill(~valid, -1).sort(dim=1, descending=True, stable=True)
        least = torch.arange(losses.shape[1], device=losses.device) < (valid.sum(1, keepdim=True) * self.kept).ceil()
        hard = torch.zeros_like(valid).scatter(1, ranked.indices, (ranked.values > self.least) | least) & valid
        losses = (losses * hard).sum(1) / hard.sum(1).clamp(min=1)
        return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[self.reduction]


class MultiBoxLoss(nn.Module):
    """What a detector of the SSD kind is trained by: per image the smooth L1 loss of the offsets of default boxes that
    stand for an object, and the cross-entropy of these and of the hardest others, `negatives` for each, both divided by
    the number of those that stand for an object; 0 for an image that has none. A task lets stand for an object what
    overlaps it by an IoU above `match`.
    Source: W. Liu et al., SSD: Single Shot MultiBox Detector, arXiv:1512.02325.
    """

    def __init__(self, negatives: float = 3.0, match: float = 0.5) -> None:
        super().__init__()
        if negatives < 0 or not 0 <= match <= 1:
            raise ValueError(f"negatives is {negatives}, and must be at least 0; match is {match}, and must be in 0..1")
        self.negatives, self.match = negatives, match

    def forward(self, offsets: Tensor, logits: Tensor, wanted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of places and of classes, each (n,). `offsets` and `wanted` are (n, 4, A), `logits` (n, C, A), where class 0
        is nothing, `labels` (n, A) int64.
        """
        stands = labels > 0
        count = stands.sum(1, keepdim=True)
        place = F.smooth_l1_loss(offsets.to(_at_least_float32(offsets)), wanted, reduction="none").sum(1)
        log_p = F.log_softmax(logits, dim=1, dtype=_at_least_float32(logits))
        kind = -log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        hardness = kind.detach().masked_fill(stands, -1.0)
        ranked = hardness.sort(dim=1, descending=True, stable=True).indices
        first = torch.arange(labels.shape[1], device=labels.device) < self.negatives * count
        hard = torch.zeros_like(stands).scatter(1, ranked, first.expand_as(stands))
        divisor = count.squeeze(1).clamp(min=1)
        # what doesn't count is cut out rather than multiplied by 0: it may be infinite
        place = torch.where(stands, place, 0).sum(1) / divisor
        return place, torch.where(stands | hard, kind, 0).sum(1) / divisor


class Sum(nn.Module):
    """Several losses of one prediction, each logged by its name: the sum of `weights` times `terms`, 1 where none is
    given; of an auxiliary head `aux` times as much. A task divides each by what it is made of.
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None, aux: float = 0.4
    ) -> None:
        super().__init__()
        if unknown := sorted(set(weights or {}) - set(terms)):
            raise ValueError(f"weights.{unknown[0]}: there is no such term, only {', '.join(terms)}")
        self.terms = nn.ModuleDict(dict(terms))
        self.aux = aux
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in terms}

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The sum of what the terms give."""
        found: Tensor = sum(
            (self.weights[name] * term(input, target) for name, term in self.terms.items()), input.new_zeros(())
        )
        return found


def _weights(weight: Sequence[float] | Tensor | None) -> Tensor | None:
    return weight if weight is None or isinstance(weight, Tensor) else torch.tensor(list(weight), dtype=torch.float32)


def _at_least_float32(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
