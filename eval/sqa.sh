#!/usr/bin/env bash
# ScienceQA test: 4241 multiple-choice questions, 2017 of them with a picture (SQA-I). Scored here.
#
#   MODEL=runs/my-run bash eval/sqa.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate sqa "$@"
