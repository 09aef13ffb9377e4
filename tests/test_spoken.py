"""What of an answer may be shown while its tokens come: half characters, runs of bytes, texts that end it, space."""

from __future__ import annotations

import random
from collections.abc import Sequence

import made_text_bases
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_teamlora.generation import Spoken
from llava_teamlora.generation.spoken import spoken_text, stands


@pytest.fixture(scope="module")
def byte_fallback(tiny: str) -> PreTrainedTokenizerBase:
    """As Llama's: words, and a token for each byte of what is in no word."""
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerBase:
    """As GPT's: every token is bytes, here one each."""
    return made_text_bases.byte_tokenizer("gpt2")


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Sequence[str] = ()) -> list[str]:
    """One a token, and what was still waiting at the end."""
    spoken = Spoken(tokenizer, stops)
    return [*(spoken.push(token) for token in ids), spoken.rest()]


def test_words_come_at_once_and_space_with_what_follows(byte_fallback: PreTrainedTokenizerBase) -> None:
    ids = ids_of(byte_fallback, "a red shape")
    assert byte_fallback.convert_ids_to_tokens(ids) == ["▁a", "▁red", "▁shape"]
    assert pieces(byte_fallback, ids) == ["a", " red", " shape", ""]


def test_a_run_of_bytes_comes_as_a_whole(byte_fallback: PreTrainedTokenizerBase) -> None:
    ids = ids_of(byte_fallback, "a 中\u00e9 red")
    assert sum(str(token).startswith("<0x") for token in byte_fallback.convert_ids_to_tokens(ids)) == 5
    shown = pieces(byte_fallback, ids)
    assert "".join(shown) == "a 中\u00e9 red" and shown[-2:] == [" 中\u00e9 red", ""]
    # A run that the answer ends in is told when it is over, and one cut off within a character not left out.
    assert pieces(byte_fallback, ids_of(byte_fallback, "a 中"))[-1] == " 中"
    assert "\ufffd" in pieces(byte_fallback, ids_of(byte_fallback, "a 中")[:-1])[-1]


def test_half_a_character_waits_for_its_rest(byte_level: PreTrainedTokenizerBase) -> None:
    ids = ids_of(byte_level, "a中b")
    assert len(ids) == 5
    assert pieces(byte_level, ids) == ["a", "", "", "中", "b", ""]
    assert pieces(byte_level, ids[:3]) == ["a", "", "", "\ufffd"]


def test_space_at_the_end_is_never_shown(byte_level: PreTrainedTokenizerBase) -> None:
    assert pieces(byte_level, ids_of(byte_level, " a \n b \n")) == ["", "a", "", "", "", " \n b", "", "", ""]


def test_what_may_begin_an_end_waits(byte_level: PreTrainedTokenizerBase) -> None:
    ids = ids_of(byte_level, "a##b###c")
    assert pieces(byte_level, ids, ["###"]) == ["a", "", "", "##b", "", "", "", "", ""]
    assert pieces(byte_level, ids[:3], ["###"]) == ["a", "", "", "##"]  # the answer's length ended it instead
    assert "".join(pieces(byte_level, ids_of(byte_level, "xabc"), ["bc", "abcd"])) == "xa"  # the first to stand there
    assert "".join(pieces(byte_level, ids_of(byte_level, "a \n###"), ["###"])) == "a"


def test_an_end_in_the_middle_of_a_token(byte_fallback: PreTrainedTokenizerBase) -> None:
    ids = ids_of(byte_fallback, "a red shape")
    assert pieces(byte_fallback, ids, ["d sh"]) == ["a", " re", "", ""]
    assert pieces(byte_fallback, ids, ["re"]) == ["a", "", "", ""]


def test_an_end_of_several_bytes(byte_level: PreTrainedTokenizerBase) -> None:
    assert pieces(byte_level, ids_of(byte_level, "a中国"), ["中国"]) == ["a", *[""] * 7]
    assert "".join(pieces(byte_level, ids_of(byte_level, "a中b"), ["中国"])) == "a中b"


def test_a_token_that_says_nothing_parts_no_run_of_bytes(byte_fallback: PreTrainedTokenizerBase) -> None:
    ids = ids_of(byte_fallback, "a é")
    silent = byte_fallback.unk_token_id
    assert isinstance(silent, int)
    broken = [*ids[:-2], *ids_of(byte_fallback, '"'), silent, ids[-1]]  # a whole byte, and one that spoils the run
    for tokens in ([*ids[:-1], silent, ids[-1]], broken):
        assert "".join(pieces(byte_fallback, tokens)) == spoken_text(byte_fallback, tokens, ())


def test_an_end_stands_in_a_run_of_bytes_however_long(byte_fallback: PreTrainedTokenizerBase) -> None:
    """A window that begins within a character would say nothing: three bytes each, and the end is one."""
    for count in range(1, 9):
        ids = ids_of(byte_fallback, "a " + "鬱" * count + "\n")
        assert stands(byte_fallback, ids, ["\n"]) and not stands(byte_fallback, ids[:-1], ["\n"])
    assert not stands(byte_fallback, ids_of(byte_fallback, "a\n"), [])
    assert not stands(byte_fallback, ids_of(byte_fallback, "a\n"), ["\ud800"])  # half a character, which none says


@pytest.mark.parametrize("kind", ["byte_fallback", "byte_level"])
@pytest.mark.parametrize("seed", range(40))
def test_pieces_joined_are_the_text_and_none_is_taken_back(
    kind: str, seed: int, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    draw = random.Random(seed)
    text = "".join(draw.choices(["a", "b", " ", "\n", "##", "#", "中", "\u00e9", "\U0001f600", "red ", "ab#"], k=30))
    ids = ids_of(tokenizer, text)
    for _ in range(4):  # as models do now and then: half a character in the midst of others
        del ids[draw.randrange(len(ids))]
    stops = draw.sample(["###", "b#a", "中", " \n", "#\u00e9", "red a"], k=draw.randrange(3))
    ended = (n for n in range(len(ids)) if any(stop in tokenizer.decode(ids[:n]) for stop in stops))
    ids = ids[: next(ended, len(ids))]
    assert "".join(pieces(tokenizer, ids, stops)) == spoken_text(tokenizer, ids, stops).strip()
