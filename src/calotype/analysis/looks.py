"""What can be told of one sample: the file it is in, its pixels, its label or mask; a fixed row for each, so that those
of a million lie in one array.

Of a file's bytes only the header is read here; the pixels are what its data set made of them. Sums of levels and of
their squares are whole numbers, so no order of adding changes them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from calotype.analysis.duplicates import COLUMNS, ROWS, thumbnail
from calotype.digest import Digest
from calotype.errors import DataError
from calotype.types import VOID

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import Sample

    Row: TypeAlias = Any
    Bytes: TypeAlias = npt.NDArray[np.uint8]

FORMATS = ("", "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""File formats by their number in a row; "" where a sample is no file."""
MODES = ("", "RGB", "L", "RGBA", "P", "CMYK", "LA", "1", "I;16", "PA", "YCbCr", "other")
"""Pixel modes of files, as Pillow names them."""
CHANNELS = 4
"""Channels whose levels are summed."""
NO_LABEL, SEVERAL, ODD_LABEL = -(2**62), -(2**62) + 1, -(2**62) + 2
"""In place of a class: the sample has none; it has a vector of classes; it has something else."""
LEAST_RANGE = 3
"""Grey levels between the darkest and the brightest pixel up to which an image is of one colour."""

_ANY = [("height", "i4"), ("width", "i4"), ("channels", "i4"), ("label", "i8")]
_FILE = [("format", "u1"), ("mode", "u1"), ("animated", "?"), ("one_colour", "?")]


def check_row(several: int = 0, masked: int = 0) -> np.dtype[Any]:
    """The fields that `check` fills; with a vector of `several` classes where samples have several labels, and of the
    pixels of `masked` classes and void where they have a mask.
    """
    same = [("digest", "u8"), ("thumbnail", "u1", (ROWS, COLUMNS))]
    return np.dtype([*_ANY, *_FILE, *same, *_more(several, masked), *([("target", "u8")] if masked else [])])


def stats_row(several: int = 0, masked: int = 0) -> np.dtype[Any]:
    """The fields that `stats` fills, likewise."""
    sums = [("sum", "u8", (CHANNELS,)), ("squares", "u8", (CHANNELS,))]
    return np.dtype([*_ANY, *sums, *_more(several, masked)])


def _more(several: int, masked: int) -> list[Any]:
    found: list[Any] = [("classes", "u1", (several,))] if several else []
    return [*found, ("pixels", "i8", (masked + 1,))] if masked else found


def fitting(row: Callable[[int, int], np.dtype[Any]], classes: int) -> Callable[[Sample], np.dtype[Any]]:
    """`check_row` or `stats_row` as a function of a sample of a data set of so many classes."""

    def fitted(sample: Sample) -> np.dtype[Any]:
        shape: Sequence[int] = getattr(sample.get("label"), "shape", ())
        return row(int(shape[0]) if len(shape) == 1 else 0, classes if "mask" in sample else 0)

    return fitted


def check(sample: Sample, row: Row) -> None:
    """Fill a row of `check_row` from a sample."""
    pixels = _common(sample, row)
    content = sample.get("content")
    if isinstance(content, bytes):
        row["format"], row["mode"], row["animated"] = _header(content)
    small = thumbnail(pixels)
    row["thumbnail"] = small
    row["digest"] = Digest().add(f"{pixels.shape}").add(pixels).int()
    if "target" in row.dtype.names:
        row["target"] = Digest().add(np.ascontiguousarray(np.asarray(sample["mask"]))).int()
    if np.ptp(small) <= 2 * LEAST_RANGE:
        row["one_colour"] = int(np.ptp(pixels, axis=(0, 1)).max()) <= LEAST_RANGE


def stats(sample: Sample, row: Row) -> None:
    """Fill a row of `stats_row` from a sample."""
    pixels = _common(sample, row)
    levels = np.arange(256, dtype=np.uint64)
    for channel in range(min(CHANNELS, pixels.shape[2])):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256).astype(np.uint64)
        row["sum"][channel], row["squares"][channel] = counts @ levels, counts @ levels**2


def _common(sample: Sample, row: Row) -> Bytes:
    """Fill what every row has; the pixels (H, W, C), contiguous."""
    image = sample["image"]
    pixels = np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0))
    if pixels.dtype != np.uint8:
        raise TypeError(f"its image is {pixels.dtype}, not uint8")
    row["height"], row["width"], row["channels"] = pixels.shape
    label = sample.get("label")
    row["label"] = _label(label)
    if row["label"] == SEVERAL and "classes" in row.dtype.names:
        row["classes"] = np.asarray(label) > 0.5
    if "pixels" in row.dtype.names:
        row["pixels"] = _class_pixels(np.asarray(sample["mask"]), len(row["pixels"]) - 1)
    return pixels


def _class_pixels(mask: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Pixels of each class and of void. Raises DataError for a number that is neither."""
    numbers = mask.ravel().astype(np.int64)
    wrong = np.unique(numbers[(numbers != VOID) & ((numbers < 0) | (numbers >= classes))])
    if len(wrong):
        told = ", ".join(map(str, wrong[:5].tolist()))
        raise DataError(f"its mask holds {told}, outside 0..{classes - 1} and not {VOID} (void)")
    counts = np.bincount(numbers, minlength=VOID + 1)
    return np.append(counts[:classes], counts[VOID])


def _label(label: Any) -> int:
    if label is None:
        return NO_LABEL
    if isinstance(label, int | np.integer) and -(2**62) < int(label) < 2**62:
        return int(label)
    shape = getattr(label, "shape", None)
    if shape == ():
        return int(label)
    return SEVERAL if shape is not None and len(shape) == 1 else ODD_LABEL


def _header(content: bytes) -> tuple[int, int, bool]:
    """Numbers of format and mode, and whether there are several frames; zeros for what Pillow doesn't know."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=FORMATS[1:]) as image:
            # A JPEG with a second picture in it (MPO) is what telephones write; only the first is ever meant.
            kind = "JPEG" if image.format == "MPO" else image.format
            mode = MODES.index(image.mode) if image.mode in MODES else len(MODES) - 1
            if image.mode.startswith("I;16"):
                mode = MODES.index("I;16")
            return FORMATS.index(kind or ""), mode, kind != "JPEG" and getattr(image, "is_animated", False)
    except Exception:  # noqa: BLE001 - its parsers raise whatever a file makes them stumble over; the pixels were read
        return 0, 0, False
