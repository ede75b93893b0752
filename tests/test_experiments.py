"""Every shipped experiment trains, and gives the same bits again; on small files in the published formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

import calotype
from calotype.cli import main
from calotype.commands._inputs import anchored
from calotype.commands._start import other_inputs
from calotype.commands.verify import told, verify
from calotype.config.compose import compose
from calotype.config.search import PACKAGED, options
from calotype.data.shapes import Shapes
from tests import runs
from tests.data.test_voc import devkit, semantic_boundaries
from tests.toys import cifar, mnist, photos

process_as_it_was = runs.process_as_it_was


def voc(folder: Path) -> Path:
    """Three images of VOC's and, beside them, of SBD's under each of its lists."""
    devkit(folder)
    lists = semantic_boundaries(folder / "SBD", [f"2010_00000{number}" for number in range(1, 7)])
    for name in ("train", "val"):
        (lists / f"{name}.txt").write_text((lists / "train_noval.txt").read_text())
    return folder


def coco(folder: Path) -> Path:
    """Drawn shapes as COCO's folders."""
    Shapes("boxes", size=48, images=(8, 4, 0)).write(folder, "coco", lambda _: None)
    return folder


def masked(folder: Path) -> Path:
    """Eight images of two sizes, each with a mask of two classes."""
    for number in range(8):
        size = (64, 48) if number % 2 else (40, 56)
        split = "train" if number < 5 else "val"
        for kind, image in (
            ("images", Image.new("RGB", size, (30 * number, 90, 200 - 20 * number))),
            ("masks", Image.new("L", size)),
        ):
            if kind == "masks":
                image.paste(1, (8, 8, 20 + number, 30))
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            image.save(folder / kind / split / f"{number}.png")
    (folder / "classes.txt").write_text("road\ncar\n")
    return folder


def cells(folder: Path) -> Path:
    """Eight images with a box each, one of them without area."""
    root = folder / "bccd"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (64, 48), (20 * number, 200 - 20 * number, 90)).save(root / "JPEGImages" / f"{number}.jpg")
        end = 9 if number == 3 else 30 + number
        box = f"<xmin>9</xmin><ymin>5</ymin><xmax>{end}</xmax><ymax>{end}</ymax>"
        found = f"<object><name>{'RBC' if number % 2 else 'WBC'}</name><bndbox>{box}</bndbox></object>"
        (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>{found}</annotation>")
    for split, names in {"train": range(5), "val": range(5, 8), "test": range(8, 10)}.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{number}\n" for number in names))
    return folder


DATA: dict[str, Callable[[Path], Path]] = {
    "mnist": lambda folder: mnist.write(folder, train=100),
    "fashion_mnist": lambda folder: mnist.write(folder, train=100),
    "cifar10": lambda folder: cifar.write(folder / "cifar-10-batches-py", cifar.files_10(20)),
    "cifar10_resnet18": lambda folder: cifar.write(folder / "cifar-10-batches-py", cifar.files_10(20)),
    "image_folder": lambda folder: photos.draw(folder, {"train": 4, "val": 2}),
    "digits": lambda folder: folder,
    "shapes_segmentation": lambda folder: folder,
    "shapes_detection": lambda folder: folder,
    "bccd_ssd": cells,
    "boxes": coco,
    "mask_folder": masked,
    "ssd300_coco": coco,
    "voc2012_deeplabv3_resnet101": voc,
    "voc2012_deeplabv3_resnet101_sbd": voc,
    "voc2012_best": voc,
    "fine_tune": lambda folder: folder,
}
"""Writes what an experiment reads into a folder: a hundred images or less to train on."""

SLOW = (
    *(
        "boxes",
        "cifar10_resnet18",
        "image_folder",
        "mask_folder",
        "shapes_detection",
        "shapes_segmentation",
        "ssd300_coco",
    ),
    *("voc2012_deeplabv3_resnet101", "voc2012_deeplabv3_resnet101_sbd", "voc2012_best"),
)

TWO_STEPS = ("trainer.max_steps=2", "trainer.threads=1", "data.batch_size=4", "data.workers=0", "tracking=console")
DIGITS = ("experiment=digits", *TWO_STEPS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, whose folder `data` is where data are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALOTYPE_DATA", str(tmp_path / "data"))
    return tmp_path


def module(run: Path) -> dict[str, object]:
    return dict(yaml.safe_load((run / "config.yaml").read_text())["module"])


COMMANDS = {
    "experiment=mnist trainer.max_epochs=1": ("torch.optim.Adam", 2),
    "experiment=cifar10": ("torch.optim.Adam", 20),
    "experiment=cifar10 module.optimizer._target_=torch.optim.NAdam": ("torch.optim.NAdam", 20),
    "experiment=mnist trainer.max_epochs=1 module.optimizer._target_=torch.optim.RMSprop": ("torch.optim.RMSprop", 2),
}
"""The reference's commands as it documents them, and what they come to: the optimizer, steps of 32 of 80 images."""


@pytest.mark.guarantee(
    "The reference's commands train as it documents them, an optimizer replaced by its _target_ alone among them",
    condition="experiment=mnist, experiment=cifar10; the published formats in miniature",
)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_s_commands(here: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    DATA["mnist" if "mnist" in command else "cifar10"](here / "data")
    optimizer, steps = COMMANDS[command]
    assert main(["train", *command.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["state"], result["step"]) == ("done", steps)
    assert {"val/loss", "val/accuracy", "test/loss", "test/accuracy"} <= result["metrics"].keys()
    found = module(here / result["folder"])
    assert found["optimizer"] == {"_target_": optimizer, "lr": 0.01}
    assert found["loss"] == {"_target_": "calotype.losses.FocalLoss", "gamma": 2}
    assert main(["verify", "--quick", "last", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["equal"] and verdict["steps"] == min(steps, 20)


@pytest.mark.parametrize("experiment", [pytest.param(name, marks=[pytest.mark.long] * (name in SLOW)) for name in DATA])
def test_every_experiment_trains_and_comes_out_the_same(here: Path, experiment: str) -> None:
    DATA[experiment](here / "data")
    overrides = [f"experiment={experiment}", *TWO_STEPS]
    if experiment.startswith("voc2012"):
        small = "{_target_: calotype.data.transforms.PadTo, size: 65}"
        overrides += ["module.weights=null", "data.crop_size=65", "trainer.shards=1", "data.batch_size=3"]
        overrides += [f"data.eval_transforms=[{small}]"]
    if experiment == "ssd300_coco":
        overrides += ["module.weights=null", "model=ssd300_resnet18"]
    if experiment == "fine_tune":
        first = calotype.train(*DIGITS, quiet=True).folder
        overrides = ["experiment=[digits,fine_tune]", *TWO_STEPS, f"module.init_from={first}"]
    result = calotype.train(*overrides, quiet=True)
    assert (result.state, result.step) == ("done", 2)
    verdict = verify(result.folder)
    assert verdict.holds and verdict.whole and verdict.steps == 2, told(verdict)


def test_no_experiment_is_left_out() -> None:
    assert DATA.keys() == set(options("experiment", [PACKAGED]))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of two stages, on the digits with their normalisation."""
    return calotype.train(*DIGITS, f"paths.runs={tmp_path_factory.mktemp('first')}", quiet=True).folder


def second(first: Path, *overrides: str) -> list[str]:
    """What a second stage that begins with the first's best weights says of what it is given."""
    log = calotype.train(*TWO_STEPS, f"module.init_from={first}", *overrides, quiet=True).folder / "train.log"
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line.partition(" ")[2] for line in lines if "warning: " in line]


@pytest.mark.guarantee(
    "A run that begins with the weights of one that normalised otherwise says so, naming both values",
    condition="init_from names a run or a checkpoint of one; module.normalize, or a Normalize in data.eval_transforms",
)
def test_another_normalisation_than_the_first_stage_s_is_told(here: Path, first: Path) -> None:
    assert second(first, "experiment=[digits,fine_tune]") == []
    (line,) = second(first, "experiment=fine_tune")
    assert line.startswith("warning: module.normalize is null, but was {mean: [0.305], std: [0.376]} in digits/")
    best = first / "checkpoints" / (first / "checkpoints" / "best").read_text().strip()
    (line,) = second(best, "experiment=digits", "module.normalize={mean: [0.5], std: [0.5]}")
    assert "is {mean: [0.5], std: [0.5]}, but was {mean: [0.305], std: [0.376]} in" in line
    own = here / "weights.safetensors"
    own.write_bytes((best / "model.safetensors").read_bytes())
    assert second(own, "experiment=fine_tune") == [], "weights that are no run's say nothing of it"


def test_a_normalisation_among_the_transforms_is_told_too(first: Path) -> None:
    normalize = "{_target_: torchvision.transforms.v2.Normalize, mean: [0.5], std: [0.5]}"
    overrides = ["experiment=digits", f"data.eval_transforms=[{normalize}]", f"module.init_from={{path: {first}}}"]
    told = other_inputs(anchored(compose(overrides)).tree)
    assert len(told) == 1 and told[0].startswith(f"data.eval_transforms is [{normalize}], but was [] in digits/")
    assert other_inputs(compose(["experiment=digits"]).tree) == []
