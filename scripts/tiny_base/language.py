"""Questions and answers about scenes, in this project's own words.

In: a scene and a random generator. Out: question and answer pairs whose answers follow from the scene's facts. Answers
come as full sentences or, where the question asks for it, as single words. The words are those that tasks about plain
figures use; the questions are not any data set's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .scenes import COLORS, SHAPES, Figure, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class QA:
    """One question, its answer, and the kind of task it belongs to (the key of held-out scores)."""

    kind: str
    question: str
    answer: str


Rng = np.random.Generator
Maker = Callable[[Scene, Rng], QA | None]


def pick(rng: Rng, options: Sequence[str]) -> str:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _sole(scene: Scene, rng: Rng, key: Callable[[Figure], str]) -> Figure | None:
    """A random figure that `key` names without ambiguity, if there is one."""
    keys = [key(figure) for figure in scene.figures]
    sole = [figure for figure in scene.figures if keys.count(key(figure)) == 1]
    return sole[int(rng.integers(len(sole)))] if sole else None


# Each form: question, answer; "" asks for the bare word. {name} is what the question calls the figure.
_COLOR_FORMS = (
    ("Which color does the {name} have?", "The {name} is {color}."),
    ("How is the {name} colored?", "It is {color}."),
    ("What color has this {name}?", "It is {color}."),
    ("Name the color of the {name}.", ""),
    ("In which color is the {name} drawn?", ""),
    ("Tell me the color of this {name}.", ""),
)
_SHAPE_FORMS = (
    ("Which shape is {color}?", "The {shape} is {color}."),
    ("What do you see in {color}?", "I see a {shape}."),
    ("Which figure has the color {color}?", "It is a {shape}."),
    ("Name the {color} shape.", ""),
    ("What kind of figure is the {color} one?", ""),
    ("Which {color} shape is drawn?", ""),
)
_LONE_SHAPE_FORMS = (
    ("Which figure do you see here?", "I see a {shape}."),
    ("Which shape was drawn?", "A {shape} was drawn."),
    ("What kind of shape does this picture have?", "It is a {shape}."),
    ("Name the shape.", ""),
    ("What is the name of this shape?", ""),
    ("Which kind of shape is present here?", ""),
)


def _filled(rng: Rng, kind: str, forms: tuple[tuple[str, str], ...], word: str, **facts: str) -> QA:
    question, answer = forms[int(rng.integers(len(forms)))]
    if answer:
        return QA(kind, question.format(**facts), answer.format(**facts))
    return QA(kind, one_word(rng, question.format(**facts)), word)


def color_question(scene: Scene, rng: Rng) -> QA | None:
    """The colour of a figure named by its shape, or of the only figure."""
    figure = _sole(scene, rng, lambda f: f.shape)
    if figure is None:
        return None
    lone = len(scene.figures) == 1 and rng.random() < 0.5
    name = pick(rng, ("shape", "figure", "object")) if lone else figure.shape
    return _filled(rng, "color", _COLOR_FORMS, figure.color, name=name, color=figure.color)


def shape_question(scene: Scene, rng: Rng) -> QA | None:
    """The shape of a figure named by its colour, or of the only figure."""
    figure = _sole(scene, rng, lambda f: f.color)
    if figure is None:
        return None
    lone = len(scene.figures) == 1 and rng.random() < 0.5
    forms = _LONE_SHAPE_FORMS if lone else _SHAPE_FORMS
    return _filled(rng, "shape", forms, figure.shape, shape=figure.shape, color=figure.color)


def one_word(rng: Rng, question: str) -> str:
    """Adds the request for a single-word answer, as visual question answering prompts do."""
    return question + " " + pick(rng, ("Answer in one word.", "One word only.", "Answer with a single word."))


def described(scene: Scene, rng: Rng) -> tuple[str, bool]:
    """A description such as "red shape", "circle" or "red circle", and whether a figure fits it; true half the time."""
    figure = scene.figures[int(rng.integers(len(scene.figures)))]
    true, kind = rng.random() < 0.5, rng.random()
    colors, shapes = {f.color for f in scene.figures}, {f.shape for f in scene.figures}
    other_color = pick(rng, [c for c in COLORS if c not in colors])
    other_shape = pick(rng, [s for s in SHAPES if s not in shapes])
    if kind < 0.4:
        return (
            f"{figure.color if true else other_color} {pick(rng, ('shape', 'shape', 'figure', 'object'))}",
            true,
        )
    if kind < 0.75:
        return figure.shape if true else other_shape, true
    if true:
        return f"{figure.color} {figure.shape}", True
    wrong = (f"{other_color} {figure.shape}", f"{figure.color} {other_shape}")
    return pick(rng, wrong), False


def presence_question(scene: Scene, rng: Rng) -> QA:
    """Yes or no: does a figure fit a description? Plain questions."""
    what, true = described(scene, rng)
    asked = pick(
        rng,
        (
            f"Can you see {a(what)}?",
            f"Do you see {a(what)} here?",
            f"Does this picture show {a(what)}?",
            f"Is {a(what)} drawn here?",
            f"Is one of the objects {a(what)}?",
            f"Does the picture have {a(what)} in it?",
        ),
    )
    return yes_no(rng, "presence", asked, true, true, what)


def absence_question(scene: Scene, rng: Rng) -> QA:
    """Yes or no with a negation in the question."""
    what, there = described(scene, rng)
    asked = pick(
        rng,
        (
            f"Is the picture without {a(what)}?",
            f"Is {a(what)} missing here?",
            f"Does this picture not show {a(what)}?",
            f"Is it true that no {what} is drawn here?",
            f"Can you not see {a(what)}?",
            f"Is {a(what)} absent?",
        ),
    )
    return yes_no(rng, "absence", asked, not there, there, what)


def yes_no(rng: Rng, kind: str, asked: str, yes: bool, there: bool, what: str) -> QA:
    """The answer to a yes-or-no question: a word if it begins with "Is" or asks for one, else what is there."""
    if rng.random() < 0.5:
        asked += " " + pick(rng, ("Answer yes or no.", "Yes or no?", "One word only."))
    elif not asked.startswith("Is"):
        found = f"there is {a(what)}" if there else f"there is no {what}"
        return QA(kind, asked, f"{'Yes' if yes else 'No'}, {found}.")
    return QA(kind, asked, "yes" if yes else "no")


_POSITIVE = ("There is {a_what}", "The image contains {a_what}", "{A_what} is present")
_NEGATIVE = (
    "There is no {what}",
    "The image does not contain {a_what}",
    "No {what} is present",
    "There is not {a_what} in the image",
)


def statement_question(scene: Scene, rng: Rng) -> QA:
    """True or false, said positively or with a negation."""
    what, there = described(scene, rng)
    negated = rng.random() < 0.5
    said = pick(rng, _NEGATIVE if negated else _POSITIVE)
    said = said.format(what=what, a_what=a(what), A_what=a(what).capitalize())
    question = pick(rng, ("True or false? {}.", "Is this true or false? {}.", "{}. True or false?")).format(said)
    return QA("statement", question, "true" if there != negated else "false")


def count_question(scene: Scene, rng: Rng) -> QA:
    """How many figures there are."""
    number = NUMBERS[len(scene.figures)]
    noun = pick(rng, ("shapes", "figures", "objects"))
    if rng.random() < 0.5:
        return QA("count", one_word(rng, f"How many {noun} are there?"), number)
    verb, plural = ("is", "") if number == "one" else ("are", "s")
    return QA("count", f"How many {noun} do you see?", f"There {verb} {number} {noun[:-1]}{plural}.")


def place_question(scene: Scene, rng: Rng) -> QA | None:
    """Left or right, top or bottom, of a figure that is clearly in one half."""
    figure = _sole(scene, rng, lambda f: f.shape)
    if figure is None:
        return None
    across = rng.random() < 0.5
    if abs(figure.center[0 if across else 1] - 32) < 5:
        return None
    where = figure.horizontal if across else figure.vertical
    options = ("left or right", "right or left") if across else ("top or bottom", "bottom or top")
    return QA("place", f"Where is the {figure.shape}: {pick(rng, options)}?", where)


def size_question(scene: Scene, rng: Rng) -> QA | None:
    """Large or small, of a figure that is clearly either."""
    figure = _sole(scene, rng, lambda f: f.color)
    if figure is None or abs(max(figure.size) - 20) < 3:
        return None
    return QA(
        "size",
        f"Is the {figure.color} shape {pick(rng, ('large or small', 'small or large'))}?",
        figure.magnitude,
    )


def caption(scene: Scene) -> str:
    """Names all figures, from left to right."""
    ordered = sorted(scene.figures, key=lambda f: f.center[0])
    names = [a(f"{figure.color} {figure.shape}") for figure in ordered]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def caption_question(scene: Scene, rng: Rng) -> QA:
    """A description of the whole picture."""
    forms = (
        ("Describe the picture.", "There {verb} {told}."),
        ("What does the image show?", "The image shows {told}."),
        ("What is in this picture?", "{told}."),
    )
    question, answer = forms[int(rng.integers(len(forms)))]
    told, verb = caption(scene), "is" if len(scene.figures) == 1 else "are"
    answer = answer.format(told=told, verb=verb)
    return QA("caption", question, answer[0].upper() + answer[1:])


def first_question(scene: Scene, rng: Rng, negations: bool) -> QA:
    """The shortest questions about a single figure, answered in a word: "color?", "shape?", "any red circle?".

    Many fit in a row of training, and what matching is gets found within a few hundred steps; asked in whole sentences
    from the start it isn't found in a thousand. With `negations` come "no circle?" and true or false.
    """
    figure = scene.figures[0]
    kind = rng.random()
    if kind < 0.24:
        return QA("first", "color?", figure.color) if kind < 0.12 else QA("first", "shape?", figure.shape)
    what, there = described(scene, rng)
    if rng.random() < 0.4 and what.split()[0] in COLORS:
        what = what.split()[0] if what.split()[-1] not in SHAPES else what
    if not negations or rng.random() < 0.4:
        return QA("first", f"any {what}?", "yes" if there else "no")
    negated = rng.random() < 0.6
    true = there != negated
    if rng.random() < 0.4:
        said = f"no {what}" if negated else what
        return QA("first", f"true or false: {said}.", "true" if true else "false")
    asked = pick(rng, ("no", "not any", "without")) if negated else "any"
    return QA("first", f"{asked} {what}?", "yes" if true else "no")


def late_first_question(scene: Scene, rng: Rng) -> QA | None:
    """The first lessons again, among all others."""
    return first_question(scene, rng, negations=True) if len(scene.figures) == 1 else None


# How often each task is asked; yes-or-no matching is the hardest to learn and gets the most
TASKS: tuple[tuple[Maker, float], ...] = (
    (color_question, 0.14),
    (shape_question, 0.14),
    (presence_question, 0.22),
    (absence_question, 0.17),
    (statement_question, 0.17),
    (count_question, 0.03),
    (place_question, 0.03),
    (size_question, 0.02),
    (caption_question, 0.08),
    (late_first_question, 0.08),
)


def ask(scene: Scene, rng: Rng) -> QA:
    """One question about the scene; half of the questions come in lower case."""
    weights = np.array([weight for _, weight in TASKS])
    while True:
        made = TASKS[int(rng.choice(len(TASKS), p=weights / weights.sum()))][0](scene, rng)
        if made is not None:
            return made if rng.random() < 0.5 else QA(made.kind, made.question.lower(), made.answer)
