"""Ids are LLaVA's chunk by chunk, labels are exactly the trained segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trained_tokens import trained_runs
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_teamlora.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava_teamlora.data.records import Turn
from llava_teamlora.data.templates import TEMPLATES, Segment
from llava_teamlora.data.tokenize import Encoded, check_end, encode, end_token_id, expand_images, truncate
from llava_teamlora.errors import UserError

TURNS = (
    Turn("human", "<image>\nis there a red circle?"),
    Turn("gpt", "yes"),
    Turn("human", "and a blue one?"),
    Turn("gpt", "no, none"),
)


@pytest.fixture(scope="module")
def tokenizer(tiny: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny)


def test_ids_equal_llavas_chunkwise_way(tokenizer: PreTrainedTokenizerBase) -> None:
    """LLaVA: tokenize each chunk around <image>, keep the first bos, join with -200."""
    segments = TEMPLATES["v1"].segments(TURNS)
    before, after = "".join(s.text for s in segments).split("<image>")
    first, second = (tokenizer(text).input_ids for text in (before, after))
    assert first[0] == second[0] == tokenizer.bos_token_id
    assert encode(segments, tokenizer).input_ids == [*first, IMAGE_TOKEN_INDEX, *second[1:]]


def test_labels_are_the_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(TEMPLATES["v1"].segments(TURNS), tokenizer)
    runs = trained_runs(encoded)
    answers = [str(tokenizer.decode(run)).strip() for run in runs]
    assert answers == ["yes</s>", "no, none</s>"]
    assert encoded.trained_tokens == sum(len(run) for run in runs)


@pytest.mark.parametrize("text", ["", " ", "\n", "no", "é🙂 ünïcode", "a  b", "</s> inside", "x" * 300])
def test_odd_answers_never_shift_the_mask(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    turns = (Turn("human", "q"), Turn("gpt", text), Turn("human", "q"), Turn("gpt", "no"))
    encoded = encode(TEMPLATES["v1"].segments(turns), tokenizer)
    kept = [token for token, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != IGNORE_INDEX]
    rendered = str(tokenizer.decode(kept)).replace(" ", "")
    assert rendered == f"{text}</s>no</s>".replace(" ", "")


def test_a_token_across_a_border_belongs_to_its_last_character(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = tokenizer("circle").input_ids
    encoded = encode([Segment("cir", False), Segment("cle", True)], tokenizer)
    assert encoded.input_ids == whole
    assert encoded.labels[-1] == whole[-1]


def test_expansion_and_truncation() -> None:
    encoded = Encoded([1, IMAGE_TOKEN_INDEX, 5, 6], [IGNORE_INDEX, IGNORE_INDEX, 5, 6])
    expanded = expand_images(encoded, image_token_id=9, tokens_per_image=3)
    assert expanded.input_ids == [1, 9, 9, 9, 5, 6]
    assert expanded.labels == [IGNORE_INDEX] * 4 + [5, 6]
    assert truncate(expanded, 5, 9, "here").input_ids == [1, 9, 9, 9, 5]
    assert truncate(expanded, 6, 9, "here") is expanded
    with pytest.raises(UserError, match="here: --model_max_length 2 would cut off a picture"):
        truncate(expanded, 2, 9, "here")
    later = Encoded([1, 5, 6, 9, 9], [IGNORE_INDEX, 5, 6, IGNORE_INDEX, IGNORE_INDEX])
    with pytest.raises(UserError, match="would cut off a picture"):
        truncate(later, 2, 9, "here")


def test_the_end_of_an_answer_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert end_token_id(TEMPLATES["v1"], tokenizer) == tokenizer.eos_token_id
    assert end_token_id(TEMPLATES["v0"], tokenizer) is end_token_id(TEMPLATES["plain"], tokenizer) is None
    for version in ("v1", "v0", "plain", "llava_llama_2"):
        check_end(TEMPLATES[version], tokenizer)
    for version in ("mpt", "chatml_direct", "llama_3"):
        with pytest.raises(UserError, match="which is not one token of .*, whose own is '</s>'"):
            check_end(TEMPLATES[version], tokenizer)


def test_llama_3s_ends_fit_its_tokenizer(golden_tokenizer: Callable[[str], Any]) -> None:
    for name, version, end in (("llama_3", "llama_3", "<|eot_id|>"), ("bytes", "mpt", "<|im_end|>")):
        tokenizer = golden_tokenizer(name)
        check_end(TEMPLATES[version], tokenizer)
        assert end_token_id(TEMPLATES[version], tokenizer) == tokenizer.convert_tokens_to_ids(end)


def test_a_slow_tokenizer_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    class Slow:
        is_fast = False
        name_or_path = "somewhere"

    with pytest.raises(UserError, match="somewhere: a fast tokenizer"):
        encode([Segment("x", True)], Slow())  # type: ignore[arg-type]
