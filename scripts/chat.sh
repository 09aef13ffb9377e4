#!/usr/bin/env bash
# Talk to a model in the browser: pictures, several turns, two models side by side, the experts at work.
#
#   bash scripts/chat.sh                       the newest finished run under runs/, else the embedded playground/tiny
#   MODEL=runs/my-run bash scripts/chat.sh --compare runs/another --port 7861
#
# Variables, all optional:
#   MODEL     run folder, checkpoint or base
#   RUNS      folder of runs that the newest is taken of (runs)
#   SHOW      1 prints the command and stops
#   PYTHON    interpreter to make the environment with
#
# Every further argument goes to `llava-teamlora chat` (see its --help). The page is for this machine alone.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  _head "$SCRIPT"
  exit
fi

# The newest run that ended: its folder holds the adapter, or the whole model.
newest_run() {
  local file newest=
  for file in "${RUNS:-$ROOT/runs}"/*/run.yaml; do
    compgen -G "${file%/*}/adapter_model.safetensors" >/dev/null || compgen -G "${file%/*}/model*.safetensors" >/dev/null ||
      continue
    [[ -n $newest && ! $file -nt $newest ]] || newest=$file
  done
  [[ -z $newest ]] || echo "${newest%/*}"
}

MODEL=${MODEL:-$(newest_run)}
MODEL=${MODEL:-$ROOT/playground/tiny}
if [[ ${SHOW:-} == 1 ]]; then
  printf '%q ' llava-teamlora chat "$MODEL" "$@"
  echo
  exit
fi
ensure_environment chat
exec llava-teamlora chat "$MODEL" "$@"
