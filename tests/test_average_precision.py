"""Average precision: the shared contract, pycocotools' figures by every library, published figures, guards."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from calotype.average_precision import AveragePrecision, evaluators
from calotype.average_precision.metric import Backend
from calotype.average_precision.rows import gathered
from calotype.config.build import build
from calotype.engine.evaluate import _Sums
from calotype.errors import CalotypeError, ConfigError, DataError
from calotype.types import Loss, Prediction, Shard
from tests.boxes_drawn import CLASSES, FAR, digest_of_tables, drawn, told
from tests.contracts.metric import MetricContract

REAL = Path(__file__).parents[2] / "shared" / "data" / "coco_eval"
BACKENDS: tuple[Backend, ...] = ("hotcoco", "faster_coco_eval", "pycocotools")
TWELVE = (
    *("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large"),
    *("mAR1", "mAR10", "mAR100", "mAR_small", "mAR_medium", "mAR_large"),
)


class TestCoco(MetricContract):
    def make(self) -> AveragePrecision:
        return AveragePrecision(CLASSES)

    def batch(self, count: int, seed: int = 0) -> tuple[Prediction, Shard]:
        return drawn(count, seed)


class TestVoc2007(TestCoco):
    def make(self) -> AveragePrecision:
        return AveragePrecision(CLASSES, "voc2007")


class TestVoc2010(TestCoco):
    def make(self) -> AveragePrecision:
        return AveragePrecision(CLASSES, "voc2010")


def measured(*batches: tuple[Prediction, Shard], **options: Any) -> dict[str, float]:
    metric = AveragePrecision(CLASSES, **options)
    for batch in batches:
        metric.update(*batch)
    return metric.compute(metric.state())


def cocoeval(prediction: Prediction, shard: Shard, classes: int) -> tuple[list[float], list[float]]:
    """The twelve figures and the AP of each class as pycocotools has them, given dicts as from a file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image, (truth, *found) in enumerate(
        zip(shard["truth"], *(prediction[name] for name in ("boxes", "scores", "labels")), strict=True), 1
    ):
        for x1, y1, x2, y2, label, flags, area in truth.tolist():
            about = {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            crowd = int(flags) & 1
            annotations.append({**about, "id": len(annotations) + 1, "area": area, "iscrowd": crowd})
        for (x1, y1, x2, y2), score, label in zip(*(column.tolist() for column in found), strict=True):
            about = {"image_id": image, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            results.append({**about, "score": score})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(1, len(shard) + 1)],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        "annotations": annotations,
        "info": {},
    }
    coco.createIndex()
    evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    each = [precision[:, :, label][precision[:, :, label] > -1] for label in range(classes)]
    return evaluator.stats.tolist(), [float(values.mean()) if len(values) else math.nan for values in each]


def none_for_nan(values: list[float]) -> list[float]:
    return [-1.0 if math.isnan(value) else value for value in values]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(6))
def test_every_library_gives_pycocotools_figures(backend: Backend, seed: int) -> None:
    batch = drawn(40 if seed else 3, seed)
    stats, each = cocoeval(*batch, classes=len(CLASSES))
    found = measured(batch, backend=backend)
    assert_allclose(none_for_nan([found[name] for name in TWELVE]), stats, rtol=0, atol=1e-12)
    assert_allclose([found[f"AP[{name}]"] for name in CLASSES], each, rtol=0, atol=1e-12)
    assert math.isnan(found["AP[no such thing]"]) and list(found)[:12] == list(TWELVE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_than_a_hundred_detections_of_a_class(backend: Backend) -> None:
    draw = np.random.default_rng(0)
    objects = [[*row, *(row + 20), 0, 0] for row in draw.integers(0, 200, (110, 2))]
    found = [[*row[:4], score / 16, 0] for row, score in zip(objects, draw.integers(0, 16, 110), strict=True)]
    batch = told(objects, *found)
    stats, _ = cocoeval(*batch, classes=len(CLASSES))
    assert_allclose(none_for_nan([measured(batch, backend=backend)[name] for name in TWELVE]), stats, atol=1e-12)
    assert stats[8] < 1


def real() -> tuple[list[str], Prediction, Shard]:
    """The published annotations and detections of 100 images, as a data set and a network would give them."""
    if not REAL.is_dir():
        pytest.skip("not installable: the published COCO evaluation is not on this machine")
    about = json.loads((REAL / "instances_val2014_100.json").read_text())
    results = json.loads((REAL / "instances_val2014_fakebbox100_results.json").read_text())
    categories = {category["id"]: label for label, category in enumerate(about["categories"])}
    ids = sorted(image["id"] for image in about["images"])
    truth: dict[int, list[list[float]]] = {id: [] for id in ids}
    found: dict[int, list[list[float]]] = {id: [] for id in ids}
    for row in about["annotations"]:
        x, y, width, height = row["bbox"]
        ends = [x, y, x + width, y + height]
        truth[row["image_id"]].append([*ends, categories[row["category_id"]], row["iscrowd"], row["area"]])
    for row in results:
        x, y, width, height = row["bbox"]
        found[row["image_id"]].append([x, y, x + width, y + height, row["score"], categories[row["category_id"]]])
    rows = [torch.tensor(found[id], dtype=torch.float64).view(-1, 6) for id in ids]
    fields = {"boxes": [row[:, :4] for row in rows], "scores": [row[:, 4] for row in rows]}
    prediction = Prediction(np.array(ids), {**fields, "labels": [row[:, 5].long() for row in rows]})
    annotated = [torch.tensor(truth[id], dtype=torch.float64).view(-1, 7) for id in ids]
    return (
        [category["name"] for category in about["categories"]],
        prediction,
        Shard(np.array(ids), {"truth": annotated}),
    )


PUBLISHED = (
    *(0.5045806987, 0.6969727247, 0.5729816670, 0.5856257209, 0.5193996948, 0.5013978986),
    *(0.3868127796, 0.5936795763, 0.5953529829, 0.6398109626, 0.5664205979, 0.5642905983),
)


@pytest.mark.data
@pytest.mark.parametrize("backend", BACKENDS)
def test_published_figures_of_coco(backend: Backend) -> None:
    classes, *batch = real()
    metric = AveragePrecision(classes, backend=backend)
    metric.update(*batch)
    found = metric.compute(metric.state())
    assert [round(found[name], 10) for name in TWELVE] == list(PUBLISHED)
    stats, each = cocoeval(*batch, classes=len(classes))
    assert_allclose([found[name] for name in TWELVE], stats, rtol=0, atol=1e-12)
    assert_allclose([found[f"AP[{name}]"] for name in classes], each, rtol=0, atol=1e-12)


PERFECT = told([[0, 0, 10, 10, 0, 0], [20, 0, 60, 40, 1, 0]], [0, 0, 10, 10, 0.9, 0], [20, 0, 60, 40, 0.8, 1])
MISSED = told([[0, 0, 10, 10, 0, 0]])
ASTRAY = told([], [0, 0, 10, 10, 0.9, 0], id=7)


@pytest.mark.parametrize(
    "options", [*({"backend": name} for name in BACKENDS), {"protocol": "voc2007"}, {"protocol": "voc2010"}]
)
def test_all_right_is_one_and_nothing_is_nought(options: dict[str, Any]) -> None:
    right, missed, astray = measured(PERFECT, **options), measured(MISSED, **options), measured(ASTRAY, **options)
    # COCO adds 2**-52 to what a precision is divided by
    assert [right[name] for name in ("mAP50", "AP[cat]", "AP[dog]")] == pytest.approx([1.0] * 3, abs=1e-15)
    assert right["F1[cat]"] == 1.0
    assert (right["threshold[cat]"], right["threshold[dog]"]) == (0.9, 0.8)
    assert {missed[name] for name in ("mAP50", "AP[cat]", "F1[cat]")} == {0.0}
    assert math.isnan(missed["threshold[cat]"]) and math.isnan(missed["AP[dog]"])
    assert all(math.isnan(value) for value in astray.values()), "nothing to find"
    assert all(math.isnan(value) for value in measured(**options).values()), "no image"
    assert right.keys() == missed.keys() == astray.keys()


def test_images_without_boxes_count() -> None:
    sure = told([], [0, 0, 9, 9, 0.99, 0], id=7)
    assert measured(PERFECT, sure)["AP[cat]"] == pytest.approx(0.5)
    assert measured(PERFECT, ASTRAY)["AP[cat]"] == pytest.approx(1.0), "of equal scores the smaller id is first"
    assert measured(PERFECT, sure)["AP[dog]"] == pytest.approx(1.0)
    assert measured(PERFECT, sure)["F1[cat]"] == pytest.approx(2 / 3)


def test_no_figure_for_a_size_without_objects() -> None:
    found = measured(PERFECT)
    assert [found["mAP_small"], found["mAP_medium"]] == pytest.approx([1.0, 1.0])
    assert math.isnan(found["mAP_large"]) and math.isnan(found["mAR_large"])


def test_output_that_is_not_finite_finds_nothing() -> None:
    prediction, shard = PERFECT
    for name in prediction.fields:
        with_none = Prediction(prediction.ids, {**prediction.fields, name: [None]})
        assert measured((with_none, shard))["mAP"] == 0.0
    scores = torch.tensor([math.nan, 0.8], dtype=torch.float64)
    partly = Prediction(prediction.ids, {**prediction.fields, "scores": [scores]})
    found = measured((partly, shard))
    assert (found["AP[cat]"], found["AP[dog]"]) == (0.0, pytest.approx(1.0))


def test_ids_that_float64_would_make_equal_stay_apart() -> None:
    batch = drawn(30, first=FAR)
    near = (Prediction(np.arange(30), batch[0].fields), Shard(np.arange(30), batch[1].fields))
    assert len(set(batch[1].ids.astype(np.float64).tolist())) < 30
    assert repr(measured(batch)) == repr(measured(near))


def test_half_precision_and_float32_are_taken_as_they_are() -> None:
    prediction, shard = drawn(20)
    low = {name: [value.bfloat16() for value in prediction[name]] for name in ("boxes", "scores")}
    same = {name: [value.double() for value in low[name]] for name in low}
    one, other = ({**prediction.fields, **fields} for fields in (low, same))
    assert repr(measured((Prediction(prediction.ids, one), shard))) == repr(
        measured((Prediction(prediction.ids, other), shard))
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_printed_and_nothing_warns(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured(drawn(10), backend=backend)
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_the_number_of_threads_changes_no_bit() -> None:
    program = "from tests.boxes_drawn import digest_of_tables; print(digest_of_tables())"
    about = {**os.environ, "RAYON_NUM_THREADS": "5", "PYTHONPATH": os.pathsep.join(sys.path)}
    five = subprocess.run([sys.executable, "-c", program], env=about, check=True, capture_output=True, text=True)
    assert five.stdout.strip() == digest_of_tables()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_process_forked_from_one_that_used_hotcoco_refuses_it() -> None:
    metric = AveragePrecision(CLASSES)
    metric.update(*drawn(5))
    metric.compute(metric.state())
    child = os.fork()
    if child == 0:
        try:
            metric.compute(metric.state())
        except CalotypeError as error:
            os._exit(7 if "set another backend" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_library_that_is_missing_is_told_before_training(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)  # type: ignore[arg-type]
    assert importlib.util.find_spec(backend) is None
    node = {"_target_": "calotype.average_precision.AveragePrecision", "classes": ["cat"], "backend": backend}
    pip = "hotcoco" if backend == "hotcoco" else r"calotype\[coco\]"
    with pytest.raises(ConfigError, match=rf"^module\.metrics\.ap: backend {backend} is not .*pip install '{pip}'"):
        build(node, "module.metrics.ap")
    AveragePrecision(CLASSES, "voc2007", backend)


@pytest.mark.parametrize(
    ("options", "told_of"), [({"protocol": "voc"}, "voc2010"), ({"backend": "coco"}, "pycocotools")]
)
def test_what_is_not_known_is_refused(options: dict[str, Any], told_of: str) -> None:
    with pytest.raises(ConfigError, match=f"allowed: .*{told_of}"):
        AveragePrecision(CLASSES, **options)


@pytest.mark.parametrize("label", [-1, 4])
def test_boxes_of_a_class_that_there_is_not_are_refused(label: int) -> None:
    with pytest.raises(ConfigError, match=f"a box of class {label} is predicted, and there are 4 classes"):
        measured(told([], [0, 0, 1, 1, 0.5, label]))
    with pytest.raises(ConfigError, match=f"a box of class {label} is annotated"):
        measured(told([[0, 0, 1, 1, label, 0]]))


def test_an_image_that_was_measured_twice_is_refused() -> None:
    with pytest.raises(DataError, match="the image 7 was measured twice"):
        measured(ASTRAY, PERFECT, ASTRAY)


@pytest.mark.parametrize("name", ["boxes", "scores", "labels"])
def test_fields_that_do_not_fit_together_are_refused(name: str) -> None:
    prediction, shard = PERFECT
    shorter = Prediction(prediction.ids, {**prediction.fields, name: [prediction[name][0][:1]]})
    with pytest.raises(ValueError, match="boxes, scores and labels of image 0 are"):
        measured((shorter, shard))
    with pytest.raises(ValueError, match="zip"):
        measured((Prediction(prediction.ids, {**prediction.fields, name: []}), shard))


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_come_to_the_figures_of_one(size: int) -> None:
    def sums(batches: list[tuple[Prediction, Shard]], *, joint: bool) -> _Sums:
        found = _Sums({"ap": lambda: AveragePrecision(CLASSES)}, joint=joint)
        for batch in batches:
            found.add(Loss(torch.zeros(()), {}), *batch)
        return found

    batches = [drawn(7, seed) for seed in range(4)] + [told([])]
    words = [sums(batches[rank::size], joint=True).word() for rank in range(size)]
    joined = sums([], joint=False).joined(words, torch.device("cpu")).results()
    assert repr(joined) == repr(sums(batches, joint=False).results()) == repr(measured(*batches))


def test_tables_without_objects_ask_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "_BACKENDS", {})
    metric = AveragePrecision(CLASSES)
    metric.update(*ASTRAY)
    precision, recall = evaluators.tables(gathered(metric.state(), len(CLASSES)), "hotcoco")
    assert precision.shape == (10, 101, 4, 4, 3) and recall.shape == (10, 4, 4, 3)
    assert (precision == -1).all() and (recall == -1).all()
