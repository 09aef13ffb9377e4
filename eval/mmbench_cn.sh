#!/usr/bin/env bash
# MMBench-CN dev: MMBench in Chinese. Scored here.
#
#   MODEL=runs/my-run bash eval/mmbench_cn.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate mmbench_cn "$@"
