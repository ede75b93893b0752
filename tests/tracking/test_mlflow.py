"""A run in MLflow's own SQLite store, read back with MLflow's own client."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from calotype import cli
from calotype.errors import RefusedError, UsageError
from calotype.tracking.mirror import without_credentials
from calotype.tracking.mlflow import MLflow, accepted
from tests import harness
from tests.runs import copy, finished, process_as_it_was  # noqa: F401
from tests.tracking import servers

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.store(tmp_path_factory.mktemp("store") / "mlflow.db")


@pytest.fixture
def run(copy: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A finished run beside an empty store, in the current folder."""
    monkeypatch.chdir(copy.parents[2])
    shutil.copy(template, copy.parents[1] / "mlflow.db")
    return copy


def sync(*arguments: str) -> int:
    return cli.main(["track", "sync", "last", "--tracker", "mlflow", *arguments])


def address(run: Path) -> str:
    return f"sqlite:///{run.parents[1]}/mlflow.db"


def test_a_run_is_mirrored_afterwards_and_twice_is_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fact 33: parameters, metrics with steps, artifacts, the status; with sqlite and no server."""
    assert sync("--json") == 0
    found = json.loads(capsys.readouterr().out)["mirrors"]["mlflow"]
    assert found["complete"] and found["points"] > 20
    tracked = servers.only(address(run))
    assert tracked.info.status == "FINISHED" and tracked.data.tags["Run Status"] == "OK"
    assert tracked.data.params["num epochs"] == "3" and tracked.data.params["batch size"] == "8"
    assert tracked.data.params["pytorch version"] and tracked.data.params["module.optimizer.lr"] == "0.01"
    measured = [line for line in harness.lines(run, "evaluation") if line["split"] == "val"]
    expected = [(line["step"], float.fromhex(line["metrics"]["loss"])) for line in measured]
    assert servers.history(address(run), tracked.info.run_id, "val/loss") == expected
    files = {item.path for item in servers.client(address(run)).list_artifacts(tracked.info.run_id)}
    assert {"config.yaml", "record.json", "status.json", "checkpoints"} <= files
    assert Path(run.parents[1] / "mlartifacts").is_dir()
    before = servers.only(address(run))
    assert sync() == 0
    assert "up to date, 0 values and 0 files sent" in capsys.readouterr().out
    assert servers.only(address(run)).data.metrics == before.data.metrics
    (run / "tracking" / "mlflow.json").unlink()
    assert sync() == 0, "and with the mirror's memory lost"
    assert servers.history(address(run), tracked.info.run_id, "val/loss") == expected
    assert servers.only(address(run)).info.run_id == tracked.info.run_id


def test_the_weights_of_a_tracked_run_are_fetched(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sync("--json")
    number = json.loads(capsys.readouterr().out)["mirrors"]["mlflow"]["run"]
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert cli.main(["evaluate", f"mlflow:{number}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == ours["metrics"]
    assert cli.main(["evaluate", "mlflow:0123"]) == 2
    assert "run 0123 can't be fetched from sqlite:" in capsys.readouterr().err
    assert cli.main(["evaluate", "console:1"]) == 2
    assert "nothing can be fetched from console" in capsys.readouterr().err


def test_a_tracked_config_that_was_changed_is_somebody_elses(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sync("--json")
    number = json.loads(capsys.readouterr().out)["mirrors"]["mlflow"]["run"]
    (config,) = (run.parents[1] / "mlartifacts").rglob("config.yaml")
    config.write_text(config.read_text().replace("experiment: toy", "experiment: other"))
    assert cli.main(["evaluate", f"mlflow:{number}"]) == RefusedError.exit_code
    assert "--trust" in capsys.readouterr().err


def test_names_of_files_that_lie_there_lead_nowhere(run: Path, tmp_path: Path) -> None:
    class Client:
        """A server that lists what isn't ours."""

        def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
            names = {None: ["record.json", "checkpoints", "../evil"], "checkpoints": ["checkpoints/step-1"]}
            listed = names.get(path, ["checkpoints/step-1/../../../evil", "checkpoints/step-1/.."])
            return [type("Item", (), {"path": name, "is_dir": False})() for name in listed]

        def download_artifacts(self, run_id: str, place: str, to: str) -> str:
            got.append(place)
            Path(to, "x").write_text("{}")
            return f"{to}/x"

    from calotype.tracking.mlflow import _fetch

    got: list[str] = []
    (tmp_path / "to").mkdir()
    _fetch(Client(), "1", tmp_path / "to")
    assert got == ["record.json"]


def test_an_id_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no id"):
        MLflow().fetch("../x", tmp_path, tmp_path / "to")


NAMES = ["val/mIoU", "val/IoU[dining table]", "val/recall[cat/dog]", "val/x[<script>alert(1)</script>]", "a[../../b]"]


@pytest.mark.parametrize("name", [*NAMES, "x" * 400, "C++", "", "/", "a//b", "é", "\x1b[2J"])
def test_names_are_such_as_mlflow_takes(name: str) -> None:
    found = accepted(name)
    _validate_metric_name(found)
    _validate_param_name(found)
    _validate_tag_name(found)
    assert len(found) <= 250 and not re.search(r"[<>\x1b]", found)


def test_names_stay_apart_and_good_ones_as_they_are() -> None:
    assert accepted("val/mIoU") == "val/mIoU" and accepted("val/IoU[dining table]") == "val/IoU/dining table"
    assert len({accepted(name) for name in ("C++", "C--", "C<>", "C[]", "C##")}) == 5


def test_of_an_address_no_credentials_are_shown() -> None:
    assert without_credentials("https://me:pass@host:1/x") == "https://host:1/x"
    assert without_credentials("sqlite:////a@b/c.db") == "sqlite:////a@b/c.db"


def test_a_password_in_a_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "tracking=mlflow", "tracking.mlflow.tracking_uri=http://me:pass@host"]) == 2
    error = capsys.readouterr().err
    assert "tracking.mlflow.tracking_uri: is an address with a password in it" in error
