"""What was logged can be read back with TensorBoard's own reader, once for each step, whatever happened to the run."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calotype.tracking.tensorboard import TensorBoard
from calotype.types import Node
from tests.contracts.tracker import FakeRun


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path)


def read(run: FakeRun) -> Any:
    return EventAccumulator(str(run.folder / "tensorboard")).Reload()


def log(run: FakeRun, values: dict[int, float]) -> TensorBoard:
    tracker = TensorBoard()
    tracker.start(run)
    for step, value in values.items():
        tracker.log(step, {"train/loss": value})
    return tracker


def test_scalars_come_back(run: FakeRun) -> None:
    tracker = log(run, {10: 0.5, 20: 0.25})
    tracker.log(20, {"val/accuracy": 0.75})
    tracker.close("done")
    events = read(run)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 0.5), (20, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("val/accuracy")] == [(20, 0.75)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8 array", "float tensor"])
def test_images_come_back(run: FakeRun, channels: int, kind: str) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (channels, 4, 5), dtype=np.uint8)
    tracker = TensorBoard()
    tracker.start(run)
    tracker.image(3, "val/sample", pixels if kind == "uint8 array" else torch.from_numpy(pixels) / 255)
    tracker.close("done")
    (event,) = read(run).Images("val/sample")
    assert (event.step, event.height, event.width) == (3, 4, 5)
    file = run.folder / "sample.png"
    file.write_bytes(event.encoded_image_string)
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(image).reshape(4, 5, channels), pixels.transpose(1, 2, 0))


def test_nothing_is_written_before_the_first_value(run: FakeRun) -> None:
    log(run, {}).close("done")
    assert list(run.folder.iterdir()) == []


def test_a_kill_loses_nothing_that_was_logged(run: FakeRun) -> None:
    child = os.fork()
    if child == 0:
        log(run, {10: 0.5, 20: 0.25})
        os._exit(0)
    os.waitpid(child, 0)
    assert [e.step for e in read(run).Scalars("train/loss")] == [10, 20]


def test_a_resumed_run_shows_every_step_once(run: FakeRun) -> None:
    log(run, {10: 1.0, 20: 2.0, 30: 3.0}).close("failed")
    log(run, {20: 2.5, 30: 3.5}).close("failed")
    log(run, {30: 3.75, 40: 4.0}).close("done")
    values = [(e.step, e.value) for e in read(run).Scalars("train/loss")]
    assert values == [(10, 1.0), (20, 2.5), (30, 3.75), (40, 4.0)]


def test_a_clock_that_went_back_changes_no_order(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    log(run, {10: 1.0, 20: 2.0}).close("done")
    monkeypatch.setattr("calotype.tracking.tensorboard.time.time", lambda: 1000.0)
    log(run, {20: 2.5}).close("done")
    files = sorted(path.name for path in (run.folder / "tensorboard").iterdir())
    assert len(files) == 2
    assert [e.value for e in read(run).Scalars("train/loss")] == [1.0, 2.5]


def test_no_thread_is_alive_while_loader_workers_are_forked(run: FakeRun) -> None:
    before = threading.enumerate()
    tracker = log(run, {10: 1.0})
    assert threading.enumerate() == before
    tracker.close("done")


def test_a_large_photograph_is_written_as_jpeg(run: FakeRun) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300, 300), dtype=np.uint8)
    tracker = TensorBoard()
    tracker.start(run)
    tracker.image(1, "val/worst", pixels)
    tracker.image(1, "val/confusion", np.zeros((3, 300, 300), np.uint8))
    tracker.close("done")
    assert read(run).Images("val/worst")[0].encoded_image_string.startswith(b"\xff\xd8")
    assert read(run).Images("val/confusion")[0].encoded_image_string.startswith(b"\x89PNG")


NODES = [
    Node("input", "Input", (), (2, 3, 8, 8)),
    Node("Net/conv/weight", "Parameter", (), (4, 3, 3, 3)),
    Node("Net/conv/conv2d", "conv2d", ("input", "Net/conv/weight"), (2, 4, 6, 6)),
]


def test_the_graph_comes_back(run: FakeRun) -> None:
    tracker = log(run, {10: 0.5})
    assert tracker.wants_graph
    tracker.graph(NODES)
    tracker.close("done")
    found = {node.name: node for node in read(run).Graph().node}
    assert set(found) == {node.name for node in NODES}
    assert list(found["Net/conv/conv2d"].input) == ["input", "Net/conv/weight"]
    shape = found["Net/conv/conv2d"].attr["_output_shapes"].list.shape[0]
    assert [dim.size for dim in shape.dim] == [2, 4, 6, 6]


def test_the_graph_is_wanted_once_and_pictures_unless_not() -> None:
    assert TensorBoard().wants_images
    assert not TensorBoard(images=False, graph=False).wants_images
    assert not TensorBoard(graph=False).wants_graph


def test_a_resumed_run_wants_no_second_graph(run: FakeRun) -> None:
    log(run, {10: 0.5}).close("interrupted")
    again = log(run, {20: 0.5})
    assert not again.wants_graph
    again.close("done")


def test_hyper_parameters_are_the_configs_leaves_and_the_last_results(run: FakeRun) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    (run.folder / "config.yaml").write_text(
        "seed: 3\nmodule: {optimizer: {lr: 0.1, fused: true}, groups: []}\ntracking: {url: x}\n"
        "paths: {data: /d}\nvars: {token: '${oc.env:TOKEN}'}\n"
    )
    tracker = log(run, {10: 0.5})
    tracker.log(10, {"val/accuracy": 0.5, "val/f1": float("nan")})
    tracker.log(20, {"val/accuracy": 0.75})
    tracker.close("done")
    metadata = read(run).summary_metadata
    started = HParamsPluginData.FromString(metadata["_hparams_/session_start_info"].plugin_data.content)
    values = started.session_start_info.hparams
    assert set(values) == {"seed", "module.optimizer.lr", "module.optimizer.fused", "module.groups", "vars.token"}
    assert values["module.optimizer.lr"].number_value == 0.1 and values["module.optimizer.fused"].string_value == "true"
    assert values["module.groups"].string_value == "[]" and values["vars.token"].string_value == "${oc.env:TOKEN}"
    about = HParamsPluginData.FromString(metadata["_hparams_/experiment"].plugin_data.content)
    assert [info.name.tag for info in about.experiment.metric_infos] == ["val/accuracy"]
