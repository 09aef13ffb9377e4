"""The model card of a built text base.

In: what the build knows about itself. Out: the text of its README.md.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy
import tokenizers
import torch
import transformers

if TYPE_CHECKING:
    from .build import Plan

DIGEST = "<sha256>"  # stands in the text until the weights are written

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# The embedded text base: a tiny Llama

A Llama of {parameters:,} parameters ({layers} layers, {width} wide; weights in bfloat16) that has read about a small
invented world: its towns and people, what things are made of, who is taller than whom, and some Chinese. It stands for
a real base where there is no GPU, and goes the way of a 7B model: `LlamaForCausalLM`, a fast tokenizer with `<s>` and
`</s>`, a chat template of its own.

- Made only by this project, from text of its own generators (`scripts/cme_world/`). No text or weight of others went
  in.
- It has read the facts that the embedded CME asks about, as one reads an encyclopedia, and done exercises in reading,
  reasoning and choosing. A third of its documents are questions in the tasks' frames, without their instructions, made
  as training splits are made and about what only these ask; half of them are answered after the sign of an end, as in
  the tasks' records. So it answers most tasks before it is tuned. The test questions of the embedded CME's default data
  are kept out, whole and in runs of 13 words.
- Rebuild: `bash scripts/build_tiny_text.sh --out NEW_FOLDER --seed {seed} --threads {threads} --dtype {dtype}`.
- sha256 of model.safetensors: `{digest}`
- Seed {seed}, {threads} threads, {versions}.
- Licence: Apache-2.0.

## How

{documents:,} documents laid end to end, {total:.1f} M tokens, each read once, in steps of {rows} rows of {length}
tokens; a document sees itself alone. The first eighth are drills in finding, comparing and choosing words. The next
token is predicted; one of an answer or conclusion counts {times:.0f} times as much as others. Layers' matrices are
stepped by Muon (rate {matrix_lr}), the rest by AdamW ({lr}). Attention has biases, so that some heads can begin with
looking one or two tokens back; layers begin with adding nothing.

The tokenizer has {vocabulary:,} tokens: the world's words, each whole, Chinese characters, letters, and bytes for all
else. A word after a sign without a space is the same token, with a joiner before it.

## Score

Loss on the answers and conclusions of {held_out:,} documents that it has not read: {loss:.3f} nats a token.

## Limits

It knows the words of its world and continues texts as they stand there; it follows no instruction before it is tuned.
Outside that world what it says means nothing.
"""


def model_card(
    model: transformers.LlamaForCausalLM, plan: Plan, tokens: int, loss: float, seed: int, dtype: torch.dtype
) -> str:
    """The README.md text, but for DIGEST; `tokens` were read."""
    modules = (torch, transformers, tokenizers, numpy)
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    course = plan.course
    return _CARD.format(
        parameters=model.num_parameters(),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        vocabulary=model.config.vocab_size,
        digest=DIGEST,
        seed=seed,
        threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
        versions=f"Python {platform.python_version()}, {versions}",
        total=tokens / 1e6,
        documents=plan.documents,
        times=1 / course.rest,
        held_out=plan.held_out,
        loss=loss,
        **{name: getattr(course, name) for name in ("rows", "length", "lr", "matrix_lr")},
    )
