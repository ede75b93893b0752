"""Average precision of one class as the PASCAL VOC challenges have it, from which detections are right.

Unusual: recall is compared in whole numbers. By rounded quotients, 3 of 10 objects would not reach a recall of 3 * 0.1.
Source: M. Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, and the challenge's
VOCevaldet.m (2007) and VOCap.m (2010).
"""

from __future__ import annotations

import numpy as np

from calotype.average_precision.rows import Flags, Floats


def eleven_points(right: Flags, objects: int) -> float:
    """VOC 2007: the mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or a higher one.

    `right` (k,) are detections by falling score; 0..1, NaN without objects.
    """
    if not objects:
        return float("nan")
    reached = np.searchsorted(10 * np.cumsum(right), np.arange(11) * objects)
    return float(np.append(_best_precision(right), 0.0)[reached].sum() / 11)


def area(right: Flags, objects: int) -> float:
    """VOC 2010 and later: the area below the best precision at each recall or a higher one. As `eleven_points`."""
    if not objects:
        return float("nan")
    return float(_best_precision(right)[right].sum() / objects)


def _best_precision(right: Flags) -> Floats:
    """(k,): the highest precision there is from each detection on."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best: Floats = np.maximum.accumulate(precision[::-1])[::-1]
    return best
