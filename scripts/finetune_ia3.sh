#!/usr/bin/env bash
# scripts/finetune_teamlora.sh with IA3 (docs/methods.md).
set -euo pipefail
METHOD=${METHOD:-ia3} exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_teamlora.sh" "$@"
