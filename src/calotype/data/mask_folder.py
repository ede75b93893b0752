"""Images with masks in two folders: `root`/images and `root`/masks, for anybody's data.

Splits are folders in both (images/train, masks/train) or above both (train/images, train/masks); without them they are
drawn from the images' names. A mask has its image's name with .png, .bmp, .tif or .tiff. Unusual: what a mask's numbers
or colours mean is told by the config and never guessed, and 255 is void, so there are at most 255 classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from calotype.data import class_names
from calotype.data.images import MAX_PIXELS, Background, Mode
from calotype.data.index import FileIndex, folder_index
from calotype.data.masked import Beside, MaskDecoding, MaskedSource
from calotype.data.masks import MOST_CLASSES, STORED, Meaning, palette
from calotype.data.source import ALIASES, Decoding, Fractions
from calotype.errors import ConfigError, DataError
from calotype.types import VOID

if TYPE_CHECKING:
    from calotype.types import IntArray

SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
NAME_OF_VOID = "void"
NAMED = 10
"""Files that a message names."""


@dataclass(eq=False)
class MaskFolder:
    """Images under `root`/`images` with the masks of the same names under `root`/`masks`.

    `classes` are names, or their number; without them they are read from `root`/classes.txt, one a line. Masks hold the
    classes' numbers, counted from `first`; those in `ignore` are void. Where they hold others, `ids` has the number or
    numbers of each class, in their order or by their names and void; where they hold colours, `colours` has (r, g, b)
    of each likewise, or is "voc" for that palette. `unnamed` says whether what those two leave out is an error or void.
    The rest is as for ImageFolder. Raises ConfigError, or DataError for a root without the two folders.
    """

    root: str | Path
    classes: Sequence[str] | int | None = None
    images: str = "images"
    masks: str = "masks"
    colours: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | Literal["voc"] | None = None
    ids: Mapping[str, int | Sequence[int]] | Sequence[int] | None = None
    ignore: int | Sequence[int] = VOID
    first: int = 0
    unnamed: Literal["error", "void"] = "error"
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS
    val_fraction: float = 0.0
    test_fraction: float = 0.0
    split_seed: int = 0

    def __post_init__(self) -> None:
        self.top = Path(self.root).expanduser()
        self.classes = _classes(self.classes, self.top)
        self.decoding = Decoding(self.mode, self.background, self.max_pixels)
        self.mask_decoding = self._mask_decoding(self.classes)
        self.fractions = Fractions(self.val_fraction, self.test_fraction, self.split_seed)
        self.folders = _folders(self.top, self.images, self.masks)
        places = {name: self.top / folder.images for name, folder in self.folders.items()}
        self.splits: Sequence[str] = self.fractions.splits(places)
        self._indices: dict[str, FileIndex] = {}
        self._dealt: Mapping[str, IntArray] | None = None

    def split(self, name: str) -> MaskedSource:
        """Split `name`. Raises DataError for one that there isn't, or that is empty."""
        if name not in self.splits:
            raise DataError(f"{self.top} has no split {name!r}, only {', '.join(self.splits)}")
        folder = name if name in self.folders else "train"
        index = self.index(folder)
        if not len(index):
            raise DataError(f"{self.top / self.folders[folder].images} has no image in it")
        rows = None
        if self.fractions.any() and folder == "train":
            self._dealt = self._dealt or self.fractions.deal(index.ids)
            rows = self._dealt[name]
        return MaskedSource(index, self.folders[folder], self.decoding, self.mask_decoding, rows)

    def index(self, folder: str) -> FileIndex:
        """The images of a split that has a folder, scanned or mapped when they are first asked for."""
        if folder not in self._indices:
            self._indices[folder] = folder_index(self.top, self.folders[folder].images, by_class=False)
        return self._indices[folder]

    def check(self) -> dict[str, list[str]]:
        """What `data check` can't see from the samples: files passed over, masks without an image, and images that
        share a mask.
        """
        found: dict[str, list[str]] = {"passed_over": [], "unpaired": [], "shared": []}
        for folder, beside in self.folders.items():
            index = self.index(folder)
            if index.ignored:
                told = ", ".join(f"{count} {kind}" for kind, count in index.ignored.items())
                found["passed_over"].append(f"{self.top / beside.images}: {told}")
            names = [index.name(row).removeprefix(f"{beside.images}/").rpartition(".")[0] for row in range(len(index))]
            stems = Counter(names)
            shared = sorted(stem for stem, count in stems.items() if count > 1)
            found["shared"] += [f"{beside.images}/{stem}: several images have this name" for stem in shared]
            found["unpaired"] += [name for name, stem in self._masks(beside) if stem not in stems]
        return {kind: texts for kind, texts in found.items() if texts}

    def _masks(self, beside: Beside) -> list[tuple[str, str]]:
        """The masks of a split: the path below the root and what it shares with its image's."""
        folder = self.top / beside.masks
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        return [(str(path.relative_to(self.top)), str(path.relative_to(folder).with_suffix(""))) for path in paths]

    def _mask_decoding(self, classes: Sequence[str]) -> MaskDecoding:
        if self.unnamed not in ("error", NAME_OF_VOID):
            raise ConfigError(f"{self.unnamed!r} is not allowed; allowed: error, void", key="data.unnamed")
        if not isinstance(self.first, int):
            raise ConfigError(f"{self.first!r} is no number", key="data.first")
        ignore: list[Any] = [*self.ignore] if _listed(self.ignore) else [self.ignore]
        counted = (ignore, self.first) != ([VOID], 0)
        given = [name for name in ("colours", "ids") if getattr(self, name) is not None]
        if len(given) + counted > 1:
            names = [*given, *(["ignore and first"] if counted else [])]
            raise ConfigError(f"{' and '.join(names)} each say what a mask holds; keep one", key=f"data.{given[0]}")
        if self.unnamed == NAME_OF_VOID and not given:
            raise ConfigError("void is for what data.ids or data.colours don't name; give one", key="data.unnamed")
        if not all(isinstance(value, int) and 0 <= value < STORED for value in (*ignore, self.first + len(classes))):
            told = f"{self.ignore!r} and the classes from {self.first!r} on must be 0..{STORED - 1}"
            raise ConfigError(told, key="data.ignore")
        meaning = Meaning.counted(len(classes), ignore, self.first)
        other = VOID if self.unnamed == NAME_OF_VOID else None
        if self.ids is not None:
            meaning = Meaning.named(_numbered(self.ids, classes), -1 if other is None else other)
        colours = None if self.colours is None else _colours(self.colours, classes)
        return MaskDecoding(meaning, colours, other, self.max_pixels)


def _classes(given: Sequence[str] | int | None, top: Path) -> tuple[str, ...]:
    if given is None:
        file = top / "classes.txt"
        if not file.is_file():
            raise ConfigError(f"name the classes, or write them into {file}, one a line", key="data.classes")
        return class_names.lines(file, MOST_CLASSES)
    return class_names.given([*map(str, range(given))] if isinstance(given, int) else given, MOST_CLASSES)


def _listed(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _by_class(given: Any, classes: Sequence[str], key: str) -> list[tuple[int, Any]]:
    """What a config says of each class, by their names or in their order, with the classes' numbers."""
    if isinstance(given, Mapping):
        return [(_number(name, classes, key), value) for name, value in given.items()]
    if not _listed(given):
        raise ConfigError(f"{given!r} is neither a list in the classes' order nor values by their names", key=key)
    if len(given) > len(classes):
        raise ConfigError(f"has {len(given)} entries for {len(classes)} classes", key=key)
    return [*enumerate(given)]


def _numbered(ids: Any, classes: Sequence[str]) -> dict[int, int]:
    """The class of each stored number. Raises ConfigError for what is no number, or a number of two classes."""
    found: dict[int, int] = {}
    for number, values in _by_class(ids, classes, "data.ids"):
        for value in values if _listed(values) else [values]:
            if not isinstance(value, int) or not 0 <= value < STORED:
                raise ConfigError(f"{value!r} is no number 0..{STORED - 1} of a mask", key="data.ids")
            if value in found:
                raise ConfigError(f"{value} is the number of two classes", key="data.ids")
            found[value] = number
    return found


def _number(name: str, classes: Sequence[str], key: str) -> int:
    if name in classes:
        return classes.index(name)
    if name == NAME_OF_VOID:
        return VOID
    raise ConfigError(f"{name!r} is no class; there are {', '.join(classes[:NAMED])} and void", key=key)


def _colours(given: Any, classes: Sequence[str]) -> dict[tuple[int, int, int], int]:
    """The class of each colour. Raises ConfigError for what is no colour or no class, and for one colour of two."""
    if given == "voc":
        of = palette()
        named = {number: of[number].tolist() for number in (*range(len(classes)), VOID)}
    else:
        named = dict(_by_class(given, classes, "data.colours"))
    if missing := [name for number, name in enumerate(classes) if number not in named]:
        raise ConfigError(f"has no colour for {', '.join(missing[:NAMED])}", key="data.colours")
    found: dict[tuple[int, int, int], int] = {}
    for number, colour in named.items():
        if not _listed(colour) or len(colour) != 3 or not all(level in range(256) for level in colour):
            raise ConfigError(f"{colour!r} is no red, green, blue of 0..255", key="data.colours")
        if tuple(colour) in found:
            raise ConfigError(f"{list(colour)} is the colour of two classes", key="data.colours")
        found[colour[0], colour[1], colour[2]] = number
    return found


def _folders(top: Path, images: str, beside: str) -> dict[str, Beside]:
    """Where the images and masks of each split lie."""
    if (top / images).is_dir():
        inside = _splits(top / images)
        layout = {name: Beside(f"{images}/{folder}", f"{beside}/{folder}", SUFFIXES) for name, folder in inside.items()}
        layout = layout or {"train": Beside(images, beside, SUFFIXES)}
    else:
        above = {name: folder for name, folder in _splits(top).items() if (top / folder / images).is_dir()}
        layout = {name: Beside(f"{folder}/{images}", f"{folder}/{beside}", SUFFIXES) for name, folder in above.items()}
    if "train" not in layout:
        raise DataError(
            f"{top}: there is no {images} with its {beside}, neither here nor in train; set paths.data, or data.images "
            "and data.masks"
        )
    if missing := next((layout[name].masks for name in layout if not (top / layout[name].masks).is_dir()), None):
        raise DataError(f"{top / missing}: there is no such folder, and the masks belong there; or set data.masks")
    return layout


def _splits(folder: Path) -> dict[str, str]:
    """The folders in a folder that are splits. Raises DataError for two of one split, or none of train."""
    found: dict[str, str] = {}
    for name in sorted(name for name in ALIASES if (folder / name).is_dir()):
        if ALIASES[name] in found:
            raise DataError(
                f"{folder}: {found[ALIASES[name]]} and {name} are both the {ALIASES[name]} split; remove one"
            )
        found[ALIASES[name]] = name
    if found and "train" not in found:
        raise DataError(f"{folder} has no folder train, only {', '.join(found.values())}")
    return found
