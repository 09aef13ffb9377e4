"""Raw contexts: log-likelihoods and greedy texts against whole forward passes, without cache, padding or sharing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_bases import make_language_model
from peft import PromptTuningConfig, get_peft_model

from llava_teamlora.checkpoint import Loaded, load_model
from llava_teamlora.generation.raw import RawReader

TINY = str(Path(__file__).parents[1] / "playground" / "tiny")
CONTEXTS = ["what color is the shape?", "what color is the circle?", "yes", "is it a triangle or a rectangle, please?"]
ANSWERS = [[" red", " a blue circle"], [" green"], [" no", " yes it is", " maybe"], ["\nno"]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_model(make_language_model(tmp_path_factory.mktemp("llama"), TINY), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompt_tuned(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    found = load_model(make_language_model(tmp_path_factory.mktemp("llama"), TINY), device="cpu", dtype="float32")
    torch.manual_seed(1)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    return replace(found, model=get_peft_model(found.model, config).eval())


@pytest.fixture(params=["loaded", "prompt_tuned"])
def each(request: pytest.FixtureRequest) -> Loaded:
    return request.getfixturevalue(request.param)


def following(loaded: Loaded, ids: list[int]) -> torch.Tensor:
    """Logits after these ids, ``[V]``; peft puts its own tokens in front."""
    with torch.inference_mode():
        return loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def ids_of(loaded: Loaded, text: str) -> list[int]:
    return loaded.tokenizer.encode(text)


def test_log_likelihoods_equal_whole_forward_passes(each: Loaded) -> None:
    contexts = [ids_of(each, text) for text in CONTEXTS]
    answers = [[ids_of(each, text)[1:] for text in texts] for texts in ANSWERS]
    likeliest = int(following(each, contexts[0]).argmax())
    answers[0].append([likeliest])
    found = RawReader(each).log_likelihoods(contexts, answers)
    assert [len(row) for row in found] == [3, 1, 3, 1]
    for context, texts, row in zip(contexts, answers, found, strict=True):
        for answer, ours in zip(texts, row, strict=True):
            total, greedy = 0.0, True
            for i, token in enumerate(answer):
                logits = following(each, context + answer[:i])
                total += float(logits.double().log_softmax(-1)[token])
                greedy &= int(logits.argmax()) == token
            assert ours.total == pytest.approx(total, abs=1e-4)
            assert (ours.tokens, ours.greedy) == (len(answer), greedy)
    assert found[0][2].greedy


def test_written_texts_equal_whole_forward_passes(each: Loaded) -> None:
    reader = RawReader(each)
    contexts = [ids_of(each, text) for text in CONTEXTS]
    whole = []
    for context in contexts:
        ids = list(context)
        while len(ids) < len(context) + 10 and not (len(ids) > len(context) and ids[-1] in reader.end):
            ids.append(int(following(each, ids).argmax()))
        whole.append(each.tokenizer.decode(ids[len(context) :], skip_special_tokens=True))
    assert reader.write(contexts, (), 10) == whole
    stop = next(text for text in whole if len(text) > 3)[2]
    assert reader.write(contexts, (stop,), 10) == [text.partition(stop)[0] for text in whole]


def test_room_is_what_is_left_beside_a_trained_prompt(loaded: Loaded, prompt_tuned: Loaded) -> None:
    assert RawReader(loaded).room == 512 and RawReader(prompt_tuned).room == 507
