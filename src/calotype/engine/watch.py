"""What trackers get of an evaluation besides numbers: how far it is, pictures of its samples, once the network's graph.

Only where a tracker asks for it (`wants_progress`, `wants_images`, `wants_graph`), and pictures where the task has
something to show (`gallery`). They are drawn from predictions that are made anyway: no bit of the run changes. What
fails here is told once and left out from then on; a run never stops for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from calotype.engine.distributed import World
from calotype.engine.evaluate import Bystander
from calotype.engine.observe import Mirrors
from calotype.engine.sketch import Sketch
from calotype.types import Gallery, Prediction, Shard


class Watcher:
    """Makes a `Watch` for each evaluation of a run."""

    def __init__(self, mirrors: Mirrors, task: Any, stop: Callable[[], bool], world: World | None = None) -> None:
        self.mirrors, self.task, self.stop, self.world = mirrors, task, stop, world or World()
        self.pictures = hasattr(task, "gallery")
        self.drawn = False

    def watch(self, split: str, samples: int | None = None) -> Watch:
        """The watch of an evaluation of so many samples."""
        return Watch(self, split, samples)

    def gallery(self) -> Gallery | None:
        """A fresh gallery, where there is one and somebody looks."""
        if not (self.pictures and self.mirrors.want("images")):
            return None
        with self.careful("pictures"):
            found: Gallery = self.task.gallery()
            return found
        return None

    @contextmanager
    def careful(self, what: str) -> Iterator[None]:
        """What fails within the context ends the pictures, not the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a picture must not stop a run, whatever it raises
            self.pictures = False
            self.mirrors.warn(f"no more {what}: {type(error).__name__}: {error}")


class Watch(Bystander):
    """Sees what one evaluation sees."""

    def __init__(self, watcher: Watcher, split: str, samples: int | None = None) -> None:
        super().__init__(watcher.world)
        self.watcher, self.split, self.samples = watcher, split, samples
        self.judged = 0
        self.gallery = watcher.gallery()
        self.sketch: Sketch | None = None

    def stop(self) -> bool:
        """Whether the evaluation is to end."""
        return self.watcher.stop()

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Around a forward pass; the first of a run that somebody wants to see is drawn."""
        if self.watcher.drawn or not self.watcher.mirrors.want("graph"):
            yield
            return
        self.watcher.drawn = True
        self.sketch = Sketch(self.watcher.task.network)
        with self.sketch.drawing():
            yield

    def seen(self, prediction: Prediction, shard: Shard) -> None:
        """A shard and what was predicted for it, on the device."""
        self.judged += len(shard) * self.world.size
        if self.samples is not None:
            self.watcher.mirrors.offer("progress", "progress", self.split, min(self.judged, self.samples), self.samples)
        if self.gallery is not None and self.watcher.pictures:
            with self.watcher.careful("pictures"):
                self.gallery.update(prediction, shard)

    def show(self, step: int) -> None:
        """Give the trackers what was seen."""
        mirrors = self.watcher.mirrors
        if self.sketch is not None and self.sketch.nodes:
            mirrors.offer("graph", "graph", self.sketch.nodes)
            self.sketch = None
        if self.gallery is None or not self.watcher.pictures:
            return
        # of several processes this one has seen its own samples only
        left_out = getattr(self.gallery, "of_all", ()) if self.world.size > 1 else ()
        with self.watcher.careful("pictures"):
            for name, picture in self.gallery.pictures().items():
                if name in left_out:
                    continue
                mirrors.offer("images", "image", step, f"{self.split}/{name}", picture)
