#!/usr/bin/env bash
# VQAv2 test-dev: 107394 questions. The truth is not public: this writes the server's file.
#
#   CUDA_VISIBLE_DEVICES=0,1,2,3 MODEL=runs/my-run bash eval/vqav2.sh
#   llava-teamlora evaluate run vqav2_val --model runs/my-run        # val, scored here
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate vqav2 "$@"
