#!/usr/bin/env bash
# Checks on a machine with a CUDA device what the tests can only check on a CPU: precisions, compile, channels_last,
# strict determinism, exact resume, segmentation with the substitutes of what is not deterministic there, detection. Each
# case trains the digits, or drawn shapes, for two epochs, runs them again with a resume on the way, and must come to the
# same bits. One JSON line a case goes to $OUT/gpu_check.jsonl (benchmarks/results by default).
#
#     scripts/gpu_check.sh                  # CALOTYPE=path/to/calotype and ACCELERATOR=cpu are for trying the script
set -euo pipefail

calotype=${CALOTYPE:-.venv/bin/calotype}
accelerator=${ACCELERATOR:-cuda}
out=${OUT:-benchmarks/results}
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
mkdir -p "$out"
: > "$out/gpu_check.jsonl"
failed=0

experiment=digits

check() {
  local name=$1 verdict
  shift
  if "$calotype" train "experiment=$experiment" tracking=null "paths.runs=$runs" trainer.max_epochs=2 \
      "trainer.accelerator=$accelerator" "$@" > "$runs/log" 2>&1 \
      && verdict=$("$calotype" verify last --runs "$runs" --resume-at 7 --json 2>> "$runs/log"); then
    printf '{"case": "%s", "verdict": %s}\n' "$name" "$verdict" >> "$out/gpu_check.jsonl"
    echo "equal   $name"
  else
    printf '{"case": "%s", "verdict": null}\n' "$name" >> "$out/gpu_check.jsonl"
    echo "FAILED  $name"
    tail -n 3 "$runs/log"
    failed=1
  fi
}

check "32, exact" trainer.reduce=exact
check "32, exact, 4 shards" trainer.reduce=exact trainer.shards=4
check "32, fast, 4 shards" trainer.reduce=fast trainer.shards=4
check "fused optimizer" +module.optimizer.fused=true
check "bf16-mixed, channels_last, fused" trainer.precision=bf16-mixed trainer.channels_last=true +module.optimizer.fused=true
check "16-mixed with the loss scaler" trainer.precision=16-mixed
check "EMA and clipping" 'trainer.ema={decay: 0.99}' trainer.gradient_clip_val=1.0
check "compile" trainer.compile=true
check "loader workers" data.workers=2

experiment=shapes_segmentation
few='data.images=[128,16,16]'
check "segmentation, U-Net" "$few"
check "segmentation, several losses" "$few" 'module.loss={_target_: calotype.losses.Sum, terms: {ce: {_target_: torch.nn.CrossEntropyLoss}, dice: {_target_: calotype.losses.DiceLoss}}}'
check "segmentation, DeepLabV3, 16-mixed" "$few" model=deeplabv3_resnet101 module.network.aux_loss=true trainer.precision=16-mixed
check "segmentation, SegFormer, bf16-mixed" "$few" model=smp_segformer trainer.precision=bf16-mixed

experiment=shapes_detection
few='data.images=[128,16,16]'
check "detection, small SSD" "$few"
check "detection, SSD300, 16-mixed" "$few" model=ssd300_resnet18 trainer.precision=16-mixed data.size=300
check "detection, FCOS, bf16-mixed" "$few" model=fcos_resnet50_fpn trainer.precision=bf16-mixed
exit "$failed"
