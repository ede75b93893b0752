"""The segmentation task: the shared contract for each kind of loss, void, auxiliary heads, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.errors import ConfigError, DataError
from calotype.losses import CrossEntropyLoss, DiceLoss, FocalLoss, OHEMCrossEntropyLoss, Sum
from calotype.tasks.segmentation import Segmentation
from calotype.types import Shard
from tests.contracts.task import TaskContract, totals

CLASSES = ("background", "cat", "dog")
NORMALIZE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
WEIGHTS = [0.5, 1.0, 2.0]


class Net(nn.Module):
    """Logits at half the size, and those of an auxiliary head where asked."""

    def __init__(self, aux: bool = False, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, outputs, 1)
        self.aux = nn.Conv2d(6, outputs, 1) if aux else None

    def forward(self, image: Tensor) -> Any:
        found = self.stem(image).relu()
        return {"out": self.head(found), "aux": self.aux(found)} if self.aux else self.head(found)


def shard(ids: Sequence[int]) -> Shard:
    """Masks with more void the higher the id; id 7 is nothing but void."""
    images, masks = [], []
    for number in ids:
        drawn = torch.Generator().manual_seed(number)
        images.append(torch.randint(0, 256, (3, 10, 12), generator=drawn, dtype=torch.uint8))
        mask = torch.randint(0, 3, (10, 12), generator=drawn)
        mask.view(-1)[: number * 10 if number < 7 else 120] = 255
        masks.append(mask)
    return Shard(np.array(ids), {"image": torch.stack(images), "mask": torch.stack(masks)})


class TestCrossEntropy(TaskContract):
    def make(self) -> Any:
        return Segmentation(Net(), CLASSES)

    def shard(self, ids: Sequence[int]) -> Shard:
        return shard(ids)


class TestVoidAsBackgroundNormalized(TestCrossEntropy):
    def make(self) -> Any:
        return Segmentation(Net(), CLASSES, normalize=NORMALIZE, void="background")


class TestWeighted(TestCrossEntropy):
    def make(self) -> Any:
        return Segmentation(Net(), CLASSES, nn.CrossEntropyLoss(torch.tensor(WEIGHTS)))


class TestFocalWithAuxiliaryHead(TestCrossEntropy):
    def make(self) -> Any:
        return Segmentation(Net(aux=True), CLASSES, FocalLoss(2.0, WEIGHTS))


class TestDice(TestCrossEntropy):
    def make(self) -> Any:
        return Segmentation(Net(), CLASSES, DiceLoss())


class TestHardPixels(TestCrossEntropy):
    def make(self) -> Any:
        return Segmentation(Net(), CLASSES, OHEMCrossEntropyLoss(0.4, 0.3))


class TestSumOfThree(TestCrossEntropy):
    def make(self) -> Any:
        terms = {"ce": CrossEntropyLoss(WEIGHTS), "dice": DiceLoss(), "focal": FocalLoss()}
        return Segmentation(Net(aux=True), CLASSES, Sum(terms, {"dice": 0.5, "focal": 3.0}, aux=0.3))


def value(task: Segmentation, of: Shard) -> float:
    return float(task(of, totals(task, [of])).value.detach())


@pytest.mark.parametrize(("void", "ignored"), [("ignore", 255), ("background", -100)])
def test_the_value_is_pytorchs(void: str, ignored: int) -> None:
    task, of = Segmentation(Net(), CLASSES, void=void), shard([0, 1, 5])
    logits = F.interpolate(task.network(of["image"] / 255), (10, 12), mode="bilinear").detach()
    target = of["mask"] if void == "ignore" else of["mask"].where(of["mask"] != 255, torch.tensor(0))
    assert value(task, of) == pytest.approx(float(F.cross_entropy(logits, target, ignore_index=ignored)), rel=1e-6)
    weighted = Segmentation(task.network, CLASSES, CrossEntropyLoss(WEIGHTS), void=void)
    expected = F.cross_entropy(logits, target, torch.tensor(WEIGHTS), ignore_index=ignored)
    assert value(weighted, of) == pytest.approx(float(expected), rel=1e-6)


def test_an_auxiliary_head_adds_its_part_of_the_loss() -> None:
    of, network = shard([0, 1]), Net(aux=True)
    out, aux = (value(Segmentation(_Only(network, name), CLASSES), of) for name in ("out", "aux"))
    assert value(Segmentation(network, CLASSES, Sum({"ce": CrossEntropyLoss()}, aux=0.25)), of) == pytest.approx(
        out + 0.25 * aux, rel=1e-6
    )
    assert value(Segmentation(network, CLASSES, Sum({"ce": CrossEntropyLoss()}, aux=0)), of) == pytest.approx(
        out, rel=1e-6
    )


class _Only(nn.Module):
    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, image: Tensor) -> Any:
        return self.network(image)[self.name]


def test_a_batch_of_nothing_but_void_teaches_nothing() -> None:
    for loss in (None, DiceLoss(), FocalLoss(), OHEMCrossEntropyLoss()):
        task, of = Segmentation(Net(), CLASSES, loss), shard([7])
        found = task(of, totals(task, [of])).value
        found.backward()
        assert float(found.detach()) == 0
        assert all(p.grad is not None and not p.grad.any() for p in task.parameters())


def test_predictions_have_the_size_of_the_images() -> None:
    task, of = Segmentation(Net(), CLASSES).eval(), shard([1, 2])
    assert task.predict(of)["mask"].shape == (2, 10, 12)


@pytest.mark.parametrize("wrong", [3, 254, -1, 300])
def test_an_id_that_is_no_class_is_named(wrong: int) -> None:
    of = shard([4, 6])
    of["mask"][1, 9, 3] = wrong
    with pytest.raises(DataError, match=rf"mask of sample 6 holds {wrong}, outside 0\.\.2 and not 255"):
        Segmentation(Net(), CLASSES).counts(of)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"module\.void: 'drop' is not allowed; allowed: ignore, background"):
        Segmentation(Net(), CLASSES, void="drop")
    with pytest.raises(ConfigError, match="it gives 4 outputs and there are 3 classes"):
        value(Segmentation(Net(outputs=4), CLASSES), shard([0]))
    with pytest.raises(ConfigError, match="leave reduction out"):
        Segmentation(Net(), CLASSES, nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(ValueError, match=r"weights\.dise: there is no such term, only dice"):
        Sum({"dice": DiceLoss()}, {"dise": 1.0})


class _Extra(nn.Module):
    """A loss that keeps a dimension of one."""

    def __init__(self, reduction: str = "none") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none").unsqueeze(1)


def test_values_that_are_of_no_pixel_and_no_image_are_refused() -> None:
    task, of = Segmentation(Net(), CLASSES, _Extra()), shard([0, 1])
    with pytest.raises(ConfigError, match=r"module\.loss: _Extra gives values of \(2, 1, 10, 12\) for masks of"):
        task(of, totals(task, [of]))


def test_more_classes_than_a_mask_can_tell_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are 256 classes, and 255 is void"):
        Segmentation(Net(), [str(number) for number in range(256)])


def test_class_weights_of_another_number_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"module\.loss\.loss\.weight: 2 class weights for 3 classes"):
        Segmentation(Net(), CLASSES, CrossEntropyLoss([1.0, 2.0]))
