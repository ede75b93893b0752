"""Real MLflow: a store that is set up once, and a server on loopback that can be stopped, killed and listened to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def store(path: Path) -> Path:
    """An empty SQLite store with its tables, which take seconds to make."""
    command = "import sys; from mlflow.tracking import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run(
        [sys.executable, "-c", command, f"sqlite:///{path}"], check=True, capture_output=True, env=os.environ | QUIET
    )
    return path


@dataclass
class Server:
    """`mlflow server`; its processes are one group."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()


def serve(folder: Path, port: int) -> Server:
    """A server of the store in `folder`, which answers."""
    where = ["--host", "127.0.0.1"]
    where += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            *where,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | QUIET,
        start_new_session=True,
    )
    server, end = Server(folder, port, process), time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{server.address}/health", timeout=2) as answer:
            if answer.status == 200:
                return server
        time.sleep(0.1)
    server.kill()
    raise TimeoutError("mlflow server doesn't answer")


@contextmanager
def failing(answer: bytes = b"") -> Iterator[str]:
    """The address of a server that gives the same answer to everything, or with none never answers."""
    kept = []

    def talk() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            if answer:
                with suppress(OSError), connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for connection in kept:
        connection.close()


@contextmanager
def overheard(port: int) -> Iterator[tuple[str, bytearray]]:
    """The address of a go-between to `port`, and all that went through it to the server."""
    heard, threads = bytearray(), list[threading.Thread]()

    def pump(source: socket.socket, target: socket.socket, keep: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                if keep:
                    heard.extend(piece)
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def talk() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, server, True), (server, client, False)):
                threads.append(threading.Thread(target=pump, args=pair, daemon=True))
                threads[-1].start()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        accepting = threading.Thread(target=talk, daemon=True)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(5)
    for thread in threads:
        thread.join(5)


def client(address: str) -> Any:
    """MLflow's own client."""
    os.environ |= QUIET
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=address)


def only(address: str) -> Any:
    """The one run at a server."""
    found = client(address)
    runs = [run for one in found.search_experiments() for run in found.search_runs([one.experiment_id])]
    assert len(runs) == 1
    return runs[0]


def history(address: str, run: str, metric: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in client(address).get_metric_history(run, metric)]
