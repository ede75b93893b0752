"""A toy of an SSD for images of 16 x 16: a stem with dropout and batch norm, two maps, one kind of default box more."""

from __future__ import annotations

from torch import Tensor, nn

from calotype.models.detection import SSD, DefaultBoxes
from tests.toys.classification import stem


class TwoMaps(nn.Module):
    """A stem, its map at a quarter of the size and one at an eighth."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.channels = [width, width]
        self.stem = nn.Sequential(stem(width), nn.AvgPool2d(4))
        self.smaller = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps, finest first."""
        found = self.stem(image)
        return [found, self.smaller(found)]


class ToySSD(SSD):
    """network: two maps, default boxes of 6, 8 and 11 pixels."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__(TwoMaps(width), DefaultBoxes(16, (4, 8), (6, 8, 11), ((), (2,))), num_classes)
