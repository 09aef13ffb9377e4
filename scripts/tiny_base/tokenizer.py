"""The base's tokenizer: a Llama tokenizer with a small vocabulary learned from the base's own sentences.

In: a seed. Out: transformers' LlamaTokenizer (BPE with byte fallback, so that any text survives a round trip), with
`<image>` added as a special token.
"""

from __future__ import annotations

import json
import re
import string

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.data.templates import TEMPLATES

from .language import ask, first_question
from .text_tasks import ask_text, imagined_scene

MAX_LENGTH = 1024  # tokens, the positions of the language model
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def corpus(sentences: int, seed: int) -> list[str]:
    """Words to learn merges from, each about equally often, so that rare words become single tokens too.

    Words come with the space before them; those that begin a question come bare as well, for so they stand after a
    picture's newline, and so does "USER", which follows an end mark directly.
    """
    rng = np.random.default_rng(seed)
    lines = [segment.text for segment in TEMPLATES["v1"].segments([])]
    first = {"USER"}
    for _ in range(sentences):
        scene = imagined_scene(rng)
        made = (ask_text(rng), ask(scene, rng), first_question(scene, rng, negations=True))[int(rng.integers(3))]
        lines.append(f"USER: {made.question} ASSISTANT: {made.answer}")
        first.add(re.findall(r"\w+", made.question)[0])
    words = sorted({word for line in lines for word in re.findall(r"\w+", line)})
    return ([" " + word for word in words] + sorted(first)) * 10


def train_tokenizer(vocab_size: int, seed: int, sentences: int = 20_000) -> LlamaTokenizer:
    """Learns `vocab_size` tokens (256 bytes, 4 special tokens and all letters included)."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<unk>", "<s>", "</s>", *_BYTES],
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation + "▁"),
        show_progress=False,
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    learner.train_from_iterator(corpus(sentences, seed), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return LlamaTokenizer(
        vocab=learned["vocab"],
        merges=merges,
        pad_token="<unk>",
        model_max_length=MAX_LENGTH,
        add_bos_token=True,
        additional_special_tokens=[IMAGE_TOKEN],
    )
