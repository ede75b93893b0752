"""A run's trained network, from its record alone: the data that it was trained on need not be there.

What the data set would have said (class names, what an image is like) is in the record, the weights are in the
checkpoint. So a file of initial weights is not looked for either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calotype.commands._tracking import tracked
from calotype.errors import CheckpointError, UsageError
from calotype.record.folder import RunFolder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from calotype.commands._assemble import Data, Settings
    from calotype.engine.checkpoint import Checkpoint
    from calotype.types import Shard

Device = Literal["auto", "cpu", "cuda"]
PROBED = 8
"""Samples that are looked at to tell what an image is like; the checks of transforms read as many."""


def named_run(run: str | Path, checkpoint: str, runs: str | Path) -> tuple[RunFolder, str]:
    """The run and the name of its checkpoint that `run` stands for: a run folder, an id, "last", or the folder of a
    checkpoint, which is taken whatever `checkpoint` says; or `mlflow:ID`, a tracked run, which is fetched. Raises
    UsageError.
    """
    run = tracked(str(run), Path(runs)) or run
    path = Path(run)
    if (path / "manifest.json").is_file():
        run, checkpoint = path.resolve().parent.parent, path.resolve().name
    return RunFolder.find(run, runs), checkpoint


def chosen(folder: RunFolder, checkpoint: str) -> Checkpoint:
    """The checkpoint of that name; `best` is the last one where no best is kept. Raises CheckpointError."""
    from calotype.engine.checkpoint import Checkpoints

    found = Checkpoints(folder.checkpoints)
    if not found.names():
        raise CheckpointError(f"{folder.name} has no checkpoint: {folder.standing()}")
    return found.named("last" if checkpoint == "best" and not found.has_best() else checkpoint)


def take_weights(task: Any, checkpoint: Checkpoint) -> None:
    """Put the weights that a checkpoint is used with into a task, and the task into evaluation mode."""
    from calotype.engine.state import load_exact

    load_exact(task.network, checkpoint.model(), str(checkpoint.folder))
    task.load_state_dict(checkpoint.training()["task"], strict=False)
    task.eval()


@dataclass(frozen=True, slots=True)
class Image:
    """What images of a run are like: `channels` as stored; `shape` as the network gets them after the evaluation
    transforms, None where it differs from image to image; their `dtype`.
    """

    channels: int
    shape: tuple[int | None, ...]
    dtype: str

    @classmethod
    def of(cls, data: Data) -> Image:
        """Look at the first training samples, without augmentation."""
        source, reader = data.sources["train"], data.loader("train", 1).reader
        stored = source[0]["image"]
        images = [reader.sample(position, 0)[0]["image"] for position in range(min(PROBED, len(source)))]
        sizes = zip(*(image.shape for image in images), strict=True)
        shape = tuple(size[0] if len(set(size)) == 1 else None for size in sizes)
        return cls(int(stored.shape[-3]), shape, str(images[0].dtype).removeprefix("torch."))

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Image:
        """Read it from a record. Raises CheckpointError for one that doesn't have it."""
        try:
            found = record["input"]
            shape = tuple(None if size is None else int(size) for size in found["shape"])
            return cls(int(found["channels"]), shape, str(found["dtype"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the run's record.json doesn't say what its images are like ({error!r}); an older Calotype made it"
            ) from error

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an image of this shape is what the network was trained on."""
        return len(shape) == len(self.shape) and all(
            own in (None, other) for own, other in zip(self.shape, shape, strict=True)
        )

    def told(self) -> str:
        """The shape for people."""
        return " x ".join("any" if size is None else str(size) for size in self.shape)


@dataclass(slots=True)
class Model:
    """A trained network in evaluation mode on its device, and what its run says of it."""

    folder: RunFolder
    checkpoint: Checkpoint
    tree: dict[str, Any]
    settings: Settings
    task: Any
    classes: Sequence[str]
    image: Image
    device: torch.device

    @property
    def category_ids(self) -> Sequence[int]:
        """The numbers of the classes in files of boxes: the data set's own where it has some, else 1, 2, ..."""
        recorded: list[int] | None = self.folder.record().get("category_ids")
        return recorded or range(1, len(self.classes) + 1)

    @property
    def predicts(self) -> str:
        """The field of the task's predictions that files are predicted by."""
        return str(getattr(self.task, "predicts", "logits"))

    def predictions(self, shard: Shard) -> Mapping[str, Any]:
        """What the task predicts for a shard of images, on the device, in the run's precision. Raises UsageError for a
        task that asks for more than images.
        """
        import torch

        from calotype.engine.precision import Precision, affordable

        layout = torch.channels_last if self.settings.trainer.channels_last else None
        trainer = self.settings.trainer
        precision = Precision(affordable(trainer.precision, self.device, trainer.accelerator), self.device)
        with torch.no_grad(), precision.autocast():
            try:
                found: Mapping[str, Any] = self.task.predict(shard.to(self.device, layout)).fields
            except KeyError as error:
                raise UsageError(
                    f"{type(self.task).__name__}.predict needs {error} beside the image, which files don't have"
                ) from error
        return found

    def probabilities(self, shard: Shard) -> Tensor:
        """Class probabilities (n, C) of a shard of images, float32 on the CPU.

        A task that gives no "logits" is none that predictions can be written for: UsageError. `probabilities` of a
        task maps logits to them where that isn't softmax.
        """
        fields, kind = self.predictions(shard), type(self.task).__name__
        if "logits" not in fields:
            raise UsageError(f"{kind} predicts {', '.join(fields)}; only class logits can be written as predictions")
        of = getattr(self.task, "probabilities", None)
        logits = fields["logits"].float().cpu()
        found: Tensor = logits.softmax(1) if of is None else of(logits)
        return found


def load_model(
    run: str | Path,
    *overrides: str,
    checkpoint: str = "best",
    device: Device = "auto",
    runs: str | Path = "runs",
    trust: Collection[str] = (),
) -> Model:
    """A run's trained network. `device` "auto" is the one the run used where there is one, else the CPU.

    `run` and `checkpoint` are those of `load`. Raises UsageError, CheckpointError, RefusedError.
    """
    folder, name = named_run(run, checkpoint, runs)
    import torch

    from calotype.commands._assemble import Settings, build_task
    from calotype.commands._inputs import frozen, recorded_config
    from calotype.engine.device import set_up

    record = folder.record()
    image, classes = Image.recorded(record), [str(name) for name in record.get("classes", ())]
    config = recorded_config(folder, overrides, trust)
    settings = Settings.of(config.tree).begun()
    then = frozen(record)
    there = then.accelerator if device == "auto" else device
    if device == "auto" and not torch.cuda.is_available():
        there = "cpu"
    found = set_up(there, then.threads, then.deterministic)
    task, _ = build_task(settings, found, classes)
    taken = chosen(folder, name)
    take_weights(task, taken)
    return Model(folder, taken, config.tree, settings, task, classes, image, found)
