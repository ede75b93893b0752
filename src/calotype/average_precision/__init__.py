"""Detections compared with annotated boxes, as COCO and the PASCAL VOC challenges do it.

metric      what a task names: gathers boxes, gives the figures       rows   a split's boxes as arrays
evaluators  COCO's figures, by any of three libraries                 voc    the figures of VOC's two protocols
matching    which detections are right at IoU 0.5, and curves
"""

from __future__ import annotations

from calotype.average_precision.matching import Curve
from calotype.average_precision.metric import AveragePrecision

__all__ = ["AveragePrecision", "Curve"]
