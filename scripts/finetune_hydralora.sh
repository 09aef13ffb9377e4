#!/usr/bin/env bash
# scripts/finetune_teamlora.sh with HydraLoRA of equal trainable parameters (docs/methods.md).
set -euo pipefail
METHOD=${METHOD:-hydralora} exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_teamlora.sh" "$@"
