"""Data and transforms that misbehave, each in one way."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import tv_tensors

from tests.toys.parity import Parity, Split


class Faulty(Parity):
    """Parity data whose train sample `broken` can't be read, `kill` kills who reads it, `hang` takes a minute.

    Killing and hanging happen once: a file `fired` in the root remembers it.
    """

    def __init__(self, root: str, target: str = "label", **at: int) -> None:
        super().__init__(root, target)
        self.at = at

    def split(self, name: str) -> Split:
        return FaultySplit(self, name) if name == "train" else super().split(name)


class FaultySplit(Split):
    def __getitem__(self, position: int) -> dict[str, Any]:
        assert isinstance(self.data, Faulty)
        at, fired = self.data.at, self.data.root / "fired"
        if at.get("broken") == self.ids[position]:
            raise OSError("image file is truncated")
        if at.get("kill") == self.ids[position] and not fired.exists():
            fired.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if at.get("hang") == self.ids[position] and not fired.exists():
            fired.touch()
            time.sleep(60)
        return super().__getitem__(position)


class AbortsAtTheEnd:
    """Aborts the process when the interpreter is taken down, as threads do that want its lock by then."""

    kept: ClassVar[list[AbortsAtTheEnd]] = []

    def __init__(self) -> None:
        self.kept.append(self)
        self.abort = os.abort

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    def __del__(self) -> None:
        self.abort()


class OddSize:
    """Images of class 1 come out smaller."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": image[:, :12] if sample["label"] == 1 else image}


class Brighter:
    """Adds what `draw` gives; the base of transforms with a generator of their own."""

    def draw(self) -> int:
        raise NotImplementedError

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = (sample["image"].int() + self.draw()).clamp(0, 255).to(torch.uint8)
        return {**sample, "image": tv_tensors.Image(image)}


class OwnPython(Brighter):
    def __init__(self) -> None:
        self.random = random.Random(0)

    def draw(self) -> int:
        return self.random.randrange(100)


class OwnNumPy(Brighter):
    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def draw(self) -> int:
        return int(self.random.integers(100))


class OwnTorch(Brighter):
    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def draw(self) -> int:
        return int(torch.randint(100, (), generator=self.random))


class Remember:
    """Notes who reads: process, session and threads, a line a sample."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("ab") as file:
            os.write(file.fileno(), f"{os.getpid()} {os.getsid(0)} {torch.get_num_threads()}\n".encode())
        return sample
