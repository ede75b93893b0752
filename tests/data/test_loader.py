"""The stream of shards is the same for any number of workers and from any step on, and what goes wrong in a worker is
named.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.transforms import v2

from calotype.data.folder import ImageFolder
from calotype.data.loader import NativeLoader, ShardReader, eval_loader, foreign_generators, train_loader
from calotype.errors import ConfigError, DataError, Interrupted
from calotype.settings import DataSettings
from tests import harness
from tests.toys.configs import toy, write
from tests.toys.faulty import Brighter, Faulty, OddSize, OwnNumPy, OwnPython, OwnTorch
from tests.toys.parity import Jitter, Parity, draw

STEPS = 15


PHOTOS = [v2.RandomResizedCrop(16), v2.RandAugment(), v2.RandomErasing(0.5)]


def loader(data: Parity | ImageFolder, transforms: Any = None, *, shards: int = 4, **settings: Any) -> NativeLoader:
    usual = PHOTOS if isinstance(data, ImageFolder) else [v2.RandomHorizontalFlip(), Jitter()]
    drawn = usual if transforms is None else transforms
    chosen = DataSettings(**{"batch_size": 8, "workers": 0, **settings})
    return train_loader(ShardReader(data.split("train"), drawn, seed=5), chosen, shards=shards)


def stream(found: NativeLoader, start: int = 0, stop: int = STEPS) -> list[list[tuple[list[int], bytes]]]:
    """Ids and digest of every shard of every step."""
    return [[(shard.ids.tolist(), shard.digest) for shard in batch] for batch in found.steps(start, stop)]


@pytest.fixture(scope="module", params=["parity", "photos"])
def data(request: pytest.FixtureRequest, root_of: dict[str, Path]) -> Parity | ImageFolder:
    """Parity images, and photos of several sizes and formats."""
    photos = request.param == "photos"
    return ImageFolder(root_of["photos"]) if photos else Parity(str(root_of["classification"]))


@pytest.fixture(scope="module")
def straight(data: Parity | ImageFolder) -> Any:
    return stream(loader(data))


@pytest.mark.guarantee(
    "The input stream is the same bytes for any number of workers",
    condition="0, 1, 2 and 4 workers; transforms without a generator of their own",
)
@pytest.mark.parametrize(("workers", "prefetch"), [(1, 2), (2, 1), (2, 8), (4, 2)])
def test_workers_and_prefetch_change_no_bit(workers: int, prefetch: int, straight: Any, data: Any) -> None:
    assert len({digest for batch in straight for _, digest in batch}) == STEPS * 4
    assert stream(loader(data, workers=workers, prefetch=prefetch)) == straight


@pytest.mark.guarantee("The input stream is the same bytes after a resume at any step", condition="every step")
def test_a_stream_can_start_at_any_step(straight: Any, data: Any) -> None:
    for start in range(STEPS + 1):
        assert stream(loader(data), start) == straight[start:]


@pytest.mark.parametrize("start", [1, 4, 5, 14])
def test_workers_can_start_at_any_step(start: int, straight: Any, data: Any) -> None:
    assert stream(loader(data, workers=2), start) == straight[start:]


def test_shards_cut_the_same_stream(straight: Any, data: Any) -> None:
    for ours, theirs in zip(straight, stream(loader(data, shards=1)), strict=True):
        assert [number for ids, _ in ours for number in ids] == theirs[0][0]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """The images that were opened so far and how often each, in any worker."""
    read, reads = Path.read_bytes, tmp_path / "reads"

    def counted(path: Path) -> bytes:
        with reads.open("ab") as file:
            os.write(file.fileno(), f"{path}\n".encode())
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    return lambda: Counter(reads.read_text().splitlines())


@pytest.mark.guarantee("A resume opens no skipped image", condition="counted")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 7, 13])
def test_nothing_that_is_skipped_is_opened(
    start: int, workers: int, data: Any, opened: Callable[[], Counter[str]]
) -> None:
    """Every image of the steps that are asked for is opened once, and no other."""
    source = data.split("train")
    name_of = {number: str(file) for number, file in zip(source.ids.tolist(), source.files, strict=True)}
    taken = stream(loader(data, workers=workers), start)
    assert opened() == Counter(name_of[number] for batch in taken for ids, _ in batch for number in ids)
    assert opened().total() == 8 * (STEPS - start)


def test_nothing_is_read_ahead_beyond_the_last_step(data: Any, opened: Callable[[], Counter[str]]) -> None:
    assert len(stream(loader(data, workers=2, prefetch=8), 3, 4)) == 1
    assert opened().total() == 8


@pytest.mark.guarantee("A sample that can't be read ends the run and is named", condition="data.on_error=error")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_is_named(workers: int, parity_root: Path) -> None:
    with pytest.raises(DataError, match=r"sample 7 \(.*007\.png\): OSError: image file is truncated"):
        stream(loader(Faulty(str(parity_root), broken=7), workers=workers))


def step_of(found: NativeLoader, number: int) -> int:
    """The first step that reads a sample."""
    return next(step for step in range(STEPS) if any(number in plan.positions for plan in found.order.batch(step)))


@pytest.mark.guarantee(
    "A loader worker that dies ends the run resumably, naming the samples", condition="data.workers above 0"
)
def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    found = loader(Faulty(str(draw(tmp_path)), kill=7), workers=1, prefetch=1)
    with pytest.raises(Interrupted, match=r"worker died or hung at step \d+, reading among sample ids") as raised:
        stream(found)
    named = re.search(r"step (\d+), reading among sample ids \[(.*)\]", str(raised.value))
    assert named is not None
    assert step_of(found, 7) - 1 <= int(named[1]) <= step_of(found, 7)  # a worker may be a shard ahead
    assert "7" in named[2].split(", ")


def test_a_hanging_worker_is_given_up(tmp_path: Path) -> None:
    found = loader(Faulty(str(draw(tmp_path)), hang=7), workers=1, prefetch=1, timeout="1s")
    begun = time.monotonic()
    with pytest.raises(Interrupted, match=r"worker died or hung at step \d+, reading .*timed out") as raised:
        stream(found)
    del raised
    assert time.monotonic() - begun < 1 + 10


def test_a_batch_smaller_than_its_shards_is_refused(parity_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size: 4 shards can't share a batch of 3"):
        loader(Parity(str(parity_root)), batch_size=3)


def test_a_split_smaller_than_a_batch_is_refused(parity_root: Path) -> None:
    with pytest.raises(DataError, match="41 samples, fewer than one batch of 42"):
        loader(Parity(str(parity_root)), batch_size=42)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_two_sizes_are_named(workers: int, parity_root: Path) -> None:
    with pytest.raises(DataError, match=r"image of .*\.png is .* and of .*\.png .*one batch needs one size"):
        stream(loader(Parity(str(parity_root)), [OddSize()], workers=workers))


@pytest.mark.parametrize("own", [OwnPython, OwnNumPy, OwnTorch])
def test_generators_of_their_own_are_found(own: type[Brighter], parity_root: Path) -> None:
    source = Parity(str(parity_root)).split("train")
    assert foreign_generators(ShardReader(source, [Jitter(), own(), v2.RandomHorizontalFlip()])) == [own.__name__]
    assert foreign_generators(ShardReader(source, [v2.RandomHorizontalFlip(), Jitter()])) == []
    assert foreign_generators(ShardReader(source)) == []


def test_evaluation_reads_by_ascending_id(parity_root: Path) -> None:
    reader = ShardReader(Parity(str(parity_root)).split("val"))
    reader.source.ids = np.array([(7 * index) % 13 for index in range(13)])
    batches = {
        workers: stream(eval_loader(reader, DataSettings(eval_batch_size=2, workers=workers)), 0, 7)
        for workers in (0, 2)
    }
    assert [number for batch in batches[0] for ids, _ in batch for number in ids] == list(range(13))
    assert batches[0] == batches[2]


# --- whole runs


def config(root: Path, folder: Path, **data: Any) -> str:
    return write(
        toy("classification", root, folder / "runs", data=data), folder / f"{len(list(folder.iterdir()))}.yaml"
    )


@pytest.mark.guarantee(
    "A transform with a generator of its own is found and refused, or the record says exact: false",
    condition="found by drawing samples twice",
)
@pytest.mark.parametrize("own", ["OwnPython", "OwnNumPy", "OwnTorch"])
def test_a_run_with_a_foreign_generator_is_refused_or_not_exact(own: str, parity_root: Path, tmp_path: Path) -> None:
    transforms = [{"_target_": f"tests.toys.faulty.{own}"}]
    refused = harness.call(harness.train, config(parity_root, tmp_path, train_transforms=transforms))
    assert refused.code == 2
    assert own in refused.error
    assert not list(tmp_path.glob("runs/*/*"))
    allowed = {"train_transforms": transforms, "foreign_generators": "allow"}
    assert harness.in_child(harness.train, config(parity_root, tmp_path, **allowed)) == 0
    record = (harness.only_run(tmp_path / "runs") / "record.json").read_text()
    assert '"exact": false' in record
    assert f"{own} draws from a generator of its own" in record


@pytest.mark.parametrize("place", ["eval_transforms", "batch_transforms"])
def test_a_foreign_generator_is_found_everywhere(place: str, parity_root: Path, tmp_path: Path) -> None:
    transforms = [{"_target_": "tests.toys.faulty.OwnNumPy"}]
    refused = harness.call(harness.train, config(parity_root, tmp_path, **{place: transforms}))
    assert refused.code == 2
    assert refused.error.startswith(f"ConfigError: data.{place}: OwnNumPy")


def test_a_run_whose_worker_was_killed_resumes_to_the_same_bits(tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    faulty = {"_target_": "tests.toys.faulty.Faulty", "kill": 20, "workers": 2}
    straight = harness.straight(config(root, tmp_path, workers=2), tmp_path / "runs")
    digest = harness.final_hash(straight)
    (tmp_path / "runs").rename(tmp_path / "straight")
    died = harness.call(harness.train, config(root, tmp_path, **faulty))
    assert died.code == harness.INTERRUPTED
    run = harness.only_run(tmp_path / "runs")
    assert harness.status(run)["exit_code"] == harness.INTERRUPTED
    assert harness.in_child(harness.resume, str(run)) == 0
    assert harness.final_hash(run) == digest


def readers(path: Path) -> dict[int, tuple[int, int]]:
    """Session and threads of each process that noted itself."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {int(pid): (int(session), int(threads)) for pid, session, threads in map(str.split, lines)}


@contextmanager
def run_with_two_workers(root: Path, folder: Path) -> Iterator[tuple[Any, dict[int, tuple[int, int]]]]:
    """A long run's process and its loader workers, with session and threads of each; at the end they must be gone."""
    noted = folder / "noted"
    transforms = [{"_target_": "tests.toys.faulty.Remember", "path": str(noted)}]
    text = toy("classification", root, folder / "runs", data={"workers": 2, "train_transforms": transforms})
    text["trainer"]["max_epochs"] = 1000
    child = harness.start(harness.train, write(text, folder / "config.yaml"))
    try:
        assert harness.until(lambda: len(readers(noted)) == 3, 60)  # the probe reads in the run's own process
        workers = {pid: found for pid, found in readers(noted).items() if pid != child.pid}
        yield child, workers
        assert harness.until(lambda: not any(map(harness.alive, workers)), 10)
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_no_worker_outlives_its_run(how: signal.Signals, parity_root: Path, tmp_path: Path) -> None:
    """Workers have a session of their own and one thread; they go when the run is killed, and at Ctrl-C."""
    with run_with_two_workers(parity_root, tmp_path) as (child, workers):
        assert all(found == (pid, 1) for pid, found in workers.items())
        os.killpg(child.pid, how)
        child.join(20)
        assert child.exitcode == (130 if how == signal.SIGINT else harness.KILLED)


def test_a_signal_to_every_process_is_for_the_run_alone(parity_root: Path, tmp_path: Path) -> None:
    """Slurm sends SIGTERM to all processes of a job, in whatever session: a worker leaves when its run tells it to."""
    with run_with_two_workers(parity_root, tmp_path) as (child, workers):
        assert harness.until(lambda: bool(list(tmp_path.glob("**/last"))), 60)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        reached = harness.newest(run := harness.only_run(tmp_path / "runs"))
        assert harness.until(lambda: harness.newest(run) > reached + 20, 60)  # they go on
        child.terminate()
        child.join(20)
        assert child.exitcode == harness.INTERRUPTED
        assert harness.status(run)["message"].startswith("stopped by SIGTERM")
        assert harness.newest(run) == harness.status(run)["step"] == len(harness.lines(run))


class Labelled(Parity):
    """Parity whose sources say the class of each sample, or something that isn't that."""

    def __init__(self, root: Path, labels: Any = None) -> None:
        super().__init__(str(root))
        self.given = labels

    def split(self, name: str) -> Any:
        found = super().split(name)
        found.labels = found.ids % 3 if self.given is None else self.given  # type: ignore[attr-defined]
        return found


def test_balanced_batches_are_the_same_for_any_workers_and_hold_repeats(parity_root: Path) -> None:
    data = Labelled(parity_root)
    here = stream(loader(data, sampling="class_balanced"))
    assert stream(loader(data, sampling="class_balanced", workers=2)) == here
    assert stream(loader(data, sampling="class_balanced"), 7) == here[7:]
    epoch = [number for batch in here[:5] for ids, _ in batch for number in ids]
    assert len(epoch) == 40 and len(set(epoch)) < 40


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (np.zeros((41, 3)), {}, "samples have one class each; set it to uniform"),
        (None, {"shuffle": False}, r"draws samples anew; set data\.shuffle=true"),
    ],
)
def test_sampling_by_class_without_classes_is_refused(
    labels: Any, settings: Any, message: str, parity_root: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"data\.sampling: .*{message}"):
        loader(Labelled(parity_root, labels), sampling="class_balanced", **settings)


def test_sampling_by_class_from_a_source_that_knows_none_is_refused(parity_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.sampling: class_balanced needs a data set whose samples have one"):
        loader(Parity(str(parity_root)), sampling="class_balanced")


def test_what_workers_have_ready_is_told(parity_root: Path) -> None:
    """Of each sample an image of 3x16x16 bytes and a label of 8, in shards of two; those of a batch are in use."""
    data = Parity(str(parity_root))
    assert loader(data, workers=0).in_flight() == (0, 0)
    shards = 2 * 3 + 4
    assert loader(data, workers=2, prefetch=3).in_flight() == (shards * 2 + 8, shards * 2 * (768 + 8))
    files, size = loader(Parity(str(parity_root), "boxes"), workers=2, prefetch=3).in_flight()
    assert files == shards * (1 + 2 + 2) + 8, "an image, and lists of two boxes and of two labels"
    assert size > shards * 2 * 768


def test_a_part_of_train_is_measured_the_same_each_time(parity_root: Path) -> None:
    reader = ShardReader(Parity(str(parity_root)).split("train"), seed=5)
    settings = DataSettings(eval_batch_size=4, workers=0)
    read = [stream(eval_loader(reader, settings, sample=10), stop=3) for _ in range(2)]
    assert read[0] == read[1]
    assert [len(ids) for batch in read[0] for ids, _ in batch] == [4, 4, 2]
