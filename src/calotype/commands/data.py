"""`calotype data ...`: the verbs about a data set by itself. Each is a module `_data_<name>` like that of any verb."""

from __future__ import annotations

SUBVERBS = {
    "download": "fetch a published data set and check every byte of it",
    "make": "write a data set that is drawn into a folder: VOC's layout, COCO's",
    "convert": "write a data set of boxes in another layout: COCO's, VOC's, YOLO's, a table",
    "check": "find what is wrong or odd: broken images, empty classes, the same image in two splits",
    "stats": "sizes, classes, mean and standard deviation; a sheet of pictures",
}
