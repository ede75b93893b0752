"""Which detections are right, curves, the best F1, and VOC's average precision: against plain loops, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from calotype.average_precision import AveragePrecision, Curve, evaluators, matching, voc
from calotype.average_precision.rows import Rows, gathered
from tests.boxes_drawn import CLASSES, drawn, told

Box = Sequence[float]


def rows_of(*batches: Any) -> Rows:
    metric = AveragePrecision(CLASSES)
    for batch in batches:
        metric.update(*batch)
    return gathered(metric.state(), len(CLASSES))


def overlap(one: Box, other: Box, crowd: bool = False) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    own, others = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    whole = own if crowd else own + others - both
    return both / whole if whole else 0.0


def ranked(rows: Rows, image: int, label: int) -> list[int]:
    """Detections of an image and class by falling score, then as they are."""
    found = rows.found
    of = [row for row in range(len(found.scores)) if (found.image[row], found.label[row]) == (image, label)]
    return sorted(of, key=lambda row: -found.scores[row])


def objects_of(rows: Rows, image: int, label: int) -> list[int]:
    truth = rows.truth
    return [row for row in range(len(truth.label)) if (truth.image[row], truth.label[row]) == (image, label)]


def fitting(rows: Rows, detection: int, *, coco: bool) -> list[tuple[float, int]]:
    """How well each object of the same image and class fits a detection, and its row."""
    found, truth = rows.found, rows.truth
    of = objects_of(rows, int(found.image[detection]), int(found.label[detection]))
    box = found.boxes[detection].tolist()
    parts = [(overlap(box, truth.boxes[item].tolist(), coco and bool(truth.crowd[item])), item) for item in of]
    return [(part, item) for part, item in parts if part >= 0.5]


def as_coco(rows: Rows) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """One detection after another, each with what is left."""
    verdicts, takers = np.zeros(len(rows.found.scores), np.int8), np.full(len(rows.truth.label), -1)
    loose = rows.truth.crowd | rows.truth.difficult
    for group in np.ndindex(rows.images, rows.classes):
        for place, detection in enumerate(ranked(rows, *group)):
            fits = fitting(rows, detection, coco=True)
            left = [(not loose[item], part, item) for part, item in fits if takers[item] < 0]
            if place >= 100 or (left and not max(left)[0]):
                verdicts[detection] = -1
            elif left:
                takers[max(left)[2]] = detection
                verdicts[detection] = 1
    return verdicts, takers


def as_voc(rows: Rows) -> npt.NDArray[np.int8]:
    """As the development kit goes through them: the best object of all, then whether it may be had."""
    verdicts, taken = np.zeros(len(rows.found.scores), np.int8), set[int]()
    for group in np.ndindex(rows.images, rows.classes):
        for detection in ranked(rows, *group):
            fits = fitting(rows, detection, coco=False)
            _, which = max(fits, key=lambda fit: (fit[0], -fit[1]), default=(0, -1))
            if fits and (rows.truth.difficult[which] or rows.truth.crowd[which]):
                verdicts[detection] = -1
            elif fits and which not in taken:
                verdicts[detection] = 1
                taken.add(which)
    return verdicts


@pytest.mark.parametrize("difficult", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_one_after_another(seed: int, difficult: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "PIECE", 7)
    rows = rows_of(drawn(25, seed, difficult=difficult))
    (coco, takers), (plain, _) = matching.judged(rows, coco=True), matching.judged(rows, coco=False)
    assert [coco.tolist(), takers.tolist()] == [found.tolist() for found in as_coco(rows)]
    assert plain.tolist() == as_voc(rows).tolist()
    assert {1, 0} <= set(coco.tolist()) and (coco != plain).any()
    assert not difficult or -1 in plain


def test_crowded_scenes_take_many_rounds() -> None:
    draw = np.random.default_rng(3)
    objects = [[x, 0, x + 60, 40, 0, 0] for x in draw.integers(0, 40, 30)]
    found = [[x, 0, x + 60, 40, score / 32, 0] for x, score in draw.integers(0, 32, (130, 2))]
    rows = rows_of(told(objects, *found))
    verdicts, takers = matching.judged(rows, coco=True)
    assert [verdicts.tolist(), takers.tolist()] == [found.tolist() for found in as_coco(rows)]
    assert (verdicts == 1).sum() == 30 and (verdicts == -1).sum() == 30, "30 objects, 30 after the first 100"
    assert (matching.judged(rows, coco=False)[0] == 1).sum() < 30


def test_half_an_overlap_is_enough() -> None:
    """Half of a box fits it just; a little less does not."""
    just, less = (
        told([[0, 0, 10, 10, 0, 0]], [0, 0, 10, 5, 0.9, 0]),
        told([[0, 0, 10, 10, 0, 0]], [0, 0, 10, 4.99, 0.9, 0]),
    )
    for coco in (True, False):
        assert matching.judged(rows_of(just), coco=coco)[0].tolist() == [1]
        assert matching.judged(rows_of(less), coco=coco)[0].tolist() == [0]


def test_a_crowd_is_met_by_what_lies_in_it() -> None:
    crowd = told([[0, 0, 100, 100, 0, 1]], [0, 0, 10, 10, 0.9, 0], [95, 0, 107, 10, 0.8, 0])
    assert matching.judged(rows_of(crowd), coco=True)[0].tolist() == [-1, 0]
    assert matching.judged(rows_of(crowd), coco=False)[0].tolist() == [0, 0], "VOC has difficult objects, no crowds"


TWO = [[0, 0, 10, 10, 0, 0], [4, 0, 14, 10, 0, 0]]
"""Objects of which a box in between fits both, the second less."""


def test_a_second_detection_of_an_object_is_wrong_in_voc() -> None:
    both = told(TWO, [0, 0, 10, 10, 0.9, 0], [1, 0, 11, 10, 0.8, 0])
    assert matching.judged(rows_of(both), coco=False)[0].tolist() == [1, 0]
    assert matching.judged(rows_of(both), coco=True)[0].tolist() == [1, 1], "COCO gives it the object that is left"


def test_a_detection_of_a_difficult_object_counts_nowhere() -> None:
    objects = [[0, 0, 10, 10, 0, 2], [50, 0, 60, 10, 0, 0]]
    found = [[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [50, 0, 60, 10, 0.7, 0]]
    metric = AveragePrecision(CLASSES, "voc2007")
    metric.update(*told(objects, *found))
    figures = metric.compute(metric.state())
    assert (figures["AP[cat]"], figures["F1[cat]"], figures["threshold[cat]"]) == (1.0, 1.0, 0.7)
    assert metric.curves(metric.state())["cat"].objects == 1
    only = AveragePrecision(CLASSES, "voc2007")
    only.update(*told(objects[:1], *found))
    assert math.isnan(only.compute(only.state())["AP[cat]"]), "only difficult ones: nothing to find"


def eleven(precision: list[float], recall: list[float]) -> float:
    found = [[p for p, r in zip(precision, recall, strict=True) if r >= tenth / 10] for tenth in range(11)]
    return sum(max(points, default=0.0) for points in found) / 11


def below(precision: list[float], recall: list[float]) -> float:
    recalls, envelope = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for place in range(len(envelope) - 2, -1, -1):
        envelope[place] = max(envelope[place], envelope[place + 1])
    return sum((recalls[n] - recalls[n - 1]) * envelope[n] for n in range(1, len(recalls)))


@pytest.mark.parametrize(("protocol", "rule"), [("voc2007", eleven), ("voc2010", below)])
@pytest.mark.parametrize("seed", range(4))
def test_voc_figures_are_those_of_the_plain_protocol(protocol: Any, rule: Any, seed: int) -> None:
    batch = drawn(30, seed, difficult=True)
    metric, rows = AveragePrecision(CLASSES, protocol), rows_of(batch)
    metric.update(*batch)
    figures, verdicts = metric.compute(metric.state()), as_voc(rows)
    expected = []
    for label, name in enumerate(CLASSES[:-1]):
        objects = int(((rows.truth.label == label) & ~rows.truth.difficult).sum())
        order = sorted(range(len(verdicts)), key=lambda row: -rows.found.scores[row])
        kept = [verdicts[row] for row in order if rows.found.label[row] == label and verdicts[row] >= 0]
        right = np.cumsum(kept)
        precision = [float(hits / place) for place, hits in enumerate(right, 1)]
        expected.append(rule(precision, [float(hits / objects) for hits in right]))
        assert figures[f"AP[{name}]"] == pytest.approx(expected[-1], abs=1e-12)
    assert figures["mAP50"] == pytest.approx(np.mean(expected), abs=1e-12) and 0.05 < figures["mAP50"] < 0.95
    assert math.isnan(figures["AP[no such thing]"])


def test_voc_by_hand() -> None:
    """Right, wrong, right of 4 objects: recall 1/4 at precision 1, 2/4 at 2/3."""
    right = np.array([True, False, True])
    assert voc.eleven_points(right, 4) == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert voc.area(right, 4) == pytest.approx((1 + 2 / 3) / 4)
    nothing = np.zeros(0, bool)
    assert (voc.eleven_points(nothing, 4), voc.area(nothing, 4)) == (0.0, 0.0)
    assert math.isnan(voc.eleven_points(right, 0)) and math.isnan(voc.area(right, 0))


@pytest.mark.parametrize("tenths", range(11))
def test_a_recall_of_whole_tenths_is_reached(tenths: int) -> None:
    assert voc.eleven_points(np.ones(tenths, bool), 10) == pytest.approx((tenths + (tenths > 0)) / 11)


def test_points_are_of_scores() -> None:
    found = matching.curve(np.array([0.9, 0.9, 0.5, 0.4]), np.array([True, False, True, False]), 3)
    assert (found.scores.tolist(), found.right.tolist(), found.told.tolist()) == ([0.9, 0.5, 0.4], [1, 2, 2], [2, 3, 4])
    assert found.precision.tolist() == [1 / 2, 2 / 3, 2 / 4] and found.recall.tolist() == [1 / 3, 2 / 3, 2 / 3]
    assert found.best_f1() == (2 * 2 / (3 + 3), 0.5)


def test_of_equal_f1_the_higher_score_is_told() -> None:
    """2 / (1 + 3) and 4 / (5 + 3)."""
    right = np.array([True, False, False, False, True])
    assert matching.curve(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), right, 3).best_f1() == (0.5, 0.9)


@pytest.mark.parametrize(("objects", "expected"), [(0, (math.nan, math.nan)), (2, (0.0, math.nan))])
def test_nothing_right_has_no_threshold(objects: int, expected: tuple[float, float]) -> None:
    for count in (0, 2):
        found = matching.curve(np.ones(count), np.zeros(count, bool), objects)
        assert repr(found.best_f1()) == repr(expected)
        assert len(found.recall) == len(found.precision) == min(count, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_the_one_that_coco_reads_its_ap_at_half_from(seed: int) -> None:
    """Matching here and in pycocotools agree detection by detection, as the figures made of them do."""
    rows = rows_of(drawn(40, seed))
    precision, _ = evaluators.tables(rows, "pycocotools")
    for label, (_, right, objects) in enumerate(matching.by_class(rows, matching.judged(rows, coco=True)[0])):
        if objects:
            hits = np.cumsum(right)
            best = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
            read = np.append(best, 0)[np.searchsorted(hits / objects, np.linspace(0, 1, 101))]
            assert read.mean() == pytest.approx(precision[0, :, label, 0, 2].mean(), abs=1e-12)


def test_the_best_f1_is_the_best_of_all_thresholds() -> None:
    batch = drawn(40, 1)
    metric, rows = AveragePrecision(CLASSES), rows_of(batch)
    metric.update(*batch)
    figures, curves, verdicts = metric.compute(metric.state()), metric.curves(metric.state()), as_coco(rows)[0]
    for label, name in enumerate(CLASSES[:-1]):
        counted = (rows.truth.label == label) & ~rows.truth.crowd
        every = {}
        for score in np.unique(rows.found.scores):
            chosen = verdicts[(rows.found.label == label) & (rows.found.scores >= score) & (verdicts >= 0)]
            every[float(score)] = 2 * int(chosen.sum()) / (len(chosen) + int(counted.sum()))
        assert figures[f"F1[{name}]"] == max(every.values()) == every[figures[f"threshold[{name}]"]]
        assert isinstance(curves[name], Curve) and (np.diff(curves[name].scores) < 0).all()
