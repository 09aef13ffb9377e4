#!/usr/bin/env bash
# Builds the embedded base (playground/tiny) anew, from a seed, on two CPU cores; the one in the repository was made so.
#   bash scripts/build_tiny_base.sh --out outputs/tiny_base --seed 0
#   bash scripts/build_tiny_base.sh --fast --out /tmp/smoke     # seconds: proves that everything runs, learns nothing
#   bash scripts/build_tiny_base.sh --help
# Variables: PYTHON (an interpreter with this project's dependencies).
set -euo pipefail

PYTHON=${PYTHON:-python}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

export PYTHONPATH="$ROOT:$ROOT/scripts${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TRANSFORMERS_VERBOSITY=${TRANSFORMERS_VERBOSITY:-error}
exec "$PYTHON" -m tiny_base.build "$@"
