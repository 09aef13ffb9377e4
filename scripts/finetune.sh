#!/usr/bin/env bash
# scripts/finetune_teamlora.sh with full fine-tuning of language model and projector, at LLaVA-1.5's rate of 2e-5.
set -euo pipefail
METHOD=${METHOD:-full} exec bash "$(dirname "${BASH_SOURCE[0]}")/finetune_teamlora.sh" "$@"
