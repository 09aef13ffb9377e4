#!/usr/bin/env bash
# Sourced by the other scripts: makes sure that `llava-teamlora` can be called; what all say to mistakes and --help.
#
#   ensure_environment [EXTRA]
#
# With a virtual environment (or conda) active, that one is used and completed; otherwise .venv is made beside this
# checkout, with the tested versions of constraints.txt. An interrupted installation goes on at the next call.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPT=$0

refuse() {
  echo "error: $1 (bash $SCRIPT --help)" >&2
  exit 1
}

# The comment at a file's head, from its second line on.
_head() {
  sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p;}' "$1"
}

ensure_environment() {
  local extra=${1:-} target=$ROOT stamp
  [[ -z $extra ]] || target="${ROOT}[$extra]"
  if [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then
    if ! _complete "$extra"; then
      echo "Installing into the active environment ${VIRTUAL_ENV:-$CONDA_PREFIX} …" >&2
      python -m pip install --quiet --disable-pip-version-check -e "$target"
    fi
    return
  fi
  _ensure_python
  stamp=$ROOT/.venv/.installed-${extra:-base}-$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum | cut -d' ' -f1)
  if [[ ! -f $stamp ]]; then
    echo "Making the environment $ROOT/.venv (some minutes, once) …" >&2
    "${PYTHON:-python3}" -m venv "$ROOT/.venv" || {
      echo "error: no virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv" >&2
      exit 1
    }
    # torch first and by itself: nothing else may then choose another build of it.
    "$ROOT/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" torch
    "$ROOT/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$ROOT/constraints.txt" -e "$target"
    touch "$stamp"
  fi
  export VIRTUAL_ENV=$ROOT/.venv PATH=$ROOT/.venv/bin:$PATH
}

# How many GPUs torch sees. Where there is no device at all it is not asked, for that takes seconds.
visible_gpus() {
  if compgen -G "/dev/nvidia*" >/dev/null || [[ -e /dev/kfd || -e /dev/dxg ]]; then
    python -c 'import torch; print(torch.cuda.device_count())'
  else
    echo 0
  fi
}

# Whether the active environment has this package and what an extra of it brings.
_complete() {
  local modules=(llava_teamlora) commands=(llava-teamlora) command
  case ${1:-} in
    dev)
      modules+=(pytest xdist deepspeed openai openpyxl playwright rouge_score pyarrow gradio fastapi prometheus_client)
      commands+=(ruff pyright)
      ;;
    train) modules+=(deepspeed) commands+=(deepspeed) ;;
    eval) modules+=(openai openpyxl) ;;
    cme) modules+=(rouge_score pyarrow) ;;
    chat) modules+=(gradio) ;;
    serve) modules+=(fastapi uvicorn prometheus_client) ;;
  esac
  for command in "${commands[@]}"; do command -v "$command" >/dev/null || return 1; done
  # Looked for, not imported: that would take seconds.
  python -c 'import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))' \
    "${modules[@]}"
}

_ensure_python() {
  if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: Python 3.10 or newer is needed; name one with PYTHON=/path/to/python3" >&2
    exit 1
  fi
}
