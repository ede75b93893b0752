"""PASCAL VOC 2012 for segmentation, and the Semantic Boundaries Dataset (SBD) that is trained on beside it, as they lie
on disk when they are unpacked.

With SBD the training split is VOC's list and SBD's `train_noval` list together: an image that is in both counts once,
with VOC's mask, and none is in the validation split.
Sources: M. Everingham et al., The PASCAL Visual Object Classes Challenge 2012; B. Hariharan et al., Semantic contours
from inverse detectors, ICCV 2011.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from calotype.data.masked import Beside, Joined, MaskDecoding, MaskedSource, listed, sample_id
from calotype.data.source import Decoding
from calotype.errors import DataError

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "tv/monitor"),
)


class VOCSegmentation:
    """The lists `train` and `val` of ImageSets/Segmentation under `root`, which holds VOCdevkit or is a part of it;
    masks lie in the folder `masks`. With `sbd`, the folder of SBD's img, cls and train_noval.txt, those are trained on
    too.

    Without a root or sbd the variables DATASET_PATH and, where `sbd` is "auto", SBD_DATASET_PATH are asked. Raises
    DataError naming what is missing.
    """

    classes: ClassVar[Sequence[str]] = CLASSES
    splits: ClassVar[Sequence[str]] = ("train", "val")

    def __init__(
        self,
        root: str | Path | None = None,
        train: str = "train",
        val: str = "val",
        masks: str = "SegmentationClass",
        sbd: str | Path | None = None,
    ) -> None:
        self.root = _devkit(root)
        self.lists = {"train": train, "val": val}
        self.masks = masks
        self.sbd = None if sbd is None else _sbd(sbd)

    def split(self, name: str) -> Joined:
        """Split `name`. Raises DataError for one there is none of, and for a list that is missing or empty."""
        if name not in self.lists:
            raise DataError(f"there is no split {name!r}, only {', '.join(self.splits)}")
        names = _names(self.root / "ImageSets" / "Segmentation" / f"{self.lists[name]}.txt")
        sources = [self._source(self.root, names, Beside("JPEGImages", self.masks))]
        if name == "train" and self.sbd is not None:
            held_out = {sample_id(other) for other in self._names_of("val")}
            more = [other for other in _names(self.sbd / "train_noval.txt") if sample_id(other) not in held_out]
            sources.append(self._source(self.sbd, more, Beside("img", "cls", ".mat")))
        return Joined(sources)

    def check(self) -> Mapping[str, list[str]]:
        """What `data check` can't see from the samples: images that are in both splits' lists."""
        both = sorted({*self._names_of("train")} & {*self._names_of("val")})
        return {"leak": [f"{name} is in the lists {' and '.join(self.lists.values())}" for name in both]}

    def _names_of(self, split: str) -> list[str]:
        return _names(self.root / "ImageSets" / "Segmentation" / f"{self.lists[split]}.txt")

    def _source(self, root: Path, names: Sequence[str], beside: Beside) -> MaskedSource:
        index = listed(root, [f"{beside.images}/{name}.jpg" for name in names])
        return MaskedSource(index, beside, Decoding(), MaskDecoding(len(CLASSES)))


def _devkit(root: str | Path | None) -> Path:
    given = root if root is not None else os.environ.get("DATASET_PATH")
    if given is None:
        raise DataError("there is no data folder; set data.root (paths.data), or the variable DATASET_PATH")
    top = Path(given).expanduser()
    for place in (top / "VOCdevkit" / "VOC2012", top / "VOC2012", top):
        if (place / "ImageSets" / "Segmentation").is_dir():
            return place
    whose = "data.root" if root is not None else "the variable DATASET_PATH"
    missing = "VOCdevkit/VOC2012/ImageSets/Segmentation" if top.is_dir() else "such folder"
    raise DataError(
        f"{top}: there is no {missing}; set {whose} to the folder that holds VOCdevkit, or fetch it: "
        "calotype data download voc2012"
    )


def _sbd(given: str | Path) -> Path:
    if given == "auto":
        if "SBD_DATASET_PATH" not in os.environ:
            raise DataError("data.sbd is auto, and the variable SBD_DATASET_PATH isn't set")
        given = os.environ["SBD_DATASET_PATH"]
    top = Path(given).expanduser()
    missing = [name for name in ("img", "cls", "train_noval.txt") if not (top / name).exists()]
    if missing:
        raise DataError(
            f"{top}: there is no {', '.join(missing)}; set data.sbd or SBD_DATASET_PATH to the folder of SBD, or "
            "fetch it: calotype data download sbd"
        )
    return top


def _names(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        others = sorted(file.stem for file in path.parent.glob("*.txt"))
        known = f"; there are {', '.join(others)}" if others else ""
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}){known}") from error
    if not names:
        raise DataError(f"{path} names no image")
    doubled = len(names) - len(np.unique(names))
    if doubled:
        raise DataError(f"{path} names {doubled} images more than once")
    return names
