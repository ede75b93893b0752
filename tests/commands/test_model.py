"""A run's network comes back from its record alone, and the record says what the data set would have said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import calotype
from calotype.commands._model import Image, load_model
from calotype.errors import CheckpointError, ConfigError, UsageError
from calotype.types import Shard
from tests.runs import config, trained
from tests.toys.parity import draw


def record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "record.json").read_text()))


def shard(count: int, *shape: int) -> Shard:
    image = torch.arange(count * int(np.prod(shape))).remainder(251).to(torch.uint8).reshape(count, *shape)
    return Shard(np.arange(count), {"image": image, "label": torch.zeros(count, dtype=torch.int64)})


def test_the_record_names_the_classes_and_says_what_images_are_like(finished: Path) -> None:
    found = record(finished)
    assert found["classes"] == ["disc", "ring", "bar"]
    assert found["input"] == {"channels": 3, "shape": [3, 16, 16], "dtype": "uint8"}


def test_it_is_the_image_after_the_evaluation_transforms(parity_root: Path, tmp_path: Path) -> None:
    odd = {"_target_": "tests.toys.faulty.OddSize"}
    file = config(parity_root, tmp_path, data={"eval_transforms": [odd], "eval_batch_size": 1})
    found = record(calotype.train(file, "trainer.max_steps=1", quiet=True).folder)
    assert found["input"] == {"channels": 3, "shape": [3, None, 16], "dtype": "uint8"}


def test_which_shapes_fit() -> None:
    image = Image(3, (3, None, 16), "uint8")
    assert image.fits((3, 5, 16)) and not image.fits((3, 5, 15)) and not image.fits((5, 16))
    assert image.told() == "3 x any x 16"
    assert Image.recorded({"input": {"channels": 3, "shape": [3, None, 16], "dtype": "uint8"}}) == image


@pytest.mark.guarantee("A trained network comes back without the data it was trained on", condition="its run folder")
def test_the_network_comes_back_without_the_data(tmp_path: Path) -> None:
    weights = trained(draw(tmp_path / "first"), tmp_path / "a", trainer={"max_epochs": 1})
    start = tmp_path / "start.safetensors"
    shutil.copy(next((weights / "checkpoints").glob("step-*")) / "model.safetensors", start)
    data = draw(tmp_path / "data")
    run = trained(data, tmp_path / "b", trainer={"max_epochs": 1}, module={"init_from": str(start)})
    expected = calotype.load(run)
    with torch.no_grad():
        logits = expected.task.predict(shard(5, 3, 16, 16))["logits"]
    shutil.rmtree(data)
    start.unlink()
    found = load_model(run)
    assert found.checkpoint.folder.name == expected.checkpoint and found.classes == ["disc", "ring", "bar"]
    assert torch.equal(found.probabilities(shard(5, 3, 16, 16)), logits.softmax(1))
    assert not found.task.training


def test_a_checkpoint_is_found_by_its_name_and_its_folder(finished: Path) -> None:
    assert load_model(finished, checkpoint="last").checkpoint.step == 15
    assert load_model(finished / "checkpoints" / "step-00000010").checkpoint.step == 10
    with pytest.raises(CheckpointError, match="nonesuch"):
        load_model(finished, checkpoint="nonesuch")


def test_a_device_that_is_not_there_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_model(finished).device.type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        load_model(finished, device="cuda")


@pytest.mark.parametrize(
    "changed", [{"input": None}, {"input": {"channels": "many"}}, {"input": {"channels": 1, "shape": 7, "dtype": "u"}}]
)
def test_a_record_that_does_not_say_it_is_named(copy: Path, changed: dict[str, Any]) -> None:
    (copy / "record.json").write_text(json.dumps(record(copy) | changed))
    with pytest.raises(CheckpointError, match=r"record\.json doesn't say what its images are like"):
        load_model(copy)


def test_a_task_that_predicts_no_classes_is_refused(parity_root: Path, tmp_path: Path) -> None:
    target = {"_target_": "tests.toys.segmentation.ToySegmentation"}
    run = trained(parity_root, tmp_path, module=target, data={"target": "mask"}, trainer={"max_steps": 1})
    found = load_model(run)
    bare = shard(2, 3, 16, 16)
    with pytest.raises(UsageError, match=r"ToySegmentation\.predict needs 'mask' beside the image"):
        found.probabilities(bare)
    mask = torch.zeros(2, 16, 16, dtype=torch.int64)
    with pytest.raises(UsageError, match="ToySegmentation predicts mask, right; only class logits"):
        found.probabilities(Shard(bare.ids, {**bare.fields, "mask": mask}))
