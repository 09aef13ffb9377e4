#!/usr/bin/env bash
# CME's eleven text-only tasks (the paper's Table 2), those whose files are there, with one loading of the model.
#
#   bash eval/cme.sh                                                  # the embedded text base on made-up questions
#   MODEL=runs/my-text-run bash eval/cme.sh
#   MODEL=models/Llama-2-7b-hf TEMPLATE=cme bash eval/cme.sh           # an untuned base, asked as CME asks
#   BENCHMARKS="arc mmlu" MODEL=runs/my-text-run bash eval/cme.sh
#
# A model writes its answers and they are matched; lm-eval's log-likelihoods are another protocol, and its figures are no
# figures of this one: llava-teamlora evaluate lm_eval --help. What is not there is named, with where to get it, and passed
# over. The last line printed is one JSON object, {"benchmarks": {NAME: …}, …}; the exit status is 1 if something went
# wrong or nothing was there.
#   BENCHMARKS    which (tldr imdb anli qqp rte winogrande arc webqa nq triviaqa mmlu)
set -euo pipefail
BENCHMARKS=${BENCHMARKS:-tldr imdb anli qqp rte winogrande arc webqa nq triviaqa mmlu}
EXTRA=cme TOY_MODEL=playground/tiny_text TOY_TEMPLATE=cme
source "$(dirname "${BASH_SOURCE[0]}")/all.sh"
