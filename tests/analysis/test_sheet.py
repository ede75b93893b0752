"""A sheet shows each picture whole, in its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from calotype import lettering
from calotype.analysis import sheet
from calotype.analysis.sheet import GAP, PAPER, SIDE, Row, draw, picture


def plain(height: int, width: int, level: int, channels: int = 3) -> np.ndarray:
    return np.full((height, width, channels), level, np.uint8)


def bands(image: Image.Image, level: int) -> tuple[int, int]:
    """How many columns and rows of the sheet hold a grey level."""
    found = (np.asarray(image) == level).all(2)
    return int(found.any(0).sum()), int(found.any(1).sum())


def test_a_row_a_class_and_a_column_a_picture() -> None:
    drawn = draw([Row("ant", "2 images", [plain(48, 48, 10), plain(96, 48, 20)]), Row("bee", "none", [])])
    assert drawn.height == GAP + 2 * (SIDE + GAP)
    assert bands(drawn, 10) == (96, 96)
    assert bands(drawn, 20) == (48, 96)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((8, 8), (96, 96)), ((28, 20), (84, 60)), ((60, 90), (60, 90)), ((400, 100), (96, 24)), ((1, 999), (1, 96))],
)
def test_pictures_fit(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = picture(plain(size[1], size[0], 7))
    assert image.size == shown and image.mode == "RGB"


def test_small_pixels_stay_sharp() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    shown = np.asarray(picture(pixels))
    assert np.array_equal(shown[::12, ::12, 0], pixels[..., 0])
    assert np.array_equal(shown[11::12, 11::12, 2], pixels[..., 0])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_are_drawn_grey(channels: int) -> None:
    assert picture(plain(8, 8, 9, channels)).getpixel((0, 0)) == (9, 9, 9)


def test_long_names_are_cut_and_many_classes_left_out() -> None:
    drawn = draw([Row("a very long name " * 9, "x", [plain(9, 9, 1)])] * (sheet.MOST_ROWS + 5))
    assert drawn.size == (sheet.NAMES + 3 * GAP + SIDE, GAP + sheet.MOST_ROWS * (SIDE + GAP))


def test_a_name_that_no_font_can_write_is_a_number_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_fonts", lambda size: (ImageFont.load_default(size),))
    pictures = [plain(9, 9, 1)]
    rows = [Row("cat", "x", pictures), Row("犬", "x", pictures), Row("dög", "x", pictures)]
    assert sheet.unwritten(rows) == ["犬"]
    drawn, told = draw(rows), draw([rows[0], Row("class 1", "x", pictures), Row("dog", "x", pictures)])
    assert np.array_equal(np.asarray(drawn), np.asarray(told))


def test_nothing_to_draw_is_white() -> None:
    assert draw([Row("ant", "0 images", [])]).getpixel((150, 60)) == PAPER
