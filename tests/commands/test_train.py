"""`calotype train`: its folder, its signals, what a full disk or a NaN does to it."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype import cli, faults
from calotype.engine.checkpoint import open_checkpoint
from calotype.errors import CheckpointError, ConfigError, NonFiniteError, RunFolderError
from tests import harness
from tests.runs import config, trained


def runs_of(folder: Path) -> list[Path]:
    return [path for path in folder.glob("runs/*/*") if path.is_dir()]


# --- the run folder


@pytest.mark.guarantee("A run folder that can't be written ends the run before data is read", condition="always")
def test_a_folder_under_a_regular_file_ends_it_at_once(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path)
    (tmp_path / "runs").write_text("in the way")
    begun = time.monotonic()
    with pytest.raises(RunFolderError, match=r"can't write in .*runs.*set paths\.runs") as raised:
        calotype.train(file, quiet=True)
    assert raised.value.exit_code == 1 and time.monotonic() - begun < 5
    assert (tmp_path / "runs").read_text() == "in the way"


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"paths": {"data": "nowhere"}}, 3),
        ({"data": {"batch_size": 99}}, 3),
        ({"module": {"param_groups": [{"pattern": "nothing_like_it"}]}}, 2),
        ({"module": {"init_from": "absent.safetensors"}}, 4),
        ({"module": {"_target_": "tests.toys.classification.Absent"}}, 2),
    ],
)
def test_an_error_before_the_first_step_leaves_no_folder(
    parity_root: Path, tmp_path: Path, sections: dict[str, Any], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", config(parity_root, tmp_path, **sections)]) == code
    assert capfd.readouterr().err.startswith("calotype: ")
    assert runs_of(tmp_path) == []


@pytest.mark.guarantee("A state that a checkpoint can't hold is refused at step 0", condition="always")
def test_an_unknown_state_of_an_optimizer_is_refused_at_step_0(parity_root: Path, tmp_path: Path) -> None:
    optimizer = {"_target_": "tests.commands.test_train.Odd", "lr": 0.1}
    with pytest.raises(CheckpointError, match=r"training.optimizer.param_groups.0.odd is a .*Unknown, which a checkpo"):
        calotype.train(config(parity_root, tmp_path, module={"optimizer": optimizer, "param_groups": []}), quiet=True)
    assert harness.lines(runs_of(tmp_path)[0]) == []


class Unknown:
    """No type for a checkpoint."""


class Odd(torch.optim.SGD):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            group["odd"] = Unknown()


@pytest.mark.guarantee("Two processes on one run folder: the second stops at once", condition="one machine")
def test_the_second_process_on_a_folder_stops_and_names_the_holder(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path, trainer={"max_epochs": 4000}, data={"workers": 2})
    first = harness.start(harness.train, file)
    try:
        assert harness.until(lambda: any((run / "checkpoints" / "last").exists() for run in runs_of(tmp_path)), 60)
        (run,) = runs_of(tmp_path)
        begun = time.monotonic()
        second = harness.call(harness.resume, str(run))
        assert second.code == 1 and time.monotonic() - begun < 20
        assert f"RunFolderError: {run} is in use by process {first.pid} on " in second.error
        assert cli.main(["status", str(run)]) == 0
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.join()
    assert harness.until(lambda: cli.main(["status", str(run)]) == 75, 3)
    third = harness.call(harness.resume, str(run), "after_step@2:SIGTERM")
    assert third.code == harness.INTERRUPTED, third.error


# --- signals


@pytest.mark.guarantee(
    "A signal ends the step in hand, saves and exits with 75",
    condition="SIGTERM, SIGUSR1",
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_request_to_stop_saves_and_can_be_resumed(parity_root: Path, tmp_path: Path, name: str) -> None:
    outcome = harness.call(harness.train, config(parity_root, tmp_path), f"after_step@7:{name}")
    assert outcome.code == 75
    assert outcome.error == f"Interrupted: stopped by {name} after step 6; `--resume` continues from there"
    (run,) = runs_of(tmp_path)
    assert harness.last(run).name == "step-00000007-part"
    assert {key: harness.status(run)[key] for key in ("state", "exit_code", "step", "total")} == {
        "state": "interrupted",
        "exit_code": 75,
        "step": 7,
        "total": 15,
    }
    assert harness.call(harness.resume, str(run)).code == 0
    assert harness.status(run)["state"] == "done"


def test_the_first_ctrl_c_is_graceful_and_the_second_immediate(parity_root: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert harness.call(harness.train, config(parity_root, one), "after_step@7:SIGINT").code == 130
    (run,) = runs_of(one)
    assert harness.last(run).name == "step-00000007-part"
    assert harness.status(run)["exit_code"] == 130 and harness.status(run)["state"] == "interrupted"
    assert harness.call(_twice, config(parity_root, two)).code == 130
    (run,) = runs_of(two)
    assert harness.last(run).name == "step-00000005"
    assert harness.status(run)["exit_code"] == 130
    assert harness.call(harness.resume, str(run)).code == 0


def _twice(file: str) -> None:
    steps = 0

    def hook(point: str) -> None:
        nonlocal steps
        steps += point == "after_step"
        if point == "after_step" and steps == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    faults.hook = hook
    harness.train(file)


# --- a full disk


def _on_a_small_disk(file: str, kilobytes: int, after: int) -> None:
    """Train where, from step `after` on, no file can grow beyond a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    steps = 0

    def hook(point: str) -> None:
        nonlocal steps
        steps += point == "after_step"
        if steps == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, resource.RLIM_INFINITY))
        elif steps == after + 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    faults.hook = hook
    try:
        harness.train(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


BIG = {"_target_": "tests.toys.classification.ToyClassification", "width": 5000}


@pytest.mark.guarantee(
    "A full disk is warned of, and the checkpoint before is intact", condition="checkpoint.on_error=warn"
)
def test_a_full_disk_is_warned_of_and_tried_again(parity_root: Path, tmp_path: Path) -> None:
    outcome = harness.call(_on_a_small_disk, config(parity_root, tmp_path, module=BIG), 200, 7)
    assert outcome.code == 0, outcome.error
    (run,) = runs_of(tmp_path)
    told = (run / "train.log").read_text()
    assert "step-00000010 could not be written to the disk: " in told and "tries again at the next checkpoint" in told
    assert "File too large" in told
    assert [path.name for path in sorted((run / "checkpoints").glob("*step*"))] == ["step-00000005", "step-00000015"]
    open_checkpoint(run / "checkpoints" / "step-00000015")


def test_a_full_disk_ends_the_run_where_that_is_asked_for(parity_root: Path, tmp_path: Path) -> None:
    file = config(parity_root, tmp_path, module=BIG, checkpoint={"on_error": "stop"})
    outcome = harness.call(_on_a_small_disk, file, 200, 7)
    assert outcome.code == 1
    assert outcome.error.startswith("RunFolderError: ") and "disk" in outcome.error and "--resume" in outcome.error
    (run,) = runs_of(tmp_path)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "last", "step-00000005"]
    assert (harness.status(run)["state"], harness.status(run)["exit_code"]) == ("failed", 1)
    assert harness.call(harness.resume, str(run)).code == 0
    assert harness.status(run)["step"] == 15


@pytest.mark.parametrize("limit", [3, 1])
def test_a_disk_so_full_that_not_even_the_journal_fits(parity_root: Path, tmp_path: Path, limit: int) -> None:
    outcome = harness.call(_on_a_small_disk, config(parity_root, tmp_path), limit, 7)
    assert outcome.code == 1 and outcome.error.startswith("RunFolderError: "), outcome.error
    assert "disk" in outcome.error
    (run,) = runs_of(tmp_path)
    assert harness.call(harness.resume, str(run)).code == 0


# --- numbers that are none


def test_a_nan_stops_the_run_at_its_step_and_names_the_samples(parity_root: Path, tmp_path: Path) -> None:
    module = {"_target_": "tests.toys.classification.ToyClassification", "nan_at": [3]}
    with pytest.raises(
        NonFiniteError, match=r"step \d+ \(epoch \d\) has loss nan and gradient norm nan.*Samples: "
    ) as e:
        trained(parity_root, tmp_path, module=module)
    assert " 3," in e.value.message.replace(": 3,", ": , 3,")
    (run,) = runs_of(tmp_path)
    step = harness.lines(run)[-1]["step"]
    assert str(e.value).startswith(f"step {step} ")
    assert [float.fromhex(line["loss"]) == float.fromhex(line["loss"]) for line in harness.lines(run)].count(False) == 1
    assert harness.status(run)["exit_code"] == 1 and harness.status(run)["state"] == "failed"
    for folder in (run / "checkpoints").glob("step-*"):
        found = open_checkpoint(folder)
        assert found.step <= step
        assert all(bool(tensor.isfinite().all()) for tensor in found.model().values())


def test_policy_skip_goes_on_and_keeps_the_weights_finite(parity_root: Path, tmp_path: Path) -> None:
    module = {"_target_": "tests.toys.classification.ToyClassification", "nan_at": [3]}
    run = trained(parity_root, tmp_path, module=module, trainer={"on_nonfinite": "skip"})
    losses = [float.fromhex(line["loss"]) for line in harness.lines(run)]
    assert len(losses) == 15 and any(loss != loss for loss in losses)
    found = open_checkpoint(harness.last(run))
    assert all(bool(tensor.isfinite().all()) for tensor in found.model().values())


# --- how a run may end, and in what precision


@pytest.mark.guarantee("The end of a run is validated once", condition="whatever the interval")
def test_the_end_is_validated_once(parity_root: Path, tmp_path: Path) -> None:
    run = trained(parity_root, tmp_path, trainer={"max_steps": 12, "val_check_interval": "6st"})
    assert [(line["split"], line["step"]) for line in harness.lines(run, "evaluation")] == [
        ("val", 6),
        ("val", 12),
        ("test", 12),
    ]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_on_a_cpu(parity_root: Path, tmp_path: Path, precision: str) -> None:
    run = trained(parity_root, tmp_path, trainer={"precision": precision, "max_epochs": 1})
    assert len(harness.lines(run)) == 5
    weights = open_checkpoint(harness.last(run)).model()
    assert all(tensor.dtype != torch.float16 and bool(tensor.isfinite().all()) for tensor in weights.values())


def test_the_logged_loss_is_the_batch_s_whatever_the_shards(parity_root: Path, tmp_path: Path) -> None:
    losses = []
    for shards in (1, 2):
        sections: dict[str, Any] = {"trainer": {"shards": shards, "max_steps": 1}, "data": {"batch_transforms": []}}
        sections["module"] = {"_target_": "tests.commands.test_train.Plain"}
        run = trained(parity_root, tmp_path / str(shards), **sections)
        losses.append(float.fromhex(harness.lines(run)[0]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def Plain() -> Any:  # noqa: N802 - a target
    """The toy without batch norm and dropout, whose loss doesn't depend on the shards."""
    from tests.toys.classification import ToyClassification

    task = ToyClassification()
    task.network[0] = torch.nn.Conv2d(3, 8, 3)
    return task


def test_a_monitor_that_nothing_measures_is_named(parity_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"module.monitor: 'val/mIoU' is not measured; there is val/loss"):
        trained(parity_root, tmp_path, module={"monitor": "val/mIoU"})


def test_weights_to_start_from(parity_root: Path, tmp_path: Path) -> None:
    first = trained(parity_root, tmp_path / "first")
    start = str(first / "checkpoints" / "step-00000015")
    second = trained(parity_root, tmp_path / "second", module={"init_from": start})
    record = json.loads((second / "record.json").read_text())
    assert len(record["weights"]["loaded"]) == 8 and record["weights"]["new"] == []
    begin = harness.lines(second, "digests")[0]["tensors"]
    end = harness.lines(first, "digests")[-1]["tensors"]
    assert begin["network.3.weight"] == end["network.3.weight"]


def test_json_is_all_there_is_on_stdout(parity_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", config(parity_root, tmp_path), "trainer.max_epochs=1", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["state"] == "done" and report["step"] == 5 and Path(report["folder"]).is_dir()
    assert report["best"] == {"step": 5, "value": report["metrics"]["val/loss"], "monitor": "val/loss"}
    assert report["tested"] == "best"
    assert cli.main(["train", "--resume", report["folder"]]) == 0
    assert "done after 5 steps" in capfd.readouterr().err
