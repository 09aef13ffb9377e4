#!/usr/bin/env bash
# scripts/finetune_teamlora.sh with a LoRA of equal trainable parameters on the FFN (docs/methods.md). LLaVA's own LoRA, on
# all linears: --r 128 --alpha 256 --target_modules all-linear, or LLaVA's script itself (docs/from_llava.md).
set -euo pipefail
METHOD=${METHOD:-lora} exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_teamlora.sh" "$@"
