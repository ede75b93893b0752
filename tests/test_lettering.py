"""Words in pictures: which font writes them, and what stands where none can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from calotype import lettering
from calotype.lettering import can_letter, fitted, font, lettered

PILLOWS = ImageFont.load_default(12)


@pytest.fixture
def only_pillows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without fonts."""
    monkeypatch.setattr(lettering, "FONTS", ())
    lettering._fonts.cache_clear()
    yield
    lettering._fonts.cache_clear()


@pytest.mark.usefixtures("only_pillows")
@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("two\n words", "two words"),
        ("dög", "dog"),
        ("犬", "U+72AC"),
        ("a 犬", "a U+72AC"),
        ("", ""),
    ],
)
def test_what_pillows_own_font_lacks_is_written_otherwise(text: str, written: str) -> None:
    assert lettered(text, 12)[0] == written
    assert lettered(text, 12, "class 3")[0] == ("class 3" if "U+" in written else written)
    assert can_letter(text, 12) == ("U+" not in written)


def test_the_first_font_that_has_all_letters_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ImageFont.load_default(12)
    monkeypatch.setattr(lettering, "_fonts", lambda size: (PILLOWS, other))
    monkeypatch.setattr(lettering, "_has", lambda of, letter: letter < "a" or of is other)
    assert lettered("AB", 12)[1] is PILLOWS
    assert lettered("Ab", 12)[1] is other


def test_no_word_is_drawn_as_boxes() -> None:
    """The pixels of whatever is written are none of a font's box for a letter that it lacks."""
    for text in ("cat", "кот", "犬", "قط", "แมว", "🐱"):
        words, of = lettered(text, 12, "class 3")
        shapes = [bytes(of.getmask(letter)) for letter in words if not letter.isspace()]
        assert bytes(of.getmask(lettering.NOWHERE)) not in shapes, text


def test_a_font_of_the_user_s_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def truetype(name: Any, size: int, **_: Any) -> Any:
        opened.extend([name] if isinstance(name, str) else [])
        return PILLOWS

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    monkeypatch.setenv("CALOTYPE_FONT", str(tmp_path / "mine.ttf"))
    lettering._fonts.cache_clear()
    lettering._fonts(12)
    lettering._fonts.cache_clear()
    assert opened == [str(tmp_path / "mine.ttf"), *lettering.FONTS]


def test_words_are_cut_to_their_width() -> None:
    assert fitted("word", 99, PILLOWS) == "word"
    cut = fitted("a very long name", 50, PILLOWS)
    assert cut.endswith("...") and PILLOWS.getlength(cut) <= 50
    sheet = Image.new("L", (60, 20))
    ImageDraw.Draw(sheet).text((0, 0), cut, 255, font(12))
    assert np.asarray(sheet).any()
