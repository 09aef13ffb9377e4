#!/usr/bin/env bash
# VizWiz test: 8000 questions by blind people. The truth is not public: this writes the server's file.
#
#   MODEL=runs/my-run bash eval/vizwiz.sh
#   llava-teamlora evaluate run vizwiz_val --model runs/my-run       # val, scored here
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate vizwiz "$@"
