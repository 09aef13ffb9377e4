#!/usr/bin/env bash
# Sourced by eval/*.sh: a model answers benchmarks, and the answers are scored or made ready for a server or a judge.
#
# Variables, all optional. Without MODEL and ENDPOINT the embedded model (playground/tiny; playground/tiny_text for text)
# answers the few made-up questions of eval/fixtures: that shows that everything runs, and the figures are no scores of
# anything.
#   MODEL         a run folder, one of its checkpoints, or a LLaVA in transformers' or in LLaVA's own layout
#   MODEL_BASE    what an original LLaVA's LoRA lies on; where a run's base lies now
#   TEMPLATE      conversation template of an untuned base: v1 (the default), cme, chat …; a run names its own
#   ENDPOINT      URL of an OpenAI-compatible server that answers instead; MODEL is then the name of the model it serves
#   DATA_ROOT     folder of benchmarks (LLaVA's playground/data/eval); eval/README.md says what lies where
#   OUT           folder that gets one folder a benchmark (MODEL/evaluation for a run, else runs/base-evaluation/NAME)
#   GPUS          processes on this machine, each with its share of the questions (all visible GPUs, or one on the CPU)
#   BATCH         questions at once
#   MODE          fast, or paper: one question at a time, as LLaVA's scripts ask
#   LIMIT         only the first so many questions; the scores are then named partial
#   SHOW          1 prints the commands and stops; with GPUS, those of a machine which has them
#   PYTHON        interpreter to make the environment with
#
# Every further argument goes to `llava-teamlora evaluate run` and wins over what is set here. An interrupted run goes on
# when the same command is given again.

source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"
COMMON=${BASH_SOURCE[0]}
TOY_MODEL=${TOY_MODEL:-playground/tiny} TOY_TEMPLATE=${TOY_TEMPLATE:-}
NO_SCORES="== $TOY_MODEL over eval/fixtures: a toy and made-up questions; the figures are no scores of anything =="

# Answer --help; read the variables; choose the embedded model and data where nothing is set.
prepare() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    _head "$SCRIPT"
    echo
    _head "$COMMON" | sed 1,2d
    exit
  fi
  MODEL=${MODEL:-} MODEL_BASE=${MODEL_BASE:-} TEMPLATE=${TEMPLATE:-} ENDPOINT=${ENDPOINT:-} DATA_ROOT=${DATA_ROOT:-} OUT=${OUT:-}
  GPUS=${GPUS:-} BATCH=${BATCH:-} MODE=${MODE:-} LIMIT=${LIMIT:-} SHOW=${SHOW:-}
  local name
  for name in GPUS BATCH LIMIT; do
    [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || refuse "$name=${!name} is no whole number above 0"
  done
  [[ $MODE =~ ^(|fast|paper)$ ]] || refuse "MODE=$MODE is neither fast nor paper"
  for name in MODEL_BASE TEMPLATE; do
    [[ -z ${!name} || -n $MODEL ]] || refuse "$name is set, so MODEL is needed too"
  done
  [[ -z $TEMPLATE || -z $ENDPOINT ]] || refuse "TEMPLATE=$TEMPLATE: with ENDPOINT the server puts the prompt together"
  _further "$@"
  if [[ -z $MODEL$ENDPOINT ]]; then
    [[ -z $DATA_ROOT ]] || refuse "DATA_ROOT is set, so MODEL (or ENDPOINT) is needed too"
    [[ -z $OUT || $OUT == /* ]] || OUT=$PWD/$OUT
    cd "$ROOT"
    MODEL=$TOY_MODEL TEMPLATE=$TOY_TEMPLATE DATA_ROOT=eval/fixtures OUT=${OUT:-runs/eval-fixtures}
    EMBEDDED=1
  fi
  [[ -z $DATA_ROOT || -d $DATA_ROOT || -n $SHOW ]] || refuse "DATA_ROOT=$DATA_ROOT: no such folder"
  [[ -n $OUT ]] || _choose_out
}

# Further arguments win; these decide what is done here too.
_further() {
  local word previous=""
  EMBEDDED="" OUT_SAID=""
  for word in "$@"; do
    case $previous in
      --out) OUT=$word OUT_SAID=$word ;;
      --data_root) DATA_ROOT=$word ;;
      --model) MODEL=$word ;;
      --endpoint) ENDPOINT=$word ;;
    esac
    previous=${word//-/_} previous=--${previous#__} # both spellings of a flag
    case ${previous%%=*} in
      --out | --data_root | --model | --endpoint)
        [[ $previous != *=* ]] || refuse "write ${word%%=*} VALUE, not ${word%%=*}=VALUE"
        ;;
    esac
  done
}

# Beside a run; never inside a base, which may be shared or committed.
_choose_out() {
  local name=${MODEL%/}
  OUT=runs/base-evaluation/${name##*/}
  if [[ -n $ENDPOINT ]]; then
    name=${name:-served}
    OUT=runs/endpoint-evaluation/${name##*/}
  elif [[ -f $MODEL/run.yaml ]]; then
    OUT=$name/evaluation
  fi
}

# Install what is missing, then settle the number of processes.
choose_machine() {
  if [[ -z $SHOW ]]; then
    ensure_environment ${ENDPOINT:+eval}
    [[ -z ${EXTRA:-} ]] || ensure_environment "$EXTRA"
    export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
  fi
  if [[ -z $GPUS && -z $EMBEDDED$ENDPOINT$SHOW ]]; then
    GPUS=$(visible_gpus)
    ((GPUS > 0)) || GPUS=1
  fi
  GPUS=${GPUS:-1}
  [[ -z $ENDPOINT ]] || ((GPUS == 1)) || refuse "GPUS=$GPUS: with ENDPOINT nothing runs on this machine's GPUs"
  [[ -z $EMBEDDED ]] || echo "$NO_SCORES" >&2
}

# Run a command; SHOW=1 prints it instead.
call() {
  if [[ -n $SHOW ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Whether all files of a benchmark are there; else says which are not, and where to get them.
check() {
  call llava-teamlora evaluate check "$@" ${DATA_ROOT:+--data_root "$DATA_ROOT"}
}

# Answer and score these benchmarks ($1, split at spaces) into the folder $2, with one loading of the model.
run() {
  local names command=(llava-teamlora) flags=(${DATA_ROOT:+--data_root "$DATA_ROOT"} --out "$2")
  read -ra names <<<"$1"
  if ((GPUS > 1)); then
    command=(torchrun --nproc_per_node "$GPUS" --standalone -m -- llava_teamlora.cli)
    # torchrun ends in a traceback of its own; what is of use comes last.
    trap 'echo "interrupted; the answers so far are kept, the same command goes on" >&2; exit 130' INT
  fi
  if [[ -n $ENDPOINT ]]; then
    flags+=(--endpoint "$ENDPOINT")
    [[ -z $MODEL ]] || flags+=(--endpoint_model "$MODEL")
  else
    flags+=(--model "$MODEL")
    [[ -z $MODEL_BASE ]] || flags+=(--model_base "$MODEL_BASE")
    [[ -z $TEMPLATE ]] || flags+=(--version "$TEMPLATE")
  fi
  [[ -z $BATCH ]] || flags+=(--batch_size "$BATCH")
  [[ -z $MODE ]] || flags+=(--mode "$MODE")
  [[ -z $LIMIT ]] || flags+=(--limit "$LIMIT")
  call "${command[@]}" evaluate run "${names[@]}" "${flags[@]}" "${@:3}"
}

# One benchmark, from check to table.
evaluate() {
  local name=$1
  shift
  prepare "$@"
  choose_machine
  check "$name"
  FOLDER=${OUT_SAID:-$OUT/$name}
  run "$name" "$FOLDER" "$@"
}

# One benchmark ($1) whose answers a judge grades, into the grade file $2, where a judge is named.
evaluate_judged() {
  local name=$1 grades=$2 part=() flags=()
  JUDGE=${JUDGE:-} JUDGE_ENDPOINT=${JUDGE_ENDPOINT:-} JUDGE_PATH=${JUDGE_PATH:-} JUDGE_PROMPT=${JUDGE_PROMPT:-}
  [[ -n $JUDGE_ENDPOINT$JUDGE_PATH || -z $JUDGE$JUDGE_PROMPT ]] ||
    refuse "JUDGE and JUDGE_PROMPT go with JUDGE_ENDPOINT or JUDGE_PATH"
  evaluate "$name" "${@:3}"
  [[ -n $JUDGE_ENDPOINT$JUDGE_PATH ]] || return 0
  [[ -n $SHOW || -z $JUDGE_ENDPOINT ]] || ensure_environment eval
  flags=(--answers "$FOLDER/predictions.jsonl" ${DATA_ROOT:+--data_root "$DATA_ROOT"})
  [[ -z $LIMIT ]] || flags+=(--partial)
  [[ -z $JUDGE ]] || part+=(--judge "$JUDGE")
  [[ -z $JUDGE_ENDPOINT ]] || part+=(--endpoint "$JUDGE_ENDPOINT")
  [[ -z $JUDGE_PATH ]] || part+=(--judge_path "$JUDGE_PATH")
  [[ -z $JUDGE_PROMPT ]] || part+=(--judge_prompt "$JUDGE_PROMPT")
  call llava-teamlora evaluate grade "$name" "${flags[@]}" --out "$FOLDER/$grades" "${part[@]}"
  call llava-teamlora evaluate score "$name" "${flags[@]}" --grades "$FOLDER/$grades"
}
