"""Pictures of a segmenter's evaluation: five rows, what each shows, and which samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from calotype.palette import overlay, palette
from calotype.tasks import gallery_segmentation as gallery
from calotype.tasks.gallery_segmentation import COLUMNS, SIDE, SegmentationGallery
from calotype.tasks.segmentation import Segmentation
from calotype.types import Prediction, Shard

NAMES = ("background", "cat", "dog")
Picture = npt.NDArray[np.uint8]


def batch(
    count: int = 3, size: tuple[int, int] = (8, 12), start: int = 0, **fields: Tensor
) -> tuple[Prediction, Shard]:
    drawn = torch.Generator().manual_seed(start)
    ids = np.arange(start, start + count)
    image = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=drawn)
    true = torch.randint(0, 3, (count, *size), generator=drawn)
    true[:, 0, 0] = 255
    found = torch.randint(0, 3, (count, *size), generator=drawn)
    given = {"image": image, "mask": true} | fields
    return Prediction(ids, {"mask": given.pop("found", found)}), Shard(ids, given)


def drawn(*batches: tuple[Prediction, Shard], classes: Any = NAMES) -> dict[str, Picture]:
    made = SegmentationGallery(classes)
    for one in batches:
        made.update(*one)
    return dict(made.pictures())


def cells(picture: Picture, height: int, width: int, columns: int) -> list[list[Picture]]:
    """The thumbnails of a grid by column and row, (H, W, 3)."""
    sheet, left = picture.transpose(1, 2, 0), gallery.TEXT + 10
    tops = [gallery.GAP + row * (height + gallery.GAP) for row in range(5)]
    lefts = [left + column * (width + gallery.GAP) for column in range(columns)]
    return [[sheet[top : top + height, x : x + width] for top in tops] for x in lefts]


def test_a_task_offers_it() -> None:
    assert isinstance(Segmentation(torch.nn.Identity(), NAMES).gallery(), SegmentationGallery)


def test_nothing_seen_is_nothing_to_show() -> None:
    assert drawn() == {}


def test_the_rows_are_image_overlay_prediction_overlay_and_truth() -> None:
    prediction, shard = batch()
    found = drawn((prediction, shard))
    assert set(found) == {"predictions", "worst", "confusion"}
    times = SIDE // 12
    for column, rows in enumerate(cells(found["predictions"], 8 * times, 12 * times, 3)):
        image, over, mask, over_true, true = (row[::times, ::times] for row in rows)
        assert np.array_equal(image, shard["image"][column].permute(1, 2, 0).numpy())
        for shown, laid, ids in ((mask, over, prediction["mask"]), (true, over_true, shard["mask"])):
            assert np.array_equal(shown, palette()[ids[column].numpy()])
            assert np.array_equal(laid, overlay(image, ids[column].numpy()))
        assert true[0, 0].tolist() == [224, 224, 192]


def test_the_first_eight_and_the_eight_worst_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def remember(rows: Any, classes: Any) -> Any:
        shown.append(rows["image"][:, 0, 0, 0].tolist())
        return np.zeros((3, 1, 1), np.uint8)

    monkeypatch.setattr(gallery, "grid", remember)
    batches = []
    for start in range(0, 15, 5):
        number = torch.arange(start, start + 5)
        image = number.view(-1, 1, 1, 1).to(torch.uint8).expand(-1, 3, 4, 15).contiguous()
        true = torch.zeros(5, 4, 15, dtype=torch.int64)
        found = torch.stack(
            [torch.cat([torch.ones(4, wrong), torch.zeros(4, 15 - wrong)], 1) for wrong in number]
        ).long()
        batches.append(batch(5, start=start, image=image, mask=true, found=found))
    drawn(*batches)
    assert shown == [list(range(COLUMNS)), [14, 13, 12, 11, 10, 9, 8, 7]]


def test_an_image_of_nothing_but_void_is_not_among_the_worst() -> None:
    table = torch.zeros(1, 3, 3, dtype=torch.int64)
    assert gallery._mean_iou(table).tolist() == [1.0]


def test_the_confusion_counts_pixels_without_void(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(gallery, "matrix", lambda counts, _: counted.append(counts.tolist()))
    mask, found = torch.tensor([[[0, 1, 255, 2]]]), torch.tensor([[[0, 2, 1, 2]]])
    one = batch(1, (1, 4), mask=mask, found=found)
    drawn(one, one)
    assert counted == [[[2, 0, 0], [0, 0, 2], [0, 0, 2]]]


def test_more_classes_than_fit_are_drawn_without_their_matrix() -> None:
    names = [f"class {number}" for number in range(150)]
    one = batch(2, found=torch.full((2, 8, 12), 149))
    assert set(drawn(one, classes=names)) == {"predictions"}


@pytest.mark.parametrize("size", [(8, 12), (300, 500), (500, 333), (1, 700), (160, 160)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_size_is_fitted_in(size: tuple[int, int], channels: int) -> None:
    image = torch.randn(2, channels, *size)
    picture = drawn(batch(2, size, image=image))["predictions"]
    assert picture.dtype == np.uint8 and picture.shape[0] == 3 and picture.flags.c_contiguous
    assert picture.shape[1] <= 5 * (SIDE + gallery.GAP) + 80 and picture.shape[2] <= 2 * (SIDE + gallery.GAP) + 30
    assert len(np.unique(picture)) > 10


def test_images_of_other_shapes_stand_side_by_side() -> None:
    found = drawn(batch(2, (160, 80)), batch(2, (40, 160), start=2))["predictions"]
    tall, wide = (cells(found, 160, 160, 4)[column][4] for column in (0, 3))
    assert (tall[:, 80:] == 255).all() and (wide[40:] == 255).all()
    assert not (tall[:, :80] == 255).all()


def test_the_legend_names_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = gallery._legend

    def remember(numbers: Any, classes: Any, wide: int) -> Image.Image:
        seen.append(list(numbers))
        return real(numbers, classes, wide)

    monkeypatch.setattr(gallery, "_legend", remember)
    drawn(batch(1, (8, 12), found=torch.full((1, 8, 12), 2)))
    assert seen == [[0, 1, 2, 255]] * 2


def test_no_update_waits_for_the_device() -> None:
    """Tensors without values stand in for a GPU: whatever asks for one fails."""
    made = SegmentationGallery(NAMES)
    for size in ((8, 12), (300, 200)):
        prediction, shard = batch(6, size)
        made.update(Prediction(prediction.ids, {"mask": prediction["mask"].to("meta")}), shard.to("meta"))


def test_drawing_draws_nothing_from_global_generators() -> None:
    before = torch.get_rng_state()
    drawn(batch())
    assert torch.equal(torch.get_rng_state(), before)
