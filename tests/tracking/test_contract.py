"""The tracker contract on ours and on a class that knows nothing of Calotype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calotype.tracking.console import Console
from calotype.tracking.mlflow import MLflow
from calotype.tracking.tensorboard import TensorBoard
from tests.contracts.tracker import TrackerContract


class JustAList:
    """A third party's tracker."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def start(self, run: Any) -> None:
        self.rows.append(run.name)

    def log(self, step: int, scalars: Any) -> None:
        self.rows.append((step, dict(scalars)))

    def image(self, step: int, name: str, image: Any) -> None:
        self.rows.append((step, name, tuple(image.shape)))

    def artifact(self, path: Path) -> None:
        self.rows.append(path)

    def close(self, status: str) -> None:
        self.rows.append(status)


class TestConsole(TrackerContract):
    def make(self) -> Console:
        return Console()


class TestTensorBoard(TrackerContract):
    def make(self) -> TensorBoard:
        return TensorBoard()


class TestMLflow(TrackerContract):
    """At a port that refuses: what reaches a server is tested with one."""

    def make(self) -> MLflow:
        return MLflow(tracking_uri="http://127.0.0.1:9", wait=0.0)


class TestThirdParty(TrackerContract):
    def make(self) -> JustAList:
        return JustAList()
