"""`calotype predict` writes what a detector says of files as COCO's results, in the files' own pixels."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import calotype
from calotype.commands import _boxes
from calotype.commands._boxes import numbered
from calotype.commands._model import load_model
from calotype.data.shapes import Shapes
from calotype.errors import UsageError
from tests import detectors
from tests.detectors import predict, results, spot, told, train, use

run = detectors.detector


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation images as files."""
    folder = tmp_path_factory.mktemp("photos")
    source = Shapes("boxes", size=32, images=[16, 8, 8]).split("val")
    for row in range(len(source)):
        pixels = np.asarray(source[row]["image"].permute(1, 2, 0))
        Image.fromarray(pixels).save(folder / f"{139 * (row + 1):012d}.png")
    return folder


def test_the_results_are_what_the_task_predicts(run: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(run, photos, "--output", tmp_path, "--batch-size", 3) == 0
    found, about = results(tmp_path)
    loaded = calotype.load(run)
    expected = list(loaded.predict("val"))
    boxes = torch.cat([rows for prediction in expected for rows in prediction["boxes"]])
    scores = torch.cat([rows for prediction in expected for rows in prediction["scores"]])
    labels = torch.cat([rows for prediction in expected for rows in prediction["labels"]])
    assert len(found) == len(scores) > 50
    given = torch.tensor([item["bbox"] for item in found])
    given[:, 2:] += given[:, :2]
    assert float((given - boxes).abs().max()) < 1e-3
    assert [item["score"] for item in found] == pytest.approx(scores.tolist(), abs=1e-5)
    assert [item["category_id"] for item in found] == (labels + 1).tolist()
    assert [image["id"] for image in about["images"]] == [139 * row for row in range(1, 9)]
    names = [{"id": number, "name": name} for number, name in enumerate(Shapes("boxes").classes, 1)]
    assert about["categories"] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.json", "predictions.json"]


def test_the_api_gives_the_same_boxes(run: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(run, photos, "--output", tmp_path) == 0
    found, _ = results(tmp_path)
    rows = list(calotype.predict(run, photos))
    scores = [score for row in rows if row.boxes is not None for score in row.boxes.scores.tolist()]
    assert [item["score"] for item in found] == pytest.approx(scores, abs=1e-5)
    boxes = rows[0].boxes
    assert boxes is not None and boxes.xyxy.shape == (len(boxes.labels), 4) and boxes.size == (32, 32)
    assert (rows[0].probabilities, rows[0].mask, rows[0].image, rows[0].error) == (None, None, None, None)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_row_for_each_file_and_a_broken_one_stops_no_other(
    run: Path, photos: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1", "3"):
        (tmp_path / f"{name}.png").write_bytes((photos / "000000000139.png").read_bytes())
    (tmp_path / "2.png").write_bytes(b"no image")
    output = tmp_path / "out"
    assert predict(run, tmp_path / "[123].png", "--output", output, "--format", kind, "--overlay") == 3
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "calotype: 1 of 3 files could not be predicted; their rows say why"
    lines = captured.out.splitlines()
    rows = [*csv.DictReader(io.StringIO(captured.out))] if kind == "csv" else [json.loads(line) for line in lines]
    found, about = results(output)
    count = sum(item["image_id"] == 1 for item in found)
    assert rows[1]["error"].startswith("no JPEG, PNG") and not rows[1].get("image_id")
    if kind == "csv":
        assert [rows[0][name] for name in ("image_id", "width", "height", "boxes", "error")] == [
            *("1", "32", "32"),
            str(count),
            "",
        ]
    else:
        about_it = {"image_id": 1, "width": 32, "height": 32, "boxes": count}
        assert rows[0] == {"path": str(tmp_path / "1.png"), **about_it}
    assert [image["id"] for image in about["images"]] == [1, 3]
    assert sorted(path.name for path in output.glob("*.png")) == ["1_overlay.png", "3_overlay.png"]


def test_boxes_are_written_as_they_are_judged(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches over the edge, lies outside or has no area counts in an evaluation, so it is there."""
    boxes = [[-5, -5, 10, 10], [40, 3, 50, 9], [20.00004, 20, 99, 99], [3, 4, 3, 9]]
    use(monkeypatch, run, told(boxes, [0.9, 0.8, 0.7, 0.6]))
    assert predict(run, photos / "000000000139.png", "--output", tmp_path, "--overlay") == 0
    found = [(item["bbox"], item["score"]) for item in results(tmp_path)[0]]
    assert found == [
        ([-5.0, -5.0, 15.0, 15.0], pytest.approx(0.9, abs=5e-8)),
        ([40.0, 3.0, 10.0, 6.0], pytest.approx(0.8, abs=5e-8)),
        ([20.0, 20.0, 79.0, 79.0], pytest.approx(0.7, abs=5e-8)),
        ([3.0, 4.0, 0.0, 5.0], pytest.approx(0.6, abs=5e-8)),
    ]


def test_coco_s_tools_come_to_the_figures_of_the_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO's own evaluator is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    Shapes("boxes", size=32, images=(64, 16, 0)).write(tmp_path / "data", "coco", lambda _: None)
    network = ("model=small_ssd", "module.network.boxes.size=32", *detectors.NETWORK)
    given = (*network, f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}", "data.batch_size=8")
    steps = ("trainer.max_epochs=8", "module.optimizer.lr=0.005", "trainer.deterministic=off")
    made = calotype.train("task=detection", "data=coco", "module.monitor=val/mAP", *given, *steps, quiet=True).folder
    figures = calotype.load(made).evaluate("val").metrics
    assert predict(made, tmp_path / "data/val2017", "--output", tmp_path) == 0
    truth = COCO(str(tmp_path / "data/annotations/instances_val2017.json"))
    judged = COCOeval(truth, truth.loadRes(str(tmp_path / "predictions.json")), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    names = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mAR1", "mAR10", "mAR100")
    ours = [figures[name] for name in names]
    assert 0.01 < ours[1] < 1
    assert ours == pytest.approx([value if value > -1 else math.nan for value in judged.stats[:9]], nan_ok=True)


def test_nothing_found_is_an_empty_list_of_images_that_were_looked_at(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, run, told([]))
    assert predict(run, photos, "--output", tmp_path) == 0
    found, about = results(tmp_path)
    assert found == [] and len(about["images"]) == 8
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert predict(run, tmp_path / "broken.png", "--output", tmp_path) == 3
    assert results(tmp_path)[0] == results(tmp_path)[1]["images"] == []


def test_a_score_leaves_out_what_is_below_it_and_lets_in_what_the_task_left_out(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    file = photos / "000000000139.png"

    def scores(*asked: Any) -> list[float]:
        assert predict(run, file, "--output", tmp_path, *asked) == 0
        return [item["score"] for item in results(tmp_path)[0]]

    every = scores()
    assert len(every) > 50 and min(every) > 0.05
    low, middle, high = (every[int(len(every) * part)] for part in (0.9, 0.5, 0.1))
    configured = ("--override", f"module.detections.score={middle}")
    assert low < middle < high
    assert len(scores(*configured, "--score", low)) > len(scores(*configured)) > len(scores("--score", high)) > 0
    assert min(scores("--score", high)) > high


def test_a_score_holds_for_networks_that_choose_boxes_themselves(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, run, told([[0, 0, 9, 9]] * 2, [0.9, 0.3]))
    assert predict(run, photos / "000000000139.png", "--output", tmp_path, "--score", 0.5) == 0
    assert [item["score"] for item in results(tmp_path)[0]] == pytest.approx([0.9])


def test_an_overlay_has_the_boxes_at_the_file_s_size(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, run, told([[10, 30, 90, 70]], labels=[2]))
    spot(tmp_path / "1.png", (130, 80), (0, 0, 1, 1))
    assert predict(run, tmp_path / "1.png", "--output", tmp_path, "--overlay") == 0
    with Image.open(tmp_path / "1_overlay.png") as drawn, Image.open(tmp_path / "1.png") as photo:
        pixels, before = np.asarray(drawn), np.asarray(photo)
    assert pixels.shape == (80, 130, 3)
    rows, columns = np.nonzero((pixels[30:] == (0, 128, 0)).all(2))
    assert (rows.min() + 30, columns.min(), rows.max() + 30, columns.max()) == (30, 10, 69, 89)
    assert np.array_equal(pixels[72:], before[72:]) and np.array_equal(pixels[33:67, 13:87], before[33:67, 13:87])
    assert (pixels[16:30, 10:100] == (0, 128, 0)).all(2).mean() > 0.4, "the name stands on its colour above the box"


def test_images_have_the_numbers_that_they_are_named_by_or_count_from_1() -> None:
    cases = {
        ("000000000139.jpg", "a/7.png"): [139, 7],
        ("000000000139.jpg", "cat.png"): [1, 2],
        ("a/7.png", "b/7.png"): [1, 2],
        ("07.png", "7.png"): [1, 2],
        ("1" * 16 + ".png", "2.png"): [1, 2],
        ("\u00b2.png", "2.png"): [1, 2],
        ("-3.png", "2.png"): [1, 2],
    }
    assert {names: numbered([*map(Path, names)]) for names in cases} == cases


def test_sub_folders_are_kept_in_the_names(run: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("x/0.png", "y/0.png"):
        spot(tmp_path / "in" / name, (32, 32), (1, 1, 9, 9))
    assert predict(run, tmp_path / "in", "--output", tmp_path / "out", "--overlay") == 0
    assert [(image["id"], image["file_name"]) for image in results(tmp_path / "out")[1]["images"]] == [
        (1, "x/0.png"),
        (2, "y/0.png"),
    ]
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == [
        "x/0_overlay.png",
        "y/0_overlay.png",
    ]


def test_categories_have_the_data_set_s_own_numbers(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapes, "category_ids", (1, 2, 44, 67, 90), raising=False)
    made = train(tmp_path / "runs", "trainer.max_steps=1")
    monkeypatch.undo()
    assert json.loads((made / "record.json").read_text())["category_ids"] == [1, 2, 44, 67, 90]
    use(monkeypatch, made, told([[0, 0, 9, 9]] * 3, labels=[1, 3, 5]))
    assert predict(made, photos / "000000000139.png", "--output", tmp_path) == 0
    found, about = results(tmp_path)
    assert [item["category_id"] for item in found] == [1, 44, 90]
    assert about["categories"][2] == {"id": 44, "name": "square"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}"], "--output DIR is missing: the run predicts boxes, and they are files"),
        (["{photos}", "--output", "{photos}/000000000139.png"], "is a file; the boxes go into a folder"),
        (["{photos}", "{photos}/000000000139.png", "--output", "{out}"], "would both be 000000000139.png in images"),
        (["{photos}", "--output", "{out}", "--topk", "2"], "--topk 2: the run predicts boxes, which have one class"),
        (["{photos}", "--output", "{out}", "--batch-size", "0"], "--batch-size 0: at least 1"),
        (["{photos}", "--output", "{out}", "--score", "1.5"], "--score 1.5: from 0 to 1"),
        (["{photos}", "--output", "{out}", "--score", "nan"], "--score nan: from 0 to 1"),
    ],
)
def test_a_wrong_command_line_computes_nothing(
    run: Path, photos: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(run, *(text.format(photos=photos, out=out) for text in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1] and captured.out == ""
    assert not out.exists()


def test_two_overlays_of_one_place_and_one_over_an_input_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.jpg", "b.png", "b_overlay.png"):
        spot(tmp_path / name, (32, 32), (1, 1, 9, 9))
    assert predict(run, tmp_path / "a.*", "--output", tmp_path / "out", "--overlay") == 2
    assert "would both be written to" in capsys.readouterr().err
    assert predict(run, tmp_path / "b*", "--output", tmp_path, "--overlay") == 2
    assert "b_overlay.png is an image to predict" in capsys.readouterr().err
    assert predict(run, tmp_path / "a.*", "--output", tmp_path / "out") == 0


def test_images_of_another_size_than_the_network_takes_are_rows_with_the_reason(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spot(tmp_path / "1.png", (40, 32), (1, 1, 9, 9))
    assert predict(run, tmp_path / "1.png", photos, "--output", tmp_path / "out") == 3
    first, *others = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert first["error"] == (
        "the network fails on 3 x 32 x 40, and was trained on 3 x 32 x 32: images are 40x32 pixels and its boxes are "
        "for 32x32; resize in the transforms (set --override data.eval_transforms=[...])"
    )
    assert not any(row["error"] for row in others)
    assert [image["id"] for image in results(tmp_path / "out")[1]["images"]] == [139 * row for row in range(1, 9)]


@pytest.mark.parametrize("broken", ["bias", "box", "score"])
def test_an_output_that_is_not_finite_is_an_error_row(
    run: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    if broken == "bias":
        model = load_model(run)
        nn.init.constant_(model.task.network.kind[0].bias, float("nan"))
        monkeypatch.setattr("calotype.commands._model.load_model", lambda *_, **__: model)
    else:
        wrong = {"box": ([[0, 0, float("inf"), 9]], [0.5]), "score": ([[0, 0, 9, 9]], [float("nan")])}[broken]
        use(monkeypatch, run, told(*wrong))
    assert predict(run, photos / "000000000139.png", "--output", tmp_path) == 3
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["error"] == "the network's output is not finite" and row["boxes"] == ""
    assert results(tmp_path)[0] == results(tmp_path)[1]["images"] == []


def test_a_class_that_the_run_does_not_have_is_an_error_row(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, run, told([[0, 0, 9, 9]], labels=[6]))
    assert predict(run, photos / "000000000139.png", "--output", tmp_path) == 3
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["error"] == "the network gives a box of class 5, and the run has 5, counted from 0"


def test_results_are_there_whole_or_as_they_were(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "predictions.json").write_text("before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_boxes.Coco, "end", full)
    assert predict(run, photos, "--output", tmp_path) == 1
    assert "images.json can't be written: No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "before"


def test_export_says_what_it_can_t_do_and_where_the_weights_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Detection predicts boxes, and only networks .*model\.safetensors"):
        calotype.export(run, tmp_path / "model.onnx")
    assert [*tmp_path.iterdir()] == []
