"""The load trial asks what it says, compares all answers, and fails where company changes one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from serve_load import Heard, Question, Settings, engine_asker, measure, questions

from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.family import load_family

SETTINGS = replace(Settings(), clients=4, questions=2, max_new_tokens=3, rounds=1)


def test_clients_have_pictures_and_models_of_their_own() -> None:
    asked = questions(SETTINGS, ["one", "other"])
    every = [question for mine in asked for question in mine]
    assert [len(mine) for mine in asked] == [2] * 4
    assert len({question.image.tobytes() for question in every}) == 8
    assert {question.model for question in every} == {"one", "other"}


def test_the_engine_answers_alike_alone_and_in_company(tiny: str) -> None:
    family = load_family([tiny], device="cpu")
    with Engine(family) as engine:
        found = measure(engine_asker(engine, SETTINGS), questions(SETTINGS, list(family.models)), SETTINGS)
    assert found["answers"] == 8 and found["equal"]
    assert found["ways"]["together"]["tokens_per_second"].low > 0 and found["ratio"].low > 0
    assert found["ways"]["one by one"]["first_ms_p95"].low >= found["ways"]["one by one"]["first_ms_p50"].low


def test_an_answer_that_changes_is_told() -> None:
    calls = itertools.count()

    def ask(question: Question) -> Heard:
        return Heard("alone" if next(calls) // 8 % 2 else "in company", 1, 1.0)

    with pytest.raises(SystemExit, match=r"in company: question 0: \['alone', 'in company'\]"):
        measure(ask, questions(SETTINGS, ["one"]), SETTINGS)
