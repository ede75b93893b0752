"""Classifiers for images of a few pixels. For larger ones name timm's: `_target_: timm.create_model`.

All give logits; softmax belongs to the loss. Unusual in SmallCNN: the map is pooled by the sum of its maximum and its
mean. On Fashion-MNIST after three epochs the maximum is worth two points over the mean alone, on the digits the mean is
the steadier one, and the sum is as good as either. Both are plain reductions, since adaptive pooling has no
deterministic backward on CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class SmallCNN(nn.Module):
    """3x3 convolutions with batch norm, halving after each width but the last, maximum + mean over the map, linear.

    (n, in_channels, H, W) -> (n, num_classes) logits; H and W at least 2^(len(widths) - 1).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            if index:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        maps = self.features(images)
        logits: Tensor = self.classifier(self.dropout(maps.amax((2, 3)) + maps.mean((2, 3))))
        return logits


class MNISTNet(nn.Module):
    """Two 5x5 convolutions of 20 and 50 channels, each with ReLU and halved by maximum, then 500 and `num_classes`.

    (n, in_channels, 28, 28) -> (n, num_classes) logits; 431,080 parameters for ten classes of grey images.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(maps.flatten(1))))
        return logits


class CIFAR10Net(nn.Module):
    """LeNet-5 for colour: two 5x5 convolutions of 6 and 16 channels, each halved by maximum, then 120, 84, classes.

    (n, in_channels, 32, 32) -> (n, num_classes) logits; 62,006 parameters for ten classes of colour images.
    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        logits: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(maps.flatten(1))))))
        return logits


def cifar_resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-18 for images of 32x32: its first convolution is 3x3 without stride, and there is no pooling after it.

    (n, in_channels, H, W) -> (n, num_classes) logits; 11,173,962 parameters for ten classes of colour images. Names of
    weights are torchvision's, so all but the first convolution and the head can be taken over from there.
    Source: K. He, X. Zhang, S. Ren, J. Sun, Deep residual learning for image recognition, arXiv:1512.03385.
    """
    network: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
    stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    return network
