"""Losses against PyTorch's, published numbers and the definition written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.losses import CrossEntropyLoss, DiceLoss, FocalLoss, MultiBoxLoss

LOGITS = torch.tensor([[1.0, 2, 3, 4], [4, 3, 5, 1]])
TARGETS = torch.tensor([3, 0])


def draw(*shape: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, classes, shape, generator=generator)


@pytest.mark.parametrize(("gamma", "expected"), [(0, 0.929953), (1, 0.616600), (2, 0.436000)])
def test_focal_loss_has_the_known_values(gamma: float, expected: float) -> None:
    """Fact 17."""
    assert FocalLoss(gamma)(LOGITS, TARGETS).item() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 4.0]])
@pytest.mark.parametrize("shape", [(6,), (3, 4, 5)])
def test_focal_loss_of_gamma_0_is_cross_entropy(reduction: str, weight: list[float] | None, shape: tuple[int]) -> None:
    logits, target = draw(*shape, classes=4)
    weights = None if weight is None else torch.tensor(weight)
    ours = FocalLoss(0, weight, reduction).double()(logits, target)
    expected = F.cross_entropy(logits, target, None if weights is None else weights.double(), reduction=reduction)
    torch.testing.assert_close(ours, expected)


def test_focal_loss_takes_class_probabilities() -> None:
    logits, target = draw(5, classes=4)
    soft = F.one_hot(target, 4).double()
    torch.testing.assert_close(FocalLoss(2.0)(logits, soft), FocalLoss(2.0)(logits, target))
    mixed = FocalLoss(2.0, reduction="none")(logits, 0.3 * soft + 0.7 * soft.roll(1, 0))
    one, other = (FocalLoss(2.0, reduction="none")(logits, t) for t in (target, target.roll(1, 0)))
    torch.testing.assert_close(mixed, 0.3 * one + 0.7 * other)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0])
def test_focal_loss_and_its_gradient_are_finite_where_a_softmax_rounds(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0, 0], [200.0, 0, 0], [0.0, 0, 0]], requires_grad=True)
    losses = FocalLoss(gamma, reduction="none")(logits, torch.tensor([0, 1, 2]))
    losses.sum().backward()
    assert losses[0].item() == 0.0
    assert losses[1].item() == pytest.approx(200.0)
    assert bool(logits.grad.isfinite().all())


def test_focal_loss_refuses_a_negative_gamma() -> None:
    with pytest.raises(ValueError, match="gamma"):
        FocalLoss(-1)


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(), DiceLoss()], ids=lambda loss: type(loss).__name__)
def test_half_precision_logits_are_computed_in_float32(loss: torch.nn.Module) -> None:
    logits, target = draw(2, 8, 8, classes=4)
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(logits.bfloat16().double(), target).item(), rel=1e-5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 4.0]])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 5)])
def test_cross_entropy_is_pytorchs(
    reduction: str, smoothing: float, weight: list[float] | None, shape: tuple[int, ...]
) -> None:
    logits, target = draw(*shape, classes=4)
    target.flatten()[0] = 255
    weights = None if weight is None else torch.tensor(weight).double()
    expected = F.cross_entropy(
        logits, target, weights, ignore_index=255, label_smoothing=smoothing, reduction=reduction
    )
    ours = CrossEntropyLoss(weight, smoothing, ignore_index=255, reduction=reduction).double()(logits, target)
    torch.testing.assert_close(ours, expected)
    expected_gradient = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), logits), expected_gradient)


def test_cross_entropy_takes_class_probabilities() -> None:
    logits, target = draw(5, classes=4)
    soft = F.one_hot(target, 4).double()
    torch.testing.assert_close(CrossEntropyLoss()(logits, soft), F.cross_entropy(logits, target))


def dice_written_out(logits: Tensor, target: Tensor, smooth: float) -> float:
    p, values = logits.softmax(0), []
    for c in range(len(logits)):
        seen = [(p[c, y, x], target[y, x] == c) for y in range(3) for x in range(4) if target[y, x] != 255]
        shared = sum(q.item() for q, here in seen if here)
        area = sum(here.item() for _, here in seen)
        if area:
            values.append(1 - (2 * shared + smooth) / (sum(q.item() for q, _ in seen) + area + smooth))
    return sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize("smooth", [1.0, 0.01])
def test_dice_is_its_definition_per_image(smooth: float) -> None:
    logits, target = draw(3, 3, 4, classes=3)
    target[0, :2] = 255
    target[1] = 255
    losses = DiceLoss(smooth=smooth, reduction="none")(logits, target)
    assert losses.tolist() == pytest.approx([dice_written_out(logits[i], target[i], smooth) for i in range(3)])
    assert losses[1].item() == 0.0
    assert DiceLoss(smooth=smooth)(logits, target).item() == pytest.approx(losses.mean().item())
    assert DiceLoss(smooth=smooth, reduction="sum")(logits, target).item() == pytest.approx(losses.sum().item())


def test_dice_gives_void_no_gradient() -> None:
    logits, target = draw(2, 3, 4, classes=3)
    target[0, 1] = 255
    target[1] = 255
    DiceLoss()(logits, target).backward()
    assert not logits.grad[0, :, 1].any()
    assert not logits.grad[1].any()
    assert bool(logits.grad[0, :, 0].all())


def test_dice_is_0_where_the_prediction_is_right_and_1_where_it_is_wrong() -> None:
    target = torch.tensor([[[0, 1], [1, 0]]])
    right = F.one_hot(target, 2).movedim(-1, 1) * 200.0
    assert DiceLoss()(right, target).item() == pytest.approx(0.0, abs=1e-6)
    assert DiceLoss(smooth=1e-9)(-right, target).item() == pytest.approx(1.0, abs=1e-6)


def multibox(count: int, seed: int = 0, classes: int = 4, boxes: int = 50) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets, logits, wanted offsets and labels; image k has 3 k boxes that stand for something."""
    drawn = torch.Generator().manual_seed(seed)
    offsets, wanted = torch.randn(2, count, 4, boxes, generator=drawn)
    logits = torch.randn(count, classes, boxes, generator=drawn)
    labels = torch.zeros(count, boxes, dtype=torch.int64)
    for row in range(count):
        places = torch.randperm(boxes, generator=drawn)[: 3 * row]
        labels[row, places] = torch.randint(1, classes, (len(places),), generator=drawn)
    return offsets, logits, wanted, labels


@pytest.mark.parametrize("positives", [1, 7, 2183])
def test_multibox_of_zero_logits_at_the_right_places_is_4_ln_81(positives: int) -> None:
    labels = torch.zeros(1, 8732, dtype=torch.int64)
    labels[0, :positives] = 1 + torch.arange(positives) % 80
    place = torch.zeros(1, 4, 8732)
    where, what = MultiBoxLoss()(place, torch.zeros(1, 81, 8732), place, labels)
    assert where.tolist() == [0.0]
    assert what.item() == pytest.approx(4 * math.log(81), rel=1e-6) == pytest.approx(17.577797, abs=1e-5)


def test_multibox_is_the_papers_formula() -> None:
    offsets, logits, wanted, labels = multibox(6)
    where, what = MultiBoxLoss()(offsets, logits, wanted, labels)
    for row in range(6):
        stands = labels[row] > 0
        count = int(stands.sum())
        kind = F.cross_entropy(logits[row].T, labels[row], reduction="none")
        hardest = kind[~stands].sort(descending=True).values[: 3 * count]
        place = F.smooth_l1_loss(offsets[row][:, stands], wanted[row][:, stands], reduction="sum")
        assert where[row].item() == pytest.approx(place.item() / max(count, 1), rel=1e-5)
        assert what[row].item() == pytest.approx((kind[stands].sum() + hardest.sum()).item() / max(count, 1), rel=1e-5)


def test_multibox_of_an_image_without_boxes_is_0_and_so_is_its_gradient() -> None:
    offsets, logits, wanted, labels = multibox(1)
    wanted[:] = math.inf
    offsets.requires_grad_(), logits.requires_grad_()
    where, what = MultiBoxLoss()(offsets, logits, wanted, labels)
    (where + what).sum().backward()
    assert where.tolist() == what.tolist() == [0.0]
    assert offsets.grad is not None and not offsets.grad.any() and not logits.grad.any()


def test_multibox_takes_no_more_negatives_than_there_are_and_of_equal_ones_the_first() -> None:
    logits, place = torch.zeros(1, 3, 10, requires_grad=True), torch.zeros(1, 4, 10)
    labels = torch.zeros(1, 10, dtype=torch.int64)
    labels[0, 5] = 2
    MultiBoxLoss(2)(place, logits, place, labels)[1].sum().backward()
    assert torch.nonzero(logits.grad[0].any(0)).flatten().tolist() == [0, 1, 5]
    labels[0, :8] = 1
    _, what = MultiBoxLoss()(place, logits, place, labels)
    assert what.item() == pytest.approx(10 / 8 * math.log(3))


@pytest.mark.parametrize("arguments", [{"negatives": -1}, {"match": 2}])
def test_multibox_refuses_what_cannot_be(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MultiBoxLoss(**arguments)
