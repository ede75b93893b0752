"""torchvision's detectors, which take images as they come: the transforms have resized and augmented them, and the task
has normalised them. Their own resizing and normalising is left out; weights keep torchvision's names.
"""

from __future__ import annotations

from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from calotype.errors import ConfigError


class _AsTheyCome(nn.Module):
    """Stands where torchvision resizes and normalises."""

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """The images as torchvision's detectors hand them on."""
        height, width = images.shape[-2:]
        return ImageList(images, [(height, width)] * len(images)), targets

    def postprocess(self, result: list[dict[str, Tensor]], *_: Any) -> list[dict[str, Tensor]]:
        """The detections as they are."""
        return result


def detector(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A detector by torchvision's name, such as `ssd300_vgg16`, `ssdlite320_mobilenet_v3_large`,
    `retinanet_resnet50_fpn_v2`, `fcos_resnet50_fpn` or `fasterrcnn_resnet50_fpn_v2`, for so many classes besides
    nothing. Weights are random unless the config's `weights` brings some. Raises ConfigError for another name.
    """
    known = torchvision.models.list_models(module=torchvision.models.detection)
    boxes = [found for found in known if "rcnn" not in found or found.startswith("fasterrcnn")]
    if name not in boxes:
        raise ConfigError(f"{name!r} is no detector of boxes; there are {', '.join(boxes)}", key="module.network.name")
    given = {"weights": None, "weights_backbone": None, **options}
    network: nn.Module = torchvision.models.get_model(name, num_classes=num_classes + 1, **given)
    network.transform = _AsTheyCome()
    return network
