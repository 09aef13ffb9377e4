#!/usr/bin/env bash
# Fine-tune a LLaVA with TeamLoRA: from environment to table.
#
# With nothing set, the embedded chain on a bare CPU machine: the tiny LLaVA of playground/tiny, tuned on the public
# easy-VQA data set, evaluated on its whole test split beside the untuned base.
#   bash scripts/finetune_teamlora.sh
#   METHOD=lora bash scripts/finetune_teamlora.sh          # a LoRA of equal trainable parameters
#
# With MODEL and DATA set, the real thing, LLaVA-1.5's hyperparameters as defaults:
#   MODEL=lmsys/vicuna-7b-v1.5 VISION_TOWER=openai/clip-vit-large-patch14-336 DATA=llava_v1_5_mix665k.json \
#   IMAGES=playground/data OUT=runs/llava-1.5-7b-teamlora GPUS=8 LAUNCHER=deepspeed bash scripts/finetune_teamlora.sh
#
#   MODEL         a LLaVA in transformers' layout, or a language model (then with VISION_TOWER)
#   PROJECTOR     pre-trained mm_projector.bin for a language model
#   DATA, IMAGES  LLaVA JSON and the folder its picture paths are relative to
#   OUT           run folder                           SEED      (0)
#   GPUS          processes; 0 or 1 is one (default 1)
#   METHOD        teamlora (default), moelora, hydralora, moslora, lora, adalora: at equal parameters; ia3, prompt_tuning,
#                 projector, full: as they are (docs/methods.md)
#   LAUNCHER      torchrun, deepspeed or python (default: torchrun for several processes, else python)
#   BATCH         samples per process and step (16)    PYTHON    interpreter to make the environment with
#   LIMIT         embedded chain: questions to evaluate on (all)
#
# Every further argument goes to `llava-teamlora train` and wins over what is set here. An interrupted run goes on when
# the same command is given again. The last line printed is one JSON object.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
  exit
fi

METHOD=${METHOD:-teamlora}
MODEL=${MODEL:-}
VISION_TOWER=${VISION_TOWER:-}
PROJECTOR=${PROJECTOR:-}
DATA=${DATA:-}
IMAGES=${IMAGES:-}
OUT=${OUT:-}
GPUS=${GPUS:-1}
SEED=${SEED:-0}
BATCH=${BATCH:-16}
LIMIT=${LIMIT:-}
LAUNCHER=${LAUNCHER:-$( ((GPUS > 1)) && echo torchrun || echo python)}

refuse() {
  echo "error: $1 (bash scripts/finetune_teamlora.sh --help)" >&2
  exit 1
}

# Further arguments win; these decide what is done here too.
base=playground/tiny dry_run="" rank_said="" previous=""
for word in "$@"; do
  case $previous in
    --output_dir) OUT=$word ;;
    --method) METHOD=$word ;;
    --model_name_or_path) base=$word ;;
    --dry_run) [[ $word != [Tt]rue ]] || dry_run=1 ;;
  esac
  previous=${word//-/_} previous=--${previous#__} # both spellings of a flag
  case ${previous%%=*} in
    --r | --match_params) rank_said=1 ;;
    --output_dir | --method | --model_name_or_path | --dry_run)
      [[ $previous != *=* ]] || refuse "write ${word%%=*} VALUE, not ${word%%=*}=VALUE"
      ;;
  esac
done
[[ -z $OUT || $OUT == /* ]] || OUT=$PWD/$OUT

if [[ -n $MODEL ]]; then
  [[ -n $DATA ]] || refuse "MODEL is set, so DATA (a LLaVA JSON) is needed too"
  [[ -n $OUT ]] || refuse "MODEL is set, so OUT (the run folder) is needed too"
  [[ -z $LIMIT ]] || refuse "LIMIT is for the embedded chain; with MODEL nothing is evaluated"
else
  for name in DATA IMAGES VISION_TOWER PROJECTOR; do
    [[ -z ${!name} ]] || refuse "$name is set but MODEL is not; the embedded chain has its own model and data"
  done
fi
case $LAUNCHER in python | torchrun | deepspeed) ;; *) refuse "LAUNCHER=$LAUNCHER is not torchrun, deepspeed or python" ;; esac
# One process uses one GPU.
if ((GPUS <= 1)); then GPUS=1; export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}; fi

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment "$([[ $LAUNCHER != deepspeed ]] || echo train)"
SECONDS=0 # what follows is counted; the installation is not
export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

method=(--method "$METHOD" --seed "$SEED")
case $METHOD in
  teamlora | ia3 | prompt_tuning | projector | full) ;;  # the measure of the others; methods without a rank
  *) [[ -n $rank_said ]] || method+=(--match_params teamlora:r=8,num_experts=4) ;;
esac

launch() {
  case $LAUNCHER in
    python) llava-teamlora train "$@" ;;
    torchrun) torchrun --standalone --nproc_per_node "$GPUS" -m llava_teamlora.cli train "$@" ;;
    deepspeed)
      deepspeed --num_gpus "$GPUS" --no_local_rank --module llava_teamlora.cli train \
        --deepspeed "$ROOT/scripts/zero3.json" "$@"
      ;;
  esac
}

embedded() {
  cd "$ROOT"
  local data=playground/data/easy-vqa number=2 limit=(--batch_size 128)
  if [[ -z $OUT ]]; then # the next free folder; one whose chain was interrupted is gone on with
    OUT=runs/easy-vqa-$METHOD
    while [[ -f $OUT/summary.json ]]; do OUT=runs/easy-vqa-$METHOD-$((number++)); done
  fi
  [[ -z $LIMIT ]] || limit+=(--limit "$LIMIT")
  python scripts/easy_vqa_data.py --out "$data" --replay playground/tiny/replay.json --seed 0
  launch --config scripts/easy_vqa.yaml --image_folder "$(python scripts/easy_vqa_data.py --print_image_folder)" \
    --per_device_train_batch_size "$BATCH" --output_dir "$OUT" "${method[@]}" "$@"
  [[ -z $dry_run ]] || return 0
  llava-teamlora evaluate run easy_vqa --model "$base" --out "$OUT/evaluation/untuned" "${limit[@]}"
  llava-teamlora evaluate run easy_vqa --model "$OUT" --out "$OUT/evaluation/easy_vqa" "${limit[@]}"
  python scripts/finetune_summary.py "$OUT" --scores "$OUT/evaluation/easy_vqa/scores.json" \
    --untuned "$OUT/evaluation/untuned/scores.json" --total_seconds "$SECONDS"
}

real() {
  local flags=(
    --model_name_or_path "$MODEL" --data_path "$DATA" --output_dir "$OUT" "${method[@]}"
    --version v1 --image_aspect_ratio pad --group_by_modality_length True --model_max_length 2048
    --num_train_epochs 1 --per_device_train_batch_size "$BATCH" --gradient_accumulation_steps 1
    --learning_rate 2e-4 --mm_projector_lr 2e-5 --weight_decay 0 --warmup_steps 0.03 --lr_scheduler_type cosine
    --gradient_checkpointing True --logging_steps 1 --save_steps 500 --save_total_limit 1
  )
  [[ -z $VISION_TOWER ]] || flags+=(--vision_tower "$VISION_TOWER")
  [[ -z $PROJECTOR ]] || flags+=(--pretrain_mm_mlp_adapter "$PROJECTOR")
  [[ -z $IMAGES ]] || flags+=(--image_folder "$IMAGES")
  if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    flags+=(--bf16 True --tf32 True --dataloader_num_workers 4)
  fi
  launch "${flags[@]}" "$@"
  [[ -z $dry_run ]] || return 0
  python "$ROOT/scripts/finetune_summary.py" "$OUT" --total_seconds "$SECONDS"
}

if [[ -z $MODEL ]]; then embedded "$@"; else real "$@"; fi
