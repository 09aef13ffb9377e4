#!/usr/bin/env bash
# scripts/finetune_teamlora.sh with MoSLoRA of equal trainable parameters (docs/methods.md).
set -euo pipefail
METHOD=${METHOD:-moslora} exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_teamlora.sh" "$@"
