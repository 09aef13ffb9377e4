"""The tasks of the quality benchmark, and one seed's files: training, validation or test.

Three tasks are easy-VQA's kinds of question (yes/no, color, shape), about pictures. Three are text, generated here from
words that the base knows, in questions it was never asked:

  odd    "Which of these is not the same kind: red, star or teal?" -> "star". Word knowledge: two words of one kind, one
         of another. A blind guess among the three is right in 33.3 %.
  total  "A picture shows two red stars and one teal ring. How many shapes is that?" -> "three". Adding up a world that
         the question states. Always saying "three" is right in 25 %. All sums occur in training; the worlds are new.
  place  "A picture shows a red circle, a teal star and a pink ring. Which color is left?" -> "red". Left, between or
         right in a stated order. A blind guess among the three words of the kind asked for: 33.3 %.

No item is in two splits: a text item's split follows from a digest of what it is made of, without order (all questions
about the same words or the same figures are in one split); easy-VQA's test questions are about its
own test pictures, and validation has pictures that no training file uses.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from llava_teamlora.constants import IMAGE_TOKEN
from llava_teamlora.evaluation.benchmarks.easy_vqa import default_root, group_of, read_questions
from llava_teamlora.files import write_atomically

Split = Literal["train", "validation", "test"]

COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow", "orange", "purple", "pink")
SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "ring")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
KINDS = (COLORS, SHAPES, NUMBERS)
PLACES = ("left", "between the other two", "right")
VALIDATION_PICTURES = 500  # of easy-VQA's 4000 training pictures, the same for every seed


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        task: name in TASKS.
        question: without a picture's marker.
        answer: exactly what is to be said.
        picture: path under easy-VQA's data folder; None for text.
    """

    task: str
    question: str
    answer: str
    picture: str | None = None


@dataclass(frozen=True)
class Amounts:
    """How much of everything a seed gets.

    Attributes:
        pictures: training pictures, one conversation each.
        conversations: training conversations of each text task.
        turns: questions in one training conversation, at most.
        held_out: questions of each task in a validation or test file.
    """

    pictures: int
    conversations: int
    turns: int
    held_out: int


def odd(rng: random.Random) -> tuple[Item, frozenset[str]]:
    """Two words of one kind and one of another."""
    kind, other = rng.sample(KINDS, 2)
    answer = rng.choice(other)
    words = [*rng.sample(kind, 2), answer]
    rng.shuffle(words)
    question = f"Which of these is not the same kind: {words[0]}, {words[1]} or {words[2]}?"
    return Item("odd", question, answer), frozenset(words)


def total(rng: random.Random) -> tuple[Item, frozenset[str]]:
    """Two amounts, of zero to three each, and their sum."""
    amounts = [rng.randrange(4) for _ in range(2)]
    names = [
        f"{NUMBERS[n]} {color} {shape if n == 1 else _plural(shape)}"
        for n, (color, shape) in zip(amounts, _figures(rng, 2), strict=True)
    ]
    question = f"A picture shows {names[0]} and {names[1]}. How many shapes is that?"
    return Item("total", question, NUMBERS[sum(amounts)]), frozenset(names)


def place(rng: random.Random) -> tuple[Item, frozenset[str]]:
    """Three figures told from left to right; color or shape of one of them."""
    figures = _figures(rng, 3)
    asked, kind = rng.randrange(3), rng.randrange(2)
    names = [f"{_a(color)} {shape}" for color, shape in figures]
    told = f"A picture shows {names[0]}, {names[1]} and {names[2]}."
    question = f"{told} Which {('color', 'shape')[kind]} is {PLACES[asked]}?"
    return Item("place", question, figures[asked][kind]), frozenset(names)


def _figures(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """(color, shape) pairs, all colors and all shapes different."""
    return list(zip(rng.sample(COLORS, count), rng.sample(SHAPES, count), strict=True))


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


TEXT_TASKS: dict[str, Callable[[random.Random], tuple[Item, frozenset[str]]]] = {
    "odd": odd,
    "total": total,
    "place": place,
}
TASKS = ("yes/no", "color", "shape", *TEXT_TASKS)


def split_of(task: str, parts: Iterable[str]) -> Split:
    """The split that a text item made of these parts belongs to: 60 % train, 20 % validation, 20 % test."""
    digest = hashlib.sha256(" ".join((task, *sorted(parts))).encode()).digest()
    return ("train", "train", "train", "validation", "test")[int.from_bytes(digest[:8], "big") % 5]


def text_items(task: str, split: Split, count: int, seed: int) -> list[Item]:
    """Different questions of one text task; fewer than `count` where the split has no more."""
    rng = random.Random(f"{seed} {task} {split}")
    found: dict[str, Item] = {}
    for _ in range(50 * count):
        item, parts = TEXT_TASKS[task](rng)
        if split_of(task, parts) == split:
            found.setdefault(item.question, item)
        if len(found) == count:
            break
    return list(found.values())


@cache
def picture_questions(split: Split) -> dict[str, list[Item]]:
    """easy-VQA's questions of a split by picture; to be read, not changed."""
    source = "test" if split == "test" else "train"
    rows = read_questions(default_root(), source)
    held_out = set(random.Random("validation pictures").sample(sorted({row[2] for row in rows}), VALIDATION_PICTURES))
    found: dict[str, list[Item]] = defaultdict(list)
    for question, answer, number in rows:
        if split == "test" or (number in held_out) == (split == "validation"):
            path = f"{source}/images/{number}.png"
            found[path].append(Item(group_of(answer), question, answer, path))
    return found


def training_records(amounts: Amounts, seed: int) -> list[dict[str, Any]]:
    """Conversations of several questions each, shuffled."""
    rng = random.Random(f"{seed} train")
    pictures = picture_questions("train")
    talks = [
        rng.sample(pictures[path], min(amounts.turns, len(pictures[path])))
        for path in rng.sample(sorted(pictures), amounts.pictures)
    ]
    for task in TEXT_TASKS:
        items = text_items(task, "train", amounts.conversations * amounts.turns, seed)
        talks += [items[i : i + amounts.turns] for i in range(0, len(items), amounts.turns)]
    rng.shuffle(talks)
    return [record(f"{number}", talk) for number, talk in enumerate(talks)]


def held_out_items(split: Split, amounts: Amounts, seed: int) -> list[Item]:
    """Single questions, as many of each task, in the order of TASKS."""
    rng = random.Random(f"{seed} {split}")
    by_task: dict[str, list[Item]] = defaultdict(list)
    for _, items in sorted(picture_questions(split).items()):
        for item in items:
            by_task[item.task].append(item)
    chosen = [rng.sample(by_task[task], amounts.held_out) for task in TASKS if task not in TEXT_TASKS]
    chosen += [text_items(task, split, amounts.held_out, seed) for task in TEXT_TASKS]
    return [item for items in chosen for item in items]


def record(identity: str, items: Sequence[Item]) -> dict[str, Any]:
    """One LLaVA record of one conversation."""
    turns: list[dict[str, str]] = []
    for position, item in enumerate(items):
        marker = f"{IMAGE_TOKEN}\n" if item.picture and not position else ""
        turns += [{"from": "human", "value": marker + item.question}, {"from": "gpt", "value": item.answer}]
    picture = {"image": items[0].picture} if items[0].picture else {}
    return {"id": identity, **picture, "conversations": turns}


def write_seed(folder: Path, split: Split, amounts: Amounts, seed: int) -> None:
    """Write ``train.json`` and one of ``validation.json``, ``test.json``; what exists stays.

    A held-out record's id is ``task#number``. A seed that chooses learning rates has no test file, and the other way
    round.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.json").is_file():
        write_atomically(folder / "train.json", json.dumps(training_records(amounts, seed), indent=0))
    if not (folder / f"{split}.json").is_file():
        items = held_out_items(split, amounts, seed)
        rows = [record(f"{item.task}#{number}", [item]) for number, item in enumerate(items)]
        write_atomically(folder / f"{split}.json", json.dumps(rows, indent=0))


def floors(folder: Path) -> dict[str, dict[str, float]]:
    """What a test file's answers are worth without any model, in % of each task.

    ``majority`` always gives the task's commonest training answer; ``question-only`` the commonest training answer to
    the very same question, the picture unseen, and else the former. Both know the seed's training file alone.
    """
    commonest: dict[str, Counter[str]] = defaultdict(Counter)
    for row in json.loads((folder / "train.json").read_text(encoding="utf-8")):
        texts = [turn["value"].removeprefix(f"{IMAGE_TOKEN}\n") for turn in row["conversations"]]
        for question, answer in zip(texts[::2], texts[1::2], strict=True):
            commonest[question][answer] += 1
            commonest[_task_of(question, answer)][answer] += 1
    right: dict[str, dict[str, list[bool]]] = {"majority": defaultdict(list), "question-only": defaultdict(list)}
    for row in json.loads((folder / "test.json").read_text(encoding="utf-8")):
        task = row["id"].partition("#")[0]
        question, answer = (turn["value"].removeprefix(f"{IMAGE_TOKEN}\n") for turn in row["conversations"])
        majority = commonest[task].most_common(1)[0][0]
        right["majority"][task].append(majority == answer)
        lookup = commonest[question].most_common(1)[0][0] if question in commonest else majority
        right["question-only"][task].append(lookup == answer)
    return {
        name: {task: 100 * sum(hits) / len(hits) for task, hits in by_task.items()} for name, by_task in right.items()
    }


def _task_of(question: str, answer: str) -> str:
    """The task a training question belongs to."""
    if question.startswith("Which of these"):
        return "odd"
    if question.startswith("A picture shows"):
        return "total" if answer in NUMBERS else "place"
    return group_of(answer)
