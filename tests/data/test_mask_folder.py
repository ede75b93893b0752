"""Images and masks in two folders: the shared contract for each layout, what masks may hold, and mistakes by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from calotype.data.mask_folder import MaskFolder
from calotype.data.masks import encode, palette
from calotype.data.skip import broken
from calotype.errors import ConfigError, DataError
from tests.contracts.source import SourceContract

CLASSES = ("sky", "road", "car")


def ids(number: int) -> np.ndarray:
    """A mask of the three classes, (6, 8)."""
    return np.random.default_rng(number).integers(0, 3, (6, 8), dtype=np.uint8)


def saved(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def pair(images: Path, masks: Path, number: int, mask: bytes | None = None, suffix: str = ".png") -> None:
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / f"{number:02d}.jpg")
    (masks / f"{number:02d}{suffix}").write_bytes(encode(ids(number)) if mask is None else mask)


def flat(root: Path, count: int = 12, mask: Callable[[int], bytes] | None = None, suffix: str = ".png") -> Path:
    for number in range(count):
        pair(root / "images", root / "masks", number, mask(number) if mask else None, suffix)
    return root


def first(root: Path, **options: Any) -> np.ndarray:
    """The mask of 00.jpg."""
    train = MaskFolder(root, **{"classes": CLASSES, **options}).split("train")
    place = [train.name(position) for position in range(len(train))].index("images/00.jpg")
    return train[place]["mask"].numpy()  # type: ignore[no-any-return]


class TestFlat(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = flat(tmp_path, 20)

    def make(self) -> MaskFolder:
        return MaskFolder(self.root, CLASSES, val_fraction=0.3, test_fraction=0.2)


class TestSplitsBelow(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = tmp_path
        for number in range(9):
            split = ("train", "validation", "test")[number % 3]
            pair(tmp_path / "images" / split / "deep", tmp_path / "masks" / split / "deep", number)
        (tmp_path / "classes.txt").write_text("sky\nroad\n\ncar\n")

    def make(self) -> MaskFolder:
        return MaskFolder(self.root)

    def test_splits_and_classes_are_found(self) -> None:
        assert self.make().splits == ("train", "val", "test") and self.make().classes == CLASSES
        source = self.make().split("val")
        assert [len(self.make().split(name)) for name in self.make().splits] == [3, 3, 3]
        for position in range(3):
            number = int(Path(source.name(position)).stem)
            assert source.name(position) == f"images/validation/deep/{number:02d}.jpg"
            assert np.array_equal(source[position]["mask"].numpy(), ids(number))


class TestSplitsAbove(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = tmp_path
        for number in range(6):
            split = tmp_path / ("train", "val")[number % 2]
            pair(split / "rgb", split / "gt", number, suffix=(".png", ".bmp", ".tif")[number // 2])
            if number >= 2:
                kind = ("", "BMP", "TIFF")[number // 2]
                (split / "gt" / f"{number:02d}{('', '.bmp', '.tif')[number // 2]}").write_bytes(
                    saved(ids(number), kind)
                )

    def make(self) -> MaskFolder:
        return MaskFolder(self.root, 3, images="rgb", masks="gt")

    def test_a_number_of_classes_names_them(self) -> None:
        assert self.make().classes == ("0", "1", "2")


def test_a_share_of_names_is_held_out_whatever_else_is_there(tmp_path: Path) -> None:
    def held_out() -> set[str]:
        val = MaskFolder(tmp_path, CLASSES, val_fraction=0.4).split("val")
        return {val.name(position) for position in range(len(val))}

    flat(tmp_path, 12)
    before = held_out()
    flat(tmp_path, 30)
    known = {f"images/{number:02d}.jpg" for number in range(12)}
    assert before and held_out() & known == before


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (encode, {}),
        (saved, {}),
        (lambda mask: saved(mask.astype(np.uint16)), {}),
        (lambda mask: saved(mask + 1), {"first": 1, "ignore": 0}),
        (lambda mask: saved(mask.astype(np.uint16) + 1000), {"first": 1000, "ignore": [65535]}),
        (lambda mask: saved(mask * 100), {"ids": {"sky": 0, "road": [100, 101], "car": 200}}),
        (lambda mask: saved(mask * 100), {"ids": [0, 100, [200, 201]]}),
        (lambda mask: saved(palette()[mask]), {"colours": "voc"}),
        (lambda mask: saved(palette()[mask + 3]), {"colours": palette()[3:6].tolist()}),
        (
            lambda mask: saved(palette()[mask]),
            {"colours": {name: palette()[n].tolist() for n, name in enumerate(CLASSES)}},
        ),
    ],
    ids=[
        "palette",
        "grey",
        "16 bits",
        "from 1",
        "from 1000",
        "ids",
        "ids in order",
        "voc's colours",
        "list of colours",
        "named colours",
    ],
)
def test_what_masks_hold_is_told(stored: Callable[[np.ndarray], bytes], options: Any, tmp_path: Path) -> None:
    flat(tmp_path, 2, lambda number: stored(ids(number)))
    assert np.array_equal(first(tmp_path, **options), ids(0))


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (lambda mask: saved(np.where(mask == 1, 255, mask)), {}),
        (lambda mask: saved(np.where(mask == 1, np.uint16(65535), mask)), {"ignore": 65535}),
        (lambda mask: saved(np.array([1, 0, 3], np.uint8)[mask]), {"first": 1, "ignore": [0, 255]}),
        (saved, {"ids": {"sky": 0, "void": [1, 9], "car": 2}}),
        (saved, {"ids": {"sky": 0, "car": 2}, "unnamed": "void"}),
        (lambda mask: saved(palette()[np.where(mask == 1, 255, mask)]), {"colours": "voc"}),
        (lambda mask: saved(palette()[np.where(mask == 1, 77, mask)]), {"colours": "voc", "unnamed": "void"}),
    ],
    ids=["255", "65535", "0", "an id", "ids that are not named", "voc's white", "colours that are not named"],
)
def test_void_is_255(stored: Callable[[np.ndarray], bytes], options: Any, tmp_path: Path) -> None:
    flat(tmp_path, 1, lambda number: stored(ids(number)))
    assert np.array_equal(first(tmp_path, **options), np.where(ids(0) == 1, 255, ids(0)))


@pytest.mark.parametrize(
    ("mask", "options", "told"),
    [
        (encode(ids(0) + 7), {}, r"holds 7, 8, 9, outside 0\.\.2 and not 255 \(void\)"),
        (saved(ids(0)), {"first": 1, "ignore": 255}, r"holds 0, outside 1\.\.3 and not 255 \(void\)"),
        (saved(np.full((6, 8), 255, np.uint8)), {"ignore": 65535}, r"holds 255, outside 0\.\.2 and not 65535 \(void\)"),
        (saved(ids(0)), {"ids": [0, 1]}, "holds 2, which data.ids does not name"),
        (
            saved(palette()[ids(0)]),
            {"colours": [[0, 0, 0], [128, 0, 0], [1, 1, 1]]},
            r"colour \(0, 128, 0\), which",
        ),
        (encode(ids(0)[:5]), {}, "has 8x5 pixels, the image 8x6"),
        (saved(palette()[ids(0)]), {}, r"holds colours or 32-bit values \(mode RGB\).*data.colours"),
        (saved(ids(0), "JPEG"), {}, "is a JPEG, which changes the numbers of a mask; save it as PNG"),
        (encode(ids(0))[:50], {}, "is (damaged|no PNG)"),
        (b"", {}, "is (damaged|no PNG)"),
        (None, {}, r"can't be read \(No such file"),
    ],
    ids=["id", "0", "255", "no id", "no colour", "size", "colours", "jpeg", "damaged", "empty", "missing"],
)
def test_a_wrong_mask_is_named_and_can_be_left_out(mask: bytes | None, options: Any, told: str, tmp_path: Path) -> None:
    flat(tmp_path, 2, lambda _: mask or b"")
    path = tmp_path / "masks" / "00.png"
    if mask is None:
        path.unlink()
    train = MaskFolder(tmp_path, **{"classes": CLASSES, **options}).split("train")
    (found,) = [item for item in broken(train, 0) if item["name"] == "images/00.jpg"]
    assert found["reason"].startswith("its mask masks/00.png ")
    with pytest.raises(DataError, match=rf"{tmp_path}/images/00\.jpg: its mask masks/00\.png (.* )?{told}"):
        first(tmp_path, **options)


def test_grey_levels_of_few_bits_are_not_stretched(tmp_path: Path) -> None:
    """Pillow writes no such file: a PNG of 4 bits a pixel is put together here."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def small(mask: np.ndarray) -> bytes:
        rows = b"".join(b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in mask)
        head = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], 4, 0, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    flat(tmp_path, 1, lambda number: small(ids(number)))
    assert np.array_equal(first(tmp_path), ids(0))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"classes": None}, r"data\.classes: name the classes, or write them into .*classes\.txt"),
        ({"classes": 256}, r"data\.classes: has 256 classes, more than the 255 that can be told apart"),
        ({"classes": 0}, r"data\.classes: names no class"),
        ({"classes": ["a", "a"]}, "names the class 'a' twice"),
        ({"ids": {"sea": 0}}, r"data\.ids: 'sea' is no class; there are sky, road, car and void"),
        ({"ids": [0, 1, 2, 3]}, r"data\.ids: has 4 entries for 3 classes"),
        ({"ids": [0, -1]}, r"data\.ids: -1 is no number"),
        ({"ids": ["sky"]}, r"data\.ids: 'sky' is no number"),
        ({"ids": [1.5]}, r"data\.ids: 1\.5 is no number"),
        ({"ids": 5}, r"data\.ids: 5 is neither a list"),
        ({"colours": [1, 2, 3]}, r"data\.colours: 1 is no red, green, blue"),
        ({"colours": "vox"}, r"data\.colours: 'vox' is neither a list"),
        ({"first": "x"}, r"data\.first: 'x' is no number"),
        ({"ids": {"sky": 0, "void": [1, 0]}}, r"data\.ids: 0 is the number of two classes"),
        ({"ids": [0], "first": 1}, "ids and ignore and first each say what a mask holds"),
        ({"ids": [0], "colours": "voc"}, "colours and ids each say"),
        ({"unnamed": "void"}, r"data\.unnamed: void is for what data\.ids or data\.colours don't name"),
        ({"unnamed": "other"}, r"data\.unnamed: 'other' is not allowed"),
        ({"ignore": -1}, r"data\.ignore: .*must be 0\.\.65535"),
        ({"first": 65535}, r"data\.ignore: .*must be 0\.\.65535"),
        ({"colours": [[0, 0, 0]]}, r"data\.colours: has no colour for road, car"),
        ({"colours": [[n, 0, 0] for n in range(4)]}, "has 4 entries for 3 classes"),
        ({"colours": [[0, 0, 0], [0, 0, 0], [1, 0, 0]]}, r"\[0, 0, 0\] is the colour of two classes"),
        ({"colours": [[0, 0], [1, 0, 0], [2, 0, 0]]}, r"\[0, 0\] is no red, green, blue"),
        ({"colours": {"sky": [0, 0, 0], "sea": [1, 0, 0]}}, "'sea' is no class"),
        ({"val_fraction": 0.9, "test_fraction": 0.1}, "must be at least 0 and leave something"),
    ],
)
def test_a_config_that_says_nothing_or_two_things_is_refused(options: Any, told: str, tmp_path: Path) -> None:
    flat(tmp_path, 1)
    with pytest.raises(ConfigError, match=told):
        MaskFolder(tmp_path, **{"classes": CLASSES, **options})


def test_folders_that_are_missing_or_mean_one_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no images with its masks, neither here nor in train"):
        MaskFolder(tmp_path, CLASSES)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path / 'masks'}: there is no such folder"):
        MaskFolder(tmp_path, CLASSES)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="has no image in it"):
        MaskFolder(tmp_path, CLASSES).split("train")
    (tmp_path / "images" / "val").mkdir()
    with pytest.raises(DataError, match="has no folder train, only val"):
        MaskFolder(tmp_path, CLASSES)
    (tmp_path / "images" / "valid").mkdir()
    with pytest.raises(DataError, match="val and valid are both the val split"):
        MaskFolder(tmp_path, CLASSES)
    for name in ("train", "val"):
        pair(tmp_path / "b" / "images" / name, tmp_path / "b" / "masks" / name, 1)
    with pytest.raises(ConfigError, match="is the val split already; leave val_fraction at 0"):
        MaskFolder(tmp_path / "b", CLASSES, val_fraction=0.2)
    (tmp_path / "b" / "classes.txt").write_text("one\none\n")
    with pytest.raises(DataError, match=r"classes\.txt names the class 'one' twice"):
        MaskFolder(tmp_path / "b")


def test_what_has_no_partner_is_found(tmp_path: Path) -> None:
    flat(tmp_path, 3)
    assert MaskFolder(tmp_path, CLASSES).check() == {}
    (tmp_path / "images" / "01.jpg").unlink()
    (tmp_path / "images" / "notes.txt").write_text("")
    (tmp_path / "masks" / "02.json").write_text("")
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "00.png")
    found = MaskFolder(tmp_path, CLASSES).check()
    assert found["unpaired"] == ["masks/01.png"]
    assert found["shared"] == ["images/00: several images have this name"]
    assert found["passed_over"] == [f"{tmp_path / 'images'}: 1 .txt"]


@pytest.mark.parametrize(
    "transform",
    [
        v2.Resize((40, 50)),
        v2.RandomResizedCrop(24, (0.3, 0.9)),
        v2.RandomAffine(30, (0.2, 0.2), (0.7, 1.9), 10),
        v2.RandomRotation(45, interpolation=v2.InterpolationMode.BILINEAR),
        v2.ScaleJitter((30, 30), (0.5, 2.0)),
        v2.RandomPerspective(0.6, 1.0),
        v2.ElasticTransform(80.0, sigma=0.9),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_transforms_make_up_no_number(transform: Any, tmp_path: Path) -> None:
    """Nearest neighbours alone, also where the image is interpolated between pixels."""
    flat(tmp_path, 1, lambda number: saved(ids(number) * 100))
    sample = MaskFolder(tmp_path, classes=201).split("train")[0]
    assert sample["mask"].unique().tolist() == [0, 100, 200]
    torch.manual_seed(0)
    for _ in range(10):
        moved = transform({"image": sample["image"], "mask": sample["mask"]})
        assert moved["mask"].dtype == torch.int64 and moved["image"].shape[1:] == moved["mask"].shape
        assert {*moved["mask"].unique().tolist()} <= {0, 100, 200}
