"""Pictures of an evaluation: which samples they show, what stands below them, and that nothing waits for the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageFont
from torch import Tensor

from calotype import lettering
from calotype.models.classification import SmallCNN
from calotype.tasks import gallery
from calotype.tasks.classification import Classification, MultiLabel
from calotype.tasks.gallery import ClassificationGallery, grid, matrix
from calotype.types import Prediction, Shard

NAMES = ("cat", "dog", "a very long name of an animal")


def batch(
    count: int = 8, size: tuple[int, ...] = (3, 8, 8), seed: int = 0, start: int = 0, **label: Tensor
) -> tuple[Prediction, Shard]:
    drawn = torch.Generator().manual_seed(seed)
    ids = np.arange(start, start + count)
    image = torch.randint(0, 256, (count, *size), dtype=torch.uint8, generator=drawn)
    fields = {"image": image, "label": torch.from_numpy(ids % 3)} | label
    return Prediction(ids, {"logits": torch.randn(count, 3, generator=drawn)}), Shard(ids, fields)


def drawn(*batches: tuple[Prediction, Shard], classes: Any = NAMES) -> dict[str, np.ndarray[Any, Any]]:
    made = ClassificationGallery(classes)
    for one in batches:
        made.update(*one)
    return dict(made.pictures())


def test_pictures_are_rgb_and_there_are_three() -> None:
    found = drawn(batch())
    assert set(found) == {"predictions", "worst", "confusion"}
    for picture in found.values():
        assert picture.dtype == np.uint8 and picture.shape[0] == 3 and picture.flags.c_contiguous
        assert len(np.unique(picture)) > 10


def test_nothing_seen_is_nothing_to_show() -> None:
    assert drawn() == {}


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The cells of every grid that is drawn."""
    seen: list[list[Any]] = []

    def remember(found: Any) -> Any:
        seen.append(list(found))
        return grid(found)

    monkeypatch.setattr(gallery, "grid", remember)
    return seen


def test_a_grid_has_five_rows_of_five() -> None:
    """Fact 35 of what the reference systems promise."""
    heights = [drawn(batch(count))["predictions"].shape[1] for count in (5, 6, 25, 26)]
    row = heights[1] - heights[0]
    assert heights[2] == heights[3] == heights[0] + 4 * row
    assert row > gallery.SIDE + 2 * gallery.TEXT


def test_the_first_samples_in_order_and_the_worst_of_all_shards(cells: list[list[Any]]) -> None:
    batches = [batch(11, seed=seed, start=11 * seed) for seed in range(5)]
    drawn(*batches)
    first, worst = cells
    assert len(first) == len(worst) == 25
    assert [label for _, label, _, _ in first] == [NAMES[number % 3] for number in range(25)]
    logits = torch.cat([prediction["logits"] for prediction, _ in batches])
    label = torch.arange(55) % 3
    losses = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    hardest = losses.argsort(descending=True)[:25]
    shares = logits.softmax(1).amax(1)
    expected = [f"{float(shares[n]):.0%} {NAMES[int(logits[n].argmax())]}" for n in hardest]
    assert [predicted for _, _, predicted, _ in worst] == expected
    assert [right for *_, right in worst] == (logits.argmax(1) == label)[hardest].tolist()


def test_many_labels_are_all_named(cells: list[list[Any]]) -> None:
    label = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    prediction, shard = batch(3, label=label)
    found = drawn(
        (Prediction(prediction.ids, {"logits": torch.tensor([[2.0, -1, 1], [1, -1, -1], [-1, 3, -1]])}), shard)
    )
    assert set(found) == {"predictions", "worst"}
    assert [cell[1:] for cell in cells[0]] == [
        ("cat, " + NAMES[2], "cat, " + NAMES[2], True),
        ("none", "cat", False),
        ("dog", "dog", True),
    ]
    assert cells[1][0][1:] == ("none", "cat", False)


@pytest.mark.parametrize(
    "size", [(1, 8, 8), (3, 28, 28), (3, 300, 200), (1, 40, 500), (3, 112, 112), (4, 60, 70)], ids=str
)
def test_thumbnails_fit_whatever_the_size(size: tuple[int, ...], cells: list[list[Any]]) -> None:
    prediction, shard = batch(3, size)
    drawn((prediction, shard))
    thumbnail = cells[0][0][0]
    assert thumbnail.shape == (size[0], gallery.SIDE, gallery.SIDE) and thumbnail.dtype == torch.uint8
    inked = (thumbnail != 255).any(0)
    height, width = (int(inked.any(axis).sum()) for axis in (1, 0))
    assert height / width == pytest.approx(size[1] / size[2], rel=0.1)
    assert max(height, width) > gallery.SIDE // 2
    if size == (1, 8, 8):
        assert torch.equal(thumbnail[0, ::14, ::14], shard["image"][0, 0]), "enlarged by whole pixels"


def test_shards_of_other_sizes_and_of_normalised_images_go_together(cells: list[list[Any]]) -> None:
    prediction, shard = batch(3, (3, 20, 30))
    wild = Shard(shard.ids, {"image": shard["image"].float() / 40 - 3, "label": shard["label"]})
    drawn(batch(3), (prediction, wild))
    assert len(cells[0]) == 6
    assert int(cells[0][4][0].min()) == 0


def test_confusion_is_of_all_shards_and_left_out_for_too_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(gallery, "matrix", lambda counts, classes: seen.append(counts) or matrix(counts, classes))
    drawn(batch(), batch(start=8, seed=1))
    assert seen[0].sum() == 16 and seen[0].sum(1).tolist() == [6, 5, 5]
    assert "confusion" not in drawn(batch(), classes=[str(number) for number in range(101)])


@pytest.mark.parametrize("number", [1, 2, 20, 21, 47, 100])
def test_a_matrix_of_any_number_of_classes_is_drawn(number: int) -> None:
    counts = np.arange(number * number).reshape(number, number) * 37
    picture = matrix(counts, [f"class number {n}" for n in range(number)])
    assert picture.shape[0] == 3 and 60 < picture.shape[1] < 1200


def test_a_class_that_no_font_can_write_goes_by_its_number(
    monkeypatch: pytest.MonkeyPatch, cells: list[list[Any]]
) -> None:
    monkeypatch.setattr(lettering, "_fonts", lambda size: (ImageFont.load_default(size),))
    drawn(batch(), classes=("cat", "犬", "dög"))
    told = {word for grid in cells for _, label, predicted, _ in grid for word in (label, predicted.partition(" ")[2])}
    assert told == {"cat", "class 1", "dög"}


def test_no_update_waits_for_the_device() -> None:
    """Tensors without values stand in for a GPU: whatever asks for one fails."""
    for label in (torch.arange(8) % 3, torch.zeros(8, 3)):
        made = ClassificationGallery(NAMES)
        for _ in range(3):
            prediction, shard = batch(label=label)
            made.update(Prediction(prediction.ids, {"logits": prediction["logits"].to("meta")}), shard.to("meta"))


def test_drawing_draws_nothing_from_global_generators() -> None:
    before = torch.get_rng_state()
    drawn(batch())
    assert torch.equal(torch.get_rng_state(), before)


def test_tasks_have_one_with_their_classes() -> None:
    for kind in (Classification, MultiLabel):
        assert kind(SmallCNN(3), classes=NAMES).gallery().classes == NAMES
