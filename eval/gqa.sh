#!/usr/bin/env bash
# GQA testdev-balanced: 12578 questions about scenes. Scored here.
#
#   CUDA_VISIBLE_DEVICES=0,1,2,3 MODEL=runs/my-run bash eval/gqa.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate gqa "$@"
