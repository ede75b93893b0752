"""MLflow: the mirror of a run at a tracking server, or in an SQLite file of its own without one.

Unusual choices: "Run Status" (OK, FAILED, KILLED) is a tag, since a parameter can't change when a run goes on; metric
names keep their form but for what MLflow refuses (`val/IoU[cat]` becomes `val/IoU/cat`); a run is found again by its
tag `calotype.run`, so a mirror that lost its state makes no second one. Without an address the store is
`sqlite:///<runs>/mlflow.db` with the artifacts beside it: MLflow's own default is the folder a command is typed in.
"""

from __future__ import annotations

import importlib.util
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from calotype.digest import digest64
from calotype.errors import CheckpointError, UsageError
from calotype.tracking.about import About
from calotype.tracking.mirror import Point, quiet_vendors, scrubbed, without_credentials
from calotype.tracking.mirrored import Mirrored

if importlib.util.find_spec("mlflow") is None:
    raise ModuleNotFoundError("no module named 'mlflow'; pip install 'calotype[mlflow]'", name="mlflow")

RUN = "calotype.run"
STATES = {"done": ("FINISHED", "OK"), "failed": ("FAILED", "FAILED")}
KILLED = ("KILLED", "KILLED")
KEY, VALUE, TAG, BATCH = 250, 6000, 5000, 100
"""MLflow's limits: characters of a name, of a parameter, of a tag; parameters or tags a call."""
FETCHED = ("config.yaml", "record.json", "status.json", "data-lock.safetensors")
_STEP, _FILE = re.compile(r"step-\d+"), re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}")


@dataclass
class MLflow(Mirrored):
    """Mirror of a run in MLflow. `tracking_uri` is the server (or `sqlite:///FILE`), by default the variable
    MLFLOW_TRACKING_URI; `experiment_name` by default MLFLOW_EXPERIMENT_NAME, then the run's experiment.
    """

    name: ClassVar[str] = "mlflow"

    tracking_uri: str | None = None
    experiment_name: str | None = None
    run_name: str | None = None

    def remote(self, folder: Path) -> MLflowRemote:
        """The server's side of the run in `folder`."""
        return MLflowRemote(self, self.address(folder.parent.parent))

    def address(self, runs: Path) -> str:
        """Where the runs of a folder are mirrored, credentials included."""
        given = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        return given or f"sqlite:///{(runs / 'mlflow.db').resolve()}"

    def answers_within(self, folder: Path) -> float:
        """As for any server; a new SQLite file takes its time."""
        return 60.0 if self.address(folder.parent.parent).startswith("sqlite:") else super().answers_within(folder)

    def fetch(self, run_id: str, runs: Path, folder: Path) -> None:
        """Bring config, record and best checkpoint of a tracked run into `folder`.

        Raises UsageError for a run that isn't there, CheckpointError for one without a checkpoint.
        """
        quiet_vendors()
        if not _RUN_ID.fullmatch(run_id):
            raise UsageError(f"{run_id!r} is no id of an MLflow run")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        address = self.address(runs)
        try:
            client = MlflowClient(tracking_uri=address)
            client.get_run(run_id)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _fetch(client, run_id, folder)
        except (MlflowException, OSError) as error:
            text = scrubbed(" ".join(str(error).split()))[:300]
            raise UsageError(f"run {run_id} can't be fetched from {without_credentials(address)}: {text}") from error


class MLflowRemote:
    """A run at an MLflow server."""

    def __init__(self, tracker: MLflow, address: str) -> None:
        from mlflow.tracking import MlflowClient

        self.tracker, self.run = tracker, ""
        self.address = without_credentials(address)
        self._client: Any = MlflowClient(tracking_uri=address)

    def open(self, about: About, run: str | None) -> str:
        """The id of the run: the known one, the one MLflow launched this for, one with our tag, or a new one."""
        client = self._client
        name = self.tracker.experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or about.experiment
        known = self._existing(run) or self._launched(about) or self._tagged(name, about)
        if known is None:
            known = client.create_run(
                self._experiment(name),
                start_time=None if about.began is None else round(about.began * 1000),
                run_name=self.tracker.run_name or about.name.rpartition("/")[2],
                tags={RUN: about.name, "mlflow.source.name": "calotype", "mlflow.source.type": "LOCAL"},
            ).info.run_id
        self.run = known
        return known

    def begin(self) -> None:
        """The run trains, perhaps again."""
        self._client.update_run(self.run, status="RUNNING")
        self._client.set_tag(self.run, "Run Status", "RUNNING")

    def tell(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Parameters and tags. A parameter that has another value there already keeps it."""
        from mlflow.entities import Param, RunTag

        there = self._client.get_run(self.run).data.params
        new = [Param(name, text[:VALUE]) for key, text in params.items() if (name := accepted(key)) not in there]
        for batch in _batches(new, BATCH):
            self._client.log_batch(self.run, params=batch)
        marks = [RunTag(accepted(name), text[:TAG]) for name, text in tags.items()]
        for batch in _batches(marks, BATCH):
            self._client.log_batch(self.run, tags=batch)

    def scalars(self, points: Sequence[Point]) -> None:
        """Metrics. What MLflow refuses is left out; what it has already it keeps once."""
        from mlflow.entities import Metric

        metrics = [Metric(accepted(p.name), p.value, round(p.time * 1000), p.step) for p in points]
        self._log(metrics)

    def file(self, path: Path, place: str) -> None:
        """An artifact at the same place as in the run folder."""
        self._client.log_artifact(self.run, str(path), posixpath.dirname(place) or None)

    def end(self, state: str, when: float) -> None:
        """The run's status, and when it ended."""
        status, told = STATES.get(state, KILLED)
        self._client.set_tag(self.run, "Run Status", told)
        self._client.set_terminated(self.run, status, round(when * 1000))

    def _log(self, metrics: Sequence[Any]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self.run, metrics=metrics)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            half = len(metrics) // 2
            for part in (metrics[:half], metrics[half:]) if half else ():
                self._log(part)

    def _existing(self, run: str | None) -> str | None:
        """The run, unless the server has lost it or holds it for deleted."""
        from mlflow.exceptions import MlflowException

        if not run:
            return None
        try:
            info = self._client.get_run(run).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if info.lifecycle_stage == "active" else None

    def _launched(self, about: About) -> str | None:
        """The run that `mlflow run` made for this process, unless another run has taken it."""
        found = self._existing(os.environ.get("MLFLOW_RUN_ID"))
        if found is None:
            return None
        tags = self._client.get_run(found).data.tags
        if tags.get(RUN, about.name) != about.name:
            return None
        self._client.set_tag(found, RUN, about.name)
        return found

    def _tagged(self, experiment: str, about: About) -> str | None:
        there = self._client.get_experiment_by_name(experiment)
        if there is None:
            return None
        wanted = about.name.replace("'", "")
        runs = self._client.search_runs([there.experiment_id], f"tags.`{RUN}` = '{wanted}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        there = self._client.get_experiment_by_name(name)
        if there is not None:
            return str(there.experiment_id)
        place = None
        if self.address.startswith("sqlite:///"):
            store = Path(self.address.removeprefix("sqlite:///"))
            place = (store.resolve().parent / "mlartifacts" / re.sub(r"[^\w.-]", "_", name)).as_uri()
        try:
            kind = {"mlflow.experimentKind": "custom_model_development"}  # or the page takes it for one of prompts
            return str(self._client.create_experiment(name, artifact_location=place, tags=kind))
        except MlflowException:  # another run's mirror was first
            return str(self._client.get_experiment_by_name(name).experiment_id)


def accepted(name: str) -> str:
    """A name as MLflow takes it. One that loses a character gets a digest, so that no two become the same."""
    found = re.sub(r"\[(.*)\]$", r"/\1", name)
    kept = re.sub(r"[^\w.\-/: ]", "_", found)
    kept = "/".join(part if part.strip(". ") else "_" for part in kept.split("/"))
    if kept != found or len(kept) > KEY:
        kept = f"{kept[: KEY - 9]}-{digest64(name.encode())[:8]}"
    return kept


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _fetch(client: Any, run_id: str, folder: Path) -> None:
    """The files of a run whose names are what ours are; anything else that lies there is left alone."""

    def get(place: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            found = client.download_artifacts(run_id, place, beside)
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            Path(found).replace(folder / place)

    there = {item.path for item in client.list_artifacts(run_id)}
    for name in FETCHED:
        if name in there:
            get(name)
    listed = client.list_artifacts(run_id, "checkpoints") if "checkpoints" in there else []
    kept = [path for item in listed if (path := f"checkpoints/{posixpath.basename(item.path)}") == item.path]
    steps = [path for path in kept if _STEP.fullmatch(posixpath.basename(path))]
    if "record.json" not in there or not steps:
        raise CheckpointError(f"run {run_id} has no checkpoint there; was it tracked with checkpoints: best?")
    for name in ("best", "last"):
        if f"checkpoints/{name}" in kept:
            get(f"checkpoints/{name}")
    for path in steps:
        for item in client.list_artifacts(run_id, path):
            name = posixpath.basename(item.path)
            if not item.is_dir and _FILE.fullmatch(name) and item.path == f"{path}/{name}":
                get(item.path)
