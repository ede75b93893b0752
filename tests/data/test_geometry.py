"""Pixels are followed through any transforms that move boxes, and brought back to where they came from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from calotype.data.geometry import traced
from calotype.errors import DataError
from calotype.tasks.original import VOID, restored

SIZES = [(37, 52), (40, 61), (64, 64), (1, 9)]


class PadTo:
    """Pad to a square at the right and below, as a transform of a user's that acts on what is there."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, sample: Any) -> Any:
        height, width = sample["image"].shape[-2:]
        padding = [0, 0, max(0, self.side - width), max(0, self.side - height)]
        return v2.Pad(padding)(sample)


def scores(size: tuple[int, int]) -> tv_tensors.Image:
    """What a network that returns its input says: random scores of 5 classes."""
    drawn = torch.Generator().manual_seed(0)
    return tv_tensors.Image(torch.rand(5, *size, generator=drawn))


def chain(*transforms: Any) -> Any:
    def apply(sample: Any) -> Any:
        for transform in transforms:
            sample = transform(sample)
        return sample

    return apply


def answered(image: Tensor, *transforms: Any) -> Tensor:
    sample, affine = traced(chain(*transforms), {"image": image})
    assert set(sample) == {"image"}
    size = (image.shape[-2], image.shape[-1])
    return restored(torch.as_tensor(sample["image"]).as_subclass(torch.Tensor), affine, size)


@pytest.mark.guarantee(
    "A file's mask lies on the file's own pixels",
    condition="evaluation transforms that scale, shift, flip or turn by 90 degrees",
)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [PadTo(65)],
        [v2.Pad([3, 1, 4, 2])],
        [v2.RandomHorizontalFlip(1.0)],
        [v2.RandomVerticalFlip(1.0), PadTo(70), v2.RandomHorizontalFlip(1.0)],
        [v2.RandomRotation((90, 90), expand=True)],
        [v2.RandomRotation((270, 270), expand=True), v2.Pad(2)],
        [v2.Normalize([0.0] * 5, [2.0] * 5)],
        [v2.ToDtype(torch.float64, scale=True)],
    ],
)
def test_what_moves_by_whole_pixels_comes_back_exactly(size: tuple[int, int], transforms: list[Any]) -> None:
    image = scores(size)
    assert torch.equal(answered(image, *transforms), image.argmax(0))


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("new", [(20, 26), (80, 122), (33, 47)])
def test_what_was_resized_comes_back_as_interpolate_resizes(size: tuple[int, int], new: tuple[int, int]) -> None:
    image = scores(size)
    resize = v2.Resize(new)
    expected = F.interpolate(resize(image).as_subclass(torch.Tensor)[None], size, mode="bilinear")[0]
    first, second = expected.topk(2, 0).values
    sure = first - second > 1e-5
    assert sure.float().mean() > 0.99
    assert torch.equal(answered(image, resize)[sure], expected.argmax(0)[sure])


def test_what_was_cut_off_is_void() -> None:
    image = scores((40, 61))
    found = answered(image, v2.CenterCrop((20, 31)))
    expected = torch.full((40, 61), VOID)
    expected[10:30, 15:46] = image.argmax(0)[10:30, 15:46]
    assert torch.equal(found, expected)


def test_resized_and_cut() -> None:
    """Half of 41 x 60 is 20 x 30; of it rows 5..14 and columns 5..24, so of the file's rows those of 10.25 to 30.75."""
    image = scores((41, 60))
    found = answered(image, v2.Resize((20, 30)), v2.CenterCrop((10, 20)))
    seen = (found != VOID).nonzero()
    assert seen.amin(0).tolist() == [10, 10] and seen.amax(0).tolist() == [30, 49]
    assert len(seen) == 21 * 40


def test_a_small_part_is_followed_too() -> None:
    _, affine = traced(v2.CenterCrop(30), {"image": scores((300, 300))})
    assert torch.allclose(affine, torch.tensor([[1.0, 0, -135], [0, 1, -135]], dtype=torch.float64))


def test_clamped_boxes_are_left_out() -> None:
    def clamped(sample: Any) -> Any:
        sample = v2.CenterCrop(20)(sample)
        return {**sample, "points": v2.ClampBoundingBoxes(clamping_mode="hard")(sample["points"])}

    _, affine = traced(clamped, {"image": scores((40, 40))})
    assert torch.allclose(affine, torch.tensor([[1.0, 0, -10], [0, 1, -10]], dtype=torch.float64))


@pytest.mark.parametrize("loses", [False, True])
def test_a_transform_that_knows_no_boxes_moved_nothing_if_the_size_stayed(loses: bool) -> None:
    def brighter(sample: Any) -> Any:
        if loses and "points" in sample:
            raise TypeError("boxes?")
        return {"image": sample["image"] * 2}

    image = scores((9, 7))
    assert torch.equal(answered(image, brighter), image.argmax(0))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            lambda sample: {**sample, "image": sample["image"][:, ::2]},
            r"is 7x9 pixels and 7x5 after the evaluation tra",
        ),
        (v2.Pad(2, padding_mode="reflect"), r"their padding with a constant"),
        (v2.RandomRotation((30, 30)), "is turned or sheared"),
        (v2.RandomPerspective(0.9, p=1.0), "bend or cut it beyond recognition"),
    ],
)
def test_what_can_not_be_undone_is_refused(transform: Any, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(DataError, match=message):
        traced(transform, {"image": scores((9, 7))})


def test_an_error_of_the_transforms_is_theirs() -> None:
    def fails(sample: Any) -> Any:
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        traced(fails, {"image": scores((9, 7))})


@pytest.mark.parametrize("height", range(40, 50))
@pytest.mark.parametrize("width", [41, 52])
def test_a_centre_crop_that_is_larger_is_followed_to_the_pixel(height: int, width: int) -> None:
    """torchvision moves boxes by one more than the image of some sizes."""
    image = tv_tensors.Image(torch.randint(1, 256, (3, height, width), dtype=torch.uint8))
    sample, affine = traced(v2.CenterCrop(53), {"image": image})
    (scale, _, left), (_, _, top) = affine.tolist()
    left, top = round(left), round(top)
    assert scale == pytest.approx(1)
    assert torch.equal(sample["image"][:, top : top + height, left : left + width], image)
