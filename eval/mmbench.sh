#!/usr/bin/env bash
# MMBench dev (English): 4377 rows, each multiple-choice question in all rotations of its options; right where it is right
# in every one. Scored here; the server's table is for evaluate export.
#
#   MODEL=runs/my-run bash eval/mmbench.sh
#   llava-teamlora evaluate run mmbench_test --model runs/my-run     # the test split, for the server
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate mmbench "$@"
