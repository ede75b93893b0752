"""Boxes drawn over images, with words beside them that can be read on any background.

A line has an edge of the opposite brightness, words lie on a plate of their box's colour. Nothing is drawn outside the
image; words that don't fit into it, or would hide other words or more than a third of it, are left out. Pillow is
imported by the functions, so that importing this costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calotype.lettering import fitted, lettered
from calotype.palette import palette

if TYPE_CHECKING:
    from PIL.Image import Image

    from calotype.lettering import Font

Colour = tuple[int, int, int]
Place = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels, of which right and bottom are outside."""

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
DASH = 4
"""Of a dashed line: the length of a dash and of a gap, in line widths."""
HIDDEN = 1 / 3
"""The part of an image that words may hide."""
SPACE, RIM = 4, 2
"""Pixels between two words, and around them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to draw, xyxy in pixels, and what to write at it: a name, which is cut where there is no room, and a number
    (or other ASCII), which is not.
    """

    box: Sequence[float]
    colour: Colour
    name: str = ""
    number: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Style:
    """Pixels: the width of lines, the size of letters."""

    line: int = 2
    letters: int = 12

    @classmethod
    def of(cls, size: tuple[int, int]) -> Style:
        """For an image of (width, height)."""
        return cls(max(1, min(6, round(min(size) / 200))), max(10, min(40, round(min(size) / 32))))


def class_colour(number: int) -> Colour:
    """The colour of a class, of which 0 is no background: in VOC's palette the one after it."""
    red, green, blue = palette()[1 + number % 254].tolist()
    return red, green, blue


def draw(sheet: Image, marks: Sequence[Mark], style: Style | None = None) -> None:
    """Draw the marks on an RGB image. The first lies on top, and its words choose their place first."""
    from PIL import ImageDraw

    style = style or Style.of(sheet.size)
    pen = ImageDraw.Draw(sheet)
    for mark in reversed(marks):
        _outline(pen, _pixels(mark.box, sheet.size), mark, style)
    taken: list[Place] = []
    for mark in marks:
        words = _words(mark, sheet.width - 2 * RIM, style.letters)
        place = _free(_size(words), _pixels(mark.box, sheet.size), sheet.size, taken) if words else None
        if place is not None and sum(map(_area, [*taken, place])) <= HIDDEN * sheet.width * sheet.height:
            taken.append(place)
            _write(pen, place, words, mark.colour)


def _area(place: Place) -> int:
    return (place[2] - place[0]) * (place[3] - place[1])


def _write(pen: Any, place: Place, words: Sequence[tuple[str, Font]], colour: Colour) -> None:
    """Words on their plate."""
    left, top, right, bottom = place
    pen.rectangle((left, top, right - 1, bottom - 1), colour)
    x = left + RIM
    for text, of in words:
        pen.text((x, top + 1), text, _opposite(colour), of)
        x += round(of.getlength(text)) + SPACE


def _opposite(colour: Colour) -> Colour:
    """Black or white, whichever is seen on a colour."""
    red, green, blue = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else WHITE


def _pixels(box: Sequence[float], size: tuple[int, int]) -> Place:
    """A box in whole pixels, at least one, within an image of (width, height)."""
    left, top = (min(max(0, round(at)), side - 1) for at, side in zip(box[:2], size, strict=True))
    right, bottom = (min(max(0, round(at)), side) for at, side in zip(box[2:], size, strict=True))
    return left, top, max(left + 1, right), max(top + 1, bottom)


def _outline(pen: Any, place: Place, mark: Mark, style: Style) -> None:
    """The lines of a box, in it. Whole ones have an edge on both sides, thin ones outside; dashed ones lie on it."""
    left, top, right, bottom = place[0], place[1], place[2] - 1, place[3] - 1
    edge = _opposite(mark.colour)
    if not mark.dashed:
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=edge, width=style.line + 2 * (style.line > 1))
        pen.rectangle((left, top, right, bottom), outline=mark.colour, width=style.line)
        return
    pen.rectangle((left, top, right, bottom), outline=edge, width=style.line)
    far, step = style.line - 1, DASH * style.line
    for x in range(left, right + 1, 2 * step):
        for y in (top, max(top, bottom - far)):
            pen.rectangle((x, y, min(x + step - 1, right), min(y + far, bottom)), mark.colour)
    for y in range(top, bottom + 1, 2 * step):
        for x in (left, max(left, right - far)):
            pen.rectangle((x, y, min(x + far, right), min(y + step - 1, bottom)), mark.colour)


def _words(mark: Mark, width: int, letters: int) -> list[tuple[str, Font]]:
    """Name and number, each with a font that has it, in no more than `width` pixels; nothing where that can't be."""
    number = [lettered(mark.number, letters)] if mark.number else []
    left = width - sum(round(of.getlength(text)) + SPACE for text, of in number)
    name = [lettered(mark.name, letters)] if mark.name else []
    fitting = [(fitted(text, left, of), of) for text, of in name]
    # a name of which nothing but dots is left is none
    words = [(text, of) for text, of in fitting if text.strip(".") and of.getlength(text) <= left] + number
    return words if _size(words)[0] <= width + 2 * RIM else []


def _size(words: Sequence[tuple[str, Font]]) -> tuple[int, int]:
    """Width and height of the plate under words."""
    wide = sum(round(of.getlength(text)) for text, of in words) + SPACE * (len(words) - 1) + 2 * RIM
    return wide, max((round(of.getbbox(text)[3]) for text, of in words), default=0) + 1 + RIM


def _free(size: tuple[int, int], box: Place, sheet: tuple[int, int], taken: Sequence[Place]) -> Place | None:
    """A place for a plate at a box: above it, in it or below it, the first that is on the sheet and free."""
    (wide, high), (left, top, right, bottom) = size, box
    low, high_most = sheet[1] - high, sheet[0] - wide
    if low < 0 or high_most < 0:
        return None
    rows = (top - high, top, bottom, bottom - high)
    starts = [(x, y) for y in rows for x in (left, right - wide)]
    places = [(min(max(0, x), high_most), y) for x, y in starts if 0 <= y <= low]
    plates = [(x, y, x + wide, y + high) for x, y in places]
    return next((plate for plate in plates if not any(_meet(plate, other) for other in taken)), None)


def _meet(one: Place, other: Place) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
