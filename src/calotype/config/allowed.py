"""The exact names that a config of unknown origin may use as `_target_`: none downloads, writes, or runs a text.

A prefix would not do: `torch.` holds `torch.hub.load` and `torch.load`. Left out on purpose: everything that takes a
callable (LambdaLR, v2.Lambda, TripletMarginWithDistanceLoss) and detectors and segmenters of torchvision, which fetch a
backbone's weights unless told not to. An entry's value says which arguments it takes: None is any plain data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

Rule: TypeAlias = "Mapping[str, Callable[[Any], bool]] | None"


def _number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _off(value: Any) -> bool:
    return value is None or value is False


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)


def _off_or_on(value: Any) -> bool:
    return isinstance(value, bool)


def _model_name(value: Any) -> bool:
    """A plain name: no `hf-hub:`, no `local-dir:`, no path."""
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", value) is not None


def _path(value: Any) -> bool:
    return isinstance(value, str)


def _names(package: str, names: str, rule: Rule = None) -> dict[str, Rule]:
    return {f"{package}.{name}": rule for name in names.split()}


def _merged(parts: Iterable[Mapping[str, Rule]]) -> dict[str, Rule]:
    return {name: rule for part in parts for name, rule in part.items()}


_TIMM: Rule = {
    "model_name": _model_name,
    "pretrained": _off,
    "num_classes": _number,
    "in_chans": _number,
    "img_size": lambda value: _number(value) or (isinstance(value, list) and all(map(_number, value))),
    "drop_rate": _number,
    "drop_path_rate": _number,
    "output_stride": _number,
    "global_pool": _scalar,
}
_TORCHVISION: Rule = {"weights": _off, "num_classes": _number, "progress": lambda value: isinstance(value, bool)}
_PACKED: Mapping[str, Callable[[Any], bool]] = {
    "val_fraction": _number,
    "test_fraction": _number,
    "split_seed": _number,
}

_IMAGES: Mapping[str, Callable[[Any], bool]] = {
    **_PACKED,
    "root": _path,
    "mode": _scalar,
    "background": lambda value: _number(value) or (isinstance(value, list) and all(map(_number, value))),
    "max_pixels": _number,
}
_TABLE: Mapping[str, Callable[[Any], bool]] = {
    **_IMAGES,
    "table": _path,
    "columns": lambda value: isinstance(value, dict) and all(map(_scalar, value.values())),
    "delimiter": _scalar,
    "separator": _scalar,
    "class_names": lambda value: value is None or (isinstance(value, list) and all(map(_scalar, value))),
}

# torch and numpy values such as a dtype: an object, not a call
CONSTANTS = tuple(_names("torch", "float16 bfloat16 float32 float64 uint8 int32 int64 bool channels_last"))

ALLOWED: Mapping[str, Rule] = _merged(
    (
        {name: {} for name in CONSTANTS},
        _names(
            "torch.optim",
            "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS NAdam RAdam RMSprop Rprop SGD SparseAdam",
        ),
        _names(
            "torch.optim.lr_scheduler",
            "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR MultiStepLR "
            "OneCycleLR PolynomialLR ReduceLROnPlateau StepLR",
        ),
        _names(
            "torch.nn",
            "BCELoss BCEWithLogitsLoss CrossEntropyLoss GaussianNLLLoss HuberLoss KLDivLoss L1Loss MSELoss "
            "MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss PoissonNLLLoss SmoothL1Loss "
            "SoftMarginLoss BatchNorm2d GroupNorm LayerNorm ReLU GELU SiLU LeakyReLU Identity",
        ),
        _names(
            "torchvision.transforms.v2",
            "AugMix AutoAugment CenterCrop ClampBoundingBoxes ColorJitter Compose ConvertBoundingBoxFormat CutMix "
            "ElasticTransform GaussianBlur GaussianNoise Grayscale Identity JPEG MixUp Normalize Pad RGB RandAugment "
            "RandomAdjustSharpness RandomAffine RandomApply RandomAutocontrast RandomChannelPermutation RandomChoice "
            "RandomCrop RandomEqualize RandomErasing RandomGrayscale RandomHorizontalFlip RandomInvert RandomIoUCrop "
            "RandomOrder RandomPerspective RandomPhotometricDistort RandomPosterize RandomResize RandomResizedCrop "
            "RandomRotation RandomShortestSize RandomSolarize RandomVerticalFlip RandomZoomOut Resize "
            "SanitizeBoundingBoxes ScaleJitter ToDtype ToImage ToPureTensor TrivialAugmentWide",
        ),
        {"timm.create_model": _TIMM},
        _names(
            "torchvision.models",
            "alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 "
            "densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 "
            "efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s "
            "mnasnet0_5 mnasnet1_0 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_y_16gf regnet_y_1_6gf "
            "regnet_y_400mf regnet_y_800mf resnet101 resnet152 resnet18 resnet34 resnet50 resnext50_32x4d "
            "resnext101_32x8d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t "
            "vgg11 vgg11_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_16 wide_resnet50_2",
            _TORCHVISION,
        ),
        _names("calotype.losses", "BCEWithLogitsLoss CrossEntropyLoss DiceLoss FocalLoss"),
        _names("calotype.metrics", "Accuracy ConfusionMatrix ExactMatch F1 PerClass"),
        _names("calotype.models.classification", "SmallCNN MNISTNet CIFAR10Net cifar_resnet18"),
        _names("calotype.tasks.classification", "Classification MultiLabel"),
        _names("calotype.tasks.inference", "Inference"),
        _names("calotype.data.mixing", "CutMix MixUp MixUpOrCutMix"),
        _names("calotype.engine.schedule", "Cosine MultiStep Poly"),
        _names("calotype.data.small", "Digits", _PACKED),
        _names("calotype.data.small", "MNIST FashionMNIST", {**_PACKED, "root": _path}),
        _names("calotype.data.folder", "ImageFolder", {**_IMAGES, "layout": _scalar}),
        _names("calotype.data.table", "ImageTable", _TABLE),
        _names("calotype.data.cifar", "CIFAR10", {**_PACKED, "root": _path}),
        _names("calotype.data.cifar", "CIFAR100", {**_PACKED, "root": _path, "coarse": _off_or_on}),
        _names("calotype.tracking.console", "Console", {"interval": _number}),
        _names("calotype.tracking.tensorboard", "TensorBoard", {"images": _flag, "graph": _flag}),
    )
)
