"""Masks are read as the numbers that were written, whatever the format, or refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from calotype.data.masks import Meaning, decode, encode, sbd
from calotype.errors import ConfigError, DataError
from calotype.palette import palette

IDS = np.array([[0, 1, 20], [255, 7, 1]], np.uint8)
VOC = Path(__file__).parents[3] / "shared/data/voc2012_mini/VOCdevkit/VOC2012/SegmentationClass"


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_a_palette_holds_numbers() -> None:
    assert decode(encode(IDS)).tolist() == IDS.tolist()
    with Image.open(io.BytesIO(encode(IDS))) as image:
        assert image.mode == "P" and image.convert("RGB").getpixel((2, 0)) == (0, 64, 128)


def test_the_palette_is_vocs() -> None:
    expected = {1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {number: tuple(palette()[number].tolist()) for number in expected} == expected


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_grey_levels_are_numbers(kind: str) -> None:
    assert decode(saved(Image.fromarray(IDS), kind)).tolist() == IDS.tolist()


def test_of_sixteen_bits_all_are_kept() -> None:
    wide = IDS.astype(np.uint16) * 257
    assert decode(saved(Image.fromarray(wide))).tolist() == wide.tolist()


def test_colours_are_looked_up() -> None:
    colours = {tuple(palette()[number].tolist()): int(number) for number in np.unique(IDS)}
    content = saved(Image.fromarray(palette()[IDS]))
    assert decode(content, colours).tolist() == IDS.tolist()  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"the colour \(0, 64, 128\), .*, which data.colours does not name"):
        decode(content, {(0, 0, 0): 0})
    with pytest.raises(DataError, match=r"holds colours or 32-bit values \(mode RGB\)"):
        decode(content)


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(DataError, match="is a JPEG, which changes the numbers"):
        decode(saved(Image.fromarray(IDS), "JPEG"))
    with pytest.raises(DataError, match="has 6x1 pixels, more than max_pixels=5"):
        decode(saved(Image.fromarray(IDS.reshape(1, 6))), max_pixels=5)
    for content in (b"", b"no image", encode(IDS)[:40]):
        with pytest.raises(DataError, match=r"is (damaged|no PNG)"):
            decode(content)


@pytest.mark.parametrize("stored", [IDS.astype(np.float32), IDS.astype(np.int32) - 9, IDS[None]])
def test_a_matlab_file_of_other_numbers_is_refused(stored: np.ndarray) -> None:
    file = io.BytesIO()
    scipy.io.savemat(file, {"GTcls": {"Segmentation": stored}})
    with pytest.raises(DataError, match="is no mask of SBD"):
        sbd(file.getvalue())


@pytest.mark.data
def test_real_masks_hold_classes_and_void() -> None:
    if not VOC.is_dir():
        pytest.skip("not installable: the VOC masks are not on this machine")
    found = {int(value) for file in sorted(VOC.glob("*.png"))[:20] for value in decode(file.read_bytes()).unique()}
    assert found <= {*range(21), 255} and len(found) > 5


def test_files_whose_numbers_are_not_as_stored_are_refused() -> None:
    """Pillow takes a BMP of 8 bits with a palette of black and white for one of 1 bit, and turns some TIFFs round."""
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    image.save(file, "BMP")
    assert file.getvalue()[28] == 8
    with pytest.raises(DataError, match="is a BMP whose 8 bits a pixel"):
        decode(file.getvalue())
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(file, "TIFF", tiffinfo={262: 0})
    with pytest.raises(DataError, match="stores white as 0"):
        decode(file.getvalue())


def test_a_number_can_t_be_void_and_a_class() -> None:
    with pytest.raises(ConfigError, match=r"data\.ignore: 255 is the number of a class as well"):
        Meaning.counted(255, (255,), 1)
