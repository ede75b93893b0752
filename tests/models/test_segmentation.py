"""Segmentation networks: our own, and torchvision's and segmentation-models-pytorch's by their configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from calotype.commands._assemble import Settings, build_task
from calotype.config.check import load_and_check
from calotype.models.segmentation import SmallUNet

CLASSES = tuple(f"class {number}" for number in range(21))


def network(model: str, *overrides: str) -> Any:
    """The network of a group, as a run builds it for 21 classes."""
    config = load_and_check(["data=shapes", "task=segmentation", f"model={model}", *overrides])
    task, _ = build_task(Settings.of(config.tree), torch.device("cpu"), CLASSES)
    return task.network


def parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.guarantee(
    "DeepLabV3 on ResNet-101 has the published number of parameters, and logits of the images' size",
    condition="21 classes, no auxiliary head: 58,630,997",
)
def test_deeplabv3_resnet101() -> None:
    found = network("deeplabv3_resnet101").eval()
    assert parameters(found) == 58_630_997
    assert (parameters(found.backbone), parameters(found.classifier)) == (42_500_160, 16_130_837)
    with torch.inference_mode():
        assert found(torch.zeros(1, 3, 65, 97))["out"].shape == (1, 21, 65, 97)


@pytest.mark.parametrize("model", ["smp_unet", "smp_deeplabv3plus", "smp_fpn", "smp_segformer"])
def test_networks_of_segmentation_models_pytorch(model: str) -> None:
    found = network(model, "module.network.encoder_name=resnet18").eval()
    with torch.inference_mode():
        assert found(torch.zeros(1, 3, 64, 96)).shape == (1, 21, 64, 96)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (9, 8)])
def test_small_unet_keeps_the_size(size: tuple[int, int], stride: int) -> None:
    found = SmallUNet(5, width=4, depth=3, stride=stride).eval()
    assert found(torch.zeros(2, 3, *size)).shape == (2, 5, *size)
