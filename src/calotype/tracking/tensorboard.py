"""Scalars, images, the network's graph and hyper-parameters as TensorBoard event files in `<run>/tensorboard`.

Unusual choices: events are written by this process, not by the thread of `SummaryWriter`, and handed to the system at
every call (about 30 us for five scalars). So no thread is alive when the data loader forks, and a kill loses nothing
that was logged. Each process writes a file of its own, numbered upwards even if the clock went back, and opens it with
a mark that makes TensorBoard drop what earlier files hold from that step on: a resumed run shows every step once.
Hyper-parameters are the leaves of the run's config.yaml, in which secrets are names of variables; they come with the
last results when the run ends.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from calotype.types import Node

RESULTS = ("val/", "train_eval/", "test/")
"""Scalars that are told of a run beside its hyper-parameters."""
PNG_BYTES = 2**17
"""A picture whose PNG would be larger is written as JPEG: photographs, at a tenth of the size."""


class TensorBoard:
    """Tracker that writes event files to `folder` below the run folder.

    `images: false` leaves out the pictures of evaluations, `graph: false` the network's graph, which is drawn once.
    """

    def __init__(self, folder: str = "tensorboard", images: bool = True, graph: bool = True) -> None:
        self.folder, self.wants_images, self.wants_graph = folder, images, graph
        self._path: Path | None = None
        self._writer: Any = None
        self._last: dict[str, float] = {}
        self._step = 0

    def start(self, run: Any) -> None:
        """Choose the folder; nothing is written before the first value. Of `run` it reads `folder`."""
        self._path = Path(run.folder) / self.folder
        self.wants_graph = self.wants_graph and not _earlier(self._path)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars at `step`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._last |= {name: value for name, value in scalars.items() if name.startswith(RESULTS)}
        self._step = step
        self._write(step, [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()])

    def image(self, step: int, name: str, image: Any) -> None:
        """Write an image (C, H, W) of 1 or 3 channels, uint8 or float in 0..1, as an array or tensor."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, channels, encoded = _encoded(image)
        content = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=encoded)
        self._write(step, [Summary.Value(tag=name, image=content)])

    def graph(self, nodes: Sequence[Node]) -> None:
        """Write the network's graph."""
        self._event(self._step, graph_def=_graph(nodes).SerializeToString())

    def artifact(self, path: Path) -> None:
        """Nothing: files lie in the run folder already."""

    def close(self, status: str) -> None:
        """Write the hyper-parameters and close the event file. Closing twice is closing once."""
        if self._writer is not None and self._path is not None:
            for summary in _hyperparameters(self._path.parent / "config.yaml", self._last):
                self._event(self._step, summary=summary)
        writer, self._writer, self._path = self._writer, None, None
        if writer is not None:
            writer.close()

    def _write(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._event(step, summary=Summary(value=values))

    def _event(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._path is None:
            return
        if self._writer is None:
            self._writer = _open(self._path, step)
        self._writer.write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
        self._writer.flush()


def _earlier(folder: Path) -> list[Path]:
    """The event files of earlier processes of the run."""
    return list(folder.glob("events.out.tfevents.*.calotype"))


def _open(folder: Path, step: int) -> Any:
    """A new event file that comes after those in `folder` and takes the place of their events from `step` on."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    earlier = [int(path.name.split(".")[3]) for path in _earlier(folder)]
    now = time.time()
    number = max([int(now), *(previous + 1 for previous in earlier)])
    writer = RecordWriter((folder / f"events.out.tfevents.{number:010d}.calotype").open("xb"))
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    if earlier:
        mark = SessionLog(status=SessionLog.START)
        writer.write(Event(wall_time=now, step=step, session_log=mark).SerializeToString())
    return writer


def _graph(nodes: Sequence[Node]) -> Any:
    """The nodes as TensorFlow's GraphDef, whose viewer folds names at their slashes."""
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.versions_pb2 import VersionDef

    def made(node: Node) -> Any:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in node.shape])
        attributes = {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=[shape]))}
        return NodeDef(name=node.name, op=node.kind, input=node.inputs, attr=attributes)

    return GraphDef(node=map(made, nodes), versions=VersionDef(producer=22))


def _hyperparameters(config: Path, results: Mapping[str, float]) -> Sequence[Any]:
    """The summaries of TensorBoard's HPARAMS page: the config's leaves, and the results that are finite."""
    from torch.utils.tensorboard.summary import hparams

    if not config.is_file():
        return []
    tree = yaml.safe_load(config.read_text())
    # TensorBoard ticks the first few: those that differ between runs most often
    first = [name for name in ("module", "seed", "trainer") if name in tree]
    told = {name: tree[name] for name in [*first, *tree] if name not in {"paths", "tracking"}}
    finite = {name: value for name, value in results.items() if math.isfinite(value)}
    return list(hparams(dict(_leaves("", told)), finite))  # type: ignore[no-untyped-call]


def _leaves(key: str, value: Any) -> Iterator[tuple[str, float | str]]:
    """What TensorBoard can hold of a config: numbers and texts by dotted key, anything else as YAML writes it."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}" if key else name, item)
    else:
        plain = isinstance(value, int | float | str) and not isinstance(value, bool)
        yield key, value if plain else json.dumps(value)


def _encoded(image: Any) -> tuple[int, int, int, bytes]:
    """Height, width, channels and PNG or JPEG file of a (C, H, W) image."""
    import numpy as np
    from PIL import Image

    array = np.asarray(image.cpu() if hasattr(image, "cpu") else image)
    if array.dtype != np.uint8:
        array = (array.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    pixels = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    picture, buffer = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    picture.save(buffer, "PNG")
    if len(buffer.getbuffer()) > PNG_BYTES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return array.shape[1], array.shape[2], array.shape[0], buffer.getvalue()
