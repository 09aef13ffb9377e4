#!/usr/bin/env bash
# MM-Vet: 218 questions whose free answers a judge model grades.
#
#   MODEL=runs/my-run bash eval/mmvet.sh          # answers, and the file that the official tool takes
#   JUDGE_ENDPOINT=http://localhost:8000/v1 JUDGE_PROMPT=mm-vet_evaluator.py MODEL=runs/my-run bash eval/mmvet.sh
#
#   JUDGE_ENDPOINT  URL of an OpenAI-compatible server whose model then grades them, with the key OPENAI_API_KEY
#   JUDGE           the judge's name there, if it serves several (the official one: gpt-4-0613)
#   JUDGE_PATH      instead: a model's folder, loaded here
#   JUDGE_PROMPT    the official prompt, MM-Vet's mm-vet_evaluator.py; without it our own words
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate_judged mmvet grades.json "$@"
