"""Configs of the toy tasks: shuffled, augmented, with dropout, batch norm, EMA and clipping on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TASKS = {"classification": "label", "segmentation": "mask", "detection": "boxes"}


def toy(task: str, data: Path, runs: Path, **sections: dict[str, Any]) -> dict[str, Any]:
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
            "ema": {"decay": 0.9},
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 2,
        },
        "checkpoint": {"every": "2st", "keep_last": 2},
        "tracking": {},
        "paths": {"data": str(data), "runs": str(runs)},
    }
    for name, values in sections.items():
        tree[name] = {**tree[name], **values}
    return tree


def write(tree: dict[str, Any], path: Path) -> str:
    """The tree as a YAML file; its path."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)
