#!/usr/bin/env bash
# LLaVA-Bench (in the wild): 60 questions whose free answers a judge model compares with GPT-4's.
#
#   MODEL=runs/my-run bash eval/llavabench.sh          # answers, and the file that the official tool takes
#   JUDGE_ENDPOINT=http://localhost:8000/v1 JUDGE_PROMPT=rule.json MODEL=runs/my-run bash eval/llavabench.sh
#
#   JUDGE_ENDPOINT  URL of an OpenAI-compatible server whose model then grades them, with the key OPENAI_API_KEY
#   JUDGE           the judge's name there, if it serves several (the official one: gpt-4-0314)
#   JUDGE_PATH      instead: a model's folder, loaded here
#   JUDGE_PROMPT    the official prompt, LLaVA's llava/eval/table/rule.json; without it our own words
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate_judged llava_bench grades.jsonl "$@"
