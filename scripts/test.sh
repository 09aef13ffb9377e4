#!/usr/bin/env bash
# Lint, types and tests, as CI runs them. Arguments go to pytest: bash scripts/test.sh -k teamlora
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
ensure_environment dev

ruff check .
ruff format --check .
pyright
# Two workers on one thread each beat one worker on two; more would only compete.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 python -m pytest -n "${WORKERS:-2}" --dist worksteal "$@"
