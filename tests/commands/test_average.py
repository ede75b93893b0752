"""`calotype average` makes one checkpoint of several, the same bits each time, that every verb takes; the run stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import calotype
from calotype import cli
from calotype.commands.average import average
from calotype.engine.checkpoint import open_checkpoint
from calotype.errors import CheckpointError, RunFolderError, UsageError
from calotype.record.folder import RunFolder
from tests import classifiers
from tests.classifiers import pngs

classifier, classifier_copy = classifiers.classifier, classifiers.classifier_copy


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def model(path: Path) -> dict[str, torch.Tensor]:
    return open_checkpoint(path).model()


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that is not of an average."""
    files = (path for path in run.rglob("*") if path.is_file() and "average" not in str(path.relative_to(run)))
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "lock"}


@pytest.mark.guarantee("An average of checkpoints is their mean, with the same bits each time", condition="average RUN")
def test_the_mean_of_all_with_new_statistics_and_the_same_bits_again(classifier_copy: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(classifier_copy, tmp_path / "again" / "digits" / classifier_copy.name))
    before = contents(classifier_copy)
    found = average(classifier_copy)
    assert contents(classifier_copy) == before, "the run itself stays as it is"
    assert found.sources == names(classifier_copy) and len(found.sources) == 4
    made, sources = model(found.folder), [model(classifier_copy / "checkpoints" / name) for name in found.sources]
    for name, tensor in made.items():
        mean = torch.stack([source[name].double() for source in sources]).mean(0)
        same = torch.equal(tensor, mean.to(tensor.dtype))
        assert same is not name.endswith(("running_mean", "running_var", "num_batches_tracked")), name
    (network,) = {tuple(sorted(made))}
    assert network == tuple(sorted(sources[0]))
    other = average(again)
    assert other.folder.name == found.folder.name
    for file in ("model.safetensors", "manifest.json", "training.json"):
        assert (other.folder / file).read_bytes() == (found.folder / file).read_bytes()
    assert average(classifier_copy).folder == found.folder
    assert len(list((classifier_copy / "checkpoints").glob("average-*"))) == 1


def test_workers_change_no_bit(classifier_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = average(classifier_copy, last=2)
    shutil.move(here.folder, here.folder.parent / "before")
    arguments = ["average", str(classifier_copy), "--last", "2", "--override", "data.workers=2", "--json"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["sources"] == here.sources and told["metrics"] == here.metrics and told["best"] == here.best
    one, two = model(here.folder.parent / "before"), model(Path(told["folder"]))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "1216/1216 images for batch norm" in captured.err


def test_of_a_run_with_shards_mixing_dropout_and_ema(copy: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(copy, tmp_path / "again" / copy.parent.name / copy.name))
    found, other = average(copy), average(again)
    assert len(found.sources) == 2 and found.metrics == other.metrics
    assert (found.folder / "model.safetensors").read_bytes() == (other.folder / "model.safetensors").read_bytes()
    assert calotype.load(copy, checkpoint="average").evaluate("val").scalars() == found.metrics


def test_every_verb_takes_it(classifier_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = average(classifier_copy, last=2)
    for name in ("average", found.folder.name):
        loaded = calotype.load(classifier_copy, checkpoint=name)
        assert loaded.evaluate("val").scalars() == found.metrics
    assert calotype.load(found.folder).checkpoint == found.folder.name
    best = calotype.load(classifier_copy).evaluate("val").scalars()
    assert best == found.best != found.metrics
    pngs(tmp_path / "png", count=2)
    assert cli.main(["predict", str(classifier_copy), str(tmp_path / "png"), "--checkpoint", "average"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_manifest_says_what_it_is_of(classifier_copy: Path) -> None:
    found = average(classifier_copy, best=2)
    manifest = open_checkpoint(found.folder).manifest
    sources = [open_checkpoint(classifier_copy / "checkpoints" / name) for name in found.sources]
    assert manifest["average_of"] == [
        {"checkpoint": item.folder.name, "step": item.step, "sha256": item.manifest["sha256"]["model.safetensors"]}
        for item in sources
    ]
    assert manifest["batch_norm_estimated"] is True and manifest["step"] == found.step == sources[-1].step


def test_which_checkpoints_are_meant(classifier_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = names(classifier_copy)
    assert average(classifier_copy, last=3).sources == there[1:]
    scores = {
        line["step"]: float.fromhex(line["metrics"]["accuracy"])
        for line in map(json.loads, (classifier_copy / "journal.jsonl").read_text().splitlines())
        if line.get("event") == "evaluation" and line["split"] == "val"
    }
    ranked = sorted(scores, key=lambda step: (scores[step], step))[-2:]
    assert average(classifier_copy, best=2).sources == [f"step-{step:08d}" for step in sorted(ranked)]
    assert average(classifier_copy, there[2], there[0], there[2]).sources == [there[0], there[2]]
    assert cli.main(["average", str(classifier_copy), there[0], "last"]) == 0
    assert capsys.readouterr().out.startswith(f"average of {there[0]}, {there[3]}\n  average-")


def test_checkpoints_of_several_runs(classifier_copy: Path, tmp_path: Path) -> None:
    other = classifiers.train(tmp_path / "other", "seed=1", "trainer.max_epochs=1")
    found = average(classifier_copy, "best", next((other / "checkpoints").glob("step-*")))
    assert len(found.sources) == 2 and found.folder.parent == classifier_copy / "checkpoints"
    wider = classifiers.train(tmp_path / "wider", "module.network.widths=[8,24]", "trainer.max_epochs=1")
    with pytest.raises(
        CheckpointError, match=r"are of different networks: .* are classifier\.weight, features\.4\.weight"
    ):
        average(classifier_copy, "best", next((wider / "checkpoints").glob("step-*")))


def test_a_run_of_other_classes_has_nothing_to_average_with(classifier_copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(classifier_copy, tmp_path / "other" / "digits" / "20260101-1"))
    record = json.loads((other / "record.json").read_text())
    (other / "record.json").write_text(json.dumps(record | {"classes": [*"jihgfedcba"]}))
    checkpoint = other / "checkpoints" / names(other)[0]
    with pytest.raises(
        CheckpointError,
        match=r"is of a run with the classes j, i, h, g, f, \.\.\., digits/.* has 0, 1, 2, 3, 4, \.\.\.",
    ):
        average(classifier_copy, "last", checkpoint)
    assert not list((classifier_copy / "checkpoints").glob("average*"))
    alone = Path(shutil.copytree(checkpoint, tmp_path / "alone" / checkpoint.name))
    assert len(average(classifier_copy, "last", alone).sources) == 2, "what it is of can't be asked there"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": 9}, r"keeps 4 of the 9 checkpoints asked for; set checkpoint\.keep_last"),
        ({"best": 9}, "keeps 4 of the 9 checkpoints"),
        ({"last": 1}, "needs two checkpoints or more, and this would be of 1"),
        ({"last": 0}, "this would be of 0"),
    ],
)
def test_too_few_are_a_wrong_command_line(classifier: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        average(classifier, last=options.get("last"), best=options.get("best"))
    with pytest.raises(UsageError, match="not both"):
        average(classifier, "best", last=2)


def test_a_run_in_use_is_left_alone(classifier_copy: Path) -> None:
    with RunFolder(classifier_copy).locked(), pytest.raises(RunFolderError, match="is in use by"):
        average(classifier_copy)
