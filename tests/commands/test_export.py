"""`calotype export` writes a file that computes what the network computes, or none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

import calotype
from calotype import cli
from calotype.commands import export as verb
from calotype.commands._model import load_model
from calotype.commands.export import Onnx, export
from calotype.errors import CalotypeError, DataError, DiffersError, UsageError
from tests import classifiers
from tests.classifiers import pngs

classifier, classifier_copy = classifiers.classifier, classifiers.classifier_copy


def logits(file: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])


def metadata(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


@pytest.mark.guarantee(
    "An exported network is the run's, or nothing is written", condition="ONNX, on stored samples of the run's data"
)
def test_the_file_says_what_the_network_says(classifier: Path, tmp_path: Path) -> None:
    found = export(classifier, tmp_path / "model.onnx")
    assert found.samples == 64 and found.other_class == 0 and found.difference < 1e-4
    samples = pngs(tmp_path / "png", count=100)
    images = torch.stack([sample["image"] for sample in samples]).float() / 255
    probabilities = [row.probabilities for row in calotype.predict(classifier, tmp_path / "png")]
    expected = torch.stack([values for values in probabilities if values is not None])
    torch.testing.assert_close(logits(found.path, images).softmax(1), expected, rtol=1e-4, atol=1e-5)


def test_what_a_user_needs_is_inside(classifier: Path, tmp_path: Path) -> None:
    path = export(classifier, tmp_path / "model.onnx", checkpoint="last").path
    told, record = metadata(path), json.loads((classifier / "record.json").read_text())
    assert json.loads(told["classes"]) == list("0123456789")
    assert json.loads(told["normalization"])["inside"] is True
    assert told["checkpoint"] == "step-00000076" and told["config_digest"] == record["config_digest"]
    assert told["run"] == f"digits/{classifier.name}" and told["calotype"] == calotype.__version__
    graph = onnx.load(path).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["image", "logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_normalisation_is_inside(tmp_path: Path) -> None:
    normalize = "module.normalize={mean: [0.4], std: [0.2]}"
    run = classifiers.train(tmp_path, "trainer.max_steps=1", normalize)
    path = export(run, tmp_path / "model.onnx").path
    model = load_model(run)
    image = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = model.task.network((image - 0.4) / 0.2)
    torch.testing.assert_close(logits(path, image), expected, rtol=1e-4, atol=1e-4)
    assert json.loads(metadata(path)["normalization"])["normalize"] == {"mean": [0.4], "std": [0.2]}


def test_one_image_at_a_time_and_an_older_opset(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    arguments = ["export", str(classifier), "--output", str(path), "--static-batch", "--opset", "18", "--json"]
    assert cli.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["opset"], told["samples"], told["other_class"]) == (str(path), 18, 64, 0)
    assert logits(path, torch.rand(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        logits(path, torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "-3"], "--samples -3: at least 0"),
        (["--opset", "3"], "--opset 3: this network can be exported with opset 1"),
    ],
)
def test_what_can_t_be_had_is_no_silent_something_else(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.main(["export", str(classifier), "--output", str(tmp_path / "model.onnx"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "model.onnx").exists()


def test_a_network_of_a_library(tmp_path: Path) -> None:
    run = classifiers.train(
        tmp_path, "trainer.max_steps=1", "~module.network.widths", "model=resnet18", "module.network.in_chans=1"
    )
    assert export(run, tmp_path / "model.onnx", Onnx(samples=8)).other_class == 0


@pytest.mark.parametrize("by", [1e-2, float("nan")])
def test_a_file_that_differs_is_not_written(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    path, real = tmp_path / "model.onnx", verb.outputs
    path.write_text("before")
    monkeypatch.setattr(verb, "outputs", lambda *given: [found + by for found in real(*given)])
    with pytest.raises(DiffersError, match=r"not the run's: on 64 samples the class differs on .*nothing was written"):
        export(classifier, path)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


def test_another_class_alone_is_a_difference(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verb.outputs
    monkeypatch.setattr(verb, "outputs", lambda *given: [found[:, ::-1].copy() for found in real(*given)])
    monkeypatch.setattr(verb, "TOLERANCE", 1e9)
    with pytest.raises(DiffersError, match="the class differs on 64"):
        export(classifier, tmp_path / "model.onnx")


def test_without_the_data_it_is_asked_for_or_left_out(tmp_path: Path) -> None:
    from tests.runs import config
    from tests.toys.parity import draw

    network = {"_target_": "calotype.models.classification.SmallCNN", "in_channels": 3, "num_classes": 3}
    module = {"_target_": "calotype.tasks.classification.Classification", "network": network}
    data = draw(tmp_path / "data")
    run = calotype.train(config(data, tmp_path, module=module), "trainer.max_steps=1", quiet=True).folder
    data.rename(tmp_path / "gone")
    with pytest.raises(DataError, match="draw them first; --samples 0 exports without comparing"):
        export(run, tmp_path / "model.onnx")
    found = export(run, tmp_path / "model.onnx", Onnx(samples=0))
    assert found.samples == 0 and logits(found.path, torch.rand(3, 3, 16, 16)).shape == (3, 3)


class Stubborn(torch.nn.Module):
    """A network whose steps depend on its values, which no graph can hold."""

    num_classes = 10

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64 * in_channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: Any = self.linear(images.flatten(1))
        return found if images.sum().item() > 0 else -found


def test_a_network_that_no_graph_can_hold_is_one_line(tmp_path: Path) -> None:
    target = "module.network._target_=tests.commands.test_export.Stubborn"
    run = classifiers.train(tmp_path, "trainer.max_steps=1", "~module.network.widths", target)
    with pytest.raises(CalotypeError, match="the network can't be exported to ONNX: ") as raised:
        export(run, tmp_path / "model.onnx")
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value) and not (tmp_path / "model.onnx").exists()


def test_packages_that_are_not_there_are_named(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "onnxscript" else real(name, *more)
    )
    with pytest.raises(UsageError, match=r"export needs onnxscript; install them with pip install 'calotype\[onnx\]'"):
        export(classifier, tmp_path / "model.onnx")


def test_a_place_that_can_t_be_written(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(CalotypeError, match=r"no/model\.onnx can't be written: No such file or directory"):
        export(classifier, tmp_path / "no" / "model.onnx", Onnx(samples=1))


def test_what_the_run_left_out_is_not_looked_for_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for label in "ab":
            pngs(tmp_path / "data" / split / label, count=count)
    (tmp_path / "data" / "train" / "a" / "broken.png").write_bytes(b"x")
    data = ["data=image_folder", f"paths.data={tmp_path / 'data'}", "data.mode=L", "data.on_error=skip"]
    sizes = ["data.batch_size=4", "module.network.num_classes=2"]
    run = classifiers.train(tmp_path / "runs", "trainer.max_steps=1", *data, *sizes)
    capsys.readouterr()
    assert export(run, tmp_path / "model.onnx").samples == 4
    assert "looked at" not in capsys.readouterr().err
