"""The metric: boxes are gathered as they are, everything is computed once from those of the whole split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calotype.average_precision import evaluators, matching, voc
from calotype.average_precision.matching import Curve
from calotype.average_precision.rows import WIDTHS, Rows, gathered
from calotype.errors import ConfigError

if TYPE_CHECKING:
    from calotype.types import Prediction, Shard

Protocol = Literal["coco", "voc2007", "voc2010"]
Backend = Literal["hotcoco", "faster_coco_eval", "pycocotools"]

COCO = "coco"
VOC = {"voc2007": voc.eleven_points, "voc2010": voc.area}


class AveragePrecision:
    """How well boxes are found and named: average precision, and the best F1 of each class. `classes` by label.

    `protocol` is COCO's, or that of VOC 2007 (at eleven recalls) or of VOC 2010 and later (below the curve); all take
    a class without objects out of the mean. In COCO's, crowds are ignored and difficult objects count, as it has none;
    in VOC's, and in F1, difficult ones are ignored as well. VOC's boxes are whole pixels, both ends included: half-open
    ones have the same areas. `backend` is the library that computes COCO's figures: all give the same.

    State: "images" (n, 3) int64, id and numbers of detections and of objects; "boxes" (k, 4), "scores" (k,), "labels"
    (k,) as predicted, "truth" (m, 7), in the order of images. It doesn't matter in which order batches come: images are
    sorted by id, and of equal scores the smaller id comes first, then what the prediction has first.
    Raises ConfigError for another protocol or backend, or one that is not installed.
    """

    def __init__(self, classes: Sequence[str], protocol: Protocol = "coco", backend: Backend = "hotcoco") -> None:
        if protocol not in (COCO, *VOC):
            raise ConfigError(f"protocol is {protocol!r}; allowed: {', '.join((COCO, *VOC))}")
        if protocol == COCO:
            evaluators.required(backend)
        self.classes, self.protocol, self.backend = tuple(classes), protocol, backend
        self._parts: dict[str, list[Tensor]] = {name: [] for name in ("images", *WIDTHS)}

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Add a shard of n images: lists of n, "boxes" (k, 4) xyxy in the file's pixels, "scores" (k,) and "labels"
        (k,) int64 as predicted, where an entry may be None, which finds nothing; "truth" (m, 7) of the shard: xyxy,
        class, flags (1 crowd, 2 difficult), area. Raises ValueError for lists of other lengths.
        """
        columns = [prediction[name] for name in ("boxes", "scores", "labels")]
        numbers = []
        for id, truth, *row in zip(shard.ids.tolist(), shard["truth"], *columns, strict=True):
            found = _detections(id, row)
            numbers.append([id, len(found[0]) if found else 0, len(truth)])
            for name, value in zip(WIDTHS, found, strict=False):
                self._parts[name].append(value)
            self._parts["truth"].append(truth)
        self._parts["images"].append(torch.tensor(numbers, dtype=torch.int64).view(-1, 3))

    def state(self) -> dict[str, list[Tensor]]:
        """What was gathered; one tensor of each kind, none before the first update."""
        if not self._parts["images"]:
            return {name: [] for name in self._parts}
        return {name: [_joined(parts, name)] for name, parts in self._parts.items()}

    def compute(self, state: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
        """COCO: `mAP`, `mAP50`, `mAP75`, `mAP_small`, `mAP_medium`, `mAP_large`, `mAR1`, `mAR10`, `mAR100`,
        `mAR_small`, `mAR_medium`, `mAR_large`; VOC: `mAP50`. Both: `AP[<class>]`, `F1[<class>]`, the best at IoU 0.5,
        and `threshold[<class>]`, the score that has it. In 0..1, NaN where there is nothing to find.
        """
        rows = gathered(state, len(self.classes))
        judged = list(matching.by_class(rows, matching.judged(rows, coco=self.protocol == COCO)[0]))
        if self.protocol == COCO:
            figures, each = _of_coco(rows, self.backend)
        else:
            each = [VOC[self.protocol](right, objects) for _, right, objects in judged]
            figures = {"mAP50": _mean(np.array(each), ~np.isnan(each))}
        best = [matching.curve(*found).best_f1() for found in judged]
        columns = {"AP": each, "F1": [f1 for f1, _ in best], "threshold": [score for _, score in best]}
        for measure, column in columns.items():
            figures |= {f"{measure}[{name}]": value for name, value in zip(self.classes, column, strict=True)}
        return figures

    def curves(self, state: Mapping[str, Sequence[Tensor]]) -> dict[str, Curve]:
        """Precision and recall of each class at IoU 0.5, for pictures."""
        rows = gathered(state, len(self.classes))
        judged = matching.by_class(rows, matching.judged(rows, coco=self.protocol == COCO)[0])
        return {name: matching.curve(*found) for name, found in zip(self.classes, judged, strict=True)}


def _detections(id: int, row: Sequence[Tensor | None]) -> list[Tensor]:
    """Boxes, scores and labels of an image; nothing where one of them is None."""
    found = [value for value in row if value is not None]
    if len(found) < len(row):
        return []
    if len({len(value) for value in found}) > 1 or found[0].shape[1:] != (4,):
        shapes = ", ".join(str(tuple(value.shape)) for value in found)
        raise ValueError(f"boxes, scores and labels of image {id} are {shapes}, and must be (k, 4), (k,), (k,)")
    return found


def _joined(parts: Sequence[Tensor], name: str) -> Tensor:
    if parts:
        return torch.cat(list(parts))
    return torch.zeros(0, *WIDTHS[name], dtype=torch.int64 if name == "labels" else torch.float32)


def _of_coco(rows: Rows, backend: str) -> tuple[dict[str, float], list[float]]:
    """COCO's twelve figures, and the average precision of each class."""
    precision, recall = evaluators.tables(rows, backend)
    figures = {
        "mAP": _told(precision[..., 0, 2]),
        "mAP50": _told(precision[0, ..., 0, 2]),
        "mAP75": _told(precision[5, ..., 0, 2]),
        **{f"mAP_{size}": _told(precision[..., place, 2]) for place, size in _SIZES},
        **{f"mAR{most}": _told(recall[..., 0, place]) for place, most in enumerate((1, 10, 100))},
        **{f"mAR_{size}": _told(recall[..., place, 2]) for place, size in _SIZES},
    }
    return figures, [_told(precision[:, :, label, 0, 2]) for label in range(rows.classes)]


_SIZES = ((1, "small"), (2, "medium"), (3, "large"))


def _told(values: npt.NDArray[np.float64]) -> float:
    """The mean of what COCO has a figure for."""
    return _mean(values, values > -1)


def _mean(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> float:
    return float(values[known].mean()) if known.any() else float("nan")
