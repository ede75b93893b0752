"""COCO for detection, as it lies on disk when it is unpacked, and other data in its layouts.

Classes are the categories of the training split in the order of the file, not of their ids, which have gaps. Unusual:
annotations of categories that `classes` leaves out are no boxes at all; what is wrong with an annotation is kept and
told (`data.on_error`), nothing is dropped silently.
Source: T.-Y. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from calotype import archives
from calotype.data import class_names, coco_file
from calotype.data.annotations import Annotations
from calotype.data.box_check import texts_of
from calotype.data.boxed import BoxedSource, Training, sized
from calotype.data.coco_file import CocoFile
from calotype.data.images import MAX_PIXELS, Background, Mode
from calotype.data.source import ALIASES, Decoding
from calotype.errors import ConfigError, DataError
from calotype.fetch import Progress, Remote, fetch, quiet

SPLITS = ("train", "val", "test")
NAMED = 10
"""Names that a message has."""
_ROBOFLOW = "_annotations.coco.json"
_OTHERS = {"data.yaml": "yolo", "Annotations": "voc_boxes", "VOCdevkit": "voc_boxes", "*.csv": "box_table"}
"""What a folder in another layout has, and the group that reads it."""
_ZIPS = "http://images.cocodataset.org/zips"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a split lies: its file of annotations, and the folder that the names of images count from."""

    annotations: Path
    images: Path


@dataclass(eq=False)
class Coco:
    """The splits that `train`, `val` and `test` give, each {annotations: FILE, images: FOLDER} below `root`; without
    any of them those that are found there: annotations/instances_train2017.json with train2017, annotations/
    instances_train.json with images/train, train or images, or train/_annotations.coco.json, its images beside it.

    `classes` are the names of the categories that count, in their order; by default all, in the order of the training
    split's file. `crowd` says whether boxes around a crowd are trained by. Of the splits in `leave_out_empty` images
    without a sound box are left out. `mode`, `background` and `max_pixels` as in `images.decode`. Sample ids are the
    file's. Raises ConfigError, or DataError naming what is missing.
    """

    archives: ClassVar[Mapping[str, Remote]] = {
        "train2017": Remote(
            "train2017.zip",
            19_336_861_798,
            "",
            (f"{_ZIPS}/train2017.zip",),
            md5="cced6f7f71b7629ddf16f17bbcfab6b2",
        ),
        "val2017": Remote(
            "val2017.zip", 815_585_330, "", (f"{_ZIPS}/val2017.zip",), md5="442b8da7639aecaf257c1dceb8ba8c80"
        ),
        "annotations": Remote(
            "annotations_trainval2017.zip",
            252_907_541,
            "",
            ("http://images.cocodataset.org/annotations/annotations_trainval2017.zip",),
            md5="f4bbac642086de4f52a3fdda2de5fa2c",
        ),
    }

    root: str | Path
    train: Mapping[str, str] | None = None
    val: Mapping[str, str] | None = None
    test: Mapping[str, str] | None = None
    classes: Sequence[str] | None = None
    crowd: bool = False
    leave_out_empty: Sequence[str] = ()
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self.top = Path(self.root).expanduser().absolute()
        self.decoding = Decoding(self.mode, self.background, self.max_pixels)
        if odd := [name for name in self.leave_out_empty if name not in SPLITS]:
            raise ConfigError(f"{odd[0]!r} is none of {', '.join(SPLITS)}", key="data.leave_out_empty")
        given = {name: getattr(self, name) for name in SPLITS if getattr(self, name) is not None}
        self.places = {name: _given(self.top, name, place) for name, place in given.items()} or _found(self.top)
        self.splits: Sequence[str] = tuple(name for name in SPLITS if name in self.places)
        self._files: dict[str, CocoFile] = {}
        self.classes = _classes(self.classes, self.file(self.splits[0]))

    @property
    def category_ids(self) -> Sequence[int]:
        """The id that the training split's file has for each class."""
        return self.ids_of(self.splits[0])

    def ids_of(self, split: str) -> Sequence[int]:
        """The id that a split's file has for each class."""
        ids = dict(zip(self.file(split).names, self.file(split).category_ids, strict=True))
        return tuple(ids[name] for name in self.classes or ())

    def split(self, name: str) -> BoxedSource:
        """Split `name`. Raises DataError for one that there isn't, that is empty, or that has other categories."""
        if name not in self.places:
            raise DataError(f"{self.top} has no split {name!r}, only {', '.join(self.splits)}")
        place, found = self.places[name], self.file(name)
        annotations = self._of_classes(name, found)
        containers, empty = {place.annotations: found.sha256}, name not in self.leave_out_empty
        training = Training(self.crowd, empty=empty)
        source = BoxedSource(annotations, self.decoding, None, training, containers)
        if not len(source):
            raise DataError(f"{place.annotations}: has no image{'' if empty else ' with a sound box'}")
        return source

    def file(self, split: str) -> CocoFile:
        """The annotations of a split, read or mapped when they are first asked for."""
        if split not in self._files:
            place = self.places[split]
            if not place.images.is_dir():
                raise DataError(
                    f"{place.images}: there is no such folder, and the images of {split} belong there; set paths.data "
                    "(COCO 2017 is fetched by: calotype data download coco2017)"
                )
            inside = place.images.is_relative_to(self.top) and ".." not in place.images.relative_to(self.top).parts
            root = self.top if inside else place.images
            below = place.images.relative_to(root).as_posix()
            found = coco_file.read(place.annotations, root, "" if below == "." else below)
            self._files[split] = replace(found, annotations=sized(found.annotations))
        return self._files[split]

    def _of_classes(self, split: str, found: CocoFile) -> Annotations:
        """The annotations of a split with our classes, without those of others."""
        classes = tuple(self.classes or ())
        first = self.file(self.splits[0])
        lacks = [name for name in classes if name not in found.names]
        more = [name for name in found.names if name not in first.names]
        for names, what in ((lacks, "no"), (more, "also a")):
            if names:
                told = f"{', '.join(map(repr, names[:NAMED]))}, unlike {self.places[self.splits[0]].annotations}"
                raise DataError(f"{self.places[split].annotations}: has {what} category {told}")
        if classes == found.names:
            return found.annotations
        place = {name: number for number, name in enumerate(classes)}
        numbers = np.array([place.get(name, -1) for name in found.names] + [-1], np.int16)
        labels = found.annotations.labels
        kept = (labels < 0) | (numbers[labels] >= 0)
        return found.annotations.relabelled(numbers[labels]).only(kept)

    def check(self) -> dict[str, list[str]]:
        """What `data check` can't see from the samples, by kind: boxes that can't be used, annotations of no image,
        images that there are twice; and, as notes, boxes that reach out of their image, polygons of fewer than three
        points, crowds, how many images have no box.
        """
        found: dict[str, list[str]] = {}
        for split in self.splits:
            file = self.places[split].annotations
            where = file.relative_to(self.top) if file.is_relative_to(self.top) else file
            for kind, text in self._told(split):
                found.setdefault(kind, []).append(f"{where}: {text}")
        return found

    def _told(self, split: str) -> Iterator[tuple[str, str]]:
        annotations = self._of_classes(split, self.file(split))
        for kind, texts in texts_of(annotations).items():
            yield from ((kind, text) for text in texts)
        for image, number in coco_file.thin(self.places[split].annotations):
            yield "polygon", f"image {image}: {annotations.told(number)} has a polygon of fewer than three points"
        yield from _without(split, annotations.only(annotations.flaws == 0), self.classes or ())

    @classmethod
    def download(cls, root: Path, progress: Progress = quiet) -> Path:
        """Fetch COCO 2017 into `root`, check it, and put it into `root`/annotations, train2017 and val2017; `root`.
        What is there is kept. Raises DataError when no source gives the published bytes.
        """
        for name, archive in cls.archives.items():
            if not (root / name).is_dir():
                archives.extract_folder(fetch(archive, root, progress), name, root / name)
        return root


def _without(split: str, sound: Annotations, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Images and, in train, classes that have no box."""
    empty = int((sound.counts() == 0).sum())
    if empty:
        yield "no_boxes", f"{empty} of {len(sound)} images {'has' if empty == 1 else 'have'} no sound box"
    counts = np.bincount(sound.labels, minlength=len(classes))
    for number in np.flatnonzero(counts == 0).tolist() if split == "train" else ():
        yield "empty_class", f"no box is of {classes[number]}"


def _classes(given: Sequence[str] | None, first: CocoFile) -> Sequence[str]:
    """The names of the classes. Raises ConfigError for one that is no category, or there twice."""
    if given is None:
        return first.names
    names = class_names.given(given)
    if odd := [name for name in names if name not in first.names]:
        known = ", ".join(first.names[:NAMED]) + (", ..." if len(first.names) > NAMED else "")
        raise ConfigError(f"{odd[0]!r} is no category; there are {known}", key="data.classes")
    return names


def _given(top: Path, split: str, place: Mapping[str, str]) -> Place:
    """A split's place as a config gives it."""
    if not isinstance(place, Mapping) or {*place} != {"annotations", "images"}:
        raise ConfigError("is to be {annotations: FILE, images: FOLDER}", key=f"data.{split}")
    file, folder = (top / Path(place[key]).expanduser() for key in ("annotations", "images"))
    return Place(file, folder)


def _found(top: Path) -> dict[str, Place]:
    """The places of the splits that lie in a folder in one of the layouts."""
    if not top.is_dir():
        raise DataError(f"{top}: there is no such folder; set data.root or paths.data")
    found: dict[str, Place] = {}
    for file in sorted([*top.glob("annotations/instances_*.json"), *top.glob(f"*/{_ROBOFLOW}")]):
        beside = file.name == _ROBOFLOW
        name = file.parent.name if beside else file.stem.removeprefix("instances_")
        split = ALIASES.get(name.removesuffix("2017").removesuffix("2014"))
        if split is None:
            continue
        if split in found:
            both = f"{found[split].annotations} and {file} are both the {split} split"
            raise DataError(f"{both}; say which by data.{split}, and likewise of the others")
        places = [file.parent] if beside else [top / "images" / name, top / name, top / "images"]
        found[split] = Place(file, next((place for place in places if place.is_dir()), top / name))
    if not found:
        other = next((group for name, group in _OTHERS.items() if [*top.glob(name)]), None)
        hint = f"or take data={other}, whose layout it looks like" if other else "or say data.train"
        raise DataError(
            f"{top}: there is no annotations/instances_train2017.json, annotations/instances_train.json or "
            f"train/{_ROBOFLOW}; set paths.data, {hint}, or fetch COCO: calotype data download coco2017"
        )
    return found
