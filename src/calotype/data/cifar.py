"""CIFAR-10 and CIFAR-100 from the published batches for Python, from their folder or straight from the .tar.gz.

The batches are pickles of Python 2. They are read as data (plain_pickle), never unpickled: a dict of lists and one
array of bytes is all they may hold. Ids are positions over the training batches in their order, so a sample keeps its
id whatever the fraction that is held out; the validation part is drawn by `split_seed` alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from calotype import archives, plain_pickle
from calotype.data.small import Bytes, PackedSource, Part, Published, deal
from calotype.errors import DataError
from calotype.fetch import Progress, Remote, fetch, quiet
from calotype.files import sha256_file
from calotype.plain_pickle import Refused

if TYPE_CHECKING:
    from calotype.types import IntArray

SIDE = 32
_PIXELS = 3 * SIDE * SIDE
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class BatchSource(PackedSource):
    """The samples `ids` of a part read from several batches; `starts` maps a batch's name to the id it begins with."""

    starts: Mapping[str, int]

    def name(self, position: int) -> str:
        """The batch and the sample's place in it."""
        number = int(self.ids[position])
        batch, start = next((name, start) for name, start in reversed([*self.starts.items()]) if start <= number)
        return f"{batch}#{number - start}"


class CIFAR10(Published):
    """CIFAR-10's 50,000 + 10,000 colour images of 32x32 in ten classes.

    The batches lie in `root` itself, in `root/CIFAR10` or in `root/cifar-10-batches-py`, or in cifar-10-python.tar.gz
    in one of the first two, which is then read without being extracted. A share `val_fraction` of the training images
    becomes the validation split. Files are read when their split is asked for.
    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    archive: ClassVar[Remote] = Remote(
        "cifar-10-python.tar.gz",
        170_498_071,
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://cave.cs.toronto.edu/kriz/cifar-10-python.tar.gz",
        ),
    )
    folder: ClassVar[str] = "cifar-10-batches-py"
    train_batches: ClassVar[Sequence[str]] = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_batch: ClassVar[str] = "test_batch"
    label: str = "labels"
    classes: Sequence[str] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

    @classmethod
    def download(cls, root: Path, progress: Progress = quiet) -> Path:
        """Fetch the archive into `root`, check it, extract it beside itself; the folder. What is there is kept.

        Raises DataError when no source gives the published bytes.
        """
        archive = fetch(cls.archive, root, progress)
        if not (root / cls.folder).is_dir():
            archives.extract(archive, root, only=cls.folder)
        return root / cls.folder

    def _read(self, name: str) -> dict[str, PackedSource]:
        batches = [self.test_batch] if name == "test" else list(self.train_batches)
        contents, containers = self._contents(batches)
        part, starts = _joined(contents, containers, self.label)
        part = part.check_labels(len(self.classes))
        dealt: Mapping[str, IntArray] = {"test": np.arange(len(part.labels))}
        if name != "test":
            dealt = deal(part, {"val": self.val_fraction}, self.split_seed)
        return {split: BatchSource(part, ids, starts) for split, ids in dealt.items()}

    def _contents(self, names: Sequence[str]) -> tuple[dict[str, bytes], dict[Path, str]]:
        """The bytes of files by name, and the files on disk that they came from with their sha256."""
        places = [self.root / self.folder, self.root, self.root / type(self).__name__]
        places.append(places[-1] / self.folder)
        for place in places:
            if all((place / name).is_file() for name in names):
                found = {name: _bytes(place / name) for name in names}
                return found, {place / name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
        for path in (place / self.archive.name for place in places[1:3]):
            if path.is_file():
                inside = archives.read_members(path, [f"{self.folder}/{name}" for name in names], _MOST_BYTES)
                return {name: inside[f"{self.folder}/{name}"] for name in names}, {path: sha256_file(path)}
        told = ", ".join(str(place) for place in places)
        raise DataError(
            f"{' '.join(names)} not found together in any of {told}, nor {self.archive.name}; set paths.data (or the "
            f"variable CALOTYPE_DATA) to the folder that holds them, or fetch them: calotype data download "
            f"{type(self).__name__.lower()}"
        )


class CIFAR100(CIFAR10):
    """CIFAR-100's 50,000 + 10,000 colour images of 32x32 in a hundred classes, or in twenty with `coarse`.

    Found like CIFAR-10, in `root/CIFAR100`, `root/cifar-100-python` or cifar-100-python.tar.gz. Class names are read
    from the file `meta` beside the batches.
    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    archive = Remote(
        "cifar-100-python.tar.gz",
        169_001_437,
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://cave.cs.toronto.edu/kriz/cifar-100-python.tar.gz",
        ),
    )
    folder = "cifar-100-python"
    train_batches = ("train",)
    test_batch = "test"

    def __init__(self, root: str | Path, val_fraction: float = 0.2, split_seed: int = 0, coarse: bool = False) -> None:
        super().__init__(root, val_fraction, split_seed)
        self.label = "coarse_labels" if coarse else "fine_labels"
        contents, _ = self._contents(["meta"])
        key = "coarse_label_names" if coarse else "fine_label_names"
        names = _dict("meta", contents["meta"]).get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"meta: {key} is no list of names; fetch the archive again")
        self.classes = tuple(names)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); put the file back or correct paths.data") from error


def _joined(contents: Mapping[str, bytes], containers: Mapping[Path, str], label: str) -> tuple[Part, dict[str, int]]:
    """All batches as one part, and the row that each begins with."""
    images: list[Bytes] = []
    labels: list[Bytes] = []
    starts: dict[str, int] = {}
    for name, data in contents.items():
        batch = _dict(name, data)
        rows, targets = batch.get("data"), batch.get(label)
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _PIXELS:
            raise DataError(f"{name}: data is no array of rows of {_PIXELS} bytes; fetch the archive again")
        if not isinstance(targets, list) or len(targets) != len(rows) or not all(map(_is_label, targets)):
            raise DataError(f"{name}: {label} is no list of {len(rows)} class numbers; fetch the archive again")
        starts[name] = sum(len(before) for before in images)
        images.append(rows)
        labels.append(np.array(targets, np.uint8))
    joined = images[0] if len(images) == 1 else np.concatenate(images)
    return Part(joined.reshape(-1, 3, SIDE, SIDE), np.concatenate(labels), containers), starts


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256


class _DType:
    """Stands for numpy.dtype: unsigned bytes alone."""

    def __init__(self, code: Any, *_: Any) -> None:
        if _text(code) != "u1":
            raise Refused(f"it holds an array of {_text(code)!r}, and only unsigned bytes (u1) are expected")

    def set_state(self, state: Any) -> None:
        """Nothing: bytes have no order."""


class _Array:
    """Stands for numpy's _reconstruct: an array that its state fills."""

    def __init__(self, *_: Any) -> None:
        self.value: Bytes | None = None

    def set_state(self, state: Any) -> None:
        """(version, shape, dtype, Fortran order, bytes). Raises Refused if they don't fit each other."""
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Refused("it holds an array without its five parts")
        _, shape, dtype, by_column, raw = state
        sound = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not (sound and isinstance(dtype, _DType) and isinstance(raw, bytes) and math.prod(shape) == len(raw)):
            raise Refused("it holds an array whose shape and bytes don't fit each other")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column else "C")


_TABLE: Mapping[str, Any] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": None,
    "numpy.dtype": _DType,
}


def _dict(name: str, data: bytes) -> dict[str, Any]:
    """A batch by its keys, arrays as numpy's. Raises DataError naming the file and what it holds beside data."""
    try:
        found = plain_pickle.read(data, _TABLE, most_bytes=_MOST_BYTES)
    except Refused as error:
        raise DataError(f"{name} is no batch of CIFAR: {error}; fetch the archive again") from error
    if not isinstance(found, dict):
        raise DataError(f"{name} is no batch of CIFAR: it holds a {type(found).__name__}; fetch the archive again")
    return {_text(key): _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.value if isinstance(value, _Array) else value


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
