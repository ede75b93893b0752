"""Windows and views: what is averaged, with which weights, and what it leaves as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.errors import ConfigError
from calotype.tasks.inference import Inference, places
from calotype.tasks.segmentation import Segmentation
from calotype.types import Shard
from tests.contracts.task import TaskContract
from tests.tasks.test_segmentation import CLASSES, Net, shard


def images(count: int = 2, height: int = 23, width: int = 31) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def pixelwise(seen: Tensor) -> Tensor:
    """A network that looks at each pixel alone."""
    return torch.stack([seen.sum(1), seen[:, 0] * 3, seen[:, 1] ** 2 * 5], 1)


class Positions:
    """A network that sees where a window begins, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, seen: Tensor) -> Tensor:
        self.asked.append(seen)
        own = torch.full_like(seen[:, 0], len(self.asked) * 0.3)
        return torch.stack([own, -own, seen[:, 0]], 1)


class TestContract(TaskContract):
    def make(self) -> Any:
        task = Segmentation(Net(), CLASSES)
        task.inference = Inference(window=8, scales=[0.5, 1.0], flip=True)
        return task

    def shard(self, ids: Sequence[int]) -> Shard:
        return shard(ids)


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),
        (11, 4, 3, [0, 3, 6, 7]),
        (4, 4, 3, [0]),
        (3, 4, 3, [0]),
        (5, 4, 4, [0, 1]),
        (9, 3, 3, [0, 3, 6]),
    ],
)
def test_windows_cover_an_axis_and_end_with_it(size: int, window: int, stride: int, starts: list[int]) -> None:
    found = places(size, window, stride)
    assert [place.start for place in found] == starts
    assert {pixel for place in found for pixel in range(size)[place]} == set(range(size))


def test_windows_are_averaged_as_probabilities_where_they_overlap() -> None:
    network, seen = Positions(), images(1, 6, 10)
    found = Inference(window=6, stride=4)(network, seen)
    assert [asked.tolist() for asked in network.asked] == [seen[..., :6].tolist(), seen[..., 4:].tolist()]
    again = Positions()
    first, second = again(seen[..., :6]).softmax(1), again(seen[..., 4:]).softmax(1)
    expected = torch.cat([first[..., :4], (first[..., 4:] + second[..., :2]) / 2, second[..., 2:]], 3)
    assert torch.equal(found, expected)


def test_of_a_network_that_sees_pixels_alone_windows_change_nothing() -> None:
    seen = images()
    found = Inference(window=[9, 40], stride=[5, 40])(pixelwise, seen)
    assert torch.allclose(found, pixelwise(seen).softmax(1), atol=1e-6)


@pytest.mark.parametrize("window", [None, 31, [23, 31], 1000])
def test_an_image_of_at_most_a_window_is_asked_whole(window: Any) -> None:
    seen = images()
    assert torch.equal(Inference(window=window)(pixelwise, seen), pixelwise(seen))


def test_mirrored_images_are_answered_by_the_mirrored_answer() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3, padding=1)
    seen, ask = images(1), Inference(flip=True)
    with torch.no_grad():
        found = ask(network, seen)
        assert torch.equal(ask(network, seen.flip(-1)), found.flip(-1))
        expected = (network(seen).softmax(1) + network(seen.flip(-1)).softmax(1).flip(-1)) / 2
    assert torch.equal(found, expected)
    assert torch.allclose(found.sum(1), torch.ones(()), atol=1e-6)


def test_scales_are_averaged_at_the_image_s_size() -> None:
    network, seen = Positions(), images(1, 20, 30)
    found = Inference(scales=[0.5, 1.0, 1.75])(network, seen)
    assert [tuple(asked.shape[-2:]) for asked in network.asked] == [(10, 15), (20, 30), (35, 52)]
    again = Positions()
    views = [
        seen if s == (20, 30) else F.interpolate(seen, s, mode="bilinear", antialias=True)
        for s in [(10, 15), (20, 30), (35, 52)]
    ]
    answers = [again(view).softmax(1) for view in views]
    same = [
        a if a.shape[-2:] == (20, 30) else F.interpolate(a, (20, 30), mode="bilinear", antialias=True) for a in answers
    ]
    assert torch.equal(found, (same[0] + same[1] + same[2]) / 3)


def test_scaled_images_are_windowed_like_others() -> None:
    network = Positions()
    Inference(window=20, stride=20, scales=[1.0, 2.0])(network, images(1, 20, 20))
    assert [tuple(asked.shape[-2:]) for asked in network.asked] == [(20, 20)] * 5


@pytest.mark.guarantee(
    "A prediction does not depend on the rest of its batch",
    condition="windows and test-time augmentation; a network that treats images alone",
)
def test_an_image_is_answered_alone_as_in_a_batch() -> None:
    seen, ask = images(3), Inference(window=12, scales=[0.75, 1.25], flip=True)
    whole = ask(pixelwise, seen)
    assert torch.equal(torch.cat([ask(pixelwise, seen[row : row + 1]) for row in range(3)]), whole)


def test_metrics_measure_what_predict_says_and_the_loss_is_that_of_a_plain_pass() -> None:
    plain = Segmentation(Net(), CLASSES).eval()
    task = Segmentation(Net(), CLASSES).eval()
    task.inference = Inference(window=6, scales=[0.5, 1.0], flip=True)
    one = shard([0, 1, 2])
    counts = task.counts(one)
    with torch.no_grad():
        loss, prediction = task.evaluate(one, counts)
        assert torch.equal(loss.value, plain(one, counts).value)
        assert torch.equal(prediction["mask"], task.predict(one)["mask"])
        assert not torch.equal(prediction["mask"], plain.predict(one)["mask"])


def test_files_are_predicted_at_their_own_pixels() -> None:
    task = Segmentation(Net(), CLASSES).eval()
    one = shard([1, 2])
    double = torch.tensor([[0.5, 0, 0], [0, 0.5, 0]], dtype=torch.float64)
    beside = {
        "affine": torch.stack([torch.eye(2, 3, dtype=torch.float64), double]),
        "original_size": torch.tensor([[10, 12], [20, 24]]),
    }
    with torch.no_grad():
        masks = task.predict(Shard(one.ids, {"image": one["image"], **beside}))["mask"]
        plain = task.predict(one)["mask"]
    assert [tuple(mask.shape) for mask in masks] == [(10, 12), (20, 24)]
    assert torch.equal(masks[0], plain[0])


def test_an_output_that_is_not_finite_is_no_mask() -> None:
    task = Segmentation(Net(), CLASSES).eval()
    torch.nn.init.constant_(task.network.head.weight, float("nan"))
    beside = {"affine": torch.eye(2, 3, dtype=torch.float64)[None], "original_size": torch.tensor([[4, 4]])}
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with torch.no_grad():
        assert task.predict(Shard(np.arange(1), {"image": image, **beside}))["mask"] == [None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "0 is not allowed; allowed: a side"),
        ({"window": [4, 5, 6]}, "a side, or .height, width."),
        ({"stride": 4}, "there is no window"),
        ({"window": 4, "stride": 5}, "leave gaps"),
        ({"scales": []}, "name factors above 0"),
        ({"scales": [1.0, -0.5]}, "name factors above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Inference(**arguments)
    assert str(caught.value.key).startswith("module.inference.")
