"""`calotype export RUN`: a run's network as model.onnx, checked against the network itself before it is kept.

The file takes "image", float32 (n, C, H, W) in 0..1 as the run's evaluation transforms give it, and gives "logits"
(n, classes): scaling and normalisation are inside, so whoever uses it needs no figure of the config. Its metadata names
classes, normalisation, run and checkpoint. Unusual: it is compared in 32 bits, whatever precision the run trained in,
on stored samples of the run's own data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import calotype
from calotype.commands.status import add_run, runs_folder
from calotype.errors import CalotypeError, DataError, DiffersError, RunFolderError, UsageError
from calotype.files import replace_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from calotype.commands._model import Model
    from calotype.types import Shard

HELP = "Export a run's network to ONNX, checked against the network on samples of its data. Exits 5 if they differ."
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""The largest difference of a logit, in units of the largest logit or 1: some hundred times what float32 explains."""


@dataclass(frozen=True, slots=True)
class Onnx:
    """How the file is made: any batch size or 1 alone, the opset (None: the exporter's), and on how many samples it is
    compared; 0 for none, where the data is not at hand.
    """

    dynamic_batch: bool = True
    opset: int | None = None
    samples: int = 64


@dataclass(frozen=True, slots=True)
class Exported:
    """A file, its opset, and how it compared: samples, the largest difference of a logit, samples of another class."""

    path: Path
    opset: int
    samples: int
    difference: float
    other_class: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument(
        "--format", default="onnx", choices=("onnx",), help="a checkpoint's weights are safetensors as is"
    )
    parser.add_argument("--output", type=Path, default=Path("model.onnx"), metavar="FILE", help="by default model.onnx")
    parser.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, average, or a name")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--dynamic-batch", action="store_true", default=True, help="any number of images (default)")
    batch.add_argument("--static-batch", dest="dynamic_batch", action="store_false", help="one image at a time")
    parser.add_argument("--opset", type=int, metavar="N", help="by default the exporter's own")
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="compare on so many; 0 needs no data")
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0."""
    options = Onnx(args.dynamic_batch, args.opset, args.samples)
    found = export(
        args.run, args.output, options, checkpoint=args.checkpoint, runs=runs_folder(args.runs), trust=args.trust
    )
    told = {name: getattr(found, name) for name in ("opset", "samples", "difference", "other_class")}
    if args.json:
        sys.stdout.write(json.dumps({"path": str(found.path), **told}) + "\n")
    else:
        equal = f"equal classes on {found.samples} samples, logits within {found.difference:.2g}"
        sys.stdout.write(f"{found.path}: opset {found.opset}, {equal if found.samples else 'not compared'}\n")
    return 0


def export(
    run: str | Path,
    output: str | Path = "model.onnx",
    options: Onnx | None = None,
    *,
    checkpoint: str = "best",
    runs: str | Path = "runs",
    trust: Collection[str] = (),
) -> Exported:
    """Export a run's network to the file `output`, which is written only if it passes onnx.checker and agrees with the
    network. Source of the conversion: torch.onnx.

    Raises DiffersError when it doesn't agree, UsageError where the packages are not installed, the opset can't be had
    or the run predicts masks or boxes, DataError without the data, CalotypeError for a network that can't be converted.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UsageError(f"export needs {', '.join(missing)}; install them with pip install 'calotype[onnx]'")
    from calotype.commands._model import load_model

    options = options or Onnx()
    if options.samples < 0:
        raise UsageError(f"--samples {options.samples}: at least 0")
    model = load_model(run, "trainer.compile=false", checkpoint=checkpoint, device="cpu", runs=runs, trust=trust)
    if model.predicts != "logits":
        raise UsageError(
            f"{model.folder.name} can't be exported: {type(model.task).__name__} predicts {model.predicts}, and only "
            "networks that give class logits are exported; its weights are an ordinary safetensors file, "
            f"{model.checkpoint.folder / 'model.safetensors'}"
        )
    shard = _samples(model, options.samples)
    network = _network(model, shard)
    with tempfile.TemporaryDirectory(prefix="calotype-export-") as folder:
        path = Path(folder) / "model.onnx"
        opset = _convert(network, shard, model, options, path)
        difference, other = compare(path, network, shard, options) if options.samples else (0.0, 0)
        try:
            replace_file(Path(output), path.read_bytes())
        except OSError as error:
            raise RunFolderError(f"{output} can't be written: {error.strerror or error}") from error
    return Exported(Path(output), opset, len(shard) if options.samples else 0, difference, other)


def _samples(model: Model, count: int) -> Shard:
    """The first samples of the run's test split, or of the one it has instead; without data two images of noise."""
    import numpy as np
    import torch

    from calotype.commands._assemble import load_data
    from calotype.commands._inputs import frozen
    from calotype.types import Shard

    if count < 1:
        shape = [32 if size is None else size for size in model.image.shape]
        return Shard(np.arange(2), {"image": torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))})
    then = frozen(model.folder.record())
    try:
        data = load_data(model.settings, then.shards, then.skipped)
    except DataError as error:
        error.message += "; --samples 0 exports without comparing"
        raise
    split = next(name for name in ("test", "val", "train") if name in data.sources)
    loader, images = data.loader(split), list[Any]()
    for batch in loader.steps(0, loader.steps_per_epoch):
        images += [image for shard in batch for image in shard["image"]]
        if len(images) >= count:
            break
    same = [image for image in images[:count] if image.shape == images[0].shape]
    if not same:
        raise DataError(f"the {split} split is empty, so there is nothing to compare on; --samples 0 exports without")
    return Shard(np.arange(len(same)), {"image": torch.stack(same)})


def _network(model: Model, shard: Shard) -> nn.Module:
    """What is exported: float images in 0..1 to logits. It is run once, so that what a task keeps is there."""
    import numpy as np
    from torch import nn

    from calotype.types import Shard

    class Exportable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task: Any = model.task

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.task.predict(Shard(np.arange(1), {"image": image}))["logits"]
            return logits

    model.probabilities(Shard(shard.ids[:1], {"image": shard["image"][:1]}))
    return Exportable().eval()


def _unit(image: Tensor) -> Tensor:
    """Images as the file takes them."""
    import torch

    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _convert(network: nn.Module, shard: Shard, model: Model, options: Onnx, path: Path) -> int:
    """Write the network with its metadata; its opset."""
    import onnx
    import torch

    names = {0: "batch"} if options.dynamic_batch else {}
    names |= {axis + 1: f"size_{axis}" for axis, size in enumerate(model.image.shape) if size is None}
    example = _unit(shard["image"][:1])
    if options.dynamic_batch:
        example = torch.cat([example, example])  # an axis of one sample would be taken for a constant
    try:
        # what matters is compared afterwards
        with torch.no_grad(), warnings.catch_warnings(action="ignore"), _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=["logits"],
                opset_version=options.opset,
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in names.items()},),
                external_data=False,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("the exporter gave no program")
            proto = program.model_proto
        for name, value in _metadata(model).items():
            proto.metadata_props.add(key=name, value=value)
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise CalotypeError(f"the network can't be exported to ONNX: {type(error).__name__}: {reason}") from error
    opset = max(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if options.opset not in (None, opset):
        raise UsageError(f"--opset {options.opset}: this network can be exported with opset {opset}, not with that one")
    return opset


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context the exporter keeps what it tries, and fails at, to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _metadata(model: Model) -> dict[str, str]:
    normalize = model.tree["module"].get("normalize")
    several = hasattr(model.task, "probabilities")
    return {
        "classes": json.dumps(list(model.classes)),
        "input": "image: float32 in 0..1, NCHW, after the run's evaluation transforms",
        "normalization": json.dumps({"inside": True, "normalize": normalize}),
        "probabilities": "of the logits by sigmoid" if several else "of the logits by softmax",
        "run": model.folder.name,
        "checkpoint": model.checkpoint.folder.name,
        "config_digest": str(model.folder.record()["config_digest"]),
        "calotype": calotype.__version__,
    }


def compare(path: Path, network: nn.Module, shard: Shard, options: Onnx) -> tuple[float, int]:
    """The largest difference of a logit between the file and the network, and on how many samples the class differs.

    The network gets the images as they are stored, the file gets them as float. Raises DiffersError when a class
    differs, or a logit by more than TOLERANCE.
    """
    import torch

    images = shard["image"]
    with torch.no_grad():
        expected = network(images)
    pieces = [_unit(images)] if options.dynamic_batch else [*torch.split(_unit(images), 1)]
    found = torch.cat([torch.from_numpy(logits) for logits in outputs(path, pieces)])
    difference = float((found - expected).abs().max())
    other = int((found.argmax(1) != expected.argmax(1)).sum())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if other or not difference <= allowed:
        raise DiffersError(
            f"the exported network is not the run's: on {len(shard)} samples the class differs on {other}, logits by "
            f"up to {difference:.3g} ({allowed:.3g} allowed); nothing was written"
        )
    return difference, other


def outputs(path: Path, batches: Sequence[Tensor]) -> list[Any]:
    """What the file gives for batches of images, as NumPy arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return [session.run(["logits"], {"image": batch.numpy()})[0] for batch in batches]
