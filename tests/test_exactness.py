"""A run is a function of its record: repeated, killed and resumed, read by any number of workers, it gives the same
bits.

A kill "at every step" is a chain: the run is killed after its first step, resumed and killed after the next, and so
on, so that each resume also starts from what earlier resumes left. "photos" is the toy classification on an
ImageFolder of six formats, with RandomResizedCrop, RandAugment, RandomErasing and mixup.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from calotype.data.folder import ImageFolder
from tests import harness
from tests.toys.configs import DATA, TASKS, write
from tests.toys.configs import config as tree_of

STEPS = 15
"""Of a straight run of three epochs."""

BAD, BAD_STEP = [1, 26], 6
"""Two places in the train split, and the one step in which they share a shard."""


MANY = [*TASKS, pytest.param("photos", marks=pytest.mark.long)]
"""The same where each is a chain of many runs."""
IMAGES = ["classification", pytest.param("photos", marks=pytest.mark.long)]


def run(folder: Path, root: Path, task: str = "classification", *plans: str, **sections: Any) -> Path:
    """Train in a new folder, stopped by `plans` and resumed; the run folder."""
    runs = folder / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    config = write(tree_of(task, root, runs, **sections), folder / "config.yaml")
    return harness.interrupted(config, runs, plans) if plans else harness.straight(config, runs)


@pytest.fixture(scope="session")
def straight(root_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The straight run of each as it stands, trained when it is first asked for."""
    made: dict[str, Path] = {}

    def of(task: str) -> Path:
        if task not in made:
            made[task] = run(tmp_path_factory.mktemp("straight"), root_of[task], task)
        return made[task]

    return of


@pytest.mark.guarantee(
    "Two runs of one config give the same bits", condition="CPU; three toy tasks, photos; any number of loader workers"
)
@pytest.mark.parametrize("task", DATA)
def test_two_runs_give_the_same_bits_with_any_workers(task: str, straight: Any, root_of: Any, tmp_path: Path) -> None:
    again = run(tmp_path, root_of[task], task, data={"workers": 2})
    assert len(harness.lines(again)) == STEPS
    assert harness.final_hash(again) == harness.final_hash(straight(task))


@pytest.mark.guarantee("Another seed gives another run", condition="three toy tasks, photos")
@pytest.mark.parametrize("task", DATA)
def test_another_seed_gives_other_bits(task: str, straight: Any, root_of: Any, tmp_path: Path) -> None:
    tree = tree_of(task, root_of[task], tmp_path / "runs") | {"seed": 4}
    other = harness.straight(write(tree, tmp_path / "config.yaml"), tmp_path / "runs")
    ours, theirs = harness.lines(straight(task)), harness.lines(other)
    for name in ("ids", "input", "loss", "norm"):
        assert all(a[name] != b[name] for a, b in zip(ours, theirs, strict=True)), name
    assert harness.final_hash(other) != harness.final_hash(straight(task))


@pytest.mark.guarantee(
    "A run killed by SIGKILL at any step and resumed ends in the bits of the run that was not",
    condition="CPU; three toy tasks, photos; with EMA, clipping, dropout, batch norm, 4 shards",
)
@pytest.mark.parametrize("task", MANY)
def test_killed_at_every_step(task: str, straight: Any, root_of: Any, tmp_path: Path) -> None:
    """Each child starts at the newest checkpoint, at most two steps back, and is killed one step further."""
    runs = tmp_path / "runs"
    config = write(tree_of(task, root_of[task], runs), tmp_path / "config.yaml")
    assert harness.in_child(harness.train, config, "after_step@1") == harness.KILLED
    killed, starts = harness.only_run(runs), [0]
    for step in range(2, STEPS + 1):
        starts.append(harness.newest(killed))
        assert step - 3 <= starts[-1] < step
        assert harness.in_child(harness.resume, str(killed), f"after_step@{step - starts[-1]}") == harness.KILLED
    assert harness.in_child(harness.resume, str(killed)) == 0
    assert harness.resumed_at(killed)[:-1] == starts[1:]
    assert harness.final_hash(killed) == harness.final_hash(straight(task))


@pytest.mark.guarantee(
    "A run stopped by SIGTERM at any step loses no step, and ends in the same bits",
    condition="CPU; three toy tasks, photos",
)
@pytest.mark.parametrize("task", MANY)
def test_asked_to_stop_at_every_step(task: str, straight: Any, root_of: Any, tmp_path: Path) -> None:
    """Each child starts where the last one stopped."""
    stopped = run(tmp_path, root_of[task], task, *["after_step@1:SIGTERM"] * STEPS)
    assert harness.resumed_at(stopped) == list(range(1, STEPS + 1))
    assert harness.final_hash(stopped) == harness.final_hash(straight(task))


@pytest.mark.guarantee(
    "So does one stopped twice in an epoch, at its end, in a validation, after the last step",
    condition="CPU; classification, photos; 0 and 2 loader workers",
)
@pytest.mark.parametrize("task", IMAGES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "plans",
    [
        ("after_step@2", "after_step@1"),
        ("in_backward@6:SIGTERM", "in_backward@5"),
        ("after_step@5",),
        ("after_step@5:SIGTERM",),
        ("in_val@2:SIGTERM", "in_val@3:SIGTERM"),
        ("before_pointer@1",),
        ("before_pointer@9",),
        ("after_step@15",),
        ("after_step@15:SIGTERM",),
        ("in_val@14",),
        ("in_val@14:SIGTERM",),
        ("in_val@14:SIGTERM", "in_val@2:SIGTERM"),
    ],
    ids="+".join,
)
def test_stopped_at_awkward_moments(
    plans: Any, workers: int, task: str, straight: Any, root_of: Any, tmp_path: Path
) -> None:
    """Twice in an epoch, at its boundary, twice in one validation, after the last step, in the final test."""
    stopped = run(tmp_path, root_of[task], task, *plans, data={"workers": workers})
    assert harness.final_hash(stopped) == harness.final_hash(straight(task))


@pytest.mark.guarantee("A resume of a finished run changes nothing", condition="three toy tasks, photos")
@pytest.mark.parametrize("task", DATA)
def test_a_finished_run_is_left_as_it_is(task: str, straight: Any) -> None:
    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in straight(task).rglob("*") if file.is_file() and file.name != "lock"}

    before = files()
    assert harness.in_child(harness.resume, str(straight(task))) == 0
    assert files() == before


def weights(folder: Path) -> dict[str, bytes]:
    """The last checkpoint's tensor files."""
    last = harness.last(folder)
    return {name: (last / name).read_bytes() for name in ("model.safetensors", "training.safetensors")}


TENSORBOARD = {"tensorboard": {"_target_": "calotype.tracking.tensorboard.TensorBoard"}}
CONSOLE = {"console": {"_target_": "calotype.tracking.console.Console"}}


@pytest.mark.guarantee(
    "Validation, trackers, log points and checkpoints change no step", condition="CPU; classification, photos"
)
@pytest.mark.parametrize("task", IMAGES)
@pytest.mark.parametrize(
    "sections",
    [
        {"tracking": TENSORBOARD | CONSOLE},
        {"trainer": {"val_check_interval": None}},
        {"trainer": {"val_check_interval": "2st"}},
        {"trainer": {"val_epochs": [1]}},
        {"trainer": {"log_every_n_steps": 1}},
        {"trainer": {"log_every_n_steps": 100}},
        {"trainer": {"test": None}},
        {"data": {"eval_batch_size": 13}},
        {"checkpoint": {"every": "7st", "keep_best": 3}},
    ],
    ids=str,
)
def test_watching_changes_no_bit(
    sections: dict[str, Any], task: str, straight: Any, root_of: Any, tmp_path: Path
) -> None:
    """Validation, trackers, log points and checkpoints leave every step and every weight as they were."""
    watched = tmp_path / "runs"
    config = write(tree_of(task, root_of[task], watched, **sections), tmp_path / "config.yaml")
    outcome = harness.call(harness.train_aloud, config)
    assert outcome.code == 0, outcome.error
    found = harness.only_run(watched)
    assert harness.lines(found) == harness.lines(straight(task))
    assert weights(found) == weights(straight(task))


def bad_ids(task: str, root: Path) -> list[int]:
    """The ids of the samples at `BAD`. Parity images are numbered by their places."""
    return ImageFolder(root).split("train").ids[BAD].tolist() if task == "photos" else BAD


def losses(run: Path) -> list[float]:
    return [float.fromhex(line["loss"]) for line in harness.lines(run)]


@pytest.mark.guarantee(
    "k shards make the update of one batch, also when unequal",
    condition="a network without batch norm; to rounding, not to the bit",
)
@pytest.mark.parametrize("task", ["classification", "photos"])
def test_shards_are_the_same_arithmetic_in_another_order(task: str, root_of: Any, tmp_path: Path) -> None:
    """Accumulating four shards is one batch: without batch norm, dropout and mixing, and with a tail batch of one."""
    runs = [
        run(
            tmp_path / str(shards),
            root_of[task],
            task,
            trainer={"shards": shards, "max_epochs": 2},
            data={"batch_transforms": [], "drop_last": False},
            module={"_target_": "tests.toys.plain.Plain"},
        )
        for shards in (1, 4)
    ]
    one, four = map(losses, runs)
    assert one != four
    assert len(one) == 12
    assert one == pytest.approx(four, abs=1e-6)
    first, second = (load_file(harness.last(found) / "model.safetensors") for found in runs)
    for name, tensor in first.items():
        assert float((tensor - second[name]).abs().max()) < 1e-6, name


@pytest.mark.guarantee(
    "Nothing is updated by or after a loss that is not finite; step and samples are named",
    condition="trainer.on_nonfinite=stop; with and without a fused optimizer and a scaler",
)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", [32, "16-mixed"])
@pytest.mark.parametrize("task", IMAGES)
def test_a_loss_that_is_not_finite_stops_the_run(
    task: str, fused: bool, precision: Any, root_of: Any, tmp_path: Path
) -> None:
    """The host looks every fifth step; what is on disk then is what a straight run has there."""
    bad = bad_ids(task, root_of[task])
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 0.01, "fused": fused}
    module = {"_target_": "tests.toys.classification.ToyClassification", "nan_at": bad, "optimizer": optimizer}
    every = {"trainer": {"log_every_n_steps": 5, "precision": precision}, "checkpoint": {"every": "5st"}}
    tree = tree_of(task, root_of[task], tmp_path / "runs", module=module, **every)
    config = write(tree, tmp_path / "config.yaml")
    outcome = harness.call(harness.train, config)
    assert outcome.code == 1
    module = {"optimizer": optimizer}
    straight = run(tmp_path / "straight", root_of[task], task, "after_step@6:SIGTERM", module=module, **every)
    found = harness.only_run(tmp_path / "runs")
    step = len(harness.lines(found)) - 1
    assert step == BAD_STEP
    assert outcome.error.startswith(f"NonFiniteError: step {step} (epoch 1) has loss nan")
    assert set(map(str, bad)) <= set(outcome.error.split("Samples: ")[1].split(".")[0].split(", "))
    assert harness.status(found)["exit_code"] == 1
    assert [folder.name for folder in sorted((found / "checkpoints").glob("step-*"))] == ["step-00000005"]
    for file in harness.last(found).glob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(file).values()), file
    common = zip(harness.lines(found)[:-1], harness.lines(straight), strict=False)
    assert all(ours == theirs for ours, theirs in common)


@pytest.mark.guarantee(
    "A step that is not finite can be left out as if it had not been", condition="trainer.on_nonfinite=skip"
)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("task", IMAGES)
def test_steps_that_are_not_finite_can_be_left_out(task: str, fused: bool, root_of: Any, tmp_path: Path) -> None:
    """Weights, statistics and average as if the step had not been; and a kill changes nothing."""
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 0.01, "fused": fused}
    nan_at = bad_ids(task, root_of[task])
    module = {"_target_": "tests.toys.classification.ToyClassification", "nan_at": nan_at, "optimizer": optimizer}
    trainer = {"on_nonfinite": "skip"}
    sections = {"module": module, "trainer": trainer}
    skipped = run(tmp_path / "straight", root_of[task], task, **sections)
    bad = [line["step"] for line in harness.lines(skipped) if line["loss"] == "nan"]
    assert bad == [BAD_STEP]
    assert len(harness.lines(skipped)) == STEPS
    for file in harness.last(skipped).glob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(file).values()), file
    killed = run(tmp_path / "killed", root_of[task], task, f"after_step@{BAD_STEP + 1}", **sections)
    assert harness.final_hash(killed) == harness.final_hash(skipped)


@pytest.mark.parametrize("task", IMAGES)
def test_an_overflow_of_half_precision_is_no_error(task: str, root_of: Any, tmp_path: Path) -> None:
    """The scale halves until the gradients fit, and a run stopped while it does goes on the same."""
    module = {"_target_": "tests.toys.classification.ToyClassification", "gain": 500.0}
    sections = {"module": module, "trainer": {"precision": "16-mixed"}, "checkpoint": {"every": "1st", "keep_last": 99}}
    straight = run(tmp_path / "straight", root_of[task], task, **sections)
    norms = [float.fromhex(line["norm"]) for line in harness.lines(straight)]
    overflows = sum(not math.isfinite(norm) for norm in norms)
    assert 0 < overflows < STEPS
    assert scale(harness.last(straight)) == 2.0 ** (16 - overflows)
    stopped = run(tmp_path / "stopped", root_of[task], task, "after_step@2", "after_step@2", **sections)
    assert harness.final_hash(stopped) == harness.final_hash(straight)


def scale(folder: Path) -> float:
    (found,) = (t for name, t in load_file(folder / "training.safetensors").items() if name.endswith("precision.scale"))
    return float(found)
