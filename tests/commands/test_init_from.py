"""Weights to start from: read where a run begins and nowhere else, found from any folder, named when they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import calotype
from calotype.commands.verify import told, verify
from calotype.errors import CheckpointError, RefusedError
from calotype.files import sha256_file
from tests import harness
from tests.runs import config, go_on, lineage, trained


@pytest.fixture(scope="module")
def models(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two model files of the toy network."""
    run = trained(parity_root, tmp_path_factory.mktemp("models"))
    return [file.read_bytes() for file in sorted(run.glob("checkpoints/step-*/model.safetensors"))]


@pytest.fixture
def weights(models: list[bytes], tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(models[0])
    return path


def started(data: Path, folder: Path, plan: str, start: Any) -> Path:
    file = config(data, folder / "run", module={"init_from": start})
    assert harness.in_child(harness.train, file, plan) == harness.KILLED
    return harness.only_run(folder / "run" / "runs")


@pytest.mark.guarantee("A resume doesn't need the weights that a run began with", condition="a sound checkpoint")
def test_a_resume_reads_no_weights_but_the_checkpoint_s(parity_root: Path, tmp_path: Path, weights: Path) -> None:
    run = started(parity_root, tmp_path, "after_step@8", str(weights))
    aside = weights.rename(tmp_path / "aside")
    assert go_on(run).step == 15 and lineage(run)[0]["changed"] == {}
    assert calotype.load(run, "data.workers=0").evaluate("val").count == 13
    aside.rename(weights)
    assert verify(run).holds and verify(run, resume_at=7).holds


def test_verify_names_weights_that_are_gone(parity_root: Path, tmp_path: Path, weights: Path) -> None:
    run = trained(parity_root, tmp_path / "run", module={"init_from": {"path": str(weights), "min_loaded": 0.9}})
    digest = sha256_file(weights)
    aside = weights.rename(tmp_path / "aside")
    with pytest.raises(CheckpointError) as raised:
        verify(run, steps=2)
    assert f"module.init_from: {weights} is gone" in str(raised.value) and f"(sha256 {digest})" in str(raised.value)
    found = verify(run, f"module.init_from.path={aside}", steps=2, allow_changed=["config"])
    assert found.holds, told(found)


def test_a_resume_from_the_start_needs_the_same_weights(
    parity_root: Path, tmp_path: Path, weights: Path, models: list[bytes]
) -> None:
    run = started(parity_root, tmp_path, "after_step@3", str(weights))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"is gone, and toy_classification/.* began with its weights \(sha256 "):
        go_on(run)
    weights.write_bytes(models[1])
    with pytest.raises(RefusedError, match=rf"data: the weights of module\.init_from, {weights}: sha256 \w+ -> \w+"):
        go_on(run)
    weights.write_bytes(models[0])
    assert go_on(run).step == 15


@pytest.mark.guarantee(
    "A run that began with weights of a relative path goes on from any folder", condition="module.init_from"
)
@pytest.mark.parametrize("node", [False, True])
def test_a_relative_path_is_recorded_whole(
    parity_root: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, node: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file = config(parity_root, tmp_path / "run", module={"init_from": {"path": weights.name} if node else weights.name})
    run = calotype.train(file, quiet=True).folder
    start = yaml.safe_load((run / "config.yaml").read_text())["module"]["init_from"]
    assert (start["path"] if node else start) == str(weights)
    assert calotype.train(file, resume="auto", quiet=True).folder == run
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = verify(run)
    assert found.holds and found.changed == {}, told(found)


def test_a_run_s_folder_stands_for_its_best_checkpoint(parity_root: Path, tmp_path: Path) -> None:
    first = trained(parity_root, tmp_path / "first")
    best = first / "checkpoints" / (first / "checkpoints" / "best").read_text().strip()
    second = trained(parity_root, tmp_path / "second", module={"init_from": str(first)})
    recorded = yaml.safe_load((second / "config.yaml").read_text())["module"]["init_from"]
    assert recorded == str(best)
    assert verify(second, steps=2).holds
