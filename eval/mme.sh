#!/usr/bin/env bash
# MME: 2374 yes/no questions, two a picture; perception (of 2000) and cognition (of 800). Scored here.
#
#   MODEL=runs/my-run bash eval/mme.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate mme "$@"
