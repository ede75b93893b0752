"""Two nodes, each with a network, a name and a temporary folder of its own, and the link between them: network
namespaces with a veth pair. Nothing is shared but code and data.

Needs iproute2 (`make debian`) and the right to make namespaces, as root has it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests import harness
from tests.launched import TORCHRUN, all_gone, processes_of, started, under_way
from tests.toys.configs import toy, write

TIMEOUT = 10
"""Seconds that one process may keep the others waiting in these runs."""
EPOCHS = 24


@dataclass
class Node:
    """One of two machines."""

    number: int
    folder: Path
    temporary: str

    @property
    def name(self) -> str:
        return f"calotype-{os.getpid()}-{self.number}"

    @property
    def address(self) -> str:
        return f"10.213.77.{self.number + 1}"

    def set_up(self, *what: str) -> None:
        """Change something of its network."""
        ip("-n", self.name, *what)

    def train(self, *arguments: str) -> list[str]:
        """The command of its agent, run there."""
        meeting = [f"--node-rank={self.number}", "--master-addr=10.213.77.1", "--master-port=29500"]
        agent = [*TORCHRUN, "--nnodes=2", "--nproc_per_node=1", *meeting, "-m", "calotype", "train", *arguments]
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *named, *agent]

    def environment(self) -> dict[str, str]:
        """Its own temporary folder; gloo has to be told the interface where a host's name is not its address."""
        return {"TMPDIR": self.temporary, "GLOO_SOCKET_IFNAME": "eth0"}


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def connect(nodes: list[Node]) -> None:
    """Give both a network, and a link between them."""
    for node in nodes:
        ip("netns", "add", node.name)
    ends = [["eth0", "netns", node.name] for node in nodes]
    ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
    for node in nodes:
        node.set_up("addr", "add", f"{node.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            node.set_up("link", "set", device, "up")


def disconnect(nodes: list[Node]) -> None:
    """Kill whoever is left there and take the networks away; the link goes with them."""
    for node in nodes:
        with suppress(subprocess.CalledProcessError):
            kill(ip("netns", "pids", node.name))
            ip("netns", "del", node.name)


def kill(pids: str) -> None:
    for pid in pids.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is absent; `make debian` installs it")
    with ExitStack() as stack:
        folders = [stack.enter_context(TemporaryDirectory(prefix="node-")) for _ in range(2)]
        found = [Node(number, tmp_path / f"node-{number}", folder) for number, folder in enumerate(folders)]
        stack.callback(disconnect, found)
        try:
            connect(found)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"not installable: the system permits no network namespaces: {error.stderr.strip()}")
        yield found


def configured(folder: Path, root: Path, **trainer: Any) -> tuple[str, Path]:
    """A config, and its folder of runs."""
    folder.mkdir(exist_ok=True)
    settings = {"max_epochs": EPOCHS, "timeout": TIMEOUT, **trainer}
    tree = toy("classification", root, folder / "runs", trainer=settings, data={"workers": 1})
    return write(tree, folder / "config.yaml"), folder / "runs"


def launch(stack: ExitStack, nodes: list[Node], root: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Train on both, each with its own config, of which only the first one's counts."""
    commands = [node.train(configured(node.folder, root)[0], *arguments) for node in nodes]
    return [
        stack.enter_context(started(command, node.environment())) for node, command in zip(nodes, commands, strict=True)
    ]


def ended(agents: list[subprocess.Popen[str]], code: int) -> list[str]:
    """What both said at their end."""
    told = [agent.communicate(timeout=120)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [code, code], "\n".join(told)
    return told


@pytest.mark.guarantee(
    "Two nodes without a shared disk give the bits of one process",
    condition="two network namespaces; torchrun with --node-rank; CPU, trainer.reduce=exact",
)
@pytest.mark.long
def test_two_nodes_and_one_process_have_the_same_bits(nodes: list[Node], parity_root: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        ended(launch(stack, nodes, parity_root, "trainer.max_epochs=3"), 0)
    run = harness.only_run(nodes[0].folder / "runs")
    straight = harness.straight(*configured(tmp_path / "straight", parity_root, max_epochs=3))
    assert harness.final_hash(run) == harness.final_hash(straight)
    assert sorted(path.name for path in nodes[1].folder.iterdir()) == ["config.yaml"], "it keeps no run"
    assert all_gone(tmp_path, 5)


@pytest.mark.guarantee(
    "When the link between two nodes is cut both end, and a resume has the same bits",
    condition="two network namespaces; within trainer.timeout and 15 s; torchrun with --node-rank",
)
@pytest.mark.long
def test_the_link_is_cut(nodes: list[Node], parity_root: Path, tmp_path: Path) -> None:
    runs = nodes[0].folder / "runs"
    with ExitStack() as stack:
        agents = launch(stack, nodes, parity_root)
        assert under_way(runs, 4), agents[0].poll()
        nodes[1].set_up("link", "set", "eth0", "down")
        cut = time.monotonic()
        assert harness.until(lambda: not ranks_of(tmp_path, agents), TIMEOUT + 15), ranks_of(tmp_path, agents)
        assert time.monotonic() - cut > TIMEOUT / 2, "the link was in use"
        told = ended(agents, 1)
    assert all_gone(tmp_path, 5)
    assert all("was lost in step" in text and "`--resume` continues" in text for text in told), "\n".join(told)
    assert nodes[1].name in told[0], "the first names the node that it can't reach"
    run = harness.only_run(runs)
    assert harness.status(run)["exit_code"] == harness.INTERRUPTED
    nodes[1].set_up("link", "set", "eth0", "up")
    with ExitStack() as stack:
        ended(launch(stack, nodes, parity_root, "--resume=auto"), 0)
    straight = harness.straight(*configured(tmp_path / "straight", parity_root))
    assert len(harness.resumed_at(run)) == 1
    assert harness.final_hash(harness.only_run(runs)) == harness.final_hash(straight)


def ranks_of(folder: Path, agents: list[subprocess.Popen[str]]) -> list[int]:
    """The processes of a run and their loader workers, without the agents that started them."""
    return sorted({*processes_of(folder)} - {agent.pid for agent in agents})
