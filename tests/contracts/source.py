"""What every data set owes: subclass `SourceContract`, say how to make one, and pytest checks the rest."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from calotype.errors import DataError
from calotype.types import DataSet, Source


def digest(sample: dict[str, Any]) -> str:
    parts = {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in sample.items()}
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


def some(source: Source) -> Iterator[int]:
    """A few positions: both ends and some between."""
    yield from sorted({0, 1, len(source) // 3, len(source) // 2, len(source) - 1})


class SourceContract:
    """Inherit, and return the data set from `make`; equal calls return equal data sets."""

    def make(self) -> DataSet:
        raise NotImplementedError

    @pytest.fixture
    def sources(self) -> list[Source]:
        data = self.make()
        return [data.split(name) for name in data.splits]

    def test_satisfies_the_protocols(self, sources: list[Source]) -> None:
        assert isinstance(self.make(), DataSet)
        assert len(sources) >= 1
        assert all(isinstance(source, Source) and len(source) > 0 for source in sources)

    def test_a_split_it_has_not_is_refused_by_name(self) -> None:
        with pytest.raises(DataError, match="holiday"):
            self.make().split("holiday")

    def test_ids_are_unique_and_ascending(self, sources: list[Source]) -> None:
        for source in sources:
            assert source.ids.dtype == np.int64
            assert len(source.ids) == len(source)
            assert (np.diff(source.ids) > 0).all()

    def test_no_sample_is_in_two_splits(self, sources: list[Source]) -> None:
        names = [source.name(position) for source in sources for position in range(len(source))]
        assert len(set(names)) == len(names)

    def test_samples_are_images_of_bytes_with_a_target(self, sources: list[Source]) -> None:
        classes = len(self.make().classes)
        for source in sources:
            for sample in (source[position] for position in some(source)):
                image = sample["image"]
                assert isinstance(image, tv_tensors.Image)
                assert image.dtype == torch.uint8
                assert image.dim() == 3
                label = sample.get("label", 0)
                several = isinstance(label, torch.Tensor)  # of float32: a class each
                assert label.shape == (classes,) if several else 0 <= label < classes
                assert set(sample) > {"image"}

    def test_labels_where_it_has_them_are_those_of_its_samples(self, sources: list[Source]) -> None:
        for source in sources:
            labels = getattr(source, "labels", None)
            if labels is not None:
                assert labels.dtype == np.int64 and labels.shape == (len(source),)
                assert [int(labels[p]) for p in some(source)] == [source[p]["label"] for p in some(source)]

    def test_a_sample_belongs_to_who_asked_for_it(self, sources: list[Source]) -> None:
        for source in sources:
            before = digest(source[0])
            source[0]["image"].fill_(77)
            assert digest(source[0]) == before

    def test_is_the_same_each_time_it_is_made_and_draws_nothing(self, sources: list[Source]) -> None:
        torch.manual_seed(3)
        state = torch.get_rng_state().tolist()
        again = self.make()
        for source, name in zip(sources, again.splits, strict=True):
            other = again.split(name)
            assert source.ids.tolist() == other.ids.tolist()
            assert [digest(source[p]) for p in some(source)] == [digest(other[p]) for p in some(other)]
        assert torch.get_rng_state().tolist() == state

    def test_files_exist_and_containers_are_among_them_with_their_digest(self, sources: list[Source]) -> None:
        for source in sources:
            assert all(path.is_file() for path in source.files)
            assert set(source.containers) <= set(source.files)
            for path, sha256 in source.containers.items():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256

    def test_reaches_a_worker_that_was_spawned(self, sources: list[Source]) -> None:
        for source in sources:
            assert digest(pickle.loads(pickle.dumps(source))[0]) == digest(source[0])
