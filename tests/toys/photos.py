"""A folder of small photos, a class a folder, in several formats: what a user's own images look like."""

from __future__ import annotations

import os
from pathlib import Path

from tests.toys.broken import BROKEN, encoded, photo

KINDS = (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("BMP", ".BMP"), ("TIFF", ".tif"), ("JPEG", ".JPEG"))


def draw(root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("ant", "bee", "cat"), number: int = 0) -> Path:
    """Write so many photos of each class into `root`/<split>/<class>, from photo `number` on; a split "" is the root
    itself.
    """
    for split, count in splits.items():
        for label in classes:
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for place in range(count):
                kind, suffix = KINDS[number % len(KINDS)]
                size = (24 + 4 * (number % 3), 20 + 4 * (number % 4))
                (folder / f"{place:03d}{suffix}").write_bytes(encoded(photo(number, size), kind))
                number += 1
    return root


def settle(root: Path) -> None:
    """Make every folder look old enough for its modification time to be trusted."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1_000_000_000, 1_000_000_000))


def spoil(root: Path) -> dict[str, str]:
    """Put a broken image of each kind among the training photos; the reason to expect by name."""
    expected = {}
    for number, (kind, make) in enumerate(sorted(BROKEN.items())):
        content, reason = make()
        name = f"train/{('ant', 'bee', 'cat')[number % 3]}/{kind}.png"
        (root / name).write_bytes(content)
        expected[name] = reason
    return expected
