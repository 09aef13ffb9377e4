#!/usr/bin/env bash
# LLaVA-1.5's first stage: train the projector between vision tower and language model on captions.
#
#   DATA=blip_laion_cc_sbu_558k.json IMAGES=LLaVA-Pretrain/images bash scripts/pretrain.sh
#
# Leaves mm_projector.bin in the run folder, which the second stage starts from:
#   PROJECTOR=runs/vicuna-7b-v1.5-projector/mm_projector.bin DATA=… IMAGES=… bash scripts/finetune_teamlora.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/llava.sh"
METHOD=${METHOD:-projector}
prepare "$@"
[[ $METHOD == projector ]] || refuse "METHOD=$METHOD: pretraining is of the projector"
[[ -n $DATA ]] || refuse "DATA is not set: a LLaVA JSON of pictures with captions, such as blip_laion_cc_sbu_558k.json"
[[ -z ${LIMIT:-} ]] || refuse "LIMIT is for the embedded chain of finetune_teamlora.sh; here nothing is evaluated"
choose_method
choose_model
choose_machine 2
choose_batch 32 256
# LLaVA-1.5 pretrains on cropped pictures, and fine-tunes on padded ones.
train_llava --version plain --image_aspect_ratio square --learning_rate 1e-3 "$@"
