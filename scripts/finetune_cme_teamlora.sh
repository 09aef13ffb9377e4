#!/usr/bin/env bash
# Fine-tune a language model on CME, the text-only benchmark of the TeamLoRA paper: from environment to table.
#
# With nothing set, the embedded chain on a bare CPU machine, in minutes: made-up questions in the forms of the eleven
# tasks, the mix made of their training splits, the tiny language model of playground/tiny_text tuned on it, all eleven
# tasks evaluated beside the untuned base and the answer that most questions have.
#   bash scripts/finetune_cme_teamlora.sh
#   METHOD=lora bash scripts/finetune_cme_teamlora.sh      # a LoRA of equal trainable parameters
#   LIMIT=50 bash scripts/finetune_cme_teamlora.sh         # evaluated on 50 questions a task
#
# With DATA set, the real thing in the paper's setting: only feed-forward layers, r = 32 and k = 4, one epoch. DATA is what
# `llava-teamlora cme build` writes, or any JSON of {instruction, input, output}; see docs/text_only.md.
#   llava-teamlora cme build --out mix.jsonl
#   DATA=mix.jsonl MODEL=models/chinese-llama-2-7b EVAL=playground/data/eval bash scripts/finetune_cme_teamlora.sh
#   R=16 DATA=mix.jsonl MODEL=models/Llama-2-7b-hf bash scripts/finetune_cme_teamlora.sh
#   TEMPLATE=chat DATA=mix.jsonl MODEL=models/Qwen2.5-7B-Instruct bash scripts/finetune_cme_teamlora.sh
#
# Variables beside those below, where those about pictures (IMAGES, VISION_TOWER, PROJECTOR) have no place:
#   R             rank; of one expert where there are experts (the paper's: teamlora, moelora, hydralora 32, and 8, 16, 64
#                 for its Table 3; lora, adalora, moslora 128; with the embedded chain 8, the others at equal parameters)
#   K             experts (4)
#   TEMPLATE      cme, question and answer as in the authors' data code; chat, the model's own chat template (cme)
#   EVAL          folder of the eleven tasks' public files, all of them: evaluated after training (none: not evaluated)
#   LIMIT         questions a task (all)
# BATCH and GLOBAL_BATCH count packed rows of 1024 tokens (4 and 32; prompt_tuning cannot be packed: 16 and 128 records);
# several GPUs: ZERO=2, full fine-tuning 3, adalora 0. Alpha is 2 R an expert and R/2 without: an equal share of the update
# at equal parameters (who says --r instead of R says --alpha too). Alpha, rates and batches are ours: the paper's text
# names none. Equal parameters instead of the paper's ranks: --match_params teamlora:r=32,num_experts=4.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/llava.sh"
R=${R:-} K=${K:-} EVAL=${EVAL:-} LIMIT=${LIMIT:-}
prepare "$@"
TEMPLATE=${TEMPLATE:-cme}
DATA_FOLDER=playground/data/embedded-cme

refuse_out_of_place() {
  local name
  for name in R K LIMIT; do
    [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || refuse "$name=${!name} is no whole number above 0"
  done
  for name in IMAGES VISION_TOWER PROJECTOR; do
    [[ -z ${!name} ]] || refuse "$name=${!name}: CME is text alone; scripts/finetune_teamlora.sh trains on pictures"
  done
  [[ -n $DATA || -z $MODEL$EVAL ]] || refuse "MODEL or EVAL is set, so DATA (what llava-teamlora cme build writes) is needed too"
  [[ -z $DATA || -n $EVAL || -z $LIMIT ]] || refuse "LIMIT is of evaluation, which needs EVAL, the folder of the tasks' files"
  [[ -z $EVAL || -d $EVAL ]] || refuse "EVAL=$EVAL: no such folder"
  case $METHOD in
    teamlora | moelora | hydralora) ;;
    lora | adalora | moslora) [[ -z $K ]] || refuse "K=$K is a number of experts, of which METHOD=$METHOD has none" ;;
    *) [[ -z $R$K ]] || refuse "R and K are of methods with a rank, which METHOD=$METHOD is not" ;;
  esac
  [[ -z $RANK_SAID || -z $R ]] || refuse "R=$R and --r or --match_params both name a rank; drop one of them"
}

# METHOD with the paper's rank, or R and K, into METHOD_FLAGS.
choose_rank() {
  local rank
  METHOD_FLAGS=(--method "$METHOD" --seed "$SEED")
  case $METHOD in
    teamlora | moelora | hydralora)
      rank=${R:-32}
      [[ -n $RANK_SAID ]] || METHOD_FLAGS+=(--r "$rank" --alpha "$((2 * rank))")
      METHOD_FLAGS+=(--num_experts "${K:-4}")
      ;;
    lora | adalora | moslora)
      rank=${R:-128}
      [[ -n $RANK_SAID ]] || METHOD_FLAGS+=(--r "$rank" --alpha "$(((rank + 1) / 2))")
      ;;
  esac
}

# How rows are filled, into FEEDING.
choose_feeding() {
  FEEDING=(--packing True)
  # Its virtual tokens stand in front of a row, so that only the first sample in it would see them.
  [[ $METHOD != prompt_tuning ]] || FEEDING=(--packing False --group_by_length True)
}

# Ask all eleven tasks; on several GPUs by one process each.
evaluate() {
  local command=(llava-teamlora)
  ((GPUS == 1)) || command=(torchrun --standalone --nproc_per_node "$GPUS" -m -- llava_teamlora.cli)
  "${command[@]}" evaluate run cme "$@"
}

embedded() {
  cd "$ROOT"
  local number=2 mix=$DATA_FOLDER/mix.jsonl evaluation=(--data_root "$DATA_FOLDER/eval" --batch_size 128)
  if [[ -z $OUT ]]; then # the next free folder; one whose chain was interrupted is gone on with
    OUT=runs/cme-$METHOD
    while [[ -f $OUT/summary.json ]]; do OUT=runs/cme-$METHOD-$((number++)); done
  fi
  [[ -z $LIMIT ]] || evaluation+=(--limit "$LIMIT")
  if [[ -z $SHOW ]]; then
    python scripts/cme_data.py --out "$DATA_FOLDER"
    llava-teamlora cme build --data_root "$DATA_FOLDER/train" --eval_root "$DATA_FOLDER/eval" --out "$mix" --overwrite \
      --only tldr imdb anli qqp rte winogrande arc webqa nq triviaqa mmlu
  fi
  [[ -z $BATCH ]] || FEEDING+=(--per_device_train_batch_size "$BATCH")
  launch --config scripts/cme.yaml --data_path "$mix" --version "$TEMPLATE" --output_dir "$OUT" "${METHOD_FLAGS[@]}" \
    "${FEEDING[@]}" "$@"
  [[ -z $STOPS ]] || return 0
  evaluate --model "${BASE:-playground/tiny_text}" --version "$TEMPLATE" --out "$OUT/evaluation/untuned" "${evaluation[@]}"
  evaluate --model "$OUT" "${evaluation[@]}"
  python scripts/cme_summary.py "$OUT" --total_seconds "$SECONDS"
}

real() {
  local rate=2e-4 evaluation=(--data_root "$EVAL")
  case $METHOD in full) rate=2e-5 ;; ia3) rate=3e-3 ;; prompt_tuning) rate=3e-2 ;; esac
  [[ -z $LIMIT ]] || evaluation+=(--limit "$LIMIT")
  if [[ -z $STOPS && -n $EVAL ]] && ((NODE_RANK == 0)); then # before a day of training
    llava-teamlora evaluate check cme --data_root "$EVAL" || refuse "EVAL=$EVAL: not complete, so nothing is trained"
  fi
  choose_flags
  launch "${FLAGS[@]}" --version "$TEMPLATE" --model_max_length 1024 "${FEEDING[@]}" --learning_rate "$rate" "$@"
  [[ -z $STOPS ]] && ((NODE_RANK == 0)) || return 0
  [[ -z $EVAL ]] || evaluate --model "$OUT" "${evaluation[@]}"
  python "$ROOT/scripts/cme_summary.py" "$OUT" --total_seconds "$SECONDS"
}

refuse_out_of_place
choose_feeding
if [[ -z $DATA ]]; then
  if [[ -n $R$K ]]; then R=${R:-8} && choose_rank; else choose_method; fi
  GPUS=${GPUS:-1}
  choose_machine 0 cme
  embedded "$@"
else
  MODEL=${MODEL:-hfl/chinese-llama-2-7b} # the nearest to the paper's, which is not public: Llama 2 with Chinese
  OUT=${OUT:-$PWD/runs/${MODEL##*/}-cme-$METHOD}
  choose_rank
  stage=2
  [[ $METHOD != full ]] || stage=3
  [[ $METHOD != adalora ]] || stage=0 # reads whole gradients, which DeepSpeed does not give
  choose_machine "$stage" cme
  if [[ $METHOD == prompt_tuning ]]; then choose_batch 16 128; else choose_batch 4 32; fi
  real "$@"
fi
