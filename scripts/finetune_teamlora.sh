#!/usr/bin/env bash
# Fine-tune a LLaVA with TeamLoRA: from environment to table.
#
# With nothing set, the embedded chain on a bare CPU machine: the tiny LLaVA of playground/tiny, tuned on the public
# easy-VQA data set, evaluated on its whole test split beside the untuned base.
#   bash scripts/finetune_teamlora.sh
#   METHOD=lora bash scripts/finetune_teamlora.sh          # a LoRA of equal trainable parameters
#   LIMIT=100 bash scripts/finetune_teamlora.sh            # evaluated on 100 questions
#
# With DATA set, the real thing, LLaVA-1.5-7B with its hyperparameters unless MODEL and others say otherwise:
#   DATA=llava_v1_5_mix665k.json IMAGES=playground/data PROJECTOR=runs/vicuna-7b-v1.5-projector/mm_projector.bin \
#   bash scripts/finetune_teamlora.sh
# The scripts named after other methods and finetune.sh (full fine-tuning) set METHOD and call this one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/llava.sh"
prepare "$@"
LIMIT=${LIMIT:-}

embedded() {
  cd "$ROOT"
  local data=playground/data/easy-vqa number=2 limit=(--batch_size 128)
  if [[ -z $OUT ]]; then # the next free folder; one whose chain was interrupted is gone on with
    OUT=runs/easy-vqa-$METHOD
    while [[ -f $OUT/summary.json ]]; do OUT=runs/easy-vqa-$METHOD-$((number++)); done
  fi
  [[ -z $LIMIT ]] || limit+=(--limit "$LIMIT")
  [[ -n $SHOW ]] || python scripts/easy_vqa_data.py --out "$data" --replay playground/tiny/replay.json --seed 0
  launch --config scripts/easy_vqa.yaml --image_folder "$(python scripts/easy_vqa_data.py --print_image_folder)" \
    --per_device_train_batch_size "${BATCH:-16}" --output_dir "$OUT" "${METHOD_FLAGS[@]}" "$@"
  [[ -z $STOPS ]] || return 0
  llava-teamlora evaluate run easy_vqa --model "${BASE:-playground/tiny}" --out "$OUT/evaluation/untuned" "${limit[@]}"
  llava-teamlora evaluate run easy_vqa --model "$OUT" --out "$OUT/evaluation/easy_vqa" "${limit[@]}"
  python scripts/finetune_summary.py "$OUT" --scores "$OUT/evaluation/easy_vqa/scores.json" \
    --untuned "$OUT/evaluation/untuned/scores.json" --total_seconds "$SECONDS"
}

real() {
  local rates=(--learning_rate 2e-4 --mm_projector_lr 2e-5)
  case $METHOD in full | projector) rates=(--learning_rate 2e-5) ;; esac
  train_llava --version v1 --image_aspect_ratio pad --group_by_modality_length True "${rates[@]}" "$@"
}

choose_method
if [[ -z $MODEL$DATA$IMAGES$VISION_TOWER$PROJECTOR ]]; then
  GPUS=${GPUS:-1}
  choose_machine 0
  embedded "$@"
else
  [[ -z $LIMIT ]] || refuse "LIMIT is for the embedded chain; with DATA nothing is evaluated"
  choose_model
  [[ -z $VISION_TOWER || -n $PROJECTOR ]] || refuse \
    "PROJECTOR is not set: $MODEL needs a mm_projector.bin (scripts/pretrain.sh trains one; PROJECTOR=none goes without)"
  choose_machine 3
  choose_batch 16 128
  real "$@"
fi
