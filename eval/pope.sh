#!/usr/bin/env bash
# POPE: 8910 questions whether an object is in a picture (random, popular, adversarial); mean of three F1. Scored here.
#
#   MODEL=runs/my-run bash eval/pope.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate pope "$@"
