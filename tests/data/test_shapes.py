"""The drawn shapes: the shared contract, and that image, mask and boxes say the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from calotype.data.shapes import FORMS, Shapes
from calotype.errors import DataError
from tests.contracts.source import SourceContract, digest


class TestMasks(SourceContract):
    def make(self) -> Shapes:
        return Shapes(images=(40, 8, 8))


class TestBoxes(SourceContract):
    def make(self) -> Shapes:
        return Shapes("boxes", images=(40, 8, 8))


def samples(**options: Any) -> list[dict[str, Any]]:
    source = Shapes(**options).split("train")
    return [source[position] for position in range(60)]


def test_boxes_are_around_what_the_mask_shows() -> None:
    """One shape an image, so that what the mask shows is it."""
    seen = set()
    for masked, boxed in zip(samples(most=1), samples(target="boxes", most=1), strict=True):
        assert torch.equal(masked["image"], boxed["image"])
        rows, columns = (masked["mask"] > 0).nonzero(as_tuple=True)
        box = [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]
        assert boxed["boxes"].tolist() == [box]
        assert masked["mask"].unique().tolist() == [0, int(boxed["labels"][0]) + 1]
        seen.add(int(boxed["labels"][0]))
    assert seen == set(range(len(FORMS)))


def test_boxes_of_many_lie_within_the_image_and_have_an_area() -> None:
    boxes = torch.cat([sample["boxes"] for sample in samples(target="boxes", most=9)]).as_subclass(torch.Tensor)
    assert boxes.min() >= 0 and boxes.max() <= 64 and bool((boxes[:, 2:] > boxes[:, :2]).all())
    counts = [len(sample["boxes"]) for sample in samples(target="boxes", most=9)]
    assert max(counts) > 5 and any(count < 9 for count in counts)


def test_a_shape_has_another_colour_than_the_texture_and_a_smooth_edge() -> None:
    sample = samples(most=1, size=128)[0]
    inside, image = sample["mask"] > 0, sample["image"].double()
    means = [image[:, where].mean(1) for where in (inside, ~inside)]
    assert (means[0] - means[1]).norm() > 60
    values = [image[:, where].std(1).max() for where in (inside, ~inside)]
    assert min(values) > 1  # noise on both


def test_another_seed_draws_others_and_another_process_the_same() -> None:
    one, other = digest(samples()[7]), digest(samples(draw_seed=1)[7])
    assert one != other
    code = "from tests.data.test_shapes import *; print(digest(samples()[7]))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == one
    )


def test_what_it_can_be_asked_for() -> None:
    assert Shapes().classes == ("background", *FORMS) and Shapes("boxes").classes == tuple(FORMS)
    assert [len(Shapes(images=(3, 2, 1)).split(name)) for name in ("train", "val", "test")] == [3, 2, 1]
    assert np.array_equal(Shapes(images=(3, 2, 1)).split("val").ids, [3, 4])
    with pytest.raises(DataError, match=r"data\.target: 'label' is not allowed; allowed: mask, boxes"):
        Shapes("label")  # type: ignore[arg-type]
