#!/usr/bin/env bash
# Everything that is to be measured on one GPU, in one go: at LLaVA-1.5-7B's shapes about 30 minutes on an H200.
#
#   bash benchmarks/gpu.sh                                # writes benchmarks/results/gpu/
#   SIZE=tiny DEVICE=cpu OUT=runs/try bash benchmarks/gpu.sh      # the same path in tiny, anywhere
#   PARTS="train figure" bash benchmarks/gpu.sh           # some of it
#
# Each part has its own time limit; one that fails or runs out of time is said at the end and the others go on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SIZE=${SIZE:-7b}
DEVICE=${DEVICE:-cuda}
OUT=${OUT:-benchmarks/results/gpu}
PYTHON=${PYTHON:-python}
PARTS=${PARTS:-trace memory train step mlp decode answer ks figure}
WORK=${WORK:-$(mktemp -d)}
mkdir -p "$OUT"

if [ "$SIZE" = 7b ]; then
    whole=(--size 7b --samples 16 --tokens 700)
    linear=(--d_in 4096 --d_out 11008 --tokens 11200)
    stack=(--d_in 4096 --d_out 11008 --layers 8)
    answer=(--model 7b --prompt 640 --answer 32 --rounds 9)
else
    whole=(--quick --size "$SIZE") linear=(--quick) stack=(--quick) answer=(--quick --model "$SIZE")
fi

failed=()
# part SECONDS BENCH FLAGS…: one bench, its files named after the part.
part() {
    local name=$1 seconds=$2 bench=$3
    shift 3
    case " $PARTS " in *" $name "*) ;; *) return 0 ;; esac
    echo "== $name (at most ${seconds} s)"
    if timeout "$seconds" "$PYTHON" -m llava_teamlora.cli bench "$bench" "$@" --out "$WORK/$name"; then
        for file in "$WORK/$name/$bench".*; do
            cp "$file" "$OUT/$name.${file##*.}"
        done
    else
        failed+=("$name")
    fi
}

part trace 120 trace "${linear[@]}"
part memory 240 memory "${whole[@]}" --device "$DEVICE"
part train 360 train "${whole[@]}" --device "$DEVICE" --rounds 5
part step 120 step "${linear[@]}" --device "$DEVICE" --dtype bf16 amp --total_rank 128 --k 1 2 4 8 16
part mlp 120 mlp "${linear[@]}" --device "$DEVICE" --dtype bf16
part decode 180 decode "${stack[@]}" --device "$DEVICE"
# Half of it is for compiling each variant's step.
part answer 480 decode "${answer[@]}" --device "$DEVICE" --dtype bf16 --over base \
    --variants peft-lora moelora-loop teamlora-mlp teamlora-packed
part ks 360 train "${whole[@]}" --device "$DEVICE" --rounds 3 --total_rank 128 --k 2 4 8 \
    --variants moelora-loop moelora-stacked teamlora-mlp

case " $PARTS " in *" figure "*)
    files=()
    for name in step ks; do [ -f "$OUT/$name.json" ] && files+=("$OUT/$name.json"); done
    if [ ${#files[@]} -eq 0 ]; then
        failed+=(figure)
    else
        for file in "${files[@]}"; do
            name=$(basename "$file" .json)
            "$PYTHON" -m llava_teamlora.cli bench figure "$file" --out "$OUT/fig4a_$name.png" || failed+=("figure of $name")
        done
    fi
    ;;
esac

[ ${#failed[@]} -eq 0 ] || { echo "not measured: ${failed[*]}" >&2; exit 1; }
