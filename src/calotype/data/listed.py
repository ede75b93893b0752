"""Images named one by one, to be predicted: which files are meant, and a reader that goes on past broken ones.

A file that can't be read costs its own place in the result and nothing else, so a batch comes back as the images that
could be read and, for each of the others, why not.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calotype.data.geometry import traced
from calotype.data.index import SUFFIXES
from calotype.data.loader import NativeLoader
from calotype.data.order import EvalOrder
from calotype.data.reader import ShardReader, naming, one_thread, plain
from calotype.errors import CalotypeError, DataError, UsageError
from calotype.types import Shard

if TYPE_CHECKING:
    from torch import Tensor

    from calotype.data.order import ShardPlan
    from calotype.settings import DataSettings
    from calotype.types import IntArray, Sample

Decode = Callable[[bytes], Any]


def named(inputs: Iterable[str], lines: Iterable[bytes] = ()) -> list[str]:
    """The files that `inputs` mean, in their order, each input's own sorted by path.

    An input is a file, a folder (its images at any depth, by suffix, hidden ones left out; a link to a folder is
    followed, but not in a circle), a pattern such as `*.png` or `shots/**/*.jpg`, or `-` for `lines`, one path a line.
    A file that a line names need not be there: it is read like any other, and fails alone. Raises UsageError for an
    input that means no file.
    """
    found: list[str] = []
    for text in inputs:
        files = [os.fsdecode(line.rstrip(b"\r\n")) for line in lines] if text == "-" else _meant(text)
        files = [file for file in files if file]
        if not files:
            raise UsageError(
                f"{text}: no image there; give files, folders, patterns in quotes, or - for a list on stdin"
            )
        found += files
    return found


def placed(files: Sequence[str], inputs: Sequence[str]) -> list[Path]:
    """What to call the results of files that `named` found: their paths below the folder that an input names, or below
    the part of a pattern that is no pattern; else their names.
    """
    # in whole and without `..`, which would lead out of the folder that they are put into
    roots = [_whole(root) for root in map(_root, inputs) if root is not None]
    found = []
    for file in map(_whole, map(Path, files)):
        root = next((root for root in roots if file.is_relative_to(root)), file.parent)
        found.append(file.relative_to(root))
    return found


def _whole(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - by its text: a link stays where the user sees it


def _root(text: str) -> Path | None:
    path = Path(text)
    if path.is_dir():
        return path
    if path.exists() or not glob.has_magic(text):
        return None
    parts = path.parent.parts
    plain_parts = itertools.takewhile(lambda part: not glob.has_magic(part), parts)
    return Path(*plain_parts)


def _meant(text: str) -> list[str]:
    path = Path(text)
    if path.is_dir():
        return sorted(_within(path, frozenset()))
    if path.exists():
        return [text]
    found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - a pattern may begin anywhere
    return [file for file in found if not Path(file).is_dir()]


def _within(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """The images in a folder; `above` are the folders that it lies in, by device and inode."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _within(folder / entry.name, above | {here})
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - of text, a million times
                yield entry.path


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a batch of files: the images that could be read, a shard for each of their shapes, whose ids are
    places in the list of files; why the others could not, by place.
    """

    places: IntArray
    shards: Sequence[Shard] = ()
    errors: Mapping[int, str] = field(default_factory=dict)


class Files:
    """A list of image files as a split without targets; ids are places in the list."""

    containers: Mapping[Path, str] = {}

    def __init__(self, paths: Sequence[str], decode: Decode) -> None:
        self.paths, self.decode = paths, decode
        self.ids = np.arange(len(paths))

    @property
    def files(self) -> Sequence[Path]:
        """The files."""
        return [Path(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, position: int) -> str:
        """The file's path as it was given."""
        return self.paths[position]

    def __getitem__(self, position: int) -> Sample:
        """The image and its file's bytes. Raises DataError with the reason alone."""
        path = Path(self.paths[position])
        try:
            if path.exists() and not path.is_file():
                raise DataError("is no regular file")  # a pipe would be waited for
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            raise DataError(f"can't be read: {getattr(error, 'strerror', None) or error}") from error
        return {"image": self.decode(content), "content": content}


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read. `check` gets the shape of each transformed image and raises DataError for a wrong one,
    `alone` says of a shape whether such an image is a shard by itself. `trace` notes where pixels came from, as
    "original_size" (n, 2) int64 and "affine" (n, 2, 3) float64 of `geometry.traced`; `keep` keeps the images as
    decoded, as "original", a list of (C, H, W).
    """

    check: Callable[[Sequence[int]], None]
    alone: Callable[[Sequence[int]], bool]
    trace: bool = False
    keep: bool = False


class FileReader(ShardReader):
    """Reads batches of files."""

    def __init__(self, files: Files, transforms: Sequence[Any], how: Reading, *, seed: int = 0) -> None:
        super().__init__(files, transforms, seed=seed)
        self.how = how

    def __getitem__(self, plan: ShardPlan) -> Any:
        errors: dict[int, str] = {}
        shards: dict[Any, list[tuple[int, dict[str, Tensor]]]] = {}
        with one_thread():
            for position in plan.positions.tolist():
                try:
                    fields = self._fields(position)
                    self.how.check(shape := fields["image"].shape)
                except CalotypeError as error:
                    errors[position] = str(error)
                else:
                    shards.setdefault(position if self.how.alone(shape) else shape, []).append((position, fields))
        return Batch(plan.positions, [_shard(rows) for rows in shards.values()], errors)

    def _fields(self, position: int) -> dict[str, Tensor]:
        if not self.how.trace:
            return {"image": plain(self.sample(position, 0)[0]["image"])}
        with naming(self.source, position):
            original = self.source[position]["image"]
            kept = {"original": plain(original).clone()} if self.how.keep else {}
            size = torch.tensor(original.shape[-2:])
            sample, affine = traced(lambda sample: self.transformed(sample, position, 0), {"image": original})
        return {"image": plain(sample["image"]), "original_size": size, "affine": affine, **kept}


def _shard(rows: Sequence[tuple[int, Mapping[str, Tensor]]]) -> Shard:
    """One of images of one shape; those as decoded may be of any."""
    fields: dict[str, Tensor | list[Tensor]] = {}
    for name in rows[0][1]:
        values = [row[name] for _, row in rows]
        fields[name] = values if name == "original" else torch.stack(values)
    return Shard(np.array([position for position, _ in rows]), fields)


def batches(reader: FileReader, settings: DataSettings, batch_size: int) -> Iterator[Batch]:
    """The files of a reader in their order, in batches, read by the workers that `settings` asks for."""
    order = EvalOrder(reader.source.ids, batch_size)
    workers = 0 if order.steps_per_epoch < 2 * settings.workers else settings.workers
    loader = NativeLoader(reader, order, settings, workers=workers)
    for batch in loader.steps(0, loader.steps_per_epoch):
        yield from batch  # type: ignore[misc]
