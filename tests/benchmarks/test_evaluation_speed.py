"""The benchmark of batch sizes runs, and answers the questions that it says."""

from __future__ import annotations

from dataclasses import replace

import evaluation_speed
import pytest
from evaluation_speed import Quartiles, Settings, measure, questions

from llava_teamlora.evaluation.runner import ModelAnswerer
from llava_teamlora.generation.loading import load_quietly


def test_sizes_are_measured_side_by_side(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(Settings(), sizes=(1, 4), questions=6, max_new_tokens=2, rounds=2)
    kinds = questions(settings.questions)
    assert [len({sample.image for sample in samples}) for samples in kinds.values()] == [6, 1]
    order: list[int] = []
    answer = evaluation_speed.answer
    monkeypatch.setattr(evaluation_speed, "answer", lambda *a: order.append(a[2]) or answer(*a))
    found = measure(ModelAnswerer(load_quietly(tiny, device="cpu")), kinds["a picture each"], settings)
    assert order == [4, 1, 1, 4, 4, 1]  # in turns, every other round backwards; the first does not count
    assert found["1"]["ratio"] == Quartiles(1.0, 1.0, 1.0)
    assert found["4"]["questions_per_second"].low > 0
