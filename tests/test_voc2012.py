"""The VOC 2012 experiments: what they compute is the published recipe, and real images train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import calotype
from calotype.cli import main
from calotype.commands._assemble import Settings, build_task
from calotype.config.build import build
from calotype.config.check import load_and_check
from calotype.data.order import Batching
from calotype.data.voc import CLASSES
from calotype.engine.schedule import Poly
from calotype.engine.setup import build_optimizer

REAL = Path(__file__).parents[2] / "shared" / "data" / "voc2012_mini"
RECIPES = ("voc2012_deeplabv3_resnet101", "voc2012_deeplabv3_resnet101_sbd", "voc2012_best")


@pytest.fixture
def real() -> str:
    if not REAL.is_dir():
        pytest.skip("not installable: the pictures of VOC 2012 are not on this machine")
    return f"paths.data={REAL}"


def recipe(name: str, *overrides: str) -> Settings:
    return Settings.of(load_and_check([f"experiment={name}", *overrides]).tree)


@pytest.mark.guarantee(
    "The VOC recipe has two learning rates, 0.007 and 0.07, that fall by the poly rule to 0 and stay there",
    condition="experiment=voc2012_deeplabv3_resnet101; backbone and head by parameter group",
)
def test_two_rates_by_the_poly_rule() -> None:
    settings = recipe(RECIPES[0], "module.weights=null")
    task, _ = build_task(settings, torch.device("cpu"), CLASSES)
    options = {name: value for name, value in settings.module.optimizer.items() if name != "_target_"}
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, **options), task, settings.module.param_groups)
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes == [42_500_160, 16_130_837], "backbone, head"
    assert settings.module.lr_scheduler == {"_target_": "calotype.engine.schedule.Poly", "power": 0.9}
    scheduler = Poly(optimizer, total_steps=100)
    rates = []
    for _ in range(120):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates[0] == [0.007, 0.07]
    assert rates[50] == [pytest.approx(0.003751207, abs=5e-10), pytest.approx(0.03751207, abs=5e-9)]
    assert rates[100:] == [[0.0, 0.0]] * 20


@pytest.mark.data
def test_steps_of_an_epoch_on_the_published_lists(real: str) -> None:
    """81 batches of 18 as the reference counts them; one update of four of those."""
    counted = {18: 81, 72: 20}
    for size, steps in counted.items():
        settings = recipe(RECIPES[0], real, f"data.batch_size={size}")
        data = build(settings.dataset, "data")
        train, val = data.split("train"), data.split("val")
        assert (len(train), len(val)) == (1464, 1449)
        assert Batching(size, settings.trainer.shards, drop_last=settings.data.drop_last).steps(len(train)) == steps
    assert 7087 // 18 == 393, "the reference's, which counts 1,134 images twice"


@pytest.mark.data
@pytest.mark.long
def test_the_recipe_runs_on_real_images(real: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"experiment={RECIPES[0]}", real, "data.crop_size=128", "debug=fast", "module.weights=null"]
    assert main(["train", *overrides, f"paths.runs={tmp_path}", "trainer.train_eval=null", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"]) == ("done", 1)
    assert {"val/mIoU", "val/mIoU_void_as_background", "val/IoU[tv/monitor]"} <= found["metrics"].keys()
    skipped = json.loads((Path(found["folder"]) / "record.json").read_text())["data"]
    assert "JPEGImages" in json.dumps(skipped), "what the lists name and is not here is recorded"


@pytest.mark.data
@pytest.mark.long
@pytest.mark.guarantee(
    "A small network learns real segmentation masks by heart, and evaluate gives the figure that training gave",
    condition="45 images of VOC 2012 at 64x64, void left out; equal to the last bit",
)
def test_real_images_by_heart(real: str, tmp_path: Path) -> None:
    size = "{_target_: torchvision.transforms.v2.Resize, size: [64, 64]}"
    result = calotype.train(
        *("experiment=shapes_segmentation", "data=voc2012", real, f"paths.runs={tmp_path}"),
        *("data.train=mini_train", "data.val=mini_train", "data.batch_size=15", "data.workers=0"),
        f"data.train_transforms=[{size}]",
        f"data.eval_transforms=[{size}]",
        *("trainer.max_epochs=250", "trainer.val_check_interval=125ep", "trainer.test=null"),
        quiet=True,
    )
    assert result.metrics["val/mIoU"] > 0.85
    measured = calotype.load(result.folder, checkpoint="last").evaluate("val").scalars()
    assert {name: measured[name] for name in measured} == {name: result.metrics[name] for name in measured}
