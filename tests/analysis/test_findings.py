"""What is told of a data set, from rows made by hand: where each limit lies, and beside what a copy is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from calotype.analysis.duplicates import Near
from calotype.analysis.findings import NOTES, PROBLEMS, Part, Report, class_counts, report
from calotype.analysis.looks import FORMATS, MODES, NO_LABEL, ODD_LABEL, SEVERAL, check_row

CLASSES = ("ant", "bee", "cat")


class Names:
    """A source of so many samples that has names and ids alone."""

    def __init__(self, split: str, names: list[str]) -> None:
        self.names, self.ids = [f"{split}/{name}" for name in names], np.arange(100, 100 + len(names))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, position: int) -> str:
        return self.names[position]


def part(split: str, *rows: Mapping[str, Any], broken: Mapping[int, str] | None = None, several: int = 0) -> Part:
    """A split of samples "0.jpg", "1.jpg", ...: photos of noise, 40 x 30, of class 0, but for what `rows` say."""
    noise = np.random.default_rng(len(split)).integers(0, 256, (len(rows), 16, 18))
    made = np.zeros(len(rows), check_row(several))
    made["width"], made["height"], made["thumbnail"] = 40, 30, noise
    made["digest"] = [hash((split, row)) % 2**60 for row in range(len(rows))]
    for place, row in enumerate(rows):
        for name, value in row.items():
            if name != "name":
                made[place][name] = value
    failed = broken or {}
    left = np.array([n for n in range(len(rows) + len(failed)) if n not in failed], np.int64)
    names = [f"{number}.jpg" for number in range(len(rows) + len(failed))]
    for position, row in zip(left.tolist(), rows, strict=True):
        names[position] = row.get("name", names[position])
    source: Any = Names(split, names)
    return Part(split, source, left, made, failed)


def texts(*parts: Part, classes: tuple[str, ...] = CLASSES) -> dict[str, list[str]]:
    found = report(parts, classes).of(PROBLEMS | NOTES)
    return {kind: [item["text"] for item in items] for kind, items in found.items()}


EACH = ({"label": 0}, {"label": 1}, {"label": 2})
"""A sample of each class, so that nothing is said of classes."""


def test_of_sound_samples_nothing_is_told() -> None:
    assert texts(part("train", *EACH), part("val", *EACH)) == {}
    assert texts(part("train")) == {"empty_class": [*CLASSES]}
    assert texts() == {}


def test_findings_come_by_split_and_name_and_only_of_the_kinds_asked_for() -> None:
    found = Report()
    for split, name in (("extra", "a"), ("test", "b"), ("train", "z"), ("val", "c"), ("train", "b")):
        found.add("small", {"split": split, "name": name, "text": ""})
    found.add("broken", "said of no sample")
    assert [(item["split"], item["name"]) for item in found.of(NOTES)["small"]] == [
        ("train", "b"), ("train", "z"), ("val", "c"), ("test", "b"), ("extra", "a"),
    ]  # fmt: skip
    assert found.of(PROBLEMS) == {"broken": [{"text": "said of no sample"}]}


def test_a_broken_sample_is_named_and_positions_of_the_others_stay_theirs() -> None:
    found = report([part("train", *EACH, {"width": 1}, broken={1: "the file is empty"})], CLASSES).found
    assert found["broken"] == [
        {"split": "train", "id": 101, "name": "train/1.jpg", "text": "train/1.jpg: the file is empty"}
    ]
    assert [(item["id"], item["name"]) for item in found["small"]] == [(104, "train/4.jpg")]


def test_labels_that_are_no_class() -> None:
    odd = [{"label": value} for value in (3, -1, ODD_LABEL)]
    found = texts(part("train", *EACH, *odd, {"label": NO_LABEL}))
    assert found == {
        "label": [
            "train/3.jpg: its label is 3, the classes are 0..2",
            "train/4.jpg: its label is -1, the classes are 0..2",
            "train/5.jpg: its label is of an unknown kind, the classes are 0..2",
        ]
    }


@pytest.mark.parametrize(
    ("size", "kinds"),
    [
        ((8, 8), set()),
        ((8, 7), {"small"}),
        ((150, 30), set()),
        ((151, 30), {"proportions"}),
        ((30, 151), {"proportions"}),
        ((30, 150), set()),
        ((200, 7), {"small", "proportions"}),
    ],
)
def test_sizes_at_their_limits(size: tuple[int, int], kinds: set[str]) -> None:
    """The others are 30 x 30, and a fifth of a proportion is as far as five times it."""
    usual = [{"width": 30, "label": n % 3} for n in range(6)]
    found = texts(part("train", *usual, {"width": size[0], "height": size[1]}))
    told = {"small": f"train/6.jpg: {size[0]}x{size[1]}", "proportions": f"train/6.jpg: {size[0]}x{size[1]}"}
    found.pop("near_duplicate", None)
    assert found == {kind: [told[kind]] for kind in kinds}


def test_small_is_also_an_eighth_of_the_others() -> None:
    large = [{"width": 800, "height": 600, "label": n % 3} for n in range(6)]
    found = texts(part("train", *large, {"width": 90, "height": 74}, {"width": 90, "height": 75}))
    assert found == {"small": ["train/6.jpg: 90x74"]}


def test_files_are_told_by_their_first_bytes() -> None:
    """Only of samples that are files; `.jfif` is a JPEG's suffix too, and suffixes count in any case."""
    jpeg = {"format": FORMATS.index("JPEG"), "mode": MODES.index("RGB")}
    rows = [{**jpeg, **each, "name": name} for each, name in zip(EACH, ("a.JPG", "b.jfif", "c.png"), strict=True)]
    rows += [{"name": "d"}, {**jpeg, "mode": MODES.index("L"), "name": "e.jpe"}, {"mode": 3, "name": "f"}]
    found = texts(part("train", *rows, {"format": FORMATS.index("GIF"), "mode": 1, "animated": True, "name": "g.gif"}))
    assert found == {
        "suffix": ["train/c.png: it is a JPEG"],
        "mode": ["train/e.jpe: L, most are RGB"],
        "animated": ["train/g.gif: GIF"],
        "imbalance": found["imbalance"],
    }


def labelled(*counts: int) -> list[dict[str, Any]]:
    return [{"label": number} for number, count in enumerate(counts) for _ in range(count)]


def test_classes_are_those_of_train() -> None:
    found = texts(part("train", *labelled(2, 2, 0)), part("val", *labelled(1, 0, 0)), part("test", *labelled(0, 1, 1)))
    assert found == {
        "empty_class": ["cat"],
        "missing_class": ["val has no bee, train has 2", "test has no ant, train has 2"],
    }
    assert texts(part("val", *labelled(1, 0, 0))) == {}, "without train there is nothing to compare with"


@pytest.mark.parametrize(("counts", "told"), [((29, 10, 15), None), ((30, 10, 15), "3.0"), ((0, 2, 9), "4.5")])
def test_classes_are_unequal_from_three_times_on(counts: tuple[int, ...], told: str | None) -> None:
    found = texts(part("train", *labelled(*counts))).get("imbalance")
    assert found == told if told is None else (found is not None and f", {told} times as many" in found[0])


def test_class_counts_of_numbers_of_vectors_and_of_neither() -> None:
    found = class_counts(part("train", *labelled(2, 0, 1), {"label": 7}, {"label": -2}), 3)
    assert found is not None and found.tolist() == [2, 0, 1]
    vectors = [{"label": SEVERAL, "classes": one} for one in ([1, 1, 0], [0, 1, 0], [0, 0, 0])]
    found = class_counts(part("train", *vectors, several=3), 3)
    assert found is not None and found.tolist() == [1, 2, 0]
    assert class_counts(part("train", {"label": NO_LABEL}, {"label": SEVERAL}), 3) is None
    found = class_counts(part("train"), 3)
    assert found is not None and found.tolist() == [0, 0, 0]


def test_each_copy_but_the_first_is_told_beside_the_first() -> None:
    parts = (
        part("train", *EACH, {"digest": 7, "label": 1}, {"digest": 7, "label": 1}),
        part("val", *EACH, {"digest": 7, "label": 2}),
    )
    found = report(parts, CLASSES).found
    assert sorted(found) == ["conflict", "duplicate", "imbalance", "leak"]
    (twice,), (leak,), (conflict,) = found["duplicate"], found["leak"], found["conflict"]
    assert twice["text"] == "train/4.jpg: (train) is the same as train/3.jpg (train)"
    assert leak["text"] == "val/3.jpg: (val) is the same as train/3.jpg (train), as another class" == conflict["text"]
    assert leak["other"] == {"split": "train", "id": 103, "name": "train/3.jpg"}
    assert (leak["split"], leak["id"], leak["name"]) == ("val", 103, "val/3.jpg")


def test_vectors_of_classes_differ_as_wholes() -> None:
    same, other = [1, 1, 0], [1, 0, 0]
    rows = [{"label": SEVERAL, "classes": one, "digest": 7} for one in (same, same, other)]
    found = texts(part("train", *rows, several=3))
    assert [text.endswith("as another class") for text in found["duplicate"]] == [False, True]
    assert len(found["conflict"]) == 1


def test_images_of_one_colour_are_no_near_copies_of_each_other() -> None:
    flat = np.full((16, 18), 90)
    flat[:, :9] = 100
    row = {"thumbnail": flat}
    assert len(texts(part("train", *EACH, row, row))["near_duplicate"]) == 1
    grey = {**row, "one_colour": True}
    assert set(texts(part("train", *EACH, grey, grey))) == {"one_colour", "imbalance"}


def test_of_near_images_the_one_of_another_split_is_told_and_the_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 0 to 2 are of train, 3 to 5 of val."""
    pairs = np.array([[0, 4], [1, 4], [3, 4], [3, 5]])
    correlation = np.array([0.9985, 0.9991, 0.99999, 0.99799], np.float32)
    monkeypatch.setattr("calotype.analysis.findings.near", lambda *_: Near(pairs, correlation, False))
    found = texts(part("train", *EACH), part("val", *EACH))
    assert found == {
        "near_leak": ["val/1.jpg: (val) correlates by 0.9991 with train/1.jpg (train)"],
        "near_duplicate": ["val/2.jpg: (val) correlates by 0.9980 with val/0.jpg (val), as another class"],
        "incomplete": ["so many images are alike that not all pairs were compared"],
    }
