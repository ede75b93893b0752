"""A picture with its mask over it shows both, and where classes meet."""

from __future__ import annotations

import numpy as np

from calotype.palette import VOID, highlighted, palette


def test_class_0_is_left_and_the_others_are_tinted() -> None:
    pixels = np.full((6, 8, 3), 100, np.uint8)
    mask = np.zeros((6, 8), np.int64)
    mask[:, 3:] = 1
    mask[:, 7] = VOID
    found = highlighted(pixels, mask)
    assert (found[:, :3] == 100).all()
    assert (found[:, 3] == 255).all(), "a line where they meet"
    assert found[0, 5].tolist() == np.round(0.4 * 100 + 0.6 * palette()[1]).tolist()
    assert found[0, 7].tolist() == np.round(0.4 * 100 + 0.6 * palette()[VOID]).tolist()
    assert np.array_equal(highlighted(pixels[..., :1], mask), found)
    assert (highlighted(pixels, mask, lines=2)[:, 3:5] == 255).all()
    assert np.array_equal(highlighted(pixels, np.zeros_like(mask)), pixels)
