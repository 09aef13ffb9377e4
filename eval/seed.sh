#!/usr/bin/env bash
# SEED-Bench: 19242 multiple-choice questions, 14233 about pictures and 5009 about a video's middle frame. Scored here.
#
#   MODEL=runs/my-run bash eval/seed.sh
#   OUT=runs/ranked MODEL=runs/my-run bash eval/seed.sh --answer_by likelihood      # options ranked, as the official tool
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate seed "$@"
