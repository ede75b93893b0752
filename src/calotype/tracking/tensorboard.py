"""Scalars and images as TensorBoard event files in `<run>/tensorboard`.

Unusual choices: events are written by this process, not by the thread of `SummaryWriter`, and handed to the system at
every call (about 30 us for five scalars). So no thread is alive when the data loader forks, and a kill loses nothing
that was logged. Each process writes a file of its own, numbered upwards even if the clock went back, and opens it with
a mark that makes TensorBoard drop what earlier files hold from that step on: a resumed run shows every step once.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Tracker that writes event files to `folder` below the run folder."""

    def __init__(self, folder: str = "tensorboard") -> None:
        self.folder = folder
        self._path: Path | None = None
        self._writer: Any = None

    def start(self, run: Any) -> None:
        """Choose the folder; nothing is written before the first value. Of `run` it reads `folder`."""
        self._path = Path(run.folder) / self.folder

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars at `step`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step, [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()])

    def image(self, step: int, name: str, image: Any) -> None:
        """Write an image (C, H, W) of 1 or 3 channels, uint8 or float in 0..1, as an array or tensor."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, channels, encoded = _png(image)
        content = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=encoded)
        self._write(step, [Summary.Value(tag=name, image=content)])

    def artifact(self, path: Path) -> None:
        """Nothing: files lie in the run folder already."""

    def close(self, status: str) -> None:
        """Close the event file. Closing twice is closing once."""
        writer, self._writer, self._path = self._writer, None, None
        if writer is not None:
            writer.close()

    def _write(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._path is None:
            return
        if self._writer is None:
            self._writer = _open(self._path, step)
        self._writer.write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)).SerializeToString())
        self._writer.flush()


def _open(folder: Path, step: int) -> Any:
    """A new event file that comes after those in `folder` and takes the place of their events from `step` on."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    earlier = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*.calotype")]
    now = time.time()
    number = max([int(now), *(previous + 1 for previous in earlier)])
    writer = RecordWriter((folder / f"events.out.tfevents.{number:010d}.calotype").open("xb"))
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    if earlier:
        mark = SessionLog(status=SessionLog.START)
        writer.write(Event(wall_time=now, step=step, session_log=mark).SerializeToString())
    return writer


def _png(image: Any) -> tuple[int, int, int, bytes]:
    """Height, width, channels and PNG file of a (C, H, W) image."""
    import numpy as np
    from PIL import Image

    array = np.asarray(image.cpu() if hasattr(image, "cpu") else image)
    if array.dtype != np.uint8:
        array = (array.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    pixels = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return array.shape[1], array.shape[2], array.shape[0], buffer.getvalue()
