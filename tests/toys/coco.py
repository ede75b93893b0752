"""A folder in COCO's layout: a few photos, three categories whose ids have gaps, boxes as they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from calotype.data.coco import Coco
from tests.toys.broken import encoded, photo

CATEGORIES = [{"id": 3, "name": "ant"}, {"id": 90, "name": "bee"}, {"id": 17, "name": "cat"}]
SIZE = (40, 30)


def box(number: int, image: int, bbox: Any = (4, 5, 10, 20), category: int = 3, **more: Any) -> dict[str, Any]:
    """An annotation."""
    about = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 150.5, "iscrowd": 0}
    return about | {"segmentation": [[4, 5, 14, 5, 14, 25, 4, 25]]} | more


def image(number: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    """An image's entry."""
    return {"id": number, "file_name": name or f"{number:012d}.jpg", "width": SIZE[0], "height": SIZE[1]} | more


def told(images: list[Any], annotations: list[Any], categories: list[Any] = CATEGORIES) -> dict[str, Any]:
    """A file of annotations."""
    return {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}


def split(numbers: range) -> dict[str, Any]:
    """Two boxes an image, of the classes in turn; none in every fourth image."""
    boxes = [
        box(10 * number + place, number, [2 + place, 3, 8 + place, 9.5], CATEGORIES[(number + place) % 3]["id"])
        for number in numbers
        for place in range(2)
        if number % 4
    ]
    return told([image(number) for number in numbers], boxes)


def photos(folder: Path, content: Any) -> None:
    """Write the photos that annotations name."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in content["images"]:
        (folder / entry["file_name"]).write_bytes(encoded(photo(entry["id"], SIZE), "JPEG", quality=95))


def write(root: Path, splits: dict[str, Any] | None = None) -> Path:
    """`train2017` and so on, with annotations/instances_train2017.json; by default train, val and test."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    default = {"train": split(range(1, 13)), "val": split(range(21, 27)), "test": split(range(31, 34))}
    for name, content in (default if splits is None else splits).items():
        photos(root / f"{name}2017", content)
        save(root, name, content)
    return root


def save(root: Path, name: str, content: Any) -> Path:
    """Write a split's annotations."""
    file = root / "annotations" / f"instances_{name}2017.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def one(tmp_path: Path, boxes: list[Any], images: list[Any] | None = None, **options: Any) -> Coco:
    """A data set of one split, of the images 1 and 2 by default."""
    content = told([image(1), image(2)] if images is None else images, boxes)
    write(tmp_path, {"train": content})
    return Coco(tmp_path, **options)


def settled(root: Path) -> Path:
    """Make the annotations look old enough for their modification times to be trusted."""
    for file in (root / "annotations").iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))
    return root
