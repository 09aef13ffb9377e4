#!/usr/bin/env bash
# Sourced by the training scripts: LLaVA-1.5's settings, and the launch of `llava-teamlora train`.
#
# Variables, all optional but DATA (without DATA and MODEL: the embedded chain, where a script has one):
#   DATA, IMAGES  LLaVA JSON and the folder its picture paths are relative to
#   MODEL         a LLaVA, or a language model (then with VISION_TOWER)
#   VISION_TOWER  CLIP tower for a language model (openai/clip-vit-large-patch14-336 where MODEL is not set)
#   PROJECTOR     pre-trained mm_projector.bin for a language model; none starts from a fresh one
#   OUT           run folder (runs/MODEL-METHOD)       SEED      (0)
#   METHOD        teamlora; moelora, hydralora, moslora, lora, adalora: at equal parameters; ia3, prompt_tuning, projector,
#                 full: as they are (docs/methods.md)
#   GPUS          processes on this machine (all visible GPUs, or one process on the CPU)
#   BATCH         samples per process and step (16, pretrain 32)
#   GLOBAL_BATCH  samples per step over all processes (128, pretrain 256), kept by accumulating gradients
#   ACCUM         steps accumulated; set, GLOBAL_BATCH is whatever comes of it
#   ZERO          DeepSpeed: 2, 3, 2_offload, 3_offload, a JSON file, or 0 for none (several GPUs: 3, pretrain 2; else 0)
#   LAUNCHER      torchrun, deepspeed or python (default: torchrun for several processes, else python)
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT       several machines with torchrun, the same command on each (1, 0, -, 29500)
#   HOSTFILE      several machines with LAUNCHER=deepspeed, started on one of them over ssh
#   SHOW          1 prints the command and stops; with GPUS, that of a machine which has them
#   PYTHON        interpreter to make the environment with
#
# Every further argument goes to `llava-teamlora train` and wins over what is set here. An interrupted run goes on when
# the same command is given again. The last line printed is one JSON object.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Answer --help; read the variables; see what the further arguments say.
prepare() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    _head "$SCRIPT"
    echo
    _head "$ROOT/scripts/llava.sh" | sed 1,2d
    exit
  fi
  METHOD=${METHOD:-teamlora} MODEL=${MODEL:-} VISION_TOWER=${VISION_TOWER:-} PROJECTOR=${PROJECTOR:-}
  DATA=${DATA:-} IMAGES=${IMAGES:-} OUT=${OUT:-} SEED=${SEED:-0} SHOW=${SHOW:-} TEMPLATE=${TEMPLATE:-}
  GPUS=${GPUS:-} BATCH=${BATCH:-} GLOBAL_BATCH=${GLOBAL_BATCH:-} ACCUM=${ACCUM:-} ZERO=${ZERO:-} LAUNCHER=${LAUNCHER:-}
  NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0} MASTER_ADDR=${MASTER_ADDR:-} MASTER_PORT=${MASTER_PORT:-29500}
  HOSTFILE=${HOSTFILE:-}
  _further "$@"
  [[ -z $OUT || $OUT == /* ]] || OUT=$PWD/$OUT
  local name
  for name in GPUS BATCH GLOBAL_BATCH ACCUM NNODES NODE_RANK MASTER_PORT SEED LIMIT; do
    [[ ${!name:-0} =~ ^[0-9]+$ ]] || refuse "$name=${!name} is no whole number"
  done
  case $LAUNCHER in
    "" | python | torchrun | deepspeed) ;;
    *) refuse "LAUNCHER=$LAUNCHER is not torchrun, deepspeed or python" ;;
  esac
}

# Further arguments win; these decide what is done here too.
# shellcheck disable=SC2034  # the embedded chains read BASE and TEMPLATE
_further() {
  local word previous=""
  BASE="" STOPS=${SHOW:+1} RANK_SAID="" ZERO_SAID=""
  for word in "$@"; do
    case $previous in
      --output_dir) OUT=$word ;;
      --method) METHOD=$word ;;
      --model_name_or_path) BASE=$word ;;
      --version) TEMPLATE=$word ;;
      --dry_run) [[ $word != [Tt]rue ]] || STOPS=1 ;;
    esac
    previous=${word//-/_} previous=--${previous#__} # both spellings of a flag
    case ${previous%%=*} in
      --r | --match_params) RANK_SAID=1 ;;
      --deepspeed) ZERO_SAID=1 ;;
      --output_dir | --method | --model_name_or_path | --version | --dry_run)
        [[ $previous != *=* ]] || refuse "write ${word%%=*} VALUE, not ${word%%=*}=VALUE"
        ;;
    esac
  done
}

# METHOD and its rank, into the array METHOD_FLAGS.
choose_method() {
  METHOD_FLAGS=(--method "$METHOD" --seed "$SEED")
  case $METHOD in
    teamlora) ;; # the measure of the others: r = 8, k = 4, alpha = 16 are its defaults
    ia3 | prompt_tuning | projector | full) ;; # methods without a rank
    *) [[ -n $RANK_SAID ]] || METHOD_FLAGS+=(--match_params "teamlora:r=8,num_experts=4") ;;
  esac
}

# Install what is missing (extra $2), then settle processes, launcher and ZeRO (the stage that several GPUs get: $1).
choose_machine() {
  local stage=$1 extra=${2:-} deepspeed=""
  if [[ -n $SHOW && -n $DATA && -n $GPUS ]]; then # the command for a machine that has these GPUs, whatever is here
    CUDA=$GPUS
  else
    [[ $LAUNCHER != deepspeed && -z $HOSTFILE && -z ${ZERO#0} && -z $ZERO_SAID ]] || deepspeed=train
    ensure_environment "${extra:-$deepspeed}"
    [[ -z $extra || -z $deepspeed ]] || ensure_environment "$deepspeed"
    CUDA=$(visible_gpus)
  fi
  SECONDS=0 # what follows is counted; the installation is not
  export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
  [[ -n $GPUS ]] || GPUS=$CUDA
  ((GPUS > 0)) || GPUS=1
  if ((GPUS == 1)); then # one process uses one GPU
    export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}
    CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}
  fi
  if [[ -n $HOSTFILE ]]; then
    LAUNCHER=${LAUNCHER:-deepspeed}
    [[ $LAUNCHER == deepspeed ]] || refuse "HOSTFILE goes with LAUNCHER=deepspeed"
    [[ -f $HOSTFILE ]] || refuse "HOSTFILE=$HOSTFILE: no such file"
    NNODES=$(grep -cE '^[^#[:space:]]' "$HOSTFILE")
  elif ((NNODES > 1)); then
    [[ ${LAUNCHER:=torchrun} == torchrun ]] || refuse "several machines: LAUNCHER=torchrun, or deepspeed with HOSTFILE"
    [[ -n $MASTER_ADDR ]] || refuse "NNODES=$NNODES needs MASTER_ADDR, the first machine's address, and NODE_RANK on each"
  fi
  PROCESSES=$((GPUS * NNODES))
  if [[ -z $ZERO ]]; then
    ZERO=0
    if [[ $LAUNCHER == deepspeed ]] || ((CUDA > 0 && PROCESSES > 1)); then ZERO=$stage; fi
    [[ -z $ZERO_SAID ]] || ZERO=0 # --deepspeed itself is among the arguments
  fi
  if [[ $ZERO != 0 && -z $SHOW ]]; then ensure_environment train; fi
  if [[ -z $LAUNCHER ]]; then
    LAUNCHER=python
    if ((PROCESSES > 1)) || [[ $ZERO != 0 || -n $ZERO_SAID ]]; then LAUNCHER=torchrun; fi
  fi
  ((PROCESSES == 1)) || [[ $LAUNCHER != python ]] || refuse "LAUNCHER=python starts one process, GPUS is $GPUS"
}

# Keep GLOBAL_BATCH (default $2) whatever the number of processes: sets ACCUM, and BATCH to at most $1 where it is not set.
choose_batch() {
  GLOBAL_BATCH=${GLOBAL_BATCH:-$2}
  if [[ -z $BATCH ]]; then
    BATCH=$1
    ((BATCH * PROCESSES <= GLOBAL_BATCH || PROCESSES > GLOBAL_BATCH)) || BATCH=$((GLOBAL_BATCH / PROCESSES))
  fi
  local together=$((BATCH * PROCESSES))
  if [[ -z $ACCUM ]]; then
    ((together <= GLOBAL_BATCH && GLOBAL_BATCH % together == 0)) || refuse \
      "BATCH=$BATCH x $PROCESSES processes do not divide GLOBAL_BATCH=$GLOBAL_BATCH: change BATCH or GLOBAL_BATCH, or set ACCUM"
    ACCUM=$((GLOBAL_BATCH / together))
  fi
  echo "$((together * ACCUM)) samples a step: $BATCH x $PROCESSES process(es) x $ACCUM accumulated"
}

# Start `llava-teamlora train` with these arguments; SHOW=1 prints the command instead.
launch() {
  local zero=() command
  case $ZERO in
    0) ;;
    2 | 3 | 2_offload | 3_offload) zero=(--deepspeed "$ROOT/scripts/zero$ZERO.json") ;;
    *) zero=(--deepspeed "$ZERO") ;;
  esac
  case $LAUNCHER in
    python) command=(llava-teamlora) ;;
    torchrun)
      command=(torchrun --nproc_per_node "$GPUS")
      if ((NNODES > 1)); then
        command+=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
      else
        command+=(--standalone)
      fi
      command+=(-m -- llava_teamlora.cli) # without "--" torchrun takes --r for one of its own flags
      ;;
    deepspeed)
      command=(deepspeed --num_gpus "$GPUS" --master_port "$MASTER_PORT")
      [[ -z $HOSTFILE ]] || command+=(--hostfile "$HOSTFILE" --num_nodes "$NNODES")
      [[ -z $HOSTFILE || -z $MASTER_ADDR ]] || command+=(--master_addr "$MASTER_ADDR")
      command+=(--no_local_rank --module llava_teamlora.cli)
      ;;
  esac
  command+=(train "${zero[@]}" "$@")
  if [[ -n $SHOW ]]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}"
  fi
}

# What training on DATA has in common whatever the model, into the array FLAGS.
choose_flags() {
  FLAGS=(
    --model_name_or_path "$MODEL" --data_path "$DATA" --output_dir "$OUT" "${METHOD_FLAGS[@]}"
    --model_max_length 2048 --num_train_epochs 1
    --per_device_train_batch_size "$BATCH" --gradient_accumulation_steps "$ACCUM"
    --weight_decay 0 --warmup_steps 0.03 --lr_scheduler_type cosine
    --gradient_checkpointing True --logging_steps 1 --save_steps 500 --save_total_limit 1
  )
  ((CUDA == 0)) || FLAGS+=(--bf16 True --tf32 True --dataloader_num_workers 4)
}

# Train on DATA with LLaVA-1.5's settings: those of all its scripts here, those of one as further arguments.
train_llava() {
  choose_flags
  local flags=("${FLAGS[@]}")
  [[ -z $VISION_TOWER ]] || flags+=(
    --vision_tower "$VISION_TOWER" --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2
  )
  [[ -z $PROJECTOR || $PROJECTOR == none ]] || flags+=(--pretrain_mm_mlp_adapter "$PROJECTOR")
  [[ -z $IMAGES ]] || flags+=(--image_folder "$IMAGES")
  launch "${flags[@]}" "$@"
  [[ -z $STOPS ]] && ((NODE_RANK == 0)) || return 0
  python "$ROOT/scripts/finetune_summary.py" "$OUT" --total_seconds "$SECONDS"
}

# What DATA alone means: LLaVA-1.5-7B.
choose_model() {
  [[ -n $DATA ]] || refuse "MODEL, VISION_TOWER, PROJECTOR or IMAGES is set, so DATA (a LLaVA JSON) is needed too"
  if [[ -z $MODEL ]]; then
    MODEL=lmsys/vicuna-7b-v1.5
    VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14-336}
  fi
  OUT=${OUT:-$PWD/runs/${MODEL##*/}-$METHOD}
}
