"""Parity data: PNG files on disk in which every pixel is a hash of its place and its image.

No two samples are alike, so a wrong order, a repeated sample or another augmentation shows in the input digest. 41
train images don't divide by any batch size used here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from calotype.errors import DataError

SIZES = {"train": 41, "val": 13, "test": 9}
SIZE = 16
CLASSES = ("disc", "ring", "bar")


def draw(root: Path) -> Path:
    """Write the images of all splits under `root`."""
    for split, count in SIZES.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(pixels(split, index)).save(root / split / f"{index:03d}.png")
    return root


def pixels(split: str, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(16, 16, 3) uint8: noise keyed by the image, with a bright square where its object is."""
    need = SIZE * SIZE * 3
    chunks = [blake2b(f"{split}/{index}/{block}".encode()).digest() for block in range(-(-need // 64))]
    image = np.frombuffer(b"".join(chunks), np.uint8)[:need].reshape(SIZE, SIZE, 3) // 2
    for x0, y0, x1, y1, label in objects(index):
        image = image.copy()
        image[y0:y1, x0:x1, label] = 250
    return image


def objects(index: int) -> list[tuple[int, int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) with their class: none for every fifth image, one or two otherwise."""
    if index % 5 == 4:
        return []
    found = [(1 + index % 7, 2 + index % 5, 6 + index % 7, 8 + index % 5, index % 3)]
    return found if index % 3 else [*found, (9, 9, 14, 15, (index + 1) % 3)]


class Parity:
    """The data set; `target` is "label", "mask" or "boxes"."""

    def __init__(self, root: str, target: str = "label") -> None:
        self.root, self.target = Path(root), target
        self.classes, self.splits = CLASSES, tuple(SIZES)

    def split(self, name: str) -> Split:
        if not (self.root / name).is_dir():
            raise DataError(f"{self.root / name} is no folder of images; draw them first")
        return Split(self, name)


class Split:
    """One split; ids are the numbers in the file names."""

    def __init__(self, data: Parity, name: str) -> None:
        self.data, self.name_ = data, name
        self.files: Sequence[Path] = sorted((data.root / name).glob("*.png"))
        self.ids = np.array([int(file.stem) for file in self.files], np.int64)
        self.containers: Mapping[Path, str] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        return str(self.files[position])

    def __getitem__(self, position: int) -> dict[str, Any]:
        content = self.files[position].read_bytes()
        image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        index = int(self.ids[position])
        sample = {"image": tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1)), "content": content}
        return sample | getattr(self, f"_{self.data.target}")(index)

    def _label(self, index: int) -> dict[str, Any]:
        return {"label": index % 3}

    def _mask(self, index: int) -> dict[str, Any]:
        mask = torch.zeros(SIZE, SIZE, dtype=torch.int64)
        for x0, y0, x1, y1, label in objects(index):
            mask[y0:y1, x0:x1] = label
        mask[:, index % 4] = 255
        return {"mask": tv_tensors.Mask(mask)}

    def _boxes(self, index: int) -> dict[str, Any]:
        found = torch.tensor(objects(index), dtype=torch.float32).reshape(-1, 5)
        boxes = tv_tensors.BoundingBoxes(found[:, :4], format="XYXY", canvas_size=(SIZE, SIZE))
        about = torch.zeros(len(found), 2)
        about[:, 1] = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        truth = torch.cat([found, about], 1).double()
        return {"boxes": boxes, "labels": found[:, 4].long(), "truth": truth}


class Jitter:
    """Colour jitter and a crop of 12 from a padded image, drawn from the global generators of torch and NumPy."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        gain = 0.7 + 0.6 * float(torch.rand(()))
        offset = int(np.random.randint(-20, 20))
        image = (sample["image"].float() * gain + offset).clamp(0, 255).to(torch.uint8)
        return {**sample, "image": tv_tensors.Image(image)}


def mixup(fields: dict[str, Any]) -> dict[str, Any]:
    """Blend each image of a shard with another of it, by a keyed share; the targets stay those of the larger share."""
    share = 0.75 + 0.25 * torch.rand(())
    image = fields["image"]
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    other = image[torch.randperm(len(image))]
    return {**fields, "image": image * share + other * (1 - share)}


def make_mixup() -> Any:
    """The mixup transform, as a target of a config."""
    return mixup
