"""Images with a mask each, in files: a split of pairs, for every layout in which a mask has its image's name.

What a mask holds is checked as it is read: that it means classes or void, and the image's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors

from calotype.data import images, masks
from calotype.data.index import FileIndex, Packer, Paths, file_id
from calotype.data.source import Decoding
from calotype.errors import DataError

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample


@dataclass(frozen=True, slots=True)
class Beside:
    """Where masks lie: below `masks` as their images below `images`, with the first of `suffixes` that there is; "" is
    the data set's root.
    """

    images: str
    masks: str
    suffixes: tuple[str, ...] = (".png",)

    def of(self, root: Path, name: str) -> Path:
        """The mask of the image `name` below a root; with the first suffix where there is none."""
        inside = name.removeprefix(f"{self.images}/") if self.images else name
        stem = root / self.masks / inside.rpartition(".")[0]
        found = [stem.with_name(stem.name + suffix) for suffix in self.suffixes]
        return found[0] if len(found) == 1 else next((path for path in found if path.is_file()), found[0])


@dataclass(frozen=True, slots=True)
class MaskDecoding:
    """How files become masks: what their numbers mean, or their `colours` and the `unnamed` ones, as `masks.decode`
    takes them.
    """

    meaning: masks.Meaning
    colours: masks.Colours | None = None
    unnamed: int | None = None
    max_pixels: int = images.MAX_PIXELS

    def read(self, path: Path) -> tv_tensors.Mask:
        """The mask in a file, int64 (H, W) of classes and 255 for void. Raises DataError with the reason alone."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
        if path.suffix == ".mat":
            stored = masks.sbd(content)
        else:
            stored = masks.decode(content, self.colours, self.unnamed, self.max_pixels)
        return stored if self.colours else tv_tensors.Mask(torch.from_numpy(self.meaning.of(stored.numpy())))


class MaskedSource:
    """The images `rows` of an index (None: all) with their masks, as a split. Ids are those of the index."""

    containers: Mapping[Path, str] = {}

    def __init__(
        self, index: FileIndex, beside: Beside, image: Decoding, mask: MaskDecoding, rows: IntArray | None = None
    ) -> None:
        self.index, self.beside, self.image, self.mask = index, beside, image, mask
        self.rows = np.arange(len(index)) if rows is None else rows
        self.ids: IntArray = index.ids[self.rows]

    @property
    def files(self) -> Sequence[Path]:
        """The images in the order of ids, then their masks."""
        positions = range(len(self))
        return [*Paths(self.index, self.rows), *map(self.mask_path, positions)]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """The image's path below the data set's root."""
        return self.index.name(int(self.rows[position]))

    def path(self, position: int) -> Path:
        """The image's path."""
        return self.index.path(int(self.rows[position]))

    def sample(self, position: int) -> str:
        """What a list calls the sample: its path below the folder of images, without suffix."""
        return self.index.name(position).removeprefix(f"{self.beside.images}/").rpartition(".")[0]

    def mask_path(self, position: int) -> Path:
        """The mask's path."""
        return self.beside.of(self.index.root, self.name(position))

    def problem(self, position: int) -> str | None:
        """Why a sample can't be read, without its image's name, a mask's below the root; None for one that can."""
        try:
            self._read(position)
        except DataError as error:
            return error.message
        return None

    def __getitem__(self, position: int) -> Sample:
        """The image, its mask and the image's bytes. Raises DataError naming a file that can't be read or decoded, or
        whose mask doesn't fit.
        """
        try:
            return self._read(position)
        except DataError as error:
            raise DataError(
                f"{self.path(position)}: {error.message}; mend or remove it, or set data.on_error=skip"
            ) from error

    def _read(self, position: int) -> dict[str, Any]:
        how = self.image
        try:
            content = self.path(position).read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
        image = images.decode(content, how.mode, how.background, how.max_pixels)
        path = self.mask_path(position)
        told = f"its mask {path.relative_to(self.index.root)}"
        try:
            mask = self.mask.read(path)
        except DataError as error:
            raise DataError(f"{told} {error.message}") from error
        if mask.shape != image.shape[-2:]:
            sizes = [f"{width}x{height}" for height, width in (mask.shape, image.shape[-2:])]
            raise DataError(f"{told} has {sizes[0]} pixels, the image {sizes[1]}")
        return {"image": image, "mask": mask, "content": content}


def listed(root: Path, names: Sequence[str]) -> FileIndex:
    """The index of files by their paths below a root."""
    packer = Packer()
    for name in names:
        packer.add(name.encode())
    return packer.index(root, ())


class Joined:
    """Sources one after another, by ascending ids over the names of their samples without folder and suffix; one that
    several sources have counts once, as the first has it.
    """

    containers: Mapping[Path, str] = {}

    def __init__(self, sources: Sequence[MaskedSource]) -> None:
        self.sources = tuple(sources)
        places: dict[int, tuple[int, int]] = {}
        for number, source in enumerate(self.sources):
            for position in range(len(source)):
                places.setdefault(sample_id(source.sample(position)), (number, position))
        self.ids = np.array(sorted(places), np.int64)
        self.places = np.array([places[int(found)] for found in self.ids], np.int64).reshape(-1, 2)

    @property
    def files(self) -> Sequence[Path]:
        """Those of all sources."""
        return [path for source in self.sources for path in source.files]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """The sample's name in its source."""
        source, place = self._at(position)
        return source.name(place)

    def problem(self, position: int) -> str | None:
        """Its source's."""
        source, place = self._at(position)
        return source.problem(place)

    def __getitem__(self, position: int) -> Sample:
        source, place = self._at(position)
        return source[place]

    def _at(self, position: int) -> tuple[MaskedSource, int]:
        number, place = self.places[position].tolist()
        return self.sources[number], place


def sample_id(name: str) -> int:
    """The id of a sample by its name in a list: its file's, below the folder of images and without suffix."""
    return file_id(name.encode())


def names_in(path: Path) -> list[str]:
    """The names in a list of images. Raises DataError for one that can't be read, is empty, or names an image twice."""
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        others = sorted(file.stem for file in path.parent.glob("*.txt"))
        known = f"; there are {', '.join(others)}" if others else ""
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}){known}") from error
    if not names:
        raise DataError(f"{path} names no image")
    doubled = len(names) - len(set(names))
    if doubled:
        raise DataError(f"{path} names {doubled} images more than once")
    return names
