"""SSD300's recipe on COCO: rates, weight decay, and the reference's own command line on a tiny COCO folder."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from calotype.cli import main
from calotype.commands._assemble import Settings, build_task
from calotype.config.check import load_and_check
from calotype.engine.schedule import MultiStep, Warmup
from calotype.engine.setup import build_optimizer

SCRIPT = Path(__file__).parents[1] / "examples" / "ssd300.py"
CLASSES = [f"class {number}" for number in range(80)]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ssd300", SCRIPT)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def recipe(*overrides: str) -> Settings:
    return Settings.of(load_and_check(["experiment=ssd300_coco", "module.weights=null", *overrides]).tree)


def optimizer_of(settings: Settings) -> torch.optim.Optimizer:
    task, _ = build_task(settings, torch.device("cpu"), CLASSES)
    options = {name: value for name, value in settings.module.optimizer.items() if name != "_target_"}
    return build_optimizer(lambda groups: torch.optim.SGD(groups, **options), task, settings.module.param_groups)


@pytest.mark.guarantee(
    "SSD300's recipe has no weight decay on 118 tensors of 38,518 values, and 5e-4 on 65", condition="ResNet-50"
)
def test_weight_decay_by_the_shape_of_parameters() -> None:
    groups = {group["weight_decay"]: group["params"] for group in optimizer_of(recipe()).param_groups}
    assert (len(groups[0.0]), sum(p.numel() for p in groups[0.0])) == (118, 38_518)
    assert len(groups[5e-4]) == 65 and set(groups) == {0.0, 5e-4}


def test_rates_of_all_65_epochs() -> None:
    settings, steps = recipe("model=ssd300_resnet18"), 117_266 // 32
    optimizer = optimizer_of(settings)
    node = settings.module.lr_scheduler
    scheduler = MultiStep(optimizer, 65 * steps, steps, node["milestones"], node["gamma"])
    factors = [scheduler.factor(epoch * steps + step) for epoch in range(65) for step in (0, steps - 1)]
    assert factors == pytest.approx([1.0] * 86 + [0.1] * 22 + [0.01] * 22)
    assert settings.module.lr_warmup == "300st"
    rates = {}
    for step in (0, 150, 299, 300, steps, 2 * steps):
        with Warmup(300).apply(optimizer, step) as found:
            rates[step] = found[0]
    assert rates == {
        0: 0.0,
        150: 0.0013,
        299: pytest.approx(0.0026 * 299 / 300),
        300: 0.0026,
        steps: 0.0026,
        2 * steps: 0.0026,
    }


@pytest.mark.parametrize(("processes", "batch", "rate"), [(8, 64, "0.0416"), (1, 32, "0.0026")])
def test_the_rate_is_for_32_images(script: ModuleType, processes: int, batch: int, rate: str) -> None:
    found = script.overrides(script.arguments(["--data", "/coco/", "--bs", str(batch)]), processes)
    assert f"module.optimizer.lr={rate}" in found and f"data.batch_size={processes * batch}" in found


def test_every_flag_of_the_reference_is_taken(script: ModuleType) -> None:
    words = (
        "-d /coco -e 4 -b 8 --ebs 16 -s 7 --evaluation 1 3 --multistep 2 3 --lr 0.01 -m 0.8 --wd 0.001 --warmup 10 "
        "--num-workers 2 --local_rank 0 --data_pipeline no_dali --backbone resnet18 --target 0.2 --mode training "
        "--save out --no-allow-tf32 --data-layout channels_first --log-interval 5 --json-summary s.json "
        "--benchmark-iterations 3 --benchmark-warmup 4 --backbone-path w.pth --fp16-mode static"
    )
    found = script.overrides(script.arguments(words.split()), 2)
    config = load_and_check(found).tree
    assert (config["seed"], config["paths"], config["trainer"]["max_epochs"]) == (
        7,
        {"data": "/coco", "runs": "out"},
        4,
    )
    assert config["module"]["optimizer"] == {
        "_target_": "torch.optim.SGD", "lr": 0.005, "momentum": 0.8, "nesterov": False, "weight_decay": 0.001
    }  # fmt: skip
    assert (config["data"]["batch_size"], config["data"]["eval_batch_size"], config["data"]["workers"]) == (16, 16, 2)
    assert config["module"]["lr_scheduler"]["milestones"] == ["2ep", "3ep"]
    assert config["trainer"]["val_epochs"] == [1, 3] and config["trainer"]["precision"] == "16-mixed"
    assert config["module"]["weights"] == {"source": "w.pth", "into": "features.backbone"}


@pytest.mark.parametrize("path", ["/a,b", "/job=7/coco", "/a(b)[c]{d}", "/it's", "/a #b", "/a\\b", "~/coco", "/a:b"])
def test_paths_reach_the_config_as_they_are(script: ModuleType, path: str) -> None:
    words = ["--data", path, "--save", f"{path}/runs", "--backbone-path", f"{path}.pth"]
    found = load_and_check(script.overrides(script.arguments(words), 1)).tree
    assert found["paths"] == {"data": path, "runs": f"{path}/runs"}
    assert found["module"]["weights"]["source"] == f"{path}.pth"


def test_the_speed_is_that_of_the_steps_after_the_warm_up(script: ModuleType, tmp_path: Path) -> None:
    words = "--data x --mode benchmark-training --benchmark-warmup 30 --benchmark-iterations 20"
    found = load_and_check(script.overrides(script.arguments(words.split()), 1)).tree["trainer"]
    assert (found["max_steps"], found["log_every_n_steps"]) == (50, 10)
    points = [(10, 1.0), (20, 1.0), (30, 1.0), (40, 20.0), (50, 60.0)]
    lines = [json.dumps({"step": step, "time/images_per_s": value}) for step, value in points]
    (tmp_path / "clock.jsonl").write_text("".join(f"{line}\n" for line in [*lines, json.dumps({"step": 50})]))
    assert script.speed(tmp_path, 30) == pytest.approx(30.0), "as many images at each speed"
    assert script.speed(tmp_path, 50) is None


def test_the_documented_command_is_the_experiment(script: ModuleType) -> None:
    words = "--warmup 300 --bs 32 --fp16 --data /coco/"
    found = load_and_check(script.overrides(script.arguments(words.split()), 1)).tree
    wanted = load_and_check(["experiment=ssd300_coco", "paths.data=/coco/"]).tree
    found["trainer"]["log_every_n_steps"] = wanted["trainer"]["log_every_n_steps"]
    assert found == wanted


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "shapes"
    arguments = ["--to", str(folder), "--images", "8,4,1", "--size", "48"]
    assert main(["data", "make", "shapes", "--format", "coco", *arguments]) == 0
    return folder


QUICK = "--backbone resnet18 --no-backbone-weights --bs 2 --ebs 2 --num-workers 0 -e 1 --evaluation 0 --multistep 1"


def ran(coco: Path, folder: Path, words: str, *launcher: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(SCRIPT), "--data", str(coco), *f"{QUICK} {words}".split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_the_reference_s_command_line_trains_and_misses_its_target(coco: Path, tmp_path: Path) -> None:
    found = ran(coco, tmp_path, "--warmup 2 --target 0.9 --save out --json-summary s.json trainer.threads=1")
    assert found.returncode == 1, found.stderr
    told = json.loads((tmp_path / "s.json").read_text())
    assert 0 <= told["val/mAP"] < 0.9 and told["step"] == 4 and Path(told["run"]).is_relative_to("out")
    again = ran(coco, tmp_path, f"--mode evaluation --checkpoint {told['run']} --target 0 --json-summary e.json")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "e.json").read_text())["val/mAP"] == told["val/mAP"]
    elsewhere = ran(tmp_path / "none", tmp_path, f"--mode evaluation --checkpoint {told['run']}")
    assert elsewhere.returncode == 3 and "none" in elsewhere.stderr, "--data holds for an evaluation too"


@pytest.mark.long
def test_torchrun_gives_each_process_its_part_of_the_batch(coco: Path, tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    found = ran(coco, tmp_path, "--json-summary s.json trainer.threads=1", *torchrun)
    assert found.returncode == 0, found.stderr
    assert json.loads((tmp_path / "s.json").read_text())["step"] == 2, "8 images in batches of 2 x 2"


def test_evaluation_needs_a_run(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.arguments(["--data", "/coco", "--mode", "evaluation"])
    assert stopped.value.code == 2 and "needs --checkpoint RUN" in capsys.readouterr().err
