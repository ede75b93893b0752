"""A tracking server that refuses, fails, hangs or dies changes no bit of a run, and gets everything later, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calotype import cli
from tests import harness
from tests.toys.configs import toy, write
from tests.tracking import servers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
MIRROR = {"mlflow": {"_target_": "calotype.tracking.mlflow.MLflow", "wait": 60}}
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.store(tmp_path_factory.mktemp("store") / "mlflow.db")


@pytest.fixture
def server(template: Path, tmp_path: Path) -> Iterator[servers.Server]:
    shutil.copy(template, tmp_path / "mlflow.db")
    found = servers.serve(tmp_path, servers.free_port())
    yield found
    found.send(signal.SIGCONT)
    found.kill()


@pytest.fixture(scope="module")
def untracked(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("untracked")
    return harness.final_hash(harness.straight(configured(folder, parity_root, {}), folder / "runs"))


def configured(folder: Path, root: Path, tracking: dict[str, Any], **sections: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    free = sections.pop("vars", {})
    tree = toy("classification", root, folder / "runs", tracking=tracking, **sections)
    return write(tree | {"vars": free}, folder / "config.yaml")


def tracked(folder: Path, root: Path, address: str, **sections: Any) -> Path:
    """A run mirrored to `address`, to its end."""
    config = configured(folder, root, MIRROR, **sections)
    outcome = harness.call(harness.train_aloud, config, env={"MLFLOW_TRACKING_URI": address})
    assert outcome.code == 0, outcome.error
    return harness.only_run(folder / "runs")


def log(run: Path) -> str:
    return (run / "train.log").read_text() if (run / "train.log").exists() else ""


def told(run: Path) -> dict[str, set[int]]:
    """The steps of each metric in the clock."""
    found: dict[str, set[int]] = {}
    for text in (run / "clock.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name in line.keys() - {"step", "time", "seconds"}:
            found.setdefault(name, set()).add(line["step"])
    return found


def check_mirror(run: Path, address: str) -> None:
    """Every step of every metric is there, once."""
    number = servers.only(address).info.run_id
    for name, steps in told(run).items():
        there = [step for step, _ in servers.history(address, number, name)]
        assert sorted(there) == sorted(steps), name


@pytest.mark.guarantee("A tracking server that refuses or fails changes no bit of a run", condition="MLflow; CPU")
@pytest.mark.parametrize("how", ["refuses", "fails"])
def test_a_server_that_does_not_serve_changes_no_bit(
    how: str, untracked: str, parity_root: Path, tmp_path: Path
) -> None:
    with servers.failing(ERROR) as address:
        run = tracked(tmp_path, parity_root, address if how == "fails" else "http://127.0.0.1:9")
    assert harness.final_hash(run) == untracked
    assert "`calotype track sync" in log(run) and len(told(run)["train/loss"]) > 3


@pytest.mark.long
def test_a_server_that_hangs_is_not_waited_for(untracked: str, parity_root: Path, tmp_path: Path) -> None:
    with servers.failing() as address:
        begun = time.monotonic()
        run = tracked(tmp_path, parity_root, address)
        used = time.monotonic() - begun
    assert harness.final_hash(run) == untracked
    assert "no answer within 5 s" in log(run) and used < 30, "of the minute that a server that answers gets"


@pytest.mark.long
@pytest.mark.guarantee(
    "A tracking server that dies in mid-run gets each step once by `calotype track sync`", condition="MLflow; CPU"
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_server_lost_in_mid_run_gets_the_rest_later(
    number: int, server: servers.Server, untracked: str, parity_root: Path, tmp_path: Path
) -> None:
    slow = {"data": {"train_transforms": [{"_target_": "tests.toys.slow.Pause"}, *flips()]}}
    config = configured(tmp_path, parity_root, MIRROR, **slow)
    env = {"MLFLOW_TRACKING_URI": server.address, "TOY_PAUSE": "0.1"}
    child = harness.start(harness.train_aloud, config, env=env)
    assert harness.until(lambda: _sent(server.address) > 0, 60)
    server.send(number)
    child.join(120)
    run = harness.only_run(tmp_path / "runs")
    assert child.exitcode == 0 and "`calotype track sync" in log(run)
    if number == signal.SIGSTOP:
        server.send(signal.SIGCONT)
    else:
        server = servers.serve(tmp_path, server.port)
    try:
        os.environ["MLFLOW_TRACKING_URI"] = server.address
        for _ in range(2):
            assert cli.main(["track", "sync", str(run)]) == 0
            check_mirror(run, server.address)
        assert servers.only(server.address).info.status == "FINISHED"
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        server.kill()


def flips() -> list[Any]:
    return list(toy("classification", Path(), Path())["data"]["train_transforms"])


def _sent(address: str) -> int:
    try:
        return len(servers.only(address).data.metrics)
    except AssertionError:
        return 0


@pytest.mark.long
@pytest.mark.parametrize(("plan", "state"), [("after_step@8", "KILLED"), ("after_step@8:SIGTERM", "KILLED")])
def test_a_run_that_is_killed_and_goes_on_has_each_step_once(
    plan: str, state: str, server: servers.Server, untracked: str, parity_root: Path, tmp_path: Path
) -> None:
    config = configured(tmp_path, parity_root, MIRROR)
    env = {"MLFLOW_TRACKING_URI": server.address}
    assert harness.in_child(aloud, config, plan, env=env) != 0
    assert harness.until(lambda: _status(server.address) == state, 30)
    run = harness.only_run(tmp_path / "runs")
    assert harness.in_child(aloud, str(run), "", env=env) == 0
    assert harness.final_hash(run) == untracked and _status(server.address) == "FINISHED"
    assert servers.only(server.address).data.tags["Run Status"] == "OK"
    check_mirror(run, server.address)


def _status(address: str) -> str:
    try:
        return str(servers.only(address).info.status)
    except AssertionError:
        return ""


def aloud(where: str, plan: str) -> None:
    """Train from a config, or go on with a run, with trackers and a plan of faults. For `in_child`."""
    import calotype
    from calotype import faults

    faults.hook = harness.hook(plan) if plan else None
    if Path(where).is_dir():
        calotype.train(resume=where)
    else:
        calotype.train(where)


@pytest.mark.long
def test_a_run_that_raises_is_told_as_failed(server: servers.Server, parity_root: Path, tmp_path: Path) -> None:
    """Fact 33: the status, also when training raises."""
    wild = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e30}}
    config = configured(tmp_path, parity_root, MIRROR, module=wild)
    outcome = harness.call(harness.train_aloud, config, env={"MLFLOW_TRACKING_URI": server.address})
    assert outcome.code == 1
    found = servers.only(server.address)
    assert found.info.status == "FAILED" and found.data.tags["Run Status"] == "FAILED"


CANARIES = {
    "MLFLOW_TRACKING_TOKEN": "canary-token",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "MY_API_KEY": "canary-key",
    "DATABASE_URL": "postgresql://me:canary-db@host/x",
    "PLAIN": "canary-plain",
}


@pytest.mark.long
@pytest.mark.guarantee("No secret reaches a run's folder or a tracking server", condition="MLflow; CPU")
def test_no_secret_reaches_the_run_or_the_server(server: servers.Server, parity_root: Path, tmp_path: Path) -> None:
    """Six of them: five variables and the password in the server's address. Names of classes are harmless, too."""
    secrets = {"token": "${oc.env:PLAIN}", "url": "${oc.env:DATABASE_URL}"}
    names = {"<script>alert(1)</script>": "${oc.env:MY_API_KEY}"}
    with servers.overheard(server.port) as (address, heard):
        there = address.replace("http://", "http://me:canary-user@")
        tracking = {"mlflow": MIRROR["mlflow"] | {"tags": {"team <b>": "x<script>"}}}
        config = configured(tmp_path, parity_root, tracking, vars=secrets | names)
        outcome = harness.call(harness.train_aloud, config, env=CANARIES | {"MLFLOW_TRACKING_URI": there})
        assert outcome.code == 0, outcome.error
    run = harness.only_run(tmp_path / "runs")
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    sent = b"\n".join(line for line in bytes(heard).split(b"\r\n") if not line.lower().startswith(b"authorization:"))
    assert len(sent) > 10_000 and b"canary" not in written and b"canary" not in sent
    data = servers.only(server.address).data
    assert not [name for name in [*data.metrics, *data.params, *data.tags] if "<" in name]


@pytest.mark.long
@pytest.mark.parametrize("how", ["served", "hangs"])
def test_tracking_takes_no_time_of_the_training(
    how: str, server: servers.Server, parity_root: Path, tmp_path: Path
) -> None:
    """Reliability test 23: the time that the training process spends on its tracker is at most 5 % of the run's, and
    the wait at its end is bounded. Both are of one run: equal runs on a busy machine differ by 30 %.
    """
    sections = {"trainer": {"max_epochs": 60}, "checkpoint": {"every": "30ep", "keep_last": 2}}
    with servers.failing() as silent:
        config = configured(tmp_path, parity_root, MIRROR, **sections)
        env = {"MLFLOW_TRACKING_URI": server.address if how == "served" else silent}
        outcome = harness.call(shares, config, env=env)
    assert outcome.code == 0, outcome.error
    share, wait = outcome.value
    print(f"{how}: {share:.2%} of the time, {wait:.2f} s at the end")
    assert share <= 0.05 and wait < 15


def shares(config: str) -> tuple[float, float]:
    """Train; the share of the time that the tracker's methods took until the end, and the seconds that `close` took.
    For `call`.
    """
    import calotype
    from calotype.tracking.mirrored import Mirrored

    spent = dict.fromkeys(("start", "log", "image", "artifact", "close"), 0.0)

    def timed(name: str) -> Any:
        method = getattr(Mirrored, name)

        def call(*args: Any) -> None:
            before = time.perf_counter()
            method(*args)
            spent[name] += time.perf_counter() - before

        return call

    for name in spent:
        setattr(Mirrored, name, timed(name))
    begun = time.perf_counter()
    calotype.train(config)
    whole, wait = time.perf_counter() - begun, spent.pop("close")
    return sum(spent.values()) / (whole - wait), wait
