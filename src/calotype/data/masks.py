"""Masks in files: the class of every pixel as a number.

PNG, BMP or TIFF with a palette or grey levels, of up to 16 bits, hold the numbers themselves: they are read as stored
and never as colours. Files of colours need a table of what each means. JPEG holds no numbers: what it changes can't be
seen, but it is another class. Unusual: grey levels of 2 or 4 bits, which Pillow stretches to 0..255, are taken back.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors

from calotype.data.images import MAX_PIXELS
from calotype.errors import ConfigError, DataError
from calotype.palette import palette
from calotype.types import VOID

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]

__all__ = ["VOID", "Colours", "Meaning", "decode", "encode", "palette", "sbd"]

FORMATS = ("PNG", "BMP", "TIFF")
NUMBERS = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes whose values are the numbers."""

MOST_CLASSES = 255
STORED = 1 << 16
"""Numbers that a file can hold."""

PACKED = {"1": 1, "L": 8}
"""Bits of a pixel in a BMP that Pillow's modes are right for; others it takes for these by the palette's colours."""

Colours = Mapping[tuple[int, int, int], int]


@dataclass(frozen=True, eq=False)
class Meaning:
    """What stored numbers mean: `table` (65536,) int16 has the class of each, VOID, or -1 for a number that means
    nothing; `refusal` says in words which do.
    """

    table: npt.NDArray[np.int16]
    refusal: str

    @classmethod
    def counted(cls, classes: int, ignore: Collection[int] = (VOID,), first: int = 0) -> Meaning:
        """Classes by their numbers from `first` on; those in `ignore` mean void. Raises ConfigError for one that is a
        class's.
        """
        if taken := sorted({*ignore} & {*range(first, first + classes)}):
            raise ConfigError(
                f"{taken[0]} is the number of a class as well; set the number that void has", key="data.ignore"
            )
        table = np.full(STORED, -1, np.int16)
        table[first : first + classes] = np.arange(classes)
        table[[*ignore]] = VOID
        void = f" and not {', '.join(map(str, sorted(ignore)))} (void)" if ignore else ""
        return cls(table, f"outside {first}..{first + classes - 1}{void}")

    @classmethod
    def named(cls, ids: Mapping[int, int], unnamed: int = -1) -> Meaning:
        """The numbers that `ids` names; any other means `unnamed`."""
        table = np.full(STORED, unnamed, np.int16)
        table[[*ids]] = [*ids.values()]
        return cls(table, "which data.ids does not name; name it there, or set data.unnamed=void")

    def of(self, stored: Ids) -> Ids:
        """The classes of stored numbers. Raises DataError with those that mean nothing."""
        found = self.table[stored]
        if (found < 0).any():
            wrong = np.unique(stored[found < 0]).tolist()
            raise DataError(f"holds {', '.join(map(str, wrong[:5]))}{', ...' * (len(wrong) > 5)}, {self.refusal}")
        return found.astype(np.int64)


def decode(
    content: bytes,
    colours: Colours | None = None,
    unnamed: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tv_tensors.Mask:
    """The mask in a file's bytes, int64 (H, W); `colours` gives the class of each (r, g, b) where it is one of colours,
    `unnamed` that of all others.

    Raises DataError with the reason for what is no such file, is damaged, or has a colour that means nothing.
    """
    if content.startswith(b"\xff\xd8\xff"):
        raise DataError("is a JPEG, which changes the numbers of a mask; save it as PNG")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"has {image.width}x{image.height} pixels, more than max_pixels={max_pixels}")
            image.load()
            ids = _numbers(image, _bits(image, content)) if colours is None else _meant(image, colours, unnamed)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"is no PNG, BMP or TIFF, or is damaged: it begins with {content[:8]!r}") from error
    except Exception as error:
        # Pillow's parsers raise what a damaged file makes them stumble over: OSError, SyntaxError, struct.error...
        raise DataError(f"is damaged: {error or type(error).__name__}") from error
    return tv_tensors.Mask(torch.from_numpy(ids))


def sbd(content: bytes) -> tv_tensors.Mask:
    """The mask in a .mat file of the Semantic Boundaries Dataset, int64 (H, W). Raises DataError for another file."""
    from scipy.io import loadmat

    try:
        stored = loadmat(io.BytesIO(content))["GTcls"]["Segmentation"][0, 0]
        if stored.ndim != 2 or stored.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"GTcls.Segmentation is {stored.dtype} of {stored.shape}")
        ids = stored.astype(np.int64)
    except Exception as error:
        # scipy's parser raises what a damaged file makes it stumble over
        raise DataError(f"is no mask of SBD: {error or type(error).__name__}") from error
    return tv_tensors.Mask(torch.from_numpy(ids))


def encode(mask: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """A PNG that holds these numbers, (H, W): bytes with the palette of PASCAL VOC, 16 bits as grey levels."""
    image, file = Image.fromarray(mask), io.BytesIO()
    if mask.dtype == np.uint8:
        image.putpalette(palette().tobytes())
    image.save(file, "PNG")
    return file.getvalue()


def _bits(image: Any, content: bytes) -> int:
    """Bits of a grey level in the file: 8 where it is no such file of fewer."""
    if image.format == "PNG":
        return content[24] if image.mode == "L" else 8
    if image.format == "BMP":
        return int.from_bytes(content[28:30], "little")
    stored = getattr(image, "tag_v2", {}).get(258, (8,)) if image.mode == "L" else (8,)
    return int(stored[0] if isinstance(stored, tuple) else stored)


def _numbers(image: Image.Image, bits: int) -> Ids:
    if image.format == "BMP" and image.mode in PACKED and bits != PACKED[image.mode]:
        raise DataError(f"is a BMP whose {bits} bits a pixel can't be told from colours; save it as PNG")
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0:
        raise DataError("is a TIFF that stores white as 0, so its numbers are turned round; save it as PNG")
    if image.mode not in NUMBERS:
        raise DataError(
            f"holds colours or 32-bit values (mode {image.mode}), not the numbers of classes; save it with a palette "
            "or as grey levels, or give the class of each colour by data.colours"
        )
    ids = np.asarray(image).astype(np.int64)
    return ids // (255 // (2**bits - 1)) if bits in (2, 4) and image.mode == "L" else ids


def _meant(image: Image.Image, colours: Colours, unnamed: int | None) -> Ids:
    pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    table = {red << 16 | green << 8 | blue: number for (red, green, blue), number in colours.items()}
    values, places = np.unique(codes, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in table]
    if unknown and unnamed is None:
        named = ", ".join(str((code >> 16, code >> 8 & 255, code & 255)) for code in unknown[:5])
        raise DataError(f"holds the colour {named}, which data.colours does not name")
    return np.array([table.get(int(value), unnamed) for value in values], np.int64)[places].reshape(codes.shape)
