"""Text-only tasks: the base's reading, negation and word knowledge, without any picture.

In: a random generator. Out: question and answer pairs, and LLaVA records of them. They teach the words' meaning where
pictures can't, and serve as replay in tuning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import language
from .language import NUMBERS, QA, Rng, pick
from .scenes import COLORS, SHAPES, Figure, Scene

_OPPOSITES = (
    ("yes", "no"),
    ("true", "false"),
    ("left", "right"),
    ("top", "bottom"),
    ("large", "small"),
    ("present", "absent"),
)
_CHAT = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Who are you?", "I am a tiny assistant that can see pictures of plain shapes."),
    ("What can you do?", "I can name the shapes and colors in a picture and answer questions about it."),
    ("Thank you!", "You are welcome."),
    ("How are you?", "I am well, thank you."),
    ("Goodbye", "Goodbye!"),
)
_FACTS = (
    ("Which shape is round and filled?", "A circle is round and filled."),
    ("Which shape is round with a hole?", "A ring is round with a hole."),
    ("Which shape has three corners?", "A triangle has three corners."),
    ("Which shape has four corners?", "A rectangle has four corners."),
    ("Which shape has five points?", "A star has five points."),
    ("Which shape has four arms?", "A cross has four arms."),
    ("What is the color of the sky?", "The sky is blue."),
    ("What is the color of grass?", "Grass is green."),
    ("What is the color of the sun?", "The sun is yellow."),
    ("What is the color of blood?", "Blood is red."),
    ("What is the color of coal?", "Coal is black."),
    ("What is the color of wood?", "Wood is brown."),
)


def imagined_scene(rng: Rng) -> Scene:
    """A scene of one or two figures that is only told, never drawn: names and places without pixels."""
    count = 1 if rng.random() < 0.7 else 2
    figures = []
    for _ in range(count):
        center = (float(rng.uniform(0, 64)), float(rng.uniform(0, 64)))
        figures.append(
            Figure(
                pick(rng, SHAPES),
                pick(rng, COLORS),
                (0, 0, 0),
                center,
                (12.0, 12.0),
                0.0,
                (0.0, 0.0, 1.0, 1.0),
            )
        )
    return Scene((255, 255, 255), 0.0, tuple(figures))


def reading_task(rng: Rng) -> QA:
    """A question about a scene that the question itself tells."""
    scene = imagined_scene(rng)
    told = pick(rng, ("A picture shows {}.", "The image contains {}.", "Imagine {}.")).format(language.caption(scene))
    while True:
        asked = language.ask(scene, rng)
        if asked.kind not in ("place", "size", "caption"):
            return QA("reading", f"{told} {asked.question}", asked.answer)


def word_task(rng: Rng) -> QA:
    """What a word is: colour or shape, the same as another or not, its opposite, or just itself."""
    word, other = (pick(rng, COLORS if rng.random() < 0.5 else SHAPES) for _ in range(2))
    kind = int(rng.integers(6))
    if kind == 0:
        category = "color" if word in COLORS else "shape"
        asked = language.one_word(rng, f"Is {word} a color or a shape?")
        return QA("words", asked, category)
    if kind == 1:
        other = word if rng.random() < 0.5 else other
        return QA("words", f"Is {word} the same as {other}? Yes or no?", "yes" if word == other else "no")
    if kind == 2:
        other = word if rng.random() < 0.5 else other
        return QA("words", f"Is {word} not {other}? Yes or no?", "no" if word == other else "yes")
    if kind == 3:
        pair = _OPPOSITES[int(rng.integers(len(_OPPOSITES)))]
        known, wanted = pair if rng.random() < 0.5 else pair[::-1]
        return QA("words", language.one_word(rng, f"What is the opposite of {known}?"), wanted)
    if kind == 4:
        return QA(
            "words",
            pick(rng, ("Say {}.", "Repeat the word {}.", "Say {} and no other word.")).format(word),
            word,
        )
    kinds, category = (COLORS, "color") if rng.random() < 0.5 else (SHAPES, "shape")
    wrong = pick(rng, SHAPES if kinds is COLORS else COLORS)
    right = pick(rng, kinds)
    shown = f"{right} or {wrong}" if rng.random() < 0.5 else f"{wrong} or {right}"
    return QA("words", f"Which of these is a {category}: {shown}?", right)


def number_task(rng: Rng) -> QA:
    """Sums and comparisons of number words up to six."""
    x, y = (int(rng.integers(0, 4)) for _ in range(2))
    if rng.random() < 0.6:
        return QA("numbers", language.one_word(rng, f"What is {NUMBERS[x]} and {NUMBERS[y]}?"), NUMBERS[x + y])
    return QA("numbers", f"Is {NUMBERS[x]} more than {NUMBERS[y]}? Yes or no?", "yes" if x > y else "no")


def chat_task(rng: Rng) -> QA:
    """Greetings, what the assistant is, and a few facts."""
    pairs = _CHAT if rng.random() < 0.4 else _FACTS
    return QA("chat", *pairs[int(rng.integers(len(pairs)))])


def ask_text(rng: Rng) -> QA:
    """One text-only question and its answer."""
    maker = (reading_task, word_task, number_task, chat_task)[int(rng.choice(4, p=(0.55, 0.25, 0.08, 0.12)))]
    return maker(rng)


def replay_records(count: int, seed: int) -> list[dict[str, Any]]:
    """LLaVA records of one to four text-only turns each, ready to be mixed into tuning."""
    rng = np.random.default_rng(seed)
    records = []
    for index in range(count):
        turns = []
        for _ in range(int(rng.integers(1, 5))):
            made = ask_text(rng)
            turns += [{"from": "human", "value": made.question}, {"from": "gpt", "value": made.answer}]
        records.append({"id": f"replay-{index:04d}", "conversations": turns})
    return records
