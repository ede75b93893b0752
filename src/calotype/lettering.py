"""Words in pictures, in any script for which the system has a font.

A font draws a letter that it doesn't have as an empty box, without a word. So each text is drawn with the first of a
few widespread fonts that has all of its letters; where none has, without its accents; and where that doesn't help
either, something else is written instead, by default the letters' code points.
"""

from __future__ import annotations

import os
import unicodedata
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font: TypeAlias = FreeTypeFont | ImageFont

FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "SourceHanSans-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "FreeSans.ttf",
    "unifont.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
)
"""Looked for by name where the system keeps its fonts, in this order: Latin, Greek and Cyrillic, then fonts of other
scripts, then those of macOS and Windows. CALOTYPE_FONT, the file of a font, goes before all of them."""

NOWHERE = "\U0010ffff"
"""No letter, now or ever, so it is drawn as a font draws those that it lacks."""


def font(size: int) -> Font:
    """The first font there is, for what is plain ASCII."""
    return _fonts(size)[0]


def lettered(text: str, size: int, instead: str | None = None) -> tuple[str, Font]:
    """The text on one line, and a font of `size` pixels that has all its letters. Where there is no such font the text
    without its accents, then `instead`, by default the text with the code point of each letter that is missing.
    """
    text = " ".join(text.split())
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    for way in (text, bare):
        for found in _fonts(size):
            if all(_has(found, letter) for letter in way):
                return way, found
    if instead is not None:
        return instead, font(size)
    return "".join(c if _has(font(size), c) else f"U+{ord(c):04X}" for c in text), font(size)


def can_letter(text: str, size: int) -> bool:
    """Whether a font has the text's letters, accents aside."""
    return lettered(text, size, "")[0] != "" or not text.split()


def fitted(text: str, width: int, of: Font) -> str:
    """The text cut so that it is no wider than `width` pixels."""
    if of.getlength(text) <= width:
        return text
    while text and of.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    """The fonts there are, Pillow's own, which has the letters of ASCII, at the end."""
    from PIL import ImageFont

    found: list[Font] = []
    for name in (os.environ.get("CALOTYPE_FONT", ""), *FONTS):
        with suppress(OSError):
            found += [ImageFont.truetype(name, size)] if name else []
    return *found, ImageFont.load_default(size)


@cache
def _has(of: Font, letter: str) -> bool:
    """Whether a font has a letter: whether it draws it otherwise than one that can't exist."""
    return letter.isspace() or _drawn(of, letter) != _drawn(of, NOWHERE)


def _drawn(of: Font, letter: str) -> tuple[object, ...]:
    mask = of.getmask(letter)
    return (mask.size, bytes(mask), of.getbbox(letter), of.getlength(letter))
