#!/usr/bin/env bash
# Build the embedded text base (playground/tiny_text) anew, from a seed, in half an hour on one CPU core; the one in the
# repository was made so, by one thread. If interrupted, the same command goes on.
#   bash scripts/build_tiny_text.sh --out outputs/tiny_text --seed 0
#   bash scripts/build_tiny_text.sh --fast --out outputs/smoke   # seconds: proves that everything runs, learns nothing
#   bash scripts/build_tiny_text.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ensure_environment

export PYTHONPATH="$ROOT:$ROOT/scripts${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TRANSFORMERS_VERBOSITY=${TRANSFORMERS_VERBOSITY:-error}
exec python -m tiny_text.build "$@"
