"""SSD's crop and the mosaic: boxes stay on their objects, labels go with their boxes, and the rules hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from calotype.boxes import iou
from calotype.data.box_transforms import Mosaic, SSDCrop, cropped, inside, plain_boxes
from calotype.data.reader import ShardReader
from calotype.errors import ConfigError


def sample(boxes: list[list[float]], size: tuple[int, int] = (60, 90), level: int = 0) -> dict[str, Any]:
    """An image whose pixels are 200 + label where a box is."""
    image = torch.full((3, *size), level, dtype=torch.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes):
        image[:, int(top) : int(bottom), int(left) : int(right)] = 200 + number
    found = tv_tensors.BoundingBoxes(torch.tensor(boxes).reshape(-1, 4), format="XYXY", canvas_size=size)
    return {"image": tv_tensors.Image(image), "boxes": found, "labels": torch.arange(len(boxes))}


TWO = [[10.0, 10, 30, 30], [50.0, 20, 80, 50]]


def shown(found: dict[str, Any]) -> None:
    """Each box holds pixels of its object alone, and reaches its edges."""
    image = found["image"].as_subclass(torch.Tensor)[0]
    for box, label in zip(plain_boxes(found).tolist(), found["labels"].tolist(), strict=True):
        left, top, right, bottom = (round(value) for value in box)
        assert (image[top:bottom, left:right] == 200 + label).all()
    assert found["boxes"].canvas_size == tuple(image.shape)


def test_a_crop_keeps_boxes_on_their_objects_and_drops_those_whose_centre_is_cut_off() -> None:
    torch.manual_seed(0)
    crop, counts, sizes, tall = SSDCrop(), Counter[int](), set(), []
    for _ in range(300):
        found = crop(sample(TWO))
        shown(found)
        counts[len(found["labels"])] += 1
        sizes.add(tuple(found["image"].shape[-2:]))
        height, width = found["image"].shape[-2:]
        parts = width / 90, height / 60
        assert height >= 18 and width >= 27 and 0.47 <= parts[0] / parts[1] <= 2.1, "but for whole pixels"
        tall.append(height / width)
    assert max(tall) > 60 / 90 * 1.8 and min(tall) < 60 / 90 / 1.8, "the ratio is of parts of the image, as published"
    assert set(counts) == {1, 2} and len(sizes) > 50 and (60, 90) in sizes


def test_a_box_whose_centre_is_cut_off_in_one_direction_goes_with_its_label() -> None:
    """Of TWO the second one's centre is (65, 35): right of the first crop, below the second, in the third."""
    for place, labels in (((0, 0, 60, 60), [0]), ((0, 0, 90, 30), [0]), ((40, 0, 90, 60), [1])):
        found = cropped(sample(TWO), place)
        shown(found)
        assert found["labels"].tolist() == labels


@pytest.mark.parametrize("least", [0.1, 0.3, 0.5])
def test_all_boxes_overlap_a_crop_by_more_than_was_drawn(least: float) -> None:
    torch.manual_seed(1)
    crop, boxes, fits = SSDCrop((least,)), torch.tensor([[10.0, 10, 70, 50], [20.0, 5, 75, 55]]), [0, 0]
    for _ in range(300):
        place = crop._place((60, 90))
        if place is None:
            continue
        overlap = iou(boxes, torch.tensor([place]).float())
        wanted = bool((overlap > least).all()) and bool(inside(boxes, place).any())
        assert crop._fits(boxes, place, least) == wanted
        fits[wanted] += 1
    assert min(fits) > 5


def test_a_seventh_of_the_images_is_left_whole_at_the_first_draw() -> None:
    torch.manual_seed(2)
    crop = SSDCrop(attempts=1)
    whole = sum(found["image"].shape[-2:] == (60, 90) for found in (crop(sample(TWO)) for _ in range(400)))
    assert whole > 400 / 7 / 1.5


def test_an_image_without_boxes_stays_as_it_is() -> None:
    torch.manual_seed(3)
    empty = sample([])
    before = torch.get_rng_state()
    assert SSDCrop()(empty) is empty
    assert torch.equal(torch.get_rng_state(), before)


def test_a_crop_is_a_function_of_its_key() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(4)
        found.append(SSDCrop()(sample(TWO)))
    assert torch.equal(found[0]["image"], found[1]["image"]) and torch.equal(found[0]["boxes"], found[1]["boxes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (0.5, 1.5)}, "scale"),
        ({"least": (1.0,)}, "least"),
        ({"ratio": 0.5}, "ratio"),
        ({"attempts": 0}, "attempts"),
    ],
)
def test_crops_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SSDCrop(**arguments)


def test_a_mosaic_has_the_boxes_of_four_images_on_their_objects() -> None:
    torch.manual_seed(5)
    mosaic, counts = Mosaic(96, scale=(0.9, 1.0)), Counter[int]()
    for _ in range(50):
        found = mosaic(sample(TWO, level=7), [sample(TWO, level=8), sample([], level=9), sample(TWO, level=10)])
        image, boxes = found["image"], plain_boxes(found)
        assert image.shape == (3, 96, 96) and found["boxes"].canvas_size == (96, 96)
        assert float(boxes.min()) >= 0 and float(boxes.max()) <= 96
        counts[len(boxes)] += 1
        for box, label in zip(boxes.tolist(), found["labels"].tolist(), strict=True):
            left, top, right, bottom = (round(value) for value in box)
            middle = image[0, top + 2 : bottom - 2, left + 2 : right - 2]
            assert not middle.numel() or (middle.float() - 200 - label).abs().max() <= 1
    assert max(counts) <= 6 and len(counts) > 1


def test_boxes_that_are_mostly_cut_off_go() -> None:
    torch.manual_seed(6)
    areas = []
    for _ in range(50):
        found = Mosaic(96, scale=(1.0, 1.0), visible=0.6)(sample(TWO), [sample([])] * 3)
        areas += [((b[2] - b[0]) * (b[3] - b[1])).item() for b in plain_boxes(found)]
    scale = (96 / 90) ** 2
    assert min(areas) > 0.55 * min(400, 900) * scale


def test_a_mosaic_needs_partners() -> None:
    with pytest.raises(ConfigError, match=r"data\.train_transforms"):
        Mosaic(64)(sample(TWO))
    with pytest.raises(ConfigError, match="size 2"):
        Mosaic(2)
    with pytest.raises(ConfigError, match="scale"):
        Mosaic(64, scale=(0.0, 1.0))
    assert Mosaic(64, p=0.0)(one := sample(TWO), []) is one


class Invert:
    """255 less each pixel."""

    def __call__(self, given: Any) -> Any:
        return {**given, "image": tv_tensors.wrap(255 - given["image"], like=given["image"])}


class Levels:
    """Images of one level each, so that a mosaic tells who is in it."""

    def __init__(self, count: int) -> None:
        self.files, self.containers = (), {}
        self.ids = np.arange(count, dtype=np.int64) * 3 + 1

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        return str(position)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return sample([], level=position)  # a box would be resized to levels in between


def test_partners_go_through_the_transforms_before_a_mosaic() -> None:
    reader = ShardReader(Levels(100), [Invert(), Mosaic(64)], seed=1)
    levels = {level for position in range(8) for level in reader.sample(position, 0)[0]["image"].unique().tolist()}
    assert len(levels) > 12 and levels - {114} <= set(range(156, 256)), "255 less each level, and the fill"


def test_partners_are_drawn_under_the_samples_key() -> None:
    def levels(position: int, epoch: int, occurrence: int = 0) -> set[int]:
        reader = ShardReader(Levels(100), [Mosaic(64)], seed=1)
        found, _ = reader.sample(position, epoch, occurrence)
        return {level for level in found["image"].unique().tolist() if level < 100}

    first = levels(5, 0)
    assert 5 in first and 1 < len(first) <= 4
    assert levels(5, 0) == first, "the same each time, whoever reads it"
    assert len(set().union(*(levels(5, epoch) for epoch in range(8)))) > 12, "others in another epoch"
    assert levels(5, 0, occurrence=1) != first
