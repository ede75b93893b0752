"""Metrics: the shared contract, scikit-learn's numbers, ties, nothing to count, and figures that are known."""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
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
    paired,
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
    assert found["mDice"] == pytest.approx(sklearn_metrics.f1_score(true, guess, average="macro"))
    filled = target.where(known, torch.tensor(0)).flatten().numpy()
    as_background = sklearn_metrics.jaccard_score(filled, predicted.flatten().numpy(), average="macro")
    assert found["mIoU_void_as_background"] == pytest.approx(as_background)


@pytest.mark.parametrize("classes", [127, 128, 255])
def test_many_classes_are_counted_as_few_are(classes: int) -> None:
    drawn = torch.Generator().manual_seed(classes)
    target, predicted = (torch.randint(0, classes, (2, 40, 40), generator=drawn) for _ in range(2))
    target[0, :3] = 255
    table = paired(target, predicted, classes)
    assert torch.equal(table[:-1], confusion(target.where(target != 255, -1), predicted, classes))
    assert torch.equal(table[-1], predicted[target == 255].bincount(minlength=classes))


def test_pairs_of_pixels_are_counted_several_times_as_fast_as_by_scatter() -> None:
    """Of 8 masks of 513 x 513 on one core: 1.4 ms where nothing else runs. Alternated, the fastest of five."""
    masks = torch.randint(0, 21, (2, 8, 513, 513), dtype=torch.uint8)
    wide, threads = masks.long(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times: dict[str, list[float]] = {"paired": [], "confusion": []}
        for _ in range(5):
            for name, call in (
                ("paired", lambda: paired(masks[0], masks[1], 21)),
                ("confusion", lambda: confusion(wide[0], wide[1], 21)),
            ):
                start = time.thread_time()
                call()
                times[name].append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert 4 * min(times["paired"]) < min(times["confusion"])


REAL = Path(__file__).parents[2] / "shared/data/voc2012_mini/SegmentationClassAug_val1449.zip"


def real_masks() -> Iterator[npt.NDArray[np.uint8]]:
    """The ids of the validation masks of VOC 2012."""
    if not REAL.is_file():
        pytest.skip("not installable: the masks of VOC 2012 are not on this machine")
    with zipfile.ZipFile(REAL) as archive:
        for name in (name for name in archive.namelist() if name.endswith(".png")):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                yield np.array(image)


def measured(pairs: Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]) -> dict[str, float]:
    """What MeanIoU makes of (target, prediction) of one image each."""
    metric = MeanIoU([str(number) for number in range(21)])
    for number, (target, predicted) in enumerate(pairs):
        true, guess = (torch.from_numpy(mask).long().unsqueeze(0) for mask in (target, predicted))
        ids = np.array([number])
        metric.update(Prediction(ids, {"mask": guess}), Shard(ids, {"mask": true}))
    return metric.compute(metric.state())


@pytest.mark.data
@pytest.mark.long
@pytest.mark.guarantee(
    "mIoU over real masks is that of an independent computation",
    condition="the 1,449 validation masks of VOC 2012 against perturbed copies, scikit-learn; 1e-12",
)
def test_real_masks_against_perturbed_copies() -> None:
    """Copies are shifted, and a class is taken for another in one image of three."""

    def perturbed(number: int, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        moved = np.roll(mask, (number % 7, number % 5), (0, 1)) % 21
        return np.where(moved == number % 21, (number + 3) % 21, moved).astype(np.uint8) if number % 3 == 0 else moved

    table = np.zeros((21, 21), np.int64)

    def pairs() -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        for number, mask in enumerate(real_masks()):
            copy = perturbed(number, mask)
            known = mask != 255
            table[:] += sklearn_metrics.confusion_matrix(mask[known], copy[known], labels=range(21))
            yield mask, copy

    found = measured(pairs())
    each = table.diagonal() / (table.sum(0) + table.sum(1) - table.diagonal())
    assert [found[f"IoU[{number}]"] for number in range(21)] == pytest.approx(list(each), abs=1e-12)
    assert found["mIoU"] == pytest.approx(each.mean(), abs=1e-12)
    assert 0.5 < found["mIoU"] < 0.95, "neither all right nor all wrong"


@pytest.mark.data
def test_background_everywhere_scores_what_is_known() -> None:
    found = measured((mask, np.zeros_like(mask)) for mask in real_masks())
    assert (round(found["pixel_accuracy"], 6), round(found["mIoU"], 6)) == (0.733180, 0.034913)
