"""The classification task: the shared contract in every form it takes, and its own rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from calotype.errors import ConfigError, DataError
from calotype.losses import BCEWithLogitsLoss, CrossEntropyLoss, FocalLoss
from calotype.metrics import ConfusionMatrix
from calotype.models.classification import SmallCNN
from calotype.tasks.classification import Classification, MultiLabel
from calotype.types import Shard
from tests.contracts.task import TaskContract

CLASSES = 6
WEIGHTS = [1.0, 2.0, 0.5, 4.0, 1.0, 3.0]
NORMALIZE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def shard(ids: Sequence[int]) -> Shard:
    images = [torch.randint(0, 256, (3, 6, 6), generator=torch.Generator().manual_seed(i)) for i in ids]
    fields = {"image": torch.stack(images).to(torch.uint8), "label": torch.tensor([(7 * i + 3) % CLASSES for i in ids])}
    return Shard(np.array(ids), fields)


def mixed(ids: Sequence[int]) -> Shard:
    plain = shard(ids)
    soft = F.one_hot(plain["label"], CLASSES).float()
    return replace(plain, fields={"image": plain["image"] / 255, "label": 0.7 * soft + 0.3 * soft.roll(1, 1)})


def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallCNN(CLASSES, in_channels=3, widths=(4, 8))


class OwnLoss(nn.Module):
    """A third party's loss without `reduction`: a mean over the shard's images."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.multi_margin_loss(logits, label)


class TestCrossEntropy(TaskContract):
    def make(self) -> Any:
        return Classification(network())

    def shard(self, ids: Sequence[int]) -> Shard:
        return shard(ids)


class TestWeightedSmoothedNormalized(TestCrossEntropy):
    def make(self) -> Any:
        return Classification(network(), CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), NORMALIZE)


class TestFocal(TestCrossEntropy):
    def make(self) -> Any:
        return Classification(network(), FocalLoss(2.0, WEIGHTS))


class TestLossOfAThirdParty(TestCrossEntropy):
    def make(self) -> Any:
        return Classification(network(), OwnLoss())


def many(ids: Sequence[int]) -> Shard:
    """Any number of labels an image, some with none."""
    plain = shard(ids)
    label = torch.tensor([[float((i >> c) & 1) for c in range(CLASSES)] for i in ids])
    return replace(plain, fields={**plain.fields, "label": label})


class TestMultiLabel(TaskContract):
    def make(self) -> Any:
        return MultiLabel(network())

    def shard(self, ids: Sequence[int]) -> Shard:
        return many(ids)


class TestWeightedMultiLabel(TestMultiLabel):
    def make(self) -> Any:
        return MultiLabel(network(), BCEWithLogitsLoss(WEIGHTS), NORMALIZE)


class TestMixedLabels(TestCrossEntropy):
    def make(self) -> Any:
        return Classification(network(), FocalLoss(1.0, WEIGHTS))

    def shard(self, ids: Sequence[int]) -> Shard:
        return mixed(ids)

    def test_metrics_are_fresh_each_time(self) -> None:
        assert set(self.make().metrics()) == {"accuracy", "top5", "f1"}, "metrics measure unmixed images"

    def test_a_gallery_shows_what_it_saw_without_changing_anything(self) -> None:
        assert self.make().gallery().classes == tuple("012345"), "pictures show unmixed images"


@pytest.mark.parametrize("weight", [None, torch.tensor(WEIGHTS)])
@pytest.mark.parametrize("ignore_index", [-100, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_value_is_pytorchs_mean(weight: Tensor | None, ignore_index: int, smoothing: float) -> None:
    options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": smoothing}
    task, batch = Classification(network(), nn.CrossEntropyLoss(**options)).eval(), shard(range(8))
    value = task(batch, task.counts(batch)).value
    expected = F.cross_entropy(task.network(batch["image"] / 255), batch["label"], **options)
    torch.testing.assert_close(value, expected)


def test_a_batch_of_nothing_that_counts_is_0_and_teaches_nothing() -> None:
    task, batch = Classification(network(), nn.CrossEntropyLoss(ignore_index=3)), shard([0, 6, 12])
    assert set(batch["label"].tolist()) == {3}
    value = task(batch, task.counts(batch)).value
    value.backward()
    assert value.item() == 0.0
    assert all(not parameter.grad.any() for parameter in task.parameters())


@pytest.mark.parametrize("normalize", [None, NORMALIZE, {"mean": [0.5], "std": [0.25]}])
def test_images_are_scaled_and_normalised(normalize: dict[str, list[float]] | None) -> None:
    task, images = Classification(network(), normalize=normalize), shard(range(4))["image"]
    given = images.clone()
    expected = images.double() / 255
    if normalize:
        mean, std = (torch.tensor(normalize[name], dtype=torch.float64).view(-1, 1, 1) for name in ("mean", "std"))
        expected = (expected - mean) / std
    for form in (images, images / 255):
        torch.testing.assert_close(task.images(form), expected.float(), rtol=1e-5, atol=1e-6)
        assert task.images(form).dtype == torch.float32
    assert torch.equal(images, given)
    last = images.contiguous(memory_format=torch.channels_last)
    assert task.images(last).is_contiguous(memory_format=torch.channels_last)


def test_floating_images_given_are_not_written_to() -> None:
    task, images = Classification(network(), normalize=NORMALIZE), torch.rand(2, 3, 6, 6)
    given = images.clone()
    task.images(images)
    assert torch.equal(images, given)


def test_normalisation_is_no_part_of_the_state() -> None:
    plain, task = network(), Classification(network(), normalize=NORMALIZE)
    task.images(shard([0])["image"])
    assert list(task.network.state_dict()) == list(plain.state_dict())
    assert {name.removeprefix("network.") for name in task.state_dict()} == set(plain.state_dict())


@pytest.mark.parametrize("bad", [-1, CLASSES, 255, -(2**40)])
def test_a_label_that_is_no_class_is_named_with_its_sample(bad: int) -> None:
    batch = shard([10, 20, 30])
    batch["label"][1] = bad
    with pytest.raises(DataError, match=f"sample 20 has label {bad}, outside 0..5"):
        Classification(network()).counts(batch)


@pytest.mark.parametrize("kind", [Classification, MultiLabel])
@pytest.mark.parametrize("outputs", [5, 7])
def test_a_network_with_other_outputs_than_classes_is_named(kind: type, outputs: int) -> None:
    """Whatever it is: its outputs are counted, not what it says of itself."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, outputs), nn.Identity())
    task, batch = kind(made, num_classes=CLASSES), many([1, 2]) if kind is MultiLabel else shard([1, 2])
    counts = task.counts(batch)
    for task_ in (task.train(), task.eval()):
        with pytest.raises(
            ConfigError,
            match=rf"^module\.network: it gives {outputs} outputs and there are 6 classes; num_classes=null",
        ):
            task_(batch, counts)


@pytest.mark.parametrize("wrong", [[1.0, 1, 0, 0, 0, 0], [0.0] * 6, [1.5, -0.5, 0, 0, 0, 0], [0.5, 0.4, 0, 0, 0, 0]])
def test_labels_of_several_classes_are_no_probabilities_of_one(wrong: list[float]) -> None:
    """Cross-entropy would take them without a word."""
    task, batch = Classification(network()), mixed([4, 7])
    task.counts(batch)
    label = batch["label"].clone()
    label[1] = torch.tensor(wrong)
    with pytest.raises(DataError, match=r"sample 7 has labels .* no probabilities of one class; .*task=multi_label"):
        task.counts(replace(batch, fields={**batch.fields, "label": label}))


def test_labels_of_other_integer_types_are_checked_too() -> None:
    batch = shard([10, 20, 30])
    task = Classification(network())
    for dtype in (torch.int32, torch.uint8):
        assert task.counts(replace(batch, fields={"label": batch["label"].to(dtype)})) == {"images": 3.0}
    with pytest.raises(DataError, match="sample 30 has label -5"):
        task.counts(replace(batch, fields={"label": torch.tensor([0, 1, -5], dtype=torch.int32)}))


def test_default_metrics_measure_the_network() -> None:
    task, batch = Classification(network()).eval(), shard(range(40))
    with torch.no_grad():
        prediction = task.predict(batch)
    results = {}
    for factory in task.metrics().values():
        metric = factory()
        metric.update(prediction, batch)
        results |= metric.compute(metric.state())
    right = (task.network(batch["image"] / 255).argmax(1) == batch["label"]).double().mean().item()
    assert results["accuracy"] == right
    assert set(results) == {"accuracy", "top5", "f1"}
    assert set(Classification(SmallCNN(5)).metrics()) == {"accuracy", "f1"}


def test_metrics_given_replace_the_default() -> None:
    task = Classification(network(), metrics={"confusion": ConfusionMatrix(CLASSES)})
    assert set(task.metrics()) == {"confusion"}


def test_the_loss_given_is_not_changed() -> None:
    loss = nn.CrossEntropyLoss()
    Classification(network(), loss)
    assert loss.reduction == "mean"


class NoNumber(nn.Module):
    """A network that doesn't say how many classes it has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).flatten(1)


def test_the_number_of_classes_comes_from_the_network_or_is_asked_for() -> None:
    assert Classification(SmallCNN(12)).num_classes == 12
    assert Classification(nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.ReLU(), nn.Linear(4, 9))).num_classes == 9
    assert Classification(NoNumber(), num_classes=CLASSES).num_classes == CLASSES
    with pytest.raises(ConfigError, match="num_classes"):
        Classification(NoNumber())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "leave reduction out"),
        ({"loss": nn.CrossEntropyLoss(torch.ones(3))}, "3 class weights for 6 classes"),
        ({"normalize": {"mean": [0.5]}}, "mean: .*, std: "),
        ({"normalize": {"mean": [0.5], "std": [0.1, 0.2]}}, "one value per channel"),
        ({"normalize": {"mean": [0.5], "std": [0.0]}}, "greater than 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Classification(network(), **arguments)


def test_normalisation_for_other_channels_is_refused() -> None:
    task = Classification(network(), normalize={"mean": [0.5, 0.5], "std": [1.0, 1.0]})
    with pytest.raises(ConfigError, match="2 channels of mean and std for images of 3"):
        task.images(shard([0])["image"])


def test_training_never_waits_for_the_device() -> None:
    """Tensors without values stand in for a GPU: whatever asks for one fails."""
    batch = shard(range(4))
    for loss in (None, CrossEntropyLoss(WEIGHTS, 0.1), FocalLoss(2.0, WEIGHTS)):
        task = Classification(network(), loss, NORMALIZE)
        counts = task.counts(batch)
        task.to("meta")
        task(batch.to("meta"), counts).value.backward()
        task.eval().evaluate(batch.to("meta"), counts)


def test_torchvisions_mixup_works_as_a_batch_transform() -> None:
    mixup = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.MixUp(alpha=0.4, num_classes=CLASSES)])
    task, batch = Classification(network(), CrossEntropyLoss(WEIGHTS)), shard(range(8))
    counts = task.counts(batch)
    values = []
    for seed in (5, 5, 6):
        torch.default_generator.manual_seed(seed)
        after = replace(batch, fields=mixup(dict(batch.fields)))
        assert task.counts(after)["weight"] == pytest.approx(counts["weight"], rel=1e-6), (
            "mixing keeps the weights' sum"
        )
        values.append(task.eval()(after, counts).value.item())
    assert values[0] == values[1] != values[2]


def test_a_small_network_learns_to_tell_constant_images_apart() -> None:
    labels = torch.arange(32) % CLASSES
    images = (labels * 40)[:, None, None, None].expand(-1, 3, 6, 6).to(torch.uint8)
    batch = Shard(np.arange(32), {"image": images, "label": labels})
    task = Classification(network())
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = task(batch, task.counts(batch)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]


def test_a_metric_that_lacks_a_method_is_refused() -> None:
    class Half:
        def update(self, prediction: Any, shard: Any) -> None: ...

    metrics: Any = {"good": ConfusionMatrix(CLASSES), "half": Half()}
    with pytest.raises(ConfigError, match=r"^module\.metrics\.half: a metric needs state, compute, and this is a Half"):
        Classification(network(), metrics=metrics)


@pytest.mark.parametrize("loss", [None, nn.BCEWithLogitsLoss(), BCEWithLogitsLoss(WEIGHTS)])
def test_many_labels_have_pytorchs_mean(loss: nn.Module | None) -> None:
    task, batch = MultiLabel(network(), loss), many(range(8))
    weight = torch.tensor(WEIGHTS) if isinstance(loss, BCEWithLogitsLoss) else None
    for training in (True, False):
        logits = task.train(training).network(batch["image"] / 255)
        expected = F.binary_cross_entropy_with_logits(logits, batch["label"], pos_weight=weight)
        torch.testing.assert_close(task(batch, task.counts(batch)).value, expected)


def test_many_labels_are_measured_class_by_class_under_their_names() -> None:
    task, batch = MultiLabel(network(), classes="abcdef").eval(), many(range(40))
    with torch.no_grad():
        prediction = task.predict(batch)
    results: dict[str, float] = {}
    for factory in task.metrics().values():
        metric = factory()
        metric.update(prediction, batch)
        results |= metric.compute(metric.state())
    assert {"f1", "f1[a]", "recall[f]", "precision[c]", "exact_match"} <= set(results)
    right = ((prediction["logits"].sigmoid() > 0.5) == batch["label"].bool()).all(1).double().mean().item()
    assert results["exact_match"] == right


def test_names_of_other_classes_are_not_the_networks() -> None:
    assert Classification(network(), classes=("cat", "dog")).classes == tuple("012345")
    assert Classification(network(), classes="uvwxyz").classes == tuple("uvwxyz")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 1, 2]), r"label is \(3,\) int64, and must be float, a 0 or 1 for each of 6 classes"),
        (torch.zeros(3, 4), r"label is \(3, 4\) float32"),
        (torch.zeros(3, 6, dtype=torch.int64), r"label is \(3, 6\) int64"),
        (torch.tensor([[0.0] * 6, [2.0] * 6, [0.0] * 6]), r"sample 20 has labels \[2\.0, .*outside 0\.\.1"),
        (torch.full((3, 6), float("nan")), "sample 10 has labels"),
    ],
)
def test_labels_that_are_not_many_are_refused(label: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MultiLabel(network()).counts(replace(shard([10, 20, 30]), fields={"label": label}))


def test_training_on_many_labels_never_waits_for_the_device() -> None:
    batch, task = many(range(4)), MultiLabel(network(), normalize=NORMALIZE)
    counts = task.counts(batch)
    task.to("meta")
    task(batch.to("meta"), counts).value.backward()
    task.eval().evaluate(batch.to("meta"), counts)
