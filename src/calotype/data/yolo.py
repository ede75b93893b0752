"""Images with boxes in the layout of Ultralytics: a data.yaml, images in .../images/..., and in .../labels/... a text
for each of them, whose lines are `class cx cy w h` in parts of its width and height.

A line of more corners is a polygon, of which the bounding box counts; where data.yaml has a kpt_shape, a line is a box
with that many keypoints, which are left out. An image without labels is one without boxes. The size of an image is read
from its header when a split is opened.
Source: Ultralytics, "Object Detection Datasets Overview" and its `verify_image_label`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calotype.data import class_names
from calotype.data.annotations import NO_NUMBERS, OTHER_COLUMNS, Annotations, required
from calotype.data.box_check import texts_of
from calotype.data.boxed import BoxedSource
from calotype.data.collector import UNREADABLE, Collector
from calotype.data.images import MAX_PIXELS, Background, Mode, size_of
from calotype.data.index import SUFFIXES, FileIndex, Packer, Paths, folder_index
from calotype.data.masked import listed
from calotype.data.rows import bases, below
from calotype.data.source import Decoding
from calotype.errors import DataError
from calotype.yaml_tree import Rules, read

SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
"""Keys of data.yaml that name a split."""
RULES = Rules("a data.yaml", DataError, numbers=True)
MAX_BYTES = 64 << 20
NAMED = 5


@dataclass(eq=False)
class YOLO:
    """The splits that `root`/`file` names, each a folder, a list of paths in a .txt, or several of them.

    Paths count from the folder that `path` says in it where that is below the root, else from the file's own folder, as
    do the lines of a list that begin with ./ from the list's; none may lead out of the root. `mode`, `background`,
    `max_pixels` as in `images.decode`. Raises DataError naming the file and the key.
    """

    root: str | Path
    file: str = "data.yaml"
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self.top = Path(self.root).expanduser()
        self.decoding = Decoding(self.mode, self.background, self.max_pixels)
        self.yaml = self.top / self.file
        if not self.yaml.is_file():
            others = ", ".join(sorted(path.name for path in self.top.glob("*.y*ml"))[:NAMED])
            raise DataError(f"{self.yaml}: there is no such file{f', only {others}' if others else ''}; set data.file")
        tree = read(self.yaml, RULES).tree
        if not isinstance(tree, dict):
            raise DataError(f"{self.yaml} has no keys; it names train, val and names")
        self.classes: Sequence[str] = _classes(tree, self.yaml)
        self._keypoints = _keypoints(tree, self.yaml)
        self._bases = bases(self.top)
        self._base = self._start(tree.get("path"))
        self._entries = {split: _entries(tree, keys, self.yaml) for split, keys in SPLITS.items()}
        self.splits: Sequence[str] = tuple(split for split, entries in self._entries.items() if entries)
        if not self.splits:
            raise DataError(f"{self.yaml} names none of train, val, test")
        self._read: dict[str, Annotations] = {}
        self._ignored: dict[str, Counter[str]] = {}
        self._labelled: dict[str, list[str]] = {}

    def split(self, name: str) -> BoxedSource:
        """Split `name`. Raises DataError for one that there isn't, or that has no image."""
        if name not in self.splits:
            raise DataError(f"{self.yaml} has no split {name!r}, only {', '.join(self.splits)}")
        annotations = self.annotations(name)
        beside = Paths(listed(annotations.images.root, self._labelled[name]))
        return BoxedSource(annotations, self.decoding, beside=beside)

    def annotations(self, split: str) -> Annotations:
        """The images and boxes of a split, read when they are first asked for."""
        if split not in self._read:
            images = self._images(split)
            collector = Collector(images.root, "label line")
            self._labelled[split] = []
            for row in range(len(images)):
                self._take(collector, images, row, self._labelled[split])
            told = f"{split} ({', '.join(self._entries[split])}) of {self.yaml}"
            self._read[split] = required(collector.packed(self.classes), told)
        return self._read[split]

    def check(self) -> dict[str, list[str]]:
        """What `data check` can't see from the samples: boxes with a flaw, images without a file of labels."""
        found: dict[str, list[str]] = {}
        for split in self.splits:
            read = self.annotations(split)
            for kind, texts in texts_of(read).items():
                found.setdefault(kind, []).extend(texts)
            if missing := len(read) - len(self._labelled[split]):
                told = f"{split}: {missing} of {len(read)} images have no file of labels, and count as without boxes"
                found.setdefault("no_boxes", []).append(told)
            if ignored := self._ignored.get(split):
                told = f"{split}: {', '.join(f'{count} {kind}' for kind, count in ignored.items())}"
                found.setdefault("passed_over", []).append(told)
        return found

    def _start(self, path: Any) -> str:
        """The folder that paths count from, as it counts from the root. One that leads out is another machine's."""
        found = below(self._bases, str(path)) if path is not None else ""
        return found if found and (self.top / found).is_dir() else self.file.rpartition("/")[0]

    def _images(self, split: str) -> FileIndex:
        """The images of a split by their paths below the root, each once."""
        names: dict[bytes, None] = {}
        for entry in self._entries[split]:
            place = self._place(entry, split)
            if (self.top / place).is_dir():
                index = folder_index(self.top, place, by_class=False)
                self._ignored.setdefault(split, Counter()).update(index.ignored)
                names.update(
                    dict.fromkeys(index.name(row).encode("utf-8", "surrogateescape") for row in range(len(index)))
                )
            else:
                names.update(dict.fromkeys(self._listed(self.top / place, place)))
        packer = Packer()
        for name in names:
            packer.add(name)
        return packer.index(self.top, self.classes)

    def _place(self, entry: str, split: str) -> str:
        """A folder or list, as it counts from the root; one that begins with ../ is looked for without that too, since
        exports write it so.
        """
        inside = entry
        while inside.startswith("../"):
            inside = inside[3:]
        places = [below(self._bases, path, self._base) for path in (entry, inside)]
        found = next((place for place in places if place is not None and (self.top / place).exists()), None)
        if found is not None:
            return found
        if places[0] is None:
            raise DataError(f"{self.yaml}: {split}: {entry!r} leads out of the data set's root")
        raise DataError(f"{self.yaml}: {split}: there is no {self.top / places[0]}")

    def _listed(self, file: Path, place: str) -> Iterator[bytes]:
        """The images that a list names. Raises DataError naming the line that leads out of the root."""
        for number, line in enumerate(_text(file).splitlines(), 1):
            path = line.strip()
            if not path:
                continue
            start = place.rpartition("/")[0] if path.startswith("./") else self._base
            name = below(self._bases, path, start)
            if not name:
                raise DataError(f"{file}:{number}: {path!r} leads out of the data set's root")
            if Path(name).suffix.lower() not in SUFFIXES:
                raise DataError(f"{file}:{number}: {path!r} has no suffix of an image")
            yield name.encode("utf-8", "surrogateescape")

    def _take(self, collector: Collector, images: FileIndex, row: int, labelled: list[str]) -> None:
        """Add an image with the boxes of its labels, and those to the files that there are."""
        name, number = images.name(row), int(images.ids[row])
        size = size_of(images.path(row)) or UNREADABLE
        collector.add_image(name, number, *size)
        labels = labels_of(name)
        path = images.root / labels
        if not path.is_file():
            return
        labelled.append(labels)
        rows = [*_rows(_text(path), len(self.classes), self._keypoints, collector)]
        if not rows:
            return
        lines, classes, boxes, flaws = zip(*rows, strict=True)
        scale = np.array([size[1], size[0]] * 2, np.float64) if size != UNREADABLE else np.ones(4)
        about = {"numbers": lines, "flaws": flaws}
        collector.add_boxes([number] * len(rows), np.array(boxes) * scale, classes, about)


def labels_of(image: str) -> str:
    """The path of an image's labels: in `labels` for the last `images` above it, or beside it."""
    before, inside, after = f"/{image}".rpartition("/images/")
    stem = (f"{before}/labels/{after}" if inside else after).rpartition(".")[0]
    return f"{stem.lstrip('/')}.txt"


def _classes(tree: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """The names of classes: a list, or a map by numbers from 0; of `nc` alone those numbers."""
    names, count = tree.get("names"), tree.get("nc")
    if names is None and isinstance(count, int):
        names = [str(number) for number in range(min(count, class_names.MOST + 1))]
        count = len(names)
    if isinstance(names, Mapping):
        numbers = [str(number) for number in range(len(names))]
        if odd := next((key for key in names if key not in numbers), None):
            raise DataError(f"{file}: names: {odd!r} is none of the numbers 0..{len(names) - 1}")
        names = [names[number] for number in numbers]
    if not isinstance(names, list):
        raise DataError(f"{file}: names must be a list of the classes, or a map by their numbers")
    if isinstance(count, int) and count != len(names):
        raise DataError(f"{file}: nc is {count}, and names has {len(names)}")
    return class_names.told([str(name) for name in names], f"{file}: names")


def _keypoints(tree: Mapping[str, Any], file: Path) -> int | None:
    """How many values of keypoints follow each box; None without a kpt_shape, where it may be a polygon."""
    shape = tree.get("kpt_shape")
    if shape is None:
        return None
    if (
        not isinstance(shape, list)
        or [type(size) for size in shape] != [int, int]
        or shape[0] < 1
        or shape[1] not in (2, 3)
    ):
        raise DataError(f"{file}: kpt_shape: {shape!r} is not [number of keypoints, 2 or 3]; mend it, or remove it")
    return int(shape[0] * shape[1])


def _entries(tree: Mapping[str, Any], keys: Sequence[str], file: Path) -> list[str]:
    """The folders and lists of a split."""
    for key in keys:
        value = tree.get(key)
        entries = value if isinstance(value, list) else [value] if value else []
        if odd := next((entry for entry in entries if not isinstance(entry, str)), None):
            raise DataError(f"{file}: {key}: {odd!r} is neither a folder nor a list of files")
        if entries:
            return entries
    return []


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES} bytes, which is no list and no labels of an image")
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error


def _rows(
    text: str, classes: int, keypoints: int | None, collector: Collector
) -> Iterator[tuple[int, int, list[float], int]]:
    """Line, class, box in parts of the image and flaw of each line."""
    for line, cells in enumerate((line.split() for line in text.splitlines()), 1):
        if not cells:
            continue
        box, flaw = _box([_number(cell) for cell in cells[1:]], keypoints)
        number = _number(cells[0])
        known = 0 <= number < classes and number == int(number)
        yield line, int(number) if known else collector.unknown_label(cells[0]), box, flaw


def _box(values: Sequence[float], keypoints: int | None) -> tuple[list[float], int]:
    """xyxy of a box, of one before `keypoints` values, or around a polygon of three corners or more; and its flaw."""
    if keypoints is not None and len(values) != 4 + keypoints:
        return [0.0] * 4, OTHER_COLUMNS
    if keypoints is not None or len(values) == 4:
        x, y, width, height = values[:4]
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0
    if len(values) < 6 or len(values) % 2:
        return [0.0] * 4, NO_NUMBERS
    if not all(map(math.isfinite, values)):
        return [math.nan] * 4, 0
    return [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])], 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
