"""SSD300 on COCO by the command line of NVIDIA's reference, on Calotype.

    torchrun --nproc_per_node=8 examples/ssd300.py --warmup 300 --bs 64 --fp16 --data /coco/

Every flag of the reference is taken, of all its ages, and becomes an override of `experiment=ssd300_coco`, which
`--dry-run` prints. The batch is of all processes, `--bs` of each; the rate is `--lr` for 32 images. A mean AP below
`--target` ends with 1, as there.

What is not as there: losses and weights are the same on any number of processes of one batch; warm-up ends once;
`--data_pipeline dali` reads by the native pipeline; `--save` and `--checkpoint` are a folder for runs and a run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVALUATED = [3, 21, 31, 37, 42, 48, 53, 59, 64]
"""Epochs, counted from 0, after which it is evaluated."""
EVALUATES = ("paths.", "data.eval_batch_size", "data.workers")
"""What of the flags holds for an evaluation of a run too."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The reference's flags with its defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", "-d", required=True, help="folder of train2017, val2017 and annotations")
    add("--epochs", "-e", type=int, default=65)
    add("--batch-size", "--bs", "-b", type=int, default=32, help="images of each process")
    add("--eval-batch-size", "--ebs", type=int, default=32, help="likewise")
    add("--seed", "-s", type=int, default=0)
    add("--evaluation", nargs="*", type=int, default=EVALUATED, help="epochs, from 0, after which to evaluate")
    add("--multistep", nargs="*", type=int, default=[43, 54], help="epochs at which the rate falls to a tenth")
    add("--learning-rate", "--lr", type=float, default=2.6e-3, help="for 32 images")
    add("--momentum", "-m", type=float, default=0.9)
    add("--weight-decay", "--wd", type=float, default=5e-4)
    add("--warmup", type=int, help="iterations")
    add("--num-workers", type=int, default=4)
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", "--amp", action="store_true", help="mixed precision")
    precision.add_argument("--no-amp", dest="fp16", action="store_false")
    precision.add_argument("--fp16-mode", choices=["off", "static", "amp"])
    add("--local_rank", "--local-rank", type=int, default=0, help="not needed: torchrun sets LOCAL_RANK")
    add("--data_pipeline", choices=["dali", "no_dali"], default="dali", help="both read by the native pipeline")
    add("--backbone", choices=[f"resnet{depth}" for depth in (18, 34, 50, 101, 152)], default="resnet50")
    add("--backbone-path", help="a file of the backbone's weights; else torchvision's published ones")
    add("--no-backbone-weights", action="store_true", help="begin without published weights")
    add("--target", type=float, help="end with 1 below this mean AP")
    modes = ["training", "evaluation", "benchmark-training", "benchmark-inference"]
    add("--mode", choices=modes, default="training")
    add("--checkpoint", help="a run: to go on with, or to evaluate")
    add("--save", help="folder for runs")
    add("--allow-tf32", action=argparse.BooleanOptionalAction, default=True)
    add("--data-layout", choices=["channels_first", "channels_last"], default="channels_last")
    add("--log-interval", type=int, default=20)
    add("--json-summary", type=Path, help="a file for the results as JSON")
    add("--benchmark-iterations", type=int, default=20)
    add("--benchmark-warmup", type=int, default=20)
    add("--dry-run", action="store_true", help="print the overrides and end")
    add("overrides", nargs="*", help="key=value of Calotype's config, which come last")
    found = parser.parse_args(words)
    if found.mode in ("evaluation", "benchmark-inference") and not found.checkpoint:
        parser.error(f"--mode {found.mode} needs --checkpoint RUN")
    return found


def overrides(args: argparse.Namespace, processes: int) -> list[str]:
    """What the flags are in Calotype's config."""
    batch = args.batch_size * processes
    mixed = args.fp16_mode != "off" if args.fp16_mode else args.fp16
    found = {
        "seed": args.seed,
        "paths.data": quoted(args.data),
        "model": f"ssd300_{args.backbone}",
        "module.optimizer.lr": args.learning_rate * batch / 32,
        "module.optimizer.momentum": args.momentum,
        "module.optimizer.weight_decay": args.weight_decay,
        "module.lr_scheduler.milestones": f"[{','.join(f'{epoch}ep' for epoch in args.multistep)}]",
        "module.lr_warmup": "null" if args.warmup is None else f"{args.warmup}st",
        "data.batch_size": batch,
        "data.eval_batch_size": args.eval_batch_size,
        "data.workers": args.num_workers,
        "trainer.max_epochs": args.epochs,
        "trainer.val_epochs": [epoch for epoch in args.evaluation if epoch < args.epochs],
        "trainer.precision": "16-mixed" if mixed else 32,
        "trainer.channels_last": str(args.data_layout == "channels_last").lower(),
        "trainer.log_every_n_steps": args.log_interval,
        "module.weights": weights(args),
    }
    if args.save:
        found["paths.runs"] = quoted(args.save)
    if args.mode == "benchmark-training":
        steps = args.benchmark_warmup + args.benchmark_iterations
        found |= {"trainer.max_epochs": "null", "trainer.max_steps": steps, "trainer.val_epochs": []}
        log_every = math.gcd(args.benchmark_warmup, args.benchmark_iterations)
        found |= {"trainer.val_check_interval": "null", "trainer.log_every_n_steps": log_every}
    return ["experiment=ssd300_coco", *(f"{key}={value}" for key, value in found.items()), *args.overrides]


def quoted(text: str) -> str:
    """A text as an override's value, whatever it holds."""
    return text if re.fullmatch(r"[\w./@+-]+", text) else "'" + text.replace("'", "\\'") + "'"


def weights(args: argparse.Namespace) -> str:
    """Where the backbone's come from."""
    if args.no_backbone_weights:
        return "null"
    source = args.backbone_path or f"torchvision/ResNet{args.backbone.removeprefix('resnet')}_Weights.IMAGENET1K_V1"
    return f"{{source: {quoted(source)}, into: features.backbone}}"


def measured(args: argparse.Namespace, chosen: Sequence[str]) -> dict[str, Any]:
    """Do what the mode says: the results by name."""
    import calotype

    if args.mode in ("training", "benchmark-training"):
        if args.checkpoint:
            chosen = [text for text in chosen if text.startswith("paths.")]
        result = calotype.train(*chosen, resume=args.checkpoint)
        return {**result.metrics, "run": str(result.folder), "step": result.step}
    model = calotype.load(args.checkpoint, *(text for text in chosen if text.startswith(EVALUATES)), *args.overrides)
    for part, texts in model.changed.items():
        print(*(f"ssd300: {part} changed: {text}" for text in texts), sep="\n", file=sys.stderr)
    began = time.perf_counter()
    found = model.evaluate("val")
    return {**found.scalars(), "images_per_s": found.count / (time.perf_counter() - began)}


def speed(run: Path, warmup: int) -> float | None:
    """Images a second over all processes, after so many steps. Points of the run's log are equally far apart."""
    lines = [json.loads(line) for line in (run / "clock.jsonl").read_text().splitlines()]
    found = [line["time/images_per_s"] for line in lines if "time/images_per_s" in line and line["step"] > warmup]
    return statistics.harmonic_mean(found) if found else None


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 1 below the target."""
    args = arguments(words)
    if not args.allow_tf32:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # read by CUDA's libraries when torch loads them
    processes, first = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    chosen = overrides(args, processes)
    if args.dry_run:
        print("calotype train", shlex.join(chosen))
        return 0
    from calotype.errors import CalotypeError

    try:
        found = measured(args, chosen)
    except CalotypeError as error:
        print(f"ssd300: {error}", file=sys.stderr)
        return error.exit_code
    if not first:
        return 0
    if args.mode == "benchmark-training":
        found["images_per_s"] = speed(Path(found["run"]), args.benchmark_warmup)
    if args.json_summary:
        args.json_summary.write_text(json.dumps(found, indent=2) + "\n")
    accuracy = found.get("val/mAP")
    print(f"Total: {json.dumps({name: found[name] for name in ('val/mAP', 'images_per_s', 'run') if name in found})}")
    return 1 if args.target is not None and not (accuracy is not None and accuracy >= args.target) else 0


if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from calotype.cli import end

        end(code)
    sys.exit(code)
