"""Mixing within a shard: MixUp, CutMix, and one or the other, as calls on a shard's fields.

An image meets its neighbour in the shard, whose order is drawn already, and one share holds for the whole shard.
"image" (n, c, H, W) becomes float in 0..1, "label" class probabilities (n, C): int64 (n,) is taken as certain, float
(n, C) as it is. A shard of one sample meets itself and stays what it is. Nothing measures accuracy on mixed labels;
validation sees plain ones.
Unusual: shares, boxes and choices are drawn on the CPU, from torch's global generator, which the loop seeds for each
step and shard. So no device is waited for, and a run on another device mixes the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from calotype.errors import ConfigError

Fields = dict[str, Any]


class MixUp:
    """Blends each image and its label with its neighbour's, the share drawn from Beta(alpha, alpha).

    Source: H. Zhang et al., mixup: Beyond empirical risk minimization, arXiv:1710.09412.
    """

    def __init__(self, alpha: float = 0.2, num_classes: int | None = None) -> None:
        self.alpha = _positive(alpha, "alpha")
        self.num_classes = num_classes

    def __call__(self, fields: Fields) -> Fields:
        image, label = _unmixed(fields, self.num_classes)
        share = _beta(self.alpha)
        image = image.mul(share).add_(image.roll(1, 0), alpha=1 - share)
        return {**fields, "image": image, "label": _blended(label, share)}


class CutMix:
    """Pastes a box of its neighbour into each image; labels are blended by the pixels that stay.

    The box has the image's aspect, a share of its area of 1 - Beta(alpha, alpha) and a uniform centre, and is clipped.
    Source: S. Yun et al., CutMix, arXiv:1905.04899.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        self.alpha = _positive(alpha, "alpha")
        self.num_classes = num_classes

    def __call__(self, fields: Fields) -> Fields:
        image, label = _unmixed(fields, self.num_classes)
        height, width = image.shape[-2:]
        side = math.sqrt(1 - _beta(self.alpha))
        top, bottom = _span(height, side)
        left, right = _span(width, side)
        box = (..., slice(top, bottom), slice(left, right))
        pasted = image.clone()
        pasted[box] = image.roll(1, 0)[box]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return {**fields, "image": pasted, "label": _blended(label, share)}


class MixUpOrCutMix:
    """MixUp or CutMix, one of them for each shard: as timm's `Mixup` in mode "batch".

    A share `prob` of the shards is mixed at all, a share `switch_prob` of those by CutMix. An alpha of 0 leaves its
    kind out.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        num_classes: int | None = None,
    ) -> None:
        for name, value in (("prob", prob), ("switch_prob", switch_prob)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}, and must be in 0..1", key="data.batch_transforms")
        if mixup_alpha == cutmix_alpha == 0:
            raise ConfigError("with both alphas 0 nothing is mixed; leave it out", key="data.batch_transforms")
        self.mixup = MixUp(mixup_alpha, num_classes) if mixup_alpha else None
        self.cutmix = CutMix(cutmix_alpha, num_classes) if cutmix_alpha else None
        self.prob, self.switch_prob, self.num_classes = prob, switch_prob, num_classes

    def __call__(self, fields: Fields) -> Fields:
        mixed, cut = torch.rand(2).tolist()
        if mixed >= self.prob:
            image, label = _unmixed(fields, self.num_classes)
            return {**fields, "image": image, "label": label}
        chosen = self.cutmix if self.mixup is None or (self.cutmix and cut < self.switch_prob) else self.mixup
        return chosen(fields)  # type: ignore[misc] # one of them is there


def _positive(alpha: float, name: str) -> float:
    if not 0 < alpha < math.inf:
        raise ConfigError(f"{name} is {alpha}, and must be greater than 0", key="data.batch_transforms")
    return alpha


def _beta(alpha: float) -> float:
    """A draw from Beta(alpha, alpha), in 0..1."""
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64)).tolist()
    return float(first / (first + second)) if first + second > 0 else 0.5


def _span(size: int, share: float) -> tuple[int, int]:
    """Start and end, clipped, of a stretch of `share` of `size` around a place drawn uniformly."""
    centre, half = int(torch.randint(size, ())), int(size * share) // 2
    return max(0, centre - half), min(size, centre + half)


def _unmixed(fields: Fields, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Images as float in 0..1 and labels as probabilities."""
    image, label = fields["image"], fields["label"]
    if image.dtype == torch.uint8:
        image = image / 255
    if label.dim() == 2:
        return image, label.float()
    if num_classes is None:
        raise ConfigError("mixing labels needs the number of classes", key="data.batch_transforms.num_classes")
    return image, (label.unsqueeze(1) == torch.arange(num_classes, device=label.device)).float()


def _blended(label: Tensor, share: float) -> Tensor:
    return label * share + label.roll(1, 0) * (1 - share)
