"""A row tells of a sample what is so."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from calotype.analysis import looks
from calotype.analysis.looks import FORMATS, MODES
from calotype.data.images import decode
from calotype.errors import DataError
from tests.toys.broken import encoded, photo


def sample(content: bytes, label: object = 1) -> dict[str, object]:
    return {"image": decode(content), "label": label, "content": content}


def checked(given: dict[str, object], classes: int = 0) -> np.void:
    row = np.zeros(1, looks.check_row(classes))[0]
    looks.check(given, row)
    return row


@pytest.mark.parametrize(
    ("kind", "mode", "expected"),
    [("JPEG", "RGB", "RGB"), ("JPEG", "L", "L"), ("JPEG", "CMYK", "CMYK"), ("PNG", "P", "P"), ("PNG", "RGBA", "RGBA"),
     ("PNG", "I;16", "I;16"), ("PNG", "1", "1"), ("WEBP", "RGB", "RGB"), ("BMP", "RGB", "RGB"), ("TIFF", "L", "L"),
     ("GIF", "P", "P")],
)  # fmt: skip
def test_format_and_mode_are_those_of_the_file(kind: str, mode: str, expected: str) -> None:
    image = (
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)) if mode == "I;16" else photo().convert(mode)
    )
    row = checked(sample(encoded(image, kind)))
    assert (FORMATS[row["format"]], MODES[row["mode"]], bool(row["animated"])) == (kind, expected, False)
    assert (row["width"], row["height"]) == image.size


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_seen(kind: str) -> None:
    assert checked(sample(encoded(photo(1), kind, save_all=True, append_images=[photo(2)])))["animated"]


def test_a_second_picture_in_a_jpeg_is_no_animation() -> None:
    content = encoded(photo(1), "MPO", save_all=True, append_images=[photo(2)])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    row = checked(sample(content))
    assert FORMATS[row["format"]] == "JPEG" and not row["animated"]


def test_a_sample_that_is_no_file_has_no_format() -> None:
    row = checked({"image": tv_tensors.Image(torch.zeros(1, 4, 4, dtype=torch.uint8)), "label": 0})
    assert (row["format"], row["mode"], row["channels"]) == (0, 0, 1)


def test_a_header_that_nobody_knows_is_no_error() -> None:
    assert looks._header(b"nothing") == (0, 0, False)


def test_the_digest_is_of_the_pixels_and_their_shape() -> None:
    image = photo(1)
    png, tiff = (checked(sample(encoded(image, kind)))["digest"] for kind in ("PNG", "TIFF"))
    assert png == tiff != checked(sample(encoded(photo(2), "PNG")))["digest"]
    wide, high = (
        checked({"image": torch.zeros(1, *shape, dtype=torch.uint8), "label": 0})["digest"]
        for shape in ((2, 6), (6, 2))
    )
    assert wide != high


@pytest.mark.parametrize(("level", "one"), [(0, True), (looks.LEAST_RANGE, True), (looks.LEAST_RANGE + 1, False)])
def test_one_colour(level: int, one: bool) -> None:
    image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    image[0, 3, 3] += level
    assert bool(checked({"image": image, "label": 0})["one_colour"]) is one


@pytest.mark.parametrize(
    ("label", "expected"),
    [(3, 3), (-1, -1), (np.int64(2), 2), (torch.tensor(4), 4), (None, looks.NO_LABEL), ("cat", looks.ODD_LABEL),
     (torch.zeros(2, 2), looks.ODD_LABEL), (torch.zeros(3), looks.SEVERAL), (2**63, looks.ODD_LABEL)],
)  # fmt: skip
def test_labels(label: object, expected: int) -> None:
    assert checked({"image": torch.zeros(1, 4, 4, dtype=torch.uint8), "label": label})["label"] == expected


def test_a_vector_of_classes_is_kept() -> None:
    given = {"image": torch.zeros(1, 4, 4, dtype=torch.uint8), "label": torch.tensor([0.0, 1.0, 1.0])}
    assert checked(given, 3)["classes"].tolist() == [0, 1, 1]


def test_an_image_of_other_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="float32, not uint8"):
        checked({"image": torch.zeros(1, 4, 4), "label": 0})


def test_sums_are_exact() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    row = np.zeros(1, looks.stats_row(0))[0]
    looks.stats({"image": image, "label": 0}, row)
    wide = image.long()
    assert row["sum"].tolist() == [*wide.sum((1, 2)).tolist(), 0]
    assert row["squares"].tolist() == [*(wide**2).sum((1, 2)).tolist(), 0]


def test_of_a_mask_the_pixels_of_each_class_are_counted() -> None:
    mask = torch.tensor([[0, 1, 1], [2, 255, 255]])
    given = {"image": torch.zeros(3, 2, 3, dtype=torch.uint8), "mask": mask}
    dtype = looks.fitting(looks.check_row, 4)(given)
    row, other = np.zeros(2, dtype)
    looks.check(given, row)
    assert row["pixels"].tolist() == [1, 2, 1, 0, 2] and row["label"] == looks.NO_LABEL
    looks.check(given | {"mask": mask.flip(0)}, other)
    assert row["target"] != other["target"] and row["digest"] == other["digest"]
    with pytest.raises(DataError, match=r"its mask holds -1, 7, outside 0\.\.3 and not 255"):
        looks.check(given | {"mask": torch.tensor([[7, -1, 0]])}, row)
