"""Decodes an image file's bytes to the one form that everything downstream expects: uint8, (C, H, W), RGB or grey.

What a file is, its first bytes say, not its name. Sizes are read from the header and checked before any pixel is
unpacked, so a file of a few kilobytes can't claim the memory of the machine. Of several frames the first is taken.

Unusual: JPEG goes through libjpeg-turbo with its warnings as errors, so a file that was cut is an error even where
others give a picture that is grey from the cut on; warnings that cost no pixel are not.
PNG goes through Pillow: torchvision's decoder, which is going away, ends the process at a wrong checksum.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import tv_tensors

from calotype.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels: TypeAlias = npt.NDArray[np.uint8]

Mode: TypeAlias = Literal["RGB", "L"]
Background: TypeAlias = int | Sequence[int]

MAX_PIXELS = 100_000_000
"""Width times height above which an image is refused; a photo of 100 megapixels is 300 MB as RGB. If it is more,
Pillow still refuses 179 million in any format but JPEG.
"""

HEADER = (1 << 13, 1 << 17, -1)
"""Bytes that are read one after another until a JPEG's header is in them."""
FORMATS = ("PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG")
_BEGINNING = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|II\*\0|MM\0\*", re.DOTALL)
ORIENTATION = 0x0112
LOSSES = ("remature end", "bad Huffman code", "bad arithmetic code", "instead of RST")
"""What libjpeg warns of, by its words, when pixels are missing or made up; its other warnings cost none."""


def decode(
    content: bytes | torch.Tensor, mode: Mode = "RGB", background: Background = 0, max_pixels: int = MAX_PIXELS
) -> tv_tensors.Image:
    """The image in a file's bytes, uint8 (3, H, W) for `mode` RGB, (1, H, W) for L, turned as its EXIF says.

    JPEG, PNG, WebP, BMP, TIFF and GIF. Transparent pixels are laid over `background`, a grey level or (r, g, b); of 16
    bits the upper 8 are kept; grey is the luma of ITU-R BT.601. Raises DataError with the reason for what is no image,
    is cut short, has more than `max_pixels`, or holds 32-bit values, which have no agreed range.
    """
    data = content if isinstance(content, bytes) else content.numpy().tobytes()
    if not data:
        raise DataError("the file is empty")
    pixels = _jpeg(data, mode, max_pixels) if data.startswith(b"\xff\xd8\xff") else None
    if pixels is None:
        pixels = torch.from_numpy(_by_pillow(data, mode, background, max_pixels)).permute(2, 0, 1)
    return tv_tensors.Image(pixels)


def problem(content: bytes, mode: Mode = "RGB", max_pixels: int = MAX_PIXELS) -> str | None:
    """Why a file's bytes can't be decoded; None for an image that can."""
    try:
        decode(content, mode, max_pixels=max_pixels)
    except DataError as error:
        return error.message
    return None


def size_of(path: Path) -> tuple[int, int] | None:
    """Height and width of the image in a file, as `decode` would turn it, read from its header; None where that can't
    be read.
    """
    try:
        with path.open("rb") as file:
            if (found := _jpeg_size(file)) is not None:
                return found
            file.seek(0)
            with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                # of a TIFF Pillow tells the size as it is turned, which `load` does
                turned = image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) in range(5, 9)
                return (width, height) if turned else (height, width)
    except Exception:  # noqa: BLE001 - its parsers raise whatever a damaged file makes them stumble over
        return None


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """The same of a JPEG; None for what is none, or has no header that its decoder knows."""
    data = b""
    for more in HEADER:
        data += file.read(more)
        if not data.startswith(b"\xff\xd8\xff"):
            return None
        with suppress(ValueError, KeyError):  # as in `_jpeg`
            height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            return (width, height) if _jpeg_orientation(data) >= 5 else (height, width)
    return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DataError(f"{width}x{height} pixels are more than max_pixels={max_pixels}")


def _jpeg(data: bytes, mode: Mode, max_pixels: int) -> torch.Tensor | None:
    """A JPEG's pixels (C, H, W); None for the rare kinds that Pillow knows better: CMYK, odd subsampling."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a KeyError where the file ends before it says its colours
        return None
    _check_size(width, height, max_pixels)
    if colours in {"CMYK", "YCCK"}:
        return None
    pixels = _whole_jpeg(data, "GRAY" if mode == "L" else "RGB")
    return _turned(torch.from_numpy(pixels).permute(2, 0, 1), _jpeg_orientation(data))


def _whole_jpeg(data: bytes, colours: str) -> Pixels:
    try:
        return simplejpeg.decode_jpeg(data, colours)  # type: ignore[no-any-return]
    except ValueError as error:
        if any(words in str(error) for words in LOSSES):
            raise DataError(f"damaged JPEG: {error}") from error
    try:
        return simplejpeg.decode_jpeg(data, colours, strict=False)  # type: ignore[no-any-return]
    except ValueError as error:
        raise DataError(f"damaged JPEG: {error}") from error


def _jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation 1..8 of a JPEG; 1 where it has none."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and 0xE0 <= data[place + 1] <= 0xEF:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return _exif_orientation(data[place + 10 : place + 2 + length])
        place += 2 + length
    return 1


def _exif_orientation(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF block, a TIFF file without pixels; 1 where it is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, first)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, first + 2 + 12 * entry)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _turned(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """The image (C, H, W) as its EXIF orientation means it to be seen."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image.flip(flips) if flips else image


def _by_pillow(data: bytes, mode: Mode, background: Background, max_pixels: int) -> Pixels:
    """Pixels (H, W, C) of any format but an ordinary JPEG."""
    try:
        # Pillow warns of metadata it can't read and of large images; the first cost no pixel, the second are refused.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _eight_bits(image, mode, background)
    except DataError:
        raise
    except UnidentifiedImageError:
        if _BEGINNING.match(data):
            raise DataError("damaged image: nothing can be read after its first bytes") from None
        raise DataError(f"no JPEG, PNG, WebP, BMP, TIFF or GIF image: it begins with {data[:8]!r}") from None
    except Image.DecompressionBombError as error:
        told = f"more pixels than max_pixels={max_pixels}: " if max_pixels <= 2 * (Image.MAX_IMAGE_PIXELS or 0) else ""
        raise DataError(f"{told}{error}") from error
    except Exception as error:
        # Its parsers raise what a damaged file makes them stumble over: OSError, SyntaxError, struct.error, KeyError...
        raise DataError(f"damaged image: {error or type(error).__name__}") from error


def _eight_bits(image: Any, mode: Mode, background: Background) -> Pixels:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)[..., None]
        return np.repeat(grey, 1 if mode == "L" else 3, axis=2)
    if image.mode in {"I", "F"}:
        raise DataError(f"32-bit values (mode {image.mode}) have no agreed range; convert the image to 8 or 16 bits")
    if image.has_transparency_data:
        level = (background,) * 3 if isinstance(background, int) else tuple(background)
        below = Image.new("RGBA", image.size, (*level, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    pixels = np.array(image.convert(mode))
    return pixels[..., None] if mode == "L" else pixels
