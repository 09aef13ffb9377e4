#!/usr/bin/env bash
# scripts/finetune_teamlora.sh with prompt tuning (docs/methods.md).
set -euo pipefail
METHOD=${METHOD:-prompt_tuning} exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_teamlora.sh" "$@"
