"""Rendered prompts equal LLaVA's to the character; what is trained are the answers with their end marker."""

from __future__ import annotations

import pytest

from llava_teamlora.data.records import Turn
from llava_teamlora.data.templates import TEMPLATES, get_template
from llava_teamlora.errors import UserError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
TURNS = (Turn("human", "q1"), Turn("gpt", "a1"), Turn("human", "q2"), Turn("gpt", "a2"))


def test_v1_conversation() -> None:
    segments = TEMPLATES["v1"].segments(TURNS, images=1, image_turn=0)
    text = "".join(segment.text for segment in segments)
    assert text == f"{SYSTEM} USER: <image>\nq1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>"
    assert [segment.text for segment in segments if segment.trained] == [" a1</s>", " a2</s>"]


def test_v1_prompt_ends_without_a_space() -> None:
    segments = TEMPLATES["v1"].segments(TURNS[:3])
    assert "".join(s.text for s in segments) == f"{SYSTEM} USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:"


def test_picture_in_a_later_turn() -> None:
    text = "".join(s.text for s in TEMPLATES["v1"].segments(TURNS, images=2, image_turn=2))
    assert "USER: q1 ASSISTANT: a1</s>USER: <image>\n<image>\nq2" in text


def test_plain_discards_the_question() -> None:
    segments = TEMPLATES["plain"].segments(TURNS[:2], images=1, image_turn=0)
    assert [(s.text, s.trained) for s in segments] == [("<image>", False), ("a1\n", True)]


@pytest.mark.parametrize(("turns", "images", "turn"), [(TURNS, 1, 0), (TURNS[:2], 0, None), (TURNS[:2], 2, 0)])
def test_plain_refuses_other_records(turns: tuple[Turn, ...], images: int, turn: int | None) -> None:
    with pytest.raises(UserError, match="--version plain takes one picture"):
        TEMPLATES["plain"].segments(turns, images, turn)


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'vicuna_v1'"):
        get_template("vicuna_v")
