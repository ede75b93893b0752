"""`calotype predict` says of a file what evaluate says of the sample, and of a broken file why it says nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import calotype
from calotype import cli
from calotype.commands._model import load_model
from calotype.errors import UsageError
from calotype.tasks.classification import MultiLabel
from calotype.types import Loss, Shard
from tests import classifiers
from tests.classifiers import pngs
from tests.runs import config
from tests.toys.parity import draw

classifier, classifier_copy = classifiers.classifier, classifiers.classifier_copy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole test split as PNG files."""
    path = tmp_path_factory.mktemp("digits")
    pngs(path)
    return path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.guarantee("predict says of a file what evaluate says of the sample", condition="PNG, the same checkpoint")
def test_a_file_is_predicted_like_the_sample_that_it_holds(classifier: Path, folder: Path) -> None:
    loaded = calotype.load(classifier)
    expected = torch.cat([prediction["logits"].softmax(1) for prediction in loaded.predict("test")])
    found = list(calotype.predict(classifier, folder))
    assert [Path(row.path).name for row in found] == [f"{row:04d}.png" for row in range(359)]
    assert torch.equal(torch.stack([row.probabilities for row in found if row.probabilities is not None]), expected)


def test_in_the_run_s_own_arithmetic(folder: Path, tmp_path: Path) -> None:
    arithmetic = ["trainer.precision=bf16-mixed", "trainer.channels_last=true", "trainer.ema={decay: 0.5}"]
    run = classifiers.train(tmp_path, "trainer.max_steps=3", *arithmetic)
    logits = [prediction["logits"] for prediction in calotype.load(run).predict("test")]
    found = [row.probabilities for row in calotype.predict(run, folder)]
    assert torch.equal(torch.stack([row for row in found if row is not None]), torch.cat(logits).softmax(1))


def test_the_classes_are_those_that_evaluate_counts(
    classifier: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["predict", str(classifier), str(folder), "--batch-size", "50", "--override", "data.workers=2"]) == 0
    )
    captured = capsys.readouterr()
    labels = [str(sample["label"]) for sample in pngs(folder)]
    right = sum(row["class"] == label for row, label in zip(rows(captured.out), labels, strict=True))
    measured = calotype.load(classifier).evaluate("test").metrics["accuracy"]
    assert right / len(labels) == pytest.approx(measured)
    assert captured.err.startswith("359/359 images")


def test_csv_has_a_column_for_each_of_the_top_k(
    classifier: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(folder / "0000.png")
    assert cli.main(["predict", str(classifier), file, "--topk", "3"]) == 0
    (row,) = rows(capsys.readouterr().out)
    (predicted,) = calotype.predict(classifier, file)
    assert predicted.probabilities is not None
    values, places = predicted.probabilities.topk(3)
    assert [row[name] for name in ("class", "class_2", "class_3")] == [str(place) for place in places.tolist()]
    assert [row[name] for name in ("probability", "probability_2", "probability_3")] == [f"{v:.6g}" for v in values]
    assert (row["path"], row["error"]) == (file, "")


def test_json_lines_and_more_than_all_classes(
    classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(classifier), str(folder / "*1.png"), "--topk", "99", "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 36
    for line in lines:
        assert len(line["top"]) == 10 and {**line["top"][0], "path": line["path"], "top": line["top"]} == line
        assert sum(item["probability"] for item in line["top"]) == pytest.approx(1, abs=1e-4)
    assert cli.main(["predict", str(classifier), str(folder / "0001.png"), "--output", str(tmp_path / "o.jsonl")]) == 0
    assert json.loads((tmp_path / "o.jsonl").read_text())["path"] == str(folder / "0001.png")


@pytest.mark.guarantee("One broken file stops no prediction", condition="predict; its row says why, exit code 3")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_broken_file_is_a_row_and_the_rest_goes_on(
    classifier: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pngs(tmp_path, count=6)
    (tmp_path / "0002.png").write_bytes(b"no image")
    Image.new("L", (28, 28)).save(tmp_path / "0004.png")
    assert cli.main(["predict", str(classifier), str(tmp_path), "--format", kind]) == 3
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "calotype: 2 of 6 files could not be predicted; their rows say why"
    lines = captured.out.splitlines()
    found = rows(captured.out) if kind == "csv" else [json.loads(line) for line in lines]
    assert [Path(row["path"]).name for row in found] == [f"000{place}.png" for place in range(6)]
    assert found[2]["error"].startswith("no JPEG, PNG")
    assert found[4]["error"] == (
        "is 1 x 28 x 28 after the run's evaluation transforms, and the network was trained on 1 x 8 x 8; resize it, or "
        "set --override data.eval_transforms=[...]"
    )
    assert all(row.get("class") for place, row in enumerate(found) if place not in (2, 4))
    assert not found[2].get("class") and not found[4].get("class")


def test_evaluation_transforms_may_be_replaced(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (28, 28), 7).save(tmp_path / "large.png")
    resize = "data.eval_transforms=[{_target_: torchvision.transforms.v2.Resize, size: [8, 8]}]"
    assert cli.main(["predict", str(classifier), str(tmp_path), "--override", resize]) == 0
    assert rows(capsys.readouterr().out)[0]["error"] == ""


def test_a_list_on_stdin(
    classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = io.TextIOWrapper(io.BytesIO(f"{folder}/0003.png\n{folder}/gone.png\n".encode()))
    monkeypatch.setattr(sys, "stdin", listed)
    assert cli.main(["predict", str(classifier), "-", str(folder / "0001.png")]) == 3
    found = rows(capsys.readouterr().out)
    assert [Path(row["path"]).name for row in found] == ["0003.png", "gone.png", "0001.png"]
    assert [row["error"] for row in found] == ["", "can't be read: No such file or directory", ""]


def test_names_keep_their_bytes(classifier: Path, tmp_path: Path) -> None:
    names = [b"a,b\nc.png", b"\xff\xfe.png", b'quo"te.png']
    pngs(tmp_path, count=1)
    for name in names:
        os.link(tmp_path / "0000.png", tmp_path / os.fsdecode(name))
    (tmp_path / "0000.png").unlink()
    command = [sys.executable, "-m", "calotype", "predict", str(classifier), str(tmp_path)]
    out = subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="surrogateescape")
    found = [os.fsencode(Path(row["path"]).name) for row in rows(out)]
    assert sorted(found) == sorted(names)
    assert [Path(row.path).name for row in calotype.predict(classifier, tmp_path)] == [os.fsdecode(n) for n in found]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no INPUT: name files"),
        (["absent.png"], "absent.png: no image there"),
        (["{file}", "--topk", "0"], "--topk 0: at least 1"),
        (["{file}", "--batch-size", "0"], "--batch-size 0: at least 1"),
        (["{file}", "--output", "."], "--output . is a folder; name a file"),
        (["{file}", "--overlay"], "--overlay: the run predicts classes of images, and draws no masks"),
        (
            ["{file}", "--override", "inference=tta"],
            "module.inference: Classification asks its network in one way only",
        ),
        (["{file}", "--format", "xml"], "invalid choice: 'xml'"),
        (["{file}", "--output", "no/such/folder/x.csv"], "can't be written: No such file or directory"),
        (["{file}", "--override", "data.worker=1"], "did you mean data.workers"),
    ],
)
def test_a_wrong_command_line(
    classifier: Path, folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [text.format(file=folder / "0000.png") for text in arguments]
    assert cli.main(["predict", str(classifier), *filled]) == (1 if "written" in message else 2)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_output_is_whole_or_absent(
    classifier: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calotype.commands._model import Model

    output = tmp_path / "out.csv"
    output.write_text("before")
    monkeypatch.setattr(Model, "probabilities", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["predict", str(classifier), str(folder / "0000.png"), "--output", str(output)]) == 130
    assert output.read_text() == "before" and list(tmp_path.iterdir()) == [output]


def test_what_is_not_finite_is_an_error_row(classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.commands._model import Model

    monkeypatch.setattr(Model, "probabilities", lambda *_: torch.tensor([[0.5, float("nan")]]))
    (row,) = calotype.predict(classifier, folder / "0000.png")
    assert (row.probabilities, row.error) == (None, "the network's output is not finite")


def test_equal_probabilities_stay_in_the_order_of_the_classes(
    classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from calotype.commands._model import Model

    monkeypatch.setattr(Model, "probabilities", lambda *_: torch.full((1, 10), 0.1))
    assert cli.main(["predict", str(classifier), str(folder / "0000.png"), "--topk", "2"]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert (row["class"], row["class_2"]) == ("0", "1")


def test_an_output_that_is_no_class_of_the_data_goes_by_its_number(
    classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from calotype.commands._model import Model

    monkeypatch.setattr(Model, "probabilities", lambda *_: torch.eye(1, 12).flip(1))
    assert cli.main(["predict", str(classifier), str(folder / "0000.png")]) == 0
    (row,) = rows(capsys.readouterr().out)
    assert (row["class"], row["probability"]) == ("11", "1")


CLASSIFIES = {"_target_": "calotype.tasks.classification.Classification", "network": {
    "_target_": "calotype.models.classification.SmallCNN", "in_channels": 3, "num_classes": 3, "widths": [4],
}}  # fmt: skip


def recorded(run: Path, **changes: Any) -> None:
    """Change what the record says of the images."""
    path = run / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"input": record["input"] | changes}))


def test_colour_images_are_read_as_colour_and_sizes_that_vary_one_by_one(tmp_path: Path) -> None:
    file = config(draw(tmp_path / "data"), tmp_path, module=CLASSIFIES, data={"batch_transforms": []})
    run = calotype.train(file, "trainer.max_steps=1", quiet=True).folder
    recorded(run, shape=[3, None, 16])
    Image.new("RGB", (16, 9), (9, 8, 7)).save(tmp_path / "a.png")
    Image.new("L", (16, 40)).save(tmp_path / "b.png")
    Image.new("RGB", (15, 16)).save(tmp_path / "c.png")
    found = list(calotype.predict(run, *(tmp_path / f"{name}.png" for name in "abc"), batch_size=64))
    assert [row.error is None for row in found] == [True, True, False]
    assert "trained on 3 x any x 16" in str(found[2].error)


def test_images_that_no_file_gives_are_refused(classifier_copy: Path, folder: Path) -> None:
    recorded(classifier_copy, channels=4, shape=[4, 8, 8])
    with pytest.raises(UsageError, match=r"images have 4 channels; files give 1 \(grey\) or 3 \(RGB\)"):
        list(calotype.predict(classifier_copy, folder))


def test_of_several_labels_each_has_a_probability_of_its_own(tmp_path: Path) -> None:
    module = CLASSIFIES | {"_target_": "tests.commands.test_predict.Several"}
    file = config(draw(tmp_path / "data"), tmp_path, module=module, data={"batch_transforms": []})
    run = calotype.train(file, "trainer.max_steps=1", quiet=True).folder
    Image.new("RGB", (16, 16), (9, 8, 7)).save(tmp_path / "a.png")
    (row,) = calotype.predict(run, tmp_path / "a.png")
    model = load_model(run)
    with torch.no_grad():
        image = torch.tensor([9, 8, 7], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 16, 16)
        logits = model.task.network(model.task.images(image))
    assert row.probabilities is not None and torch.equal(row.probabilities, logits.sigmoid()[0])


class Several(MultiLabel):
    """Of labels that are a class, the labels as MultiLabel takes them."""

    def counts(self, shard: Shard) -> dict[str, float]:
        return {"images": float(len(shard))}

    def _loss(self, logits: torch.Tensor, shard: Shard, counts: Any) -> Loss:
        label = torch.nn.functional.one_hot(shard["label"], 3).float()
        return super()._loss(logits, Shard(shard.ids, {"label": label}), counts)

    def metrics(self) -> dict[str, Any]:
        return {}


def test_a_run_of_somebody_else_s_names_no_code_of_its_choice(
    classifier_copy: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = classifier_copy / "config.yaml"
    config.write_text(config.read_text().replace("calotype.models.classification.SmallCNN", "subprocess.call"))
    assert cli.main(["predict", str(classifier_copy), str(folder)]) == 2
    captured = capsys.readouterr()
    assert "subprocess.call is not on the list" in captured.err and captured.out == ""
