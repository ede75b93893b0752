"""SSD300 by its published figures; SSD of other sizes; torchvision's detectors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import timm
import torch
from torch import nn

from calotype.errors import ConfigError
from calotype.models.detection import SSD, SSD300, DefaultBoxes, ResNetTrunk, SmallFeatures
from calotype.models.torchvision_detectors import detector


@pytest.fixture(scope="module")
def network() -> SSD300:
    torch.manual_seed(0)
    return SSD300(80, "resnet18").eval()


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("resnet50", 22_894_902), ("resnet34", 19_975_222), ("resnet18", 14_048_310)]
)
def test_parameters_are_the_published_ones(backbone: str, parameters: int) -> None:
    with torch.device("meta"):
        found = SSD300(80, backbone)
    assert sum(parameter.numel() for parameter in found.parameters()) == parameters


def test_weight_decay_leaves_out_118_tensors_of_ssd300_resnet50() -> None:
    with torch.device("meta"):
        parameters = [*SSD300(80).parameters()]
    flat = [parameter for parameter in parameters if parameter.dim() == 1]
    assert (len(flat), sum(parameter.numel() for parameter in flat), len(parameters) - len(flat)) == (118, 38_518, 65)


def test_outputs_and_maps(network: SSD300) -> None:
    with torch.no_grad():
        images = torch.zeros(2, 3, 300, 300)
        maps = network.features(images)
        offsets, logits = network(images)
    assert [tuple(found.shape[-2:]) for found in maps] == [(s, s) for s in (38, 19, 10, 5, 3, 1)] == network.boxes.maps
    assert [found.shape[1] for found in maps] == [256, 512, 512, 256, 256, 128]
    assert offsets.shape == (2, 4, 8732) and logits.shape == (2, 81, 8732)


def test_default_boxes_are_the_published_ones(network: SSD300) -> None:
    boxes = network.default_boxes
    counts = [
        rows * columns * kinds for (rows, columns), kinds in zip(network.boxes.maps, network.boxes.kinds, strict=True)
    ]
    assert counts == [5776, 2166, 600, 150, 36, 4] and sum(counts) == len(boxes) == 8732
    for row, wanted in {
        0: (0.0133333, 0.0133333, 0.07, 0.07),
        1444: (0.0133333, 0.0133333, 0.1024695, 0.1024695),
        -1: (0.5, 0.5, 0.6151829, 1.0),
    }.items():
        torch.testing.assert_close(boxes[row], torch.tensor(wanted), atol=1e-6, rtol=0)
    told = network.boxes
    whole = DefaultBoxes(told.size, told.steps, told.scales, told.ratios, clip=False).boxes()
    assert int((whole != boxes).any(1).sum()) == 116


def test_outputs_are_in_the_order_of_the_boxes() -> None:
    """A head that says where it is: each output belongs to the default box whose cell it was computed for."""
    torch.manual_seed(0)
    boxes = DefaultBoxes((32, 48), (8, 16), (8, 16, 24), ((2,), (2, 3)))
    network = SSD(SmallFeatures((4, 4, 4, 4)), boxes, 2)

    class Places(torch.nn.Module):
        """Maps whose channels are x and y of each cell's centre, in parts of the image."""

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            found = []
            for (rows, columns), step in zip(boxes.maps, boxes.steps, strict=True):
                y, x = ((torch.arange(n) + 0.5) * step for n in (rows, columns))
                grid = torch.meshgrid(y / 32, x / 48, indexing="ij")
                found.append(
                    torch.stack([grid[1], grid[0], grid[0] * 0, grid[0] * 0])[None].expand(len(image), -1, -1, -1)
                )
            return found

    network.features = Places()
    for head, kinds in zip(network.place, boxes.kinds, strict=True):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        for kind, coordinate in itertools.product(range(kinds), range(4)):
            # output coordinate c of this kind of box is input channel c
            head.weight.data[coordinate * kinds + kind, coordinate, 1, 1] = 1
    offsets, logits = network(torch.zeros(1, 3, 32, 48))
    torch.testing.assert_close(offsets[0, :2].T, boxes.boxes()[:, :2])
    assert logits.shape == (1, 3, len(boxes.boxes()))


def test_timms_resnets_are_trunks_too() -> None:
    with torch.device("meta"):
        found = SSD300(80, timm.create_model("resnet50"))
    assert sum(parameter.numel() for parameter in found.parameters()) == 22_894_902


def test_a_trunk_is_a_resnet_with_its_third_stage_at_stride_1() -> None:
    trunk = ResNetTrunk(timm.create_model("resnet10t"))
    assert trunk.channels == 256
    assert trunk.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 8, 8)
    with pytest.raises(ConfigError, match="has not a ResNet's parts"):
        ResNetTrunk(timm.create_model("mobilenetv3_small_050"))


def test_images_of_another_size_are_refused(network: SSD300) -> None:
    with pytest.raises(ConfigError, match="images are 320x240 pixels and its boxes are for 300x300"):
        network(torch.zeros(1, 3, 240, 320))


def test_boxes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 steps need as many lists of ratios and one scale more"):
        DefaultBoxes(32, (4, 8), (8, 16), ((), ()))
    with pytest.raises(ConfigError, match="2 maps for 1 steps"):
        SSD(SmallFeatures((4, 8)), DefaultBoxes(32, (4,), (8, 16), ((),)), 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": (0, 8)}, r"boxes\.steps: 0 is not allowed; allowed: above 0"),
        ({"scales": (8, -1, 20)}, r"boxes\.scales: -1 is not allowed"),
        ({"ratios": ((2, 0), ())}, r"boxes\.ratios: 0 is not allowed"),
        ({"size": 0}, r"boxes\.size: 0 is not allowed"),
        ({"size": [64]}, r"boxes\.size: \[64\] is neither a side nor height and width"),
    ],
)
def test_boxes_that_cannot_be_are_refused(change: dict[str, Any], told: str) -> None:
    options: dict[str, Any] = {"size": 32, "steps": (4, 8), "scales": (8, 16, 20), "ratios": ((2,), ())}
    assert len(DefaultBoxes(**options).boxes()) == 4 * 64 + 2 * 16
    with pytest.raises(ConfigError, match=told):
        DefaultBoxes(**options | change)


def test_features_whose_maps_have_other_steps_are_refused() -> None:
    network = SSD(SmallFeatures((4, 8)), DefaultBoxes(32, (4, 8), (8, 16, 20), ((), ())), 2)
    with pytest.raises(
        ConfigError, match=r"maps of \[\(16, 16\), \(8, 8\)\], and of these steps .*\[\(8, 8\), \(4, 4\)\]"
    ):
        network(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn"])
def test_torchvisions_detectors_take_images_as_they_come(name: str) -> None:
    torch.manual_seed(0)
    network = detector(name, 2).eval()
    with torch.no_grad():
        (found,) = network(torch.rand(1, 3, 96, 128))
    assert {"boxes", "scores", "labels"} <= set(found)
    assert not len(found["boxes"]) or float(found["boxes"][:, 2].max()) <= 128
    assert all("transform" not in key for key in network.state_dict())


def test_what_is_no_detector_of_boxes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"module\.network\.name: 'maskrcnn_resnet50_fpn' is no detector of boxes"):
        detector("maskrcnn_resnet50_fpn", 2)
