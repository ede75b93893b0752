"""Checkpoints are whole or absent, whatever stops the process that writes them, and damage is seen and named."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype import faults
from calotype.engine.checkpoint import MANIFEST, MODEL, STATE, TENSORS, Checkpoint, Checkpoints, name_of
from calotype.engine.checkpoint import open_checkpoint as opened
from calotype.errors import CheckpointError, RunFolderError


class Stopped(BaseException):
    """Ends a save where a kill would: nothing of the code under test catches it."""


@pytest.fixture(autouse=True)
def _no_hook() -> Iterator[None]:
    yield
    faults.hook = None


def network(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((4, 3), float(step)), "bias": torch.arange(4.0) + step}


def training(step: int) -> dict[str, Any]:
    return {"loop": {"step": step, "scores": {step: 0.5}}, "optimizer": {"momentum": torch.ones(5) * step}}


def saved(store: Checkpoints, step: int, scores: dict[int, float] | None = None) -> Path:
    return store.save(step, network(step), training(step), scores or {})


def there(_: Checkpoint) -> None:
    """Accept any sound checkpoint."""


def is_whole(found: Checkpoint | None, steps: set[int]) -> bool:
    if found is None or found.step not in steps:
        return False
    same = torch.equal(found.model()["weight"], network(found.step)["weight"])
    return same and found.training()["loop"]["step"] == found.step


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    found = Checkpoints(tmp_path / "checkpoints")
    found.prepare()
    return found


def test_what_is_saved_comes_back(store: Checkpoints) -> None:
    found = opened(saved(store, 12))
    assert found.step == 12 and found.folder.name == "step-00000012"
    assert all(torch.equal(tensor, network(12)[name]) for name, tensor in found.model().items())
    state = found.training()
    assert state["loop"] == training(12)["loop"]
    assert torch.equal(state["optimizer"]["momentum"], torch.ones(5) * 12)


# --- never half a checkpoint


POINTS = [
    "before_write", "mid_write@1", "mid_write@2", "mid_write@3", "mid_write@4", "before_fsync@1", "before_fsync@4",
    "before_rename", "after_rename", "before_pointer", "mid_write@5", "before_fsync@5", "after_pointer", "mid_write@6",
    "before_delete",
]  # fmt: skip


@pytest.mark.guarantee(
    "Whenever a checkpoint's writing stops, the previous or the new one is whole", condition="each fault point"
)
@pytest.mark.parametrize("point", POINTS)
def test_stopped_at_each_fault_point_there_is_the_previous_or_the_new(store: Checkpoints, point: str) -> None:
    saved(store, 1, {1: 0.5})
    name, _, count = point.partition("@")
    left = int(count or 1)

    def hook(passed: str) -> None:
        nonlocal left
        left -= passed == name
        if passed == name and left == 0:
            raise Stopped

    faults.hook = hook
    with pytest.raises(Stopped):
        saved(store, 2, {1: 0.5, 2: 0.4})
    faults.hook = None
    again = Checkpoints(store.folder)
    again.prepare()
    assert is_whole(again.newest(there, strict=True)[0], {1, 2})
    assert is_whole(again.named("last"), {1, 2})
    assert is_whole(again.named("best"), {1, 2})
    saved(again, 2, {1: 0.5, 2: 0.4})
    assert is_whole(again.named("last"), {2}) and is_whole(again.named("best"), {2})
    assert again.names() == [name_of(2)]
    assert not list(again.folder.glob(".*"))


class Calls:
    """Records every call that makes bytes or names durable, and stops before the one numbered `stop_at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root, self.seen, self.stop_at = root, list[str](), 0
        fsync, rename, opening = os.fsync, Path.rename, Path.open

        def recorded_fsync(handle: int) -> None:
            self.note("sync", Path(f"/proc/self/fd/{handle}").readlink())
            fsync(handle)

        def recorded_rename(path: Path, target: Path) -> Path:
            self.note("rename", path, target)
            return rename(path, target)

        def recorded_open(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode == "xb":
                self.note("write", path)
            return opening(path, mode, *args, **options)

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(Path, "rename", recorded_rename)
        monkeypatch.setattr(Path, "open", recorded_open)

    def note(self, what: str, *paths: Path) -> None:
        if self.stop_at and len(self.seen) + 1 == self.stop_at:
            raise Stopped
        names = (str(path.relative_to(self.root)).replace("\\", "/") for path in paths)
        self.seen.append(" ".join([what, *map(_plain, names)]))


def _plain(name: str) -> str:
    """A path without the random ends of temporary names."""
    parts = [part.rpartition("-")[0] if part.startswith(".tmp-") else part for part in name.split("/")]
    return "/".join(parts)


@pytest.mark.guarantee(
    "A checkpoint is synced, renamed and synced before anything points to it", condition="the system's calls, in order"
)
def test_the_order_of_the_calls_that_make_a_checkpoint_durable(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(store, 1)
    calls = Calls(monkeypatch, store.folder)
    saved(store, 2)
    new = ".tmp-step-00000002"
    files = [f"{what} {new}/{name}" for name in (MODEL, TENSORS, STATE, MANIFEST) for what in ("write", "sync")]
    assert calls.seen == [
        *files,
        f"sync {new}",
        f"rename {new} step-00000002",
        "sync .",
        "write .tmp-last",
        "sync .tmp-last",
        "rename .tmp-last last",
        "sync .",
        "rename step-00000001 .trash-step-00000001",
        "sync .",
    ]


def test_stopped_before_each_of_those_calls_there_is_the_previous_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, tmp_path)
    for stop_at in range(1, 100):
        store = Checkpoints(tmp_path / str(stop_at))
        store.prepare()
        calls.stop_at = 0
        saved(store, 1, {1: 0.5})
        calls.stop_at, calls.seen = stop_at, []
        try:
            saved(store, 2, {1: 0.5, 2: 0.4})
        except Stopped:
            calls.stop_at = 0
            assert is_whole(Checkpoints(store.folder).newest(there, strict=True)[0], {1, 2})
            assert is_whole(store.named("last"), {1, 2}) and is_whole(store.named("best"), {1, 2})
        else:
            break
    assert stop_at == len(calls.seen) + 1 > 20


# --- damage


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_in_half, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", [MODEL, TENSORS, STATE, MANIFEST])
def test_a_damaged_newest_is_named_kept_and_passed_over(store: Checkpoints, damage: Any, name: str) -> None:
    store.keep_last = 2
    saved(store, 1)
    newest = saved(store, 2)
    damage(newest / name)
    found, told = store.newest(there)
    assert is_whole(found, {1})
    assert len(told) == 1 and str(newest / name) in told[0]
    assert newest.is_dir()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        store.newest(there, strict=True)


def test_every_flipped_bit_of_a_manifest_is_seen_or_harmless(store: Checkpoints) -> None:
    path = saved(store, 3) / MANIFEST
    sound, before = path.read_bytes(), opened(path.parent).manifest
    for index in range(len(sound)):
        path.write_bytes(sound[:index] + bytes([sound[index] ^ 1]) + sound[index + 1 :])
        try:
            assert opened(path.parent).manifest == before
        except CheckpointError as error:
            assert MANIFEST in str(error) or "sha256" in str(error)


def test_a_damaged_folder_is_kept_when_its_step_is_reached_again(store: Checkpoints) -> None:
    store.keep_last = 2
    saved(store, 1)
    flip_a_bit(saved(store, 2) / MODEL)
    saved(store, 2)
    assert is_whole(store.named("last"), {2})
    (aside,) = store.folder.glob("aside-*")
    with pytest.raises(CheckpointError, match="damaged"):
        opened(aside)
    assert store.names() == [name_of(1), name_of(2)]


def test_a_sound_folder_of_other_bits_makes_way_and_one_of_the_same_stays(store: Checkpoints) -> None:
    folder = store.save(2, network(7), training(2), {})
    saved(store, 2)
    assert torch.equal(opened(folder).model()["weight"], network(2)["weight"])
    (aside,) = store.folder.glob("aside-*")
    assert torch.equal(opened(aside).model()["weight"], network(7)["weight"])
    place = folder.stat().st_ino
    saved(store, 2)
    assert folder.stat().st_ino == place


def test_all_damaged_or_none_there(store: Checkpoints) -> None:
    assert store.newest(there) == (None, [])
    flip_a_bit(saved(store, 1) / STATE)
    found, told = store.newest(there)
    assert found is None and len(told) == 1


def test_a_manifest_of_another_format_is_refused(store: Checkpoints) -> None:
    path = saved(store, 1) / MANIFEST
    path.write_text(json.dumps({"format": 2, "anything": "else"}))
    with pytest.raises(CheckpointError, match="has format 2; this version reads 1"):
        opened(path.parent)


def test_a_checkpoint_that_does_not_fit_is_passed_over(store: Checkpoints) -> None:
    store.keep_last = 2
    saved(store, 1)
    saved(store, 2)

    def fits(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 2:
            raise CheckpointError("journal.jsonl is too short")

    found, told = store.newest(fits)
    assert is_whole(found, {1}) and told == ["journal.jsonl is too short"]


def test_order_is_by_step_never_by_time(store: Checkpoints) -> None:
    store.keep_last = 9
    for step in (9, 10, 100):
        saved(store, step)
    os.utime(store.folder / name_of(9), (2e9, 2e9))
    os.utime(store.folder / name_of(100), (1, 1))
    assert is_whole(store.newest(there)[0], {100})
    assert store.names() == [name_of(9), name_of(10), name_of(100)]


def test_a_part_comes_before_the_whole_of_its_step(store: Checkpoints) -> None:
    store.keep_last = 9
    store.save(4, network(4), training(4), {}, part=True)
    assert (store.folder / "last").read_text() == "step-00000004-part\n"
    saved(store, 4)
    saved(store, 3)
    assert store.names() == ["step-00000003", "step-00000004-part", "step-00000004"]
    assert is_whole(store.newest(there)[0], {4})


def test_other_things_in_the_folder_are_no_checkpoints(store: Checkpoints) -> None:
    saved(store, 1)
    for name in ("step-x", "step-00000009.bak", "notes"):
        (store.folder / name).mkdir()
    assert store.names() == [name_of(1)]


# --- a full disk


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 kB: what a quota does, without root. Raised again afterwards."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_the_old_checkpoint_and_no_part_of_the_new(store: Checkpoints) -> None:
    saved(store, 1)
    with pytest.raises(RunFolderError, match=r"step-00000002 could not be written to the disk.*a checkpoint before"):
        store.save(2, {"weight": torch.zeros(40_000)}, training(2), {})
    assert is_whole(store.newest(there, strict=True)[0], {1}) and is_whole(store.named("last"), {1})
    assert sorted(path.name for path in store.folder.iterdir()) == ["last", name_of(1)]


@pytest.mark.parametrize("point", ["mid_write@1", "mid_write@4", "before_fsync@2", "before_rename", "mid_write@5"])
def test_the_disk_fills_at_any_moment(store: Checkpoints, point: str) -> None:
    saved(store, 1)
    faults.hook = faults.planned(f"{point}:disk")
    with pytest.raises(RunFolderError, match="No space left on device"):
        saved(store, 2)
    faults.hook = None
    assert is_whole(store.newest(there, strict=True)[0], {1, 2}) and is_whole(store.named("last"), {1, 2})
    assert not list(store.folder.glob(".tmp-*"))
    saved(store, 2)
    assert is_whole(store.named("last"), {2})


# --- which are kept


def test_n_best_and_the_last_are_kept(store: Checkpoints) -> None:
    store.keep_best = 2
    scores: dict[int, float] = {}
    for step, score in enumerate([5.0, 1.0, 2.0, 3.0, 4.0], start=1):
        scores[step] = score
        saved(store, step, scores)
    assert store.names() == [name_of(2), name_of(3), name_of(5)]
    assert is_whole(store.named("best"), {2}) and is_whole(store.named("last"), {5})


def test_ties_go_to_the_later(store: Checkpoints) -> None:
    """Fact 27."""
    scores = {1: 0.5, 2: 0.5}
    saved(store, 1, {1: 0.5})
    saved(store, 2, scores)
    assert is_whole(store.named("best"), {2}) and store.names() == [name_of(2)]
    assert store.improves(2, scores) and not store.improves(1, scores)


@pytest.mark.parametrize(("maximise", "best"), [(False, 2), (True, 3)])
def test_direction_infinities_and_nan_never_best(store: Checkpoints, maximise: bool, best: int) -> None:
    store.sign = 1.0 if maximise else -1.0
    scores = {1: 0.0, 2: -float("inf"), 3: float("inf"), 4: float("nan")}
    for step in scores:
        saved(store, step, {at: scores[at] for at in range(1, step + 1)})
    assert is_whole(store.named("best"), {best})
    assert not store.improves(4, scores)


def test_a_first_score_that_is_not_a_number_gives_no_best(store: Checkpoints) -> None:
    saved(store, 1, {1: float("nan")})
    assert not store.has_best()
    with pytest.raises(CheckpointError, match="has no best checkpoint; it has step-00000001"):
        store.named("best")


def test_keep_best_none(store: Checkpoints) -> None:
    store.keep_best = 0
    saved(store, 1, {1: 0.5})
    saved(store, 2, {1: 0.5, 2: 0.6})
    assert store.names() == [name_of(2)] and not store.has_best()


def test_a_name_leads_nowhere_else(store: Checkpoints, tmp_path: Path) -> None:
    shutil.copytree(saved(store, 1), tmp_path / "outside")
    for name in ("../../outside", "step-7", ""):
        with pytest.raises(CheckpointError, match=f"has no {name} checkpoint; it has step-00000001"):
            store.named(name)
