"""Folders of tiny images with boxes, in each layout, written by hand as tools write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calotype.types import Source

SIZE = (30, 40)
"""Height and width of an image."""


def picture(path: Path, number: int, size: tuple[int, int] = SIZE, **options: Any) -> Path:
    """An image that is another for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def turned() -> bytes:
    """EXIF of a picture that is to be turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def voc_object(name: str, box: Sequence[Any], more: str = "") -> str:
    ends = "".join(f"<{end}>{value}</{end}>" for end, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{ends}</bndbox></object>"


def voc(root: Path, lists: Mapping[str, Mapping[str, str]]) -> Path:
    """VOC's layout: for each list its images' names with the XML of their objects."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, images in lists.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
        for name, objects in images.items():
            picture(root / "JPEGImages" / f"{name}.jpg", sum(map(ord, name)))
            size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
            text = f"<annotation><filename>other.png</filename>{size}{objects}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


def sample(source: Source, stem: str) -> dict[str, Any]:
    """The sample whose file has this name."""
    return source[[Path(source.name(position)).stem for position in range(len(source))].index(stem)]


def truth(source: Source) -> dict[str, list[list[float]]]:
    """Of each image by its file's name, without suffix: corners, class, flags and area of its boxes, sorted."""
    found = {Path(source.name(position)).stem: source[position]["truth"] for position in range(len(source))}
    return {name: sorted([round(value, 6) for value in row] for row in rows.tolist()) for name, rows in found.items()}
