"""Figures of a split against those computed the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calotype.analysis import looks, measures


def rows(images: list[torch.Tensor]) -> np.ndarray:
    found = np.zeros(len(images), looks.stats_row(0))
    for image, row in zip(images, found, strict=True):
        looks.stats({"image": image, "label": 0}, row)
    return found


def images(count: int, channels: int = 3, seed: int = 0) -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (channels, 5 + n % 4, 7 + n % 3), dtype=torch.uint8, generator=drawn)
        for n in range(count)
    ]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mean_and_deviation_are_over_all_pixels(channels: int) -> None:
    given = images(2050, channels)
    found = measures.levels(rows(given))
    pixels = torch.cat([image.flatten(1) for image in given], dim=1).double() / 255
    assert found is not None
    assert found["mean"] == pytest.approx(pixels.mean(1).tolist(), rel=1e-12)
    assert found["std"] == pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-12)


def test_their_order_changes_no_bit() -> None:
    given = rows(images(50))
    assert measures.levels(given) == measures.levels(given[::-1])


def test_totals_that_64_bits_do_not_hold() -> None:
    found = measures.levels(np.repeat(rows([torch.full((1, 4, 4), 255, dtype=torch.uint8)]), 3))
    assert found == {"mean": [1.0], "std": [0.0]}
    assert measures._total(np.full((3000, 1), 2**53, np.uint64)) == [3000 * 2**53]


def test_images_that_differ_in_channels_have_no_mean() -> None:
    assert measures.levels(rows([*images(2, 1), *images(2, 3)])) is None
    assert measures.levels(rows(images(2, 5))) is None


def test_sizes_and_channels() -> None:
    given = rows([torch.zeros(c, h, w, dtype=torch.uint8) for c, h, w in [(1, 4, 6), (3, 8, 6), (3, 8, 6), (3, 2, 60)]])
    found = measures.sizes(given)
    assert found["width"] == {"min": 6, "median": 6.0, "max": 60}
    assert found["height"] == {"min": 2, "median": 6.0, "max": 8}
    assert found["commonest"] == {"width": 6, "height": 8, "share": 0.5}
    assert measures.channels(given) == {"1": 1, "3": 3}
