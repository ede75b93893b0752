"""Configs of the toy tasks: shuffled, augmented, with dropout, batch norm, EMA and clipping on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TASKS = {"classification": "label", "segmentation": "mask", "detection": "boxes"}

DATA = [*TASKS, "photos"]
"""What the promises of exactness are kept on: the toys, and a folder of photos."""

_NESTEROV = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True}
_FUSED = {"_target_": "torch.optim.AdamW", "lr": 0.01, "fused": True}
_ONE_CYCLE = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1}
_PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0, "factor": 0.5}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"trainer": {"shards": 1, "ema": None}, "data": {"workers": 2}},
    "scaler": {"trainer": {"precision": "16-mixed"}, "data": {"workers": 2}},
    "bf16": {
        "trainer": {"precision": "bf16-mixed", "ema": None},
        "module": {"optimizer": _NESTEROV, "lr_scheduler": _ONE_CYCLE, "lr_warmup": None},
    },
    "fused": {
        "trainer": {"channels_last": True, "shards": 1},
        "module": {"optimizer": _FUSED},
        "data": {"workers": 2},
    },
    "fused_scaler": {"trainer": {"channels_last": True, "precision": "16-mixed"}, "module": {"optimizer": _FUSED}},
    "plateau": {
        "trainer": {"max_epochs": 6, "early_stopping": {"patience": 1, "min_delta": 0.02}},
        "module": {"optimizer": _NESTEROV, "lr_scheduler": _PLATEAU, "lr_interval": "epoch"},
    },
}
"""What the random kills are spread over; the toy as it stands has 4 shards, EMA, clipping, precision 32, cosine."""


def _segmentation() -> dict[str, Any]:
    """The real task with all that it has: void, class weights, three losses, an auxiliary head, smaller logits."""
    losses = {
        "ce": {"_target_": "calotype.losses.CrossEntropyLoss", "weight": [0.7, 1.3, 2.1]},
        "dice": {"_target_": "calotype.losses.DiceLoss"},
        "hard": {"_target_": "calotype.losses.OHEMCrossEntropyLoss", "threshold": 0.5, "kept": 0.2},
    }
    return {
        "_target_": "calotype.tasks.segmentation.Segmentation",
        "network": {"_target_": "tests.toys.segmentation.TwoHeads", "num_classes": None},
        "loss": {"_target_": "calotype.losses.Sum", "terms": losses, "weights": {"dice": 0.5}, "aux": 0.3},
        "normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
        "monitor": "val/mIoU",
    }


def _detection() -> dict[str, Any]:
    """The real task: default boxes, hard negatives, images without boxes, suppression, average precision."""
    return {
        "_target_": "calotype.tasks.detection.Detection",
        "network": {"_target_": "tests.toys.detection.ToySSD", "num_classes": None},
        "normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
        "monitor": "val/mAP",
    }


def toy(task: str, root: Path, runs: Path, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """The config tree of a toy task; `sections` are merged over it (trainer={...}, data={...}, ...)."""
    flip = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip"}
    tree: dict[str, Any] = {
        "seed": 3,
        "experiment": f"toy_{task}",
        "module": {
            "_target_": f"tests.toys.{task}.Toy{task.capitalize()}",
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01},
            "param_groups": [{"pattern": "1d", "weight_decay": 0.0}],
            "lr_scheduler": {"_target_": "calotype.engine.schedule.Cosine"},
            "lr_interval": "step",
            "lr_warmup": 3,
        },
        "data": {
            "_target_": "tests.toys.parity.Parity",
            "root": "${paths.data}",
            "target": TASKS[task],
            "batch_size": 8,
            "eval_batch_size": 4,
            "workers": 0,
            "train_transforms": [flip, {"_target_": "tests.toys.parity.Jitter"}],
            "batch_transforms": [{"_target_": "tests.toys.parity.make_mixup"}],
        },
        "trainer": {
            "max_epochs": 3,
            "shards": 4,
            "threads": 1,
            "accelerator": "cpu",
            "ema": {"decay": 0.9},
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 2,
        },
        "checkpoint": {"every": "2st", "keep_last": 2},
        "tracking": {},
        "paths": {"data": str(root), "runs": str(runs)},
    }
    if task == "segmentation":
        tree["module"] |= _segmentation()
        tree["data"]["train_transforms"] += [
            {"_target_": "calotype.data.transforms.RandomScaleCrop", "size": 12, "scale": [0.6, 1.6], "pad_to": 14},
            {"_target_": "calotype.data.transforms.RandomBlur"},
        ]
    if task == "detection":
        tree["module"] |= _detection()
        tree["data"]["train_transforms"] += [
            {"_target_": "calotype.data.box_transforms.Mosaic", "size": 20, "p": 0.4},
            {"_target_": "calotype.data.box_transforms.SSDCrop"},
            {"_target_": "torchvision.transforms.v2.Resize", "size": [16, 16]},
        ]
    for name, values in sections.items():
        tree[name] = {**tree[name], **values}
    return tree


def config(data: str, root: Path, runs: Path, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """The config tree of a toy task on its parity data, or of the "photos"."""
    return photos(root, runs, **sections) if data == "photos" else toy(data, root, runs, **sections)


def write(tree: dict[str, Any], path: Path) -> str:
    """The tree as a YAML file; its path."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


def photos(root: Path, runs: Path, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """The toy classification on a folder of photos in several sizes and formats, augmented by torchvision alone."""
    v2 = "torchvision.transforms.v2"
    own = {name: values for name, values in sections.items() if name != "data"}
    tree = toy("classification", root, runs, **own)
    size = [16, 16]
    tree["data"] = {
        "_target_": "calotype.data.folder.ImageFolder",
        "root": "${paths.data}",
        "batch_size": 8,
        "eval_batch_size": 4,
        "workers": 0,
        "train_transforms": [
            {"_target_": f"{v2}.RandomResizedCrop", "size": size},
            {"_target_": f"{v2}.RandAugment"},
            {"_target_": f"{v2}.RandomErasing", "p": 0.5},
        ],
        "eval_transforms": [{"_target_": f"{v2}.Resize", "size": size}],
        "batch_transforms": [{"_target_": "tests.toys.parity.make_mixup"}],
        **sections.get("data", {}),
    }
    return tree
