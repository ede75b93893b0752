"""The files that launch the baselines by MLflow and Polyaxon are such as those tools read."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "experiments"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_mlflow_reads_its_project() -> None:
    from mlflow.projects._project_spec import load_project

    project = load_project(str(ROOT / "mlflow"))
    given = {"experiment": "voc2012_deeplabv3_resnet101_sbd", "devices": "2", "data_path": "/data"}
    command = shlex.split(project.get_entry_point("main").compute_command(given, None))
    assert command[:4] == ["calotype", "train", f"experiment={given['experiment']}", "trainer.devices=2"]
    assert command[4:] == ["paths.data=/data", "tracking=[console,tensorboard,mlflow]"]
    fetched = shlex.split(project.get_entry_point("download").compute_command({"data": "sbd", "to": "/data"}, None))
    assert fetched == ["calotype", "data", "download", "sbd", "--to", "/data"]


@pytest.mark.parametrize("name", ["training", "training_sbd", "download"])
def test_polyaxon_reads_its_files(name: str) -> None:
    files = pytest.importorskip("polyaxon.polyaxonfile", reason="not installable: see tests/tracking/test_polyaxon.py")
    found = files.check_polyaxonfile(
        polyaxonfile=str(ROOT / "plx" / f"{name}.yaml"), params={"image": {"value": "x"}}, is_cli=False
    )
    assert found.component.run.container.command[0] == "calotype"
