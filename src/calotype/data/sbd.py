"""The Semantic Boundaries Dataset (SBD): 11,355 images of PASCAL VOC 2011 with masks of VOC's classes, as MATLAB files.

Its own lists `train` and `val` are not VOC's: many images of VOC's validation split are in its `train`. Beside VOC it
is trained on by its list `train_noval` (`data.sbd` of VOCSegmentation), which has none of them.
Source: B. Hariharan et al., Semantic contours from inverse detectors, ICCV 2011.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from calotype import archives
from calotype.data import masks
from calotype.data.masked import Beside, Joined, MaskDecoding, MaskedSource, listed, names_in
from calotype.data.source import Decoding
from calotype.errors import DataError
from calotype.fetch import Progress, Remote, fetch, quiet

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "tv/monitor"),
)
"""PASCAL VOC's, which are SBD's too."""
FOLDER = "SBD"
VARIABLE = "SBD_DATASET_PATH"
_BERKELEY = "eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"


class SBDSegmentation:
    """The lists `train` and `val` of the folder that holds SBD's `img` and `cls`: `root`, or `SBD` in it, or the folder
    that its archive makes there. Without a root the variable SBD_DATASET_PATH is asked. Raises DataError naming what is
    missing.
    """

    classes: ClassVar[Sequence[str]] = CLASSES
    splits: ClassVar[Sequence[str]] = ("train", "val")
    archive: ClassVar[Remote] = Remote(
        "benchmark.tgz",
        1_419_539_633,
        "",
        (f"https://www2.{_BERKELEY}", f"http://www.{_BERKELEY}"),
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
    )
    train_noval: ClassVar[Remote] = Remote(
        "train_noval.txt",
        0,
        "",
        (
            "https://www.cs.cornell.edu/~bharathh/train_noval.txt",
            "http://home.bharathh.info/pubs/codes/SBD/train_noval.txt",
        ),
        md5="79bff800c5f0b1ec6b21080a3c066722",
    )

    def __init__(self, root: str | Path | None = None, train: str = "train", val: str = "val") -> None:
        given = root if root is not None else os.environ.get(VARIABLE)
        if given is None:
            raise DataError(f"there is no data folder; set data.root (paths.data), or the variable {VARIABLE}")
        self.lists = {"train": train, "val": val}
        self.root = found(Path(given), [f"{name}.txt" for name in self.lists.values()])

    def split(self, name: str) -> Joined:
        """Split `name`. Raises DataError for one there is none of, and for a list that is missing or empty."""
        if name not in self.lists:
            raise DataError(f"there is no split {name!r}, only {', '.join(self.splits)}")
        return Joined([pairs(self.root, names_in(self.root / f"{self.lists[name]}.txt"))])

    @classmethod
    def download(cls, root: Path, progress: Progress = quiet) -> Path:
        """Fetch the archive and the list `train_noval` into `root`, check them, and put SBD into `root`/SBD; that
        folder. What is there is kept. Raises DataError when no source gives the published bytes.
        """
        place = root / FOLDER
        if not place.is_dir():
            archives.extract_folder(fetch(cls.archive, root, progress), "benchmark_RELEASE/dataset", place)
        fetch(cls.train_noval, place, progress)
        return place


def pairs(root: Path, names: Sequence[str]) -> MaskedSource:
    """Images of SBD by their names, with their masks."""
    index = listed(root, [f"img/{name}.jpg" for name in names])
    meaning = masks.Meaning.counted(len(CLASSES))
    return MaskedSource(index, Beside("img", "cls", (".mat",)), Decoding(), MaskDecoding(meaning))


def found(root: Path, lists: Sequence[str]) -> Path:
    """The folder of SBD in a folder. Raises DataError naming what it misses."""
    top = root.expanduser()
    places = (top, top / FOLDER, top / "benchmark_RELEASE" / "dataset")
    place = next((place for place in places if (place / "img").is_dir()), top)
    missing = [name for name in ("img", "cls", *lists) if not (place / name).exists()]
    if missing:
        raise DataError(
            f"{place}: there is no {', '.join(missing)}; name the folder of SBD by data.sbd, paths.data or "
            f"{VARIABLE}, or fetch it: calotype data download sbd"
        )
    return place
