"""The text base's tokenizer: whole words, each one token wherever it stands; letters and bytes for all others.

In: texts. Out: transformers' fast tokenizer, with the special tokens of a Llama's, and a space before every text and
after every special token. A unigram model, so that no pieces of words take up the vocabulary as BPE's merges would.

A word that follows another sign without a space (``A.wood``, ``'The``, the first of a line) would be another token than
the same word after a space, and a base this small would have to learn each twice. So a joiner is put before it, which
decoding takes away again with the space: ``a.wood`` is ``▁a`` ``.`` ``￭`` ``▁wood``. The letter of an option and its
period are one token, ``▁A.￭``, and so stand next to what they are the letter of.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

MAX_LENGTH = 512  # tokens, the positions of the language model
SPACE, JOINER = "▁", "￭"
SPECIAL = ("<unk>", "<s>", "</s>")
_LETTERED = tuple(f"{SPACE}{letter}.{JOINER}" for letter in "ABCDE")
_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
_WORD = re.compile("[A-Za-z]+")

# Before a word that nothing but a sign precedes: after a digit or within a word (can't, Ann's) nothing is put.
_JOINED = rf"(?<=[^{SPACE}\p{{L}}\p{{N}}']|[^\p{{L}}{SPACE}]'|{SPACE}')(?=[A-Za-z])"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}Asked: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}Said: {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('this template knows the roles user and assistant alone') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Said:{% endif %}"
)


def vocabulary(texts: Iterable[str]) -> list[str]:
    """All tokens in order: special ones, bytes, signs and letters of the texts and of ASCII, words of the texts."""
    words: set[str] = set()
    signs = set(string.ascii_letters + string.digits + string.punctuation + "\n")
    for text in texts:
        words.update(_WORD.findall(text))
        signs.update(text)
    signs -= {" ", SPACE, JOINER}
    return [*SPECIAL, *_BYTES, SPACE, JOINER, *_LETTERED, *sorted(signs), *sorted(SPACE + word for word in words)]


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer whose words are those of the texts.

    Any text survives a round trip, but for these two signs of its own, SPACE and JOINER.
    """
    tokens = vocabulary(texts)
    # The likeliest split is taken: a whole word before its letters, a sign before its bytes.
    scores = [-20.0 if token in _BYTES else -5.0 if len(token) == 1 else -1.0 for token in tokens]
    backend = Tokenizer(models.Unigram([*zip(tokens, scores, strict=True)], unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend(SPACE),
            normalizers.Replace(" ", SPACE),
            normalizers.Replace(Regex(_JOINED), JOINER + SPACE),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(JOINER + SPACE, ""),
            decoders.Replace(JOINER, ""),
            decoders.Replace(SPACE, " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    bos = SPECIAL[1]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        model_max_length=MAX_LENGTH, padding_side="left", clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
