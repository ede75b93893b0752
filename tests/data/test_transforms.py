"""Scaled crops, padding and blur of images with their masks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from calotype.data.transforms import VOID, PadTo, RandomBlur, RandomScaleCrop
from calotype.errors import ConfigError


def sample(height: int, width: int) -> dict[str, Any]:
    """An image that is no two pixels alike and a mask of 21 classes and void, as files are decoded."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    ids = np.random.default_rng(1).choice([*range(21), VOID], (height, width))
    image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
    return {"image": image, "mask": tv_tensors.Mask(torch.from_numpy(ids))}


def whole(transform: RandomScaleCrop, item: Any, params: dict[str, Any]) -> torch.Tensor:
    """The same by resizing all of it, padding, and cropping then."""
    mask = isinstance(item, tv_tensors.Mask)
    how = {"interpolation": F.InterpolationMode.NEAREST_EXACT} if mask else {}
    scaled = F.resize(item, list(params["scaled"]), **how)
    padded = F.pad(scaled, params["pad"], fill=VOID if mask else list(transform.fill))
    return F.crop(padded, *params["crop"], transform.size, transform.size)


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (7, 5), (1, 1), (90, 600)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_crop_is_the_crop_of_the_whole_resized_image(size: tuple[int, int], memory: torch.memory_format) -> None:
    drawn = sample(*size)
    image = drawn["image"].unsqueeze(0).contiguous(memory_format=memory).squeeze(0)
    drawn["image"] = tv_tensors.Image(image)
    transform = RandomScaleCrop(64, scale=(0.4, 2.5), pad_to=70, fill=[1, 2, 3])
    for seed in range(8):
        torch.manual_seed(seed)
        params = transform.make_params([drawn["image"]])
        for item in drawn.values():
            found = transform.transform(item, params)
            assert type(found) is type(item) and found.dtype == item.dtype
            assert torch.equal(found, whole(transform, item, params)), (seed, params)


@pytest.mark.guarantee(
    "A training sample of the VOC recipe is 480x480 and an evaluation sample 513x513, masks hold ids of the file alone",
    condition="images of 500x375 and of 1x1, scaled 1 to 2.5 times",
)
@pytest.mark.parametrize("size", [(375, 500), (1, 1)])
def test_sizes_of_the_reference(size: tuple[int, int]) -> None:
    drawn = sample(*size)
    ids = {*drawn["mask"].unique().tolist(), VOID}
    torch.manual_seed(0)
    train = RandomScaleCrop(480, scale=(1.0, 2.5), pad_to=513)(drawn)
    val = PadTo(513)(drawn)
    assert train["image"].shape == (3, 480, 480) and train["mask"].shape == (480, 480)
    assert val["image"].shape == (3, 513, 513) and val["mask"].shape == (513, 513)
    for found in (train, val):
        assert {*found["mask"].unique().tolist()} <= ids
        assert isinstance(found["image"], tv_tensors.Image) and isinstance(found["mask"], tv_tensors.Mask)


def test_what_is_smaller_is_padded_around_its_middle() -> None:
    drawn = sample(375, 500)
    padded = PadTo(513, fill=[9, 8, 7])(drawn)
    assert torch.equal(padded["image"][:, 69 : 69 + 375, 6 : 6 + 500], drawn["image"])
    assert padded["image"][:, 0, 0].tolist() == [9, 8, 7]
    assert (padded["mask"] == VOID).sum() == 513 * 513 - 375 * 500 + (drawn["mask"] == VOID).sum()
    assert PadTo([300, 600])(drawn)["image"].shape == (3, 375, 600), "what is larger stays"
    assert PadTo(divisor=32)(drawn)["image"].shape == (3, 384, 512)
    assert PadTo(513, divisor=16)(drawn)["image"].shape == (3, 528, 528)


@pytest.mark.guarantee(
    "Flip, scale, pad and crop move mask and image together",
    condition="a bright block in both, through 20 draws of the VOC recipe",
)
def test_image_and_mask_move_together() -> None:
    image, mask = torch.zeros(3, 90, 120, dtype=torch.uint8), torch.zeros(90, 120, dtype=torch.int64)
    image[:, 40:60, 30:70], mask[40:60, 30:70] = 255, 7
    drawn = {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(mask)}
    from torchvision.transforms.v2 import RandomHorizontalFlip

    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        found = RandomHorizontalFlip()(RandomScaleCrop(110, scale=(1.0, 2.5), pad_to=130)(drawn))
        bright, marked = found["image"][0] > 127, found["mask"] == 7
        assert (bright ^ marked).sum() <= bright.shape[0] * 2, "along its edges alone"
        seen.add(int(marked.sum()))
    assert len(seen) > 10, "each draw is another"


def test_boxes_and_points_go_along() -> None:
    boxes = tv_tensors.BoundingBoxes([[30, 40, 70, 60]], format="XYXY", canvas_size=(90, 120))  # type: ignore[call-overload]
    image = tv_tensors.Image(torch.zeros(3, 90, 120, dtype=torch.uint8))
    torch.manual_seed(1)
    transform = RandomScaleCrop(400, scale=(2, 2), pad_to=400)
    found = transform({"image": image, "boxes": boxes})["boxes"]
    assert found.tolist() == [[140, 190, 220, 230]] and found.canvas_size == (400, 400)


def test_a_draw_is_keyed_by_torch_s_generator_alone() -> None:
    drawn, transform = sample(60, 80), RandomScaleCrop(50)

    def made(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.Tensor(transform(drawn)["image"])

    assert torch.equal(made(3), made(3)) and not torch.equal(made(3), made(4))


@pytest.mark.parametrize("size", [3, 5, 15])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_blur_is_the_mean_around_a_pixel(size: int, memory: torch.memory_format) -> None:
    image = sample(40, 33)["image"].unsqueeze(0).contiguous(memory_format=memory).squeeze(0)
    found = RandomBlur(size, p=1)(tv_tensors.Image(image))
    half = size // 2
    expected = nn.avg_pool2d(nn.pad(image.double(), (half,) * 4, mode="reflect"), size, 1)
    assert torch.equal(torch.Tensor(found).double(), (expected + 1e-9).round())


def test_blur_leaves_masks_and_is_drawn() -> None:
    drawn = sample(20, 20)
    torch.manual_seed(0)
    found = [RandomBlur()(drawn) for _ in range(20)]
    same = [torch.equal(item["image"], drawn["image"]) for item in found]
    assert all(torch.equal(item["mask"], drawn["mask"]) for item in found)
    assert {*same} == {True, False} and any(a != b for a, b in pairwise(same))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RandomScaleCrop(0), "size 0"),
        (lambda: RandomScaleCrop(8, scale=(2, 1)), "scale"),
        (lambda: RandomScaleCrop(8, pad_to=7), "pad_to"),
        (lambda: PadTo(divisor=0), "divisor 0"),
        (lambda: RandomBlur(4), "size 4"),
        (lambda: RandomBlur(p=1)(tv_tensors.Image(torch.zeros(3, 8, 8))), "uint8"),
    ],
)
def test_what_can_t_be_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
