"""COCO's precision and recall of boxes, by hotcoco, faster-coco-eval or pycocotools, whose figures are the same.

Each is given the same numbers: images and classes as 1, 2, ..., boxes as xywh in float64. What they print is kept from
the output; what they raise comes through.
Unusual: hotcoco computes by threads of its own, whose number changes nothing, and which a forked process lacks: there
it would wait for them for ever. So it refuses.
Source: T.-Y. Lin et al., Microsoft COCO: Common Objects in Context, arXiv:1405.0312, and its cocoeval.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calotype.average_precision.rows import Floats, Rows
from calotype.errors import CalotypeError, ConfigError

if TYPE_CHECKING:
    from calotype.types import IntArray

PACKAGES = {"hotcoco": "hotcoco", "faster_coco_eval": "calotype[coco]", "pycocotools": "calotype[coco]"}
"""What pip installs a library by."""
IOUS, RECALLS, SIZES, MOST = 10, 101, 4, 3
"""How many IoU thresholds, points of recall, ranges of area and greatest numbers of detections there are."""

_Tables = tuple[Floats, Floats]
_started: list[int] = []  # the process in which hotcoco has its threads


def required(backend: str) -> None:
    """Raises ConfigError for a library that isn't known or isn't installed."""
    if backend not in PACKAGES:
        raise ConfigError(f"backend is {backend!r}; allowed: {', '.join(PACKAGES)}")
    if find_spec(backend) is None:
        raise ConfigError(f"backend {backend} is not installed; pip install '{PACKAGES[backend]}'")


def tables(rows: Rows, backend: str) -> _Tables:
    """Precision (10, 101, C, 4, 3) and recall (10, C, 4, 3), -1 where there is nothing to find.

    By IoU 0.5, 0.55, ..., 0.95, recall 0, 0.01, ..., 1, class, size (all, small, medium, large) and at most 1, 10, 100
    detections of an image. Raises CalotypeError for hotcoco in a process forked from one that has used it.
    """
    if not len(rows.truth.label):
        shape = (IOUS, rows.classes, SIZES, MOST)
        return np.full((IOUS, RECALLS, *shape[1:]), -1.0), np.full(shape, -1.0)
    found = _BACKENDS[backend](rows)
    return np.asarray(found["precision"], np.float64), np.asarray(found["recall"], np.float64)


def _hotcoco(rows: Rows) -> Mapping[str, Any]:
    import hotcoco

    if _started and _started[0] != os.getpid():
        raise CalotypeError("hotcoco can't compute in a process forked from one that has used it; set another backend")
    _started[:] = [os.getpid()]
    truth, found = rows.truth, rows.found
    annotated = hotcoco.COCO.from_arrays(
        _numbered(rows.images),
        _numbered(rows.classes),
        truth.image + 1,
        truth.label + 1,
        _sized(truth.boxes),
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
    )
    columns = (found.image + 1, _sized(found.boxes), found.scores, found.label + 1)
    detected = annotated.load_res(np.column_stack(columns))
    evaluator = hotcoco.COCOeval(annotated, detected, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval or {}


def _faster_coco_eval(rows: Rows) -> Mapping[str, Any]:
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    annotated, detected = (COCO(some, print_function=_silent) for some in _datasets(rows))
    evaluator = COCOeval_faster(annotated, detected, "bbox", print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    tables: Mapping[str, Any] = evaluator.eval
    return tables


def _pycocotools(rows: Rows) -> Mapping[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):
        annotated, detected = COCO(), COCO()
        annotated.dataset, detected.dataset = _datasets(rows)
        annotated.createIndex()
        detected.createIndex()
        evaluator = COCOeval(annotated, detected, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    tables: Mapping[str, Any] = evaluator.eval
    return tables


_BACKENDS: dict[str, Callable[[Rows], Mapping[str, Any]]] = {
    "hotcoco": _hotcoco,
    "faster_coco_eval": _faster_coco_eval,
    "pycocotools": _pycocotools,
}


def _datasets(rows: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations and detections as dicts, for libraries that take no arrays."""
    truth, found = rows.truth, rows.found
    width, height = _sized(found.boxes).T[2:]
    about = {"images": _numbered(rows.images), "categories": _numbered(rows.classes)}
    annotated = _listed(truth.image, truth.label, truth.boxes, area=truth.areas, iscrowd=truth.crowd.astype(np.int64))
    detected = _listed(found.image, found.label, found.boxes, area=width * height, score=found.scores)
    return {**about, "annotations": annotated}, {**about, "annotations": detected}


def _listed(image: IntArray, label: IntArray, boxes: Floats, **others: npt.NDArray[Any]) -> list[dict[str, Any]]:
    columns = {"image_id": image + 1, "category_id": label + 1, "bbox": _sized(boxes), **others}
    cells = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(cells, 1)]


def _numbered(count: int) -> list[dict[str, Any]]:
    """Images or classes, whose names are their numbers."""
    return [{"id": number, "name": str(number)} for number in range(1, count + 1)]


def _sized(boxes: Floats) -> Floats:
    """(n, 4) x, y, width, height of xyxy."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _silent(*_: object) -> None:
    """What is told to nobody."""
