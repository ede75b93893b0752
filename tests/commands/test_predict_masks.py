"""`calotype predict` writes what a segmenter says of files as masks: the same that evaluate measures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import calotype
from calotype import cli
from calotype.commands import _masks
from calotype.commands._model import load_model
from calotype.commands._predictions import Predicted
from calotype.data.masks import decode, encode
from calotype.data.shapes import Shapes
from calotype.errors import UsageError
from calotype.metrics import MeanIoU
from calotype.palette import overlay, palette
from calotype.types import Prediction, Shard

FLIP = "{_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 1.0}"
PAD = "{_target_: torchvision.transforms.v2.Pad, padding: [1, 2, 3, 4]}"
SMALL = ("data.size=32", "data.images=[64,8,2]", "data.workers=0", "data.batch_size=8", "data.eval_batch_size=4")
LOSS = "module.loss={_target_: calotype.losses.CrossEntropyLoss, weight: [0.1, 1, 1, 1, 1, 1]}"
NETWORK = (
    LOSS,
    "module.network.width=8",
    "module.network.depth=2",
    "module.network.stride=1",
    "trainer.max_epochs=8",
    "tracking=console",
)
FORMATS = ("csv", "jsonl")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on drawn shapes whose evaluation mirrors images."""
    runs = tmp_path_factory.mktemp("runs")
    eval_transforms = f"data.eval_transforms=[{FLIP}]"
    made = calotype.train(
        "experiment=shapes_segmentation", *SMALL, *NETWORK, eval_transforms, f"paths.runs={runs}", quiet=True
    )
    return made.folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation images as files."""
    folder = tmp_path_factory.mktemp("photos")
    for number, sample in enumerate(drawn()):
        save(sample["image"], folder / f"{number}.png")
    return folder


def drawn() -> list[Any]:
    source = Shapes(size=32, images=[64, 8, 2]).split("val")
    return [source[row] for row in range(len(source))]


def save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def scored(folder: Path) -> dict[str, float]:
    """What the masks in a folder score against the truth."""
    metric = MeanIoU(Shapes().classes)
    for number, sample in enumerate(drawn()):
        mask = decode((folder / f"{number}.png").read_bytes())[None]
        ids = np.arange(number, number + 1)
        truth = sample["mask"].as_subclass(torch.Tensor)[None]
        metric.update(Prediction(ids, {"mask": mask}), Shard(ids, {"mask": truth}))
    return metric.compute(metric.state())


def predict(run: Path, *arguments: Any) -> int:
    return cli.main(["predict", str(run), *map(str, arguments)])


@pytest.mark.guarantee(
    "The masks that predict writes score what evaluate measures, and what training measured",
    condition="PNG, the same checkpoint and inference, evaluation transforms that lose no pixel",
)
@pytest.mark.parametrize("inference", ["none", "views", "windows"])
def test_masks_score_what_evaluate_measures(run: Path, photos: Path, tmp_path: Path, inference: str) -> None:
    overrides = {
        "none": [],
        "views": ["inference=tta", "module.inference.scales=[0.75,1.0]"],
        "windows": ["inference=sliding_window", "module.inference.window=20"],
    }[inference]
    asked = [word for text in overrides for word in ("--override", text)]
    assert predict(run, photos, "--output", tmp_path, *asked) == 0
    measured = calotype.load(run, *overrides).evaluate("val").metrics
    found = scored(tmp_path)
    assert sum(value > 0 for name, value in found.items() if name.startswith("IoU")) > 2
    assert found == {name: pytest.approx(measured[name], abs=1e-12, nan_ok=True) for name in found}
    if inference == "none":
        entries = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
        measurements = [entry["metrics"] for entry in entries if entry.get("split") == "val"]
        trained = [float.fromhex(metrics["mIoU"]) for metrics in measurements]
        assert max(trained) == pytest.approx(found["mIoU"], abs=1e-6)


def test_a_mask_is_a_palette_png_of_the_file_s_size(run: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(run, photos / "0.png", "--output", tmp_path / "new" / "folder") == 0
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["0.png"]
    with Image.open(tmp_path / "new/folder/0.png") as mask:
        assert (mask.mode, mask.size) == ("P", (32, 32))
        assert mask.getpalette() == palette().ravel().tolist()
        assert set(np.unique(np.asarray(mask)).tolist()) <= set(range(6))


def test_the_api_gives_the_same_masks(run: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(run, photos, "--output", tmp_path, "--batch-size", 3) == 0
    for row in calotype.predict(run, photos):
        assert row.mask is not None and (row.mask.dtype, row.probabilities, row.image) == (torch.uint8, None, None)
        written = decode((tmp_path / Path(row.path).name).read_bytes())
        assert torch.equal(row.mask.long(), written.as_subclass(torch.Tensor))


def test_photos_of_any_size_turned_as_they_are_seen(run: Path, photos: Path, tmp_path: Path) -> None:
    sizes = {"wide.jpg": (71, 30), "small.png": (5, 3), "tall.png": (33, 97)}
    (tmp_path / "in").mkdir()
    for name, size in sizes.items():
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "wide.jpg" else 1
        with Image.open(photos / "1.png") as photo:
            photo.resize(size).save(tmp_path / "in" / name, exif=exif)
    assert predict(run, tmp_path / "in", "--output", tmp_path / "out") == 0
    for name, size in sizes.items():
        with Image.open(tmp_path / "out" / f"{Path(name).stem}.png") as mask:
            assert mask.size == (size[::-1] if name == "wide.jpg" else size)


def test_an_overlay_is_the_image_under_its_mask(run: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(run, photos / "2.png", "--output", tmp_path, "--overlay") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.png", "2_overlay.png"]
    with Image.open(tmp_path / "2_overlay.png") as found, Image.open(photos / "2.png") as photo:
        mask = decode((tmp_path / "2.png").read_bytes()).numpy()
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found), overlay(np.asarray(photo), mask))


def test_an_overlay_is_two_fifths_colour() -> None:
    image, mask = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 255]], np.uint8)
    assert overlay(image, mask).tolist() == [[[60, 60, 60], [111, 60, 60], [150, 150, 137]]]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_for_each_file_and_a_broken_one_stops_no_other(
    run: Path, photos: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes((photos / "0.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no image")
    output = tmp_path / "out"
    assert predict(run, tmp_path / "[abc].png", "--output", output, "--format", kind) == 3
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "calotype: 1 of 3 files could not be predicted; their rows say why"
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "c.png"]
    found = rows(captured.out) if kind == "csv" else [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(row["path"]).name for row in found] == ["a.png", "b.png", "c.png"]
    assert found[1]["error"].startswith("no JPEG, PNG")
    assert not found[1].get("mask")
    counts = np.bincount(decode((output / "a.png").read_bytes()).numpy().ravel(), minlength=6)
    told = [found[0].get(f"pixels[{name}]") for name in Shapes().classes]
    if kind == "csv":
        assert [int(value) for value in told] == counts.tolist()
        assert (found[0]["width"], found[0]["pixels[void]"], found[0]["error"]) == ("32", "0", "")
    else:
        expected = {name: int(count) for name, count in zip(Shapes().classes, counts, strict=True) if count}
        places = {"path": str(tmp_path / "a.png"), "mask": str(output / "a.png")}
        assert found[0] == {**places, "width": 32, "height": 32, "pixels": expected}


def test_sub_folders_are_kept(run: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("x/0.png", "y/0.png", "0.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes((photos / "0.png").read_bytes())
    assert predict(run, tmp_path / "in", "--output", tmp_path / "all") == 0
    assert predict(run, tmp_path / "in/*/0.png", photos / "1.png", "--output", tmp_path / "some") == 0
    for folder, names in {"all": ["0.png", "x/0.png", "y/0.png"], "some": ["1.png", "x/0.png", "y/0.png"]}.items():
        root = tmp_path / folder
        assert sorted(str(path.relative_to(root)) for path in root.rglob("*.png")) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}"], "--output DIR is missing: the run predicts masks, and they are files"),
        (["{photos}", "--output", "{photos}/0.png"], "0.png is a file; the masks go into a folder"),
        (["{photos}", "--output", "{photos}"], "0.png is an image to predict; take another folder"),
        (["{photos}", "{photos}/0.png", "--output", "{out}"], "would both be written to"),
        (["{photos}", "--output", "{out}", "--topk", "2"], "--topk 2: the run predicts masks"),
        (["{photos}", "--output", "{out}", "--batch-size", "0"], "--batch-size 0: at least 1"),
    ],
)
def test_a_wrong_command_line_computes_nothing(
    run: Path, photos: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(run, *(text.format(photos=photos, out=out) for text in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1] and captured.out == ""
    assert not out.exists()


@pytest.mark.parametrize("other", ["0.jpg", "0_overlay.png"])
def test_two_files_of_one_place_are_refused(
    run: Path, photos: Path, tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0.png", other):
        (tmp_path / name).write_bytes((photos / "0.png").read_bytes())
    assert predict(run, tmp_path, "--output", tmp_path / "out", "--overlay") == 2
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_the_network_did_not_see_is_void_and_said_once(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = "data.eval_transforms=[{_target_: torchvision.transforms.v2.CenterCrop, size: 24}]"
    assert predict(run, photos, "--output", tmp_path, "--override", crop) == 0
    captured = capsys.readouterr()
    warned = [line for line in captured.err.splitlines() if "void" in line]
    assert warned == [
        "warning: the evaluation transforms cut 8 of 8 images; what the network didn't see is 255 (void) in their masks"
    ]
    assert {row["pixels[void]"] for row in rows(captured.out)} == {str(32 * 32 - 24 * 24)}
    mask = decode((tmp_path / "0.png").read_bytes())
    assert bool((mask[4:28, 4:28] != 255).all()) and int((mask == 255).sum()) == 32 * 32 - 24 * 24


def test_padding_is_no_part_of_a_mask(run: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(run, photos, "--output", tmp_path, "--override", f"data.eval_transforms=[{PAD}]") == 0
    for row in range(8):
        mask = decode((tmp_path / f"{row}.png").read_bytes())
        assert mask.shape == (32, 32) and int(mask.max()) < 6


def test_transforms_that_hide_where_pixels_went_are_a_row_with_the_reason(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pad = "data.eval_transforms=[{_target_: torchvision.transforms.v2.Pad, padding: 2, padding_mode: reflect}]"
    assert predict(run, photos / "0.png", "--output", tmp_path, "--override", pad) == 3
    (row,) = rows(capsys.readouterr().out)
    assert row["error"].startswith("is 32x32 pixels and 36x36 after the evaluation transforms, which don't say")


def test_a_network_that_takes_one_size_fails_on_others_alone(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Strict(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            if image.shape[-2:] != (32, 32):
                raise RuntimeError("Wrong input shape\nof something")
            return torch.zeros(len(image), 6, *image.shape[-2:])

    model = load_model(run)
    model.task.network = Strict()
    monkeypatch.setattr("calotype.commands._model.load_model", lambda *_, **__: model)
    (tmp_path / "0.png").write_bytes((photos / "0.png").read_bytes())
    Image.new("RGB", (40, 32)).save(tmp_path / "1.png")
    assert predict(run, tmp_path, "--output", tmp_path / "out") == 3
    first, second = rows(capsys.readouterr().out)
    assert first["error"] == "" and first["pixels[background]"] == "1024"
    assert second["error"].startswith(
        "the network fails on 3 x 32 x 40, and was trained on 3 x 32 x 32: Wrong input shape"
    )


def test_an_output_that_is_not_finite_is_an_error_row(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(run)
    nn.init.constant_(model.task.network.head.bias, float("nan"))
    monkeypatch.setattr("calotype.commands._model.load_model", lambda *_, **__: model)
    assert predict(run, photos / "0.png", "--output", tmp_path) == 3
    assert rows(capsys.readouterr().out)[0]["error"] == "the network's output is not finite"
    assert list(tmp_path.iterdir()) == []


def test_a_task_of_other_predictions_is_refused(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run)
    model.task.predicts = "poses"
    monkeypatch.setattr("calotype.commands._model.load_model", lambda *_, **__: model)
    with pytest.raises(UsageError, match="Segmentation predicts poses; files are predicted by logits or mask"):
        calotype.predict(run, photos)


def test_more_classes_than_bytes_hold_are_grey_levels_of_16_bits(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 255], [256, 40_000]])
    counts = _masks._write(Predicted("x", mask=mask), _masks.Place(tmp_path / "m.png", None))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode.startswith("I;16")
        assert np.asarray(image).tolist() == mask.tolist()
    assert decode(encode(mask.numpy().astype(np.uint16))).tolist() == mask.tolist()
    assert (counts[256], counts[40_000]) == (1, 1)


def test_a_full_disk_is_said_and_leaves_no_half_file(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0.png").mkdir()
    assert predict(run, photos / "0.png", "--output", tmp_path) == 1
    assert "0.png can't be written: Is a directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_nothing_is_written_outside_the_output(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where one input is the folder that another one leads out of."""
    here, other = tmp_path / "here", tmp_path / "other"
    for folder, name in ((here, "a"), (other, "x")):
        folder.mkdir()
        (folder / f"{name}.jpg").write_bytes((photos / "0.png").read_bytes())
    (other / "x.png").write_bytes(b"my ground truth")
    monkeypatch.chdir(here)
    assert predict(run, ".", "../other/x.jpg", "--output", "../out") == 0
    assert (other / "x.png").read_bytes() == b"my ground truth"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "x.png"]
