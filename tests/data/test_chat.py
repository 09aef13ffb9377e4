"""Templates that follow the model's tokenizer: ``cme`` its end, ``chat`` its chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_text_bases import CHAT_ML, CLOSING, FAMILIES, INSTRUCTED, byte_tokenizer
from trained_tokens import trained_runs

from llava_teamlora.constants import IGNORE_INDEX
from llava_teamlora.data.chat import Chat
from llava_teamlora.data.records import Turn, parse_record
from llava_teamlora.data.templates import get_template
from llava_teamlora.data.tokenize import Encoded, check_end, encode_turns, end_token_id
from llava_teamlora.errors import UserError

PAIR = (Turn("human", "what is red?"), Turn("gpt", "a colour"))
DATE = "strftime_now('%d %b %Y')"
TURNS = (*PAIR, Turn("human", "and a cat?"), Turn("gpt", "no \n"))
QUESTIONS = (
    {"instruction": "Is it so?", "input": "Sentence 1: A dog.\nSentence 2: 一只狗。", "output": "entailment"},
    {"instruction": "who plays the bear", "output": "Anna"},
    {"instruction": "", "input": "  indented", "output": " yes"},
    {"instruction": "写一个故事。", "input": "", "output": "从前,\n\n有一个人。"},
    {"instruction": "code </s> in it\n", "input": None, "output": "\nline\n    next  line"},
)


def trained_parts(encoded: Encoded, tokenizer: Any) -> list[str]:
    """The texts of the runs of trained tokens."""
    return [tokenizer.decode(run) for run in trained_runs(encoded)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("row", QUESTIONS)
def test_cme_ids_are_those_of_the_authors_data_code(
    row: dict[str, Any], legacy: bool, llama_tokenizer: Callable[..., Any]
) -> None:
    """build_dataset.py: question + "</s>" with a bos, output + eos without one, tokenized apart and joined."""
    tokenizer = llama_tokenizer(legacy)
    question = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
    source = tokenizer(f"{question}</s>").input_ids
    # Its slow tokenizer puts a space in front of every text; this fast one leaves that out where there is one already.
    space = " " if row["output"].startswith(" ") else ""
    target = tokenizer(f"{space}{row['output']}</s>", add_special_tokens=False).input_ids
    template = get_template("cme").for_tokenizer(tokenizer)
    turns = parse_record(row, source="f", index=0).turns
    found = encode_turns(template, turns, tokenizer)
    assert found.input_ids == source + target
    assert found.labels == [IGNORE_INDEX] * len(source) + target
    assert source[0] == tokenizer.bos_token_id and source[-1] == target[-1] == tokenizer.eos_token_id
    assert encode_turns(template, turns[:1], tokenizer).input_ids == source  # what a model is asked


def test_an_answer_begins_as_a_word_does(llama_tokenizer: Callable[..., Any]) -> None:
    """Tokenized as one string with the question, Llama's newer tokenizer would write the answer without its space."""
    tokenizer = llama_tokenizer(False)
    template = get_template("cme").for_tokenizer(tokenizer)
    ids = encode_turns(template, (Turn("human", "q"), Turn("gpt", "yes")), tokenizer).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁q", "</s>", "▁yes", "</s>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("q</s>yes</s>").input_ids)[3] == "yes"


@pytest.mark.parametrize("family", FAMILIES)
def test_cme_ends_in_the_tokenizers_own_end(family: str) -> None:
    tokenizer, end = byte_tokenizer(family), FAMILIES[family].end
    template = get_template("cme").for_tokenizer(tokenizer)
    check_end(template, tokenizer)
    assert end_token_id(template, tokenizer) == tokenizer.eos_token_id
    found = encode_turns(template, TURNS, tokenizer)
    bos = FAMILIES[family].bos or ""
    assert tokenizer.decode(found.input_ids) == f"{bos}what is red?{end}a colour{end}and a cat?{end}no \n{end}"
    assert trained_parts(found, tokenizer) == [f"a colour{end}", f"no \n{end}"]
    assert found.input_ids.count(tokenizer.eos_token_id) == 4


def test_an_empty_answer_keeps_its_end() -> None:
    """GPT-2's end is its bos as well, which is put in front of no chunk but the first."""
    tokenizer = byte_tokenizer("gpt2")
    template = get_template("cme").for_tokenizer(tokenizer)
    found = encode_turns(template, (Turn("human", "q"), Turn("gpt", "")), tokenizer)
    assert found.input_ids[1:] == [tokenizer.eos_token_id] * 2 and found.trained_tokens == 1


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = byte_tokenizer("qwen2")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="--version cme ends answers in the tokenizer's eos_token, but that of .* none"):
        get_template("cme").for_tokenizer(tokenizer)


def test_other_templates_do_not_follow_the_tokenizer() -> None:
    assert get_template("v1").for_tokenizer(byte_tokenizer("qwen2")) is get_template("v1")


CASES = [  # family, chat template, what is trained on of TURNS
    ("llama_3_instruct", None, ["a colour<|eot_id|>", "no<|eot_id|>"]),
    ("qwen2_instruct", None, ["a colour<|im_end|>", "no \n<|im_end|>"]),
    ("phi3", CLOSING, ["a colour<|end|>", "no \n<|end|>"]),
    ("gpt2", INSTRUCTED.replace("{{ bos_token }}", ""), [" a colour <|endoftext|>", " no \n <|endoftext|>"]),
]


@pytest.mark.parametrize(("family", "chat", "answers"), CASES)
def test_chat_trains_on_answers_and_their_ends(family: str, chat: str | None, answers: list[str]) -> None:
    tokenizer = byte_tokenizer(family, chat)
    template = get_template("chat").for_tokenizer(tokenizer)
    check_end(template, tokenizer)
    assert isinstance(template, Chat)
    assert template.end == answers[0][answers[0].index("<|") :]
    found = encode_turns(template, TURNS, tokenizer)
    assert trained_parts(found, tokenizer) == answers
    messages = [{"role": {"human": "user", "gpt": "assistant"}[turn.role], "content": turn.text} for turn in TURNS]
    options: dict[str, Any] = {"chat_template": template.written.replace(DATE, "'26 Jul 2024'"), "return_dict": False}
    assert found.input_ids == tokenizer.apply_chat_template(messages, **options)
    prompt = encode_turns(template, TURNS[:3], tokenizer).input_ids
    assert prompt == tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True, **options)
    assert found.input_ids[: len(prompt)] == prompt


def test_chat_takes_another_system_prompt() -> None:
    turns = [Turn("human", "q")]
    template = get_template("chat").for_tokenizer(byte_tokenizer("qwen2", CHAT_ML))
    own = "".join(segment.text for segment in template.segments(turns))
    other = "".join(segment.text for segment in template.with_system("Be kind.").segments(turns))
    assert "system\nYou know colours." in own and other == own.replace("You know colours.", "Be kind.")
    deaf = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    template = get_template("chat").for_tokenizer(byte_tokenizer("qwen2", deaf)).with_system("Be kind.")
    with pytest.raises(UserError, match="leaves the system prompt 'Be kind.' out of the text"):
        template.segments(turns)
    strict = deaf.replace(
        "if m.role != 'system' %}", "%}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    template = get_template("chat").for_tokenizer(byte_tokenizer("qwen2", strict)).with_system("Be kind.")
    with pytest.raises(UserError, match="cannot render the conversation .no system"):
        template.segments(turns)


def test_chat_has_one_bos_and_one_date() -> None:
    tokenizer = byte_tokenizer("llama_3_instruct")
    template = get_template("chat").for_tokenizer(tokenizer)
    ids = encode_turns(template, PAIR, tokenizer).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert "It is 26 Jul 2024." in tokenizer.decode(ids)


def test_chat_knows_llama_2s_spaces(llama_tokenizer: Callable[..., Any]) -> None:
    tokenizer = llama_tokenizer(False)
    tokenizer.chat_template = INSTRUCTED
    template = get_template("chat").for_tokenizer(tokenizer)
    found = encode_turns(template, PAIR, tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(found.input_ids)
    assert tokens[0] == "<s>" and tokens.count("<s>") == 1 and tokens[-1] == "</s>" == template.end
    trained = [token for token, label in zip(tokens, found.labels, strict=True) if label != IGNORE_INDEX]
    assert trained == ["▁a", "▁colour", "▁", "</s>"]


def test_thoughts_are_left_out_and_rewriting_is_refused() -> None:
    """A template that drops an earlier answer's thoughts trains on one answer a record."""
    tokenizer = byte_tokenizer("qwen3")
    template = get_template("chat").for_tokenizer(tokenizer)
    assert trained_parts(encode_turns(template, PAIR, tokenizer), tokenizer) == ["a colour<|im_end|>"]
    prompt = tokenizer.decode(encode_turns(template, PAIR[:1], tokenizer).input_ids)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(
        UserError, match=r"anew when it goes on \('<think>.* becomes 'a colour.*one question and answer"
    ):
        encode_turns(template, TURNS, tokenizer)
    assert tokenizer.decode(encode_turns(template, TURNS[:3], tokenizer).input_ids).count("<think>") == 1  # only asks


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (CHAT_ML.replace("<|im_end|>", ""), r"ends an answer in the text '\\n' and in no token"),
        ("{{ raise_exception('no users here') }}", r"cannot render the conversation \(no users here\)"),
        ("{{ messages | length }} of them", "writes the beginning of a conversation anew"),
        ("{% for m in messages %}{{ m.role }} {% endfor %}", "leaves an answer out of the text"),
    ],
)
def test_chat_templates_that_cannot_be_trained_on_are_refused(chat: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_template("chat").for_tokenizer(byte_tokenizer("qwen2", chat))


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(UserError, match="it has none .base models have none.*such as cme or v1"):
        get_template("chat").for_tokenizer(byte_tokenizer("qwen2"))
