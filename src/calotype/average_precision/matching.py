"""Which detections are right at an IoU of 0.5, and what follows for each class.

Unusual: no loop over detections. Each asks the object that fits it best; an object takes the detection of the highest
score and sends the others on to their next. As all objects prefer by the same scores, what this ends in is what serving
the detections one by one, by falling score, ends in (D. Gale, L. Shapley, 1962). COCO has detections go on; in VOC one
that is sent away is wrong, so one round is all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from calotype.average_precision.rows import Flags, Floats, Found, Rows

if TYPE_CHECKING:
    from calotype.types import IntArray

LEAST = 0.5
"""The IoU from which on a detection fits an object. VOCevaldet.m and COCO both take 0.5 itself for enough."""
AT_MOST = 100
"""Detections of an image and class that COCO looks at, those of the highest scores."""
PIECE = 1 << 18
"""Pairs whose overlap is computed at a time."""
RIGHT, WRONG, IGNORED = 1, 0, -1

Verdicts = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Curve:
    """A class at an IoU of 0.5, a point for each score that occurs, falling: among the `told` detections (p,) of that
    score or a higher one `right` are right, of `objects` that there are to find. Ignored ones are left out.
    """

    scores: Floats
    right: IntArray
    told: IntArray
    objects: int

    @property
    def precision(self) -> Floats:
        """(p,) in 0..1."""
        return self.right / self.told

    @property
    def recall(self) -> Floats:
        """(p,) in 0..1, NaN without objects."""
        return self.right / self.objects if self.objects else np.full(len(self.right), np.nan)

    def best_f1(self) -> tuple[float, float]:
        """The highest F1 and the score from which on detections have it, of several the highest: 0 and NaN where no
        detection is right, NaN and NaN without objects.
        """
        if not self.objects:
            return float("nan"), float("nan")
        if not self.right.any():
            return 0.0, float("nan")
        f1 = 2 * self.right / (self.told + self.objects)
        best = int(f1.argmax())
        return float(f1[best]), float(self.scores[best])


def by_class(rows: Rows, verdicts: Verdicts) -> Iterator[tuple[Floats, Flags, int]]:
    """For each class the scores (k,) of its detections, falling, which are right (k,), and how many objects there are.
    Detections of equal scores are in the order of images and predictions; what is ignored is left out.
    """
    counted = ~(rows.truth.crowd | rows.truth.difficult)
    objects = np.bincount(rows.truth.label[counted], minlength=rows.classes)
    order = np.lexsort((-rows.found.scores, rows.found.label))
    order = order[verdicts[order] != IGNORED]
    ends = np.searchsorted(rows.found.label[order], np.arange(rows.classes + 1))
    for label in range(rows.classes):
        of = order[ends[label] : ends[label + 1]]
        yield rows.found.scores[of], verdicts[of] == RIGHT, int(objects[label])


def curve(scores: Floats, right: Flags, objects: int) -> Curve:
    """The points of a class from its detections by falling score."""
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    return Curve(scores[last], np.cumsum(right, dtype=np.int64)[last], last + 1, objects)


def judged(rows: Rows, *, coco: bool) -> tuple[Verdicts, IntArray]:
    """(k,): whether each detection is right, wrong or ignored; (m,): the detection that has each object, -1 for none.

    VOC: it is judged by the object that it fits best, of two that fit as well the first; if that is difficult it is
    ignored, if one of a higher score fits it best as well it is wrong. COCO: it has the best of those that are left, of
    two the last; if none is, it is ignored where it fits a difficult object, or lies to a half in a crowd. A crowd in
    VOC's protocol is a difficult object.
    """
    found, truth = rows.found, rows.truth
    verdicts = np.full(len(found.scores), WRONG, np.int8)
    if coco:
        verdicts[_beyond(found, rows.classes)] = IGNORED
    detection, item, overlap = _pairs(rows, truth.crowd & coco)
    kept = verdicts[detection] != IGNORED
    detection, item, overlap = detection[kept], item[kept], overlap[kept]
    loose = truth.crowd | truth.difficult
    keys = (-item, -overlap, loose[item]) if coco else (item, -overlap)
    order = np.lexsort((*keys, detection))
    choices = _Choices(detection[order], item[order])
    return verdicts, _deal(verdicts, choices, loose, found.scores, rounds=None if coco else 1)


@dataclass(frozen=True, eq=False)
class _Choices:
    """Pairs of detections and the objects that they fit, by detection, the best first."""

    detection: IntArray
    item: IntArray


def _deal(verdicts: Verdicts, choices: _Choices, loose: Flags, scores: Floats, *, rounds: int | None) -> IntArray:
    """Give each object to one detection at most, and any number to what is `loose`: writes the verdicts, and returns
    the detection of each object, -1 for none.
    """
    order = np.argsort(-scores, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    owner = np.full(len(loose), len(order))  # the place of the detection that has an object
    following = np.searchsorted(choices.detection, np.arange(len(order)))
    end = np.searchsorted(choices.detection, np.arange(len(order)), "right")
    asking = np.unique(choices.detection)
    while len(asking):
        item = choices.item[following[asking]]
        verdicts[asking[loose[item]]] = IGNORED
        asking, item = asking[~loose[item]], item[~loose[item]]
        wanted = np.unique(item)
        before = owner[wanted]
        np.minimum.at(owner, item, place[asking])
        won = owner[item] == place[asking]
        verdicts[asking[won]] = RIGHT
        displaced = order[before[(before < len(order)) & (before != owner[wanted])]]
        sent = np.concatenate([asking[~won], displaced])
        verdicts[sent] = WRONG
        if rounds == 1:
            break
        following[sent] += 1
        asking = sent[following[sent] < end[sent]]
    owners: IntArray = np.append(order, -1)[owner]
    return owners


def _beyond(found: Found, classes: int) -> IntArray:
    """Detections after the first AT_MOST of their image and class."""
    group = found.image * classes + found.label
    order = np.lexsort((-found.scores, group))
    sorted_group = group[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_group, sorted_group)
    beyond: IntArray = order[rank >= AT_MOST]
    return beyond


def _pairs(rows: Rows, crowd: Flags) -> tuple[IntArray, IntArray, Floats]:
    """Detections and objects of the same image and class that fit, and how well: their IoU, of a crowd the part of the
    detection that lies in it.
    """
    found, truth = rows.found, rows.truth
    group, of = (some.image * rows.classes + some.label for some in (found, truth))
    order = np.argsort(of, kind="stable")
    first, last = np.searchsorted(of[order], group), np.searchsorted(of[order], group, "right")
    counts = last - first
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(PIECE, int(total[-1]) if len(total) else 0, PIECE))
    parts = []
    for some in np.split(np.arange(len(group)), np.unique(cuts)):
        detection = np.repeat(some, counts[some])
        within = np.arange(len(detection)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
        item = order[first[detection] + within]
        overlap = _overlap(found.boxes[detection], truth.boxes[item], crowd[item])
        fits = overlap >= LEAST
        parts.append((detection[fits], item[fits], overlap[fits]))
    detections, items, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detections, items, overlaps


def _overlap(boxes: Floats, others: Floats, crowd: Flags) -> Floats:
    """(n,): the intersection of each two boxes over their union, or over the first where the other is a crowd."""
    inner = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    both = inner.clip(min=0).prod(1)
    own, other = ((some[:, 2:] - some[:, :2]).prod(1) for some in (boxes, others))
    whole = np.where(crowd, own, own + other - both)
    part: Floats = np.divide(both, whole, out=np.zeros(len(both)), where=whole > 0)
    return part
