"""Writes pictures with masks and boxes into folders in the layouts of PASCAL VOC and COCO, for whatever reads those.

The same pictures give the same bytes: nothing is dated, encoders have fixed settings. VOC's layout means JPEG, which
changes pixels a little; COCO's names each file, so there it is PNG, and pixels are exact. Masks are exact in both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from calotype.data.masks import encode
from calotype.types import DIFFICULT, TRUNCATED

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray

QUALITY = 95
"""Of JPEG, with colours as fine as brightness."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A sample: its number; image (3, H, W) uint8; mask (H, W) of classes, 0 for the background, 255 for void; boxes
    (n, 4) xyxy pixels with labels (n,), of which 0 is no background; and the n regions (H, W) that they are around.
    """

    number: int
    image: npt.NDArray[np.uint8]
    mask: IntArray
    boxes: npt.NDArray[np.float32]
    labels: IntArray
    regions: Sequence[npt.NDArray[np.bool_]]


def write_voc(folder: Path, splits: Mapping[str, Iterable[Picture]], classes: Sequence[str]) -> Sequence[str]:
    """VOCdevkit/VOC2012 in `folder`, with the classes, background first, in its classes.txt, and the lists train, val,
    trainval and test in ImageSets/Segmentation and ImageSets/Main; the overrides that train on its masks.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    lists: dict[str, list[str]] = {}
    for split, pictures in splits.items():
        for picture in pictures:
            name = f"{picture.number:06d}"
            lists.setdefault(split, []).append(name)
            image = Image.fromarray(np.ascontiguousarray(picture.image.transpose(1, 2, 0)))
            image.save(root / "JPEGImages" / f"{name}.jpg", quality=QUALITY, subsampling=0)
            (root / "SegmentationClass" / f"{name}.png").write_bytes(encode(picture.mask.astype(np.uint8)))
            (root / "Annotations" / f"{name}.xml").write_text(_annotation(name, picture, classes[1:]), encoding="utf-8")
    for kind in ("Segmentation", "Main"):
        write_lists(root / "ImageSets" / kind, lists)
    write_classes(root, classes)
    return ["experiment=shapes_segmentation", "data=voc2012"]


def _annotation(name: str, picture: Picture, classes: Sequence[str]) -> str:
    boxes, labels = picture.boxes.astype(int).tolist(), picture.labels.tolist()
    objects = [(classes[label], box, 0) for box, label in zip(boxes, labels, strict=True)]
    return voc_annotation(f"{name}.jpg", picture.image.shape[1:], objects, segmented=True)


def voc_annotation(
    name: str, size: Sequence[int], objects: Iterable[tuple[str, Sequence[int], int]], segmented: bool = False
) -> str:
    """A VOC annotation of an image of height and width `size`: class, box in xyxy pixels and flags of each object. Its
    pixels count from 1, and the last one is in the box.
    """
    told = []
    for label, (left, top, right, bottom), flags in objects:
        ends = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        truncated, difficult = int(bool(flags & TRUNCATED)), int(bool(flags & DIFFICULT))
        marks = f"<pose>Unspecified</pose><truncated>{truncated}</truncated><difficult>{difficult}</difficult>"
        told.append(f"  <object><name>{escape(label)}</name>{marks}<bndbox>{ends}</bndbox></object>\n")
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return (
        f"<annotation>\n  <folder>VOC2012</folder><filename>{escape(name)}</filename>\n"
        f"  {sides}<segmented>{int(segmented)}</segmented>\n{''.join(told)}</annotation>\n"
    )


def write_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """VOC's lists of names by split, and trainval of those of train and val."""
    folder.mkdir(parents=True, exist_ok=True)
    joined = [*lists.get("train", []), *lists.get("val", [])]
    for split, names in {**lists, "trainval": joined}.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """A classes.txt, a name a line."""
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def write_coco(folder: Path, splits: Mapping[str, Iterable[Picture]], classes: Sequence[str]) -> Sequence[str]:
    """`train2017` and so on with annotations/instances_train2017.json in `folder`. Images are named by their ids, which
    have gaps, as COCO's; an annotation's region is an uncompressed run-length code. The overrides that train on its
    boxes.
    """
    (folder / "annotations").mkdir(parents=True)
    ids = [number * (number + 1) // 2 + 1 for number in range(len(classes) - 1)]
    categories = [{"id": id_, "name": name, "supercategory": ""} for id_, name in zip(ids, classes[1:], strict=True)]
    for split, pictures in splits.items():
        (folder / f"{split}2017").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for picture in pictures:
            number = 3 * picture.number + 7
            name = f"{number:012d}.png"
            _, height, width = picture.image.shape
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            annotations += _instances(picture, number, ids, 2 * len(annotations) + 1)
            image = Image.fromarray(np.ascontiguousarray(picture.image.transpose(1, 2, 0)))
            image.save(folder / f"{split}2017" / name, compress_level=6)
        told = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(told))
    return ["experiment=boxes", "data=coco"]


def _instances(picture: Picture, image: int, ids: Sequence[int], first: int) -> list[dict[str, Any]]:
    found = []
    for row, ((left, top, right, bottom), label) in enumerate(
        zip(picture.boxes.tolist(), picture.labels.tolist(), strict=True)
    ):
        region = picture.regions[row]
        place = {"id": first + 2 * row, "image_id": image, "category_id": ids[label], "iscrowd": 0}
        shape = {"bbox": [left, top, right - left, bottom - top], "area": int(region.sum())}
        found.append({**place, **shape, "segmentation": {"size": [*region.shape], "counts": runs(region)}})
    return found


def runs(region: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's run-length code of a region (H, W): lengths of runs down the columns, of pixels outside first."""
    flat = np.concatenate([[False], region.T.ravel()])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff([0, *ends.tolist(), region.size]).tolist()
    return lengths


Writer = Callable[[Path, Mapping[str, Iterable[Picture]], Sequence[str]], Sequence[str]]
WRITERS: Mapping[str, Writer] = {"voc": write_voc, "coco": write_coco}
