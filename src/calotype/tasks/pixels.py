"""Images as a network takes them.

uint8 images are scaled to 0..1 on the device, float ones are in 0..1 already; then they are normalised.
Unusual: mean and standard deviation are kept outside buffers and state dict, since they belong to the config and not to
the weights, and reach the device with the first batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Affine:
    """(x - mean) / std as x * scale + shift: the scale of bytes, that of 0..1, and the shift; each (1, c, 1, 1)."""

    from_bytes: Tensor
    from_unit: Tensor
    shift: Tensor

    @property
    def channels(self) -> int:
        return self.shift.shape[1]

    def to(self, device: torch.device) -> _Affine:
        return _Affine(self.from_bytes.to(device), self.from_unit.to(device), self.shift.to(device))


class Pixels:
    """Scales and normalises. `normalize` is {"mean": [...], "std": [...]} per channel, of pixels in 0..1; without it
    they are only scaled. Raises ConfigError for one that can't be.
    """

    def __init__(self, normalize: Mapping[str, Sequence[float]] | None) -> None:
        self._normalize = _affine(normalize)
        self._on_device: dict[torch.device, _Affine] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, c, H, W), uint8 or float, as float. Raises ConfigError for another number of channels."""
        scaled = images.dtype == torch.uint8
        if self._normalize is None:
            return images / 255 if scaled else images
        constants = self._on_device.get(images.device)
        if constants is None:
            constants = self._on_device[images.device] = self._normalize.to(images.device)
        if constants.channels not in (1, images.shape[1]):
            raise ConfigError(
                f"{constants.channels} channels of mean and std for images of {images.shape[1]}", key="module.normalize"
            )
        return (images * (constants.from_bytes if scaled else constants.from_unit)).add_(constants.shift)


def _affine(normalize: Mapping[str, Sequence[float]] | None) -> _Affine | None:
    if normalize is None:
        return None
    if set(normalize) != {"mean", "std"} or len(normalize["mean"]) != len(normalize["std"]):
        raise ConfigError("write {mean: [...], std: [...]}, one value per channel", key="module.normalize")
    mean, std = (torch.tensor(list(normalize[name]), dtype=torch.float64).view(1, -1, 1, 1) for name in ("mean", "std"))
    if not bool((std > 0).all()):
        raise ConfigError("std must be greater than 0", key="module.normalize.std")
    return _Affine((1 / (255 * std)).float(), (1 / std).float(), (-mean / std).float())
