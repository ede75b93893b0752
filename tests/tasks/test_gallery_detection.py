"""Pictures of a detector's evaluation: what counts as a mistake, which samples are shown, precision by recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calotype.tasks import gallery_detection as gallery
from calotype.tasks.detection import Detection
from calotype.tasks.gallery_detection import NEITHER, NO, SIDE, YES, DetectionGallery, curve, judged
from calotype.types import Prediction, Shard

NAMES = ("cat", "dog", "hat")
Rows = Sequence[Sequence[float]]
BOX = (10.0, 10.0, 30.0, 30.0)
NEAR = (10.0, 10.0, 30.0, 28.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def table(rows: Rows, columns: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).view(-1, columns)


def found(*rows: tuple[Sequence[float], float, int]) -> Tensor:
    return table([[*box, score, label] for box, score, label in rows], 6)


def objects(*rows: tuple[Sequence[float], int, int]) -> Tensor:
    return table([[*box, label, flags] for box, label, flags in rows], 6)


def batch(pairs: Sequence[tuple[Tensor, Tensor]], size: tuple[int, int] = (64, 96), start: int = 0, **more: Any) -> Any:
    ids = np.arange(start, start + len(pairs))
    image = torch.full((len(pairs), 3, *size), 90, dtype=torch.uint8)
    truth = [torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1) for _, rows in pairs]
    affine = torch.eye(2, 3, dtype=torch.float64).expand(len(pairs), 2, 3)
    fields = {
        "boxes": [rows[:, :4].float() for rows, _ in pairs],
        "scores": [rows[:, 4].float() for rows, _ in pairs],
        "labels": [rows[:, 5].long() for rows, _ in pairs],
    }
    return Prediction(ids, fields), Shard(ids, {"image": image, "truth": truth, "affine": affine, **more})


def made(*batches: Any, classes: Sequence[str] = NAMES) -> DetectionGallery:
    pictures = DetectionGallery(classes)
    for one in batches:
        pictures.update(*one)
    return pictures


def test_a_task_offers_it() -> None:
    assert isinstance(Detection(nn.Identity(), NAMES).gallery(), DetectionGallery)
    assert DetectionGallery(NAMES).pictures() == {}


@pytest.mark.parametrize(
    ("boxes", "truth", "right"),
    [
        ([(BOX, 0.9, 0)], [(BOX, 0, 0)], [YES]),
        ([(BOX, 0.9, 1)], [(BOX, 0, 0)], [NO]),
        ([(FAR, 0.9, 0)], [(BOX, 0, 0)], [NO]),
        ([(BOX, 0.9, 0), (NEAR, 0.8, 0)], [(BOX, 0, 0)], [YES, NO]),
        ([(NEAR, 0.9, 0), (BOX, 0.8, 0)], [(BOX, 0, 0), (NEAR, 0, 0)], [YES, YES]),
        ([(BOX, 0.9, 0)], [(BOX, 0, 1)], [NEITHER]),
        ([(BOX, 0.9, 0)], [(BOX, 0, 2)], [NEITHER]),
        ([(BOX, 0.9, 0)], [(BOX, 0, 4)], [YES]),
        ([(BOX, 0.9, 0)], [(BOX, 0, 1), (NEAR, 0, 0)], [YES]),
        ([(BOX, 0.9, 0), (BOX, 0.8, 0)], [((0, 0, 90, 90), 0, 1)], [NEITHER, NEITHER]),
        ([(BOX, 0.9, 0)], [((0, 0, 90, 90), 0, 2)], [NO]),
        ([(BOX, 0.9, 0)], [], [NO]),
        ([], [(BOX, 0, 0)], []),
    ],
)
def test_a_box_is_right_false_or_counts_nowhere(boxes: Any, truth: Any, right: list[float]) -> None:
    assert judged(found(*boxes), objects(*truth))[0].tolist() == right


def test_the_better_box_takes_the_object_it_fits_best() -> None:
    right, takers = judged(found((BOX, 0.9, 0), (BOX, 0.8, 0)), objects((NEAR, 0, 0), (BOX, 0, 0), (FAR, 0, 0)))
    assert right.tolist() == [YES, YES] and takers.tolist() == [1, 0, -1]


def test_mistakes_are_what_is_missed_and_what_is_false_and_sure() -> None:
    pairs = [
        (found((BOX, 0.9, 0)), objects((BOX, 0, 0))),
        (found((BOX, 0.4, 0)), objects((BOX, 0, 0))),
        (found((FAR, 0.9, 0)), objects((BOX, 0, 0))),
        (found((FAR, 0.4, 0)), objects((BOX, 0, 1))),
        (found((FAR, 0.9, 0), (FAR, 0.8, 1), (FAR, 0.7, 2)), objects((BOX, 0, 2))),
    ]
    rows = made(batch(pairs))._shown.worst
    assert rows["loss"].tolist() == [3, 2, 1, 0, 0]


def test_the_first_twelve_and_the_twelve_worst_are_shown() -> None:
    batches = []
    for start in range(0, 30, 6):
        pairs = [(found(*[(FAR, 0.9, 0)] * number), objects((BOX, 0, 1))) for number in range(start, start + 6)]
        image = torch.arange(start, start + 6).view(-1, 1, 1, 1).to(torch.uint8).expand(-1, 3, 64, 96).contiguous()
        batches.append(batch(pairs, start=start, image=image))
    shown = made(*batches)._shown
    assert shown.first["image"][:, 0, 0, 0].tolist() == list(range(12))
    assert shown.worst["image"][:, 0, 0, 0].tolist() == list(range(29, 17, -1))


def test_boxes_lie_on_the_thumbnail_as_on_the_file() -> None:
    """A file of half the image's size, mirrored: its box is drawn where its pixels went."""
    affine = torch.tensor([[[-2.0, 0.0, 96.0], [0.0, 2.0, 0.0]]], dtype=torch.float64)
    pairs = [(found(((4, 5, 10, 20), 0.9, 0)), objects(((4, 5, 10, 20), 0, 0)))]
    marks = made(batch(pairs, affine=affine))._shown.first["marks"][0]
    scale = SIDE // 96
    expected = [76.0 * scale, 10.0 * scale, 88.0 * scale, 40.0 * scale]
    assert marks[0, :4].tolist() == marks[1, :4].tolist() == expected
    assert bool(marks[2:].isnan().all())


def test_what_the_lines_say() -> None:
    pairs = [(found((BOX, 0.9, 0), (FAR, 0.8, 1)), objects((BOX, 0, 0), (FAR, 2, 0), (FAR, 0, 1)))]
    marks = gallery.drawn(made(batch(pairs))._shown.first["marks"][0], NAMES)
    told = [(mark.name, mark.number, mark.colour, mark.dashed) for mark in marks]
    assert told == [
        ("cat", "90%", gallery.GREEN, False),
        ("dog", "80%", gallery.RED, False),
        ("", "", gallery.WHITE, True),
        ("hat", "", gallery.WHITE, True),
        ("", "", gallery.GREY, True),
    ]


def test_the_curve_is_the_best_precision_from_each_recall_on() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    right = np.array([True, False, True, True, False])
    assert curve(scores, right, 4).tolist() == [[0.25, 1.0], [0.5, 0.75], [0.75, 0.75]]
    assert curve(scores[:0], right[:0], 4).shape == (0, 2)


def test_curves_are_of_all_shards_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(gallery, "plot", lambda curves, _: drawn.append({k: v.tolist() for k, v in curves.items()}))
    one = batch([(found((BOX, 0.9, 0)), objects((BOX, 0, 0), (FAR, 1, 0)))])
    other = batch([(found((FAR, 0.3, 0), (BOX, 0.2, 0)), objects((BOX, 0, 0), (FAR, 2, 1)))])
    made(one, other).pictures()
    assert drawn == [{0: [[0.5, 1.0], [1.0, pytest.approx(2 / 3)]], 1: []}]


def test_of_many_classes_those_with_the_most_objects_have_curves() -> None:
    counts = [number % 7 for number in range(80)]
    chosen = gallery._largest(counts)
    assert len(chosen) == gallery.CURVES and [number for number, _ in chosen] == sorted(n for n, _ in chosen)
    assert min(count for _, count in chosen) == 5


def test_no_objects_is_no_curve_and_output_that_is_not_finite_is_no_box() -> None:
    prediction, shard = batch([(found(), objects()), (found(), objects((BOX, 0, 1)))])
    none = Prediction(prediction.ids, {name: [None, None] for name in ("boxes", "scores", "labels")})
    assert set(made((none, shard)).pictures()) == {"predictions", "worst"}


def test_a_source_without_truth_is_judged_by_its_boxes() -> None:
    prediction, shard = batch([(found((BOX, 0.9, 1)), objects())])
    fields = {"image": shard["image"], "boxes": [torch.tensor([BOX])], "labels": [torch.tensor([1])]}
    rows = made((prediction, Shard(shard.ids, fields)))._shown.first
    assert rows["loss"].tolist() == [0] and rows["marks"][0, :2, 6].tolist() == [YES, YES]


@pytest.mark.parametrize("size", [(64, 96), (500, 333), (1, 700), (256, 256)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_is_fitted_in(size: tuple[int, int], channels: int) -> None:
    image = torch.randn(5, channels, *size)
    pairs = [(found((BOX, 0.9, 0)), objects((BOX, 0, 0)))] * 5
    pictures = made(batch(pairs, size, image=image)).pictures()
    assert set(pictures) == {"predictions", "worst", "precision_recall"}
    for picture in pictures.values():
        assert picture.dtype == np.uint8 and picture.shape[0] == 3 and picture.flags.c_contiguous
    assert pictures["predictions"].shape[2] <= gallery.COLUMNS * (SIDE + gallery.GAP) + gallery.GAP


def test_an_image_of_a_few_pixels_width_has_a_picture() -> None:
    pairs = [(found((BOX, 0.9, 0)), objects((FAR, 0, 0)))]
    assert set(made(batch(pairs, size=(4000, 4))).pictures()) == {"predictions", "worst", "precision_recall"}


def test_more_boxes_than_are_drawn_keep_the_objects() -> None:
    pairs = [(found(*[(FAR, 0.9, 0)] * 300), objects((BOX, 0, 0)))]
    marks = made(batch(pairs))._shown.first["marks"][0]
    assert marks.shape == (gallery.MOST, 8) and marks[0, 7] == gallery.OBJECT and not marks.isnan().any()


def test_classes_beyond_the_names_are_called_by_their_numbers() -> None:
    pairs = [(found((BOX, 0.9, 7)), objects((FAR, 0, 0)))]
    pictures = made(batch(pairs))
    assert gallery.drawn(pictures._shown.first["marks"][0], NAMES)[0].name == "7"
    assert set(pictures.pictures()) == {"predictions", "worst", "precision_recall"}


def test_an_update_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    real = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(self.shape) or real(self))
    made(batch([(found((BOX, 0.9, 0)), objects((BOX, 0, 0)))] * 4))
    assert len(moved) == 1


def test_drawing_draws_nothing_from_global_generators() -> None:
    before = torch.get_rng_state()
    made(batch([(found((BOX, 0.9, 0)), objects((BOX, 0, 0)))])).pictures()
    assert torch.equal(torch.get_rng_state(), before)
