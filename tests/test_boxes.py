"""Box geometry: matching and coding by the published figures, suppression with ties by index."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from calotype.boxes import (
    area,
    brought_back,
    centred,
    corners,
    decoded,
    encoded,
    intersections,
    iou,
    matched,
    solid,
    suppressed,
)
from calotype.models.detection import SSD300


@pytest.fixture(scope="module")
def defaults() -> Tensor:
    return SSD300(80, "resnet18").default_boxes


def drawn(count: int, seed: int = 0, low: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    place, size = torch.rand(count, 2, generator=generator) * 80, torch.rand(count, 2, generator=generator) * 30 + low
    return torch.cat([place, place + size], 1)


@pytest.mark.parametrize(
    ("boxes", "positives"),
    [
        ([[0.1, 0.2, 0.4, 0.6]], [7]),
        ([[0.0, 0.0, 1.0, 1.0]], [5]),
        ([[0.5, 0.5, 0.52, 0.52]], [1]),
        ([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.9, 0.9]], [7, 9]),
    ],
)
def test_ssd300_matches_as_published(defaults: Tensor, boxes: list[list[float]], positives: list[int]) -> None:
    which, stands = matched(corners(defaults), torch.tensor(boxes))
    assert [int((stands & (which == number)).sum()) for number in range(len(boxes))] == positives


def test_of_two_boxes_that_want_one_default_box_the_later_has_it(defaults: Tensor) -> None:
    twice = torch.tensor([[0.5, 0.5, 0.52, 0.52]]).repeat(2, 1)
    which, stands = matched(corners(defaults), twice)
    assert which[stands].tolist() == [1]


def test_what_has_no_area_matches_nothing(defaults: Tensor) -> None:
    flat = torch.tensor([[0.2, 0.2, 0.2, 0.5], [0.5, 0.5, 0.4, 0.4], [0.1, 0.2, 0.4, 0.6], [torch.nan] * 4])
    which, stands = matched(corners(defaults), flat)
    assert int(stands.sum()) == 7 and which[stands].unique().tolist() == [2]
    assert not matched(corners(defaults), flat[:2])[1].any()
    assert not matched(corners(defaults), torch.zeros(0, 4))[1].any()


def test_a_box_that_is_encoded_comes_back(defaults: Tensor) -> None:
    box = torch.tensor([[0.1, 0.2, 0.4, 0.6]])
    _, stands = matched(corners(defaults), box)
    there = defaults[stands]
    assert (decoded(encoded(box.expand(len(there), 4), there), there) - box).abs().max() < 1e-4


def test_corners_and_centres_are_inverse() -> None:
    boxes = drawn(50).double()
    assert torch.allclose(corners(centred(boxes)), boxes, atol=1e-12)


def test_iou_is_that_of_torchvision_and_0_of_nothing() -> None:
    boxes, others = drawn(40), drawn(30, 1)
    torch.testing.assert_close(iou(boxes, others), box_iou(boxes, others))
    flat = torch.tensor([[1.0, 1.0, 1.0, 5.0]])
    assert iou(flat, flat).tolist() == [[0.0]] and solid(flat).tolist() == [False]
    assert area(torch.tensor([[5.0, 5.0, 1.0, 1.0]])).tolist() == [0.0]
    assert intersections(boxes, others).shape == (40, 30)


def test_suppression_is_that_of_torchvision_class_by_class() -> None:
    boxes, scores = drawn(300, low=20), torch.rand(300, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(300) % 3
    kept = suppressed(boxes, scores, labels, 0.5)
    alone = [torch.nonzero(labels == label).flatten() for label in range(3)]
    wanted = torch.cat([rows[nms(boxes[rows], scores[rows], 0.5)] for rows in alone])
    assert sorted(kept.tolist()) == sorted(wanted.tolist()) and 20 < len(kept) < 300
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)


def test_one_of_two_boxes_that_overlap_by_more_than_half_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4.9]])
    assert suppressed(boxes, torch.tensor([0.5, 0.9, 0.4]), torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [1]
    other = torch.tensor([0, 1, 0])
    assert suppressed(boxes, torch.tensor([0.5, 0.9, 0.4]), other, 0.5).tolist() == [1, 0, 2]
    assert suppressed(boxes[:0], torch.zeros(0), other[:0], 0.5).tolist() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_equal_scores_the_first_stays(order: tuple[int, ...]) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.5], [0.5, 0, 10, 10]])[list(order)]
    assert suppressed(boxes, torch.full((3,), 0.7), torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [0]


def test_what_is_not_finite_is_left_out_and_hides_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 1, torch.inf, 5], [0, torch.nan, 1, 1]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.int64)
    assert suppressed(boxes, scores, labels, 0.5).tolist() == [0]


@pytest.mark.parametrize(("threshold", "over"), [(0.45, 9), (0.5, 10), (0.3, 6), (0.7, 14)])
def test_an_overlap_of_just_the_threshold_is_not_above_it(threshold: float, over: int) -> None:
    """As a GPU compares, in float32 too: 0.45 is less there than 9/20."""
    pair = torch.tensor([[0.0, 0, 20, 1], [0, 0, over, 1]])
    more = torch.tensor([[0.0, 0, 20, 1], [0, 0, over + 0.01, 1]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert suppressed(pair, scores, labels, threshold).tolist() == [0, 1]
    assert suppressed(more, scores, labels, threshold).tolist() == [0]


def test_the_kernel_gets_a_threshold_that_float32_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr("calotype.boxes.nms", lambda boxes, _, limit: given.append(limit) or torch.arange(len(boxes)))
    for threshold in (0.45, 0.5, 0.3, 0.7):
        suppressed(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.5]), torch.tensor([0]), threshold)
        assert given[-1] == float(np.float32(given[-1])) and 0 <= given[-1] - threshold < 1e-7


def test_classes_far_from_the_origin_are_still_apart_and_exact() -> None:
    boxes = torch.tensor([[0.0, 0, 3000.5, 2000.25], [0, 0, 3000.5, 2000.25]]) - 500
    labels = torch.tensor([0, 89])
    assert suppressed(boxes, torch.tensor([0.5, 0.5]), labels, 0.5).tolist() == [0, 1]
    assert suppressed(boxes, torch.tensor([0.5, 0.5]), torch.tensor([89, 89]), 0.5).tolist() == [0]


@pytest.mark.parametrize(
    "affine",
    [[[2.0, 0, 3], [0, 0.5, -4]], [[-1.0, 0, 100], [0, 1, 0]], [[0, 1.5, 0], [-1.5, 0, 90]]],
    ids=["scaled", "flipped", "turned"],
)
def test_boxes_come_back_to_their_file(affine: list[list[float]]) -> None:
    boxes, there = drawn(20).double(), torch.tensor(affine, dtype=torch.float64)
    ends = boxes.view(-1, 2, 2) @ there[:, :2].T + there[:, 2]
    moved = torch.cat([ends.amin(1), ends.amax(1)], 1)
    np.testing.assert_allclose(brought_back(moved, there), boxes, atol=1e-9)
