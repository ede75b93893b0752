"""Targets that would fetch weights while they are built are refused, with what to write instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from calotype.config.check import load_and_check
from calotype.errors import ConfigError

TIMM = ["model=resnet18"]
VISION = ["model=torchvision_resnet18"]
DETECTOR = "_target_: torchvision.models.detection.fasterrcnn_resnet50_fpn, num_classes: 2"


def network(node: str) -> list[str]:
    return ["~module.network", f"+module.network={{{node}}}"]


@pytest.mark.guarantee("A target that would fetch weights is refused", condition="timm, torchvision, encoder_weights")
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            [*TIMM, "module.network.pretrained=true"],
            r"pretrained: true would fetch .*module\.weights=timm/resnet18\.a1_in1k instead, and set this to false",
        ),
        (
            [*TIMM, "module.network.model_name=resnet18.tv_in1k", "module.network.pretrained=true"],
            r"module\.weights=timm/resnet18\.tv_in1k instead",
        ),
        (
            [*TIMM, "module.network.model_name=resnet1", "module.network.pretrained=true"],
            r"module\.weights=SOURCE instead",
        ),
        (
            network("_target_: timm.models.resnet18, pretrained: true"),
            r"module\.weights=timm/resnet18\.a1_in1k instead",
        ),
        (
            network("_target_: timm.create_model, _args_: [resnet18, true]"),
            r"weights=timm/resnet18\.a1_in1k instead, and set \+module\.network\.pretrained=false",
        ),
        (
            [*TIMM, "module.network.model_name=hf-hub:timm/resnet18"],
            r"model_name: hf-hub:timm/resnet18 is read from the Hub",
        ),
        (
            [*TIMM, "+module.network.checkpoint_path=x.pth"],
            r"checkpoint_path: x\.pth would be unpickled.*module\.weights=x\.pth instead",
        ),
        (
            [*VISION, "+module.network.weights=DEFAULT"],
            r"module\.network\.weights: DEFAULT would fetch .*torchvision/ResNet18_Weights\.IMAGENET1K_V1 instead, and "
            "set this to null",
        ),
        (
            [*VISION, "+module.network.weights=ResNet18_Weights.IMAGENET1K_V1"],
            r"module\.weights=torchvision/ResNet18_Weights\.IMAGENET1K_V1 instead",
        ),
        (
            [*VISION, "+module.network.pretrained=true"],
            r"module\.weights=torchvision/ResNet18_Weights\.IMAGENET1K_V1 instead",
        ),
        ([*VISION, "+module.network.weights=x"], r"module\.weights=SOURCE instead"),
        (
            network("_target_: torchvision.models.get_model, name: resnet18, weights: DEFAULT"),
            r"module\.weights=torchvision/ResNet18_Weights\.IMAGENET1K_V1 instead",
        ),
        (network(f"{DETECTOR}, weights_backbone: DEFAULT"), r"weights_backbone: DEFAULT would fetch"),
        (
            network(DETECTOR),
            r"ResNet50_Weights\.IMAGENET1K_V1 would fetch .*set \+module\.network\.weights_backbone=null",
        ),
    ],
)
def test_what_would_fetch_weights_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        load_and_check(overrides)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "overrides",
    [
        TIMM,
        VISION,
        [*VISION, "+module.network.weights=null"],
        network(f"{DETECTOR}, weights_backbone: null"),
        network("_target_: timm.create_model, model_name: resnet18.a1_in1k, pretrained: false"),
    ],
)
def test_what_fetches_nothing_is_taken(overrides: list[str]) -> None:
    assert load_and_check(overrides)


SEGMENTERS = """
class Unet:
    def __init__(self, encoder_name="resnet34", encoder_weights="imagenet"): ...
"""


def test_an_encoder_s_weights_are_refused_also_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segmenters_of_a_test.py").write_text(SEGMENTERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    node = "_target_: segmenters_of_a_test.Unet"
    for given in ("", ", encoder_weights: imagenet"):
        with pytest.raises(ConfigError, match=r"module\.network\.encoder_weights: imagenet would fetch weights"):
            load_and_check(network(node + given))
    assert load_and_check(network(f"{node}, encoder_weights: null"))
    del sys.modules["segmenters_of_a_test"]
