"""Metrics: the shared contract, scikit-learn's numbers, ties, nothing to count, and figures that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from calotype.errors import ConfigError
from calotype.metrics import (
    F1,
    Accuracy,
    ConfusionMatrix,
    ExactMatch,
    MeanIoU,
    PerClass,
    confusion,
    count,
    iou,
    mean_iou,
    rank,
)
from calotype.types import Metric, Prediction, Shard
from tests.contracts.metric import CLASSES, MetricContract

NAMES = [f"class {number}" for number in range(CLASSES)]


class TestAccuracy(MetricContract):
    def make(self) -> Accuracy:
        return Accuracy()


class TestTop3(MetricContract):
    def make(self) -> Accuracy:
        return Accuracy(3)


class TestF1(MetricContract):
    def make(self) -> F1:
        return F1(CLASSES)


class TestPerClass(MetricContract):
    def make(self) -> PerClass:
        return PerClass(NAMES)


class TestConfusionMatrix(MetricContract):
    def make(self) -> ConfusionMatrix:
        return ConfusionMatrix(CLASSES)


def many(count: int, seed: int = 0) -> tuple[Prediction, Shard]:
    """Images of any number of labels, and scores of which some are on the threshold."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (count, CLASSES), generator=draw).float()
    label = torch.rand(count, CLASSES, generator=draw) < 0.4
    label = torch.where(torch.rand(count, 1, generator=draw) < 0.3, logits > 0, label)
    ids = np.arange(count)
    return Prediction(ids, {"logits": logits}), Shard(ids, {"label": label.float()})


class TestExactMatch(MetricContract):
    def make(self) -> ExactMatch:
        return ExactMatch()

    def batch(self, count: int, seed: int = 0) -> tuple[Prediction, Shard]:
        return many(count, seed)


class TestF1OfMany(TestExactMatch):
    def make(self) -> F1:  # type: ignore[override]
        return F1(CLASSES)


class TestPerClassOfMany(TestExactMatch):
    def make(self) -> PerClass:  # type: ignore[override]
        return PerClass(NAMES, 0.6)


class MeanScore:
    """A third party's metric."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {"score": torch.zeros((), dtype=torch.int64)}

    def update(self, prediction: Prediction, shard: Shard) -> None:
        self.sums = {"score": self.sums["score"] + (8 * prediction["logits"]).long().sum()}

    def state(self) -> dict[str, Tensor]:
        return dict(self.sums)

    def compute(self, state: dict[str, Tensor]) -> dict[str, float]:
        return {"score": state["score"].item() / 8}


class TestThirdParty(MetricContract):
    def make(self) -> MeanScore:
        return MeanScore()


def measure(metric: Metric, logits: Tensor, label: Tensor) -> dict[str, object]:
    ids = np.arange(len(label))
    metric.update(Prediction(ids, {"logits": logits}), Shard(ids, {"label": label}))
    return metric.compute(metric.state())


def draw(seed: int, classes: int = CLASSES, shown: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(60, classes, generator=generator), torch.randint(0, shown, (60,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shown", [CLASSES, 4])
def test_the_numbers_are_scikit_learns(seed: int, shown: int) -> None:
    logits, label = draw(seed, shown=shown)
    logits[:, 6] -= 100  # a class that is never predicted, and for shown=4 never a target
    predicted = logits.argmax(1)
    assert measure(Accuracy(), logits, label) == {"accuracy": sklearn_metrics.accuracy_score(label, predicted)}
    top3 = sklearn_metrics.top_k_accuracy_score(label, logits, k=3, labels=range(CLASSES))
    assert measure(Accuracy(3), logits, label) == {"top3": top3}
    f1 = sklearn_metrics.f1_score(label, predicted, average="macro", zero_division=0)
    assert measure(F1(CLASSES), logits, label)["f1"] == pytest.approx(f1, rel=1e-12)
    theirs = sklearn_metrics.precision_recall_fscore_support(
        label, predicted, labels=range(CLASSES), zero_division=np.nan
    )
    ours = measure(PerClass(NAMES), logits, label)
    for measured, expected in zip(("precision", "recall"), theirs[:2], strict=True):
        np.testing.assert_allclose([ours[f"{measured}[{name}]"] for name in NAMES], expected)
    matrix = sklearn_metrics.confusion_matrix(label, predicted, labels=range(CLASSES))
    assert measure(ConfusionMatrix(CLASSES), logits, label) == {"confusion": matrix.tolist()}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_the_numbers_of_many_labels_are_scikit_learns(threshold: float) -> None:
    prediction, shard = many(50)
    predicted, label = (prediction["logits"].double().sigmoid() > threshold).int(), shard["label"].int()

    def of(metric: Metric) -> dict[str, object]:
        metric.update(prediction, shard)
        return metric.compute(metric.state())

    assert of(ExactMatch(threshold)) == {"exact_match": sklearn_metrics.accuracy_score(label, predicted)}
    assert sklearn_metrics.f1_score(label, predicted, average="macro") == pytest.approx(
        of(F1(CLASSES, threshold))["f1"]
    )
    theirs = sklearn_metrics.precision_recall_fscore_support(label, predicted, zero_division=np.nan)
    ours = of(PerClass(NAMES, threshold))
    for measured, expected in zip(("precision", "recall", "f1"), theirs[:3], strict=True):
        np.testing.assert_allclose([ours[f"{measured}[{name}]"] for name in NAMES], expected)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=f"threshold is {threshold}"):
        ExactMatch(threshold)


def test_a_class_nobody_names_is_left_out_of_the_mean() -> None:
    logits = torch.eye(4)[[0, 0, 1]]
    ours = measure(PerClass("abcd"), logits, torch.tensor([0, 1, 1]))
    assert ours["f1[a]"] == pytest.approx(2 / 3)
    assert math.isnan(ours["f1[d]"])
    assert measure(F1(4), logits, torch.tensor([0, 1, 1]))["f1"] == pytest.approx(2 / 3)


def test_of_nothing_there_is_no_share() -> None:
    for metric in (Accuracy(), Accuracy(5), F1(3), PerClass("ab")):
        assert all(math.isnan(value) for value in metric.compute(metric.state()).values())


def test_ties_go_to_the_smaller_index() -> None:
    logits = torch.tensor([[1.0, 1, 1, 0]]).expand(4, 4)
    assert rank(logits, torch.arange(4)).tolist() == [0, 1, 2, 3]
    label = torch.randint(0, 5, (50,), generator=torch.Generator().manual_seed(0))
    ties = torch.randint(0, 2, (50, 5), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(rank(ties, label) == 0, ties.argmax(1) == label)
    order = ties.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(rank(ties, label), (order == label[:, None]).int().argmax(1))


def test_a_score_that_is_no_number_is_never_right() -> None:
    logits = torch.full((3, 4), math.nan)
    assert measure(Accuracy(), logits, torch.tensor([0, 1, 3])) == {"accuracy": 0.0}
    partly = torch.tensor([[math.nan, 5.0, 1.0]])
    assert rank(partly, torch.tensor([1])).tolist() == [1]


def test_a_top_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="top is 0"):
        Accuracy(0)


def test_counting_leaves_out_what_is_outside() -> None:
    values = torch.tensor([[0, 2, 2], [255, -1, 3]])
    assert count(values, 3).tolist() == [1, 0, 2]
    target, predicted = torch.tensor([0, 1, 255, 1, -1]), torch.tensor([0, 1, 1, 2, 0])
    assert confusion(target, predicted, 2).tolist() == [[1, 0], [0, 1]]


def test_iou_of_a_known_matrix() -> None:
    matrix = torch.tensor([[1, 1, 0], [0, 2, 0], [0, 1, 0]])
    assert iou(matrix).tolist() == [0.5, 0.5, 0.0]
    assert mean_iou(matrix) == pytest.approx(1 / 3)
    assert mean_iou(matrix, without=[0]) == 0.25


def test_iou_of_a_class_that_is_absent_is_left_out() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert math.isnan(iou(matrix)[2].item())
    assert mean_iou(matrix) == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_counts_beyond_what_float32_holds_are_exact() -> None:
    matrix = torch.tensor([[2**24 + 1, 0], [0, 1]])
    assert ConfusionMatrix(2).compute({"confusion": matrix + matrix}) == {"confusion": [[2**25 + 2, 0], [0, 2]]}
    state = {"correct": torch.tensor(2**53 // 4), "images": torch.tensor(2**53 // 2)}
    assert Accuracy().compute(state) == {"accuracy": 0.5}


class TestMeanIoU(MetricContract):
    def make(self) -> MeanIoU:
        return MeanIoU(["background", "cat", "dog"])

    def batch(self, count: int, seed: int = 0) -> tuple[Prediction, Shard]:
        target, predicted = masks(seed, count)
        return Prediction(np.arange(count), {"mask": predicted}), Shard(np.arange(count), {"mask": target})


def masks(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Targets with void, and predictions that are often right."""
    drawn = torch.Generator().manual_seed(seed)
    target, other = (torch.randint(0, 3, (count, 9, 7), generator=drawn) for _ in range(2))
    predicted = torch.where(torch.rand(target.shape, generator=drawn) < 0.6, target, other)
    return torch.where(torch.rand(target.shape, generator=drawn) < 0.2, 255, target), predicted


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_of_masks_are_scikit_learns(seed: int) -> None:
    target, predicted = masks(seed, 5)
    metric = MeanIoU(["background", "cat", "dog"])
    metric.update(Prediction(np.arange(5), {"mask": predicted}), Shard(np.arange(5), {"mask": target}))
    found, known = metric.compute(metric.state()), target != 255
    true, guess = target[known].numpy(), predicted[known].numpy()
    each = sklearn_metrics.jaccard_score(true, guess, average=None)
    assert [found[f"IoU[{name}]"] for name in ("background", "cat", "dog")] == pytest.approx(list(each))
    assert found["mIoU"] == pytest.approx(each.mean()) and found["mIoU_objects"] == pytest.approx(each[1:].mean())
    assert found["pixel_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(true, guess))
    assert found["dice"] == pytest.approx(sklearn_metrics.f1_score(true, guess, average="macro"))
    filled = target.where(known, torch.tensor(0)).flatten().numpy()
    as_background = sklearn_metrics.jaccard_score(filled, predicted.flatten().numpy(), average="macro")
    assert found["mIoU_void_as_background"] == pytest.approx(as_background)
