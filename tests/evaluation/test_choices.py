"""Letters from answers: a table, VLMEvalKit's rules stated again as loops, and the two differences from them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from llava_teamlora.evaluation.choices import ask, context, guesses, infer_letter, option_lines
from llava_teamlora.evaluation.types import Sample

CHOICES = ("cat", "black dog", "None", "a pair of wheels")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("B.", "B"),
        ("(C)", "C"),
        ("D. a pair of wheels", "D"),
        ("A: cat", "A"),
        ("**B**", "B"),
        ("Answer: C", "C"),
        ("The answer is D", "D"),
        ("\nA\n", "A"),
        ("E", ""),
        ("a", ""),
        ("A or B", ""),
        ("It is a cat.", "A"),
        ("BLACK DOG", "B"),
        ("A cat and a black dog", ""),
        ("cat, black dog", ""),
        ("A man rides it here", ""),
        ("A man rides it", "A"),
        ("The correct answer is **B**. Its fur is as black as coal", "B"),
        ("The answer is dog", ""),
        ("The answer is Dorian Gray by far", ""),
        ("I can't process this file. A", ""),
        ("", ""),
        ("\n", ""),
        ("NO", ""),
        ("Yes.", ""),
        ("." * 40 + "B", "B"),
        ("cat " * 40, ""),
        ("x" * 10_000, ""),
        ("x " * 5_000 + "D", "D"),
        # Chinese and full-width writing around a letter
        ("\u7b54\u6848\u662fA\u3002", "A"),
        ("\uff08B\uff09", "B"),
        ("C\u3002", "C"),
        ("\uff24", "D"),
        ("\u9009A\u6216B", ""),
        ("\u9009\u9879A\uff1ablack dog", "B"),
    ],
)
def test_letters(text: str, letter: str) -> None:
    assert infer_letter(text, CHOICES) == letter


def official_says(text: str, choices: tuple[str, ...]) -> str:
    """VLMEvalKit's can_infer, stated again without its rule on "answer is": letters, then the options' texts."""
    spaced = "".join(" " if character in ".()[],:;!*#{}" else character for character in text)
    words = spaced.split()
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    there = [letter for letter in letters if words.count(letter)]
    if len(there) == 1:
        place = 0
        while words[place] != there[0]:
            place += 1
        if len(words) - place <= 4:
            return there[0]
    if len(text) > 2 * len("".join(choices)):
        return ""
    named = [letter for letter, choice in zip(letters, choices, strict=True) if text.lower().count(choice.lower())]
    return named[0] if len(named) == 1 else ""


def test_fuzzed_answers_are_read_as_officially() -> None:
    rng = random.Random(3)
    options = ("cat", "dog", "black cat", "A man", "two", "No", "None", "3.5", "b")
    parts = (*options, *"ABCDE", "A.", "(B)", "**C**", "D)", "a", "or", "it's", "\n", "...", "the one,", "is:")
    seen: Counter[bool] = Counter()
    for _ in range(20_000):
        choices = tuple(rng.sample(options, rng.randint(2, 4)))
        text = " ".join(rng.choices(parts, k=rng.randint(0, 7)))
        assert infer_letter(text, choices) == official_says(text, choices), (text, choices)
        seen[bool(official_says(text, choices))] += 1
    assert min(seen.values()) > 4_000


def test_prompts() -> None:
    assert option_lines(("x", "y")) == "A. x\nB. y"
    assert ask("Which?", ("x", "y"), "Say.") == "Which?\nA. x\nB. y\nSay."
    assert ask("Which?", (), "Say.") == "Which?\nSay."


@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ("Q?\nA. x\nB. y", ""),
        (ask("Q?", ("x", "y")), ""),
        (" Q?\n\nA.  x\nB. y\n", ""),
        (ask("Context: of  old.\nQ?", ("x", "y")), "Context: of old."),
        (ask("Q?", ("x", "y", "z")), None),
        (ask("Q?", ("x", "y two")), None),
        (ask("Q?", ("y", "x")), None),
        (ask("Q?", ("x",)), None),
        (ask("XQ?", ("x", "y")), None),
        (ask("Q?", ("x", "y"), "Say why."), None),
        ("", None),
    ],
)
def test_what_stands_before_a_question(prompt: str, before: str | None) -> None:
    assert context(prompt, "Q?", ("x", "y")) == before


def test_guesses_look_at_nothing_and_stay_the_same() -> None:
    samples = [Sample(f"k{i}", i, "?", ("A",), choices=("x", "y", "z")[: 2 + i % 2]) for i in range(3_000)]
    found = guesses(samples)
    assert set(found["always A"].answers.values()) == {"A"}
    draws = found["random"].answers
    assert draws == guesses(list(reversed(samples)))["random"].answers
    counts = Counter((len(sample.choices), draws[sample.key]) for sample in samples)
    # 1500 samples of two and of three options: 750 and 500 of each letter, give or take 5 standard deviations (< 20).
    assert all(abs(counts[2, letter] - 750) < 100 for letter in "AB")
    assert all(abs(counts[3, letter] - 500) < 100 for letter in "ABC")
    assert sum(counts.values()) == 3_000
