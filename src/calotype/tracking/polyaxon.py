"""Polyaxon: the mirror of a run as an offline run of its client, and at a server where one is named.

Unusual choices: the client's offline format is written first, into `<run>/polyaxon` (or below `folder`), whether or not
there is a server, and pushed as a whole when the run ends; so a server that is away costs nothing meanwhile, and
`calotype track sync` pushes later. Inside Polyaxon (POLYAXON_RUN_UUID) the run is the one it started, in the place it
mounted, from where Polyaxon's own sidecar takes it. A run's id there is a function of its name: pushed twice it is one.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from calotype.tracking.about import About
from calotype.tracking.mirror import Point, without_credentials
from calotype.tracking.mirrored import Mirrored

if importlib.util.find_spec("polyaxon") is None:
    raise ModuleNotFoundError("no module named 'polyaxon'; pip install 'calotype[polyaxon]'", name="polyaxon")

STATES = {"done": ("succeeded", "OK"), "failed": ("failed", "FAILED")}
STOPPED = ("stopped", "KILLED")


@dataclass
class Polyaxon(Mirrored):
    """Mirror of a run in Polyaxon. `host` is the server, by default the variable POLYAXON_HOST, and none means offline
    alone; `project` is by default the experiment; `folder` is where offline runs lie, by default the run's own.
    """

    name: ClassVar[str] = "polyaxon"

    host: str | None = None
    owner: str = "default"
    project: str | None = None
    folder: str | None = None

    def remote(self, folder: Path) -> PolyaxonRemote:
        """The side of Polyaxon's client of the run in `folder`."""
        host = None if os.environ.get("POLYAXON_OFFLINE", "").lower() in ("1", "true") else self.host
        host = host or (None if os.environ.get("POLYAXON_OFFLINE") else os.environ.get("POLYAXON_HOST"))
        return PolyaxonRemote(self, folder, host)


class PolyaxonRemote:
    """An offline run of Polyaxon's client."""

    def __init__(self, tracker: Polyaxon, folder: Path, host: str | None) -> None:
        self.tracker, self.host = tracker, host
        os.environ.setdefault("POLYAXON_HOME", str(folder / "tracking"))  # the client's settings; nothing in ~
        os.environ.setdefault("POLYAXON_CONTEXT_ROOT", str(folder / "tracking" / "polyaxon"))
        if host:
            os.environ["POLYAXON_HOST"] = host
        self.inside = os.environ.get("POLYAXON_RUN_UUID")
        base = Path(tracker.folder) / folder.parent.name / folder.name if tracker.folder else folder / "polyaxon"
        outputs = os.environ.get("POLYAXON_RUN_OUTPUTS_PATH")
        self.place = Path(outputs).parent if self.inside and outputs else base
        self.address = without_credentials(host) if host else str(self.place)
        self.run: Any = None

    def open(self, about: About, run: str | None) -> str:
        """The run's id there. An offline run that was begun earlier goes on."""
        from polyaxon.tracking import Run

        tracker, number = (
            self.tracker,
            self.inside or run or uuid.uuid5(uuid.NAMESPACE_URL, f"calotype:{about.name}").hex,
        )
        nothing = {"track_code": False, "track_env": False, "track_logs": False, "collect_resources": False}
        where = {"owner": tracker.owner, "project": tracker.project or about.experiment, "run_uuid": number}
        self.run = Run(
            **where,
            **nothing,
            artifacts_path=str(self.place),
            collect_artifacts=True,
            is_offline=not self.inside,
            name=about.name.rpartition("/")[2],
        )
        return number

    def begin(self) -> None:
        """The run trains, perhaps again."""
        if not self.inside:
            self.run.log_status("running", reason="Calotype", message="the run trains")

    def tell(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Inputs, and tags as text."""
        self.run.log_inputs(**params, async_req=False)
        self.run.log_tags([f"{name}: {value}" for name, value in tags.items()], async_req=False)

    def scalars(self, points: Sequence[Point]) -> None:
        """Events of metrics, on the disk before this returns."""
        for (step, when), some in groupby(points, key=lambda point: (point.step, point.time)):
            told = datetime.datetime.fromtimestamp(when, datetime.UTC)
            self.run.log_metrics(step=step, timestamp=told, **{point.name: point.value for point in some})
        self._flush()

    def file(self, path: Path, place: str) -> None:
        """A copy among the run's outputs, where it leaves this machine; an offline run lies beside the files."""
        if self.host or self.inside or self.tracker.folder:
            target = self.place / "outputs" / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def end(self, state: str, when: float) -> None:
        """The run's status; where there is a server, all of it goes there."""
        status, told = STATES.get(state, STOPPED)
        self.run.log_outputs(run_status=told, async_req=False)
        if not self.inside:
            self.run.log_status(status, reason="Calotype", message=f"the run is {state}")
            self._flush()
            self.run.persist_run(str(self.place))
            if self.host:
                self._push(status)

    def _flush(self) -> None:
        logger = getattr(self.run, "_event_logger", None)
        if logger is not None:
            logger.flush()

    def _push(self, status: str) -> None:
        """Send the offline run; one that the server has already gets its files and status again."""
        from polyaxon.client import ProjectClient, RunClient
        from polyaxon.exceptions import ApiException

        with suppress(ApiException):  # that it is there already
            ProjectClient(owner=self.run.owner, project=self.run.project).create({"name": self.run.project})
        client = RunClient.load_offline_run(str(self.place), raise_if_not_found=True)
        try:
            client.push_offline_run(str(self.place), upload_artifacts=False)
        except ApiException as error:
            if error.status != 400 or "already exists" not in str(error):
                raise
            client.log_status(status, reason="Calotype", message="mirrored again")
        # not by push_offline_run, which leaves them out where the run has no lineage of artifacts
        client.upload_artifacts_dir(dirpath=str(self.place), path="", overwrite=True, relative_to=str(self.place))
