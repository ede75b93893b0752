"""Any image file becomes uint8 (C, H, W) as it is meant to be seen, or an error with its reason; never a guess."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors

from benchmarks.memory import begin_peak, peak_mb
from calotype.data.folder import ImageFolder
from calotype.data.images import decode, problem
from calotype.data.listed import Files
from calotype.errors import DataError
from tests.toys.broken import BROKEN, encoded, photo


def by_pillow(content: bytes, mode: str = "RGB") -> Any:
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert(mode))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_give_pillow_s_pixels(kind: str, mode: Any) -> None:
    content = encoded(photo(), kind)
    found = decode(content, mode)
    assert isinstance(found, tv_tensors.Image) and found.dtype == torch.uint8
    assert found.shape == ((3 if mode == "RGB" else 1), 48, 64)
    # A JPEG's own luma is taken as it is stored, instead of being made again from rounded colours.
    tolerance = 2 if (kind, mode) == ("JPEG", "L") else 0
    assert np.abs(found.permute(1, 2, 0).numpy().squeeze().astype(int) - by_pillow(content, mode)).max() <= tolerance
    assert problem(content) is None


def test_a_tensor_of_bytes_is_taken_too() -> None:
    content = encoded(photo(), "PNG")
    tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    assert torch.equal(decode(tensor), decode(content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    expected = by_pillow(content)
    assert expected.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    assert np.array_equal(decode(content).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff", b"Nonsense" * 4])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    plain = encoded(photo(), "JPEG")
    block = b"Exif\0\0" + exif
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert torch.equal(decode(content), decode(plain))


def test_grey_palette_and_one_bit_become_colour_and_back() -> None:
    grey, palette = photo().convert("L"), photo().convert("P", palette=Image.Palette.ADAPTIVE)
    for image in (grey, palette, grey.convert("1")):
        content = encoded(image, "PNG")
        assert np.array_equal(decode(content).permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))
        assert np.array_equal(decode(content, "L")[0].numpy(), np.array(image.convert("RGB").convert("L")))
    assert decode(encoded(grey, "JPEG")).shape[0] == 3


def test_transparent_pixels_show_the_background() -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 24, 0).repeat(64, 1)))
    for kind in ("PNG", "WEBP"):
        found = decode(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})), background=(10, 20, 30))
        assert found[:, 0, 0].tolist() == [10, 20, 30]
        assert np.array_equal(found[:, 24:].permute(1, 2, 0).numpy(), np.array(photo())[24:])
    assert decode(encoded(image, "PNG"), "L", background=77)[0, 0, 0] == 77
    palette = photo().convert("P")
    index = palette.getpixel((0, 0))
    assert decode(encoded(palette, "PNG", transparency=index), background=(1, 2, 3))[:, 0, 0].tolist() == [1, 2, 3]


def test_sixteen_bits_keep_the_upper_eight() -> None:
    grey = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    for kind in ("PNG", "TIFF"):
        content = encoded(Image.fromarray(grey), kind)
        assert np.array_equal(decode(content, "L")[0].numpy(), grey >> 8)
        assert np.array_equal(decode(content)[2].numpy(), grey >> 8)


def test_cmyk_and_odd_jpegs_are_read() -> None:
    cmyk = encoded(photo().convert("CMYK"), "JPEG")
    assert np.array_equal(decode(cmyk).permute(1, 2, 0).numpy(), by_pillow(cmyk))
    progressive = encoded(photo(), "JPEG", progressive=True)
    assert np.array_equal(decode(progressive).permute(1, 2, 0).numpy(), by_pillow(progressive))


def test_of_several_frames_the_first_is_taken() -> None:
    first, second = photo(), ImageOps.invert(photo())
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        content = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert np.array_equal(decode(content).permute(1, 2, 0).numpy(), by_pillow(content))


@pytest.mark.guarantee(
    "A broken image is an error with its reason, never half a picture",
    condition="empty, no image, a byte flipped, zeros, cut, cut and closed",
)
@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_broken_images_are_errors_with_a_reason(kind: str) -> None:
    content, reason = BROKEN[kind]()
    with pytest.raises(DataError, match=reason):
        decode(content)
    assert problem(content) is not None


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_a_file_cut_in_its_header_is_no_stranger(kind: str) -> None:
    with pytest.raises(DataError, match="damaged image: "):
        decode(encoded(photo(), kind)[:12])


def test_bytes_too_many_before_a_marker_lose_no_pixel() -> None:
    plain = encoded(photo(), "JPEG")
    assert torch.equal(decode(plain[:-2] + b"\0" * 5 + plain[-2:]), decode(plain))


def test_thirty_two_bits_are_refused() -> None:
    for values in (np.ones((4, 4), np.float32), np.ones((4, 4), np.int32)):
        with pytest.raises(DataError, match="no agreed range; convert the image"):
            decode(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.guarantee(
    "An image that claims more pixels than data.max_pixels is refused by its header, at once and in little memory",
    condition="PNG, JPEG, BMP, GIF of 20,000 x 20,000",
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_an_image_bomb_is_refused_at_once_and_flat(kind: str) -> None:
    content = bomb(kind)
    assert len(content) < 100_000
    before, start = begin_peak(), time.perf_counter()
    with pytest.raises(DataError, match=r"20000x20000 pixels are more|more pixels than max_pixels=100000000: "):
        decode(content)
    assert time.perf_counter() - start < 1
    assert peak_mb() - before < 50


def bomb(kind: str) -> bytes:
    """A file whose header claims 20,000 x 20,000 pixels, more than its bytes hold."""
    content = bytearray(encoded(Image.new("1" if kind == "PNG" else "L", (16, 16)), kind))
    place, form = {"PNG": (16, ">II"), "BMP": (18, "<II"), "GIF": (6, "<HH")}.get(kind, (0, ">HH"))
    if kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
    struct.pack_into(form, content, place, 20_000, 20_000)
    if kind == "PNG":
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.guarantee(
    "A whole PNG of 20,000 x 20,000 pixels in few bytes is refused within a second and 20 MB, naming file and limit",
    condition="ImageFolder, data check and predict read it; Linux",
)
def test_a_whole_bomb_is_refused_wherever_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "bombs" / "ant" / "bomb.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(whole_bomb())
    assert file.stat().st_size < 100_000
    with Image.open(io.BytesIO(whole_bomb(100))) as small:
        assert small.size == (100, 100) and np.asarray(small).any(), "what is written here is an image"
    messages, seconds, growth = read_bomb(file)
    assert len(messages) == 3 and all("more pixels than max_pixels=100000000" in text for text in messages), messages
    assert str(file) in messages[0]
    assert seconds < 1 and growth < 20, (seconds, growth)


def whole_bomb(side: int = 20_000) -> bytes:
    """A PNG of one bit a pixel with every row in it, white on the left of black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row, packer = b"\0\xf0" + bytes((side + 7) // 8 - 1), zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def read_bomb(file: Path) -> tuple[list[str], float, float]:
    """What a training, a prediction and a check say of the file; the seconds and MB that they take."""
    messages = list[str]()
    source = ImageFolder(file.parent.parent).split("train")
    listed = Files([str(file)], decode)
    before, started = begin_peak(), time.perf_counter()
    for read in (lambda: source[0], lambda: listed[0]):
        with pytest.raises(DataError) as raised:
            read()
        messages.append(str(raised.value))
    messages.append(str(source.problem(0)))
    return messages, time.perf_counter() - started, peak_mb() - before


def test_the_limit_is_the_data_set_s_to_set() -> None:
    with pytest.raises(DataError, match="64x48 pixels are more than max_pixels=3000"):
        decode(encoded(photo(), "JPEG"), max_pixels=3000)
    assert problem(encoded(photo(), "PNG"), max_pixels=3000) == "64x48 pixels are more than max_pixels=3000"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_file_that_is_cut_anywhere_is_an_error_with_a_reason_or_the_image(kind: str) -> None:
    image = Image.fromarray(np.arange(24 * 24 * 3).reshape(24, 24, 3).astype(np.uint8))
    whole = encoded(image, kind)
    for length in range(1, len(whole), max(1, len(whole) // 300)):
        try:
            assert decode(whole[:length]).shape == (3, 24, 24)
        except DataError as error:
            assert error.message
