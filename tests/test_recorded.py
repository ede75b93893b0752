"""What a run leaves: a record that says all it was made from, a status that says how it ended, weights without pickle.

Facts 28 and 33 of what the reference systems promise; the halves about several processes and MLflow come with those.
"""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import calotype
from calotype import cli
from tests import classifiers, harness
from tests.classifiers import pngs
from tests.record.test_environment import git
from tests.runs import process_as_it_was  # noqa: F401

FEW = [*classifiers.FEW, "trainer.max_epochs=2", "seed=5"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project under git, as the current folder."""
    git(tmp_path, "init", "-q")
    (tmp_path / "model.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("runs\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(run: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run / name).read_text()))


def test_a_run_says_what_it_was_made_from(project: Path) -> None:
    """Fact 33: resolved config, command line, versions, seed, git id; metrics by step; weights by the run's id."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert cli.main(["train", *FEW, "vars={rate: 0.02}", "module.optimizer.lr=${vars.rate}"]) == 0
    run = harness.only_run(project / "runs")
    record, config = read(run, "record.json"), yaml.safe_load((run / "config.yaml").read_text())
    assert record["repository"]["project"] == {"commit": commit, "changed": False}
    assert record["command"] == [*FEW, "vars={rate: 0.02}", "module.optimizer.lr=${vars.rate}"]
    assert record["seed"] == config["seed"] == 5
    assert config["module"]["optimizer"]["lr"] == 0.02 and config["trainer"]["max_epochs"] == 2
    assert config["module"]["network"]["widths"] == [8, 16] and config["data"]["batch_size"] == 64
    assert record["calotype"] == calotype.__version__ and record["packages"]["torch"] == version("torch")
    assert record["machine"]["python"].count(".") == 2
    assert len(record["config_digest"]) == 64 and len(record["code"]["calotype.models.classification"]) == 64
    measured = harness.lines(run, "evaluation")
    steps = len(harness.lines(run))
    assert [(line["split"], line["step"]) for line in measured] == [
        ("val", steps // 2),
        ("val", steps),
        ("test", steps),
    ]
    assert harness.status(run)["state"] == "done" and harness.status(run)["exit_code"] == 0
    loaded = calotype.load(run.name, runs=project / "runs")
    assert loaded.evaluate("test").scalars()["test/loss"] == harness.status(run)["results"]["test/loss"]
    pngs(project / "png", count=1)
    (row,) = calotype.predict(run.name, project / "png", runs=project / "runs")
    assert row.error is None and row.probabilities is not None


def test_what_is_not_committed_is_kept_as_a_patch(project: Path) -> None:
    (project / "model.py").write_text("x = 2\n")
    assert cli.main(["train", *FEW, "trainer.max_steps=1"]) == 0
    run = harness.only_run(project / "runs")
    assert read(run, "record.json")["repository"]["project"]["changed"] is True
    assert "+x = 2" in (run / "code.patch").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["module.optimizer.lr=1e30", "trainer.gradient_clip_val=null"], "nothing was updated"),
        (["trainer.max_epochs=1", "module.loss._target_=tests.test_recorded.fails"], "a loss that stumbled"),
    ],
)
def test_a_run_that_raises_says_that_it_failed(
    overrides: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fact 33: the final status, also when training raises."""
    assert cli.main(["train", *FEW, *overrides]) != 0
    capsys.readouterr()
    run = harness.only_run(project / "runs")
    status = harness.status(run)
    assert status["state"] == "failed" and status["exit_code"] > 0 and message in status["message"]
    assert cli.main(["status", str(run)]) == status["exit_code"]
    (row,) = calotype.runs(project / "runs")
    assert row.state == "failed" and row.run == run.name


class Fails(torch.nn.CrossEntropyLoss):
    """A loss that stumbles once the model has learned a little."""

    steps = 0

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        type(self).steps += 1
        if type(self).steps > 3:
            raise OverflowError("a loss that stumbled")
        return super().forward(input, target)


def fails() -> torch.nn.Module:
    return Fails()


def without_pickle(run: str) -> float:
    """Measure a run's best checkpoint and go on with the run where nothing can be unpickled. For `call`."""
    import pickle

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse  # type: ignore[assignment, misc]
    measured = float(calotype.load(run).evaluate("val").scalars()["val/loss"])
    status = Path(run) / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "running", "exit_code": None}))
    calotype.train("data.workers=0", resume=run, quiet=True)
    return measured


def test_a_checkpoint_loads_without_pickle_and_by_the_network_s_own_names(tmp_path: Path) -> None:
    """Fact 28, for one process: safetensors and JSON alone, and no prefix of a wrapper."""
    run = classifiers.train(tmp_path / "runs", "trainer.max_epochs=2")
    kinds = {file.suffix for file in (run / "checkpoints").rglob("*") if file.is_file() and file.suffix}
    assert kinds == {".safetensors", ".json"}
    network = calotype.load(run).network
    weights = load_file(harness.last(run) / "model.safetensors")
    assert set(weights) == set(network.state_dict()) and "classifier.weight" in weights
    outcome = harness.call(without_pickle, str(run))
    assert outcome.code == 0, outcome.error
    assert outcome.value == harness.status(run)["results"]["val/loss"]
