"""Rendered prompts equal LLaVA's to the character; what is trained are the answers with their end marker."""

from __future__ import annotations

import itertools

import pytest

from llava_teamlora.data.records import Turn
from llava_teamlora.data.templates import TEMPLATES, get_template
from llava_teamlora.errors import UserError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
PAIR = (Turn("human", "<image>\nq1"), Turn("gpt", "a1"))
TURNS = (*PAIR, Turn("human", "q2"), Turn("gpt", "a2"))


def rendered(version: str, turns: tuple[Turn, ...] = TURNS, im_start_end: bool = False) -> tuple[str, list[str]]:
    """The text, and its trained parts, those that touch joined."""
    segments = get_template(version, im_start_end).segments(turns)
    runs = [list(run) for _, run in itertools.groupby(segments, key=lambda segment: segment.trained)]
    trained = ["".join(segment.text for segment in run) for run in runs if run[0].trained]
    return "".join(segment.text for segment in segments), trained


@pytest.mark.parametrize(
    ("version", "text", "trained"),
    [
        ("v1", f"{SYSTEM} USER: <image>\nq1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>", [" a1</s>", " a2</s>"]),
        (
            "v0",
            f"{SYSTEM.replace('user', 'human')}\n\n### Human: <image>\nq1\n### Assistant: a1\n### Human: q2\n"
            "### Assistant: a2\n### ",
            ["###", "### Assistant: a1\n###", "### Assistant: a2\n### "],
        ),
        (
            "mistral_instruct",
            "[INST] <image>\nq1 [/INST] a1 </s>[INST] q2 [/INST] a2 </s>",
            [" a1 </s>", " a2 </s>"],
        ),
        (
            "chatml_direct",
            "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nq1<|im_end|>"
            "<|im_start|>assistant\na1<|im_end|><|im_start|>user\nq2<|im_end|><|im_start|>assistant\na2<|im_end|>",
            ["a1<|im_end|>", "a2<|im_end|>"],
        ),
        ("cme", "<image>\nq1</s>a1</s>q2</s>a2</s>", ["a1</s>", "a2</s>"]),
    ],
)
def test_conversations(version: str, text: str, trained: list[str]) -> None:
    assert rendered(version) == (text, trained)


@pytest.mark.parametrize("version", sorted(set(TEMPLATES) - {"plain", "v0_plain", "chat"}))
def test_a_prompt_is_what_stands_before_the_answer(version: str) -> None:
    whole, prompt = rendered(version)[0], rendered(version, TURNS[:3])[0]
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip().startswith("a2") and not prompt.endswith(" ")
    assert rendered(version, ())[0] == whole[: whole.index(rendered(version, PAIR)[0])] + rendered(version, ())[0]


@pytest.mark.parametrize("version", sorted(set(TEMPLATES) - {"chat"}))
def test_an_answer_and_its_end_are_trained_and_no_question_is(version: str) -> None:
    turns = PAIR if "plain" in version else TURNS
    template, (_, trained) = get_template(version), rendered(version, turns)
    end = template.end or template.stop
    assert end is not None
    for answer in turns[1::2]:
        assert any(answer.text in run and end in run.partition(answer.text)[2] for run in trained)
    assert not any(text in run for run in trained for text in ("q1", "q2", "<image>"))


def test_aliases_are_llavas() -> None:
    groups = (
        ("v1", "vicuna_v1"),
        ("v0", "llava_v0", "default"),
        ("plain", "v0_plain"),
        ("chatml_direct", "mistral_direct"),
    )
    assert all(TEMPLATES[name] is TEMPLATES[group[0]] for group in groups for name in group)


def test_pictures_stand_where_they_are_marked() -> None:
    turns = (Turn("human", "is <image> like <image>?"), Turn("gpt", "a1"), Turn("human", "or <image>"))
    assert "USER: is <image> like <image>? ASSISTANT: a1</s>USER: or <image> ASSISTANT:" in rendered("v1", turns)[0]


def test_marks_around_pictures() -> None:
    assert "USER: <im_start><image><im_end>\nq1" in rendered("v1", im_start_end=True)[0]
    assert "USER: <Image><image></Image>\nq1" in rendered("v1_mmtag")[0]
    assert "Human: <Image><im_start><image><im_end></Image>\nq1" in rendered("v0_mmtag", im_start_end=True)[0]
    assert rendered("plain", PAIR, im_start_end=True) == ("<image>a1\n", ["a1\n"])  # as in LLaVA


def test_plain_discards_the_question() -> None:
    segments = TEMPLATES["plain"].segments(PAIR)
    assert [(s.text, s.trained) for s in segments] == [("<image>", False), ("a1\n", True)]
    assert [s.text for s in TEMPLATES["plain"].segments(PAIR[:1])] == ["<image>"]


@pytest.mark.parametrize("turns", [TURNS, TURNS[2:], (Turn("human", "<image><image>"), PAIR[1])])
def test_plain_refuses_other_records(turns: tuple[Turn, ...]) -> None:
    with pytest.raises(UserError, match="--version plain takes one picture"):
        TEMPLATES["plain"].segments(turns)


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'vicuna_v1'"):
        get_template("vicuna_v")


@pytest.mark.parametrize("version", [name for name, template in TEMPLATES.items() if template.system])
def test_another_system_prompt_stands_in_the_place_of_the_own(version: str) -> None:
    template = TEMPLATES[version]
    own = rendered(version)[0]
    assert template.system and own.count(template.system) == 1
    other = template.with_system("You {} see.")
    assert other.system == "You {} see."
    assert "".join(segment.text for segment in other.segments(TURNS)) == own.replace(template.system, "You {} see.")
    assert [(s.trained, s.apart) for s in other.segments(TURNS)] == [
        (s.trained, s.apart) for s in template.segments(TURNS)
    ]


@pytest.mark.parametrize("version", ["plain", "mistral_instruct", "cme"])
def test_a_template_without_a_system_prompt_takes_none(version: str) -> None:
    with pytest.raises(UserError, match=f"--version {version} has no place for a system prompt"):
        TEMPLATES[version].with_system("Be kind.")
