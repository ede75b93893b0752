"""Boxes over images: where lines and words lie, and that they can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from calotype import drawing
from calotype.drawing import Mark, Style, class_colour, draw
from calotype.palette import palette

RED = (200, 0, 0)


def sheet(width: int = 200, height: int = 100, colour: tuple[int, int, int] = (90, 90, 90)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def drawn(*marks: Mark, on: Image.Image | None = None, style: Style | None = None) -> Any:
    image = on or sheet()
    draw(image, marks, style)
    return np.asarray(image).copy()


def plates(pixels: Any, colour: tuple[int, int, int]) -> Any:
    """Rows and columns where a colour is, as (top, left, bottom, right)."""
    rows, columns = np.nonzero((pixels == colour).all(2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_lines_lie_in_the_box_and_their_edge_around_them() -> None:
    pixels = drawn(Mark((50, 20, 120, 80), RED), style=Style(2, 12))
    assert plates(pixels, RED) == (20, 50, 80, 120)
    assert (pixels[40, 49:54] == [[255] * 3, RED, RED, [255] * 3, [90] * 3]).all()
    assert (pixels[50, 60] == 90).all() and (pixels[50, 47] == 90).all()


@pytest.mark.parametrize("box", [(-40, -9, 500, 400), (199.9, 99.9, 200, 100), (-5, -5, -1, -1), (300, 3, 400, 9)])
@pytest.mark.parametrize("dashed", [False, True])
def test_nothing_leaves_the_image(box: tuple[float, ...], dashed: bool) -> None:
    pixels = drawn(Mark(box, RED, "a class with a long name" * 9, "0.53", dashed))
    assert pixels.shape == (100, 200, 3) and (pixels != 90).any()


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (30, 12), (12, 300)])
def test_images_too_small_for_words_have_none(size: tuple[int, int]) -> None:
    marked, bare = (drawn(Mark((0, 0, *size), RED, *words), on=sheet(*size)) for words in (("name", "0.50"), ()))
    assert np.array_equal(marked, bare)


@pytest.mark.parametrize("colour", [class_colour(number) for number in range(30)])
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_words_stand_out_from_their_plate_whatever_lies_below(colour: tuple[int, int, int], ground: int) -> None:
    pixels = drawn(Mark((60, 40, 150, 90), colour, "name", "0.50"), on=sheet(colour=(ground,) * 3))
    plate = pixels[28:39, 62:120].reshape(-1, 3).astype(int)
    shades = plate @ [0.299, 0.587, 0.114]
    assert (plate == colour).all(1).mean() > 0.4
    assert np.abs(shades - np.dot(colour, [0.299, 0.587, 0.114])).max() > 90


def test_words_lie_above_the_box_or_in_it_at_the_upper_edge() -> None:
    for top, expected in ((50, range(30, 50)), (0, range(20))):
        pixels = drawn(Mark((60, top, 150, top + 40), RED, "name"), style=Style(1, 12))
        letters = np.flatnonzero((pixels[: top + 30, 62:90] == 255).all(2).sum(1) > 0)
        assert len(letters) and set(letters.tolist()) <= set(expected)


def test_words_hide_no_other_words() -> None:
    box = (60.0, 40.0, 150.0, 60.0)
    marks = [Mark(box, class_colour(number), "name", f"{number}") for number in range(8)]
    places: list[Any] = []
    real = drawing._write

    def remember(pen: Any, place: Any, words: Any, colour: Any) -> None:
        places.append(place)
        real(pen, place, words, colour)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_write", remember)
        drawn(*marks)
    assert 1 < len(places) < 8
    for row, one in enumerate(places):
        assert not any(drawing._meet(one, other) for other in places[:row])
    assert sum(map(drawing._area, places)) <= 200 * 100 / 3


def test_the_first_mark_lies_on_top() -> None:
    box = (50.0, 20.0, 120.0, 80.0)
    assert (drawn(Mark(box, RED), Mark(box, (0, 0, 200)))[50, 50] == RED).all()


def test_a_name_in_letters_that_there_are_none_of_is_its_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    words = drawing._words(Mark((0, 0, 9, 9), RED, "\U0010fffe", "0.50"), 200, 12)
    assert [text for text, _ in words] == ["U+10FFFE", "0.50"]


def test_a_long_name_is_cut_and_its_number_is_not() -> None:
    words = drawing._words(Mark((0, 0, 9, 9), RED, "a very long name of a class", "0.50"), 100, 12)
    assert words[0][0].endswith("...") and words[1][0] == "0.50"
    assert drawing._size(words)[0] <= 100 + 2 * drawing.RIM


def test_colours_of_classes_are_those_of_masks_after_the_background() -> None:
    assert [class_colour(number) for number in (0, 1, 2)] == [tuple(row) for row in palette()[1:4].tolist()]
    assert all(class_colour(number) != (0, 0, 0) for number in range(600))
