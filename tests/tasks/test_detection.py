"""The detection task: the shared contract for both kinds of networks, what is matched and decoded, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calotype.boxes import corners, encoded, iou, matched
from calotype.errors import ConfigError, DataError
from calotype.losses import MultiBoxLoss
from calotype.models.detection import SSD, DefaultBoxes, SmallFeatures
from calotype.models.torchvision_detectors import detector
from calotype.tasks.detection import Detection, best_of_each
from calotype.types import Shard
from tests.contracts.task import TaskContract, gradients, totals

CLASSES = ("cat", "dog")
NORMALIZE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
BOXES = DefaultBoxes((32, 48), (8, 16), (10, 20, 36), ((2,), (2,)))


def ssd() -> SSD:
    torch.manual_seed(0)
    return SSD(SmallFeatures((4, 6, 8, 8)), BOXES, len(CLASSES))


def shard(ids: Sequence[int]) -> Shard:
    """Images of 32 x 48 with as many boxes as their id is modulo 4."""
    fields: dict[str, list[Tensor]] = {"image": [], "boxes": [], "labels": [], "truth": []}
    for number in ids:
        drawn = torch.Generator().manual_seed(number)
        fields["image"].append(torch.randint(0, 256, (3, 32, 48), generator=drawn, dtype=torch.uint8))
        place, size = torch.rand(number % 4, 2, generator=drawn), torch.rand(number % 4, 2, generator=drawn)
        corner = place * torch.tensor([20, 4])
        boxes = torch.cat([corner, corner + 4 + size * 24], 1)
        labels = torch.randint(0, 2, (number % 4,), generator=drawn)
        fields["boxes"].append(boxes)
        fields["labels"].append(labels)
        fields["truth"].append(torch.cat([boxes.double(), labels[:, None], torch.zeros(len(labels), 2)], 1))
    affine = torch.eye(2, 3, dtype=torch.float64).repeat(len(ids), 1, 1)
    return Shard(np.array(ids), {**fields, "image": torch.stack(fields["image"]), "affine": affine})


class TestSSD(TaskContract):
    def make(self) -> Any:
        return Detection(ssd(), CLASSES, normalize=NORMALIZE)

    def shard(self, ids: Sequence[int]) -> Shard:
        return shard(ids)


class WithLosses(nn.Module):
    """Asked as torchvision's detectors are: means over images in training, boxes otherwise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        found = self.body(images).mean((2, 3))
        if targets is None:
            return [
                {
                    "boxes": one[None].abs() * 10 * torch.tensor([1, 1, 2, 2]),
                    "scores": one[:1].sigmoid(),
                    "labels": torch.ones(1).long(),
                }
                for one in found
            ]
        wanted = torch.stack([target["boxes"].sum() + target["labels"].sum() for target in targets])
        return {"box": (found.sum(1) - wanted / 100).square().mean(), "kind": found.square().sum(1).mean()}


class TestNetworkWithLosses(TaskContract):
    def make(self) -> Any:
        return Detection(WithLosses(), CLASSES)

    def shard(self, ids: Sequence[int]) -> Shard:
        return shard(ids)

    def test_evaluate_is_forward_and_predict(self) -> None:
        """In evaluation such a network has no losses, so there is none."""
        task, one = self.make().eval(), self.shard([1, 2])
        loss, prediction = task.evaluate(one, task.counts(one))
        assert loss.terms == {} and loss.value.item() == 0
        assert torch.equal(prediction["boxes"][0], task.predict(one)["boxes"][0])


def test_the_loss_is_the_mean_over_images_of_what_the_paper_has() -> None:
    task, whole = Detection(ssd(), CLASSES).eval(), shard(range(8))
    value, _, _ = gradients(task, [whole])
    offsets, logits = task.network(whole["image"] / 255)
    defaults, total = task.network.default_boxes, 0.0
    for row in range(8):
        boxes = whole["boxes"][row] / torch.tensor([48, 32, 48, 32])
        which, stands = matched(corners(defaults), boxes)
        wanted, labels = torch.zeros_like(defaults), torch.zeros(len(defaults), dtype=torch.int64)
        if stands.any():
            wanted[stands] = encoded(boxes[which[stands]], defaults[stands])
            labels[stands] = whole["labels"][row][which[stands]] + 1
        parts = MultiBoxLoss()(offsets[row : row + 1], logits[row : row + 1], wanted.T[None], labels[None])
        total += sum(part.item() for part in parts)
    assert value == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize("ids", [[0], [0, 4, 8]], ids=["one", "several"])
def test_images_without_boxes_have_a_finite_loss_and_nothing_to_learn_from(ids: list[int]) -> None:
    task, empty = Detection(ssd(), CLASSES), shard(ids)
    counts = task.counts(empty)
    assert [counts[name] for name in task.learns_from] == [0]
    value, found, _ = gradients(task, [empty])
    assert value == 0 and not any(gradient.any() for gradient in found)


def test_boxes_without_area_are_not_learnt_from() -> None:
    task, one = Detection(ssd(), CLASSES), shard([3])
    more = torch.cat([one["boxes"][0], torch.tensor([[5.0, 5, 5, 20], [9, 9, 4, 4]])])
    flat = replace(
        one, fields={**one.fields, "boxes": [more], "labels": [torch.cat([one["labels"][0], torch.zeros(2).long()])]}
    )
    assert task.counts(flat) == task.counts(one)
    values = [gradients(task.eval(), [given])[0] for given in (one, flat)]
    assert values[0] == values[1] > 0


def known(network: SSD, boxes: Tensor, labels: Tensor, likely: float = 8.0) -> tuple[Tensor, Tensor]:
    """Outputs of a network that says of the default boxes that fit best that they are these, and nothing of others."""
    defaults = network.default_boxes
    parts = boxes / torch.tensor([48.0, 32, 48, 32])
    best = iou(parts, corners(defaults)).argmax(1)
    offsets, logits = torch.zeros(1, 4, len(defaults)), torch.zeros(1, 3, len(defaults))
    logits[:, 0] = 6
    offsets[0, :, best] = encoded(parts, defaults[best]).T
    logits[0, labels + 1, best] = likely + torch.arange(len(boxes)).float()
    return offsets, logits


class Says(nn.Module):
    """Gives these outputs for any image."""

    def __init__(self, outputs: tuple[Tensor, Tensor], defaults: Tensor) -> None:
        super().__init__()
        self.outputs, self.default_boxes = outputs, defaults
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(output.expand(len(images), -1, -1) for output in self.outputs)  # type: ignore[return-value]


def saying(*outputs: Tensor, **options: Any) -> Detection:
    return Detection(Says(outputs, ssd().default_boxes), CLASSES, **options)  # type: ignore[arg-type]


def test_what_a_network_says_comes_back_in_the_pixels_of_the_file() -> None:
    boxes, labels = torch.tensor([[4.0, 4, 20, 20], [24, 8, 44, 28]]), torch.tensor([1, 0])
    task, one = saying(*known(ssd(), boxes, labels)), shard([5])
    found = task.predict(replace(one, fields={"image": one["image"]}))
    assert found["labels"][0].tolist() == [0, 1], "by descending score"
    torch.testing.assert_close(found["boxes"][0], boxes[[1, 0]], atol=1e-3, rtol=0)
    affine = torch.tensor([[[0.5, 0, 2], [0, -0.5, 30]]], dtype=torch.float64)
    moved = task.predict(replace(one, fields={"image": one["image"], "affine": affine}))["boxes"][0]
    first = [(24 - 2) / 0.5, (28 - 30) / -0.5, (44 - 2) / 0.5, (8 - 30) / -0.5]
    torch.testing.assert_close(moved[0], torch.tensor(first), atol=1e-2, rtol=0)


def test_low_scores_overlaps_and_more_than_the_most_never_appear() -> None:
    drawn = torch.Generator().manual_seed(0)
    outputs = (
        torch.randn(1, 4, len(ssd().default_boxes), generator=drawn) * 0.1,
        torch.randn(1, 3, len(ssd().default_boxes), generator=drawn),
    )
    one = shard([1])
    found = saying(*outputs).predict(one)
    scores, boxes, labels = (found[name][0] for name in ("scores", "boxes", "labels"))
    assert len(scores) > 20 and float(scores.min()) > 0.05
    for label in (0, 1):
        overlap = iou(boxes[labels == label], boxes[labels == label]).fill_diagonal_(0)
        assert float(overlap.max()) <= 0.5 + 1e-5
    assert len(saying(*outputs, detections={"most": 7}).predict(one)["scores"][0]) == 7
    assert float(saying(*outputs, detections={"score": 0.5}).predict(one)["scores"][0].min()) > 0.5
    assert len(saying(*outputs, detections={"overlap": 0.1}).predict(one)["scores"][0]) < len(scores)


def test_output_that_is_not_finite_is_no_detection() -> None:
    offsets, logits = known(ssd(), torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([0]))
    offsets[0, 0, 3] = torch.nan
    assert saying(offsets, logits).predict(shard([1]))["boxes"] == [None]


def test_the_best_of_each_class_are_taken_of_equal_scores_the_first() -> None:
    scores = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.1, 0.9])
    labels = torch.tensor([0, 1, 0, 0, 1, 1])
    assert best_of_each(scores, labels, 2).tolist() == [0, 1, 2, 5]
    assert best_of_each(scores, labels, 1).tolist() == [0, 1]
    assert best_of_each(scores[:0], labels[:0], 1).tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detections": {"score": 1.5}}, r"module\.detections\.score: 1.5 is not allowed; allowed: 0\.\.1"),
        ({"detections": {"overlap": -1}}, r"module\.detections\.overlap: -1 is not allowed"),
        ({"detections": {"most": 0}}, r"module\.detections\.most: 0 is not allowed; allowed: 1 or more"),
        ({"detections": {"most": 2.5}}, r"module\.detections\.most: 2.5 is no whole number"),
        ({"detections": {"score": "x"}}, r"module\.detections\.score: 'x' is no number"),
        ({"detections": {"scores": 0.5}}, r"module\.detections\.scores: there is no such key"),
        ({"classes": ()}, r"module\.classes: the data set has no classes"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Detection(ssd(), **{"classes": CLASSES, **options})


def test_a_network_for_other_classes_is_refused() -> None:
    task, one = Detection(ssd(), ("a", "b", "c")), shard([1])
    with pytest.raises(ConfigError, match="it gives 3 outputs a box, and there are 3 classes and nothing"):
        task(one, task.counts(one))


def test_a_loss_beside_a_networks_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"module\.loss: WithLosses has losses of its own"):
        Detection(WithLosses(), CLASSES, MultiBoxLoss())


def test_an_unknown_class_names_its_sample() -> None:
    one = shard([3])
    wrong = replace(one, fields={**one.fields, "labels": [torch.tensor([0, 2, 1])]})
    with pytest.raises(DataError, match="sample 3 has a box of class 2, and there are 2"):
        Detection(ssd(), CLASSES).counts(wrong)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn"])
def test_torchvisions_detectors_learn_and_answer(name: str) -> None:
    task = Detection(detector(name, 2), CLASSES)
    images = nn.functional.interpolate(shard([1, 4])["image"].float(), scale_factor=3).byte()
    one = replace(shard([1, 4]), fields={**shard([1, 4]).fields, "image": images})
    loss = task(one, totals(task, [one]))
    loss.value.backward()
    assert loss.value.isfinite() and {term.count for term in loss.terms.values()} == {2.0}
    with torch.no_grad():
        found = task.eval().predict(one)
    assert len(found["boxes"]) == 2 and all(int(labels.min()) >= 0 for labels in found["labels"] if len(labels))
