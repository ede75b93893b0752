"""Boxes that `calotype predict` writes lie where their pixels are in the file, whatever the transforms made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from calotype.config.build import build
from tests import detectors
from tests.detectors import Seen, predict, results, spot, told, use

detector = detectors.detector

V2 = "torchvision.transforms.v2"
PAD = "{_target_: calotype.data.transforms.PadTo, size: [120, 150]}"
CROP = "{_target_: torchvision.transforms.v2.CenterCrop, size: [50, 57]}"
FLIP = "{_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 1.0}"
DOUBLE = "{_target_: torchvision.transforms.v2.Resize, size: [96, 130], interpolation: 0}"
TURN = "{_target_: torchvision.transforms.v2.RandomRotation, degrees: [90, 90], expand: true}"


@pytest.mark.guarantee(
    "predict writes boxes in the pixels of the file, whatever the evaluation transforms are",
    condition="resize, padding, crop, flip, turns by 90 degrees; within 0.002 pixels",
)
@pytest.mark.parametrize(
    "transforms",
    [[], [DOUBLE], [PAD], [CROP], [FLIP], [TURN], [DOUBLE, FLIP], [PAD, CROP, FLIP], [FLIP, DOUBLE, PAD, TURN, CROP]],
    ids=lambda given: "+".join(text.split(",")[0].rpartition(".")[2] for text in given) or "none",
)
def test_a_box_comes_back_to_where_its_pixels_are(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transforms: list[str]
) -> None:
    """The network finds the white pixels of what the transforms made; of those that a resize doubles, all."""
    box, size = (24, 20, 37, 31), (65, 48)
    spot(tmp_path / "in/1.png", size, box)
    use(monkeypatch, detector, Seen(), f"data.eval_transforms=[{', '.join(transforms)}]")
    assert predict(detector, tmp_path / "in", "--output", tmp_path / "out") == 0
    (found,), about = results(tmp_path / "out")
    expected = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    assert found["bbox"] == pytest.approx(expected, abs=0.002)
    assert (found["image_id"], found["category_id"], found["score"]) == (1, 3, 0.75)
    assert about["images"] == [{"id": 1, "file_name": "1.png", "width": 65, "height": 48}]


@pytest.mark.parametrize("seed", range(8))
def test_any_boxes_come_back_through_any_transforms(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """torchvision says where boxes go, predict brings them back to where they were."""
    drawn = np.random.default_rng(seed)
    width, height = drawn.integers(60, 90, 2).tolist()
    corners = np.sort(drawn.uniform(0, 1, (9, 2, 2)), 1) * [width, height]
    boxes = torch.from_numpy(corners.reshape(9, 4)).float()
    size = drawn.integers(40, 120, 2).tolist()
    steps: list[Any] = [
        {"_target_": f"{V2}.Resize", "size": size},
        {"_target_": "calotype.data.transforms.PadTo", "size": drawn.integers(60, 140, 2).tolist()},
        {"_target_": f"{V2}.RandomVerticalFlip", "p": float(drawn.integers(2))},
        {"_target_": f"{V2}.RandomHorizontalFlip", "p": float(drawn.integers(2))},
    ]
    steps = [steps[place] for place in drawn.permutation(len(steps)).tolist()]
    moved: Any = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))  # type: ignore[call-overload]
    sample = {"image": tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)), "boxes": moved}
    for step in build(steps, "data.eval_transforms"):
        sample = step(sample)
    use(
        monkeypatch,
        detector,
        told(sample["boxes"].as_subclass(Tensor).tolist()),
        f"data.eval_transforms={json.dumps(steps).replace(chr(34), '')}",
    )
    spot(tmp_path / "in/1.png", (width, height), (0, 0, 1, 1))
    assert predict(detector, tmp_path / "in", "--output", tmp_path / "out") == 0
    found = np.array([item["bbox"] for item in results(tmp_path / "out")[0]])
    found[:, 2:] += found[:, :2]
    assert np.abs(found - boxes.numpy()).max() < 0.002
