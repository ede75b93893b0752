"""What a mirror sends: everything that is in the run folder, once, in bounded pieces, whatever the server does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calotype.errors import ConfigError
from calotype.tracking import mirror
from calotype.tracking.mirror import scrubbed, told
from tests.contracts.tracker import FakeRun, TrackerContract
from tests.toys.mirrors import Server, ToFile, ToMemory


def nothing(*_: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "digits" / "one"
    (folder / "checkpoints" / "step-00000004").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000004" / "manifest.json").write_text("{}")
    (folder / "checkpoints" / "best").write_text("step-00000004\n")
    (folder / "config.yaml").write_text("seed: 1\nmodule: {optimizer: {lr: 0.1}}\npaths: {data: /secret}\n")
    (folder / "record.json").write_text(json.dumps({"run": "digits/one", "packages": {"torch": "2.15.0"}}))
    (folder / "status.json").write_text('{"state": "done"}')
    write(folder, range(4))
    return folder


def write(folder: Path, steps: Sequence[int], **beside: Any) -> None:
    with (folder / "clock.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "time": 10.0 + step, "train/loss": step / 4, **beside}) + "\n")


def sync(server: Server, folder: Path, state: str = "done", **options: Any) -> mirror.Sent:
    return ToMemory(server=server, **options).sync(folder, state, nothing)


def test_all_of_a_run_is_sent_and_nothing_twice(run: Path) -> None:
    server = Server()
    first = sync(server, run)
    assert (first.run, first.points, first.complete, first.trouble) == ("1", 4, True, None)
    assert [(p.name, p.step, p.value, p.time) for p in server.points[-1:]] == [("train/loss", 3, 0.75, 13.0)]
    assert server.params["pytorch version"] == "2.15.0" and server.params["module.optimizer.lr"] == "0.1"
    assert "paths.data" not in server.params and server.tags["calotype.run"] == "digits/one"
    assert {"config.yaml", "status.json", "checkpoints/best", "checkpoints/step-00000004/manifest.json"} <= set(
        server.files
    )
    assert server.ended == ["done"]
    again = sync(server, run)
    assert (again.points, again.files, len(server.points), server.ended) == (0, 0, 4, ["done"])


def test_steps_that_come_twice_after_a_resume_are_sent_once(run: Path) -> None:
    server = Server()
    sync(server, run, "killed")
    write(run, range(2, 6))
    sync(server, run)
    assert [p.step for p in server.points] == [0, 1, 2, 3, 4, 5] and server.ended == ["killed", "done"]


def test_any_number_is_a_value_and_a_damaged_line_is_none(run: Path) -> None:
    write(run, [9], **{"val/x": "nan", "val/y": "-inf", "seconds": 3.0})
    with (run / "clock.jsonl").open("a") as file:
        file.write('{"step": 10}\nno json\n{"step": 11, "time": 1, "a": {}}\n{"step": 12, "time": 1.0, "b')
    server = Server()
    sync(server, run)
    values = {p.name: p.value for p in server.points}
    assert values["val/x"] != values["val/x"] and values["val/y"] == -np.inf and "seconds" not in values
    assert {p.step for p in server.points} == {0, 1, 2, 3, 9}


def test_a_long_run_is_sent_in_bounded_pieces(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PIECE", 1000)
    monkeypatch.setattr(mirror, "POINTS", 7)
    write(run, range(4, 200), **{"val/" + "x" * 1500: 1.0})
    server = Server()
    sync(server, run)
    assert max(server.calls) <= 7 and len(server.points) == 4 + 2 * 196


def test_a_server_that_is_down_is_told_of_and_gets_all_of_it_later(run: Path) -> None:
    server = Server(down=True)
    found = sync(server, run)
    assert not found.complete and found.trouble == "ConnectionError: nobody is there"
    assert (run / "tracking" / "memory.trouble").read_text().strip() == found.trouble
    server.down = False
    assert sync(server, run).complete and len(server.points) == 4
    assert not (run / "tracking" / "memory.trouble").exists()


def test_a_run_that_goes_on_is_not_ended(run: Path) -> None:
    server = Server()
    sync(server, run, "running")
    assert server.ended == [] and "checkpoints/best" not in server.files


@pytest.mark.parametrize(("checkpoints", "there"), [("none", False), ("best", True), ("all", True)])
def test_checkpoints_by_choice(checkpoints: str, there: bool, run: Path) -> None:
    server = Server()
    sync(server, run, checkpoints=checkpoints)
    assert ("checkpoints/step-00000004/manifest.json" in server.files) is there


def test_another_server_gets_a_mirror_of_its_own(run: Path) -> None:
    sync(Server(), run)
    other = Server(address="elsewhere")
    assert sync(other, run).points == 4


def test_two_at_once_are_refused(run: Path) -> None:
    with mirror.alone(run, "memory", wait=False), pytest.raises(ConfigError, match="another process"):
        sync(Server(), run)


@pytest.mark.parametrize("wrong", [{"checkpoints": "some"}, {"wait": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        ToMemory(**wrong)


def test_secrets_are_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary-one")
    monkeypatch.setenv("STORE", "https://me:canary-two@host/x")
    text = scrubbed("canary-one at https://me:canary-two@host/x and postgresql://a:b@c; canary-two")
    assert "canary" not in text and "a:b" not in text and "@host" in text


def test_of_a_failed_connection_the_cause_is_told() -> None:
    long = "API request failed (Caused by NewConnectionError(\"HTTPConnection(host='h', port=9): refused\"))"
    assert told(OSError(long)) == "OSError: HTTPConnection(host='h', port=9): refused"
    assert len(told(OSError("x" * 10000))) == mirror.SHOWN


class TestMirrored(TrackerContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.place = tmp_path_factory.mktemp("place") / "ended"

    def make(self) -> ToFile:
        return ToFile(place=str(self.place))


def test_the_process_mirrors_a_run_to_its_end(run: Path, tmp_path: Path) -> None:
    tracker = ToFile(place=str(tmp_path / "ended"))
    tracker.start(FakeRun(run))
    tracker.close("done")
    state, points, pid = json.loads((tmp_path / "ended").read_text())
    assert (state, points) == ("done", 4) and pid != os.getpid()


def test_a_killed_run_is_told_as_killed(run: Path, tmp_path: Path) -> None:
    (run / "status.json").write_text('{"state": "running"}')
    child = os.fork()
    if child == 0:
        ToFile(place=str(tmp_path / "ended")).start(FakeRun(run))
        os.fork() or time.sleep(20)  # a worker that outlives the run for a while
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    end = time.monotonic() + 15
    while not (tmp_path / "ended").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert json.loads((tmp_path / "ended").read_text())[0] == "killed"


def test_a_mirror_that_can_not_work_is_told_of_and_waited_for_no_longer(run: Path) -> None:
    said: list[str] = []
    about = FakeRun(run)
    about.warn = said.append
    tracker = ToFile(place="/nowhere/at/all", wait=30)
    tracker.start(about)
    begun = time.monotonic()
    tracker.close("done")
    assert time.monotonic() - begun < 10
    (line,) = said
    assert "No such file" in line and f"`calotype track sync {run}`" in line


def test_pictures_are_written_once(run: Path) -> None:
    tracker = ToFile(place="x", system_metrics=False)
    tracker.start(FakeRun(run))
    tracker.image(3, "val/pre <script>", np.zeros((3, 4, 5), np.uint8))
    (path,) = (run / "images").iterdir()
    assert path.name.startswith("val-pre-script-") and path.name.endswith("-00000003.png")
    tracker.image(3, "val/pre  script ", np.zeros((3, 4, 5), np.uint8))
    assert len([*(run / "images").iterdir()]) == 2, "another name is another file"
    before = path.stat().st_mtime_ns
    tracker.image(3, "val/pre <script>", np.ones((3, 4, 5), np.uint8))
    tracker.wait = 0
    tracker.close("done")
    assert path.stat().st_mtime_ns == before


SLOW_SERVER = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from calotype.tracking.follow import follow
from calotype.tracking.mirror import Mirror
from calotype.tracking.mirrored import Mirrored

class Remote:
    address = "x"
    def open(self, about, run): return "1"
    def begin(self): pass
    def tell(self, params, tags): pass
    def scalars(self, points): time.sleep(0.5)
    def file(self, path, place): pass
    def end(self, state, when): pass

@dataclass
class Slow(Mirrored):
    name = "slow"
    def remote(self, folder): return Remote()

pipe, other = os.pipe()
os.close(other)
follow(Mirror(Slow(system_metrics=False, wait=1.0), Path(sys.argv[1]), live=True), pipe, os.getpid(), 1.0)
"""


def test_a_mirror_of_a_killed_run_ends_within_its_bound(tmp_path: Path) -> None:
    """However much is left to send: what was sent is noted, the rest comes by a sync."""
    (tmp_path / "tracking").mkdir()
    lines = (json.dumps({"step": step, "time": 1.0, "train/loss": 1.0}) for step in range(40_000))
    (tmp_path / "clock.jsonl").write_text("\n".join(lines) + "\n")
    begun = time.monotonic()
    command = [sys.executable, "-c", SLOW_SERVER, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (1, "")
    assert time.monotonic() - begun < 12, "sending all of it takes 20 seconds"
