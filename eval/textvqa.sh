#!/usr/bin/env bash
# TextVQA val: 5000 questions about text in pictures, with LLaVA's OCR tokens in the prompt. Scored here.
#
#   MODEL=runs/my-run bash eval/textvqa.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate textvqa "$@"
