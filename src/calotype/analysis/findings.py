"""What is wrong with a data set, and what is odd, told from a row of facts for each of its samples.

A problem spoils training or what is measured after it; a note may be as it is meant. Of the same image several times,
each time but the first is told, beside the first: splits are gone through in the order train, val, test, so an image of
val that is in train as well is a leak from train.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from calotype.analysis.duplicates import SMALL, near
from calotype.analysis.looks import FORMATS, MODES, ODD_LABEL, SEVERAL
from calotype.types import Source

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray

Finding: TypeAlias = "dict[str, Any]"
"""`text` says it all; `split`, `id`, `name` are the sample's, `other` those of the sample it is like."""

PROBLEMS = {
    "data_set": "the data set can't be opened as it is",
    "broken": "can't be read",
    "label": "label that is no class",
    "empty_class": "class without an image in train",
    "missing_class": "class that another split lacks",
    "leak": "the same image in two splits",
    "near_leak": "nearly the same image in two splits",
    "conflict": "the same image with different labels or masks",
    "void": "mask of void alone",
    "shared": "images that share a mask",
    "boxes": "boxes that can't be used",
    "doubled": "images that are there twice",
    "stray": "annotations of no image",
}
NOTES = {
    "duplicate": "the same image twice in a split",
    "near_duplicate": "nearly the same image twice in a split",
    "incomplete": "near copies not all found",
    "small": "very small",
    "proportions": "far wider or higher than the rest",
    "one_colour": "one colour",
    "animated": "several frames, the first is taken",
    "mode": "another pixel mode than most",
    "suffix": "suffix of another format",
    "imbalance": "classes of unequal size",
    "passed_over": "files passed over",
    "unpaired": "mask without an image",
    "reaching": "boxes that reach out of their image",
    "polygon": "polygons of fewer than three points",
    "crowd": "boxes around a crowd",
    "no_boxes": "images without a box",
}
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"), "GIF": (".gif",),
}  # fmt: skip
ORDER = ("train", "val", "test")
SMALL_SIDE, SMALL_SHARE = 8, 1 / 8
"""An image is very small whose shorter side is below so many pixels, or this share of the others' in the middle."""
STRETCH = 5.0
"""Times by which an image's proportions may differ from those in the middle."""
UNEQUAL = 3.0


@dataclass(frozen=True, slots=True)
class Part:
    """A split's samples: positions that could be read, a row of `looks.check_row` for each, reasons of the others."""

    split: str
    source: Source
    positions: IntArray
    rows: npt.NDArray[Any]
    broken: Mapping[int, str]

    def about(self, position: int, text: str) -> Finding:
        """A finding about a sample."""
        name = self.source.name(position)
        place = {"split": self.split, "id": int(self.source.ids[position]), "name": name}
        return {**place, "text": f"{name}: {text}"}


@dataclass(slots=True)
class Report:
    """The findings by kind."""

    found: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, kind: str, finding: Finding | str) -> None:
        """Add one; a text is a finding about no sample."""
        self.found.setdefault(kind, []).append({"text": finding} if isinstance(finding, str) else finding)

    def of(self, kinds: Mapping[str, str]) -> dict[str, list[Finding]]:
        """The findings of some kinds, by split and name; a kind of which there is none is left out."""
        return {kind: sorted(self.found[kind], key=_place) for kind in kinds if kind in self.found}


def _place(finding: Finding) -> tuple[int, str]:
    split = finding.get("split")
    return (ORDER.index(split) if split in ORDER else len(ORDER)), finding.get("name", "")


def report(parts: Sequence[Part], classes: Sequence[str]) -> Report:
    """All that is found in the splits of a data set, train first."""
    found = Report()
    for part in parts:
        for position, reason in sorted(part.broken.items()):
            found.add("broken", part.about(position, reason))
        for kind, position, text in _odd(part, len(classes)):
            found.add(kind, part.about(position, text))
    _classes(found, parts, classes)
    for one, other in itertools.combinations(parts, 2):
        _in_both(found, one, other)
    _twice(found, parts, classes)
    return found


def class_counts(part: Part, classes: int) -> IntArray | None:
    """Images of each class, int64; None where samples have no class. With masks an image counts for all that it has."""
    labels = part.rows["label"]
    if "pixels" in (part.rows.dtype.names or ()):
        return (part.rows["pixels"][:, :-1] > 0).sum(0, dtype=np.int64)  # type: ignore[no-any-return]
    if "classes" in (part.rows.dtype.names or ()):
        return part.rows["classes"].sum(0, dtype=np.int64)  # type: ignore[no-any-return]
    good = labels[(labels >= 0) & (labels < classes)]
    return np.bincount(good, minlength=classes) if len(good) or not len(labels) else None


def _odd(part: Part, classes: int) -> Iterator[tuple[str, int, str]]:
    """(kind, position, text) of each thing to say of a sample by itself."""
    rows = part.rows
    if not len(rows):
        return
    labels = rows["label"]
    wrong = (labels == ODD_LABEL) | ((labels >= classes) | ((labels < 0) & (labels > ODD_LABEL)))
    yield from _each(part, "label", wrong, lambda row: f"its label is {_label(row)}, the classes are 0..{classes - 1}")
    if "pixels" in (rows.dtype.names or ()):
        yield from _each(part, "void", rows["pixels"][:, :-1].sum(1) == 0, _size)
    shorter = np.minimum(rows["height"], rows["width"])
    small = shorter < max(SMALL_SIDE, SMALL_SHARE * float(np.median(shorter)))
    yield from _each(part, "small", small, _size)
    proportions = np.log(rows["width"] / np.maximum(rows["height"], 1))
    yield from _each(part, "proportions", np.abs(proportions - np.median(proportions)) > np.log(STRETCH), _size)
    yield from _each(part, "one_colour", rows["one_colour"], _size)
    yield from _each(part, "animated", rows["animated"], lambda row: FORMATS[row["format"]])
    files = np.flatnonzero(rows["format"])
    if len(files):
        most = int(np.bincount(rows["mode"][files]).argmax())
        other = (rows["mode"] != most) & (rows["format"] > 0)
        yield from _each(part, "mode", other, lambda row: f"{MODES[row['mode']]}, most are {MODES[most]}")
    for row in files.tolist():
        kind, position = FORMATS[rows["format"][row]], int(part.positions[row])
        if not part.source.name(position).lower().endswith(SUFFIXES[kind]):
            yield "suffix", position, f"it is a {kind}"


def _each(
    part: Part, kind: str, which: npt.NDArray[np.bool_], text: Callable[[Any], str]
) -> Iterator[tuple[str, int, str]]:
    for row in np.flatnonzero(which).tolist():
        yield kind, int(part.positions[row]), text(part.rows[row])


def _size(row: Any) -> str:
    return f"{row['width']}x{row['height']}"


def _label(row: Any) -> str:
    return "of an unknown kind" if row["label"] == ODD_LABEL else str(row["label"])


def _classes(found: Report, parts: Sequence[Part], classes: Sequence[str]) -> None:
    """Classes without images, and how unequal those of train are."""
    counts = {part.split: counted for part in parts if (counted := class_counts(part, len(classes))) is not None}
    train = counts.get("train")
    if train is None:
        return
    for number in np.flatnonzero(train == 0).tolist():
        found.add("empty_class", classes[number])
    for split, counted in counts.items():
        for number in np.flatnonzero((counted == 0) & (train > 0)).tolist():
            found.add("missing_class", f"{split} has no {classes[number]}, train has {train[number]}")
    there = np.flatnonzero(train)
    masked = any("pixels" in (part.rows.dtype.names or ()) for part in parts)
    if len(there) and not masked and train[there].max() >= UNEQUAL * train[there].min():
        least, most = (int(there[place]) for place in (train[there].argmin(), train[there].argmax()))
        found.add(
            "imbalance",
            f"train has {train[most]} {classes[most]} and {train[least]} {classes[least]}, "
            f"{train[most] / train[least]:.1f} times as many (data.sampling=class_balanced evens that out)",
        )


def _in_both(found: Report, one: Part, other: Part) -> None:
    """Samples that two splits share, by id and name, whether they can be read or not."""
    _, rows, others = np.intersect1d(one.source.ids, other.source.ids, assume_unique=True, return_indices=True)
    for here, there in zip(others.tolist(), rows.tolist(), strict=True):
        if other.source.name(here) == one.source.name(there):
            finding = other.about(here, f"is in {one.split} and in {other.split}")
            beside = {key: one.about(there, "")[key] for key in ("split", "id", "name")}
            found.add("leak", finding | {"other": beside})


class _Joined:
    """The samples of all parts one after another."""

    def __init__(self, parts: Sequence[Part], classes: Sequence[str]) -> None:
        self.parts, self.classes = parts, classes
        self.part = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
        self.starts = np.cumsum([0, *(len(part.rows) for part in parts)])

    def field(self, name: str) -> npt.NDArray[Any]:
        """One field of all rows."""
        return np.concatenate([part.rows[name] for part in self.parts])

    def about(self, row: int, other: int, words: str) -> Finding:
        """A finding about a sample and the one that it is like."""
        (part, here), (beside, there) = self._place(row), self._place(other)
        where = f"{beside.source.name(there)} ({beside.split})"
        kind = "with another mask" if "target" in (part.rows.dtype.names or ()) else "as another class"
        labels = f", {kind}" if self.differ(row, other) else ""
        found = part.about(here, f"({part.split}) {words} {where}{labels}")
        return found | {"other": {key: beside.about(there, "")[key] for key in ("split", "id", "name")}}

    def differ(self, row: int, other: int) -> bool:
        """Whether two samples have different labels or masks."""
        one, two = (self.parts[self.part[place]].rows[place - self.starts[self.part[place]]] for place in (row, other))
        if one["label"] == two["label"] == SEVERAL and "classes" in one.dtype.names and "classes" in two.dtype.names:
            return not np.array_equal(one["classes"], two["classes"])
        if "target" in one.dtype.names and "target" in two.dtype.names:
            return bool(one["target"] != two["target"])
        return bool(one["label"] != two["label"])

    def are_one(self, row: int, other: int) -> bool:
        """Whether two rows are of one sample, in two splits."""
        (part, here), (beside, there) = self._place(row), self._place(other)
        return part is not beside and part.source.name(here) == beside.source.name(there)

    def _place(self, row: int) -> tuple[Part, int]:
        part = self.parts[self.part[row]]
        return part, int(part.positions[row - self.starts[self.part[row]]])


def _twice(found: Report, parts: Sequence[Part], classes: Sequence[str]) -> None:
    """The same images, exact and near."""
    if not any(len(part.rows) for part in parts):
        return
    joined = _Joined(parts, classes)
    _, first, group = np.unique(joined.field("digest"), return_index=True, return_inverse=True)
    again = np.flatnonzero(first[group] != np.arange(len(group)))
    for row in again.tolist():
        other = int(first[group[row]])
        if joined.are_one(row, other):
            continue
        leak = joined.part[row] != joined.part[other]
        found.add("leak" if leak else "duplicate", joined.about(row, other, "is the same as"))
        if joined.differ(row, other):
            found.add("conflict", joined.about(row, other, "is the same as"))
    kept = np.sort(first[~joined.field("one_colour")[first]])
    proportions = joined.field("width")[kept] / np.maximum(joined.field("height")[kept], 1)
    small = np.maximum(joined.field("width")[kept], joined.field("height")[kept]) <= SMALL
    pairs = near(joined.field("thumbnail")[kept], proportions, small)
    if not pairs.complete:
        found.add("incomplete", "so many images are alike that not all pairs were compared")
    _near(found, joined, kept[pairs.pairs], pairs.correlation)


def _near(found: Report, joined: _Joined, pairs: IntArray, correlation: npt.NDArray[np.float32]) -> None:
    """For each image that is nearly an earlier one: the most alike, one of another split before any of its own."""
    leaks = joined.part[pairs[:, 0]] != joined.part[pairs[:, 1]]
    order = np.lexsort((-correlation, ~leaks, pairs[:, 1]))
    _, firsts = np.unique(pairs[order, 1], return_index=True)
    for place in order[firsts].tolist():
        other, row = pairs[place].tolist()
        words = f"correlates by {float(correlation[place]):.4f} with"
        found.add("near_leak" if leaks[place] else "near_duplicate", joined.about(row, other, words))
