"""Data sets small enough to live in memory: scikit-learn's digits, MNIST and Fashion-MNIST.

A split is two packed uint8 arrays and the positions that belong to it: no Python object per sample, and the splits cut
from one file share its memory. Ids are positions in the original file, so a sample keeps its id whatever the fractions.
The validation part, where a data set has none of its own, is drawn by `split_seed` alone and not by the run's seed:
runs of different seeds are measured on the same images.
Unusual: the digits are read from the file scikit-learn ships without importing scikit-learn, which takes a second.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from calotype import keys
from calotype.data.idx import read_idx
from calotype.errors import DataError
from calotype.fetch import Progress, Remote, fetch, quiet

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """What the files of one original part hold: images (n, H, W) or (n, C, H, W), labels (n,), each file's sha256."""

    images: Bytes
    labels: Bytes
    containers: Mapping[Path, str]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            names = " and ".join(str(path) for path in self.containers)
            raise DataError(f"{names}: {len(self.images)} images but {len(self.labels)} labels; fetch both files again")

    def check_labels(self, classes: int) -> Part:
        """This part. Raises DataError naming the first sample whose label is no class."""
        wrong = np.flatnonzero(self.labels >= classes)
        if wrong.size:
            sample, path = int(wrong[0]), list(self.containers)[-1]
            raise DataError(f"{path}: sample {sample} has label {self.labels[sample]}, outside 0..{classes - 1}")
        return self


@dataclass(frozen=True, eq=False)
class PackedSource:
    """The samples `ids` of a part: "image" a (C, H, W) uint8 Image, "label" an int."""

    part: Part
    ids: IntArray

    @property
    def files(self) -> Sequence[Path]:
        """The files the split is read from."""
        return tuple(self.part.containers)

    @property
    def containers(self) -> Mapping[Path, str]:
        """The same files with the sha256 of the bytes that were read."""
        return self.part.containers

    @property
    def labels(self) -> IntArray:
        """The class of every sample, int64 (n,), in the order of `ids`."""
        return self.part.labels[self.ids].astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Sample:
        row = self.ids[position]
        image = torch.from_numpy(self.part.images[row].copy())  # one of two dimensions becomes (1, H, W)
        return {"image": tv_tensors.Image(image), "label": int(self.part.labels[row])}

    def name(self, position: int) -> str:
        """The first file and the sample's place in it."""
        return f"{self.files[0].name}#{self.ids[position]}"


class Digits:
    """The 1797 scans of handwritten digits that scikit-learn ships: 8x8, grey levels 0..16 stretched to 0..255.

    Source: E. Alpaydin, C. Kaynak, UCI optical recognition of handwritten digits, 1998 (its test part).
    """

    classes: ClassVar[Sequence[str]] = tuple("0123456789")
    splits: ClassVar[Sequence[str]] = ("train", "val", "test")

    def __init__(self, val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        part = _read_digits().check_labels(len(self.classes))
        fractions = {"val": val_fraction, "test": test_fraction}
        self._sources = {name: PackedSource(part, ids) for name, ids in deal(part, fractions, split_seed).items()}

    def split(self, name: str) -> PackedSource:
        """Split `name`. Raises DataError if there is none."""
        return self._sources[known_split(self, name)]


_NAMES = tuple(f"{stem}-{kind}-ubyte.gz" for stem in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def _remotes(files: Sequence[tuple[str, int, str]], sources: Sequence[str]) -> tuple[Remote, ...]:
    return tuple(Remote(name, size, sha, tuple(source + name for source in sources)) for name, size, sha in files)


class Published:
    """A data set published as the files of a train and of a test part.

    A share `val_fraction` of the training images becomes the validation split. Files are opened when their split is
    asked for: `_read(name)` gives the splits of the part that split `name` belongs to.
    """

    classes: Sequence[str]
    splits: ClassVar[Sequence[str]] = ("train", "val", "test")

    def __init__(self, root: str | Path, val_fraction: float = 0.2, split_seed: int = 0) -> None:
        self.root = Path(root).expanduser()
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self._sources: dict[str, PackedSource] = {}

    def split(self, name: str) -> PackedSource:
        """Split `name`. Raises DataError naming the file that is missing, damaged, inconsistent or more than data."""
        if known_split(self, name) not in self._sources:
            self._sources |= self._read(name)
        return self._sources[name]

    def _read(self, name: str) -> Mapping[str, PackedSource]:
        raise NotImplementedError


class MNIST(Published):
    """MNIST's 60,000 + 10,000 digits, 28x28, from the four idx files, plain or .gz.

    They lie in `root` itself, in `root/MNIST` or in `root/MNIST/raw`, where torchvision puts them.
    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998.
    """

    classes: Sequence[str] = tuple("0123456789")
    group: ClassVar[str] = "mnist"
    remotes: ClassVar[Sequence[Remote]] = _remotes(
        (
            (_NAMES[0], 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (_NAMES[1], 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (_NAMES[2], 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (_NAMES[3], 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    )

    @classmethod
    def download(cls, root: Path, progress: Progress = quiet) -> Path:
        """Fetch the four files into `root`/<name>/raw, check them, and return that folder. What is there is kept.

        Raises DataError when no source gives the published bytes.
        """
        folder = root / cls.__name__ / "raw"
        for remote in cls.remotes:
            fetch(remote, folder, progress)
        return folder

    def _read(self, name: str) -> dict[str, PackedSource]:
        stem = "t10k" if name == "test" else "train"
        images = read_idx(self._find(f"{stem}-images-idx3-ubyte"), 3)
        labels = read_idx(self._find(f"{stem}-labels-idx1-ubyte"), 1)
        containers = {file.path: file.sha256 for file in (images, labels)}
        part = Part(images.array, labels.array, containers).check_labels(len(self.classes))
        if stem == "t10k":
            return {"test": PackedSource(part, np.arange(len(part.labels)))}
        dealt = deal(part, {"val": self.val_fraction}, self.split_seed)
        return {name: PackedSource(part, ids) for name, ids in dealt.items()}

    def _find(self, name: str) -> Path:
        folders = [self.root, self.root / type(self).__name__, self.root / type(self).__name__ / "raw"]
        for path in (folder / (name + suffix) for folder in folders for suffix in ("", ".gz")):
            if path.is_file():
                return path
        places = ", ".join(str(folder) for folder in folders)
        raise DataError(
            f"{name} or {name}.gz is in none of {places}; set paths.data (or the variable CALOTYPE_DATA) to the folder "
            f"that holds it, or fetch it: calotype data download {self.group}"
        )


class FashionMNIST(MNIST):
    """Fashion-MNIST: 70,000 pictures of clothes in MNIST's format, found like MNIST's in `root/FashionMNIST/raw`.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747.
    """

    group = "fashion_mnist"
    remotes = _remotes(
        (
            (_NAMES[0], 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (_NAMES[1], 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (_NAMES[2], 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (_NAMES[3], 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    )
    classes = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip


def known_split(data: Any, name: str) -> str:
    """`name`. Raises DataError if the data set has no such split."""
    if name not in data.splits:
        raise DataError(f"{type(data).__name__} has no split {name!r}, only {', '.join(data.splits)}")
    return name


def deal(part: Part, fractions: Mapping[str, float], seed: int) -> dict[str, IntArray]:
    """Ascending ids of each named share, drawn by `seed`; "train" gets what is left."""
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise DataError(f"fractions {dict(fractions)} must be at least 0 and leave something to train on")
    order = torch.randperm(len(part.labels), generator=keys.generator(seed, "split")).numpy()
    ids, start = {}, 0
    for name, fraction in fractions.items():
        stop = start + round(fraction * len(order))
        ids[name] = np.sort(order[start:stop])
        start = stop
    return {"train": np.sort(order[start:]), **ids}


def _read_digits() -> Part:
    spec = importlib.util.find_spec("sklearn")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("sklearn")
    path = folder / "datasets" / "data" / "digits.csv.gz"
    try:
        data = path.read_bytes()
        table = np.loadtxt(gzip.decompress(data).decode().splitlines(), delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: can't be read ({error}); install scikit-learn again") from error
    grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Part(grey, table[:, 64].astype(np.uint8), {path: hashlib.sha256(data).hexdigest()})
