#!/usr/bin/env bash
# All benchmarks whose files are there, with one loading of the model, and the paper's table at the end.
#
#   bash eval/all.sh                                                 # the embedded model on made-up questions
#   MODEL=runs/my-run bash eval/all.sh
#   BENCHMARKS="mme pope" MODEL=runs/my-run bash eval/all.sh
#
# What is not there is named, with where to get it, and passed over. The last line printed is one JSON object,
# {"benchmarks": {NAME: …}, …}; the exit status is 1 if something went wrong or nothing was there.
#   BENCHMARKS    which (mme mmbench mmbench_cn seed pope sqa textvqa mmvet vizwiz, and vqav2 gqa llava_bench)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare "$@"
[[ -z $OUT_SAID ]] || refuse "name the folder with OUT=DIR, not with --out"
BENCHMARKS=${BENCHMARKS:-mme mmbench mmbench_cn seed pope sqa textvqa mmvet vizwiz vqav2 gqa llava_bench}
choose_machine
read -ra names <<<"$BENCHMARKS"
if [[ -n $SHOW ]]; then
  check "${names[@]}"
  run "$BENCHMARKS" "$OUT" "$@"
  [[ -n $EMBEDDED ]] || call llava-teamlora evaluate report "$OUT"
  exit
fi

trap 'exit 130' INT
checked=$(mktemp)
trap 'rm -f "$checked"' EXIT
check "${names[@]}" --json >"$checked" || [[ -s $checked ]] # 1 where not all are ready
ready=$(python "$ROOT/eval/summary.py" ready "$checked")
[[ -n $ready ]] || refuse "no benchmark's files are complete in ${DATA_ROOT:-playground/data/eval}"
status=0
if [[ $ready == *" "* ]]; then
  run "$ready" "$OUT" "$@" || status=$?
else
  run "$ready" "$OUT/$ready" "$@" || status=$?
fi
if [[ -n $EMBEDDED ]]; then
  echo "$NO_SCORES" >&2
elif compgen -G "$OUT/*/scores.json" >/dev/null; then
  llava-teamlora evaluate report "$OUT" || status=$? # as run's own table, with the paper's rows
fi
summary=(--out "$OUT" --model "${MODEL:-$ENDPOINT}" --status "$status" --seconds "$SECONDS")
python "$ROOT/eval/summary.py" "done" "$checked" "${summary[@]}" || status=$?
exit "$status"
