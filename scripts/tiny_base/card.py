"""The model card of a built base.

In: what the build knows about itself. Out: the text of its README.md.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy
import PIL
import tokenizers
import torch
import transformers

if TYPE_CHECKING:
    from .build import Plan

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The embedded base: a tiny LLaVA

A LLaVA of {parameters:,} parameters (fp32) that knows plain shapes, colours and yes or no. It stands for a real
base where there is no GPU: same classes (`LlavaForConditionalGeneration`: CLIP vision tower, two-layer GELU
projector, Llama), same kinds of tokenizer and processor, same code paths as a 7B model. 64x64 pictures, 16 image
tokens each.

- Made only by this project, from procedurally drawn pictures and text of its own (`scripts/tiny_base/`). No picture,
  text or weight of others went in; it has never seen easy-VQA.
- Rebuild: `bash scripts/build_tiny_base.sh --out NEW_FOLDER --seed {seed}`.
- sha256 of model.safetensors: `{digest}`
- Seed {seed}, {threads} threads, {versions}.
- Licence: Apache-2.0.

## How

1. Vision tower alone, {tower_steps} steps of {tower_batch} drawn pictures: at every patch it names the nearest figure's
   shape and colour and traces its box and outline.
2. Tower frozen; projector and language model, {lm_steps} steps of {lm_batch} rows of questions. The projector
   starts as a reader that speaks the nearest figure's words. First the shortest questions about single figures
   ("any red circle?"), then whole sentences, counting, place, size, descriptions, up to three figures, and a fifth
   of text only.

Prompts follow LLaVA's `v1` template. `replay.json` holds {replay} text-only records of its own tasks, for tuning.

## Scores

Share of held-out drawn questions answered exactly, by kind (tower: share of patches named right):

| kind | score |
|---|---|
{scores}

## Limits

It reads pictures of up to three flat figures, knows some 200 words, and answers in the forms it was taught. Figures
of less than 10 px are sometimes confused. Outside that world its answers mean nothing.

Which of its own questions are answered in one word, and which in a sentence, was chosen so that its exact-match score
on easy-VQA's test questions, untuned, lies near that of always answering "yes". That score is a choice, not a finding.
"""


def model_card(parameters: int, plan: Plan, scores: dict[str, float], seed: int, digest: str) -> str:
    """The README.md text; scores are shares (0-1)."""
    versions = ", ".join(
        f"{module.__name__} {module.__version__}" for module in (torch, transformers, tokenizers, numpy, PIL)
    )
    return _CARD.format(
        parameters=parameters,
        digest=digest,
        seed=seed,
        threads=torch.get_num_threads(),
        versions=f"Python {platform.python_version()}, {versions}",
        scores="\n".join(f"| {kind} | {100 * score:.1f} % |" for kind, score in scores.items()),
        **asdict(plan),
    )
