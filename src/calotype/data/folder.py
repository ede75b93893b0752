"""A folder of images, one folder a class: `root`/{train,val,test}/<class>/** or, without splits, `root`/<class>/**.

`valid` and `validation` mean `val`. Classes are the names of the training split's class folders, sorted. Images are
found by suffix in any case, at any depth below their class; hidden files and those of other suffixes are passed over
and counted. Unusual: links are followed, but not round in circles; a split that no folder gives is drawn from the
files' names, so that a file keeps its split when others come and go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from calotype.data.images import MAX_PIXELS, Background, Mode
from calotype.data.index import FileIndex, folder_index
from calotype.data.source import ALIASES, Decoding, Fractions, ImageSource
from calotype.errors import DataError

if TYPE_CHECKING:
    from calotype.types import IntArray


@dataclass(eq=False)
class ImageFolder:
    """Images under `root` with the class of the folder that they lie in.

    `mode`, `background` and `max_pixels` say what files become (`images.decode`). `val_fraction` and `test_fraction`
    are shares of the training images, drawn by `split_seed`, for splits that have no folder. `layout` says whether
    the folders in `root` are splits or classes; auto: splits, if one is called train. Raises DataError for a root that
    is neither.
    """

    root: str | Path
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS
    val_fraction: float = 0.0
    test_fraction: float = 0.0
    split_seed: int = 0
    layout: Literal["auto", "splits", "classes"] = "auto"

    def __post_init__(self) -> None:
        self.top = Path(self.root).expanduser()
        self.decoding = Decoding(self.mode, self.background, self.max_pixels)
        self.fractions = Fractions(self.val_fraction, self.test_fraction, self.split_seed)
        self.folders = _split_folders(self.top, self.layout)
        places = {name: self.top / folder for name, folder in self.folders.items()}
        self.splits: Sequence[str] = self.fractions.splits(places)
        self.classes: Sequence[str] = tuple(_visible(self.top / self.folders["train"]))
        if not self.classes:
            raise DataError(f"{self.top / self.folders['train']} has no folder of a class in it")
        self._indices: dict[str, FileIndex] = {}
        self._dealt: Mapping[str, IntArray] | None = None

    def split(self, name: str) -> ImageSource:
        """Split `name`. Raises DataError for one that there isn't, that is empty, or has a class that train has not."""
        if name not in self.splits:
            raise DataError(f"{self.top} has no split {name!r}, only {', '.join(self.splits)}")
        index = self.index(name if name in self.folders else "train")
        if not len(index):
            told = ", ".join(f"{count} {kind}" for kind, count in index.ignored.items()) or "nothing"
            raise DataError(f"{self.top / self.folders.get(name, '')} has no image in it, only {told}")
        rows = None
        if self.fractions.any() and (name not in self.folders or name == "train"):
            self._dealt = self._dealt or self.fractions.deal(index.ids)
            rows = self._dealt[name]
        return ImageSource(index, self.decoding, rows=rows, renumbered=self._renumbered(index, name))

    def index(self, name: str) -> FileIndex:
        """The files in the folder of a split, scanned or mapped when it is first asked for."""
        if name not in self._indices:
            self._indices[name] = folder_index(self.top, self.folders[name])
        return self._indices[name]

    def check(self) -> dict[str, list[str]]:
        """What `data check` can't see from the samples: the files that were passed over, by kind."""
        indices = {self.folders[name]: self.index(name) for name in self.folders}
        texts = (
            f"{self.top / folder}: {', '.join(f'{count} {kind}' for kind, count in index.ignored.items())}"
            for folder, index in indices.items()
            if index.ignored
        )
        return {"passed_over": [*texts]}

    def _renumbered(self, index: FileIndex, name: str) -> IntArray | None:
        """The classes of an index as positions in ours; None where they are the same."""
        if index.classes == self.classes:
            return None
        place = {label: number for number, label in enumerate(self.classes)}
        unknown = [label for label in index.classes if label not in place]
        if unknown:
            raise DataError(
                f"{self.top / self.folders[name]}: {', '.join(map(repr, unknown[:5]))} is no class of "
                f"{self.top / self.folders['train']}"
            )
        return np.array([place[label] for label in index.classes], np.int64)


def _visible(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted as bytes; hidden ones aside."""
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(b"."))
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror}); set data.root or paths.data") from error
    return [os.fsdecode(name) for name in found]


def _split_folders(root: Path, layout: str) -> dict[str, str]:
    """The folder of each split, below the root; "" for the root itself."""
    names = _visible(root)
    if layout == "classes" or (layout == "auto" and "train" not in names):
        return {"train": ""}
    if "train" not in names:
        raise DataError(f"{root} has no folder train, only {', '.join(names) or 'no folder'}")
    odd = [name for name in names if name not in ALIASES]
    if odd and layout == "auto":
        raise DataError(
            f"{root}: {', '.join(odd[:5])} beside train is no split; say data.layout=splits to pass it over, or "
            "data.layout=classes if train is a class"
        )
    found: dict[str, str] = {}
    for name in (name for name in names if name in ALIASES):
        split = ALIASES[name]
        if split in found:
            raise DataError(f"{root}: {found[split]} and {name} are both the {split} split; remove one")
        found[split] = name
    return found
