"""Images with boxes in PASCAL VOC's layout: lists of names in ImageSets/Main, an XML file of boxes beside each image.

An image is JPEGImages/<name> with the suffix that it has there; what the XML calls it isn't followed.
Source: M. Everingham et al., The PASCAL Visual Object Classes Challenge 2012, its development kit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calotype.data import class_names, sbd, voc_xml
from calotype.data.annotations import Annotations, unsafe
from calotype.data.box_check import texts_of
from calotype.data.boxed import BoxedSource, Training, sized
from calotype.data.collector import Collector
from calotype.data.images import MAX_PIXELS, Background, Mode
from calotype.data.index import SUFFIXES, Paths, file_id
from calotype.data.masked import listed
from calotype.data.source import Decoding
from calotype.errors import ConfigError, DataError

if TYPE_CHECKING:
    from calotype.types import IntArray

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
PLACES = ("", "VOCdevkit/VOC2012", "VOCdevkit/VOC2007", "VOC2012", "VOC2007")
SPLITS = ("train", "val", "test")
JOINED = {"trainval": ("train", "val")}
"""Lists that are made of others where they are missing."""
CLASSES = tuple(sbd.CLASSES[1:])
BACKGROUND = sbd.CLASSES[0]
NAMED = 10
"""Names that a message tells."""


@dataclass(eq=False)
class VOCBoxes:
    """The lists of `root`/ImageSets/Main with the boxes of `root`/Annotations. `root` may hold the layout in `folder`,
    or without one in VOCdevkit/VOC2012 or VOCdevkit/VOC2007.

    `lists` names the list of each split, {train: trainval, val: test}; by default those called train, val and test. A
    list trainval that there isn't is train and val. `classes` are the lines of a classes.txt beside ImageSets, without
    it VOC's in a folder of its name, else the names in the annotations, sorted. `one_based` says whether corners count
    from 1 with the last pixel in the box, as VOC's do; `difficult` whether objects that are so are trained on. `mode`,
    `background`, `max_pixels` as in `images.decode`. Raises DataError naming what is missing or wrong.
    """

    root: str | Path
    folder: str | None = None
    lists: Mapping[str, str] | None = None
    classes: Sequence[str] | None = None
    one_based: bool = True
    difficult: bool = True
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self.top = _place(Path(self.root).expanduser(), self.folder)
        self.decoding = Decoding(self.mode, self.background, self.max_pixels)
        self.names = {split: _names(self.top, name) for split, name in self._lists().items()}
        self.splits: Sequence[str] = tuple(self.names)
        self.annotations = self._read(sorted({name for names in self.names.values() for name in names}))

    def split(self, name: str) -> BoxedSource:
        """Split `name`. Raises DataError for one that there isn't."""
        if name not in self.names:
            raise DataError(f"there is no split {name!r}, only {', '.join(self.splits)}")
        wanted = np.array(sorted(file_id(self._image(item).encode()) for item in self.names[name]), np.int64)
        rows: IntArray = np.searchsorted(self.annotations.images.ids, wanted)
        xml = Paths(listed(self.top, [f"{ANNOTATIONS}/{item}.xml" for item in self.names[name]]))
        return BoxedSource(self.annotations, self.decoding, rows, Training(difficult=self.difficult), beside=xml)

    def check(self) -> dict[str, list[str]]:
        """What `data check` can't see from the samples: boxes with a flaw, annotations that are in no list."""
        folder = self.top / ANNOTATIONS
        known = {f"{name}.xml" for names in self.names.values() for name in names}
        unlisted = sum(str(path.relative_to(folder)) not in known for path in folder.rglob("*.xml"))
        more = {"passed_over": [f"{folder}: {unlisted} .xml in no list"]} if unlisted else {}
        return {**texts_of(self.annotations), **more}

    def _lists(self) -> Mapping[str, str]:
        there = _known(self.top)
        if self.lists is None:
            found = {split: split for split in SPLITS if split in there}
            if "train" not in found:
                raise DataError(f"{self.top / LISTS} has no train.txt, only {_told(there)}; set data.lists")
            return found
        if not self.lists:
            raise ConfigError("names no list; such as {train: trainval, val: test}", key="data.lists")
        for split, name in self.lists.items():
            if split not in SPLITS:
                raise ConfigError(f"{split!r} is none of {', '.join(SPLITS)}", key="data.lists")
            if name not in there and not set(JOINED.get(name, [name])) <= there:
                raise ConfigError(f"{self.top / LISTS} has no {name}.txt, only {_told(there)}", key="data.lists")
        return self.lists

    def _image(self, name: str) -> str:
        """Its path below the root; with .jpg where there is none."""
        return self._images.get(name, f"{IMAGES}/{name}.jpg")

    def _read(self, names: Sequence[str]) -> Annotations:
        """The annotations of images. Raises DataError naming the files that are no annotation."""
        self._images = _images(self.top, names)
        read, wrong = dict[str, voc_xml.Annotation](), list[str]()
        for name in names:
            try:
                read[name] = voc_xml.read_annotation(self.top / ANNOTATIONS / f"{name}.xml")
            except DataError as error:
                wrong.append(error.message)
        if wrong:
            more = f"\nand {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise DataError("\n".join(wrong[:NAMED]) + more)
        self.classes = self._classes(read)
        place = {name: number for number, name in enumerate(self.classes)}
        collector = Collector(self.top, "object")
        for name, found in read.items():
            image = self._image(name)
            number = file_id(image.encode())
            collector.add_image(image, number, *found.size)
            labels = [_label(about, place, collector) for about in found.objects]
            collector.add_boxes(
                [number] * len(labels),
                [voc_xml.corners(about, self.one_based) for about in found.objects],
                labels,
                {"flags": [*map(voc_xml.flags, found.objects)], "numbers": range(1, len(labels) + 1)},
            )
        return sized(collector.packed(self.classes))

    def _classes(self, read: Mapping[str, voc_xml.Annotation]) -> tuple[str, ...]:
        if self.classes is not None:
            return class_names.given(self.classes)
        if (self.top / "classes.txt").is_file():
            found = class_names.lines(self.top / "classes.txt")
            return found[1:] if found[0] == BACKGROUND else found  # of masks, which have one
        names = {about["name"] for one in read.values() for about in one.objects if about.get("name")}
        if self.top.name.startswith("VOC20") and names <= {*CLASSES}:
            return CLASSES
        if not names:
            raise DataError(f"{self.top / ANNOTATIONS}: no object has a name; set data.classes")
        return tuple(sorted(names))


def _label(about: Mapping[str, str], place: Mapping[str, int], collector: Collector) -> int:
    name = about.get("name", "")
    return place[name] if name in place else collector.unknown_label(name)


def _place(top: Path, folder: str | None) -> Path:
    """Where the layout lies. Raises DataError where it doesn't, or in two places."""
    places = [top / name for name in (PLACES if folder is None else (folder, ""))]
    found = [place for place in places if (place / ANNOTATIONS).is_dir() and (place / LISTS).is_dir()]
    if not found:
        where = f"VOCdevkit/VOC2012 or VOCdevkit/VOC2007 of {top}" if folder is None else f"{top / folder}"
        raise DataError(f"{top}: there are no {ANNOTATIONS} and {LISTS}, neither here nor in {where}; set paths.data")
    if folder is None and len(found) > 1 and found[0] != top:
        told = " and ".join(str(place.relative_to(top)) for place in found)
        raise DataError(f"{top} has {told}; say which by data.folder")
    return found[0]


def _known(top: Path) -> set[str]:
    return {path.stem for path in (top / LISTS).glob("*.txt")}


def _told(names: set[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(sorted(names, key=lambda name: (len(name), name))[:NAMED]) or 'no list'}{more}"


def _names(top: Path, name: str) -> list[str]:
    """The images of a list, or of those that it is made of, each once. Raises DataError for a list that names none, one
    twice, or no file's name.
    """
    file = top / LISTS / f"{name}.txt"
    if not file.is_file():
        return [*dict.fromkeys(item for part in JOINED[name] for item in _names(top, part))]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't be read ({getattr(error, 'strerror', None) or error})") from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        item = line.strip()
        if not item:
            continue
        if len(item.split()) == 2 and item.split()[1] in ("1", "-1", "0"):
            raise DataError(f"{file}:{number}: {item!r} tells which images have a class; name a list of images")
        if reason := unsafe(item):
            raise DataError(f"{file}:{number}: {item!r} {reason}")
        if item in found:
            raise DataError(f"{file}:{number}: names {item!r} of line {found[item]} again")
        found[item] = number
    if not found:
        raise DataError(f"{file} names no image")
    return [*found]


def _images(top: Path, names: Sequence[str]) -> dict[str, str]:
    """The paths of images below the root, of those that have another suffix than .jpg."""
    others = [".jpg", *sorted(SUFFIXES - {".jpg"}), *sorted(suffix.upper() for suffix in SUFFIXES)]
    found = {}
    for name in names:
        paths = (f"{IMAGES}/{name}{suffix}" for suffix in others)
        image = next((path for path in paths if (top / path).is_file()), None)
        if image is not None and not image.endswith(".jpg"):
            found[name] = image
    return found
