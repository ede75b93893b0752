"""Images, and the eight ways in which image files are broken."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def photo(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of smooth noise, (width, height) in pixels."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file of a kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _cut(kind: str) -> bytes:
    content = encoded(photo(), kind)
    return content[: len(content) * 3 // 4]


def _cut_and_closed() -> bytes:
    return _cut("JPEG") + b"\xff\xd9"


def _zeroed() -> bytes:
    return _cut("JPEG") + bytes(500)


def _flipped() -> bytes:
    content = bytearray(encoded(photo(), "PNG"))
    content[len(content) // 2] ^= 0x55
    return bytes(content)


BROKEN: dict[str, Callable[[], tuple[bytes, str]]] = {
    "empty": lambda: (b"", "the file is empty"),
    "half_jpeg": lambda: (_cut("JPEG"), "damaged JPEG: Premature end"),
    "half_png": lambda: (_cut("PNG"), "damaged image"),
    "half_webp": lambda: (_cut("WEBP"), "damaged image"),
    "html": lambda: (b"<html><body>404 Not Found</body></html>", "no JPEG, PNG, .* it begins with b'<html>"),
    "byte_flip": lambda: (_flipped(), "damaged image"),
    "cut_and_closed": lambda: (_cut_and_closed(), "damaged JPEG: .*premature end"),
    "zeros": lambda: (_zeroed(), "damaged JPEG: Premature end"),
}
"""A kind of damage: the file's bytes and what the reason must match."""
