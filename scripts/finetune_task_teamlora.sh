#!/usr/bin/env bash
# Fine-tune a finished LLaVA on a task of one's own with TeamLoRA: scripts/finetune_teamlora.sh on another base, without a
# projector to start from.
#
#   DATA=my_task.json IMAGES=my_pictures bash scripts/finetune_task_teamlora.sh
#   MODEL=llava-hf/llava-1.5-13b-hf DATA=my_task.json IMAGES=my_pictures bash scripts/finetune_task_teamlora.sh
#
# With nothing set, the embedded chain: the tiny LLaVA of playground/tiny on easy-VQA.
set -euo pipefail
SCRIPTS=$(dirname "${BASH_SOURCE[0]}")
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  source "$SCRIPTS/llava.sh"
  prepare "$@"
fi
export MODEL=${MODEL:-${DATA:+llava-hf/llava-1.5-7b-hf}}
exec bash "$SCRIPTS/finetune_teamlora.sh" "$@"
