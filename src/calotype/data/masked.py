"""Images with a mask each, in files: a split of pairs, and the plain layout `images` + `masks` for anybody's data.

A mask has its image's name with another suffix, in another folder. What it holds is checked as it is read: the classes,
255 for void, and the image's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torchvision import tv_tensors

from calotype.data import images, masks
from calotype.data.index import FileIndex, Packer, file_id
from calotype.data.source import Decoding
from calotype.errors import DataError

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample

VOID = 255


@dataclass(frozen=True, slots=True)
class Beside:
    """Where masks lie: below `masks` as their images below `images`, with `suffix`; "" is the data set's root."""

    images: str
    masks: str
    suffix: str = ".png"

    def of(self, name: str) -> str:
        """The path of an image's mask below the root."""
        inside = name.removeprefix(f"{self.images}/") if self.images else name
        return f"{self.masks}/{inside.rpartition('.')[0]}{self.suffix}".removeprefix("/")


@dataclass(frozen=True, slots=True)
class MaskDecoding:
    """How files become masks of `classes` classes: `colours` as `masks.decode` takes them."""

    classes: int
    colours: Mapping[tuple[int, int, int], int] | None = None
    max_pixels: int = images.MAX_PIXELS

    def read(self, path: Path) -> tv_tensors.Mask:
        """The mask in a file. Raises DataError with the reason alone."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
        mask = masks.sbd(content) if path.suffix == ".mat" else masks.decode(content, self.colours, self.max_pixels)
        wrong = sorted({*np.unique(mask.numpy()).tolist()} - {*range(self.classes), VOID})
        if wrong:
            told = ", ".join(map(str, wrong[:5]))
            raise DataError(f"holds {told}, outside 0..{self.classes - 1} and not {VOID} (void)")
        return mask


class MaskedSource:
    """The images of an index with their masks, as a split. Ids are those of the index."""

    containers: Mapping[Path, str] = {}

    def __init__(self, index: FileIndex, beside: Beside, image: Decoding, mask: MaskDecoding) -> None:
        self.index, self.beside, self.image, self.mask = index, beside, image, mask
        self.ids: IntArray = index.ids

    @property
    def files(self) -> Sequence[Path]:
        """The images in the order of ids, then their masks."""
        rows = range(len(self))
        return [*(self.index.path(row) for row in rows), *(self.mask_path(row) for row in rows)]

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """The image's path below the data set's root."""
        return self.index.name(position)

    def mask_path(self, position: int) -> Path:
        """The mask's path."""
        return self.index.root / self.beside.of(self.index.name(position))

    def problem(self, position: int) -> str | None:
        """Why a sample can't be read, without its image's name; None for one that can."""
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
                f"{self.index.path(position)}: {error.message}; mend or remove it, or set data.on_error=skip"
            ) from error

    def _read(self, position: int) -> dict[str, Any]:
        how = self.image
        try:
            content = self.index.path(position).read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
        image = images.decode(content, how.mode, how.background, how.max_pixels)
        path = self.mask_path(position)
        try:
            mask = self.mask.read(path)
        except DataError as error:
            raise DataError(f"its mask {path} {error.message}") from error
        if mask.shape != image.shape[-2:]:
            sizes = [f"{width}x{height}" for height, width in (mask.shape, image.shape[-2:])]
            raise DataError(f"its mask {path} has {sizes[0]} pixels, the image {sizes[1]}")
        return {"image": image, "mask": mask, "content": content}


def listed(root: Path, names: Sequence[str]) -> FileIndex:
    """The index of files by their paths below a root."""
    packer = Packer()
    for name in names:
        packer.add(name.encode())
    return packer.index(root, ())


class Joined:
    """Sources one after another, by ascending ids over the names of their samples alone; a sample counts once."""

    containers: Mapping[Path, str] = {}

    def __init__(self, sources: Sequence[MaskedSource]) -> None:
        self.sources = tuple(sources)
        places: dict[int, tuple[int, int]] = {}
        for number, source in enumerate(self.sources):
            for position in range(len(source)):
                places.setdefault(sample_id(source.name(position)), (number, position))
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
    """The id of a sample by its file's name, without folders and suffix."""
    return file_id(Path(name).stem.encode())
