#!/usr/bin/env bash
# easy-VQA: 9673 questions about 1000 pictures of one coloured shape; its files come with the package. Scored here.
#
#   MODEL=runs/easy-vqa-teamlora bash eval/easy_vqa.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate easy_vqa "$@"
