"""Drawn pictures as VOC and COCO folders: what is read back is what was drawn, and the bytes are the same each time."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calotype.data.layouts import runs
from calotype.data.shapes import FORMS, Shapes
from calotype.data.voc import VOCSegmentation
from tests.contracts.source import SourceContract

SHAPES: dict[str, Any] = {"images": (12, 5, 3), "size": 48, "draw_seed": 5}


def written(folder: Path, layout: str, **options: Any) -> Path:
    done: list[int] = []
    Shapes(**SHAPES, **options).write(folder, layout, done.append)
    assert sum(done) == 20
    return folder


class TestVOCFolder(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.root = written(tmp_path, "voc")

    def make(self) -> VOCSegmentation:
        return VOCSegmentation(self.root)


@pytest.mark.parametrize("layout", Shapes.formats)
def test_the_bytes_are_the_same_each_time(layout: str, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    one, other = (digests(written(tmp_path / name, layout)) for name in ("one", "other"))
    assert one == other and len(one) > 20


@pytest.mark.parametrize("border", [0, 2])
def test_masks_in_vocs_layout_are_those_that_were_drawn(border: int, tmp_path: Path) -> None:
    data = VOCSegmentation(written(tmp_path, "voc", border=border))
    assert data.classes == ("background", *FORMS)
    for split in ("train", "val"):
        drawn, read = Shapes(**SHAPES, border=border).split(split), data.split(split)
        masks = {f"{int(number):06d}": drawn[place] for place, number in enumerate(drawn.ids)}
        assert len(read) == len(drawn)
        for position in range(len(read)):
            sample = masks[Path(read.name(position)).stem]
            assert np.array_equal(read[position]["mask"].numpy(), sample["mask"].numpy())
            assert (255 in read[position]["mask"]) is bool(border)
            off = (read[position]["image"].numpy().astype(int) - sample["image"].numpy()).astype(float)
            assert np.abs(off).mean() < 4, "JPEG"


def test_boxes_in_vocs_layout_count_from_one(tmp_path: Path) -> None:
    root = written(tmp_path, "voc") / "VOCdevkit/VOC2012"
    drawn = Shapes("boxes", **SHAPES).split("test")
    names = (root / "ImageSets/Main/test.txt").read_text().split()
    assert names == (root / "ImageSets/Segmentation/test.txt").read_text().split() == ["000017", "000018", "000019"]
    assert len((root / "ImageSets/Main/trainval.txt").read_text().split()) == 17
    for position, name in enumerate(names):
        found = ET.parse(root / "Annotations" / f"{name}.xml").getroot()
        assert [found.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["48", "48", "3"]
        ends = [[int(item.findtext(f"bndbox/{end}") or 0) for end in ("xmin", "ymin", "xmax", "ymax")]
                for item in found.findall("object")]  # fmt: skip
        sample = drawn[position]
        assert [[left - 1, top - 1, right, bottom] for left, top, right, bottom in ends] == sample["boxes"].tolist()
        labels = [list(FORMS).index(item.findtext("name") or "") for item in found.findall("object")]
        assert labels == sample["labels"].tolist()


def region(code: dict[str, Any]) -> np.ndarray:
    """A region from its run-length code."""
    height, width = code["size"]
    flat = np.repeat(np.arange(len(code["counts"])) % 2, code["counts"])
    return flat.reshape(width, height).T.astype(bool)


def test_cocos_layout_holds_the_pixels_the_boxes_and_the_regions(tmp_path: Path) -> None:
    folder = written(tmp_path, "coco")
    found = json.loads((folder / "annotations/instances_val2017.json").read_text())
    numbers = {item["id"]: number for number, item in enumerate(found["categories"])}
    assert [item["name"] for item in found["categories"]] == list(FORMS)
    assert list(numbers) == [1, 2, 4, 7, 11], "with gaps"
    ids = [item["id"] for item in found["annotations"]]
    assert len(set(ids)) == len(ids) and {item["iscrowd"] for item in found["annotations"]} == {0}
    drawn, masks = (Shapes(kind, **SHAPES).split("val") for kind in ("boxes", "mask"))  # type: ignore[arg-type]
    assert len(found["images"]) == 5
    for position, item in enumerate(found["images"]):
        own = [one for one in found["annotations"] if one["image_id"] == item["id"]]
        sample = drawn[position]
        assert item["file_name"] == f"{item['id']:012d}.png", "as COCO's are named"
        with Image.open(folder / "val2017" / item["file_name"]) as image:
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), sample["image"].numpy()), "exact pixels"
            assert image.size == (item["width"], item["height"])
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (one["bbox"] for one in own)]
        assert boxes == sample["boxes"].tolist()
        assert [numbers[one["category_id"]] for one in own] == sample["labels"].tolist()
        for one in own:
            there = region(one["segmentation"])
            assert there.sum() == one["area"] > 0
            assert (masks[position]["mask"].numpy()[there] == numbers[one["category_id"]] + 1).all()


def test_run_lengths_go_down_the_columns_and_begin_outside() -> None:
    assert runs(np.array([[0, 1], [0, 1], [1, 1]], bool)) == [2, 4]
    assert runs(np.array([[1, 0], [1, 0]], bool)) == [0, 2, 2]
    assert runs(np.zeros((2, 2), bool)) == [4]


def test_a_border_is_void_on_both_sides_of_an_edge() -> None:
    plain, bordered = (Shapes(most=1, images=(3, 0, 0), border=border).split("train") for border in (0, 1))
    for position in range(3):
        mask, other = plain[position]["mask"].numpy(), bordered[position]["mask"].numpy()
        void = other == 255
        assert np.array_equal(mask[~void], other[~void]) and {0, *mask[void].tolist()} == {0, mask.max()}
        wide = np.pad(mask, 1, mode="edge")
        around = (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:])
        assert np.array_equal(void, np.any([mask != one for one in around], axis=0))
