"""A sheet of pictures: a row for each class, its name and size, and some of its images.

Small images are enlarged by whole pixels, so that one of 8x8 is seen as a network sees it; larger ones are fitted in.
A name in letters that no font of the system has is given as its row's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from calotype.lettering import can_letter, fitted, lettered

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels: TypeAlias = npt.NDArray[np.uint8]

SIDE, GAP, NAMES, LETTERS = 96, 6, 180, 15
"""Pixels: a picture's side, the space between, the width of the names, the height of letters."""
MOST_ROWS = 200
"""Rows of a sheet; with the space between them 20,400 pixels high."""
INK, FAINT, PAPER = (30, 30, 30), (120, 120, 120), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Row:
    """A class: its name, a word about it, its pictures, (H, W, C) uint8, and the colour it has in them."""

    name: str
    note: str
    pictures: Sequence[Pixels]
    colour: tuple[int, ...] | None = None


def draw(rows: Sequence[Row]) -> Image.Image:
    """The sheet; rows beyond MOST_ROWS are left out."""
    rows = rows[:MOST_ROWS]
    texts = [
        (lettered(row.name, LETTERS, f"class {number}"), lettered(row.note, LETTERS)) for number, row in enumerate(rows)
    ]
    columns = max([1, *(len(row.pictures) for row in rows)])
    names = min(NAMES, max([1, *(round(of.getlength(text)) + 1 for both in texts for text, of in both)])) + GAP
    cell = SIDE + GAP
    sheet = Image.new("RGB", (names + columns * cell + GAP, len(rows) * cell + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        top = GAP + place * cell
        (name, of), (note, plain) = texts[place]
        pen.text((GAP, top + SIDE // 2 - 2), fitted(name, names - GAP, of), INK, of, anchor="ls")
        pen.text((GAP, top + SIDE // 2 + 2), fitted(note, names - GAP, plain), FAINT, plain, anchor="la")
        if row.colour is not None:
            pen.rectangle((GAP, top + SIDE // 4 - 6, GAP + 2 * LETTERS, top + SIDE // 4 + 4), row.colour, FAINT)
        for column, pixels in enumerate(row.pictures):
            image, left = picture(pixels), names + GAP + column * cell
            sheet.paste(image, (left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
    return sheet


def picture(pixels: Pixels) -> Image.Image:
    """Pixels (H, W, C) as an RGB image whose longer side is at most SIDE; of 2 or more than 3 channels the first."""
    three = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
    image = Image.fromarray(np.ascontiguousarray(three))
    longer = max(image.size)
    if longer * 2 <= SIDE:
        return image.resize((image.width * (SIDE // longer), image.height * (SIDE // longer)), Image.Resampling.NEAREST)
    if longer <= SIDE:
        return image
    width, height = (max(1, round(side * SIDE / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def unwritten(rows: Sequence[Row]) -> list[str]:
    """The names that the sheet gives as a number."""
    return [row.name for row in rows[:MOST_ROWS] if not can_letter(row.name, LETTERS)]
