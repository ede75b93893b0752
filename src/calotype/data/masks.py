"""Masks in files: the class of every pixel as a number.

PNG, BMP or TIFF with a palette or grey levels, of up to 16 bits, hold the numbers themselves: they are read as stored
and never as colours. Files of colours need a table of what each means. JPEG holds no numbers: what it changes can't be
seen, but it is another class.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from calotype.data.images import MAX_PIXELS
from calotype.errors import DataError
from calotype.palette import palette

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]

FORMATS = ("PNG", "BMP", "TIFF")
NUMBERS = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes whose values are the numbers."""

Colours = Mapping[tuple[int, int, int], int]


def decode(content: bytes, colours: Colours | None = None, max_pixels: int = MAX_PIXELS) -> tv_tensors.Mask:
    """The mask in a file's bytes, int64 (H, W); `colours` gives the class of each (r, g, b) where it is one of colours.

    Raises DataError with the reason for what is no such file, is damaged, or has a colour that is not in the table.
    """
    if content.startswith(b"\xff\xd8\xff"):
        raise DataError("a JPEG changes the numbers of a mask; save it as PNG")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{image.width}x{image.height} pixels are more than max_pixels={max_pixels}")
            image.load()
            ids = _numbers(image) if colours is None else _meant(image, colours)
    except DataError:
        raise
    except Exception as error:
        # Pillow's parsers raise what a damaged file makes them stumble over: OSError, SyntaxError, struct.error...
        raise DataError(f"damaged mask, or no PNG, BMP or TIFF: {error or type(error).__name__}") from error
    return tv_tensors.Mask(torch.from_numpy(ids))


def sbd(content: bytes) -> tv_tensors.Mask:
    """The mask in a .mat file of the Semantic Boundaries Dataset, int64 (H, W). Raises DataError for another file."""
    from scipy.io import loadmat

    try:
        ids = loadmat(io.BytesIO(content))["GTcls"]["Segmentation"][0, 0].astype(np.int64)
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


def _numbers(image: Image.Image) -> Ids:
    if image.mode not in NUMBERS:
        raise DataError(
            f"holds colours or 32-bit values (mode {image.mode}), not the numbers of classes; save it with a palette "
            "or as grey levels, or give the class of each colour by data.colours"
        )
    return np.asarray(image).astype(np.int64)


def _meant(image: Image.Image, colours: Colours) -> Ids:
    pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    table = {red << 16 | green << 8 | blue: number for (red, green, blue), number in colours.items()}
    values, places = np.unique(codes, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in table]
    if unknown:
        named = ", ".join(str((code >> 16, code >> 8 & 255, code & 255)) for code in unknown[:5])
        raise DataError(f"{named} is no class's colour; data.colours has {len(colours)}")
    return np.array([table[int(value)] for value in values], np.int64)[places].reshape(codes.shape)
